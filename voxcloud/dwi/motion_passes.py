"""The order in which movement and eddy currents are found: coarse to fine, b = 0 first, shells onto it at last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.dwi.motion_finish import finished
from voxcloud.dwi.motion_model import Predicted, fit_volume
from voxcloud.dwi.motion_shells import eddy_priors, extrapolate, shells_to_unweighted
from voxcloud.dwi.motion_state import Corrected, Problem, State, coarser, pull_all, start_state
from voxcloud.dwi.outliers import find_outliers, slice_scores
from voxcloud.dwi.prediction import Group, Process, covariance, fit_process, leave_one_out, mean_process
from voxcloud.space.affine import rigid_matrix, rigid_parameters

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# FWHM in mm of the blur of passes over b = 0; over weighted volumes, eddy terms and pairs of passes. Full resolution
# follows. Quadratic terms wait until movement is roughly known.
COARSE_MM = (6.0, 4.0)
FINE_MM = 2.5
# Of the last passes over b = 0, in voxels: between the bright fluid and the rest, images change within a voxel, and
# interpolation, which cannot follow, turns sharper ones by some tenths of a degree.
UNWEIGHTED_FWHM = 1.35
SCHEDULE = ((6.0, 3, 2), (4.0, 9, 3), (2.5, 9, 3))
# mm between the voxels that are compared.
COARSE_GRID_MM = 6.0
FINE_GRID_MM = 4.0
SAMPLE = 20_000
STEPS = 2
VOLUMES_AT_ONCE = 16
# SD in voxels of the blur over what predictions say of directions.
CALM = 0.8
# Of voxels, by how much signals depend on direction.
CLASSES = 5


def correct(problem: Problem) -> Corrected:
    """Find everything and resample once; see ``motion.correct_motion``."""
    state = start_state(problem)
    unweighted = next(k for k, group in enumerate(problem.groups) if group.bval == 0)
    first = problem.groups[unweighted].volumes[0]
    b0 = problem.groups[unweighted].volumes
    weighted = [v for k, group in enumerate(problem.groups) if k != unweighted for v in group.volumes]

    def register_b0(of: State, blurs: Sequence[float]) -> None:
        for fwhm in blurs:
            before = of.motion.movement.copy()
            _pass(of, mean_process(problem.groups), b0, fwhm, terms=0)
            # The mean of n - 1 others is n / (n - 1) times as far away as that of all: two would change places for
            # ever.
            _shorten(of, b0, before, (len(b0) - 1) / len(b0))
            _anchor(of, b0, first)

    def register_weighted(of: State, schedule: Sequence[tuple[float, int, int]]) -> None:
        for fwhm, n, pairs in schedule:
            for _ in range(pairs):
                places = [of.motion.movement.copy()]
                for _ in range(2):
                    _pass(of, None, weighted, fwhm, terms=min(problem.terms, n))
                    places.append(of.motion.movement.copy())
                extrapolate(of, places)
            shells_to_unweighted(of, unweighted, FINE_MM)

    # Blurred images have nothing that a coarse grid would not show.
    rough = coarser(problem, FINE_GRID_MM)
    early = state if rough is None else start_state(rough, state.geometry.centre)
    register_b0(early, COARSE_MM)
    _follow(early, b0)
    register_weighted(early, SCHEDULE[:-1])
    state.motion, state.history = early.motion, early.history
    state.aligned, state.child_cpu_s = early.aligned, early.child_cpu_s
    voxel_mm = float(np.cbrt(abs(np.linalg.det(problem.affine[:3, :3]))))
    register_b0(state, 2 * (max(FINE_MM, UNWEIGHTED_FWHM * voxel_mm),))
    register_weighted(state, SCHEDULE[-1:])
    # Extrapolation would carry noise on: at full resolution each pass is taken as it is.
    for _ in range(problem.passes):
        _pass(state, None, weighted, 0.0, terms=problem.terms)
    shells_to_unweighted(state, unweighted, FINE_MM)
    eddy_priors(state)
    return finished(state)


def _predictions(
    weights: Sequence[Float64], classes: Sequence[Indices], images: Float32, volumes: Sequence[int]
) -> Iterator[tuple[int, Float32]]:
    """Give the prediction of each volume, computed a few at a time; each class of voxels has weights of its own."""
    flat = images.reshape(len(images), -1)
    parts = [flat] if len(classes) == 1 else [flat[:, where] for where in classes]
    for start in range(0, len(volumes), VOLUMES_AT_ONCE):
        chosen = list(volumes[start : start + VOLUMES_AT_ONCE])
        found = np.empty((len(chosen), flat.shape[1]), np.float32)
        for own, part, where in zip(weights, parts, classes, strict=True):
            found[:, where] = own[chosen].astype(np.float32) @ part
        yield from zip(chosen, found.reshape(len(chosen), *images.shape[1:]), strict=True)


def _calmed(
    predictions: Iterator[tuple[int, Float32]], images: Float32, groups: Sequence[Group]
) -> Iterator[tuple[int, Float32]]:
    """Give predictions whose difference from the mean of the shell's other volumes is blurred.

    The mean of many volumes is sharp and has little noise. What depends on direction has most of a prediction's noise,
    which interpolation weakens between voxels and which so draws volumes there; and fibres turn slowly.
    """
    of = {v: k for k, group in enumerate(groups) if group.orders for v in group.volumes}
    totals = {k: images[list(groups[k].volumes)].sum(axis=0) for k in set(of.values())}
    for v, image in predictions:
        if v in of:
            mean = (totals[of[v]] - images[v]) / np.float32(len(groups[of[v]].volumes) - 1)
            yield v, mean + ndimage.gaussian_filter(image - mean, CALM, truncate=3.0)
        else:
            yield v, image


def _pass(state: State, process: Process | None, volumes: Sequence[int], fwhm_mm: float, *, terms: int) -> None:
    """Predict volumes from each other and register each to its prediction."""
    problem = state.problem
    predicted_by = [v for group in problem.groups if set(group.volumes) & set(volumes) for v in group.volumes]
    images = pull_all(state, predicted_by, fwhm_mm)
    weights, classes = _weights(state, images, process)
    prior = eddy_priors(state) if terms else {}
    sharp = fwhm_mm <= FINE_MM
    stride = _stride(state, FINE_GRID_MM if sharp else COARSE_GRID_MM)
    # A mean is too unlike the volume to tell small distortions from contrast.
    simple = {v for group in problem.groups if not group.orders for v in group.volumes}
    known = [v for v in volumes if np.abs(weights[0][v]).max() > 0]

    def predictions(of: Sequence[int]) -> Iterator[tuple[int, Float32]]:
        found = _predictions(weights, classes, images, of)
        return _calmed(found, images, problem.groups) if sharp else found

    for v, image in predictions(known):
        found = fit_volume(
            Predicted(state.geometry, state.box, image, problem.mask),
            state.geometry,
            problem.encodings[v],
            state.blurred(v, fwhm_mm, mended=not sharp),
            state.motion,
            v,
            terms=min(terms, 3) if v in simple else terms,
            prior=prior.get(v),
            weights=np.where(state.outliers[v], 0.0, 1.0),
            stride=stride,
            steps=STEPS,
        )
        state.sums[v] = found.sums
    _normalise(state)
    if sharp:
        _find_outliers(state)
        lost = [v for v in known if state.outliers[v].any()]
        for v, image in _predictions(weights, classes, images, lost):
            _mend(state, Predicted(state.geometry, state.box, image, problem.mask), v)
    sd = [_median(state.motion.sd[list(g.volumes)]) if set(g.volumes) & set(known) else None for g in problem.groups]
    state.history.append({"fwhm_mm": fwhm_mm, "terms": terms, "residual_sd": sd})
    problem.progress(f"blur {fwhm_mm:g} mm, {len(known)} volumes, {terms} eddy terms, residual {sd}")


def _median(values: Float64) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _find_outliers(state: State) -> None:
    problem = state.problem
    state.scores = slice_scores(state.sums, [group.volumes for group in problem.groups])
    state.outliers = find_outliers(state.scores, state.sums, problem.outlier_sd)
    for v in list(state.mended):
        if not state.outliers[v].any():
            del state.mended[v]


def _mend(state: State, predicted: Predicted, volume: int) -> None:
    """Replace outlier slices of a volume by its prediction as the volume would have seen it."""
    mended = state.problem.volumes[volume].copy()
    whole = mended.copy()
    predicted.push(state.problem.encodings[volume], state.motion, volume, whole)
    lost = np.flatnonzero(state.outliers[volume])
    where: list[Any] = [slice(None)] * 3
    where[state.geometry.slice_axis] = lost
    mended[tuple(where)] = whole[tuple(where)]
    state.mended[volume] = mended


def _weights(state: State, images: Float32, process: Process | None) -> tuple[list[Float64], list[Indices]]:
    """Return the matrices that predict, one for each class of voxels, and the voxels of each class.

    Voxels differ in how much signals depend on direction. Where they do not (fluid, grey matter, the rim of the brain),
    the mean of a shell predicts better than a process that leaves room for directions, and what movement does to them
    cannot be taken for diffusion.
    """
    problem = state.problem
    flat = images.reshape(len(images), -1)
    everywhere = np.arange(flat.shape[1])
    if process is not None:
        state.process = process
        return [leave_one_out(covariance(process, problem.b, problem.g))], [everywhere]
    inside = np.flatnonzero(state.inside)
    like = state.process if state.process.ratios.any() else None
    state.process = _fitted(state, flat, inside, like)
    gain = _gain_by_directions(state, images)
    limits = np.quantile(gain[inside], np.linspace(0, 1, CLASSES + 1)[1:-1])
    of = np.searchsorted(limits, gain)
    weights, classes = [], []
    for k in range(CLASSES):
        own = _fitted(state, flat, inside[of[inside] == k], state.process)
        weights.append(leave_one_out(covariance(own, problem.b, problem.g)))
        classes.append(np.flatnonzero(of == k))
    return weights, classes


def _gain_by_directions(state: State, images: Float32) -> Float64:
    """Return, per voxel of the box, the logarithm of the error of shells' means over that of the process."""
    problem = state.problem
    flat = images.reshape(len(images), -1)
    part = [v for group in problem.groups if group.orders for v in group.volumes]
    errors = []
    for process in (mean_process(problem.groups), state.process):
        own = (leave_one_out(covariance(process, problem.b, problem.g)) - np.eye(len(flat)))[part].astype(np.float32)
        total = np.zeros(flat.shape[1], np.float32)
        for start in range(0, len(part), VOLUMES_AT_ONCE):
            total += ((own[start : start + VOLUMES_AT_ONCE] @ flat) ** 2).sum(axis=0)
        errors.append(ndimage.gaussian_filter(total.reshape(images.shape[1:]), 0.7, mode="nearest"))
    return np.asarray(np.log(np.maximum(errors[0], 1e-20) / np.maximum(errors[1], 1e-20)).reshape(-1), np.float64)


def _fitted(state: State, flat: Float32, voxels: npt.NDArray[np.intp], like: Process | None) -> Process:
    step = max(1, voxels.size // SAMPLE)
    sample = flat[:, voxels[::step]].astype(np.float64)
    moments = sample @ sample.T / max(sample.shape[1], 1)
    return fit_process(moments, state.problem.groups, state.problem.b, state.problem.g, like=like)


def _stride(state: State, grid_mm: float) -> tuple[int, int, int]:
    """Return steps between the voxels that are compared; none along slices, each of which is judged."""
    sizes = np.sqrt((state.geometry.affine[:3, :3] ** 2).sum(axis=0))
    steps = np.maximum(np.floor(grid_mm / sizes + 1e-6).astype(int), 1)
    steps[state.geometry.slice_axis] = 1
    return int(steps[0]), int(steps[1]), int(steps[2])


def _normalise(state: State) -> None:
    """Make intensities 1 on average within each group."""
    for group in state.problem.groups:
        part = list(group.volumes)
        state.motion.intensity[part] /= np.exp(np.log(np.maximum(state.motion.intensity[part], 0.1)).mean())


def _shorten(state: State, volumes: Sequence[int], before: Float64, part: float) -> None:
    """Leave of the movement since ``before`` a part."""
    centre = state.geometry.centre
    for v in volumes:
        shift, turn = rigid_parameters(state.motion.movement[v] @ np.linalg.inv(before[v]), centre)
        step = rigid_matrix((part * shift).tolist(), (part * turn).tolist(), centre.tolist())
        state.motion.movement[v] = step @ before[v]


def _anchor(state: State, volumes: Sequence[int], first: int) -> None:
    """Make one volume the reference of others."""
    back = np.linalg.inv(state.motion.movement[first])
    for v in volumes:
        state.motion.movement[v] = state.motion.movement[v] @ back


def _follow(state: State, known: Sequence[int]) -> None:
    """Start every other volume where the head was at the nearest volume in time."""
    where = np.array(known)
    for v in range(state.problem.b.size):
        nearest = where[int(np.argmin(np.abs(where - v)))]
        state.motion.movement[v] = state.motion.movement[nearest]
