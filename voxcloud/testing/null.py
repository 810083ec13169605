"""Longitudinal cohorts in memory in which nothing is planted: for error rates and for tests of the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.testing.cohort import REFERENCE_DAYS
from voxcloud.testing.design import PolynomialTime
from voxcloud.testing.fields import Float32, Float64, SmoothNoise, generator


@dataclass(frozen=True)
class NullCohort:
    """Images of a cohort without any group difference.

    Attributes
    ----------
    values
        (image, voxel) float32, rows sorted by participant and day, voxels in C order of ``mask``.
    participant_ids, days
        One per image.
    groups, age, tiv
        By participant.
    mask
        (x, y, z) bool.
    voxel_index
        Indices of the voxels in the flattened grid.
    affine
        Voxel to RAS+ mm.
    """

    values: Float32
    participant_ids: tuple[str, ...]
    days: Float64
    groups: dict[str, str]
    age: dict[str, float]
    tiv: dict[str, float]
    mask: npt.NDArray[np.bool_]
    voxel_index: npt.NDArray[np.int64]
    affine: Float64


def null_cohort(
    seed: int,
    *,
    group_sizes: Mapping[str, int] | None = None,
    shape: Sequence[int] = (20, 24, 20),
    mask: npt.NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 3.0,
    reference_days: Sequence[float] = REFERENCE_DAYS,
    missing: Mapping[tuple[str, int], Sequence[float]] | None = None,
    group_sd: Mapping[str, float] | None = None,
    slope_sd: float = 0.6,
    between_sd: float = 3.0,
    voxel_mm: float = 4.0,
) -> NullCohort:
    """Draw y = b0 + b1 linear(day) + b2 quadratic(day) + e, all smooth, none depending on group or covariates.

    Parameters
    ----------
    seed
        One cohort per seed.
    group_sizes
        People per group; default 17 patients and 14 untrained.
    shape, mask
        Grid, and the voxels to keep (default: all).
    fwhm_voxels
        Smoothness of every field.
    missing
        (group, number within the group from 1) -> days without an image.
    group_sd
        Factor on all random terms of a group, for unequal variances.
    slope_sd
        SD of the linear coefficients; noise has SD 1, quadratic coefficients 2.5 times this.
    between_sd
        SD of the intercepts.
    voxel_mm
        Voxel size in the affine.
    """
    sizes = {"patients": 17, "untrained": 14} if group_sizes is None else dict(group_sizes)
    inside = np.ones(tuple(shape), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    index = np.flatnonzero(inside.ravel())
    noise = SmoothNoise(inside.shape, [fwhm_voxels] * 3)
    time = PolynomialTime(tuple(float(d) for d in reference_days))
    people = [(group, number) for group, n in sizes.items() for number in range(1, n + 1)]
    rng = generator(seed, "null")
    ids: list[str] = []
    days: list[float] = []
    rows: list[Float32] = []
    groups, age, tiv = {}, {}, {}
    for k, (group, number) in enumerate(people):
        pid = str(k + 1).zfill(2)
        groups[pid], age[pid], tiv[pid] = group, float(rng.normal(46, 11)), float(rng.normal(1520, 110))
        sd = np.float32((group_sd or {}).get(group, 1.0))
        terms = {
            name: sd * np.float32(scale) * noise.sample(rng).ravel()[index]
            for name, scale in (("intercept", between_sd), ("linear", slope_sd), ("quadratic", 2.5 * slope_sd))
        }
        for day in reference_days:
            image = sd * noise.sample(rng).ravel()[index]  # drawn also when missing: the rest stays the same
            if day in (missing or {}).get((group, number), ()):
                continue
            for name, field in terms.items():
                image = image + np.float32(time.term(name, np.array([day]))[0]) * field
            ids.append(pid)
            days.append(float(day))
            rows.append(image)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = [-voxel_mm * (n - 1) / 2 for n in inside.shape]
    return NullCohort(
        np.stack(rows), tuple(ids), np.array(days), groups, age, tiv, inside, index.astype(np.int64), affine
    )
