"""Several images of one grid, seen from the voxels of another: cubic B-splines, computed where they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError
from voxcloud.space import bspline_kernels as kernels

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Voxels = slice | npt.NDArray[np.integer[Any]] | None
Order = Literal["C", "F"]

# Voxels per pass, so that what is needed beside coefficients and result stays under 2 MB.
BLOCK = 1 << 16
# A transform whose matrix is this near (voxels, over the whole grid) to one of integers only moves samples about.
EXACT_TOLERANCE = 1e-6


class SplineImages:
    """Images on one grid, to be read at the voxels of another grid.

    The model is f(p) = sum_k c_k b3(p - k), with the cubic B-spline b3 and coefficients c such that f passes through
    every sample; samples are mirrored about the first and the last (scipy's ``mode="mirror"``). Where the transform
    leads from voxels to voxels (identity, shifts by whole voxels, flips, permutations of axes), values are the samples
    themselves, bit for bit, and nothing is interpolated.

    Parameters
    ----------
    images
        3-D, one shape and finite. They are read once; coefficients take 4 bytes per voxel and image, and the images may
        be dropped by the caller afterwards (not where ``exact`` is True: then they are what is read).
    voxel_to_voxel
        (4, 4) index on the grid asked for -> index on the images' grid (``affine.voxel_to_voxel``).
    shape
        Of the grid asked for.
    outside
        Value beyond the centres of the images' outermost voxels. 0 stands for *unknown* in a FLASH magnitude: the maps
        made of it are NaN there. NaN is the other choice.
    movable
        Compute coefficients even where samples would only be moved about, so that ``moved`` can change the transform.

    Attributes
    ----------
    exact
        Whether samples are only moved about.

    Raises
    ------
    ImageError
        If shapes differ, a value is not finite, or the transform is not a (4, 4) matrix of finite numbers.

    References
    ----------
    1. Unser (1999), doi:10.1109/79.799930.
    """

    def __init__(
        self,
        images: Sequence[npt.ArrayLike],
        voxel_to_voxel: npt.ArrayLike,
        shape: Sequence[int],
        *,
        outside: float = 0.0,
        movable: bool = False,
    ) -> None:
        arrays = [np.asarray(image) for image in images]
        size = _check_images(arrays)
        matrix = check_transform(voxel_to_voxel)
        self.shape = tuple(int(n) for n in shape)
        self.n_images = len(arrays)
        self._outside = np.float32(outside)
        # The axis that is slowest in memory comes first within.
        self._flip = all(a.flags.f_contiguous for a in arrays) and not all(a.flags.c_contiguous for a in arrays)
        arrays = [a.T if self._flip else a for a in arrays]
        self._size = size[::-1] if self._flip else size
        self._matrix = matrix[[2, 1, 0, 3]] if self._flip else matrix
        whole = np.rint(self._matrix)
        reach = np.abs(self._matrix - whole) @ np.array([*self.shape, 1.0])
        self.exact = not movable and bool(np.all(reach[:3] < EXACT_TOLERANCE))
        self._images = [a.reshape(-1) for a in arrays] if self.exact else []
        self._whole = whole.astype(np.int64)
        self._coefficients, self._padded = np.empty(0, np.float32), self._size
        if not self.exact:
            self._coefficients, self._padded, _ = spline_coefficients(arrays)

    def moved(self, voxel_to_voxel: npt.ArrayLike) -> SplineImages:
        """Return the same images under another transform, with the same coefficients (``movable``)."""
        assert not self.exact
        found = copy.copy(self)
        matrix = check_transform(voxel_to_voxel)
        found._matrix = matrix[[2, 1, 0, 3]] if self._flip else matrix
        return found

    def sample(self, voxels: Voxels = None, *, order: Order = "C") -> Float32:
        """Return the images' values at voxels of the grid asked for.

        Parameters
        ----------
        voxels : flat indices (m,), a slice of them (step 1), or None for all.
        order : of the flat indices in ``shape``: C (last axis fastest) or F (first axis fastest, as nibabel reads).

        Returns
        -------
        (n_images, m) float32

        Raises
        ------
        ImageError
            If an index is not on the grid.
        """
        shape, matrix, whole = self.shape, self._matrix[:3], self._whole[:3]
        if order == "F":
            shape, matrix, whole = shape[::-1], matrix[:, [2, 1, 0, 3]], whole[:, [2, 1, 0, 3]]
        matrix, whole = np.ascontiguousarray(matrix), np.ascontiguousarray(whole)
        lanes = (np.float32(0.0),) * self.n_images
        first, n, indices = find_voxels(voxels, shape)
        out = np.empty((self.n_images, n), np.float32)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            part = np.arange(first + start, first + stop) if indices is None else indices[start:stop]
            if self.exact:
                source = np.empty(part.size, np.int64)
                kernels.find_sources(whole, self._size, shape, part, source)
                for values, image in zip(out, self._images, strict=True):
                    values[start:stop] = np.where(source < 0, self._outside, image[source])
            else:
                kernels.evaluate(
                    self._coefficients,
                    self._padded,
                    self._size,
                    lanes,
                    matrix,
                    shape,
                    part,
                    self._outside,
                    out[:, start:stop],
                )
        return out


def spline_coefficients(
    images: Sequence[npt.ArrayLike],
) -> tuple[Float32, tuple[int, int, int], tuple[int, int, int]]:
    """Return the coefficients of images of one shape.

    Returns
    -------
    coefficients : flat, of (x, y, z, image), with axes shorter than four samples padded to four.
    padded : samples per axis in memory.
    size : samples per axis.

    Raises
    ------
    ImageError
        If shapes differ or a value is not finite.
    """
    arrays = [np.asarray(image) for image in images]
    size = nx, ny, nz = _check_images(arrays)
    padded = max(nx, 4), max(ny, 4), max(nz, 4)
    coefficients = np.zeros((*padded, len(arrays)), np.float32)
    gain = np.float32(kernels.GAIN ** sum(m > 1 for m in size))
    starts = [kernels.start_weights(m) if m > 1 else np.empty(0, np.float32) for m in size]
    slab = np.empty((ny, nz, len(arrays)), np.float32)
    for x in range(nx):
        for e, array in enumerate(arrays):
            slab[..., e] = array[x]
        if not np.isfinite(slab).all():
            raise ImageError(
                f"resampling: expected finite values only, found NaN or infinite in image "
                f"{1 + int(np.argmin(np.isfinite(slab).all(axis=(0, 1))))} of {len(arrays)}; a spline would spread "
                "them over whole lines. Set unknown voxels to 0 first."
            )
        slab *= gain
        kernels.filter_slab(slab, starts[1], starts[2])
        coefficients[x, :ny, :nz] = slab
    if nx > 1:
        kernels.filter_slowest(coefficients[:nx].reshape(nx, -1), starts[0])
    return coefficients.reshape(-1), padded, size


def sample_linear(
    image: npt.ArrayLike,
    voxel_to_voxel: npt.ArrayLike,
    shape: Sequence[int],
    voxels: Voxels = None,
    *,
    order: Order = "C",
    outside: float = np.nan,
) -> Float32:
    """Return trilinear values of a smooth image (a B1 map) at voxels of another grid.

    A NaN of the image makes NaN of every voxel in whose value it has weight, and of no other.

    Parameters
    ----------
    image : 3-D.
    voxel_to_voxel, shape : as for ``SplineImages``.
    voxels, order : as for ``SplineImages.sample``.
    outside : value beyond the centres of the image's outermost voxels.

    Returns
    -------
    (m,) float32

    Raises
    ------
    ImageError
        If the image is not 3-D, the transform is not (4, 4) or an index is not on the grid.
    """
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != 3:
        raise ImageError(f"resampling: expected a 3-D image, found shape {array.shape}. Choose one volume.")
    matrix, grid = check_transform(voxel_to_voxel)[:3], tuple(int(n) for n in shape)
    if order == "F":
        matrix, grid = matrix[:, [2, 1, 0, 3]], grid[::-1]
    matrix = np.ascontiguousarray(matrix)
    first, n, indices = find_voxels(voxels, grid)
    out = np.empty(n, np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        part = np.arange(first + start, first + stop) if indices is None else indices[start:stop]
        kernels.interpolate(array, matrix, grid, part, np.float32(outside), out[start:stop])
    return out


def find_voxels(voxels: Voxels, shape: tuple[int, ...]) -> tuple[int, int, npt.NDArray[np.int64] | None]:
    """Return the first of a run of voxels and their number; or 0, their number and their flat indices.

    Raises
    ------
    ImageError
        If an index is not on the grid.
    """
    total = int(np.prod(shape))
    if voxels is None:
        return 0, total, None
    if isinstance(voxels, slice):
        start, stop, step = voxels.indices(total)
        if step != 1:
            raise ImageError(f"resampling: expected a slice of voxels with step 1, found {step}. Give the indices.")
        return start, max(stop - start, 0), None
    indices = np.asarray(voxels)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ImageError(
            f"resampling: expected flat indices of voxels, found {indices.dtype} of shape {indices.shape}. "
            "numpy.flatnonzero makes them of a mask."
        )
    if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < total):
        raise ImageError(
            f"resampling: expected indices from 0 to {total - 1}, found {indices.min()} to {indices.max()}. "
            f"The grid is {shape}."
        )
    return 0, indices.size, indices.astype(np.int64, copy=False)


def check_transform(matrix: npt.ArrayLike) -> Float64:
    """Return a (4, 4) transform as float64.

    Raises
    ------
    ImageError
        If it is of another shape, not finite, or its last row is not 0 0 0 1.
    """
    found = np.asarray(matrix, dtype=np.float64)
    if found.shape != (4, 4) or not np.isfinite(found).all() or not np.array_equal(found[3], [0, 0, 0, 1]):
        raise ImageError(
            f"transform: expected a (4, 4) matrix of finite numbers with the last row 0 0 0 1, found {found.tolist()}."
        )
    return found


def _check_images(arrays: list[npt.NDArray[Any]]) -> tuple[int, int, int]:
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3 or 0 in next(iter(shapes)):
        raise ImageError(
            f"resampling: expected one or more 3-D images of one shape, found {sorted(shapes) or 'none'}. "
            "Resample images of different grids apart."
        )
    nx, ny, nz = shapes.pop()
    return nx, ny, nz
