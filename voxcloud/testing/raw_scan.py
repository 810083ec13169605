"""What one acquisition sees: head and fields on its grid, then echoes with noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.testing.fields import Float32, Float64, generator
from voxcloud.testing.raw_fields import CoilFields, static_field_hz
from voxcloud.testing.raw_geometry import Grid
from voxcloud.testing.raw_head import Head
from voxcloud.testing.raw_protocol import ContrastProtocol
from voxcloud.testing.raw_signals import flash_signal, mt_saturation, rician
from voxcloud.testing.raw_tissue import PARAMETERS, VALUES

SLAB_VOXELS = 400_000
REFERENCE = 320.0
"""Stored value of white matter in PDw at TE = 0, where B1+ and receive field are 1."""

SpoilingFactor = Callable[[str, Float32, Float32], npt.NDArray[np.floating]]
"""(contrast, R1 in 1/s, B1+ ratio) to the ratio of the real signal to that with perfect spoiling."""


@dataclass(frozen=True)
class Sampled:
    """Head and fields in the voxels that the head may fill; elsewhere there is only noise.

    Attributes
    ----------
    grid
        Where.
    index
        Flat indices (C order) of the voxels.
    fractions, parameters
        (voxel, tissue), (voxel, parameter); fractions are empty if they were not asked for.
    transmit, receive, static_hz
        (voxel,).
    """

    grid: Grid
    index: npt.NDArray[np.int64]
    fractions: Float32
    parameters: Float32
    transmit: Float32
    receive: Float32
    static_hz: Float32

    def parameter(self, name: str) -> Float32:
        """Return a parameter by its map's name, (voxel,)."""
        return np.ascontiguousarray(self.parameters[:, PARAMETERS.index(name)])

    def volume(self, values: npt.NDArray[np.floating]) -> Float32:
        """Return values on the grid, (x, y, z), zero where there is no head."""
        out = np.zeros(self.grid.shape, dtype=np.float32)
        out.reshape(-1)[self.index] = values
        return out


def sample_head(head: Head, coils: CoilFields, grid: Grid, pose: Float64, *, with_fractions: bool = True) -> Sampled:
    """Evaluate a head in a pose, and the coil's fields, on a grid.

    The transmit field is shaped by waves standing in the head and follows it; the receive sensitivity stays with the
    coil.

    Parameters
    ----------
    pose
        Head mm to scanner mm, (4, 4), rigid.
    with_fractions
        Keep the fractions of the tissues; they are only truth.
    """
    to_head = np.linalg.inv(pose)
    plane = grid.shape[1] * grid.shape[2]
    thickness = max(1, SLAB_VOXELS // plane)
    parts: list[list[npt.NDArray[Any]]] = [[] for _ in range(6)]
    for first in range(0, grid.shape[0], thickness):
        index = np.arange(first * plane, min(first + thickness, grid.shape[0]) * plane)
        world = _world_mm(index, grid)
        inside = head.may_fill(world @ to_head[:3, :3].T + to_head[:3, 3])
        index, world = index[inside], world[inside]
        head_mm = world @ to_head[:3, :3].T + to_head[:3, 3]
        fractions, parameters = head.sample(head_mm)
        fractions = fractions if with_fractions else fractions[:0]
        middle = np.asarray(head.tissues.centre_mm)
        fields = coils.transmit(head_mm - middle), coils.receive(world), static_field_hz(head_mm)
        seen: tuple[npt.NDArray[Any], ...] = (index, fractions, parameters, *fields)
        for part, values in zip(parts, seen, strict=True):
            part.append(values)
    joined = []
    for part in parts:
        joined.append(np.concatenate(part))
        part.clear()  # at 0.8 mm each of them is worth 100 MB
    return Sampled(grid, *joined)


def _world_mm(index: npt.NDArray[np.int64], grid: Grid) -> Float64:
    ijk = np.stack(np.unravel_index(index, grid.shape), axis=1)
    return np.asarray(ijk @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def reference_gain(protocol: Mapping[str, ContrastProtocol]) -> float:
    """Return stored units per unit of PD, so that white matter in PDw has the value ``REFERENCE`` at TE = 0."""
    pdw = protocol["PDw"]
    r1, pd = (np.array([VALUES["WM"][name]]) for name in ("R1map", "PDmap"))
    signal = flash_signal(r1, pd, float(np.deg2rad(pdw.flip_angle_deg)), pdw.repetition_time_s)
    return REFERENCE / float(signal[0])


@dataclass(frozen=True)
class Acquisition:
    """How signals become images: gain, noise and what draws it.

    Attributes
    ----------
    gain
        Stored units per unit of PD.
    noise_sd
        SD of both channels in stored units.
    seed, names
        Noise depends on these and on the name of the image only.
    pulse_saturation
        How MT saturation follows B1+: see :func:`voxcloud.testing.raw_signals.mt_saturation`.
    spoiling
        None is perfect.
    """

    gain: float
    noise_sd: float
    seed: int
    names: tuple[str, ...]
    pulse_saturation: float
    spoiling: SpoilingFactor | None = None

    def magnitude(self, sampled: Sampled, signal: npt.NDArray[np.floating], name: str) -> Float32:
        """Return the image (x, y, z) of a signal (voxel,) in stored units: coil, gain and noise applied."""
        return self.with_noise(sampled.volume(signal * sampled.receive * np.float32(self.gain)), name)

    def with_noise(self, image: Float32, name: str) -> Float32:
        """Return an image (x, y, z) in stored units with noise of its own."""
        return rician(image, self.noise_sd, generator(self.seed, "noise", *self.names, name))

    def echoes(self, sampled: Sampled, name: str, contrast: ContrastProtocol) -> Iterator[Float32]:
        """Yield the echoes of a contrast, (x, y, z) each, in stored units."""
        r1, r2star, b1 = sampled.parameter("R1map"), sampled.parameter("R2starmap"), sampled.transmit
        saturation: Float32 | float = 0.0
        if contrast.mt:
            saturation = np.asarray(mt_saturation(sampled.parameter("MTsat"), b1, self.pulse_saturation), np.float32)
        angle = b1 * np.float32(np.deg2rad(contrast.flip_angle_deg))
        signal = flash_signal(r1, sampled.parameter("PDmap"), angle, contrast.repetition_time_s, saturation)
        if self.spoiling is not None:
            signal = signal * np.asarray(self.spoiling(name, r1, b1))
        for number, time_s in enumerate(contrast.echo_times_s, start=1):
            decayed = signal * np.exp(np.float32(-time_s) * r2star)
            yield self.magnitude(sampled, decayed, f"{name}-echo-{number}")
