"""Deformable registration of two images after an affine one: where every point of one brain lies in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from voxcloud.errors import RegistrationError
from voxcloud.space.greedy import run_child

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Images = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]

METRIC = "NCC 2x2x2"
ITERATIONS = "100x50x10"
# Standard deviations (voxels) of the Gaussians that smooth each update and the whole velocity field.
SMOOTHING_VOX = (1.7321, 0.7071)
STEP = 1.0


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where the points of the fixed image lie in the moving one, voxel by voxel.

    A point ``x`` (mm, RAS+) of the fixed image lies at ``M (x + u(x))`` in the moving image, and a point ``y`` of the
    moving image at ``z + v(z)``, ``z = M^-1 y``, in the fixed one.

    Attributes
    ----------
    matrix
        (4, 4): M, mm of the fixed image to mm of the moving one: the affine that was given.
    displacement
        (x, y, z, 3): u in mm, RAS+, on the fixed grid.
    inverse
        (x, y, z, 3): v in mm, RAS+, on the fixed grid.
    metric
        Of the last iteration of each level, coarse to fine; its sign and size depend on the metric.
    cpu_s
        CPU seconds of the child process.
    peak_bytes
        Its largest memory.
    program
        Name and version.
    """

    matrix: Float64
    displacement: Float32
    inverse: Float32
    metric: tuple[float, ...]
    cpu_s: float
    peak_bytes: int
    program: str


def register_deformable(
    fixed: Images,
    fixed_affine: npt.ArrayLike,
    moving: Images,
    moving_affine: npt.ArrayLike,
    *,
    fixed_mask: npt.NDArray[np.bool_] | None = None,
    initial: npt.ArrayLike | None = None,
    metric: str = METRIC,
    weights: Sequence[float] | None = None,
    iterations: str = ITERATIONS,
    smoothing: tuple[float, float] = SMOOTHING_VOX,
    smoothing_unit: str = "vox",
    step: float = STEP,
) -> Deformation:
    """Find the smooth deformation between two images by a stationary velocity field (picsl-greedy, one thread).

    ``x -> M (x + u(x))`` with ``id + u = exp(w)``: the velocity field w is updated along the gradient of the metric,
    each update and then the whole field smoothed with a Gaussian. It runs in a process of its own. The same input gives
    the same result.

    Parameters
    ----------
    fixed, moving
        One or more channels each, as many of the moving image as of the fixed: 3-D, finite, channels on one grid.
    fixed_affine, moving_affine
        (4, 4), voxel to RAS+ mm; without shear.
    fixed_mask
        Voxels of the fixed image in which the images are compared; None: all.
    initial
        (4, 4) M, as ``Registration.matrix``; default: identity.
    metric
        ``"NCC 2x2x2"`` (local correlation, with its radius in voxels) or ``"SSD"``, which wants channels of comparable
        size.
    weights
        Of the channels; default: 1 each.
    iterations
        Of each level, coarse to fine, each twice as fine as the one before; the last on the fixed grid.
    smoothing, smoothing_unit
        Standard deviations of the Gaussians that smooth each update and the field, in ``vox`` of a level or in ``mm``.
    step
        Largest update of an iteration in voxels.

    Raises
    ------
    RegistrationError
        If an image cannot be used or the program failed; its last words are in the message.

    References
    ----------
    1. Yushkevich et al. (2016), greedy, doi:10.1016/j.jalz.2016.06.2038.
    2. Vercauteren et al. (2008), stationary velocity fields, doi:10.1007/978-3-540-85988-8_90.
    """
    own, other = (np.asarray(a, dtype=np.float64) for a in (fixed_affine, moving_affine))
    stills, moves = _channels("fixed", fixed, own), _channels("moving", moving, other)
    if len(stills) != len(moves):
        raise RegistrationError(
            f"registration: expected as many channels of the moving image as of the fixed, found {len(moves)} and "
            f"{len(stills)}. Leave out what only one has."
        )
    shares = [1.0] * len(stills) if weights is None else [float(w) for w in weights]
    if len(shares) != len(stills):
        raise RegistrationError(
            f"registration: expected a weight for each of {len(stills)} channels, found {len(shares)}."
        )
    moves, other = upright(moves, other)
    images = {f"fixed{i}": a for i, a in enumerate(stills)} | {f"moving{i}": a for i, a in enumerate(moves)}
    affines = {name: (own if name.startswith("fixed") else other).tolist() for name in images}
    if fixed_mask is not None:
        images["mask"], affines["mask"] = fixed_mask.astype(np.float32), own.tolist()
    matrix = np.eye(4) if initial is None else np.asarray(initial, dtype=np.float64)
    request: dict[str, Any] = {
        "deformable": True,
        "images": list(images),
        "affines": affines,
        "metric": metric,
        "weights": shares,
        "iterations": iterations,
        "smoothing": [f"{sigma:g}{smoothing_unit}" for sigma in smoothing],
        "step": step,
        "start": matrix.tolist(),
    }
    answer, warps = run_child("voxcloud.space.greedy_process", "picsl-greedy", request, images)
    return Deformation(
        matrix,
        warps["found"],
        warps["inverse"],
        tuple(answer["metric"]),
        float(answer["cpu_s"]),
        int(answer["peak_bytes"]),
        answer["program"],
    )


def upright(images: Sequence[npt.NDArray[Any]], affine: Float64) -> tuple[list[npt.NDArray[Any]], Float64]:
    """Return views with axes that run nearly right, front and top, and their affine: every voxel stays where it is.

    Image pyramids and added noise go by the order of voxels, so that a flipped storage would change a registration by
    some tenths of a millimetre.
    """
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    rows, columns = linear_sum_assignment(-np.abs(affine[:3, :3] / size))
    order = columns[np.argsort(rows)]
    turned = affine[:, [*order, 3]].copy()
    flips = np.diag(turned[:3, :3]) < 0
    arrays = [np.asarray(image).transpose(order) for image in images]
    shape = np.array(arrays[0].shape)
    turned[:3, 3] += turned[:3, :3] @ np.where(flips, shape - 1, 0)
    turned[:3, :3] *= np.where(flips, -1.0, 1.0)
    way = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return [array[way] for array in arrays], turned


def _channels(name: str, images: Images, affine: Float64) -> list[npt.NDArray[Any]]:
    arrays = [images] if isinstance(images, np.ndarray) else [np.asarray(image) for image in images]
    if not arrays or len({a.shape for a in arrays}) != 1 or arrays[0].ndim != 3:
        raise RegistrationError(
            f"{name} image: expected 3-D channels on one grid, found shapes {[a.shape for a in arrays]}. Resample them "
            "to one grid first."
        )
    for i, array in enumerate(arrays):
        if not np.isfinite(array).all():
            raise RegistrationError(
                f"{name} image, channel {i + 1}: expected finite values, found "
                f"{int(np.count_nonzero(~np.isfinite(array)))} that are not. Set unknown voxels to 0."
            )
        if not array.max() > array.min():
            raise RegistrationError(
                f"{name} image, channel {i + 1}: expected an image, found one value everywhere. Look at it."
            )
    columns = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if np.abs(columns.T @ columns - np.eye(3)).max() > 1e-3:
        raise RegistrationError(
            f"{name} image: expected axes at right angles, found an affine with shear. Resample the image to a grid "
            "without."
        )
    return arrays
