"""The diffusion tensor by weighted least squares, and its scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.tensor_design import tensor_design
from voxcloud.dwi.tensor_kernel import (
    DIRECTION,
    FA,
    MD,
    NEGATIVES,
    PAIRS,
    RESULTS,
    S0,
    SUMS,
    TENSOR,
    TERMS,
    VALUES,
    fit_tiles,
)
from voxcloud.errors import ImageError

Floats = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]
SMALLEST_SIGNAL = 1e-4
LEAST_FLOOR = 1e-300  # smaller ones have no logarithm here
BLOCK_VOXELS = 4096


@dataclass(frozen=True)
class TensorFit:
    """A tensor in each voxel and what it means; shape is (voxels,) or (x, y, z).

    Attributes
    ----------
    tensor : (6, *shape): xx, yy, zz, xy, xz, yz in mm2/s, as fitted: it may have negative eigenvalues.
    s0 : shape, fitted signal at b = 0, in units of the signals.
    eigenvalues : (3, *shape), mm2/s, largest first, negative ones raised to 0.
    direction : (3, *shape), principal direction, a unit vector in the frame of the b-vectors; its sign means nothing.
    fa : shape, fractional anisotropy of ``eigenvalues``, 0 to 1; 0 where all are 0.
    md, ad, rd : shape, mean, axial (largest) and radial (mean of the others) diffusivity in mm2/s, >= 0.
    negatives : shape, int8, number of eigenvalues that were negative.
    """

    tensor: Floats
    s0: Floats
    eigenvalues: Floats
    direction: Floats
    fa: Floats
    md: Floats
    ad: Floats
    rd: Floats
    negatives: npt.NDArray[np.int8]

    @property
    def negative_voxels(self) -> int:
        """Number of voxels with at least one negative eigenvalue."""
        return int(np.count_nonzero(self.negatives))


def fit_tensor(
    signals: npt.ArrayLike,
    bvals: npt.ArrayLike,
    bvecs: npt.ArrayLike,
    *,
    smallest_signal: float = SMALLEST_SIGNAL,
    block_voxels: int = BLOCK_VOXELS,
) -> TensorFit:
    """Fit a diffusion tensor to each voxel.

    ``ln S = ln S0 - b g' D g``, by ordinary least squares first, then once by least squares with weights
    ``exp(2 fitted)``, the fitted logarithms being those of the first pass: the noise of a logarithm grows as the signal
    falls, and weights from measured signals would be biased by their noise. Signals are raised to a small positive
    number before.

    With eigenvalues ``l1 >= l2 >= l3`` raised to 0: MD is their mean m, AD = l1, RD = (l2 + l3) / 2,
    ``FA = sqrt(3/2 sum (l - m)^2 / sum l^2)``.

    Parameters
    ----------
    signals : (volumes, voxels) or (x, y, z, volume), arbitrary units.
    bvals : (volumes,) in s/mm2.
    bvecs : (3, volumes), unit vectors, RAS+.
    smallest_signal : signals below it are raised to it, in units of the signals.
    block_voxels : voxels at a time, which bounds the memory; results do not depend on it.

    Returns
    -------
    float32 if the signals are float32 or 16-bit integers, else float64. Computed in float64. A voxel with NaN or an
    infinite value in any volume is NaN (0 negative eigenvalues), others are untouched; so is one whose weights leave
    the tensor undetermined.

    Raises
    ------
    ImageError
        If the signals have another shape, or a setting cannot be.
    GradientError
        If the gradient table does not fit or does not determine a tensor.

    References
    ----------
    1. Basser et al. (1994), doi:10.1016/S0006-3495(94)80775-1.
    2. Veraart et al. (2013), weights, doi:10.1016/j.neuroimage.2013.05.028.
    """
    values = np.asarray(signals)
    if values.ndim not in (2, 4) or np.iscomplexobj(values):
        raise ImageError(
            f"fit_tensor: expected real signals of shape (volumes, voxels) or (x, y, z, volume), found {values.dtype} "
            f"of shape {values.shape}. Reshape them."
        )
    if not smallest_signal >= LEAST_FLOOR or block_voxels < 1:
        raise ImageError(
            f"fit_tensor: expected smallest_signal >= {LEAST_FLOOR:g} and block_voxels >= 1, found "
            f"{smallest_signal:g} and {block_voxels}. Leave them at their defaults."
        )
    volumes, shape = (values.shape[0], values.shape[1:]) if values.ndim == 2 else (values.shape[3], values.shape[:3])
    design, largest_b = tensor_design(bvals, bvecs, volumes)
    inverse, products = np.ascontiguousarray(np.linalg.pinv(design)), _products(design)
    dtype = np.dtype(np.float32 if np.result_type(np.float32, values.dtype) == np.float32 else np.float64)
    fortran = values.ndim == 4 and values.flags.f_contiguous
    by_volume = values if values.ndim == 2 else values.reshape(-1, volumes, order="F" if fortran else "C").T
    n = by_volume.shape[1]
    found = np.empty((RESULTS, n), dtype)
    for start in range(0, n, block_voxels):
        part = slice(start, min(start + block_voxels, n))
        block, result = np.ascontiguousarray(by_volume[:, part], dtype), np.empty((RESULTS, part.stop - start))
        fit_tiles(block, design, inverse, products, smallest_signal, 1.0 / largest_b, result)
        found[:, part] = result
    return _named(found, shape, fortran)


def _products(design: Float64) -> Float64:
    """Return what each volume adds to the normal equations: products of columns, row by row, then the columns."""
    found = np.empty((len(design), SUMS))
    for i in range(TERMS):
        for j in range(i + 1):
            found[:, i * (i + 1) // 2 + j] = design[:, i] * design[:, j]
    found[:, PAIRS:] = design
    return found


def _named(found: Floats, shape: tuple[int, ...], fortran: bool) -> TensorFit:
    maps = [row.reshape(shape, order="F" if fortran else "C") for row in found]
    values = np.stack(maps[VALUES : VALUES + 3])
    return TensorFit(
        tensor=np.stack(maps[TENSOR : TENSOR + 6]),
        s0=maps[S0],
        eigenvalues=values,
        direction=np.stack(maps[DIRECTION : DIRECTION + 3]),
        fa=maps[FA],
        md=maps[MD],
        ad=values[0],
        rd=0.5 * (values[1] + values[2]),
        negatives=np.nan_to_num(maps[NEGATIVES]).astype(np.int8),
    )
