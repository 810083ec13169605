"""B1+ from spin and stimulated echoes of a 3D-EPI sequence at several flip angles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError
from voxcloud.qmri.arrays import Floats, as_float64, result_dtype
from voxcloud.qmri.protocol import ProtocolError

T1_AT_3T_S = 1.192
N_PAIRS = 5
BLOCK_VOXELS = 4096


@dataclass(frozen=True)
class SesteB1:
    """B1 from SE/STE pairs.

    Attributes
    ----------
    b1 : ratio of actual to nominal flip angle.
    sd : standard deviation over the pairs used, same unit: its quality.
    magnitude : root of the sum of squares of the spin echoes, an anatomical image to register with.
    """

    b1: Floats
    sd: Floats
    magnitude: Floats


def b1_from_seste(
    spin_echo: npt.ArrayLike,
    stimulated_echo: npt.ArrayLike,
    flip_angles_rad: npt.ArrayLike,
    mixing_time_s: float,
    *,
    t1_s: float = T1_AT_3T_S,
    n_pairs: int = N_PAIRS,
) -> SesteB1:
    """Return B1 from pairs of spin and stimulated echoes (BIDS ``TB1EPI``).

    Each nominal angle b gives ``x = acos(exp(TM / T1) STE / SE)``, hence B1 = x / b, or (pi - x) / b, which has the
    same |STE / SE|. Among the pairs of highest spin echo, that choice counts which agrees best: least standard
    deviation. B1 is its mean. Magnitudes cannot show the sign; ratios above 1, which only noise makes, count as 1.

    Parameters
    ----------
    spin_echo, stimulated_echo : (..., angles) magnitudes, arbitrary units, the nominal angles last.
    flip_angles_rad : (angles,) nominal angles in rad, e.g. 115 to 65 degrees in steps of 5.
    mixing_time_s : time TM between the second and third pulse in s.
    t1_s : T1 to correct for decay during TM, in s; 1.192 s stands for the brain at 3 T.
    n_pairs : pairs used per voxel.

    Returns
    -------
    maps of shape (...); NaN where a spin echo among the pairs is zero, or any is NaN. B0 unwarping, a mask on ``sd``
    and smoothing come after (``fields.smooth_field``).

    Raises
    ------
    ProtocolError
        If an angle is not in rad, times are not positive or in ms, or there are fewer angles than pairs.
    ImageError
        If shapes differ.

    References
    ----------
    Tabelow et al. (2019), doi:10.1016/j.neuroimage.2019.01.029.
    """
    angles = as_float64(flip_angles_rad)
    _check(angles, mixing_time_s, t1_s, n_pairs)
    se, ste = np.asarray(spin_echo), np.asarray(stimulated_echo)
    if se.shape != ste.shape or se.ndim < 1 or se.shape[-1] != angles.size:
        raise ImageError(
            f"SE/STE: expected two arrays (..., {angles.size}), one image per flip angle at the end, found "
            f"{se.shape} and "
            f"{ste.shape}."
        )
    shape, dtype = se.shape[:-1], result_dtype(se, ste)
    se, ste = se.reshape(-1, angles.size), ste.reshape(-1, angles.size)
    b1, sd, magnitude = (np.empty(len(se), dtype) for _ in range(3))
    choices = np.array(list(itertools.product((False, True), repeat=n_pairs)))
    growth = float(np.exp(mixing_time_s / t1_s))
    for start in range(0, len(se), BLOCK_VOXELS):
        part = slice(start, start + BLOCK_VOXELS)
        s, t = as_float64(se[part]), as_float64(ste[part])
        magnitude[part] = np.sqrt((s * s).sum(axis=1))
        strongest = np.argsort(-s, axis=1, kind="stable")[:, :n_pairs]
        with np.errstate(all="ignore"):
            cosine = growth * np.take_along_axis(t, strongest, 1) / np.take_along_axis(s, strongest, 1)
        cosine[~np.isfinite(cosine)] = np.nan
        cosine[np.isnan(s).any(axis=1) | np.isnan(t).any(axis=1)] = np.nan
        x = np.arccos(np.clip(cosine, -1.0, 1.0))
        nominal = angles[strongest]
        candidates = np.where(choices[:, None, :], (np.pi - x) / nominal, x / nominal)  # (choices, voxels, pairs)
        spread = candidates.std(axis=2, ddof=1)
        best = spread.argmin(axis=0)
        voxel = np.arange(len(s))
        b1[part], sd[part] = candidates[best, voxel].mean(axis=1), spread[best, voxel]
    return SesteB1(b1.reshape(shape), sd.reshape(shape), magnitude.reshape(shape))


def _check(angles: npt.NDArray[np.float64], mixing_time_s: float, t1_s: float, n_pairs: int) -> None:
    if angles.ndim != 1 or not ((angles > 0) & (angles <= np.pi)).all():
        raise ProtocolError(
            f"SE/STE: expected a list of flip angles in rad, above 0 and at most pi, found {angles.tolist()}. "
            "Convert degrees with numpy.deg2rad."
        )
    if not 2 <= n_pairs <= angles.size:
        raise ProtocolError(f"SE/STE: expected 2 to {angles.size} pairs, one per flip angle, found {n_pairs}.")
    for name, value, most in (("mixing time", mixing_time_s, 1.0), ("T1", t1_s, 20.0)):
        if not 0 < value <= most:
            raise ProtocolError(
                f"SE/STE: expected a {name} in s, above 0 and at most {most:g}, found {value:g}. "
                f"{value:g} where {value / 1000:g} is meant? Divide milliseconds by 1000."
            )
