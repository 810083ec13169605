"""Receive sensitivity from pairs of coils, and proton density from the amplitude."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError, MaskError
from voxcloud.qmri.arrays import Floats, as_float64, check_shapes, result_dtype
from voxcloud.qmri.fields import smooth_field

SENSITIVITY_FWHM_MM = 12.0
# Of the body coil's 98th percentile: below it is air, where a ratio of coils is noise over noise.
AIR_FRACTION = 0.1
WHITE_MATTER_PROBABILITY = 0.95
WHITE_MATTER_PD = 69.0
FEWEST_WHITE_MATTER_VOXELS = 20


def receive_sensitivity(
    head_coil: npt.ArrayLike,
    body_coil: npt.ArrayLike,
    voxel_mm: Sequence[float],
    *,
    fwhm_mm: float = SENSITIVITY_FWHM_MM,
    air_fraction: float = AIR_FRACTION,
) -> Floats:
    """Return the sensitivity of the head coil relative to the body coil (BIDS ``RB1COR`` pairs): head / body, smoothed.

    Both see the same tissue with the same excitation, so that their ratio is the ratio of sensitivities; the body
    coil's is nearly flat. A pair measured with each contrast also holds what head motion between contrasts does.

    Parameters
    ----------
    head_coil, body_coil : magnitude images of one 3-D shape and the same settings, arbitrary units.
    voxel_mm : (3,) voxel sizes in mm.
    fwhm_mm : smoothing, full width at half maximum in mm.
    air_fraction : voxels below this share of the body coil's 98th percentile do not count.

    Returns
    -------
    ratio, NaN far from the head. Divide signals (or give it to ``maps.create_maps`` with the contrast).

    Raises
    ------
    ImageError
        If shapes differ or the body coil's image is empty.

    References
    ----------
    Papp et al. (2016), doi:10.1002/mrm.26058.
    """
    head, body = as_float64(head_coil), as_float64(body_coil)
    check_shapes(head.shape, [("body coil", body)])
    known = body[np.isfinite(body)]
    level = air_fraction * float(np.percentile(known, 98)) if known.size else 0.0
    if not level > 0:
        raise ImageError("body coil: expected an image of a head, found no signal above zero. Check the file.")
    with np.errstate(all="ignore"):
        ratio = head / body
    return smooth_field(ratio, voxel_mm, fwhm_mm, body > level).astype(result_dtype(head_coil, body_coil))


def calibrate_pd(
    amplitude: npt.ArrayLike,
    white_matter_probability: npt.ArrayLike,
    *,
    receive_field: npt.ArrayLike | None = None,
    threshold: float = WHITE_MATTER_PROBABILITY,
    white_matter_pd: float = WHITE_MATTER_PD,
) -> tuple[Floats, float]:
    """Return proton density in p.u. and the factor that made it from A: white matter averages 69 p.u.

    ``PD = k A / field`` with ``k = 69 / mean over white matter of (A / field)``.

    Parameters
    ----------
    amplitude : A, arbitrary units.
    white_matter_probability : 0 to 1, of its shape; a boolean mask will do.
    receive_field : smooth sensitivity of the receiving coil, of its shape (a segmentation's bias field), any unit; None
        when A is corrected already.
    threshold : least probability of white matter.
    white_matter_pd : its proton density in p.u.

    Raises
    ------
    MaskError
        If fewer than 20 voxels of finite amplitude are white matter, or their mean is not positive.
    ImageError
        If shapes differ.

    References
    ----------
    Tabelow et al. (2019), doi:10.1016/j.neuroimage.2019.01.029.
    """
    values = as_float64(amplitude)
    check_shapes(values.shape, [("white matter", white_matter_probability)])
    if receive_field is not None:
        check_shapes(values.shape, [("receive field", receive_field)])
        with np.errstate(all="ignore"):
            values = values / as_float64(receive_field)
    white = (as_float64(white_matter_probability) >= threshold) & np.isfinite(values)
    mean = float(values[white].mean()) if white.any() else 0.0
    if white.sum() < FEWEST_WHITE_MATTER_VOXELS or mean <= 0:
        raise MaskError(
            f"white matter: expected at least {FEWEST_WHITE_MATTER_VOXELS} voxels with probability >= "
            f"{threshold:g} and a "
            f"positive amplitude, found {int(white.sum())} with a mean of {mean:g}. Check that the mask lies on "
            f"the maps."
        )
    factor = white_matter_pd / mean
    return (values * factor).astype(result_dtype(amplitude)), factor
