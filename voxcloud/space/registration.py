"""Rigid and affine registration of two images of any contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import RegistrationError
from voxcloud.space.affine import displacement_mm, rigid_parameters
from voxcloud.space.greedy import run_greedy
from voxcloud.space.refinement import refine_rigid
from voxcloud.space.relation import align_by_relation, mutual_information

Float64 = npt.NDArray[np.float64]
Metric = Literal["NMI", "MI", "SSD", "NCC 4x4x4"]

# Images are averaged to about these voxel sizes first: the search needs no more, and what it leaves, a few tenths of a
# millimetre, the refinement takes away (docs/decisions/0008-registration.md).
SEARCH_MM = 4.0
REFINE_MM = 2.0
RIGID_ITERATIONS = "100x60"
AFFINE_ITERATIONS = "100x100x60"
# Samples off the voxel grid by this part of a voxel: on it, interpolation is best and the search stays where it starts.
JITTER = 0.5
# A head in a scanner's coil cannot move further; what does was not found.
MOST_MM = 40.0
MOST_DEG = 40.0


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the points of one image lie in another.

    Attributes
    ----------
    matrix
        (4, 4): a point of the fixed image (mm, RAS+) to the same point of the head in the moving one.
    translation_mm, rotation_deg
        (3,) of the rigid part, about the centre of the fixed image: how the head moved.
    displacement_mm, displacement_max_mm
        Mean and largest distance that voxels of the fixed mask (of the whole grid, if none) moved.
    agreement
        Rigid: mean squared cosine between the edges of both images, 0 to 1 (``refine_rigid``); NaN for affine.
    cpu_s
        CPU seconds of the child process.
    program
        Name and version.
    flagged
        Why the result cannot be right; empty if nothing speaks against it.
    """

    matrix: Float64
    translation_mm: Float64
    rotation_deg: Float64
    displacement_mm: float
    displacement_max_mm: float
    agreement: float
    cpu_s: float
    program: str
    flagged: str = ""


def register_rigid(
    fixed: npt.NDArray[Any],
    fixed_affine: npt.ArrayLike,
    moving: npt.NDArray[Any],
    moving_affine: npt.ArrayLike,
    *,
    fixed_mask: npt.NDArray[np.bool_] | None = None,
    initial: npt.ArrayLike | None = None,
) -> Registration:
    """Find the rigid movement between two images of one head, which may have different contrasts.

    Normalised mutual information from the position that the headers give (picsl-greedy, a process of its own with one
    thread), then the edges of both images by Gauss-Newton in this process. The same input gives the same result.

    Parameters
    ----------
    fixed, moving
        3-D arrays, finite.
    fixed_affine, moving_affine
        (4, 4), voxel to RAS+ mm.
    fixed_mask
        Voxels of the fixed image that count; None: all.
    initial
        (4, 4) to start from; default: identity.

    Raises
    ------
    RegistrationError
        If an image cannot be used or the program failed; its last words are in the message.

    References
    ----------
    1. Yushkevich et al. (2016), greedy, doi:10.1016/j.jalz.2016.06.2038.
    2. Haber and Modersitzki (2006), normalised gradient fields, doi:10.1007/11866763_89.
    """
    own, other = _checked(fixed, fixed_affine, moving, moving_affine)
    answer = _search(fixed, own, moving, other, fixed_mask, initial, 6, "NMI", SEARCH_MM, RIGID_ITERATIONS)
    (f, f_affine), (m, m_affine) = averaged(fixed, own, REFINE_MM), averaged(moving, other, REFINE_MM)
    everywhere = np.ones(fixed.shape, dtype=bool)
    counted = everywhere if fixed_mask is None else fixed_mask
    likeness = _Likeness(fixed, own, moving, other, counted, np.eye(4) if initial is None else np.asarray(initial))
    mask = averaged(counted, own, REFINE_MM)[0] >= 0.5
    found = refine_rigid(f, f_affine, m, m_affine, mask, likeness.checked(np.asarray(answer["matrix"])))
    result = _result(found.matrix, found.agreement, answer, own, fixed, fixed_mask, initial)
    return result if result.flagged else replace(result, flagged=likeness.doubt(found.matrix))


class _Likeness:
    """Whether a movement makes two images more alike than they were where it started.

    The search of greedy now and then leaps tens of millimetres away from a start that was nearly right, and ends there
    with less mutual information than it began with.
    """

    def __init__(
        self,
        fixed: npt.NDArray[Any],
        fixed_affine: Float64,
        moving: npt.NDArray[Any],
        moving_affine: Float64,
        mask: npt.NDArray[np.bool_],
        start: npt.NDArray[Any],
    ) -> None:
        still, moves = averaged(fixed, fixed_affine, SEARCH_MM), averaged(moving, moving_affine, SEARCH_MM)
        share, _ = averaged(mask, fixed_affine, SEARCH_MM)
        self._images = (*still, *moves, share >= 0.5)
        # Coarser images than the search's own grid stay as they are, and so does what interpolation can tell.
        sizes = [np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).max() for _, affine in (still, moves)]
        self._voxel_mm = max(SEARCH_MM, *(float(size) for size in sizes))
        self._start = np.asarray(start, dtype=np.float64)
        self._at_start = self._of(self._start)

    def _of(self, matrix: Float64) -> float:
        return mutual_information(*self._images, matrix)

    def _lost(self, matrix: Float64) -> bool:
        """Whether it is far from the start and less alike; nearer than a voxel, interpolation alone decides that."""
        if not np.isfinite(matrix).all():
            return True
        _, affine, _, _, mask = self._images
        moved, _ = displacement_mm(matrix @ np.linalg.inv(self._start), self._start @ affine, mask.shape, mask)
        return not (moved <= self._voxel_mm or self._of(matrix) > self._at_start)

    def checked(self, matrix: Float64) -> Float64:
        """Return what the search found, or what the relation of intensities finds where the search got lost."""
        if not self._lost(matrix):
            return matrix
        return align_by_relation(*self._images, self._start)

    def doubt(self, matrix: Float64) -> str:
        """Say why a result cannot be right; empty if nothing speaks against it."""
        if not self._lost(matrix):
            return ""
        return (
            f"expected images that are more alike after registration, found a mutual information of "
            f"{self._of(matrix):.4f} against {self._at_start:.4f} before: the registration failed, or the images are "
            "of two heads. Look at both."
        )


def register_affine(
    fixed: npt.NDArray[Any],
    fixed_affine: npt.ArrayLike,
    moving: npt.NDArray[Any],
    moving_affine: npt.ArrayLike,
    *,
    metric: Metric = "NMI",
    fixed_mask: npt.NDArray[np.bool_] | None = None,
    initial: npt.ArrayLike | None = None,
    working_mm: float = SEARCH_MM,
) -> Registration:
    """Find the affine transform (12 parameters) between two images, on grids of about ``working_mm``.

    See ``register_rigid``; there is no refinement, because two heads have no common edges.
    """
    own, other = _checked(fixed, fixed_affine, moving, moving_affine)
    answer = _search(fixed, own, moving, other, fixed_mask, initial, 12, metric, working_mm, AFFINE_ITERATIONS)
    return _result(np.asarray(answer["matrix"]), math.nan, answer, own, fixed, fixed_mask, initial)


def _search(
    fixed: npt.NDArray[Any],
    fixed_affine: Float64,
    moving: npt.NDArray[Any],
    moving_affine: Float64,
    mask: npt.NDArray[np.bool_] | None,
    initial: npt.ArrayLike | None,
    dof: Literal[6, 12],
    metric: Metric,
    working_mm: float,
    iterations: str,
) -> dict[str, Any]:
    images, affines = {}, {}
    for name, array, affine in (("fixed", fixed, fixed_affine), ("moving", moving, moving_affine)):
        images[name], affines[name] = averaged(array, affine, working_mm)
    if mask is not None:
        share, affines["mask"] = averaged(mask, fixed_affine, working_mm)
        images["mask"] = (share >= 0.5).astype(np.float32)
    request: dict[str, Any] = {
        "images": list(images),
        "affines": {name: affine.tolist() for name, affine in affines.items()},
        "dof": dof,
        "metric": metric,
        "iterations": iterations,
        "jitter": JITTER,
    }
    if initial is not None:
        request["start"] = np.asarray(initial, dtype=np.float64).tolist()
    return run_greedy(request, images)


def _checked(
    fixed: npt.NDArray[Any], fixed_affine: npt.ArrayLike, moving: npt.NDArray[Any], moving_affine: npt.ArrayLike
) -> tuple[Float64, Float64]:
    own, other = (np.asarray(a, dtype=np.float64) for a in (fixed_affine, moving_affine))
    for name, array, affine in (("fixed", fixed, own), ("moving", moving, other)):
        columns = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if array.ndim != 3 or not np.isfinite(array).all():
            raise RegistrationError(
                f"{name} image: expected a finite 3-D image, found shape {array.shape} with "
                f"{int(np.count_nonzero(~np.isfinite(array)))} values that are not finite. Set unknown voxels to 0."
            )
        if np.abs(columns.T @ columns - np.eye(3)).max() > 1e-3:
            raise RegistrationError(
                f"{name} image: expected axes at right angles, found an affine with shear. Resample the image to a "
                "grid without."
            )
        if not array.max() > array.min():
            raise RegistrationError(f"{name} image: expected an image, found one value everywhere. Look at the file.")
    return own, other


def averaged(image: npt.NDArray[Any], affine: Float64, working_mm: float) -> tuple[npt.NDArray[np.float32], Float64]:
    """Return block means of about a voxel size, and their affine; a coarser image comes back as it is."""
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    step = np.minimum(np.maximum(np.rint(working_mm / size).astype(int), 1), image.shape)
    cut = image[tuple(slice(0, n - n % k) for n, k in zip(image.shape, step, strict=True))]
    x, y, z = (n // k for n, k in zip(cut.shape, step, strict=True))
    means = np.zeros((x, y, z), np.float32)
    for i in np.ndindex(*step.tolist()):
        means += cut[tuple(slice(start, None, k) for start, k in zip(i, step, strict=True))]
    means /= np.float32(np.prod(step))
    to_fine = np.diag([*step.astype(float), 1.0])
    to_fine[:3, 3] = (step - 1) / 2.0
    return means, affine @ to_fine


def _result(
    matrix: Float64,
    agreement: float,
    answer: dict[str, Any],
    affine: Float64,
    fixed: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None,
    initial: npt.ArrayLike | None,
) -> Registration:
    centre = (affine @ [*((n - 1) / 2.0 for n in fixed.shape), 1.0])[:3]
    translation, rotation = rigid_parameters(matrix, centre)
    mean, largest = displacement_mm(matrix, affine, fixed.shape, mask)
    since = matrix if initial is None else matrix @ np.linalg.inv(np.asarray(initial, dtype=np.float64))
    moved, turned = rigid_parameters(since, centre)
    distance, angle = float(np.linalg.norm(moved)), float(np.abs(turned).max())
    flagged = ""
    if not (distance <= MOST_MM and angle <= MOST_DEG):  # NaN too
        flagged = (
            f"expected a movement of at most {MOST_MM:g} mm and {MOST_DEG:g} degrees, found {distance:.1f} mm and "
            f"{angle:.1f} degrees: the registration failed, or the images are of two heads. Look at both."
        )
    return Registration(
        matrix, translation, rotation, mean, largest, agreement, float(answer["cpu_s"]), answer["program"], flagged
    )
