"""Numbers that tell a good diffusion session from a bad one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from voxcloud.dwi.gradients import count_directions, find_shells
from voxcloud.dwi.tensor import TensorFit
from voxcloud.dwi.tensor_design import LARGEST_B0
from voxcloud.errors import ImageError

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# White matter, nearly: what has at least this FA. Medians of FA over it are cut off below by construction.
WHITE_FA = 0.4
# Of histograms; mm2/s but for FA.
LIMITS = {"fa": (0.0, 1.0), "md": (0.0, 2e-3), "ad": (0.0, 3e-3), "rd": (0.0, 2e-3)}
UNITS = {"fa": "1", "md": "mm2/s", "ad": "mm2/s", "rd": "mm2/s"}
BINS = 60
PARAMETERS = 7  # of a tensor fit: ln S0 and six elements
FEWEST_OF_SHELL = 3  # volumes, for a standard deviation over directions


def dwi_quality_numbers(
    signals: npt.ArrayLike,
    fit: TensorFit,
    bvals: npt.ArrayLike,
    bvecs: npt.ArrayLike,
    brain: npt.ArrayLike,
    *,
    voxel_ml: float,
    noise: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Return what the page on a session tells of signals and tensors, as plain values (JSON).

    With the fitted signal ``F_v = S0 exp(-b_v g_v' D g_v)`` (D with its negative eigenvalues, as fitted) and the
    residual ``r_v = S_v - F_v`` of volume v, over voxels i of the brain in which a tensor was fitted and S0 > 0:

    - ``residual.per_volume_percent``: ``100 sqrt(sum_i r_v^2 / sum_i S0^2)``; ``brain_percent``: the same with both
      sums over volumes too; ``median_percent``: median over voxels of ``100 sqrt(mean_v r_v^2) / S0``, which fluid and
      vessels, where no tensor holds, do not move.
    - ``cnr``: per shell, median over voxels of ``SD_v(F_v) / SD_v(r_v) sqrt((V - 7) / V)``, standard deviations over
      the shell's volumes: by how much diffusion makes signals of one b-value differ, over what no tensor explains. So
      FSL's eddy defines it for its own predictions (ref. 1). The root makes up for the 7 parameters that were fitted
      to all V volumes. None with fewer than 3 volumes, or residuals of 0.
    - ``snr_b0``: median of the mean of the n volumes with b <= 50 s/mm2 over their noise, the root of
      ``median_i(variance_i) (n - 1) / m``, m the median of the chi-squared distribution with n - 1 degrees of freedom:
      unbiased for normal noise from two volumes on, and untouched by few voxels that vary much. None with one volume.
      Denoising raises it. ``snr_noise``: median of that mean over ``noise``, which denoising does not raise.
    - ``noise``: medians of ``noise`` over the brain, in units of the signals and in percent of S0.
    - ``maps``: FA, MD, AD and RD over the brain and over ``WM``, a stand-in for white matter: voxels with FA >= .4. It
      follows FA, so that a session with lower FA has less of it. ``median``, ``p05``, ``p25``, ``p75``, ``p95``, ``n``
      voxels, ``missing`` share, and ``histogram`` (60 bins; what lies beyond is in the first and the last).
    - ``negatives_percent``: voxels of the brain whose tensor has a negative eigenvalue.

    Parameters
    ----------
    signals : (x, y, z, volume), the images to which the tensor was fitted, arbitrary units.
    fit : what ``fit_tensor`` returned for them, shape (x, y, z).
    bvals : (volume,), s/mm2.
    bvecs : (3, volume), unit vectors, RAS+, as they were fitted.
    brain : (x, y, z), boolean.
    voxel_ml : volume of a voxel in ml.
    noise : (x, y, z), standard deviation of the noise before denoising, in units of the signals.

    Returns
    -------
    ``n_volumes``, ``n_b0``, ``shells`` (``b``, ``n``, ``directions``), ``snr_b0``, ``snr_noise``, ``cnr`` (``b``,
    ``cnr``), ``residual``, ``noise`` (None without a map), ``maps``, ``negatives_percent``, ``volume_ml`` (``brain``,
    ``WM``). None where there is nothing to measure.

    Raises
    ------
    ImageError
        If shapes do not fit.

    References
    ----------
    1. Bastiani et al. (2019), doi:10.1016/j.neuroimage.2018.09.073.
    """
    images, b, g, inside = _checked(signals, fit, bvals, bvecs, brain)
    if noise is not None and np.shape(noise) != inside.shape:
        raise ImageError(
            f"noise: expected a map of shape {inside.shape}, found {np.shape(noise)}. Give that of the same images."
        )
    used = _used(fit, inside)
    s0 = fit.s0[used].astype(np.float64)
    shells = find_shells(b)
    spreads = [_Spread(s0.size) for _ in shells]
    of_volume = {int(v): spread for part, spread in zip(shells, spreads, strict=True) for v in part}
    squares, per_volume = np.zeros(s0.size), []
    level = float(np.sum(s0**2))
    for v, fitted, residual in _residuals(images, fit, b, g, used):
        squares += residual**2
        per_volume.append(100.0 * float(np.sqrt(np.sum(residual**2) / level)) if level else None)
        if v in of_volume:
            of_volume[v].add(fitted, residual)
    mean_b0, snr_b0 = _b0_snr(images, b, used)
    white = inside & (np.nan_to_num(fit.fa) >= WHITE_FA)
    free = np.sqrt(max(b.size - PARAMETERS, 0) / b.size)
    return {
        "n_volumes": int(b.size),
        "n_b0": int(np.sum(b <= LARGEST_B0)),
        "shells": [
            {"b": round(float(b[part].mean()), 1), "n": int(part.size), "directions": count_directions(g[:, part])}
            for part in shells
        ],
        "snr_b0": snr_b0,
        "snr_noise": None if noise is None else _median(mean_b0 / _positive(np.asarray(noise)[used])),
        "cnr": [
            {"b": round(float(b[part].mean()), 1), "cnr": spread.ratio(free)}
            for part, spread in zip(shells, spreads, strict=True)
        ],
        "residual": {
            "per_volume_percent": per_volume if level else [],
            "brain_percent": 100.0 * float(np.sqrt(np.sum(squares) / (b.size * level))) if level else None,
            "median_percent": _median(100.0 * np.sqrt(squares / b.size) / s0),
        },
        "noise": None if noise is None else _noise(np.asarray(noise, np.float64), inside, used, s0),
        "maps": {name: _summary(getattr(fit, name), name, inside, white) for name in LIMITS},
        "negatives_percent": 100.0 * float(np.mean(fit.negatives[used] > 0)) if s0.size else None,
        "volume_ml": {"brain": float(inside.sum()) * voxel_ml, "WM": float(white.sum()) * voxel_ml},
    }


def residual_map(
    signals: npt.ArrayLike, fit: TensorFit, bvals: npt.ArrayLike, bvecs: npt.ArrayLike, brain: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Return ``100 sqrt(mean_v r_v^2) / S0``: what the tensor leaves of the signals, in percent of S0.

    Parameters
    ----------
    signals, fit, bvals, bvecs, brain : as for ``dwi_quality_numbers``.

    Returns
    -------
    (x, y, z); NaN outside the brain and where no tensor was fitted.

    Raises
    ------
    ImageError
        If shapes do not fit.
    """
    images, b, g, inside = _checked(signals, fit, bvals, bvecs, brain)
    used = _used(fit, inside)
    squares = np.zeros(int(used.sum()))
    for _, _, residual in _residuals(images, fit, b, g, used):
        squares += residual**2
    found = np.full(inside.shape, np.nan, np.float32)
    found[used] = 100.0 * np.sqrt(squares / b.size) / fit.s0[used]
    return found


class _Spread:
    """Standard deviations of fitted signals and of residuals over a shell, of each voxel, one volume at a time."""

    def __init__(self, voxels: int) -> None:
        self.n = 0
        self.means, self.sums = np.zeros((2, 2, voxels))

    def add(self, fitted: Float64, residual: Float64) -> None:
        """Count one volume (Welford's update, which loses no digits to a large mean)."""
        self.n += 1
        for mean, total, values in zip(self.means, self.sums, (fitted, residual), strict=True):
            off = values - mean
            mean += off / self.n
            total += off * (values - mean)

    def ratio(self, free: float) -> float | None:
        """Return the median over voxels of both standard deviations' ratio, times ``free``."""
        if self.n < FEWEST_OF_SHELL or not free:
            return None
        return _median(free * np.sqrt(self.sums[0]) / _positive(np.sqrt(self.sums[1])))


def _checked(
    signals: npt.ArrayLike, fit: TensorFit, bvals: npt.ArrayLike, bvecs: npt.ArrayLike, brain: npt.ArrayLike
) -> tuple[npt.NDArray[Any], Float64, Float64, Bools]:
    images, inside = np.asarray(signals), np.asarray(brain).astype(bool)
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    if images.ndim != 4 or not images.shape[:3] == inside.shape == fit.s0.shape:
        raise ImageError(
            f"quality of diffusion: expected signals (x, y, z, volume), a tensor fit and a brain mask (x, y, z) on one "
            f"grid, found {images.shape}, {fit.s0.shape} and {inside.shape}. Give the images that were fitted."
        )
    if b.shape != (images.shape[3],) or g.shape != (3, images.shape[3]):
        raise ImageError(
            f"quality of diffusion: expected {images.shape[3]} b-values and b-vectors of shape (3, {images.shape[3]}), "
            f"one for each volume, found {b.shape} and {g.shape}. Give the table that was fitted."
        )
    return images, b, g, inside


def _used(fit: TensorFit, inside: Bools) -> Bools:
    """Return voxels of the brain in which there is a tensor."""
    found = inside & np.isfinite(fit.tensor).all(axis=0)
    with np.errstate(invalid="ignore"):
        found &= np.isfinite(fit.s0) & (fit.s0 > 0)
    return np.asarray(found, dtype=bool)


def _residuals(
    images: npt.NDArray[Any], fit: TensorFit, b: Float64, g: Float64, used: Bools
) -> Iterator[tuple[int, Float64, Float64]]:
    """Give volume, fitted signals and residuals; a signal that is not finite has none (0)."""
    tensor, s0 = fit.tensor[:, used].astype(np.float64), fit.s0[used].astype(np.float64)
    for v in range(b.size):
        x, y, z = g[:, v]
        along = np.array([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z]) @ tensor
        fitted = s0 * np.exp(-b[v] * along)
        found = images[..., v][used].astype(np.float64) - fitted
        yield v, fitted, np.where(np.isfinite(found), found, 0.0)


def _b0_snr(images: npt.NDArray[Any], b: Float64, used: Bools) -> tuple[Float64, float | None]:
    """Return the mean of the volumes without diffusion weighting, and its median over their noise."""
    unweighted = np.flatnonzero(b <= LARGEST_B0)
    values = np.array([images[..., v][used] for v in unweighted], np.float64).reshape(unweighted.size, -1)
    if not values.size:
        return np.full(values.shape[1], np.nan), None
    mean = values.mean(axis=0)
    if unweighted.size < 2:
        return mean, None
    degrees = unweighted.size - 1
    variance = _median(values.var(axis=0, ddof=1))
    if not variance:
        return mean, None
    median_of_one = 2.0 * float(special.gammaincinv(degrees / 2.0, 0.5)) / degrees
    return mean, _median(mean / np.sqrt(variance / median_of_one))


def _noise(noise: Float64, inside: Bools, used: Bools, s0: Float64) -> dict[str, float | None]:
    return {"median": _median(noise[inside]), "percent": _median(100.0 * noise[used] / s0)}


def _summary(values: npt.NDArray[Any], name: str, inside: Bools, white: Bools) -> dict[str, Any]:
    low, high = LIMITS[name]
    found: dict[str, Any] = {"units": UNITS[name]}
    counts: dict[str, Any] = {"low": low, "high": high}
    for tissue, mask in (("brain", inside), ("WM", white)):
        own = values[mask].astype(np.float64)
        known = own[np.isfinite(own)]
        places = [float(p) for p in np.percentile(known, (5, 25, 50, 75, 95))] if known.size else [None] * 5
        found[tissue] = dict(zip(("p05", "p25", "median", "p75", "p95"), places, strict=True)) | {
            "n": int(known.size),
            "missing": float(1.0 - known.size / own.size) if own.size else None,
        }
        counts[tissue] = np.histogram(np.clip(known, low, high), bins=BINS, range=(low, high))[0].tolist()
    return found | {"histogram": counts}


def _positive(values: npt.NDArray[Any]) -> Float64:
    """Return values, NaN where they are not above 0."""
    return np.where(values > 0, values, np.nan).astype(np.float64)


def _median(values: Float64) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None
