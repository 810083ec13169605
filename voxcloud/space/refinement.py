"""The last tenths of a millimetre of a rigid registration: edges of both images on each other, by Gauss-Newton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.space.affine import rigid_matrix, rigid_parameters, voxel_to_voxel
from voxcloud.space.bspline import SplineImages

Float64 = npt.NDArray[np.float64]

# Gradients of Gaussian-blurred images, the coarser first: it reaches further, the finer is exact.
SIGMAS_MM = (3.0, 1.2)
POINTS = 120_000
MOST_STEPS = 20
# A step (mm and degrees) below which nothing changes any more, and the step of the numerical derivative.
SMALLEST_STEP = 1e-3
DERIVATIVE_STEP = 0.05
FIRST_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined rigid transform.

    Attributes
    ----------
    matrix
        (4, 4), mm of the fixed image to mm of the moving one.
    agreement
        Mean squared cosine between the edges of both images, 0 to 1.
    agreement_before
        The same at the start.
    """

    matrix: Float64
    agreement: float
    agreement_before: float


def refine_rigid(
    fixed: npt.NDArray[Any],
    fixed_affine: Float64,
    moving: npt.NDArray[Any],
    moving_affine: Float64,
    mask: npt.NDArray[np.bool_],
    start: Float64,
) -> Refinement:
    """Refine a rigid registration of images of any contrast by their edges.

    Minimises ``sum |n_F x n_M|^2`` over the strongest edges of the fixed image, with the normalised gradient
    ``n = g / sqrt(|g|^2 + e^2)`` of either image, e the median gradient in the mask. An edge is an edge in every
    contrast, whether the signal rises or falls across it, and smooth coil fields, which stay where they are when the
    head moves, have none: mutual information is drawn towards them by tenths of a millimetre.

    Parameters
    ----------
    fixed, moving
        3-D arrays, finite, with isotropic voxels or nearly so.
    fixed_affine, moving_affine
        (4, 4), voxel to mm.
    mask
        Voxels of the fixed image that count.
    start
        (4, 4) within a few mm and degrees of the answer.

    References
    ----------
    Haber and Modersitzki (2006), normalised gradient fields, doi:10.1007/11866763_89.
    """
    centre = (fixed_affine @ [*((n - 1) / 2.0 for n in fixed.shape), 1.0])[:3]
    place = np.concatenate(rigid_parameters(start, centre))
    at_start = place
    for sigma_mm in SIGMAS_MM:
        edges = _Edges(fixed, fixed_affine, moving, moving_affine, mask, centre, sigma_mm)
        place = _descend(edges, place)
    return Refinement(edges.matrix(place), edges.agreement(place), edges.agreement(at_start))


class _Edges:
    """Residuals between the edges of two images."""

    def __init__(
        self,
        fixed: npt.NDArray[Any],
        fixed_affine: Float64,
        moving: npt.NDArray[Any],
        moving_affine: Float64,
        mask: npt.NDArray[np.bool_],
        centre: Float64,
        sigma_mm: float,
    ) -> None:
        self._fixed_affine, self._moving_affine, self._centre = fixed_affine, moving_affine, centre
        own = _gradient(fixed, fixed_affine, sigma_mm)
        size = np.sqrt((own**2).sum(axis=0))
        known = size[mask]
        strength = np.where(mask, size, 0.0).reshape(-1)
        n = min(POINTS, known.size)
        self._points = np.sort(np.argpartition(strength, -n)[-n:])
        self._own = (own / np.sqrt(size**2 + np.median(known) ** 2)).reshape(3, -1)[:, self._points].astype(np.float64)
        other = _gradient(moving, moving_affine, sigma_mm)
        sizes = np.sqrt((other**2).sum(axis=0))
        bright = moving > np.median(moving)
        self._floor = float(np.median(sizes[bright])) if bright.any() else 1.0
        self._splines = SplineImages(list(other), self._voxels(np.eye(4)), fixed.shape, movable=True)

    def matrix(self, place: Float64) -> Float64:
        """Return the transform of six parameters: shift in mm, rotation in degrees about the centre."""
        return rigid_matrix(place[:3].tolist(), place[3:].tolist(), self._centre.tolist())

    def _voxels(self, matrix: Float64) -> Float64:
        return voxel_to_voxel(self._fixed_affine, matrix, self._moving_affine)

    def _normal(self, place: Float64) -> Float64:
        """Return the moving image's normalised gradient at the points, turned back to the fixed image's axes."""
        matrix = self.matrix(place)
        found = self._splines.moved(self._voxels(matrix)).sample(self._points).astype(np.float64)
        turned = matrix[:3, :3].T @ found
        return np.asarray(turned / np.sqrt((turned**2).sum(axis=0) + self._floor**2))

    def residuals(self, place: Float64) -> Float64:
        """Return the cross products, one after the other."""
        return np.cross(self._own, self._normal(place), axis=0).reshape(-1)

    def agreement(self, place: Float64) -> float:
        """Return the mean squared cosine, edges of no contrast counting as none."""
        return float(((self._own * self._normal(place)).sum(axis=0) ** 2).mean())


def _gradient(image: npt.NDArray[Any], affine: Float64, sigma_mm: float) -> npt.NDArray[np.float32]:
    """Return the gradient of the blurred image along the axes of space, (3, x, y, z)."""
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    along = np.stack(
        [
            ndimage.gaussian_filter(image.astype(np.float32), sigma_mm / size, order=order) / mm
            for order, mm in zip(((1, 0, 0), (0, 1, 0), (0, 0, 1)), size, strict=True)
        ]
    )
    return np.asarray(np.tensordot(affine[:3, :3] / size, along, axes=1), dtype=np.float32)


def _descend(edges: _Edges, start: Float64) -> Float64:
    """Return the parameters of least residual near a start (Levenberg-Marquardt with numerical derivatives)."""
    place, damping = start, FIRST_DAMPING
    residual = edges.residuals(place)
    value = float(residual @ residual)
    for _ in range(MOST_STEPS):
        slopes = np.stack(
            [
                (edges.residuals(place + DERIVATIVE_STEP * unit) - residual) / DERIVATIVE_STEP
                for unit in np.eye(place.size)
            ]
        )
        curvature, slope = slopes @ slopes.T, slopes @ residual
        for _ in range(6):
            step = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
            candidate = edges.residuals(place + step)
            if float(candidate @ candidate) < value:
                break
            damping *= 10.0
        else:
            return place
        place, residual, value = place + step, candidate, float(candidate @ candidate)
        damping = max(damping / 5.0, 1e-7)
        if np.abs(step).max() < SMALLEST_STEP:
            return place
    return place
