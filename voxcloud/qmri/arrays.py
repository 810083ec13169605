"""What the kernels share: numbers in float64, results in the precision of the images, NaN where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Order = Literal["C", "F"]


def as_float64(values: npt.ArrayLike) -> Float64:
    """Return the values as a float64 array, without a copy where they are one."""
    return np.asarray(values, dtype=np.float64)


def result_dtype(*images: npt.ArrayLike) -> np.dtype[np.floating[Any]]:
    """Return float32 for images that float32 holds (float32, float16, 16-bit integers), float64 for others."""
    found = np.result_type(np.float32, *(np.asarray(image).dtype for image in images))
    return np.dtype(np.float32) if found == np.float32 else np.dtype(np.float64)


def check_shapes(expected: tuple[int, ...], images: Iterable[tuple[str, npt.ArrayLike]]) -> None:
    """Refuse images on another grid.

    Raises
    ------
    ImageError
        If a shape differs from the expected one; the message names the image.
    """
    for name, image in images:
        found = np.shape(image)
        if found != expected:
            raise ImageError(
                f"{name}: expected an image of shape {expected}, like the first echo, found {found}. "
                "Bring all images onto one grid first."
            )


def check_b1(b1: npt.ArrayLike, *, name: str = "b1") -> None:
    """Refuse a B1 map that cannot be a ratio to the nominal flip angle.

    Raises
    ------
    ImageError
        If the median of its positive values is not between 0.1 and 10, e.g. for a map in percent.
    """
    values = np.asarray(b1)
    known = values[np.isfinite(values) & (values > 0)]
    if not known.size:
        return  # every voxel will be NaN
    median = float(np.median(known))
    if not 0.1 <= median <= 10.0:
        hint = "Is it in percent? b1_from_percent makes a ratio of it." if median > 10 else "Look at its scaling."
        raise ImageError(
            f"{name}: expected the ratio of actual to nominal flip angle (about 1), found a median of {median:.4g}. "
            f"{hint}"
        )


def flatten(images: Iterable[npt.ArrayLike]) -> tuple[list[npt.NDArray[Any]], Order]:
    """Return the images as vectors and the order in which they were read.

    Images that are all in Fortran order (nibabel's) are read in that order, so that nothing is copied.
    """
    arrays = [np.asarray(image) for image in images]
    fortran = all(a.flags.f_contiguous for a in arrays) and not all(a.flags.c_contiguous for a in arrays)
    order: Order = "F" if fortran else "C"
    return [a.reshape(-1, order=order) for a in arrays], order
