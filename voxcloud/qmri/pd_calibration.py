"""Proton density in percent units: the amplitude, scaled so that white matter has 69 p.u."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError

WHITE_MATTER_PU = 69.0
# Voxels that are white matter and nothing else; and the fewest, and the widest spread, that make a scale.
SURE = 0.95
FEWEST_ML = 20.0
WIDEST = 0.25


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scale of proton density.

    Attributes
    ----------
    factor
        p.u. per unit of the amplitude.
    report
        Plain values (JSON): mean and relative spread in white matter, voxels.
    flagged
        Why the scale may be wrong, a sentence; empty if nothing speaks against it.
    """

    factor: float
    report: dict[str, Any]
    flagged: str = ""


def calibrate_pd(
    amplitude: npt.ArrayLike, white_matter: npt.ArrayLike, *, voxel_mm: float | Sequence[float]
) -> Calibration:
    """Scale an amplitude so that the mean over sure white matter is 69 p.u.: ``PD = 69 A / mean(A | p(WM) > 0.95)``.

    Water in white matter is about 69 % of its volume [1]_, and the receive field that is left in A has a mean of its
    own there; a scale of each session cannot tell a change of white matter itself, which is why PD is not analysed.

    Parameters
    ----------
    amplitude
        (x, y, z), any unit; NaN or 0 where nothing is known.
    white_matter
        (x, y, z), probability of white matter, 0 to 1.
    voxel_mm
        Size of the voxels.

    Raises
    ------
    ImageError
        If shapes differ or no voxel is white matter with a positive amplitude.

    References
    ----------
    1. Tabelow et al. (2019), hMRI, doi:10.1016/j.neuroimage.2019.01.029.
    """
    values, share = (np.asarray(a, dtype=np.float32) for a in (amplitude, white_matter))
    if values.shape != share.shape:
        raise ImageError(
            f"proton density: expected white matter on the grid of the amplitude, {values.shape}, found {share.shape}."
        )
    with np.errstate(invalid="ignore"):
        inside = (share > SURE) & np.isfinite(values) & (values > 0)
    n = int(np.count_nonzero(inside))
    if not n:
        raise ImageError(
            f"proton density: expected voxels with a probability of white matter above {SURE:g} and a positive "
            "amplitude, found none. Look at the segmentation and at M0map."
        )
    own = values[inside].astype(np.float64)
    mean, spread = float(own.mean()), float(own.std() / own.mean())
    ml = n * float(np.prod(np.broadcast_to(np.asarray(voxel_mm, dtype=np.float64), 3))) / 1000
    flagged = ""
    if ml < FEWEST_ML:
        flagged = (
            f"expected at least {FEWEST_ML:g} ml of sure white matter to scale proton density by, found {ml:.3g} ml. "
            "Look at the segmentation."
        )
    elif spread > WIDEST:
        flagged = (
            f"expected amplitudes within {WIDEST:.0%} of each other in white matter (SD over mean), found "
            f"{spread:.0%}: the receive field was not corrected, or the segmentation is wrong. Look at M0map."
        )
    factor = WHITE_MATTER_PU / mean
    report = {
        "white_matter_pu": WHITE_MATTER_PU,
        "factor": factor,
        "mean_amplitude": mean,
        "relative_sd": spread,
        "white_matter_ml": round(ml, 3),
    }
    return Calibration(factor, report, flagged)
