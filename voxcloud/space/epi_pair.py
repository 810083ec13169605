"""The static field from two EPI images of opposite phase encoding, and the image that both should have been."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from voxcloud.errors import ImageError
from voxcloud.space import epi_pair_kernels as kernels
from voxcloud.space.lines import filter_lines
from voxcloud.space.unwarp import PhaseEncoding, check_readout, phase_axis

Float64 = npt.NDArray[np.float64]
Shape = tuple[int, int, int]

# Weight of the squared gradient of the displacement (mm per mm) against the squared difference of images whose mean
# signal is 1. From .003 to .03 the field hardly changes; ten times more holds it back near the sinuses.
STIFFNESS = 0.01
# Weight of the term that keeps 1 + u' and 1 - u' above zero: it grows without bound as u' nears -1 or 1.
BARRIER = 1e-3
# SD in voxels of the Gaussian on the finest level: less follows noise, more loses detail.
SMOOTHING = 0.6
FEWEST_VOXELS = 8
MOST_LEVELS = 6
MOST_STEPS = 12
LEAST_GAIN = 1e-3
MOST_PRODUCTS = 40
SOLVED = 0.05
MOST_HALVINGS = 12
ARMIJO = 1e-4
# Two images of one sequence differ in total signal by coil loading at most.
LARGEST_RATIO = 2.0
# Of the correlation: less is rounding.
LEAST_BETTER = 1e-4

NOT_BETTER = "the two images do not become more alike"


@dataclass(frozen=True)
class EpiPair:
    """What two EPI images of opposite phase encoding tell.

    Attributes
    ----------
    field_hz : (x, y, z) float32, static field in Hz on the undistorted grid; smooth and finite everywhere.
    corrected : (x, y, z) float32, mean of both images unwarped and scaled by their Jacobian determinants.
    report : plain values (JSON): correlation before and after within the head, displacement in voxels (percentiles),
        least Jacobian determinant, gain between the images, steps and misfit per level, what was ignored.
    doubt : why the field may be wrong, a sentence; empty if nothing speaks against it.
    """

    field_hz: npt.NDArray[np.float32]
    corrected: npt.NDArray[np.float32]
    report: dict[str, Any]
    doubt: str = ""


@dataclass(frozen=True)
class _Level:
    """Spline coefficients of both images on one grid, and the weights between neighbours along its axes."""

    plus: Float64
    minus: Float64
    stiffness: Float64
    barrier: float


def field_from_pair(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    voxel_mm: Sequence[float],
    phase_encoding: PhaseEncoding,
    readout_s: float,
    *,
    stiffness: float = STIFFNESS,
    barrier: float = BARRIER,
    smoothing: float = SMOOTHING,
    name: str = "EPI pair",
) -> EpiPair:
    """Estimate the field with which both images become the same.

    Minimises over the displacement u (voxels along the phase-encode axis, zero where the field is)

    ``1/2 sum (P(y + u) (1 + u') - N(y - u) (1 - u'))^2 + a/2 sum |grad u|^2 + b sum (1 / (1 - u'^2) - 1 - u'^2)``

    from coarse to fine grids by Gauss-Newton steps with a line search, each solved by conjugate gradients that are
    preconditioned by the tridiagonal systems of the lines. The factors 1 + u' and 1 - u' conserve signal; the last term
    keeps both above zero, so that nothing folds. ``field = s u / readout_s`` with the sign of ``unwarp.displacement``.

    Movement of the head between the two images is ignored: a shift along the phase-encode axis by m voxels appears as a
    constant field of m / (2 readout_s). A shift by a third of a voxel along another axis, or a turn by 1 degree, was
    measured to raise the median error from .015 to .07 voxels at most. Register the images first if there is more.

    Parameters
    ----------
    positive : (x, y, z) magnitude, any unit, acquired with ``phase_encoding``.
    negative : the same with opposite phase encoding.
    voxel_mm : (3,) voxel sizes in mm.
    phase_encoding : BIDS ``PhaseEncodingDirection`` of ``positive``, e.g. ``j`` (then ``negative`` has ``j-``).
    readout_s : total readout time of both in s.
    stiffness : a, for displacements in mm and images of mean signal 1.
    barrier : b.
    smoothing : SD in voxels of the Gaussian applied to the images when the field is estimated.
    name : what messages call the pair.

    Raises
    ------
    ImageError
        If shapes differ or are too small, values are not finite, an image is empty, their total signals differ twofold,
        the readout time is not in s or the direction unknown.

    Warns
    -----
    UserWarning
        If the images do not become more alike: not of opposite phase encoding, or another axis.

    References
    ----------
    1. Ruthotto et al. (2012), doi:10.1088/0031-9155/57/18/5715.
    2. Holland, Kuperman and Dale (2010), doi:10.1016/j.neuroimage.2009.11.044.
    3. Macdonald and Ruthotto (2018), staggered grid and line-wise preconditioner, doi:10.1007/s10851-017-0757-x.
    """
    check_readout(readout_s, name=name)
    phase = phase_axis(phase_encoding, name=name)
    plus, minus = _check_pair(positive, negative, voxel_mm, phase.axis, name)
    if not (stiffness > 0 and barrier > 0 and smoothing >= 0):
        raise ImageError(
            f"{name}: expected a stiffness and barrier above 0 and smoothing of 0 or more voxels, found {stiffness:g}, "
            f"{barrier:g} and {smoothing:g}."
        )
    plus, minus = np.moveaxis(plus, phase.axis, 2), np.moveaxis(minus, phase.axis, 2)
    sizes = np.array([*np.delete(np.asarray(voxel_mm, dtype=np.float64), phase.axis), voxel_mm[phase.axis]])
    gain = _gain(plus, minus, name)
    minus = minus * gain
    u, steps = _estimate(plus, minus, sizes, stiffness, barrier, smoothing)
    moved = 0.5 * (u[..., 1:] + u[..., :-1])
    first, second = np.empty(plus.shape), np.empty(plus.shape)
    kernels.correct(_spline(plus), u, 1.0, first)
    kernels.correct(_spline(minus), u, -1.0, second)
    report = _compare(plus, minus, first, second, moved) | {
        "least_jacobian": float(1.0 - np.abs(np.diff(u, axis=2)).max()),
        "gain": gain,
        "stiffness": stiffness,
        "barrier": barrier,
        "smoothing_voxels": smoothing,
        "levels": steps,
        "ignored": "movement between the two images",
    }
    doubt = _doubt(report)
    if doubt:
        warnings.warn(f"{name}: {doubt}", UserWarning, stacklevel=2)
    field = phase.sign * moved / readout_s
    return EpiPair(_back(field, phase.axis), _back(0.5 * (first + second), phase.axis), report, doubt)


def _back(values: Float64, axis: int) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.moveaxis(values, 2, axis), dtype=np.float32)


def _check_pair(
    positive: npt.ArrayLike, negative: npt.ArrayLike, voxel_mm: Sequence[float], axis: int, name: str
) -> tuple[Float64, Float64]:
    plus, minus = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if plus.ndim != 3 or plus.shape != minus.shape:
        raise ImageError(
            f"{name}: expected two images (x, y, z) of one shape, found {plus.shape} and {minus.shape}. Choose one "
            "volume of each, on one grid."
        )
    if plus.shape[axis] < FEWEST_VOXELS:
        raise ImageError(
            f"{name}: expected at least {FEWEST_VOXELS} voxels along phase encoding (axis {'ijk'[axis]}), found shape "
            f"{plus.shape}. Check PhaseEncodingDirection."
        )
    if len(voxel_mm) != 3 or not min(voxel_mm) > 0:
        raise ImageError(f"{name}: expected three positive voxel sizes in mm, found {tuple(voxel_mm)}.")
    for which, image in (("positive", plus), ("negative", minus)):
        if not np.isfinite(image).all() or not image.sum() > 0:
            raise ImageError(
                f"{name}: expected a {which} image with finite values and some signal, found "
                f"{int((~np.isfinite(image)).sum())} voxels that are not finite and a sum of {image.sum():.4g}. "
                "Look at it."
            )
    return plus, minus


def _gain(plus: Float64, minus: Float64, name: str) -> float:
    """Ratio of total signals: distortion moves signal about but neither makes nor destroys it."""
    ratio = float(plus.sum() / minus.sum())
    if not 1.0 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        raise ImageError(
            f"{name}: expected images of one sequence, with about the same total signal, found a ratio of {ratio:.3g}. "
            "Give two images with equal contrast (both b = 0, both spin echoes of one flip angle)."
        )
    return ratio


def _estimate(
    plus: Float64, minus: Float64, voxel_mm: Float64, stiffness: float, barrier: float, smoothing: float
) -> tuple[Float64, list[dict[str, Any]]]:
    """Return the displacement on the faces of the finest grid, (a, b, n + 1) in voxels, and what each level did."""
    # The mean of the signal, weighted by the signal: background has no say.
    scale = float((plus**2 + minus**2).sum() / (plus + minus).sum())
    finest: Shape = (plus.shape[0], plus.shape[1], plus.shape[2])
    u, steps = np.zeros((1, 1, 2)), []
    for shape in _shapes(finest):
        factor = np.array(finest) / shape
        sigma = np.where(factor > 1, 0.5 * factor, smoothing)
        coefficients = [
            _spline(_resize(ndimage.gaussian_filter(image / scale, sigma, mode="nearest"), shape))
            for image in (plus, minus)
        ]
        sizes = voxel_mm * factor
        level = _Level(coefficients[0], coefficients[1], stiffness * (sizes[2] / sizes) ** 2, barrier)
        u = _resize(u, (shape[0], shape[1], shape[2] + 1), faces=True) * (shape[2] / (u.shape[2] - 1))
        u, taken, before, after = _minimise(level, u)
        steps.append({"shape": list(shape), "steps": taken, "misfit_before": before, "misfit_after": after})
    return u, steps


def _minimise(level: _Level, u: Float64) -> tuple[Float64, int, float, float]:
    """Gauss-Newton with a line search; return displacement, steps, objective before and after."""
    start = now = float(kernels.misfit(level.plus, level.minus, u, level.stiffness, level.barrier))
    gradient, diagonal, beside = np.empty(u.shape), np.empty(u.shape), np.empty(level.plus.shape)
    for step in range(MOST_STEPS):
        kernels.linearise(level.plus, level.minus, u, level.stiffness, level.barrier, gradient, diagonal, beside)
        # A constant displacement of empty images costs nothing: keep the matrix positive definite.
        diagonal += 1e-8
        direction = _solve(diagonal, beside, level.stiffness, -gradient)
        descent = float((gradient * direction).sum())
        length = 1.0
        for _ in range(MOST_HALVINGS):
            trial = float(
                kernels.misfit(level.plus, level.minus, u + length * direction, level.stiffness, level.barrier)
            )
            if trial <= now + ARMIJO * length * descent:
                break
            length *= 0.5
        else:
            return u, step, start, now
        u, gained, now = u + length * direction, now - trial, trial
        if gained <= LEAST_GAIN * start:
            return u, step + 1, start, now
    return u, MOST_STEPS, start, now


def _solve(diagonal: Float64, beside: Float64, stiffness: Float64, right: Float64) -> Float64:
    """Solve the Gauss-Newton system by conjugate gradients, roughly: the next step corrects it."""
    x, residual = np.zeros(right.shape), right.copy()
    better, product = np.empty(right.shape), np.empty(right.shape)
    kernels.solve_lines(diagonal, beside, residual, better)
    search, size = better.copy(), float((residual * better).sum())
    goal = SOLVED**2 * float((right * right).sum())
    for _ in range(MOST_PRODUCTS):
        if float((residual * residual).sum()) <= goal:
            break
        kernels.multiply(diagonal, beside, stiffness, search, product)
        length = size / float((search * product).sum())
        x += length * search
        residual -= length * product
        kernels.solve_lines(diagonal, beside, residual, better)
        before, size = size, float((residual * better).sum())
        search = better + (size / before) * search
    return x


def _shapes(finest: Shape) -> list[Shape]:
    """Grids from coarse to fine: halved while an axis keeps at least ``FEWEST_VOXELS``."""
    shapes = [finest]
    while len(shapes) < MOST_LEVELS and shapes[-1][2] >= 2 * FEWEST_VOXELS:
        a, b, n = (-(-s // 2) if s >= 2 * FEWEST_VOXELS else s for s in shapes[-1])
        shapes.append((a, b, n))
    return shapes[::-1]


def _resize(values: Float64, shape: Shape, *, faces: bool = False) -> Float64:
    """Interpolate linearly to another number of voxels over the same extent; ``faces``: the last axis has the edges."""
    for axis, n in enumerate(shape):
        m = values.shape[axis]
        if m == n:
            continue
        at = np.arange(n) * (m - 1) / (n - 1) if faces and axis == 2 else (np.arange(n) + 0.5) * m / n - 0.5
        at = np.clip(at, 0.0, m - 1.0)
        below = np.minimum(at.astype(np.intp), max(m - 2, 0))
        share = (at - below).reshape([-1 if a == axis else 1 for a in range(3)])
        above = np.minimum(below + 1, m - 1)
        values = np.take(values, below, axis) * (1.0 - share) + np.take(values, above, axis) * share
    return values


def _spline(values: Float64) -> Float64:
    coefficients = np.array(values, dtype=np.float64, order="C")
    filter_lines(coefficients.reshape(-1, coefficients.shape[2]))
    return coefficients


def _compare(plus: Float64, minus: Float64, first: Float64, second: Float64, moved: Float64) -> dict[str, Any]:
    mean = first + second
    head = mean > threshold_otsu(np.clip(mean, 0.0, np.percentile(mean, 99.5)))
    before, after = (float(np.corrcoef(a[head], b[head])[0, 1]) for a, b in ((plus, minus), (first, second)))
    low, middle, high = (float(p) for p in np.percentile(moved[head], (1, 50, 99)))
    return {
        "correlation_before": before,
        "correlation_after": after,
        "displacement_voxels": {"1": low, "50": middle, "99": high},
    }


def _doubt(report: dict[str, Any]) -> str:
    before, after = report["correlation_before"], report["correlation_after"]
    if after > before + LEAST_BETTER:
        return ""
    return (
        f"{NOT_BETTER} (correlation {before:.4f} before, {after:.4f} after). Check that they have opposite phase "
        "encoding and that the axis is right."
    )
