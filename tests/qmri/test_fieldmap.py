"""The static field from phase images and ready-made maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri.fieldmap import (
    PROTON_HZ_PER_T,
    B0Field,
    extend_field,
    field_from_map,
    field_from_phasediff,
    field_from_phases,
    mask_from_magnitude,
)
from voxcloud.qmri.phase import phase_in_rad
from voxcloud.qmri.protocol import ProtocolError

SHAPE = (40, 44, 32)
TIMES = (0.00492, 0.00738)  # one turn is 406.5 Hz
VOXEL_MM = (3.0, 3.0, 3.0)

Phantom = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """Field in Hz with three wraps, head, magnitude."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    head = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    field = -20 + 40 * x - 60 * z + 700 * np.exp(-((y - 0.8) ** 2 + (z + 0.6) ** 2) / 0.25)
    rng = np.random.default_rng(1)
    magnitude = np.where(head, 800 + 100 * x, 0) + rng.rayleigh(20, SHAPE)
    return field, head, magnitude


def wrapped(field: Any, head: Any, noise_rad: float = 0.0) -> Any:
    """Phase difference in [-pi, pi): signal within the head, noise over the whole circle outside."""
    rng = np.random.default_rng(2)
    phase = 2 * np.pi * field * (TIMES[1] - TIMES[0]) + noise_rad * rng.standard_normal(SHAPE)
    phase = np.where(head, phase, rng.uniform(-np.pi, np.pi, SHAPE))
    return np.mod(phase + np.pi, 2 * np.pi) - np.pi


def error_hz(found: B0Field, field: Any, head: Any) -> Any:
    return np.abs(found.hz - field)[head & found.mask]


UNITS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "rad": (lambda p: p, 0.001),
    "rad, float32": (lambda p: p.astype(np.float32), 0.01),
    "rad, 0 to 2 pi": (lambda p: np.mod(p, 2 * np.pi), 0.001),
    # A step of 2 pi / 4096 is 0.1 Hz.
    "0-4095": (lambda p: np.clip(np.round(2048 + p / np.pi * 2048), 0, 4095).astype(np.int16), 0.11),
    "-4096 to 4094": (lambda p: np.clip(2 * np.round(2048 + p / np.pi * 2048), 0, 8190) - 4096, 0.11),
    "-4096 to 4095": (lambda p: np.clip(np.round(p / np.pi * 4096), -4096, 4095), 0.06),
}


@pytest.mark.parametrize("unit", UNITS)
def test_field_from_phasediff__same_field_from_every_unit(phantom: Phantom, unit: str) -> None:
    field, head, magnitude = phantom
    convert, tolerance = UNITS[unit]
    found = field_from_phasediff(convert(wrapped(field, head)), TIMES, magnitude=magnitude)
    assert found.hz.dtype == np.float32
    assert found.mask[head].mean() > 0.99
    assert found.mask[~head].mean() < 0.01
    assert error_hz(found, field, head).max() < tolerance
    assert found.record["unwrapped_voxels"] > 500
    assert np.isfinite(found.hz).all()


def test_field_from_phasediff__noise_and_smoothing(phantom: Phantom) -> None:
    field, head, magnitude = phantom
    phase = wrapped(field, head, noise_rad=0.2)  # 13 Hz
    plain = field_from_phasediff(phase, TIMES, magnitude=magnitude)
    smooth = field_from_phasediff(phase, TIMES, magnitude=magnitude, voxel_mm=VOXEL_MM, fwhm_mm=6)
    assert 8 < np.median(error_hz(plain, field, head)) < 10  # .674 SD: no voxel is a turn off
    assert error_hz(plain, field, head).max() < 70
    assert np.median(error_hz(smooth, field, head)) < 4
    again = field_from_phasediff(phase, TIMES, magnitude=magnitude)
    np.testing.assert_array_equal(plain.hz, again.hz)


def test_field_from_phasediff__offset_of_each_part_is_the_one_nearest_resonance(phantom: Phantom) -> None:
    _, head, _ = phantom
    head = head.copy()
    head[19:21] = False  # two parts: nothing tells how many turns lie between them
    field = np.where(np.arange(SHAPE[0])[:, None, None] < 20, -150.0, 150.0) + np.linspace(-120, 120, SHAPE[1])[:, None]
    found = field_from_phasediff(wrapped(field, head), TIMES, mask=head)
    assert error_hz(found, field, head).max() < 0.01


def test_field_from_phasediff__one_slice(phantom: Phantom) -> None:
    field, head, magnitude = phantom
    part = np.s_[:, :, 16:17]
    found = field_from_phasediff(wrapped(field, head)[part], TIMES, magnitude=magnitude[part])
    assert found.hz.shape == (40, 44, 1)
    assert error_hz(found, field[part], head[part]).max() < 0.001


def test_field_from_phases__complex_difference(phantom: Phantom) -> None:
    field, head, magnitude = phantom
    coil = np.linspace(-4, 9, SHAPE[1])[:, None]
    phases = [np.mod(coil + 2 * np.pi * field * t + np.pi, 2 * np.pi) - np.pi for t in TIMES]
    found = field_from_phases(phases[0], phases[1], TIMES, magnitude=magnitude)
    assert error_hz(found, field, head).max() < 0.01
    steps = np.clip(np.round(2048 + phases[1] / np.pi * 2048), 0, 4095)
    mixed = field_from_phases(phases[0], steps, TIMES, magnitude=magnitude)
    assert mixed.record["units"] == ["rad", "0-4095"]
    assert error_hz(mixed, field, head).max() < 0.11


@pytest.mark.parametrize(("units", "factor"), [("Hz", 1), ("rad/s", 2 * np.pi), ("T", 1 / PROTON_HZ_PER_T)])
def test_field_from_map__units(phantom: Phantom, units: str, factor: float) -> None:
    field, head, _ = phantom
    found = field_from_map(np.where(head, field, 0) * factor, units)
    np.testing.assert_array_equal(found.mask, head)
    np.testing.assert_allclose(found.hz[head], field[head], rtol=1e-5)


def test_field_from_map__wrong_units_are_refused(phantom: Phantom) -> None:
    field, _, magnitude = phantom
    with pytest.raises(ImageError, match=r"expected units of Hz, rad/s, T, found 'ppm'"):
        field_from_map(field, "ppm")
    with pytest.raises(ImageError, match=r"sub-01: .*0\.1 to 1000 at 3 T, found .*e\+10 Hz"):
        field_from_map(field, "T", magnitude=magnitude, name="sub-01")
    with pytest.raises(ImageError, match=r"found 1.*e-05 Hz"):
        field_from_map(field / PROTON_HZ_PER_T, "Hz")
    with pytest.raises(ImageError, match=r"found 4\d\d\d Hz"):
        field_from_map(field * 2 * np.pi, "Hz")
    field_from_map(field * 2, "Hz", field_strength_t=7.0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("hz_as_rad", r"found values from -10 to 10"),
        ("degrees", r"found values from -18\d.* to 1"),
        ("milliradians", r"found values from -314\d to 314\d"),
        ("half_turn_off", r"found values from -4 to 2"),
    ],
)
def test_field_from_phasediff__other_units_are_refused(phantom: Phantom, values: str, found: str) -> None:
    field, head, magnitude = phantom
    phase = wrapped(field, head)
    images = {
        "hz_as_rad": np.clip(field, -10, 10),
        "degrees": np.rad2deg(phase),
        "milliradians": phase * 1000,
        "half_turn_off": np.clip(phase * 2, -4, 2),
    }
    with pytest.raises(ImageError, match=f"sub-02: expected a phase in rad.*{found}.*say its unit"):
        field_from_phasediff(images[values], TIMES, magnitude=magnitude, name="sub-02")


def test_phase_in_rad__said_units() -> None:
    weak = np.linspace(-900, 900, 1000).reshape(10, 10, 10)  # without background: its range tells nothing
    with pytest.raises(ImageError, match="say its unit"):
        phase_in_rad(weak)
    found, unit = phase_in_rad(weak, "-4096-4095")
    assert unit == "-4096-4095"
    np.testing.assert_allclose(found, weak * np.pi / 4096)
    with pytest.raises(ImageError, match=r"said to be rad"):
        phase_in_rad(weak, "rad")
    _, unit = phase_in_rad(weak / 300, "arbitrary")
    assert unit == "rad"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((4.92, 7.38), r"7\.38 where 0\.00738 is meant\? Divide milliseconds by 1000"),
        ((0.00492, 2.46), r"2\.46 where 0\.00246 is meant"),
        ((0.00492, 0.00512), r"rise by 0\.5 to 10 ms, found .* a difference of 0\.2 ms"),
        ((0.00738, 0.00492), r"a difference of -2\.46 ms"),
        ((0.0, 0.00246), r"above 0"),
        ((0.00246,), r"expected two echo times"),
    ],
)
def test_field_from_phasediff__echo_times(phantom: Phantom, times: Any, message: str) -> None:
    field, head, magnitude = phantom
    with pytest.raises(ProtocolError, match=message):
        field_from_phasediff(wrapped(field, head), times, magnitude=magnitude)


def test_field_from_phasediff__shapes_and_masks(phantom: Phantom) -> None:
    field, head, magnitude = phantom
    phase = wrapped(field, head)
    with pytest.raises(ImageError, match=r"magnitude of phase difference: expected an image of shape \(40, 44, 32\)"):
        field_from_phasediff(phase, TIMES, magnitude=magnitude[1:])
    with pytest.raises(ImageError, match="neither"):
        field_from_phasediff(phase, TIMES)
    with pytest.raises(ImageError, match="at least 10 voxels with signal, found 0"):
        field_from_phasediff(phase, TIMES, magnitude=np.zeros(SHAPE))
    with pytest.raises(ImageError, match="Give voxel_mm"):
        field_from_phasediff(phase, TIMES, magnitude=magnitude, fwhm_mm=3)
    with pytest.raises(ImageError, match="second echo: expected an image of shape"):
        field_from_phases(phase, phase[1:], TIMES, magnitude=magnitude)


def test_mask_from_magnitude__largest_part_and_hot_voxels(phantom: Phantom) -> None:
    _, head, magnitude = phantom
    hot = magnitude.copy()
    hot[2:4, 2:4, 2:4] = 1e5
    mask = mask_from_magnitude(hot)
    assert not mask[2:4, 2:4, 2:4].any()
    np.testing.assert_array_equal(mask, head)


def test_extend_field__continuous_at_the_edge_and_bounded(phantom: Phantom) -> None:
    field, head, _ = phantom
    found = extend_field(np.where(head, field, 1e6), head)
    np.testing.assert_array_equal(found[head], field[head])
    assert field[head].min() - 1e-6 <= found.min()
    assert found.max() <= field[head].max() + 1e-6
    steepest = max(np.abs(np.diff(np.where(head, field, np.nan), axis=a))[both_inside(head, a)].max() for a in range(3))
    assert max(np.abs(np.diff(found, axis=a)).max() for a in range(3)) < 1.5 * steepest


def both_inside(head: Any, axis: int) -> Any:
    """Return where both neighbours along the axis lie in the head."""
    first = np.take(head, np.arange(head.shape[axis] - 1), axis)
    second = np.take(head, np.arange(1, head.shape[axis]), axis)
    return first & second
