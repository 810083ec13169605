"""Images read at any points, through any chain of transforms, once: what is resampled twice is blurred twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space import sampling_kernels as kernels
from voxcloud.space.bspline import check_transform, spline_coefficients

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Order = Literal[1, 3]

# Images that are read together: more would gain little, and each number of images is compiled by itself.
TOGETHER = 4
# Points in flight while whole grids are resampled, in mm as float64: 24 bytes each.
POINTS_AT_ONCE = 1 << 20


class Sampler:
    """Images on one grid, to be read at points in mm.

    Cubic B-splines through the samples (mirrored about the first and the last of each line), or trilinear. A NaN means
    unknown: it is filled from the nearest known voxel before the spline is fitted, and what is read is NaN where known
    voxels have less than half of the trilinear weight. On a sample the sample itself is returned, bit for bit.

    Parameters
    ----------
    images
        3-D, of one shape. 4 bytes per voxel are kept beside the images, which are kept too.
    affine
        (4, 4), voxel to RAS+ mm.
    order
        3 (cubic) or 1 (trilinear).
    outside
        Value beyond the centres of the outermost voxels.

    Raises
    ------
    ImageError
        If shapes differ, a value is infinite, or an image knows nothing.

    References
    ----------
    Unser (1999), doi:10.1109/79.799930.
    """

    def __init__(
        self,
        images: Sequence[npt.ArrayLike],
        affine: npt.ArrayLike,
        *,
        order: Order = 3,
        outside: float = np.nan,
    ) -> None:
        arrays = [np.asarray(image) for image in images]
        _check_shapes(arrays)
        # The axis that is slowest in memory comes first within.
        flip = all(a.flags.f_contiguous for a in arrays) and not all(a.flags.c_contiguous for a in arrays)
        self._arrays = [a.T for a in arrays] if flip else arrays
        self._size = tuple(int(n) for n in self._arrays[0].shape)
        self._voxel_mm = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))[:: -1 if flip else 1]
        back = np.linalg.inv(check_transform(affine))
        self._matrix = back[[2, 1, 0, 3]] if flip else back
        self._order, self._outside = order, np.float32(outside)
        self._groups = [self._prepared(self._arrays[i : i + TOGETHER]) for i in range(0, len(arrays), TOGETHER)]

    def _prepared(self, arrays: list[npt.NDArray[Any]]) -> tuple[Float32, tuple[int, ...], npt.NDArray[np.uint8]]:
        """Return what the kernels read of a few images: coefficients or values, their axes, and what is known."""
        unknown = [np.isnan(a) for a in arrays]
        some = any(bool(u.any()) for u in unknown)
        known = np.zeros((arrays[0].size if some else 0, 1), np.uint8)
        filled: list[npt.NDArray[Any]] = []
        nearest, of = None, None
        for e, (array, gap) in enumerate(zip(arrays, unknown, strict=True)):
            if some:
                known[:, 0] |= (~gap).reshape(-1).astype(np.uint8) << np.uint8(e)
            if not gap.any():
                filled.append(array)
                continue
            if gap.all():
                raise ImageError(
                    f"image {e + 1}: expected at least one known voxel, found NaN only. Look at the image."
                )
            if nearest is None or of is None or not np.array_equal(of, gap):
                of = gap
                nearest = ndimage.distance_transform_edt(
                    gap, sampling=self._voxel_mm, return_distances=False, return_indices=True
                )
            filled.append(array[tuple(nearest)])
        if self._order == 1:
            return np.stack([f.reshape(-1) for f in filled], axis=-1).astype(np.float32), self._size, known
        coefficients, padded, _ = spline_coefficients(filled)
        return coefficients[:, None], padded, known

    def at(self, points_mm: npt.NDArray[np.floating[Any]], matrix: npt.ArrayLike | None = None) -> list[Float32]:
        """Return the images' values at points, or at what a transform makes of them.

        Parameters
        ----------
        points_mm : (..., 3), RAS+ mm; float64, or float32 where 1e-5 of a voxel does not matter.
        matrix : (4, 4), mm to mm; None: none.

        Returns
        -------
        list of (...) float32, one for each image
        """
        shape = points_mm.shape[:-1]
        points = np.ascontiguousarray(points_mm).reshape(-1, 3)
        way = self._matrix if matrix is None else self._matrix @ check_transform(matrix)
        to_voxel = np.ascontiguousarray(way[:3])
        found: list[Float32] = []
        for first, (coefficients, padded, known) in zip(
            range(0, len(self._arrays), TOGETHER), self._groups, strict=True
        ):
            arrays = self._arrays[first : first + TOGETHER]
            lanes = (np.float32(0.0),) * len(arrays)
            out = np.empty((len(arrays), len(points)), np.float32)
            source = np.empty(len(points), np.int64)
            if kernels.read(
                coefficients,
                padded,
                self._size,
                lanes,
                self._order == 3,
                known,
                to_voxel,
                points,
                self._outside,
                out,
                source,
            ):
                on = np.flatnonzero(source >= 0)
                for values, array in zip(out, arrays, strict=True):
                    values[on] = array.reshape(-1)[source[on]]
            found += [values.reshape(shape) for values in out]
        return found


def sample(
    images: Sequence[npt.ArrayLike],
    affine: npt.ArrayLike,
    points_mm: npt.NDArray[np.floating[Any]],
    *,
    order: Order = 3,
    outside: float = np.nan,
) -> list[Float32]:
    """Return the values of images of one grid at points (..., 3) in mm; see ``Sampler``.

    Raises
    ------
    ImageError
        If shapes differ, a value is infinite, or an image knows nothing.
    """
    return Sampler(images, affine, order=order, outside=outside).at(points_mm)


def compose(
    affine: npt.ArrayLike,
    shape: Sequence[int],
    matrices: Sequence[npt.ArrayLike] = (),
    *,
    displacement: npt.NDArray[np.floating[Any]] | None = None,
    displacement_affine: npt.ArrayLike | None = None,
    planes: slice = slice(None),
) -> Float64:
    """Return where the voxels of a grid lie after a displacement and matrices: ``M_n ... M_1 (x + u(x))`` in mm.

    Parameters
    ----------
    affine, shape
        Of the grid: (4, 4) voxel to mm, and three numbers of voxels.
    matrices
        (4, 4) each, in the order in which they act, mm to mm.
    displacement
        (x, y, z, 3) in mm, acting first; None: none.
    displacement_affine
        (4, 4) of the displacement's grid; None: it is on the grid itself. On another grid it is read trilinearly, and
        beyond it that of its nearest voxel counts.
    planes
        Voxels along x, to keep memory low.

    Returns
    -------
    (planes, y, z, 3) float64

    Raises
    ------
    ImageError
        If a matrix is no affine transform, or a displacement is on another grid than it should be.
    """
    to_mm = check_transform(affine)
    matrix = np.eye(4)
    for step in matrices:
        matrix = check_transform(step) @ matrix
    nx, ny, nz = (int(n) for n in shape)
    start, stop, stride = planes.indices(nx)
    if stride != 1:
        raise ImageError(f"compose: expected planes in a row, found steps of {stride}. Ask for a slice with step 1.")
    field: npt.NDArray[Any] = np.empty((0, 0, 0, 3), np.float32)
    to_field: Float64 = np.eye(4)
    same = False
    if displacement is not None:
        field = np.ascontiguousarray(displacement)
        own = to_mm if displacement_affine is None else check_transform(displacement_affine)
        to_field = np.asarray(np.linalg.inv(own) @ to_mm)
        same = displacement_affine is None
        if field.ndim != 4 or field.shape[3] != 3 or (same and field.shape[:3] != (nx, ny, nz)):
            raise ImageError(
                f"compose: expected a displacement of shape {(nx, ny, nz, 3)}, found {field.shape}. Give its "
                "affine if it is on another grid."
            )
    out = np.empty((max(stop - start, 0), ny, nz, 3))
    kernels.compose_planes(to_mm[:3], start, field, to_field[:3], same, np.ascontiguousarray(matrix[:3]), out)
    return out


def resample(
    images: Sequence[npt.ArrayLike],
    image_affine: npt.ArrayLike,
    affine: npt.ArrayLike,
    shape: Sequence[int],
    matrices: Sequence[npt.ArrayLike] = (),
    *,
    displacement: npt.NDArray[np.floating[Any]] | None = None,
    displacement_affine: npt.ArrayLike | None = None,
    order: Order = 3,
    outside: float = np.nan,
) -> list[Float32]:
    """Return images at the voxels of another grid, through a displacement and matrices, interpolated once.

    See ``compose`` for the transforms and ``Sampler`` for how images are read. A few planes of points are in memory at
    a time.

    Returns
    -------
    list of (x, y, z) float32
    """
    sampler = Sampler(images, image_affine, order=order, outside=outside)
    nx, ny, nz = (int(n) for n in shape)
    found = [np.empty((nx, ny, nz), np.float32) for _ in images]
    step = max(POINTS_AT_ONCE // max(ny * nz, 1), 1)
    for first in range(0, nx, step):
        planes = slice(first, first + step)
        points = compose(
            affine,
            shape,
            matrices,
            displacement=displacement,
            displacement_affine=displacement_affine,
            planes=planes,
        )
        for out, values in zip(found, sampler.at(points), strict=True):
            out[planes] = values
    return found


def jacobian_determinant(
    displacement: npt.NDArray[np.floating[Any]], affine: npt.ArrayLike, matrix: npt.ArrayLike | None = None
) -> Float32:
    """Return the determinant of ``d M(x + u(x)) / dx``: volume there per volume here, mm3 per mm3.

    ``det(M) det(1 + du/dx)`` by central differences, one-sided in the outermost voxels; exact where u is linear. It is
    negative where space is folded.

    Parameters
    ----------
    displacement
        (x, y, z, 3) u in mm.
    affine
        (4, 4) of its grid, voxel to mm.
    matrix
        (4, 4) M; None: none.

    Returns
    -------
    (x, y, z) float32
    """
    field = np.ascontiguousarray(displacement)
    if field.ndim != 4 or field.shape[3] != 3:
        raise ImageError(f"Jacobian: expected a displacement of shape (x, y, z, 3), found {field.shape}.")
    from_mm = np.linalg.inv(check_transform(affine)[:3, :3])
    factor = 1.0 if matrix is None else float(np.linalg.det(check_transform(matrix)[:3, :3]))
    out = np.empty(field.shape[:3], np.float32)
    kernels.determinants(field, from_mm, factor, out)
    return out


def _check_shapes(arrays: list[npt.NDArray[Any]]) -> None:
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3 or 0 in next(iter(shapes)):
        raise ImageError(
            f"resampling: expected one or more 3-D images of one shape, found {sorted(shapes) or 'none'}. "
            "Read images of different grids apart."
        )
    for e, array in enumerate(arrays):
        if np.isinf(array).any():
            raise ImageError(
                f"image {e + 1}: expected finite values, or NaN where nothing is known, found infinite ones. Look at "
                "the image."
            )
