"""The arithmetic of ESTATICS on one block of voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, as_float64


@dataclass(frozen=True)
class EchoTrain:
    """Echoes of one contrast in order of echo time.

    Attributes
    ----------
    name : the contrast.
    order : (echoes,) where each is among the images as they came.
    times : (echoes,) s, ascending.
    position : (echoes,) where each time is among ``EchoPlan.times``.
    """

    name: str
    order: tuple[int, ...]
    times: Float64
    position: tuple[int, ...]


@dataclass(frozen=True)
class EchoPlan:
    """Echo trains of all contrasts, and the distinct echo times among them, in s and ascending."""

    trains: tuple[EchoTrain, ...]
    times: Float64

    @classmethod
    def of(cls, echo_time_s: Mapping[str, Sequence[float]]) -> EchoPlan:
        """Sort the echoes of each contrast, so that the order in which they come does not change a bit."""
        times = sorted({float(t) for train in echo_time_s.values() for t in train})
        trains = []
        for name, train in echo_time_s.items():
            order = tuple(sorted(range(len(train)), key=lambda i, train=train: float(train[i])))  # type: ignore[misc]
            ordered = [float(train[i]) for i in order]
            trains.append(EchoTrain(name, order, as_float64(ordered), tuple(times.index(t) for t in ordered)))
        return cls(tuple(trains), as_float64(times))


@dataclass(frozen=True)
class BlockFit:
    """What ``fit_block`` finds, each (v,) float64; lists have one entry per train. See ``EstaticsFit``."""

    r2star: Float64
    r2star_error: Float64
    intercept: list[Float64]
    residual: list[Float64]


@dataclass
class _State:
    """A fit in the making: ``ln S = level - slope (TE - reference)``, and the sums that gave it."""

    slope: Float64
    level: list[Float64]
    centre: Sequence[Float64 | float]  # weighted mean of the shifted times of each train
    denominator: Float64 | float
    train_weight: Sequence[Float64 | float]  # weight of an echo = train_weight x time_weight
    time_weight: Float64 | None


def fit_block(
    signals: Sequence[Sequence[npt.NDArray[Any]]], plan: EchoPlan, weighted_passes: int, signal_floor: float
) -> BlockFit:
    """Fit one block of voxels.

    Parameters
    ----------
    signals : train -> one (v,) array per echo, in order of echo time.
    plan : the trains.
    weighted_passes, signal_floor : as in ``fit_estatics``.
    """
    n = signals[0][0].size
    reference = float(plan.times.mean())  # sums of shifted times are better conditioned
    shifted = plan.times - reference
    with np.errstate(all="ignore"):  # a NaN or infinite voxel stays its own
        clipped = [_clipped(images, n, signal_floor) for images in signals]
        logs = [np.log(values) for values in clipped]
        state = _ordinary(logs, plan, shifted)
        for _ in range(weighted_passes):
            state = _weighted(logs, plan, shifted, state)
        residual, error = _errors(clipped, plan, shifted, state)
        intercept = [np.exp(level + state.slope * reference) for level in state.level]
    assert state.slope.shape == (n,)
    return BlockFit(state.slope, error, intercept, residual)


def _clipped(images: Sequence[npt.NDArray[Any]], n: int, floor: float) -> Float64:
    values = np.empty((len(images), n))
    for row, image in zip(values, images, strict=True):
        row[...] = image
    return np.maximum(values, floor, out=values)


def _ordinary(logs: list[Float64], plan: EchoPlan, shifted: Float64) -> _State:
    numerator, denominator = np.zeros(logs[0].shape[1]), 0.0
    centres, means = [], []
    for y, train in zip(logs, plan.trains, strict=True):
        t = shifted[list(train.position)]
        centre = float(t.mean())
        total = np.zeros_like(numerator)
        for row, deviation in zip(y, t - centre, strict=True):
            numerator += deviation * row
            total += row
        denominator += float(((t - centre) ** 2).sum())
        centres.append(centre)
        means.append(total / len(y))
    slope = -numerator / denominator
    level = [mean + slope * centre for mean, centre in zip(means, centres, strict=True)]
    return _State(slope, level, centres, denominator, [1.0] * len(logs), None)


def _weighted(logs: list[Float64], plan: EchoPlan, shifted: Float64, last: _State) -> _State:
    """One pass with weights exp(2 fitted), which is a factor of the train times one of the echo time."""
    factor = np.exp(np.multiply.outer(-2.0 * shifted, last.slope))
    by_time = factor * shifted[:, None]
    highest = np.maximum.reduce(last.level)
    train_weight = [np.exp(2.0 * (level - highest)) for level in last.level]
    sums: dict[tuple[int, ...], tuple[Float64, Float64, Float64]] = {}
    numerator, denominator = np.zeros_like(last.slope), np.zeros_like(last.slope)
    centres, means = [], []
    product = np.empty_like(last.slope)
    for y, train, weight in zip(logs, plan.trains, train_weight, strict=True):
        if train.position not in sums:  # trains with the same times share them
            sums[train.position] = _time_sums(factor, by_time, shifted, train.position)
        total, first, spread = sums[train.position]
        wy, wty = np.zeros_like(last.slope), np.zeros_like(last.slope)
        for row, u in zip(y, train.position, strict=True):
            wy += np.multiply(factor[u], row, out=product)
            wty += np.multiply(by_time[u], row, out=product)
        centre = first / total
        numerator += weight * (wty - centre * wy)
        denominator += weight * spread
        centres.append(centre)
        means.append(wy / total)
    slope = -numerator / denominator
    level = [mean + slope * centre for mean, centre in zip(means, centres, strict=True)]
    return _State(slope, level, centres, denominator, train_weight, factor)


def _time_sums(
    factor: Float64, by_time: Float64, shifted: Float64, position: tuple[int, ...]
) -> tuple[Float64, Float64, Float64]:
    """Return sum w, sum w t and sum w (t - mean)^2 over the echoes of a train."""
    total, first, second = (np.zeros(factor.shape[1]) for _ in range(3))
    for u in position:
        total += factor[u]
        first += by_time[u]
        second += by_time[u] * shifted[u]
    return total, first, second - first * first / total


def _errors(clipped: list[Float64], plan: EchoPlan, shifted: Float64, state: _State) -> tuple[list[Float64], Float64]:
    """Return the residuals of each train, and the standard error of R2* that follows from them.

    R2* is a weighted sum of logarithms, ``-sum w (t - centre) ln S / denominator``, and ln S has the error
    residual / S.
    """
    decay = np.exp(np.multiply.outer(-shifted, state.slope))
    variance = np.zeros_like(state.slope)
    residuals = []
    for values, train, level, centre, weight in zip(
        clipped, plan.trains, state.level, state.centre, state.train_weight, strict=True
    ):
        at_reference = np.exp(level)
        squares, influence = np.zeros_like(state.slope), np.zeros_like(state.slope)
        for row, u in zip(values, train.position, strict=True):
            fitted = at_reference * decay[u]
            difference = row - fitted
            squares += difference * difference
            leverage = (shifted[u] - centre) / fitted
            if state.time_weight is not None:
                leverage *= state.time_weight[u]
            influence += leverage * leverage
        mean_square = squares / len(values)
        residuals.append(np.sqrt(mean_square))
        variance += mean_square * influence * (weight * weight)
    return residuals, np.sqrt(variance) / state.denominator
