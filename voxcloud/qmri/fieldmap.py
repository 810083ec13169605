"""The static field: from phase images, or a ready-made map, to Hz on every voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.restoration import unwrap_phase

from voxcloud.errors import ImageError
from voxcloud.qmri.arrays import Bools, Float64, Floats, as_float64
from voxcloud.qmri.fields import smooth_field
from voxcloud.qmri.phase import check_grid, phase_in_rad
from voxcloud.qmri.protocol import ProtocolError

# Gyromagnetic ratio of the proton over 2 pi (CODATA 2018), in Hz/T.
PROTON_HZ_PER_T = 42.577478518e6
HZ_PER_UNIT = {"Hz": 1.0, "rad/s": 1.0 / (2.0 * math.pi), "T": PROTON_HZ_PER_T}
LONGEST_ECHO_TIME_S = 0.1
ECHO_DIFFERENCE_RANGE_S = (0.0005, 0.010)
# 99th percentile of |field| over the mask, per tesla: 1000 Hz at 3 T is 8 ppm, twice what air in the head does.
LARGEST_HZ_PER_T = 1000.0 / 3.0
SMALLEST_HZ = 0.1
FEWEST_VOXELS = 10
# Passes of averaging over neighbours, on every level of the pyramid, when a field is continued outside the mask.
RELAXATIONS = 12


@dataclass(frozen=True)
class B0Field:
    """A map of the static field.

    Attributes
    ----------
    hz : deviation from the centre frequency in Hz, float32; known within ``mask``, continued smoothly outside.
    mask : where it was measured.
    record : plain values (JSON): source, units found, echo times in s, what was unwrapped, percentiles in Hz.
    """

    hz: npt.NDArray[np.float32]
    mask: Bools
    record: dict[str, Any]


def field_from_phasediff(
    phase: npt.ArrayLike,
    echo_times_s: Sequence[float],
    *,
    units: str | None = None,
    magnitude: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    voxel_mm: Sequence[float] | None = None,
    fwhm_mm: float = 0.0,
    field_strength_t: float = 3.0,
    name: str = "phase difference",
) -> B0Field:
    """Return the field from the difference of two phase images.

    ``field = unwrap(phase2 - phase1) / (2 pi (TE2 - TE1))``. Unwrapping follows the reliability of the phase in three
    dimensions. Each connected part of the mask is then shifted by the multiple of 2 pi that brings its median nearest
    zero: the scanner shims, so the middle of the head is on resonance.

    Parameters
    ----------
    phase : 3-D phase difference, in a unit that its range gives away: rad (-pi to pi or 0 to 2 pi), 0 to 4095, -4096 to
        4094 or -4096 to 4095 (both the full turn, zero at 2048 and 0). NaN is unknown.
    echo_times_s : the two echo times in s, rising, 0.5 to 10 ms apart.
    units : ``rad``, ``0-4095`` or ``-4096-4095`` where the range does not tell, e.g. of an image without background;
        ``arbitrary`` (as in BIDS) or None let the range decide.
    magnitude : image from the same acquisition; gives the mask (Otsu's threshold, largest part) if there is none.
    mask : where the phase is signal, not noise.
    voxel_mm : voxel sizes in mm; needed for smoothing.
    fwhm_mm : Gaussian smoothing within the mask, full width at half maximum in mm; 0 is none.
    field_strength_t : field of the scanner in T, for what is plausible.
    name : what messages call the image.

    Raises
    ------
    ProtocolError
        If the echo times are not in s, do not rise or are implausibly close or far apart.
    ImageError
        If shapes differ, the unit cannot be told, there is neither magnitude nor mask, or the field is implausible.

    References
    ----------
    1. Jezzard and Balaban (1995), doi:10.1002/mrm.1910340111.
    2. Abdul-Rahman et al. (2007), unwrapping, doi:10.1364/AO.46.006623.
    """
    times = _check_echo_times(name, echo_times_s)
    radians, unit = phase_in_rad(phase, units, name=name)
    known = _known(radians, magnitude, mask, name)
    record = {"source": "phase difference", "units": [unit]}
    return _field_from_wrapped(radians, known, times, record, voxel_mm, fwhm_mm, field_strength_t, name)


def field_from_phases(
    phase1: npt.ArrayLike,
    phase2: npt.ArrayLike,
    echo_times_s: Sequence[float],
    *,
    units: str | None = None,
    magnitude: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    voxel_mm: Sequence[float] | None = None,
    fwhm_mm: float = 0.0,
    field_strength_t: float = 3.0,
    name: str = "phase images",
) -> B0Field:
    """Return the field from two phase images.

    As ``field_from_phasediff`` with ``arg exp(i (phase2 - phase1))``: taken on the circle, so that wraps of either
    image do not matter.

    Parameters
    ----------
    phase1, phase2 : 3-D phase images at the first and second echo; each in a unit of its own, found by range.
    echo_times_s, units, magnitude, mask, voxel_mm, fwhm_mm, field_strength_t, name : as in ``field_from_phasediff``.

    Raises
    ------
    ProtocolError, ImageError
        As in ``field_from_phasediff``.
    """
    times = _check_echo_times(name, echo_times_s)
    first, unit1 = phase_in_rad(phase1, units, name=f"{name}, first echo")
    second, unit2 = phase_in_rad(phase2, units, name=f"{name}, second echo")
    check_grid(f"{name}, second echo", second, first.shape)
    wrapped = np.angle(np.exp(1j * (second - first)))
    known = _known(wrapped, magnitude, mask, name)
    record = {"source": "two phase images", "units": [unit1, unit2]}
    return _field_from_wrapped(wrapped, known, times, record, voxel_mm, fwhm_mm, field_strength_t, name)


def field_from_map(
    values: npt.ArrayLike,
    units: str,
    *,
    magnitude: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    voxel_mm: Sequence[float] | None = None,
    fwhm_mm: float = 0.0,
    field_strength_t: float = 3.0,
    name: str = "field map",
) -> B0Field:
    """Return the field from a ready-made map.

    Parameters
    ----------
    values : 3-D map. Voxels that are exactly zero (masked by whoever made it) or NaN are unknown.
    units : ``Hz``, ``rad/s`` or ``T``, as in the sidecar.
    magnitude, mask : as in ``field_from_phasediff``; without either every known voxel counts.
    voxel_mm, fwhm_mm, field_strength_t, name : as in ``field_from_phasediff``.

    Raises
    ------
    ImageError
        If the unit is another, shapes differ or the field is implausible (most often: the unit is not what it says).
    """
    if units not in HZ_PER_UNIT:
        raise ImageError(
            f"{name}: expected units of {', '.join(HZ_PER_UNIT)}, found {units!r}. Write one of these as "
            "Units into its sidecar."
        )
    hz = as_float64(values) * HZ_PER_UNIT[units]
    check_grid(name, hz)
    if magnitude is None and mask is None:
        known = np.isfinite(hz) & (hz != 0)
    else:
        known = _known(hz, magnitude, mask, name) & (hz != 0)
    record = {"source": "field map", "units": [units]}
    return _finish(hz, known, record, voxel_mm, fwhm_mm, field_strength_t, name)


def mask_from_magnitude(magnitude: npt.ArrayLike) -> Bools:
    """Return the largest connected part above Otsu's threshold; a few hot voxels do not move it."""
    values = np.nan_to_num(as_float64(magnitude))
    clipped = np.clip(values, 0.0, np.percentile(values, 99.5))
    if clipped.max() == clipped.min():
        return np.zeros(values.shape, dtype=bool)
    labels, count = ndimage.label(clipped > threshold_otsu(clipped))
    if count == 0:
        return np.zeros(values.shape, dtype=bool)
    largest: Bools = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return largest


def extend_field(field: npt.ArrayLike, known: npt.ArrayLike) -> Float64:
    """Continue a field smoothly beyond where it is known.

    Towards the solution of Laplace's equation outside the mask with the known values as its boundary, from coarse grids
    to fine ones: continuous at the edge, never outside the range of the known values. Images at the rim of the head are
    thus moved like the tissue beside them.

    Parameters
    ----------
    field : 3-D array, any unit.
    known : boolean, of its shape, True somewhere.
    """
    values, inside = as_float64(field), np.asarray(known, dtype=bool)
    if inside.all():
        return values.copy()
    coarse, weight = _halve(np.where(inside, values, 0.0)), _halve(inside.astype(np.float64))
    if coarse.shape == values.shape:
        return np.full(values.shape, values[inside].mean())
    coarse_known = weight > 0
    np.divide(coarse, weight, out=coarse, where=coarse_known)
    extended = _double(extend_field(coarse, coarse_known), values.shape)
    for _ in range(RELAXATIONS):
        extended = np.where(inside, values, extended)
        extended = ndimage.uniform_filter(extended, 3, mode="nearest")
    return np.where(inside, values, extended)


def _halve(values: Float64) -> Float64:
    """Sum over blocks of two voxels along each axis; an odd last voxel stands alone."""
    for axis in range(values.ndim):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], 2), axis=axis)
    return values


def _double(values: Float64, shape: tuple[int, ...]) -> Float64:
    """Interpolate linearly between the centres of the blocks of ``_halve``."""
    for axis, size in enumerate(shape):
        at = np.clip((np.arange(size) - 0.5) / 2.0, 0.0, values.shape[axis] - 1.0)
        below = at.astype(np.intp)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        share = (at - below).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        values = np.take(values, below, axis) * (1.0 - share) + np.take(values, above, axis) * share
    return values


def _check_echo_times(name: str, echo_times_s: Sequence[float]) -> tuple[float, float]:
    times = [float(t) for t in echo_times_s]
    if len(times) != 2:
        raise ProtocolError(f"{name}: expected two echo times in s, found {times}. Give those of the two echoes.")
    if not all(0 < t <= LONGEST_ECHO_TIME_S for t in times):
        worst = max(times, key=abs)
        raise ProtocolError(
            f"{name}: expected echo times in s, above 0 and at most {LONGEST_ECHO_TIME_S:g}, found {times}. "
            f"{worst:g} where {worst / 1000:g} is meant? Divide milliseconds by 1000."
        )
    difference = times[1] - times[0]
    least, most = ECHO_DIFFERENCE_RANGE_S
    if not least <= difference <= most:
        raise ProtocolError(
            f"{name}: expected echo times that rise by {least * 1000:g} to {most * 1000:g} ms, found {times} s, a "
            f"difference of {difference * 1000:g} ms. Check EchoTime1 and EchoTime2 in the sidecar."
        )
    return times[0], times[1]


def _known(values: Floats, magnitude: npt.ArrayLike | None, mask: npt.ArrayLike | None, name: str) -> Bools:
    if mask is not None:
        check_grid(f"mask of {name}", np.asarray(mask), values.shape)
        known = np.asarray(mask, dtype=bool)
    elif magnitude is not None:
        check_grid(f"magnitude of {name}", np.asarray(magnitude), values.shape)
        known = mask_from_magnitude(magnitude)
    else:
        raise ImageError(
            f"{name}: expected a magnitude image or a mask that tells signal from noise, found neither. Add the "
            "magnitude image of the same acquisition."
        )
    return known & np.isfinite(values)


def _field_from_wrapped(
    wrapped: Float64,
    known: Bools,
    times: tuple[float, float],
    record: dict[str, Any],
    voxel_mm: Sequence[float] | None,
    fwhm_mm: float,
    field_strength_t: float,
    name: str,
) -> B0Field:
    _check_mask(known, name)
    unwrapped, turned = _unwrap(wrapped, known)
    record |= {"echo_times_s": list(times), "unwrapped_voxels": turned}
    hz = unwrapped / (2.0 * math.pi * (times[1] - times[0]))
    return _finish(hz, known, record, voxel_mm, fwhm_mm, field_strength_t, name)


def _unwrap(wrapped: Float64, known: Bools) -> tuple[Float64, int]:
    """Unwrap within the mask; return the phase and how many voxels were moved by a turn or more."""
    masked = np.ma.masked_array(np.where(known, wrapped, 0.0), mask=~known)
    # The seed: unwrapping breaks ties at random, and the same images must give the same field.
    found = np.ma.filled(unwrap_phase(masked.squeeze(), rng=0), 0.0).reshape(wrapped.shape)
    labels, count = ndimage.label(known)
    medians = ndimage.median(found, labels, index=np.arange(1, count + 1))
    turns = np.concatenate([[0.0], np.round(np.atleast_1d(medians) / (2.0 * math.pi))])
    found = found - 2.0 * math.pi * turns[labels]
    moved = int((np.abs(found - wrapped)[known] > math.pi).sum())
    return as_float64(found), moved


def _check_mask(known: Bools, name: str) -> None:
    count = int(known.sum())
    if count < FEWEST_VOXELS:
        raise ImageError(
            f"{name}: expected at least {FEWEST_VOXELS} voxels with signal, found {count}. Look at the magnitude image "
            "and the mask."
        )


def _finish(
    hz: Float64,
    known: Bools,
    record: dict[str, Any],
    voxel_mm: Sequence[float] | None,
    fwhm_mm: float,
    field_strength_t: float,
    name: str,
) -> B0Field:
    """Check the range, smooth, continue outside the mask."""
    _check_mask(known, name)
    low, middle, high = (float(p) for p in np.percentile(hz[known], (1, 50, 99)))
    extent = float(np.percentile(np.abs(hz[known]), 99))
    most = LARGEST_HZ_PER_T * field_strength_t
    if not SMALLEST_HZ <= extent <= most:
        raise ImageError(
            f"{name}: expected a field whose 99th percentile of |Hz| is {SMALLEST_HZ:g} to {most:.0f} at "
            f"{field_strength_t:g} T, found {extent:.4g} Hz. Check its units (found: {', '.join(record['units'])}) and "
            "its mask."
        )
    if fwhm_mm > 0:
        if voxel_mm is None:
            raise ImageError(
                f"{name}: expected voxel sizes in mm to smooth by {fwhm_mm:g} mm, found none. Give voxel_mm."
            )
        smoothed = as_float64(smooth_field(hz, voxel_mm, fwhm_mm, known))
        hz = np.where(known, smoothed, hz)
    record |= {
        "fwhm_mm": fwhm_mm,
        "mask_voxels": int(known.sum()),
        "percentiles_hz": {"1": low, "50": middle, "99": high},
    }
    return B0Field(extend_field(np.where(known, hz, 0.0), known).astype(np.float32), known, record)
