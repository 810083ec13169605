"""Numbers that tell a good session from a bad one."""

from __future__ import annotations

from typing import Any

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


def summarise_map(
    values: npt.ArrayLike,
    white_matter: npt.ArrayLike,
    grey_matter: npt.ArrayLike,
    *,
    limits: tuple[float, float],
    bins: int = 60,
    error: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Return what tells a good map from a bad one, as plain values (JSON).

    Parameters
    ----------
    values : map, any shape and unit; NaN is missing.
    white_matter, grey_matter : boolean, of its shape.
    limits : ends of the histograms, in the map's unit; values beyond are counted in the first and the last bin.
    bins : of the histograms.
    error : error map of its shape and unit.

    Returns
    -------
    ``WM`` and ``GM``: ``median``, ``p25``, ``p75`` in the map's unit, ``n`` voxels, ``missing`` share of the mask;
    ``histogram``: ``low``, ``high`` and counts of both; ``snr_WM``: median of value over error in white matter. None
    where there is no voxel.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    array = as_float64(values)
    masks = {"WM": np.asarray(white_matter, dtype=bool), "GM": np.asarray(grey_matter, dtype=bool)}
    check_shapes(array.shape, [("white matter", masks["WM"]), ("grey matter", masks["GM"])])
    low, high = limits
    found: dict[str, Any] = {}
    counts: dict[str, Any] = {"low": low, "high": high}
    for name, mask in masks.items():
        inside = array[mask]
        known = inside[np.isfinite(inside)]
        p25, median, p75 = (float(p) for p in np.percentile(known, (25, 50, 75))) if known.size else (None, None, None)
        found[name] = {
            "median": median,
            "p25": p25,
            "p75": p75,
            "n": int(known.size),
            "missing": float(1.0 - known.size / inside.size) if inside.size else None,
        }
        counts[name] = np.histogram(np.clip(known, low, high), bins=bins, range=(low, high))[0].tolist()
    found["histogram"] = counts
    found["snr_WM"] = None
    if error is not None and masks["WM"].any():
        check_shapes(array.shape, [("error map", error)])
        ratio = map_snr(array[masks["WM"]], as_float64(error)[masks["WM"]])
        found["snr_WM"] = float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else None
    return found


# Actual over nominal flip angle in a head at 3 T; beyond lies what no coil does.
B1_EXPECTED = (0.5, 1.5)


def summarise_b1(b1: npt.ArrayLike, brain: npt.ArrayLike) -> dict[str, float | None]:
    """Return median and range of B1 (ratio) over the brain, and the shares that are missing or beyond .5 to 1.5.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    values, mask = as_float64(b1), np.asarray(brain, dtype=bool)
    check_shapes(values.shape, [("brain", mask)])
    inside = values[mask]
    known = inside[np.isfinite(inside)]
    low, high = B1_EXPECTED
    p01, median, p99 = (float(p) for p in np.percentile(known, (1, 50, 99))) if known.size else (None, None, None)
    return {
        "median": median,
        "p01": p01,
        "p99": p99,
        "missing_share": float(1.0 - known.size / inside.size) if inside.size else None,
        "outside_share": float(((known < low) | (known > high)).mean()) if known.size else None,
    }
