"""Numbers that tell a good session from a bad one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxcloud.errors import MaskError
from voxcloud.qmri.arrays import Floats, as_float64, check_shapes, result_dtype

FEWEST_VOXELS = 20


def map_snr(values: npt.ArrayLike, error: npt.ArrayLike) -> Floats:
    """Return the signal-to-noise ratio of a map (mSNR): value / error, in one unit.

    NaN where the error is zero (a fit without residual says nothing about noise) or either is NaN.

    Raises
    ------
    ImageError
        If shapes differ.

    References
    ----------
    Mohammadi et al. (2022), doi:10.1016/j.neuroimage.2022.119529.
    """
    check_shapes(np.shape(values), [("error map", error)])
    below = as_float64(error)
    with np.errstate(all="ignore"):
        ratio = as_float64(values) / np.where(below == 0, np.nan, below)
    return ratio.astype(result_dtype(values, error))


def motion_degradation(r2star: npt.ArrayLike, white_matter: npt.ArrayLike) -> float:
    """Return the motion degradation index in 1/s: SD over white matter of R2* fitted to a single contrast.

    Head motion during a contrast makes its R2* noisy; white matter is where the true R2* varies least.

    Parameters
    ----------
    r2star : R2* of one contrast (``fit_estatics`` with that one alone), 1/s.
    white_matter : boolean mask of its shape; voxels that are not finite do not count.

    Raises
    ------
    MaskError
        If fewer than 20 voxels are left.
    ImageError
        If shapes differ.

    References
    ----------
    Lutti et al. (2022), doi:10.1002/mrm.29002.
    """
    values = as_float64(r2star)
    check_shapes(values.shape, [("white matter", white_matter)])
    inside = values[np.asarray(white_matter, dtype=bool)]
    inside = inside[np.isfinite(inside)]
    if inside.size < FEWEST_VOXELS:
        raise MaskError(
            f"white matter: expected at least {FEWEST_VOXELS} voxels with a finite R2*, found {inside.size}. "
            "Check that the mask lies on the maps."
        )
    return float(inside.std(ddof=1))
