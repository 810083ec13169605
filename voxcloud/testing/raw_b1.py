"""B1+ acquisitions, and the static field that distorts one of them: images as the scanner would give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.testing.fields import Float32, generator
from voxcloud.testing.raw_files import SessionWriter
from voxcloud.testing.raw_protocol import B1Protocol
from voxcloud.testing.raw_sampling import push_along
from voxcloud.testing.raw_scan import Acquisition, Sampled
from voxcloud.testing.raw_signals import afi_signals, flash_signal, seste_signals

# Signals of these sequences relative to PD, so that white matter has some 500 stored units.
AFI_GAIN, EPI_GAIN, DAM_GAIN, GRE_GAIN, RECEIVE_GAIN = 60.0, 8.0, 8.0, 13.0, 150.0
B0_IDENTIFIER = "b0field"
# What maps that the scanner computes itself scatter by, relative; in air they are noise.
MAP_SD = 0.01
PHASE_FULL_SCALE = 4096
EPI_DIRECTIONS = {"AP": "j-", "PA": "j"}


@dataclass(frozen=True)
class FieldMapping:
    """Everything that a B1+ acquisition of one session needs.

    Attributes
    ----------
    sampled
        Head and fields on its grid.
    acquisition
        Noise; its gain is replaced per sequence.
    protocol
        Angles and times.
    b0
        None, phasediff or epi; None leaves EPI images undistorted.
    """

    sampled: Sampled
    acquisition: Acquisition
    protocol: B1Protocol
    b0: str | None

    def angle(self, degrees: float) -> Float32:
        """Return the actual flip angle in rad, (voxel,)."""
        return np.asarray(self.sampled.transmit * np.float32(np.deg2rad(degrees)))

    def clean(self, signal: npt.NDArray[np.floating], gain: float) -> Float32:
        """Return a signal (voxel,) as an image without noise."""
        return self.sampled.volume(signal * self.sampled.receive * np.float32(gain))

    def image(self, signal: npt.NDArray[np.floating], gain: float, name: str) -> Float32:
        """Return a signal (voxel,) as an image with noise."""
        return self.acquisition.with_noise(self.clean(signal, gain), name)

    def distorted(self, image: Float32, phase_encoding: str) -> Float32:
        """Return an EPI image as it is read out: f Hz appear f TotalReadoutTime voxels along the phase encoding."""
        if self.b0 is None:
            return image
        sign = -1.0 if phase_encoding.endswith("-") else 1.0
        shift = sign * self.protocol.readout_s * self.sampled.volume(self.sampled.static_hz)
        return push_along(image, shift, "ijk".index(phase_encoding[0])).astype(np.float32)


def write_afi(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write both images of actual flip-angle imaging (``TB1AFI``)."""
    sampled, protocol = mapping.sampled, mapping.protocol
    signals = afi_signals(
        sampled.parameter("R1map"),
        sampled.parameter("PDmap"),
        mapping.angle(protocol.afi_angle_deg),
        protocol.afi_repetition_times_s,
    )
    for number, (signal, time_s) in enumerate(zip(signals, protocol.afi_repetition_times_s, strict=True), start=1):
        sidecar = {"FlipAngle": protocol.afi_angle_deg, "RepetitionTimeExcitation": time_s, "EchoTime": 0.0022}
        image = mapping.image(signal, AFI_GAIN, f"afi-{number}")
        writer.write("fmap", "TB1AFI", {"acq": f"tr{number}"}, image, sampled.grid, sidecar)


def write_seste(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write spin and stimulated echoes of all nominal angles (``TB1EPI``), distorted if a field map is asked for."""
    sampled, protocol = mapping.sampled, mapping.protocol
    common: dict[str, Any] = {
        "MixingTime": protocol.mixing_time_s,
        "TotalReadoutTime": protocol.readout_s,
        "PhaseEncodingDirection": protocol.phase_encoding,
    }
    if mapping.b0 is not None:
        common["B0FieldSource"] = B0_IDENTIFIER
    for flip, degrees in enumerate(protocol.seste_angles_deg, start=1):
        signals = seste_signals(
            sampled.parameter("R1map"), sampled.parameter("PDmap"), mapping.angle(degrees), protocol.mixing_time_s
        )
        for echo, signal in enumerate(signals, start=1):
            clean = mapping.distorted(mapping.clean(signal, EPI_GAIN), protocol.phase_encoding)
            image = mapping.acquisition.with_noise(clean, f"seste-{flip}-{echo}")
            echo_time = protocol.spin_echo_time_s + (protocol.mixing_time_s if echo == 2 else 0.0)
            sidecar = {"FlipAngle": degrees, "EchoTime": round(echo_time, 6), **common}
            writer.write("fmap", "TB1EPI", {"echo": echo, "flip": flip}, image, sampled.grid, sidecar)


def write_dam(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write the images of the double-angle method (``TB1DAM``)."""
    sampled, protocol = mapping.sampled, mapping.protocol
    for number in (1, 2):
        degrees = number * protocol.dam_angle_deg
        signal = flash_signal(
            sampled.parameter("R1map"),
            sampled.parameter("PDmap"),
            mapping.angle(degrees),
            protocol.dam_repetition_time_s,
        )
        # Beyond 180 degrees the signal turns negative; a magnitude does not show it.
        image = mapping.image(np.abs(signal), DAM_GAIN, f"dam-{number}")
        sidecar = {"FlipAngle": degrees, "RepetitionTimeExcitation": protocol.dam_repetition_time_s, "EchoTime": 0.003}
        writer.write("fmap", "TB1DAM", {"flip": number}, image, sampled.grid, sidecar)


def write_tfl(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write image and flip-angle map of a turbo-FLASH sequence (``TB1TFL``): tenths of a degree."""
    angle = mapping.protocol.tfl_angle_deg
    _write_scanner_map(writer, mapping, "TB1TFL", angle, lambda ratio: 10.0 * angle * ratio)


def write_rfm(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write image and map of a scanner's RF mapping (``TB1RFM``): 2048 is zero, 2048 more would be 180 degrees."""
    angle = mapping.protocol.rfm_angle_deg
    _write_scanner_map(writer, mapping, "TB1RFM", angle, lambda ratio: 2048.0 + angle * ratio * 2048.0 / 180.0)


def write_ready_map(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write a ready-made map in percent of nominal (``TB1map``)."""
    image = _scatter(mapping, "tb1map", 100.0)
    writer.write("fmap", "TB1map", {}, image, mapping.sampled.grid, {"Units": "percent"})


def _write_scanner_map(
    writer: SessionWriter, mapping: FieldMapping, suffix: str, degrees: float, scaled: Callable[[Float32], Any]
) -> None:
    sampled = mapping.sampled
    signal = flash_signal(sampled.parameter("R1map"), sampled.parameter("PDmap"), mapping.angle(8.0), 0.008)
    sidecar = {"FlipAngle": degrees, "EchoTime": 0.002, "RepetitionTimeExcitation": 0.008}
    writer.write("fmap", suffix, {"acq": "anat"}, mapping.image(signal, RECEIVE_GAIN, "anat"), sampled.grid, sidecar)
    famp = scaled(_scatter(mapping, suffix, 1.0))
    writer.write("fmap", suffix, {"acq": "famp"}, famp, sampled.grid, sidecar)


def _scatter(mapping: FieldMapping, name: str, unit: float) -> Float32:
    """Return the transmit field on the grid times ``unit``, with the scatter of a computed map; random in air."""
    sampled, acquisition = mapping.sampled, mapping.acquisition
    rng = generator(acquisition.seed, "noise", *acquisition.names, name)
    out = rng.uniform(0.0, 1.5, sampled.grid.shape).astype(np.float32)
    signal = sampled.fractions.sum(axis=1) > 0.05
    values = sampled.transmit * (1.0 + MAP_SD * rng.standard_normal(len(sampled.index), dtype=np.float32))
    out.reshape(-1)[sampled.index[signal]] = values[signal]
    return np.asarray(out * np.float32(unit))


def write_phasediff(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write a phase difference (0 to 4095, zero at 2048) and the magnitudes of its two echoes."""
    sampled, acquisition = mapping.sampled, mapping.acquisition
    first_s, second_s = mapping.protocol.b0_echo_times_s
    signal = flash_signal(sampled.parameter("R1map"), sampled.parameter("PDmap"), mapping.angle(30.0), 0.5)
    r2star = sampled.parameter("R2starmap")
    rng = generator(acquisition.seed, "noise", *acquisition.names, "phasediff")
    field_rad = 2.0 * np.pi * sampled.volume(sampled.static_hz)
    echoes = []
    for time_s in (first_s, second_s):
        clean = mapping.clean(signal * np.exp(np.float32(-time_s) * r2star), GRE_GAIN)
        noise = rng.standard_normal((2, *clean.shape)) * acquisition.noise_sd
        echoes.append(clean * np.exp(1j * field_rad * time_s) + noise[0] + 1j * noise[1])
    turns = np.angle(echoes[1] * np.conj(echoes[0])) / (2.0 * np.pi)
    phase = np.mod(np.rint(turns * PHASE_FULL_SCALE) + PHASE_FULL_SCALE // 2, PHASE_FULL_SCALE)
    common = {"B0FieldIdentifier": B0_IDENTIFIER, "FlipAngle": 30.0, "RepetitionTimeExcitation": 0.5}
    both = {"EchoTime1": first_s, "EchoTime2": second_s}
    writer.write("fmap", "phasediff", {}, phase, sampled.grid, {**both, **common, "Units": "arbitrary"})
    for number, echo in enumerate(echoes, start=1):
        time = {f"EchoTime{number}": both[f"EchoTime{number}"]}
        writer.write("fmap", f"magnitude{number}", {}, np.abs(echo), sampled.grid, {**time, **common})


def write_epi_pair(writer: SessionWriter, mapping: FieldMapping) -> None:
    """Write two spin-echo EPI images of opposite phase encoding (``epi``)."""
    sampled, protocol = mapping.sampled, mapping.protocol
    signal = seste_signals(sampled.parameter("R1map"), sampled.parameter("PDmap"), mapping.angle(90.0), 0.0)[0]
    clean = mapping.clean(signal, EPI_GAIN)
    for direction, phase_encoding in EPI_DIRECTIONS.items():
        image = mapping.acquisition.with_noise(mapping.distorted(clean, phase_encoding), f"epi-{direction}")
        sidecar = {
            "PhaseEncodingDirection": phase_encoding,
            "TotalReadoutTime": protocol.readout_s,
            "EchoTime": protocol.spin_echo_time_s,
            "B0FieldIdentifier": B0_IDENTIFIER,
        }
        writer.write("fmap", "epi", {"dir": direction}, image, sampled.grid, sidecar)


WRITERS: Mapping[str, Callable[[SessionWriter, FieldMapping], None]] = {
    "AFI": write_afi,
    "SESTE": write_seste,
    "DAM": write_dam,
    "TFL": write_tfl,
    "RFM": write_rfm,
    "TB1map": write_ready_map,
}
B0_WRITERS: Mapping[str, Callable[[SessionWriter, FieldMapping], None]] = {
    "phasediff": write_phasediff,
    "epi": write_epi_pair,
}


def write_receive_pair(writer: SessionWriter, mapping: FieldMapping, contrast: str) -> None:
    """Write images of the array and of the body coil (``RB1COR``), taken just before a contrast, the head as there.

    The body coil receives evenly. Their ratio is the sensitivity of the array, up to a factor.
    """
    sampled = mapping.sampled
    signal = flash_signal(sampled.parameter("R1map"), sampled.parameter("PDmap"), mapping.angle(6.0), 0.006)
    sidecar = {"FlipAngle": 6.0, "RepetitionTimeExcitation": 0.006, "EchoTime": 0.002}
    for coil, sensitivity in (("head", sampled.receive), ("body", np.ones_like(sampled.receive))):
        clean = sampled.volume(signal * sensitivity * np.float32(RECEIVE_GAIN))
        image = mapping.acquisition.with_noise(clean, f"receive-{coil}-{contrast}")
        writer.write("fmap", "RB1COR", {"acq": f"{coil}{contrast}"}, image, sampled.grid, sidecar)


def image_count(b1: str, b0: str | None, protocol: B1Protocol) -> int:
    """Return how many images one session's B1+ and B0 acquisitions have."""
    own = {"AFI": 2, "SESTE": 2 * len(protocol.seste_angles_deg), "DAM": 2, "TFL": 2, "RFM": 2, "TB1map": 1, "none": 0}
    return own[b1] + {None: 0, "phasediff": 3, "epi": 2}[b0]


def write_b1(writer: SessionWriter, mapping: FieldMapping, method: str) -> None:
    """Write a session's B1+ acquisition and what belongs to it."""
    WRITERS[method](writer, mapping)
    if mapping.b0 is not None:
        B0_WRITERS[mapping.b0](writer, mapping)
