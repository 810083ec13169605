"""Maps of one block of voxels: what ``MapMaker`` does between reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64
from voxcloud.qmri.log_linear import BlockFit, EchoPlan, EchoTrain, fit_block
from voxcloud.qmri.mtsat import b1_inside, propagate, solve_mtsat
from voxcloud.qmri.presets import Preset
from voxcloud.qmri.protocol import ProtocolError, SeriesProtocol
from voxcloud.qmri.relaxation import solve_r1
from voxcloud.qmri.spoiling import SpoilingCoefficients, apply_spoiling, spoiling_slope


@dataclass(frozen=True)
class BlockMaps:
    """Maps and errors (``..._error``) of a block, (v,) float64, and how many voxels of each map were clipped."""

    values: dict[str, Float64]
    clipped: dict[str, int]


def block_maps(
    signals: Sequence[Sequence[npt.NDArray[Any]]],
    sensitivities: Sequence[Float64 | None],
    b1: Float64 | None,
    contrasts: Mapping[str, SeriesProtocol],
    plan: EchoPlan,
    preset: Preset,
    spoiling: SpoilingCoefficients | None,
    alone: Sequence[str] = (),
) -> BlockMaps:
    """Return the maps of one block of voxels.

    Parameters
    ----------
    signals : train -> one (v,) array per echo, in order of echo time.
    sensitivities : train -> (v,) receive sensitivity or None.
    b1 : (v,) ratio or None.
    contrasts, plan, preset, spoiling : as checked by ``MapMaker``.
    alone : contrasts whose own R2* is wanted too (``R2starmap_<contrast>``).
    """
    fit = fit_block(signals, plan, preset.weighted_passes, preset.signal_floor)
    values = {"R2starmap": fit.r2star, "R2starmap_error": fit.r2star_error}
    if "T1w" in contrasts:
        at_zero = _signals_at_zero(signals, sensitivities, fit, plan, preset)
        errors = _errors_at_zero(sensitivities, fit, plan)
        with np.errstate(all="ignore"):
            values |= _relaxation(at_zero, errors, b1, contrasts, preset, spoiling)
            values |= _saturation(at_zero, errors, b1, contrasts, preset)
            if preset.signal == "mean-echoes":
                _take_decay_out(values, fit, plan, contrasts)
    for train, images in zip(plan.trains, signals, strict=True):
        if train.name in alone:
            one = EchoPlan.of({train.name: [float(t) for t in train.times]})
            values[f"R2starmap_{train.name}"] = fit_block(
                [images], one, preset.weighted_passes, preset.signal_floor
            ).r2star
    return _clipped(values, preset)


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


def _signals_at_zero(
    signals: Sequence[Sequence[npt.NDArray[Any]]],
    sensitivities: Sequence[Float64 | None],
    fit: BlockFit,
    plan: EchoPlan,
    preset: Preset,
) -> dict[str, Float64]:
    """Return the signal of each contrast, without the sensitivity of the receiving coil.

    Dividing here and not before the fit leaves the weights of the fit to the noise.
    """
    found = {}
    for train, images, intercept, sensitivity in zip(plan.trains, signals, fit.intercept, sensitivities, strict=True):
        value = intercept
        if preset.signal == "mean-echoes":
            n = _n_used(train, plan)
            value = np.zeros_like(intercept)
            for image in images[:n]:
                value += image
            value /= n
        with np.errstate(all="ignore"):
            found[train.name] = value if sensitivity is None else value / sensitivity
    return found


def _errors_at_zero(sensitivities: Sequence[Float64 | None], fit: BlockFit, plan: EchoPlan) -> dict[str, Float64]:
    found = {}
    for train, residual, sensitivity in zip(plan.trains, fit.residual, sensitivities, strict=True):
        with np.errstate(all="ignore"):
            found[train.name] = residual if sensitivity is None else residual / np.abs(sensitivity)
    return found


def _relaxation(
    at_zero: Mapping[str, Float64],
    errors: Mapping[str, Float64],
    b1: Float64 | None,
    contrasts: Mapping[str, SeriesProtocol],
    preset: Preset,
    spoiling: SpoilingCoefficients | None,
) -> dict[str, Float64]:
    pdw, t1w = contrasts["PDw"].excitation, contrasts["T1w"].excitation
    found = solve_r1(at_zero["PDw"], at_zero["T1w"], pdw, t1w, b1, preset.angles)
    r1, r1_error = found.r1, np.hypot(found.r1_by_pdw * errors["PDw"], found.r1_by_t1w * errors["T1w"])
    if spoiling is not None and b1 is not None:
        r1_error = r1_error * np.abs(spoiling_slope(r1, b1, spoiling))
        r1 = apply_spoiling(r1, b1, spoiling)
    return {
        "R1map": r1,
        "R1map_error": r1_error,
        "A": found.amplitude,
        "A_error": np.hypot(found.amplitude_by_pdw * errors["PDw"], found.amplitude_by_t1w * errors["T1w"]),
    }


def _saturation(
    at_zero: Mapping[str, Float64],
    errors: Mapping[str, Float64],
    b1: Float64 | None,
    contrasts: Mapping[str, SeriesProtocol],
    preset: Preset,
) -> dict[str, Float64]:
    if "MTw" not in contrasts:
        return {}
    pdw, t1w, mtw = (contrasts[key].excitation for key in ("PDw", "T1w", "MTw"))
    inside = b1_inside(b1, preset.mtsat_correction)
    estimate = solve_r1(at_zero["PDw"], at_zero["T1w"], pdw, t1w, inside, preset.angles)
    found = solve_mtsat(at_zero["MTw"], estimate, mtw, b1, preset.mtsat_correction, preset.constant)
    return {"MTsat": found.mtsat, "MTsat_error": propagate(found, errors["MTw"], errors["PDw"], errors["T1w"])}


def _take_decay_out(
    values: dict[str, Float64], fit: BlockFit, plan: EchoPlan, contrasts: Mapping[str, SeriesProtocol]
) -> None:
    """Divide A by the mean of exp(-TE R2*) over the echoes used: means of echoes hold that much of it."""
    train = next(t for t in plan.trains if t.name == "PDw")
    times = train.times[: _n_used(train, plan)]
    decay = np.zeros_like(fit.r2star)
    for t in times:
        decay += np.exp(-t * fit.r2star)
    decay /= len(times)
    values["A"], values["A_error"] = values["A"] / decay, values["A_error"] / decay


def _clipped(values: dict[str, Float64], preset: Preset) -> BlockMaps:
    limits = {
        "R1map": preset.r1_limits,
        "R2starmap": (-preset.r2star_limit, preset.r2star_limit),
        "MTsat": (-preset.mtsat_limit, preset.mtsat_limit),
        "A": (-preset.amplitude_limit, preset.amplitude_limit),
    }
    found, counts = {}, {}
    for name, array in values.items():
        low, high = limits[name.partition("_")[0]]
        found[name] = np.clip(array, low, high)
        if name in limits:
            counts[name] = int(((array < low) | (array > high)).sum())
    return BlockMaps(found, counts)
