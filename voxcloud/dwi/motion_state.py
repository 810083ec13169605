"""What is known of movement and eddy currents while they are sought, and volumes as it shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.dwi.motion_model import (
    NO_FIELD,
    Box,
    Encoding,
    Geometry,
    Motion,
    bounding_box,
    pull_volume,
)
from voxcloud.dwi.prediction import Group, Process, mean_process
from voxcloud.space.registration import averaged

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Voxels around the mask that splines need.
MARGIN = 4
FWHM = 2.3548


@dataclass(frozen=True, eq=False)
class Problem:
    """What is given; see ``motion.correct_motion``. ``volumes`` is (v, x, y, z)."""

    volumes: Float32
    affine: Float64
    b: Float64
    g: Float64
    encodings: tuple[Encoding, ...]
    mask: Bools
    field: Float32 | None
    slice_axis: int
    groups: tuple[Group, ...]
    terms: int
    passes: int
    replace_outliers: bool
    outlier_sd: float
    progress: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Corrected:
    """What was found; ``data`` is (v, x, y, z)."""

    data: Float32
    geometry: Geometry
    motion: Motion
    outliers: Bools
    scores: Float64
    residual: Float64
    covered: Bools
    process: Process
    warnings: tuple[str, ...]
    report: dict[str, Any]


@dataclass(eq=False)
class State:
    """What changes from pass to pass."""

    problem: Problem
    geometry: Geometry
    box: Box
    motion: Motion
    process: Process
    outliers: Bools
    scores: Float64
    sums: Float64
    # Volumes with their outlier slices replaced, as far as there are any.
    mended: dict[int, Float32] = field(default_factory=dict)
    # Blurred volumes of the latest blur.
    kept: dict[tuple[int, float], Float32] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    # Groups that were brought to b = 0 once: from then on nothing is searched for.
    aligned: set[int] = field(default_factory=set)
    # Of registrations in processes of their own.
    child_cpu_s: float = 0.0

    @property
    def inside(self) -> Bools:
        """The mask, cut to the box."""
        return np.asarray(self.problem.mask[self.box.slices])

    def observed(self, volume: int, *, mended: bool = True) -> Float32:
        """A volume, its outlier slices replaced or not."""
        own: Float32 = self.problem.volumes[volume]
        return self.mended.get(volume, own) if mended else own

    def blurred(self, volume: int, fwhm_mm: float, *, mended: bool = True) -> Float32:
        """The same, blurred."""
        values = self.observed(volume, mended=mended)
        if not fwhm_mm:
            return values
        key = volume, fwhm_mm
        usual = not mended or volume not in self.mended
        if usual and key in self.kept:
            return self.kept[key]
        sizes = np.sqrt((self.geometry.affine[:3, :3] ** 2).sum(axis=0))
        found = np.asarray(
            ndimage.gaussian_filter(values, fwhm_mm / FWHM / sizes, mode="nearest", truncate=3.0), np.float32
        )
        if usual:
            self.kept = {k: kept for k, kept in self.kept.items() if k[1] == fwhm_mm}
            self.kept[key] = found
        return found


def coarser(problem: Problem, grid_mm: float) -> Problem | None:
    """Return the same on block means of about ``grid_mm``; None where voxels are as large already."""
    sizes = np.sqrt((problem.affine[:3, :3] ** 2).sum(axis=0))
    share, affine = averaged(problem.mask, problem.affine, grid_mm)
    if share.shape == problem.mask.shape:
        return None
    step = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) / sizes
    return replace(
        problem,
        volumes=np.stack([averaged(volume, problem.affine, grid_mm)[0] for volume in problem.volumes]),
        affine=affine,
        encodings=tuple(replace(one, scale=one.scale / float(step[one.axis])) for one in problem.encodings),
        mask=share >= 0.5,
        field=None if problem.field is None else averaged(problem.field, problem.affine, grid_mm)[0],
    )


def start_state(problem: Problem, centre: Float64 | None = None) -> State:
    """Return a head that does not move; ``centre``, in mm, is that of the mask unless it is given."""
    if centre is None:
        centre = (problem.affine @ np.append(np.argwhere(problem.mask).mean(axis=0), 1.0))[:3]
    shape = problem.mask.shape
    static, gradient = NO_FIELD, NO_FIELD
    if problem.field is not None:
        static = np.ascontiguousarray(problem.field, dtype=np.float32)
        gradient = np.stack([np.gradient(static, axis=a) for a in range(3)]).astype(np.float32)
    geometry = Geometry(problem.affine, (shape[0], shape[1], shape[2]), centre, problem.slice_axis, static, gradient)
    n, slices = problem.b.size, shape[problem.slice_axis]
    return State(
        problem,
        geometry,
        bounding_box(problem.mask, MARGIN),
        Motion.still(n),
        mean_process(problem.groups),
        np.zeros((n, slices), bool),
        np.full((n, slices), np.nan),
        np.zeros((n, slices, 5)),
    )


def pull_all(state: State, volumes: Sequence[int], fwhm_mm: float) -> Float32:
    """Return volumes in the reference over their intensity, on the box; unseen places have their group's mean."""
    out = np.zeros((state.problem.b.size, *state.box.shape), np.float32)
    unseen: dict[int, Bools] = {}
    for v in volumes:
        motion = state.motion
        values, seen = pull_volume(
            state.geometry,
            state.problem.encodings[v],
            state.blurred(v, fwhm_mm),
            motion.movement[v],
            motion.eddy[v],
            state.box,
        )
        out[v] = values / np.float32(motion.intensity[v])
        if not seen.all():
            unseen[v] = ~seen
    for group in state.problem.groups:
        part = [v for v in group.volumes if v in unseen]
        if not part:
            continue
        total, count = np.zeros(state.box.shape, np.float32), np.zeros(state.box.shape, np.float32)
        for v in group.volumes:
            total += out[v]
            count += 1.0 - unseen[v].astype(np.float32) if v in unseen else np.float32(1.0)
        total /= np.maximum(count, 1.0)
        for v in part:
            out[v][unseen[v]] = total[unseen[v]]
    return out
