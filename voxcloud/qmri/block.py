"""Maps of one block of voxels: what ``MapMaker`` does between reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, Floats, as_float64
from voxcloud.qmri.log_linear import BlockFit, EchoPlan, EchoTrain, compilable, fit_block
from voxcloud.qmri.mtsat import correction_switches
from voxcloud.qmri.presets import Preset
from voxcloud.qmri.protocol import ProtocolError, SeriesProtocol
from voxcloud.qmri.spoiling import SpoilingCoefficients

# In the order of the rows that the kernel fills; errors stand behind their map.
MAPS = ("R1map", "A", "MTsat", "R2starmap")
ROWS = tuple(name + suffix for name in MAPS for suffix in ("", "_error"))
# What the fit of so many voxels hands on stays in the second cache.
PART_VOXELS = 4096


@dataclass(frozen=True)
class BlockSettings:
    """Protocol and preset as the kernels want them, checked by ``MapMaker``.

    Attributes
    ----------
    plan : echo trains in the order PDw, T1w, MTw as far as they are there.
    preset : how maps are made.
    alone : plans of single contrasts whose own R2* is wanted (``R2starmap_<contrast>``).
    excitations : (trains, 2) flip angle in rad and repetition time in s.
    spoiling : coefficients or None.
    """

    plan: EchoPlan
    preset: Preset
    alone: Mapping[str, EchoPlan]
    excitations: Float64
    spoiling: SpoilingCoefficients | None

    @classmethod
    def of(
        cls,
        contrasts: Mapping[str, SeriesProtocol],
        preset: Preset,
        spoiling: SpoilingCoefficients | None,
        alone: Sequence[str],
    ) -> BlockSettings:
        """Prepare a protocol."""
        plan = EchoPlan.of({key: series.echo_time_s for key, series in contrasts.items()})
        excitations = [(x.flip_angle_rad, x.repetition_time_s) for x in (c.excitation for c in contrasts.values())]
        alone_plans = {key: EchoPlan.of({key: contrasts[key].echo_time_s}) for key in alone}
        return cls(plan, preset, alone_plans, as_float64(excitations), spoiling)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of ``block_maps``."""
        return (*ROWS, *(f"R2starmap_{key}" for key in self.alone))

    @property
    def limits(self) -> Float64:
        """(rows, 2) lowest and highest value."""
        p = self.preset
        by_map = {
            "R1map": p.r1_limits,
            "A": (-p.amplitude_limit, p.amplitude_limit),
            "MTsat": (-p.mtsat_limit, p.mtsat_limit),
            "R2starmap": (-p.r2star_limit, p.r2star_limit),
        }
        return as_float64([by_map[row.partition("_")[0]] for row in self.rows])


def block_maps(
    signals: Mapping[str, npt.NDArray[Any]],
    receive: Mapping[str, npt.ArrayLike] | None,
    b1: npt.ArrayLike | None,
    settings: BlockSettings,
    dtype: npt.DTypeLike,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the maps of one block of voxels.

    Parameters
    ----------
    signals : contrast -> (echoes, v).
    receive : contrast -> (v,) receive sensitivity, or None.
    b1 : (v,) ratio or None.
    settings : what is wanted.
    dtype : float32 or float64, of signals and maps.

    Returns
    -------
    (rows, v) maps, named by ``settings.rows``, and (rows, 2) counts: voxels beyond the limits, and not finite. Rows of
    maps that the contrasts do not allow mean nothing.
    """
    trains = [compilable(signals[train.name], dtype) for train in settings.plan.trains]
    sensitivities = None if receive is None else [as_float64(receive[t.name]) for t in settings.plan.trains]
    n = trains[0].shape[1]
    field = as_float64(compilable(np.ones(n) if b1 is None else b1, np.float64))
    found = np.empty((len(settings.rows), n), dtype)
    counts = np.zeros((len(settings.rows), 2), np.int64)
    for start in range(0, n, PART_VOXELS):
        part = slice(start, min(start + PART_VOXELS, n))
        _one_part(trains, sensitivities, field, settings, part, found, counts)
    return found, counts


def _one_part(
    trains: Sequence[Floats],
    sensitivities: Sequence[Float64] | None,
    b1: Float64,
    settings: BlockSettings,
    part: slice,
    found: Floats,
    counts: npt.NDArray[np.int64],
) -> None:
    from voxcloud.qmri.relaxation_kernel import limit, maps_tiles  # numba takes half a second to import

    preset, limits, size = settings.preset, settings.limits, part.stop - part.start
    fit = fit_block(trains, settings.plan, preset.weighted_passes, preset.signal_floor, part)
    if len(trains) > 1:
        loss = _take_means(trains, fit, settings.plan, part) if preset.signal == "mean-echoes" else np.ones(size)
        if sensitivities is not None:
            _take_sensitivity_out(fit, [s[part] for s in sensitivities])
        coefficients = settings.spoiling
        maps_tiles(
            fit.rows,
            loss,
            b1,
            settings.excitations,
            preset.angles == "exact",
            coefficients is not None,
            np.zeros((3, 3)) if coefficients is None else coefficients.polynomials,
            *correction_switches(preset.mtsat_correction, preset.constant),
            limits,
            part.start,
            found,
            counts,
        )
    else:
        for row in range(2):
            k = ROWS.index("R2starmap") + row
            limit(fit.rows.ravel(), row * size, *limits[k], part.start, size, found, k, counts)
    for k, (key, plan) in enumerate(settings.alone.items(), len(ROWS)):
        images = trains[[t.name for t in settings.plan.trains].index(key)]
        alone = fit_block([images], plan, preset.weighted_passes, preset.signal_floor, part)
        limit(alone.rows.ravel(), 0, *limits[k], part.start, size, found, k, counts)


def check_mean_echoes(contrasts: Mapping[str, SeriesProtocol]) -> None:
    """Check that means of echoes weight R2* alike in all contrasts.

    Raises
    ------
    ProtocolError
        If the echo times up to the shortest train's last differ.
    """
    last = min(max(c.echo_time_s) for c in contrasts.values()) * (1 + 1e-9)
    used = {key: sorted(t for t in c.echo_time_s if t <= last) for key, c in contrasts.items()}
    first_name, first = next(iter(used.items()))
    for name, times in used.items():
        if len(times) != len(first) or not np.allclose(times, first, rtol=1e-4, atol=0):
            raise ProtocolError(
                f"signal 'mean-echoes': expected the echo times of {first_name} ({_list(first)} s) in every contrast, "
                f"found {_list(times)} s in {name}. Use signal 'te0'."
            )


def _list(times: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in times)


def _n_used(train: EchoTrain, plan: EchoPlan) -> int:
    last = min(float(t.times[-1]) for t in plan.trains)
    return int((train.times <= last * (1 + 1e-9)).sum())


def _take_means(trains: Sequence[Floats], fit: BlockFit, plan: EchoPlan, part: slice) -> Float64:
    """Put means of echoes in place of signals at TE = 0; return the mean of exp(-TE R2*) that they hold in PDw."""
    for images, train, row in zip(trains, plan.trains, fit.intercept, strict=True):
        row[:] = 0.0
        for i in train.order[: _n_used(train, plan)]:
            row += images[i, part]
        row /= _n_used(train, plan)
    pdw = plan.trains[0]
    times = pdw.times[: _n_used(pdw, plan)]
    loss = np.zeros_like(fit.r2star)
    with np.errstate(all="ignore"):
        for t in times:
            loss += np.exp(-t * fit.r2star)
    return loss / len(times)


def _take_sensitivity_out(fit: BlockFit, sensitivities: Sequence[Float64]) -> None:
    """Divide signals and residuals by the sensitivity of the receiving coil.

    Dividing here and not before the fit leaves the weights of the fit to the noise.
    """
    with np.errstate(all="ignore"):
        for signal, residual, sensitivity in zip(fit.intercept, fit.residual, sensitivities, strict=True):
            signal /= sensitivity
            residual /= np.abs(sensitivity)
