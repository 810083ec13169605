"""Wrong signs and axes of b-vectors, seen from the images themselves: along a fibre there is more of the same fibre."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.fibre_continuity_kernel import add_up
from voxcloud.dwi.gradients import bids_to_world
from voxcloud.errors import ImageError

Float64 = npt.NDArray[np.float64]
AXES = "xyz"
# FA at which a voxel begins to count, and from which it counts in full; above the last it is noise, not tissue.
FIRST_FA, FULL_FA, LAST_FA = 0.2, 0.5, 0.95
REACH = 2  # voxels along each axis
# Blocks whose sums are taken to be independent, in mm: longer than fibres keep their direction by chance.
BLOCK_MM = 16.0
# How many standard errors the best frame must be ahead of the next.
CLEAR = 3.0
FEWEST_VOXELS, FEWEST_BLOCKS = 200, 8


class Verdict(StrEnum):
    """What the images say about the frame of b-vectors."""

    RIGHT = "right"
    WRONG = "wrong"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class FrameCheck:
    """Whether b-vectors are in the frame that they are taken to be in.

    Attributes
    ----------
    verdict : ``right`` or ``wrong`` if one frame is ahead of all others by three standard errors, else ``unclear``.
    candidates : (24, 3, 3), matrices that could be applied to b-vectors in the frame of BIDS, the first one as given.
        The other 24 of 48 are these times -1, which no diffusion image can tell apart.
    continuity : (24,), of what leaves voxels along their fibres, the part that meets the same fibre, 0 to 1.
    best : which candidate has most of it.
    lead : by how many standard errors (jackknife over blocks of 16 mm) the best is ahead of the next.
    ratio_to_next, ratio_to_given : continuity of the best over that of the next best, and of the table as given.
    voxels : how many voxels with FA above 0.2 were used.
    message : the verdict in words and what to do.
    """

    verdict: Verdict
    candidates: Float64
    continuity: Float64
    best: int
    lead: float
    ratio_to_next: float
    ratio_to_given: float
    voxels: int
    message: str

    @property
    def correction(self) -> Float64:
        """(3, 3) matrix to apply to b-vectors as given, in the frame of BIDS, to have the best frame."""
        found: Float64 = self.candidates[self.best]
        return found


def frames() -> Float64:
    """Return (24, 3, 3): permutations of axes with signs, determinant 1; the identity first.

    The 48 signed permutations are these and these times -1. As ``g' D g`` is even in g, each pair is one and the same
    table.
    """
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.array(found)


def check_frame(
    direction: npt.ArrayLike,
    fa: npt.ArrayLike,
    affine: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    unit: str = "b-vectors",
) -> FrameCheck:
    """Find the permutation and signs of b-vectors under which fibres go on from voxel to voxel.

    A table wrong by an orthogonal P, ``g = P g_true``, fits ``D = P D_true P'``: ``g' D g`` stays what it is. FA is
    untouched and principal directions are turned by P. So one fit serves all candidates C, which turn directions back:
    v = C v_fitted. With w rising from 0 at FA 0.2 to 1 at FA 0.5, and r the unit vectors to the neighbours j of voxel i
    within two voxels,

    ``continuity(C) = sum w_i w_j (r.v_i)^4 (r.v_j)^4 / sum w_i^2 (r.v_i)^8``

    that is, of what leaves voxels along their fibres, the part that meets the same fibre. Inside a bundle of straight
    fibres it is 1 for every candidate; at the bundle's sides, where tissue ends across fibres and goes on along them,
    and where fibres bend, only the right one has it. Fibres that all run along one voxel axis, or in one plane spanned
    by two, leave some candidates alike: the verdict is then ``unclear``.

    Parameters
    ----------
    direction : (3, x, y, z), principal directions in RAS+, of a fit with the given table converted to RAS+
        (``bvecs_to_world``).
    fa : (x, y, z), fractional anisotropy; NaN counts as 0.
    affine : (4, 4), voxel indices to RAS+ in mm.
    mask : (x, y, z), true in the brain; everywhere if None. Background outside it is noise with high FA.
    unit : what the message begins with, such as ``sub-01_ses-1``.

    Raises
    ------
    ImageError
        If shapes do not fit.
    GradientError
        If the affine is singular.

    References
    ----------
    1. Jeurissen et al. (2014), whole-brain fibre length as the measure, doi:10.1016/j.media.2014.05.012.
    2. Schilling et al. (2019), fibre coherence between neighbours, doi:10.1016/j.mri.2018.12.005.
    """
    to_world = bids_to_world(affine)
    vectors, weight = _checked(direction, fa, mask, unit)
    candidates = frames()
    voxels = int(np.count_nonzero(weight))
    # Along the axes of BIDS: there the candidates are permutations, and neighbours differ by a sign of x at most.
    vectors = np.ascontiguousarray(np.moveaxis(np.tensordot(to_world.T, vectors, 1), 0, -1))
    offsets, units = _neighbours(np.asarray(affine, np.float64)[:3, :3], to_world)
    sizes = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    side = np.maximum(np.round(BLOCK_MM / sizes), 1).astype(np.int64)
    counts = -(-np.array(weight.shape) // side)
    met, sent = np.zeros((2, int(np.prod(counts)), len(candidates)))
    # Turning r back by C is turning v by C.
    turned = np.ascontiguousarray(np.einsum("cji,kj->kci", candidates, units))
    add_up(vectors, weight, offsets, turned, side, counts, met, sent)
    used = sent[:, 0] > 0
    return _judged(candidates, met[used], sent[used], voxels, to_world, unit)


def _checked(
    direction: npt.ArrayLike, fa: npt.ArrayLike, mask: npt.ArrayLike | None, unit: str
) -> tuple[Float64, Float64]:
    """Return directions and weights; what is not finite weighs nothing."""
    vectors, anisotropy = np.asarray(direction, np.float64), np.asarray(fa, np.float64)
    inside = np.ones(anisotropy.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if anisotropy.ndim != 3 or vectors.shape != (3, *anisotropy.shape) or inside.shape != anisotropy.shape:
        raise ImageError(
            f"{unit}: expected FA of shape (x, y, z), directions of (3, x, y, z) and a mask like FA, found "
            f"{anisotropy.shape}, {vectors.shape} and {inside.shape}. Give maps of one tensor fit."
        )
    inside &= np.isfinite(anisotropy) & np.isfinite(vectors).all(axis=0) & (anisotropy <= LAST_FA)
    weight = np.clip((np.nan_to_num(anisotropy) - FIRST_FA) / (FULL_FA - FIRST_FA), 0.0, 1.0)
    return np.where(inside, vectors, 0.0), np.ascontiguousarray(np.where(inside, weight, 0.0))


def _neighbours(linear: Float64, to_world: Float64) -> tuple[npt.NDArray[np.int64], Float64]:
    """Return steps in voxels, one for each way to see out of a cube, and unit vectors along the axes of BIDS."""
    steps = range(-REACH, REACH + 1)
    offsets = np.array([o for o in itertools.product(steps, repeat=3) if np.gcd.reduce(o) == 1], np.int64)
    units = offsets @ (to_world.T @ linear).T
    return offsets, units / np.linalg.norm(units, axis=1, keepdims=True)


def _judged(candidates: Float64, met: Float64, sent: Float64, voxels: int, to_world: Float64, unit: str) -> FrameCheck:
    blocks = len(met)
    if voxels < FEWEST_VOXELS or blocks < FEWEST_BLOCKS:
        message = (
            f"{unit}: expected at least {FEWEST_VOXELS} voxels with FA above {FIRST_FA:g} in {FEWEST_BLOCKS} blocks of "
            f"{BLOCK_MM:g} mm to see the frame of the b-vectors, found {voxels} in {blocks}. The frame was not "
            "checked: look at the colour map, or give the whole brain."
        )
        nothing = np.full(len(candidates), np.nan)
        return FrameCheck(Verdict.UNCLEAR, candidates, nothing, 0, 0.0, 1.0, 1.0, voxels, message)
    continuity = met.sum(axis=0) / sent.sum(axis=0)
    order = np.argsort(-continuity, kind="stable")
    best, following = int(order[0]), int(order[1])
    others = (met.sum(axis=0) - met) / (sent.sum(axis=0) - sent)  # each block left out once
    ahead = others[:, [best]] - np.delete(others, best, axis=1)
    error = np.sqrt((blocks - 1) * ahead.var(axis=0))
    gap = continuity[best] - np.delete(continuity, best)
    # Two candidates that no image of these fibres could tell apart differ by rounding errors only.
    leads = np.where(gap > 1e-9, gap / np.maximum(error, 1e-300), 0.0)
    lead = float(leads.min())
    clear = lead >= CLEAR
    verdict = Verdict.UNCLEAR if not clear else Verdict.RIGHT if best == 0 else Verdict.WRONG
    ratios = continuity[best] / continuity[[following, 0]]
    numbers = (
        f"fibres go on for {continuity[best]:.3f} of their way, {continuity[following]:.3f} in the next best frame and "
        f"{continuity[0]:.3f} as given; lead {lead:.1f} standard errors"
    )
    return FrameCheck(
        verdict=verdict,
        candidates=candidates,
        continuity=continuity,
        best=best,
        lead=lead,
        ratio_to_next=float(ratios[0]),
        ratio_to_given=float(ratios[1]),
        voxels=voxels,
        message=_message(verdict, candidates[best], numbers, to_world, unit),
    )


def _message(verdict: Verdict, correction: Float64, numbers: str, to_world: Float64, unit: str) -> str:
    if verdict is Verdict.RIGHT:
        return f"{unit}: the frame of the b-vectors fits the images ({numbers})."
    if verdict is Verdict.UNCLEAR:
        return (
            f"{unit}: expected one frame of the b-vectors ahead of all others by {CLEAR:g} standard errors, found none "
            f"({numbers}). Look at the colour map: left-right red, front-back green, up-down blue."
        )
    wrong = correction.T
    cause, cure = _explained(wrong, to_world)
    cure = cure or f"write the b-vectors' rows as {_rows(correction)}"
    return (
        f"{unit}: expected b-vectors in the frame of BIDS (voxel axes, x negated where the affine's determinant is "
        f"positive), found that {describe_frame(wrong)}{cause} ({numbers}). Convert the scanner's files again, or "
        f"{cure}."
    )


def describe_frame(matrix: npt.ArrayLike) -> str:
    """Say in words what a signed permutation does to b-vectors: ``x is negated``; up to the sign of all of them."""
    signed = np.asarray(matrix, np.float64)
    if np.sum(signed < 0) > np.sum(signed > 0):
        signed = -signed
    order, signs = np.argmax(np.abs(signed), axis=1), signed.sum(axis=1)
    moved = [i for i in range(3) if order[i] != i]
    negated = [AXES[i] for i in range(3) if signs[i] < 0]
    if not moved:
        return f"{negated[0]} is negated" if negated else "nothing is changed"
    if len(moved) == 2:
        words = f"{AXES[moved[0]]} and {AXES[moved[1]]} are exchanged"
    else:
        words = "x, y and z hold " + ", ".join(AXES[i] for i in order)
    return f"{words} and {negated[0]} is negated" if negated else words


def _rows(matrix: Float64) -> str:
    """Say which rows make the corrected table: ``-x, y, z``."""
    signed = -matrix if np.sum(matrix < 0) > np.sum(matrix > 0) else matrix
    return ", ".join(("-" if row.sum() < 0 else "") + AXES[int(np.argmax(np.abs(row)))] for row in signed)


def _explained(wrong: Float64, to_world: Float64) -> tuple[str, str]:
    """Say which known mistake turns b-vectors by this matrix for an image with this affine, and what mends it.

    Empty where none does, or where exchanging and negating rows mends it all the same.
    """
    flip = np.diag([-1.0, 1.0, 1.0])
    known = (
        (to_world, "they look as if they were in RAS+ and not in the BIDS frame"),
        (np.diag([-1.0, -1.0, 1.0]) @ to_world, "they look as if they were in LPS+ (DICOM) and not in the BIDS frame"),
        (
            flip,
            "they look as if they were along voxel axes with x not reversed where BIDS reverses it, or reversed where "
            "it does not",
        ),
    )
    for matrix, words in known:
        nearest = _nearest_frame(matrix)
        if np.allclose(nearest, wrong) or np.allclose(nearest, -wrong):
            # An oblique image: what is left after exchanging and negating is a rotation by its obliqueness.
            oblique = not np.allclose(nearest, matrix, atol=1e-3)
            return ": " + words, "turn them by the image's affine, to the last degree" if oblique else ""
    return "", ""


def _nearest_frame(matrix: Float64) -> Float64:
    """Return the signed permutation nearest to an orthogonal matrix, up to its sign."""
    candidates = frames()
    overlaps: npt.NDArray[Any] = np.einsum("cij,ij->c", candidates, matrix)
    best = int(np.argmax(np.abs(overlaps)))
    found: Float64 = candidates[best] * np.sign(overlaps[best])
    return found
