"""Gradient tables: their frame, and whether b-values and b-vectors can be what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.tensor_design import (
    LARGEST_B0,
    LEAST_DIRECTIONS,
    SAME_DIRECTION,
    SMALLEST_MAXIMUM,
    UNIT_TOLERANCE,
    GradientError,
)

Float64 = npt.NDArray[np.float64]
# b-values of one shell, sorted, follow each other within this many s/mm2 or this part of their size.
SHELL_GAP, SHELL_GAP_PART = 40.0, 0.05
# A chain of near b-values that spans more than this part of its mean is no shell.
WIDEST_SHELL = 0.2
# Above it, in s/mm2, nothing is measured in people; s/m2 are a million times larger.
LARGEST_PLAUSIBLE_B = 50_000.0
NAMED = 6  # so many volumes are named in a message
NO_B0 = "expected at least one volume without diffusion weighting"
FEW_DIRECTIONS = "directions that differ in more than their sign"


@dataclass(frozen=True)
class Shell:
    """Volumes of about the same b-value.

    Attributes
    ----------
    bval : mean, s/mm2.
    volumes : their indices.
    directions : how many differ in more than their sign.
    """

    bval: float
    volumes: tuple[int, ...]
    directions: int


@dataclass(frozen=True)
class GradientTable:
    """A gradient table that was checked.

    Attributes
    ----------
    bvals : (volume,), s/mm2.
    bvecs : (3, volume), of length exactly 1, in the frame that they were given in; 0 where b is at most 50 s/mm2.
    b0 : (volume,), true where b is at most 50 s/mm2.
    shells : those above, smallest b first.
    duplicates, antipodal : pairs of volumes of one shell with the same direction, and with opposite directions.
    notes : what is unusual but usable, one sentence or more each.
    """

    bvals: Float64
    bvecs: Float64
    b0: npt.NDArray[np.bool_]
    shells: tuple[Shell, ...]
    duplicates: tuple[tuple[int, int], ...]
    antipodal: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]


def bids_to_world(affine: npt.ArrayLike) -> Float64:
    """Return the orthogonal matrix that takes b-vectors from the frame of BIDS (and FSL) to RAS+.

    ``g_RAS = Q F g``. F negates x where ``det(affine) > 0``: BIDS counts vectors along voxel axes, the first one
    reversed unless it is stored from right to left already. Q is the orthogonal matrix nearest to the affine's columns,
    each divided by its voxel size: for affines without shear these columns themselves, whatever their order, sign and
    obliqueness.

    Parameters
    ----------
    affine : (4, 4) or (3, 3), voxel indices to RAS+ in mm.

    Raises
    ------
    GradientError
        If the affine is singular or not finite.

    References
    ----------
    1. Brain Imaging Data Structure 1.10, diffusion imaging: required gradient orientation information.
    """
    linear = np.asarray(affine, np.float64)
    if linear.shape not in ((4, 4), (3, 3)):
        raise GradientError(f"affine: expected shape (4, 4) or (3, 3), found {linear.shape}. Give the image's affine.")
    linear = linear[:3, :3]
    sizes = np.linalg.norm(linear, axis=0)
    columns = linear / np.where(sizes > 0, sizes, 1.0)
    if not np.isfinite(linear).all() or abs(np.linalg.det(columns)) < 1e-3:
        raise GradientError(
            f"affine: expected three independent voxel axes, found {linear.round(4).tolist()}. "
            "Look at the image's header (sform, qform)."
        )
    left, _, right = np.linalg.svd(columns)
    found: Float64 = left @ right
    if np.linalg.det(linear) > 0:
        found[:, 0] = -found[:, 0]
    return found


def bvecs_to_world(bvecs: npt.ArrayLike, affine: npt.ArrayLike) -> Float64:
    """Convert b-vectors from the frame of BIDS and FSL to RAS+; see ``bids_to_world``.

    Parameters
    ----------
    bvecs : (3, volume), as in a BIDS file: along voxel axes, x negated where ``det(affine) > 0``.
    affine : (4, 4), voxel indices to RAS+ in mm.

    Returns
    -------
    (3, volume), of unchanged lengths.
    """
    return bids_to_world(affine) @ _three_rows(bvecs)


def bvecs_to_bids(bvecs: npt.ArrayLike, affine: npt.ArrayLike) -> Float64:
    """Convert b-vectors (3, volume) from RAS+ to the frame of BIDS and FSL: the inverse of ``bvecs_to_world``."""
    return bids_to_world(affine).T @ _three_rows(bvecs)


def check_gradients(
    bvals: npt.ArrayLike,
    bvecs: npt.ArrayLike,
    n_volumes: int,
    *,
    unit: str = "gradient table",
    scale_by_length: bool = False,
) -> GradientTable:
    """Check a gradient table before anything is computed with it.

    Parameters
    ----------
    bvals : (volume,), s/mm2.
    bvecs : (3, volume), unit vectors in any frame; what they are where b is at most 50 s/mm2 does not matter.
    n_volumes : how many volumes the images have.
    unit : what messages begin with, such as ``sub-01_ses-1``.
    scale_by_length : take ``b |g|^2`` for the b-value, as some scanners mean it that write one b-value for all shells
        and shorten the vectors.

    Raises
    ------
    GradientError
        With every problem: other counts than volumes, values that are not in s/mm2, vectors that are not of unit
        length, no volume with b <= 50 s/mm2, fewer than six directions.
    """
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    problems = _wrong_counts(b, g, n_volumes)
    if problems:
        raise GradientError(*(f"{unit}: {problem}" for problem in problems))
    lengths = np.linalg.norm(g, axis=0)
    if scale_by_length:
        b = np.where(b > LARGEST_B0, b * np.nan_to_num(lengths) ** 2, b)
        g = np.where(lengths > 0, g / np.where(lengths > 0, lengths, 1.0), g)
        lengths = np.linalg.norm(g, axis=0)
    problems = _wrong_bvals(b)
    if not problems:
        problems = [*_wrong_lengths(b, lengths), *_no_b0(b)]
    if problems:
        raise GradientError(*(f"{unit}: {problem}" for problem in problems))
    b0 = b <= LARGEST_B0
    unit_vectors = np.where(b0, 0.0, g / np.where(b0, 1.0, lengths))
    table = _described(b, unit_vectors, b0, unit)
    directions = count_directions(unit_vectors[:, ~b0])
    if directions < LEAST_DIRECTIONS:
        raise GradientError(
            f"{unit}: expected at least {LEAST_DIRECTIONS} {FEW_DIRECTIONS} with b above {LARGEST_B0:g} s/mm2, found "
            f"{directions} in {int(np.sum(~b0))} volumes. A tensor has six elements: leave the session out of "
            "diffusion, or give all of its volumes."
        )
    return table


def count_directions(directions: npt.ArrayLike) -> int:
    """Return how many of (3, n) unit vectors differ in more than their sign (by about 0.6 degrees or more)."""
    vectors = _three_rows(directions)
    near = np.abs(vectors.T @ vectors) >= SAME_DIRECTION
    found: list[int] = []
    for i in range(near.shape[0]):
        if not near[i, found].any():
            found.append(i)
    return len(found)


def find_shells(bvals: npt.ArrayLike) -> list[npt.NDArray[np.intp]]:
    """Return the volumes of each shell above 50 s/mm2, smallest b first.

    Sorted b-values are of one shell as long as each is within 40 s/mm2 or 5 % of the one before.
    """
    b = np.asarray(bvals, np.float64)
    order = np.argsort(b, kind="stable")
    order = order[b[order] > LARGEST_B0]
    values = b[order]
    gaps = np.diff(values) > np.maximum(SHELL_GAP, SHELL_GAP_PART * values[1:])
    return [np.sort(part) for part in np.split(order, np.flatnonzero(gaps) + 1) if part.size]


def compare_shells(tables: Mapping[str, GradientTable]) -> tuple[str, ...]:
    """Say which images of one session were measured with other shells than the first.

    Parameters
    ----------
    tables : name of an image to its table.

    Returns
    -------
    One message per image that differs; empty where all agree within the tolerance of a shell.
    """
    names = list(tables)
    found = []
    for name in names[1:]:
        one, other = ([s.bval for s in tables[n].shells] for n in (names[0], name))
        same = len(one) == len(other) and all(
            abs(a - b) <= max(SHELL_GAP, SHELL_GAP_PART * a) for a, b in zip(one, other, strict=True)
        )
        if not same:
            found.append(
                f"{name}: expected the shells of {names[0]} ({_listed(one)} s/mm2), found {_listed(other)} s/mm2. MD "
                "and FA depend on b: say which images belong together, or leave one out."
            )
    return tuple(found)


def _three_rows(bvecs: npt.ArrayLike) -> Float64:
    vectors = np.asarray(bvecs, np.float64)
    if vectors.ndim != 2 or vectors.shape[0] != 3:
        raise GradientError(f"b-vectors: expected shape (3, volume), found {vectors.shape}. Transpose them.")
    return vectors


def _volumes(which: Sequence[int] | npt.NDArray[np.intp]) -> str:
    """Return indices of volumes in words, the first few of them, counted from 0."""
    names = ", ".join(str(int(i)) for i in which[:NAMED])
    return f"{names} and {len(which) - NAMED} more" if len(which) > NAMED else names


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values) if len(values) else "none"


def _wrong_counts(b: Float64, g: Float64, n_volumes: int) -> list[str]:
    if b.ndim != 1 or g.ndim != 2 or g.shape[0] != 3:
        turned = " The b-vectors are transposed." if g.ndim == 2 and g.shape[1] == 3 else ""
        return [
            f"expected b-values of shape (volume,) and b-vectors of shape (3, volume), found {b.shape} and {g.shape}."
            f"{turned} Give one vector per column."
        ]
    found = []
    if b.size != g.shape[1]:
        found.append(
            f"expected as many b-vectors as b-values, found {g.shape[1]} and {b.size}. The files belong to different "
            "images, or one was cut: convert both again from the scanner's files."
        )
    for what, n in (("b-values", b.size), ("b-vectors", g.shape[1])):
        if n == n_volumes:
            continue
        if n == n_volumes + 1:
            hint = "One volume fewer: was the last one cut off in the transfer, or a b = 0 taken out of the images?"
        elif n == n_volumes - 1:
            hint = "One volume more: did the scanner add a mean or trace image at the end?"
        else:
            hint = "Do the files belong to this image?"
        found.append(
            f"expected {n_volumes} {what}, one for each volume, found {n}. {hint} Give table and images the same "
            "volumes."
        )
    return found


def _wrong_bvals(b: Float64) -> list[str]:
    bad = np.flatnonzero(~np.isfinite(b) | (b < 0))
    if bad.size:
        return [
            f"expected finite b-values of at least 0 s/mm2, found {b[bad[0]]:g} at volume {_volumes(bad)}. "
            "Correct the table, or leave these volumes out of table and images."
        ]
    largest = float(b.max(initial=0.0))
    if largest == 0:
        return [f"expected diffusion-weighted volumes, found {b.size} with b = 0 s/mm2. Give all volumes."]
    if SMALLEST_MAXIMUM <= largest <= LARGEST_PLAUSIBLE_B:
        return []
    # Each unit that tables come in, and what turns it into s/mm2.
    for low, high, name, factor in (
        (1e-4, 0.05, "seconds per um2 (0.001 where 1000 is meant)", 1e6),
        (0.1, 50.0, "ms/um2 (1 where 1000 is meant)", 1e3),
        (1e8, 5e10, "s/m2", 1e-6),
    ):
        if low <= largest <= high:
            return [
                f"expected b-values in s/mm2, found a largest one of {largest:g}. They look as if they were in {name}: "
                f"multiply them by {factor:g}."
            ]
    return [
        f"expected b-values in s/mm2 with a largest one between {SMALLEST_MAXIMUM:g} and {LARGEST_PLAUSIBLE_B:g}, "
        f"found {largest:g}. Look at the table."
    ]


def _wrong_lengths(b: Float64, lengths: Float64) -> list[str]:
    weighted = b > LARGEST_B0
    unknown = np.flatnonzero(weighted & ~np.isfinite(lengths))
    none = np.flatnonzero(weighted & (lengths < UNIT_TOLERANCE))
    found = []
    for which, what in ((unknown, "NaN or infinite ones"), (none, "none (0, 0, 0)")):
        if which.size:
            found.append(
                f"expected a direction for each volume with b above {LARGEST_B0:g} s/mm2, found {what} with b = "
                f"{b[which[0]]:g} s/mm2 at volume {_volumes(which)}. Trace images and means have none: leave them out "
                "of table and images."
            )
    other = np.flatnonzero(weighted & (lengths >= UNIT_TOLERANCE) & (np.abs(lengths - 1) > UNIT_TOLERANCE))
    if other.size:
        found.append(
            f"expected b-vectors of length 1, found {lengths[other].min():.4g} to {lengths[other].max():.4g} at volume "
            f"{_volumes(other)}. {_meaning_of_lengths(b[weighted], lengths[weighted])}"
        )
    return found


def _meaning_of_lengths(b: Float64, lengths: Float64) -> str:
    """Say what lengths may mean: shells of one nominal b-value are the known case."""
    scaled = b * lengths**2
    shells = find_shells(scaled)
    if np.ptp(b) <= SHELL_GAP and lengths.max() <= 1 + UNIT_TOLERANCE and len(shells) < len(scaled) / LEAST_DIRECTIONS:
        values = _listed([float(scaled[part].mean()) for part in shells])
        return (
            f"All b-values are about {b.mean():.0f} s/mm2: if the scanner shortened the vectors for lower b-values, "
            f"these are b = {values} s/mm2; ask for that with scale_by_length."
        )
    return "Divide the vectors by their lengths if only their directions are meant."


def _no_b0(b: Float64) -> list[str]:
    if (b <= LARGEST_B0).any():
        return []
    return [
        f"{NO_B0} (b at most {LARGEST_B0:g} s/mm2), found b = {_listed([b.min()])} s/mm2 as the smallest of {b.size}. "
        "Add the image that was measured without: without it S0 is unknown."
    ]


def _described(b: Float64, g: Float64, b0: npt.NDArray[np.bool_], unit: str) -> GradientTable:
    shells, notes = [], []
    same: list[tuple[int, int]] = []
    opposite: list[tuple[int, int]] = []
    for part in find_shells(b):
        cosines = g[:, part].T @ g[:, part]
        for pairs, near in ((same, cosines >= SAME_DIRECTION), (opposite, cosines <= -SAME_DIRECTION)):
            pairs += [(int(part[i]), int(part[j])) for i, j in np.argwhere(np.triu(near, 1))]
        shells.append(Shell(float(b[part].mean()), tuple(map(int, part)), count_directions(g[:, part])))
        width = float(np.ptp(b[part]))
        if width > WIDEST_SHELL * b[part].mean():
            notes.append(
                f"{unit}: expected shells, found b-values spread from {b[part].min():.0f} to {b[part].max():.0f} "
                "s/mm2. They are used as they are; what needs shells will not be done."
            )
    for pairs, word in ((same, "the same direction"), (opposite, "opposite directions")):
        if pairs:
            names = ", ".join(f"{i} and {j}" for i, j in pairs[:NAMED])
            more = f" and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else ""
            notes.append(
                f"{unit}: expected different directions within a shell, found {word} in volumes {names}{more}. "
                "Repetitions are usable; if they were not meant, look at the table."
            )
    return GradientTable(b, g, b0, tuple(shells), tuple(same), tuple(opposite), tuple(notes))
