"""ESTATICS on one block of voxels: echo trains as the compiled kernel wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, Floats, as_float64

# Gaps between echo times that differ by less are one: decimals in a sidecar differ by 1e-17 s. At the steepest R2* that
# signals between 1 and 65535 allow, an echo further on is off by 1e-11 of itself.
SAME_GAP_S = 1e-15


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

    @cached_property
    def arrays(self) -> tuple[Any, ...]:
        """What ``estatics_kernel.fit_tiles`` needs, in its order.

        ``rows`` (echo -> row among the images), ``first`` (train -> its first echo; one more at the end), ``position``
        (echo -> distinct time), ``group`` (train -> distinct set of times), ``leader`` (set -> a train that has it),
        ``shifted`` (distinct times less their mean: sums are better conditioned), ``gap`` (step between times -> which
        gap), ``gaps`` (distinct gaps in s) and ``reference`` (that mean).
        """
        sets = list(dict.fromkeys(train.position for train in self.trains))
        gaps: list[float] = []
        gap = []
        for step in np.diff(self.times):
            same = [k for k, known in enumerate(gaps) if abs(known - step) < SAME_GAP_S]
            if not same:
                gaps.append(float(step))
            gap.append(same[0] if same else len(gaps) - 1)
        reference = float(self.times.mean())
        return (
            _whole([i for train in self.trains for i in train.order]),
            _whole(np.cumsum([0, *(len(train.order) for train in self.trains)])),
            _whole([u for train in self.trains for u in train.position]),
            _whole([sets.index(train.position) for train in self.trains]),
            _whole([next(c for c, t in enumerate(self.trains) if t.position == found) for found in sets]),
            self.times - reference,
            _whole(gap),
            as_float64(gaps),
            reference,
        )


@dataclass(frozen=True)
class BlockFit:
    """What ``fit_block`` finds, as rows of one (2 + 2 trains, v) float64 array. See ``EstaticsFit``."""

    rows: Float64

    @property
    def r2star(self) -> Float64:
        """(v,) in 1/s."""
        return np.asarray(self.rows[0])

    @property
    def r2star_error(self) -> Float64:
        """(v,) in 1/s."""
        return np.asarray(self.rows[1])

    @property
    def intercept(self) -> Float64:
        """(trains, v) signals at TE = 0."""
        return self.rows[2 : 1 + len(self.rows) // 2]

    @property
    def residual(self) -> Float64:
        """(trains, v)."""
        return self.rows[1 + len(self.rows) // 2 :]


def fit_block(
    signals: Sequence[Floats],
    plan: EchoPlan,
    weighted_passes: int,
    signal_floor: float,
    part: slice | None = None,
) -> BlockFit:
    """Fit one block of voxels.

    Parameters
    ----------
    signals : train -> (echoes, v), echoes as they came when the plan was made; as ``compilable`` returns them.
    plan : the trains.
    weighted_passes, signal_floor : as in ``fit_estatics``.
    part : which voxels of the arrays; None: all.
    """
    from voxcloud.qmri.estatics_kernel import fit_tiles  # numba takes half a second to import

    start, stop, _ = (part or slice(None)).indices(signals[0].shape[1])
    found = np.empty((2 + 2 * len(signals), stop - start))
    fit_tiles(tuple(signals), *plan.arrays, weighted_passes, float(signal_floor), start, found)
    return BlockFit(found)


def compilable(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Floats:
    """Return the values in C order, writable and aligned, as the kernels were compiled for; copied only if needed."""
    return np.require(values, dtype, ["C", "A", "W"])


def _whole(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)
