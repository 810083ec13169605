"""The design of a tensor fit: what a gradient table must be like, and its matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxcloud.errors import VoxcloudError

Float64 = npt.NDArray[np.float64]
# Below it a volume counts as one without diffusion weighting, and its vector may be anything finite. s/mm2.
LARGEST_B0 = 50.0
# b-values that are neither ms/um2 (about 1) nor s/m2 (about 1e9), in s/mm2.
SMALLEST_MAXIMUM, LARGEST_MAXIMUM = 100.0, 50_000.0
UNIT_TOLERANCE = 0.01
# Directions are one if they differ by less than about 0.6 degrees, up to their sign.
SAME_DIRECTION = 1.0 - 5e-5
LEAST_DIRECTIONS = 6
# Smallest singular value of the design over its largest. Six good directions and one b = 0 give 0.16.
LEAST_RECIPROCAL_CONDITION = 1e-4


class GradientError(VoxcloudError, ValueError):
    """A gradient table is not what a method needs."""


def tensor_design(bvals: npt.ArrayLike, bvecs: npt.ArrayLike, volumes: int) -> tuple[Float64, float]:
    """Return the design matrix of ``ln S = ln S0 - b g' D g``, and the b-value by which it is divided.

    Parameters
    ----------
    bvals : (volumes,) in s/mm2.
    bvecs : (3, volumes) unit vectors, RAS+; ignored where b is at most 50 s/mm2, except that they count with that b.
    volumes : how many there are.

    Returns
    -------
    (volumes, 7): 1, and what multiplies xx, yy, zz, xy, xz, yz of D times the b-value (s/mm2) that is returned second.

    Raises
    ------
    GradientError
        If the table has another number of volumes, values that cannot be in s/mm2, vectors that are not of unit length,
        fewer than six directions, or leaves the tensor undetermined.
    """
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    _check_table(b, g, volumes)
    weighted = b > LARGEST_B0
    _check_directions(g[:, weighted].T)
    length = np.linalg.norm(g, axis=0)
    # Volumes with a small b and no vector count as not weighted; unit lengths are made exact.
    x, y, z = g / np.where(length > UNIT_TOLERANCE, length, 1.0)
    largest = float(b.max())
    scaled = b / largest
    design = np.stack(
        [
            np.ones_like(b),
            *(-scaled * term for term in (x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z)),
        ],
        axis=1,
    )
    singular = np.linalg.svd(design, compute_uv=False)
    if len(singular) < design.shape[1] or singular[-1] < LEAST_RECIPROCAL_CONDITION * singular[0]:
        shells = ", ".join(f"{value:g}" for value in np.unique(np.round(b, -1)))
        raise GradientError(
            f"fit_tensor: expected b-values and directions that determine S0 and six elements of a tensor, found "
            f"{len(b)} volumes with b = {shells} s/mm2 whose design has "
            f"{int(np.sum(singular >= LEAST_RECIPROCAL_CONDITION * singular[0]))} independent columns of 7. "
            "Add a volume with b = 0, or directions that do not lie in a plane or on a cone."
        )
    return design, largest


def _check_table(b: Float64, g: Float64, volumes: int) -> None:
    if b.shape != (volumes,) or g.shape != (3, volumes):
        raise GradientError(
            f"fit_tensor: expected {volumes} b-values and b-vectors of shape (3, {volumes}), one for each volume, "
            f"found shapes {b.shape} and {g.shape}. Look whether a volume was removed, or the b-vectors are transposed."
        )
    if not np.isfinite(b).all() or not np.isfinite(g).all() or (b < 0).any():
        raise GradientError(
            "fit_tensor: expected finite b-vectors and finite b-values of at least 0 s/mm2, found others. "
            "Correct the table, or leave these volumes out."
        )
    if (b <= LARGEST_B0).all() and b.max() == 0:
        raise GradientError(
            f"fit_tensor: expected diffusion-weighted volumes, found {volumes} with b = 0 s/mm2. Give all volumes."
        )
    if not SMALLEST_MAXIMUM <= b.max() <= LARGEST_MAXIMUM:
        hint = "If they are in ms/um2, multiply them by 1000." if b.max() < SMALLEST_MAXIMUM else "Are they in s/m2?"
        raise GradientError(
            f"fit_tensor: expected b-values in s/mm2 with a largest one between {SMALLEST_MAXIMUM:g} and "
            f"{LARGEST_MAXIMUM:g}, found {b.max():g}. {hint}"
        )
    length = np.linalg.norm(g, axis=0)
    wrong = np.flatnonzero((b > LARGEST_B0) & (np.abs(length - 1) > UNIT_TOLERANCE))
    if wrong.size:
        raise GradientError(
            f"fit_tensor: expected b-vectors of length 1 where b is above {LARGEST_B0:g} s/mm2, found "
            f"{length[wrong[0]]:.4g} at volume {wrong[0]} and {wrong.size} such in all. Divide them by their length, "
            "or scale b by its square if that is what the scanner meant."
        )


def _check_directions(directions: Float64) -> None:
    """Count directions up to their sign."""
    found: list[Float64] = []
    for direction in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        if all(abs(float(direction @ other)) < SAME_DIRECTION for other in found):
            found.append(direction)
    if len(found) < LEAST_DIRECTIONS:
        raise GradientError(
            f"fit_tensor: expected at least {LEAST_DIRECTIONS} directions with b above {LARGEST_B0:g} s/mm2 that "
            f"differ in more than their sign, found {len(found)}. A tensor has six elements: measure more directions."
        )
