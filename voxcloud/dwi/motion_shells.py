"""What volumes of a shell have in common: eddy currents that follow directions, and the place of the whole shell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.motion_anatomy import Place, patterns_displaced, shell_displaced
from voxcloud.dwi.motion_model import RADIUS_MM, Prior
from voxcloud.dwi.motion_state import State, pull_all
from voxcloud.dwi.prediction import even_basis
from voxcloud.space.affine import rigid_matrix, rigid_parameters
from voxcloud.space.refinement import refine_rigid
from voxcloud.space.registration import REFINE_MM, averaged, register_rigid

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Hz at 70 mm: what eddy currents may be before anything is known, and the least that they differ from the linear model.
WIDE_HZ = 15.0
LEAST_HZ = 0.02
# Volumes from which eddy terms are described by the direction, and from which what is even in it is taken out.
FEWEST_FOR_PRIOR = 10
FEWEST_FOR_EVEN = 15
# What gradients before the one that is measured, and heating, may add: Hz, and a share of the terms.
LARGEST_SCATTER_HZ, LARGEST_SCATTER = 0.3, 0.05
# Of errors that two passes leave, at most: what is left of a step is no more than four times as large.
LARGEST_RATIO = 0.8
# SD of a shell's registration to the mean without weighting, in voxels: .06 to .09 on simulated heads of 2 to 4 mm.
IMAGE_SD = 0.06
AGAIN = 0.5
# From volume to volume: fewer do not tell how much a head moves, and registration alone scatters by so much (mm).
FEWEST_STEPS, LEAST_STEP_MM = 6, 0.03


def eddy_priors(state: State) -> dict[int, Prior]:
    """Describe eddy terms as linear in g, shell by shell, take what is even in g away, and return what may remain.

    Eddy currents come from gradients: reversed gradients reverse them. Diffusion is the same for g and -g, so that
    predictions leave room for what is even in g, and take up distortion of that kind instead of resisting it.
    """
    problem, motion, n = state.problem, state.motion, state.problem.terms
    weighted = [v for group in problem.groups if group.bval > 0 for v in group.volumes]
    loose = Prior(np.zeros(n), np.full(n, WIDE_HZ**2))
    found = dict.fromkeys(weighted, loose)
    size = 6 + n
    for group in problem.groups:
        part = list(group.volumes)
        known = np.array([np.diag(motion.precision[v])[:size].min() > 0 for v in part])
        if group.bval == 0 or not n or len(part) < FEWEST_FOR_PRIOR or not known.all():
            continue
        x, y, z = problem.g[:, part]
        odd = np.stack([x, y, z], axis=1)
        even = [np.ones_like(x)]
        if len(part) >= FEWEST_FOR_EVEN:
            even += list(even_basis(problem.g[:, part]).T)
        design = np.concatenate([odd, np.stack(even, axis=1)], axis=1)
        fit = np.linalg.lstsq(design, motion.eddy[part, :n], rcond=None)[0]
        left = motion.eddy[part, :n] - design @ fit
        variance = np.maximum((left**2).sum(axis=0) / (len(part) - design.shape[1]), LEAST_HZ**2)
        mean = odd @ fit[:3]
        variance = np.minimum(variance, LARGEST_SCATTER_HZ**2 + (LARGEST_SCATTER * mean).var(axis=0))
        for v, change in zip(part, mean + left - motion.eddy[part, :n], strict=True):
            _change_eddy(state, v, change)
        found.update({v: Prior(m, variance) for v, m in zip(part, mean, strict=True)})
    return found


def _change_eddy(state: State, volume: int, change: Float64) -> None:
    """Change eddy terms of a volume, and its movement by what then fits best: both are seen together."""
    motion, n = state.motion, change.size
    information = motion.precision[volume]
    step = -np.linalg.solve(information[:6, :6], information[:6, 6 : 6 + n] @ change)
    turn = rigid_matrix(step[:3].tolist(), np.rad2deg(step[3:] / RADIUS_MM).tolist(), state.geometry.centre.tolist())
    motion.eddy[volume, :n] += change
    motion.movement[volume] = turn @ motion.movement[volume]


def extrapolate(state: State, places: Sequence[Float64]) -> None:
    """Go on where two passes led, as far as movement is like diffusion in how it depends on direction.

    What is even in g and of order 2 is taken up by predictions: of such an error e only (1 - r) e is seen, and r e is
    left after a pass. The ratio of two steps is r, and what is still to come is r / (1 - r) of the last one (Aitken).
    """
    centre = state.geometry.centre
    for group in state.problem.groups:
        part = list(group.volumes)
        if group.bval == 0 or len(part) < FEWEST_FOR_EVEN:
            continue
        steps = []
        for before, after in itertools.pairwise(places):
            numbers = [rigid_parameters(after[v] @ np.linalg.inv(before[v]), centre) for v in part]
            steps.append(np.array([[*shift, *(np.deg2rad(turn) * RADIUS_MM)] for shift, turn in numbers]))
        basis = even_basis(state.problem.g[:, part])
        first, second = (basis @ np.linalg.lstsq(basis, step, rcond=None)[0] for step in steps)
        ratio = float(np.clip((first * second).sum() / max((first**2).sum(), 1e-30), 0.0, LARGEST_RATIO))
        for v, row in zip(part, ratio / (1.0 - ratio) * second, strict=True):
            turn = np.rad2deg(row[3:] / RADIUS_MM)
            state.motion.movement[v] = (
                rigid_matrix(row[:3].tolist(), turn.tolist(), centre.tolist()) @ state.motion.movement[v]
            )


def shells_to_unweighted(state: State, unweighted: int, fwhm_mm: float) -> None:
    """Bring each shell to where the head is without weighting, and move all of its volumes along.

    Two things tell how far a shell lies off. Images do: its mean is registered to the mean without weighting, at first
    by mutual information and edges, which reach far, then by how signals of the same tissue belong together
    (``motion_anatomy``), which is several times as exact. Time does: a head has hardly moved from a volume without
    weighting to the weighted one next to it. Both estimates are averaged, each with its own variance; but along phase
    encoding, where the eddy currents' constant shifts weighted volumes only, images decide alone.
    """
    problem, centre = state.problem, state.geometry.centre
    images = pull_all(state, [v for group in problem.groups for v in group.volumes], 0.0 if state.aligned else fwhm_mm)
    affine = state.geometry.affine.copy()
    affine[:3, 3] = (state.geometry.affine @ np.append(state.box.first, 1.0))[:3]
    still = images[list(problem.groups[unweighted].volumes)].mean(axis=0)
    size = float(np.cbrt(abs(np.linalg.det(affine[:3, :3]))))
    place = Place(state.inside, affine, centre)
    for k, group in enumerate(problem.groups):
        if k == unweighted:
            continue
        part = list(group.volumes)
        again = k in state.aligned
        mean, told = images[part].mean(axis=0), None
        if again:
            _undo_patterns(state, images, part, still, place)
            told = shell_displaced(mean, still, place)
        if told is not None:
            found, sd = -told.numbers[:, 0], np.maximum(told.sd[:, 0], LEAST_STEP_MM)
        else:
            sd = np.full(6, IMAGE_SD * size)
            matrix, cpu_s = _registered(still, mean, affine, state.inside, search=not again)
            state.child_cpu_s += cpu_s
            # What edges ask for once they lie on each other is largely their own error: with large voxels it changes
            # sign from time to time.
            found = (AGAIN if again else 1.0) * _numbers(matrix, centre)
        state.aligned.add(k)
        in_time, variance = _in_time(state, problem.groups[unweighted].volumes, part)
        share = sd**2 / (sd**2 + variance)
        found = _without_phase(state, part, share * (in_time - found)) + found
        for v in part:
            state.motion.movement[v] = state.motion.movement[v] @ _matrix(found, centre)


def _undo_patterns(state: State, images: Float32, part: list[int], still: Float32, place: Place) -> None:
    """Undo movement that is even in g, as far as anatomy tells it surely.

    Predictions take it up as diffusion and hardly resist it, the less the fainter the images are.
    """
    if len(part) < FEWEST_FOR_EVEN:
        return
    basis = np.concatenate([np.ones((len(part), 1)), even_basis(state.problem.g[:, part])], axis=1)
    targets = np.tensordot(np.linalg.pinv(basis).astype(np.float32), images[part], axes=1)
    found = patterns_displaced(targets[1:], images[part].mean(axis=0), still, place)
    if found is None:
        return
    # Five patterns for each of six numbers: what they scatter beyond their own error is real (James and Stein).
    signal, noise = (found.numbers**2).mean(axis=1), (found.sd**2).mean(axis=1)
    trust = np.clip(1.0 - noise / np.maximum(signal, 1e-12), 0.0, 1.0)
    rows = -basis[:, 1:] @ (trust[:, None] * found.numbers).T
    for v, row in zip(part, rows - rows.mean(axis=0), strict=True):
        state.motion.movement[v] = state.motion.movement[v] @ _matrix(row, place.centre)


def _matrix(numbers: Float64, centre: Float64) -> Float64:
    """Return the movement of six numbers; see ``_numbers``."""
    turns = np.rad2deg(numbers[3:] / RADIUS_MM)
    return np.asarray(rigid_matrix(numbers[:3].tolist(), turns.tolist(), centre.tolist()))


def _registered(
    still: Float32, moving: Float32, affine: Float64, inside: Bools, *, search: bool
) -> tuple[Float64, float]:
    """Return the rigid movement from the b = 0 image to a shell's mean, and CPU seconds of processes beside this one.

    It is searched for, or else refined by edges only.
    """
    if search:
        found = register_rigid(still, affine, moving, affine, fixed_mask=inside)
        return np.eye(4) if found.flagged else found.matrix, found.cpu_s
    (f, f_affine), (m, m_affine) = (averaged(image, affine, REFINE_MM) for image in (still, moving))
    mask = averaged(inside, affine, REFINE_MM)[0] >= 0.5
    return np.asarray(refine_rigid(f, f_affine, m, m_affine, mask, np.eye(4)).matrix), 0.0


def _numbers(matrix: Float64, centre: Float64) -> Float64:
    """Return shifts in mm at the centre, and turns in mm at ``RADIUS_MM``."""
    shift, turn = rigid_parameters(matrix, centre)
    return np.array([*shift, *(np.deg2rad(turn) * RADIUS_MM)])


def _in_time(state: State, unweighted: Sequence[int], part: Sequence[int]) -> tuple[Float64, Float64]:
    """Return the change of a shell's place that neighbours in time ask for, and its variance (6 numbers, mm).

    Infinite variance where no weighted volume follows or precedes one without weighting.
    """
    movement, centre, members = state.motion.movement, state.geometry.centre, set(part)
    encodings = state.problem.encodings

    def between(first: int, second: int) -> Float64:
        return _numbers(np.linalg.inv(movement[first]) @ movement[second], centre)

    def alike(v: int, w: int) -> bool:
        return w in members and encodings[v] == encodings[w]

    pairs = [between(v, w) for v in unweighted for w in (v - 1, v + 1) if alike(v, w)]
    steps = [between(v, v + 1) for v in part if alike(v, v + 1)]
    if not pairs or len(steps) < FEWEST_STEPS:
        return np.zeros(6), np.full(6, np.inf)
    spread = 1.4826 * np.median(np.abs(steps), axis=0)
    return -np.median(pairs, axis=0), np.maximum(spread, LEAST_STEP_MM) ** 2 * (np.pi / 2) / len(pairs)


def _without_phase(state: State, part: Sequence[int], change: Float64) -> Float64:
    """Return a change without what is along the phase-encode axes of these volumes."""
    kept = change.copy()
    for axis in {state.problem.encodings[v].axis for v in part}:
        along = state.geometry.affine[:3, axis] / np.linalg.norm(state.geometry.affine[:3, axis])
        kept[:3] -= along * (along @ kept[:3])
    return kept
