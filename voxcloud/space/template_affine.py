"""Place, size and shear of a head with respect to a template's brain, whatever else is in the image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.space.affine import rigid_matrix
from voxcloud.space.registration import averaged
from voxcloud.space.sampling import Sampler

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Coarse first, from every start: it reaches tens of millimetres and degrees. The best go on, finer.
LEVELS_MM = (8.0, 4.0)
# What costs more than this times the best is given up; of those that ended in one place, one goes on.
KEPT = 1.5
SAME_MM = 2.0
# Heads lie pitched and, with neck and shoulders in the image, off its centre.
PITCH_DEG = (-20.0, 0.0, 20.0)
UP_MM = (0.0, 30.0)
# Around the brain the template is dark, as fluid and skull are: this much of it counts, scalp should not.
MARGIN_MM = 4.0
# Sizes and shears of heads (standard deviations of logarithm and tangent), against as many independent voxels. Without
# them the template's brain is sometimes stretched onto the outline of the head.
SIZE_SD, SHEAR_SD, INDEPENDENT = 0.1, 0.05, 200.0
MOST_STEPS = 30
SMALLEST_STEP = 0.01  # mm or degrees
DERIVATIVE_STEPS = np.array([0.5] * 6 + [0.005] * 6)
SMALLEST_STEPS = np.array([1.0] * 6 + [0.01] * 6) * SMALLEST_STEP


@dataclass(frozen=True, eq=False)
class TemplateAffine:
    """Where a template's points lie in an image.

    Attributes
    ----------
    matrix
        (4, 4), template mm to image mm.
    correlation
        Of template and image, on the finest grid that was used, around the template's brain.
    size
        (3,): the head's size along its principal axes, with respect to the template (singular values).
    """

    matrix: Float64
    correlation: float
    size: Float64


def place_template(
    template: npt.NDArray[Any],
    template_affine: Float64,
    mask: Bool,
    image: npt.NDArray[Any],
    affine: Float64,
    *,
    initial: npt.ArrayLike | None = None,
) -> TemplateAffine:
    """Find the affine transform (12 parameters) from a template's brain to a head that looks alike.

    Maximises the squared correlation between the template and the image over the brain and 4 mm around it, less a
    penalty for unlikely sizes and shears, by Levenberg-Marquardt from several starts. Greedy's mutual information ended
    with the brain on the scalp, or nowhere, in 7 of 8 heads with a scalp (docs/decisions/0010-normalisation.md).

    Parameters
    ----------
    template, mask
        3-D, finite: the brain on a dark ground, and where it is.
    template_affine, affine
        (4, 4), voxel to mm.
    image
        3-D, finite, of similar contrast: white matter bright, fluid dark. Skull and scalp may be in it.
    initial
        (4, 4) to start from, and from nowhere else.
    """
    starts = _starts(template, template_affine, image, affine) if initial is None else [np.asarray(initial)]
    found: list[tuple[float, Float64]] = [(0.0, np.asarray(start, dtype=np.float64)) for start in starts]
    likeness: _Likeness
    for voxel_mm in LEVELS_MM:
        likeness = _Likeness(template, template_affine, mask, image, affine, voxel_mm)
        found = sorted((likeness.descend(start) for _, start in found), key=lambda pair: pair[0])
        found = likeness.different([pair for pair in found if pair[0] <= KEPT * found[0][0]])
    matrix = found[0][1]
    return TemplateAffine(matrix, likeness.correlation(matrix), np.linalg.svd(matrix[:3, :3])[1])


def _starts(
    template: npt.NDArray[Any], template_affine: Float64, image: npt.NDArray[Any], affine: Float64
) -> list[Float64]:
    """Return the place that the headers give, and places around the centre of the image's brightness."""
    own, other = _centre(template, template_affine), _centre(image, affine)
    found = [np.eye(4)]
    for pitch, up in itertools.product(PITCH_DEG, UP_MM):
        shift = other - own + [0.0, 0.0, up]
        found.append(rigid_matrix(shift.tolist(), (pitch, 0.0, 0.0), own.tolist()))
    return found


def _centre(image: npt.NDArray[Any], affine: Float64) -> Float64:
    return np.asarray((affine @ [*ndimage.center_of_mass(np.clip(image, 0, None)), 1.0])[:3])


def _dot(a: Float64, b: Float64) -> float:
    """Return the sum of products, by one thread: in BLAS, the order of the sum depends on the number of threads."""
    return float(np.einsum("i,i->", a, b))


class _Likeness:
    """The correlation of a template with an image as a function of twelve parameters."""

    def __init__(
        self,
        template: npt.NDArray[Any],
        template_affine: Float64,
        mask: Bool,
        image: npt.NDArray[Any],
        affine: Float64,
        voxel_mm: float,
    ) -> None:
        own, grid = averaged(template, template_affine, voxel_mm)
        other, image_grid = averaged(image, affine, voxel_mm)
        size = np.sqrt((grid[:3, :3] ** 2).sum(axis=0))
        brain = averaged(mask, template_affine, voxel_mm)[0] >= 0.5
        around = ndimage.distance_transform_edt(~brain, sampling=size) <= MARGIN_MM
        own, other = (ndimage.gaussian_filter(a, 0.7) for a in (own, other))
        self._points = np.argwhere(around) @ grid[:3, :3].T + grid[:3, 3]
        self._centre = self._points.mean(axis=0)
        values = own[around].astype(np.float64)
        values -= values.mean()
        self._own = values / np.sqrt(_dot(values, values))
        self._image = Sampler([other], image_grid, order=3, outside=0.0)

    def _matrix(self, place: Float64, start: Float64) -> Float64:
        stretch = np.eye(4)
        stretch[:3, :3] = np.diag(np.exp(place[6:9]))
        stretch[0, 1], stretch[0, 2], stretch[1, 2] = place[9:]
        stretch[:3, 3] = self._centre - stretch[:3, :3] @ self._centre
        return np.asarray(
            start @ rigid_matrix(place[:3].tolist(), place[3:6].tolist(), self._centre.tolist()) @ stretch
        )

    def _seen(self, matrix: Float64) -> Float64:
        (values,) = self._image.at(self._points, matrix)
        return np.asarray(values - values.mean(dtype=np.float64), dtype=np.float64)

    def correlation(self, matrix: Float64) -> float:
        """Return the correlation; 0 where the image is constant."""
        seen = self._seen(matrix)
        size = float(np.sqrt(_dot(seen, seen)))
        return _dot(self._own, seen) / size if size > 0 else 0.0

    def _residuals(self, place: Float64, start: Float64) -> Float64:
        """Return what a linear function of the image leaves of the template, and the penalties."""
        seen = self._seen(self._matrix(place, start))
        power = _dot(seen, seen)
        # A negative relation is none: the contrast is known.
        gain = max(_dot(self._own, seen), 0.0) / power if power > 0 else 0.0
        unlikely = np.concatenate([place[6:9] / SIZE_SD, place[9:] / SHEAR_SD])
        return np.concatenate([np.sqrt(INDEPENDENT) * (self._own - gain * seen), unlikely])

    def different(self, found: list[tuple[float, Float64]]) -> list[tuple[float, Float64]]:
        """Return the first of all that lead to one place."""
        kept: list[tuple[float, Float64]] = []
        corners = np.concatenate([self._points.min(axis=0)[None], self._points.max(axis=0)[None]])
        for cost, matrix in found:
            gaps = [
                float(np.abs(corners @ (matrix - other)[:3, :3].T + (matrix - other)[:3, 3]).max()) for _, other in kept
            ]
            if not gaps or min(gaps) > SAME_MM:
                kept.append((cost, matrix))
        return kept

    def descend(self, start: Float64) -> tuple[float, Float64]:
        """Return the least cost near a start, and the matrix."""
        place, damping = np.zeros(12), 1e-2
        residual = self._residuals(place, start)
        cost = _dot(residual, residual)
        for _ in range(MOST_STEPS):
            slopes = np.stack(
                [(self._residuals(place + step, start) - residual) / step.sum() for step in np.diag(DERIVATIVE_STEPS)]
            )
            curvature = np.array([[_dot(a, b) for b in slopes] for a in slopes])
            slope = np.array([_dot(a, residual) for a in slopes])
            for _ in range(6):
                step = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature) + 1e-12), slope)
                candidate = self._residuals(place + step, start)
                if _dot(candidate, candidate) < cost:
                    break
                damping *= 10.0
            else:
                break
            place, residual, cost = place + step, candidate, _dot(candidate, candidate)
            damping = max(damping / 5.0, 1e-6)
            if (np.abs(step) < SMALLEST_STEPS).all():
                break
        return cost, self._matrix(place, start)
