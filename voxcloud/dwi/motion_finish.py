"""Volumes resampled once with what was found, and what a person should know of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.motion_model import Box, pull_volume
from voxcloud.dwi.motion_state import Corrected, State
from voxcloud.space.affine import displacement_mm

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# What a person should look at: distance in mm, share of lost slices, brightness.
FAR_MM, MOST_LOST, LEAST_INTENSITY = 12.0, 0.25, 0.6


def finished(state: State) -> Corrected:
    """Resample every volume once, and gather what was found."""
    problem, motion = state.problem, state.motion
    state.kept.clear()
    _place_others(state)
    shape = problem.mask.shape
    whole = Box((0, 0, 0), (shape[0], shape[1], shape[2]))
    data, covered = np.empty(problem.volumes.shape, np.float32), np.ones(shape, bool)
    for v in range(problem.b.size):
        data[v], seen = pull_volume(
            state.geometry,
            problem.encodings[v],
            state.observed(v, mended=problem.replace_outliers),
            motion.movement[v],
            motion.eddy[v],
            whole,
        )
        covered &= seen
    return Corrected(
        data,
        state.geometry,
        motion,
        state.outliers,
        state.scores,
        _residuals(state),
        covered,
        state.process,
        tuple(_doubts(state)),
        {"passes": state.history, "registrations_cpu_s": state.child_cpu_s},
    )


def _place_others(state: State) -> None:
    """Put volumes that nothing predicts where the head was at the nearest one in time."""
    known = np.array(sorted(v for group in state.problem.groups for v in group.volumes))
    for v in set(range(state.problem.b.size)) - set(known.tolist()):
        state.motion.movement[v] = state.motion.movement[known[int(np.argmin(np.abs(known - v)))]]


def _residuals(state: State) -> Float64:
    """Return RMS residuals over slices that count, over the mean predicted signal of the group; NaN if unknown."""
    found = np.full(state.problem.b.size, np.nan)
    used = np.where(state.outliers[..., None], 0.0, state.sums).sum(axis=1)
    for group in state.problem.groups:
        part = np.array(group.volumes)
        part = part[used[part, 0] > 0]
        if part.size:
            signal = used[part, 4].sum() / used[part, 0].sum()
            found[part] = np.sqrt(used[part, 2] / used[part, 0]) / signal if signal > 0 else np.nan
    return found


def _doubts(state: State) -> Iterator[str]:
    """Say what looks wrong."""
    problem, motion = state.problem, state.motion
    distance = [displacement_mm(m, problem.affine, problem.mask.shape, problem.mask)[0] for m in motion.movement]
    far = [v for v, mm in enumerate(distance) if mm > FAR_MM]
    if far:
        yield (
            f"expected the head within {FAR_MM:g} mm of its place at the first b = 0 volume, found "
            f"{max(distance):.1f} mm (volumes {', '.join(map(str, far[:6]))}). Look at these volumes."
        )
    lost = state.outliers.sum(axis=1) / np.maximum(np.isfinite(state.scores).sum(axis=1), 1)
    bad = np.flatnonzero(lost > MOST_LOST)
    if bad.size:
        yield (
            f"expected outlier slices to be few, found over {100 * MOST_LOST:g} % of the slices of volumes "
            f"{', '.join(str(int(v)) for v in bad[:6])}. Leave these volumes out."
        )
    odd = [v for v, s in enumerate(motion.intensity) if not LEAST_INTENSITY < s < 1 / LEAST_INTENSITY]
    if odd:
        yield (
            f"expected volumes of a shell to be about equally bright, found a factor of {motion.intensity[odd[0]]:.2f} "
            f"(volume {odd[0]}, {len(odd)} in all). Look at them, and at the b-values."
        )
