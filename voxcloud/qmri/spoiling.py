"""Correction of R1 for imperfect spoiling, with coefficients simulated for the protocol at hand."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, Floats, as_float64, check_b1, result_dtype
from voxcloud.qmri.epg import Spoiling, flash_epg
from voxcloud.qmri.protocol import Excitation, ProtocolError, check_pair
from voxcloud.qmri.relaxation import Angles, solve_r1

T1_RANGE_S = tuple(round(0.1 * i, 1) for i in range(5, 21))
B1_RANGE = tuple(round(0.05 * i, 2) for i in range(14, 27))
# Pulses before the signal counts, in T1: longitudinal magnetisation is within 3e-7 of its steady state.
PREPARATION_T1 = 15.0
MS_PER_S = 1000.0


@dataclass(frozen=True)
class SpoilingCoefficients:
    """Coefficients of ``R1 = R1app / (Pa(fT) R1app + Pb(fT))``, R1 in 1/ms.

    Attributes
    ----------
    p2_a, p2_b : quadratics in fT, highest power first, as published: Pa in ms, Pb without unit.
    pdw, t1w : the protocol that they hold for.
    angles : how R1app is computed.
    spoiling : what was simulated; None for coefficients from elsewhere.
    rmse_apparent_percent, rmse_corrected_percent : error of T1 over the simulated range before and after; NaN unknown.
    """

    p2_a: tuple[float, float, float]
    p2_b: tuple[float, float, float]
    pdw: Excitation
    t1w: Excitation
    angles: Angles = "exact"
    spoiling: Spoiling | None = None
    rmse_apparent_percent: float = field(default=math.nan)
    rmse_corrected_percent: float = field(default=math.nan)

    def check(self, pdw: Excitation, t1w: Excitation, angles: Angles) -> None:
        """Check that the coefficients belong to a protocol.

        Raises
        ------
        ProtocolError
            If a flip angle, a repetition time or the treatment of angles differs.
        """
        for own, other in ((self.pdw, pdw), (self.t1w, t1w)):
            same = math.isclose(own.flip_angle_rad, other.flip_angle_rad, rel_tol=1e-4) and math.isclose(
                own.repetition_time_s, other.repetition_time_s, rel_tol=1e-4
            )
            if not same:
                raise ProtocolError(
                    f"{other.name}: spoiling coefficients were made for {own.flip_angle_rad:.4g} rad and a repetition "
                    f"time of {own.repetition_time_s:g} s, found {other.flip_angle_rad:.4g} rad and "
                    f"{other.repetition_time_s:g} s. Make them with spoiling_coefficients for this protocol."
                )
        if self.angles != angles:
            raise ProtocolError(
                f"spoiling coefficients were made for {self.angles} R1, found {angles}. Make them with "
                f"angles='{angles}'."
            )

    def describe(self) -> dict[str, Any]:
        """Return a plain record (JSON)."""
        return {
            "p2_a": list(self.p2_a),
            "p2_b": list(self.p2_b),
            "pdw": asdict(self.pdw),
            "t1w": asdict(self.t1w),
            "angles": self.angles,
            "spoiling": None if self.spoiling is None else self.spoiling.describe(),
            "rmse_apparent_percent": _finite(self.rmse_apparent_percent),
            "rmse_corrected_percent": _finite(self.rmse_corrected_percent),
        }


def spoiling_coefficients(
    pdw: Excitation,
    t1w: Excitation,
    spoiling: Spoiling | None = None,
    *,
    angles: Angles = "exact",
    t1_range_s: npt.ArrayLike = T1_RANGE_S,
    b1_range: npt.ArrayLike = B1_RANGE,
) -> SpoilingCoefficients:
    """Simulate a protocol and return its correction for imperfect spoiling.

    For each T1 and B1 both signals are simulated by extended phase graphs and give an apparent T1 with the known B1.
    Per B1 a line ``T1 = A + B T1app`` is fitted, then quadratics in B1 to A and B: Pa and Pb.

    Parameters
    ----------
    pdw, t1w : excitations (rad, s).
    spoiling : RF increment, spoiler, T2 and diffusion; by default 137 degrees, 26 mT/m for 3.3876 ms, 70 ms, .8
        um^2/ms.
    angles : how R1app is computed.
    t1_range_s : T1 in s, by default .5 to 2 in steps of .1.
    b1_range : ratios, by default .7 to 1.3 in steps of .05.

    Raises
    ------
    ProtocolError
        If the excitations are the same, or there are fewer than two T1 or three B1.

    References
    ----------
    1. Preibisch and Deichmann (2009), doi:10.1002/mrm.21776.
    2. Corbin and Callaghan (2021), doi:10.1002/mrm.28720.
    """
    check_pair(pdw, t1w)
    settings = Spoiling() if spoiling is None else spoiling
    t1, b1 = np.unique(as_float64(t1_range_s)), np.unique(as_float64(b1_range))
    if t1.size < 2 or b1.size < 3 or t1[0] <= 0 or b1[0] <= 0:
        raise ProtocolError(
            f"spoiling: expected at least two T1 (s) and three B1 (ratio) above zero, found {t1.tolist()} and "
            f"{b1.tolist()}."
        )
    t1_grid, b1_grid = (x.ravel() for x in np.meshgrid(t1, b1))  # rows of one B1
    signals = [_simulate(x, t1_grid, b1_grid, settings) for x in (pdw, t1w)]
    apparent = 1.0 / solve_r1(signals[0], signals[1], pdw, t1w, b1_grid, angles).r1
    lines = np.array([np.polyfit(row, t1 * MS_PER_S, 1) for row in apparent.reshape(b1.size, t1.size) * MS_PER_S])
    p2_b, p2_a = (np.polyfit(b1, lines[:, i], 2) for i in (0, 1))
    corrected = (np.polyval(p2_a, b1_grid) / MS_PER_S) + np.polyval(p2_b, b1_grid) * apparent
    return SpoilingCoefficients(
        _triple(p2_a),
        _triple(p2_b),
        pdw,
        t1w,
        angles,
        settings,
        _rmse_percent(apparent, t1_grid),
        _rmse_percent(corrected, t1_grid),
    )


def correct_spoiling(r1: npt.ArrayLike, b1: npt.ArrayLike, coefficients: SpoilingCoefficients) -> Floats:
    """Return R1 corrected for imperfect spoiling: ``R1 = R1app / (Pa(fT) R1app + Pb(fT))`` with R1 in 1/ms inside.

    Parameters
    ----------
    r1 : apparent R1 in 1/s, of the protocol of the coefficients.
    b1 : ratio of actual to nominal flip angle.
    coefficients : of this protocol.

    Returns
    -------
    1/s

    Raises
    ------
    ImageError
        If B1 is not a ratio.

    References
    ----------
    Preibisch and Deichmann (2009), doi:10.1002/mrm.21776.
    """
    check_b1(b1)
    return apply_spoiling(as_float64(r1), as_float64(b1), coefficients)[0].astype(result_dtype(r1))


def apply_spoiling(r1: Float64, b1: Float64, coefficients: SpoilingCoefficients) -> tuple[Float64, Float64]:
    """Return corrected R1 (1/s) and its derivative by the apparent one, from float64 arrays, unchecked."""
    from voxcloud.qmri.relaxation_kernel import spoiling_array

    arrays = np.broadcast_arrays(r1, b1)
    flat = [np.array(x).ravel() for x in arrays]
    below, slope = np.empty(flat[0].size), np.empty(flat[0].size)
    spoiling_array(*flat, np.array(coefficients.p2_a), np.array(coefficients.p2_b), below, slope)
    with np.errstate(all="ignore"):
        return (flat[0] / below).reshape(arrays[0].shape), slope.reshape(arrays[0].shape)


def spoiling_slope(r1: npt.ArrayLike, b1: npt.ArrayLike, coefficients: SpoilingCoefficients) -> Float64:
    """Return the derivative of the corrected R1 by the apparent one (1/s): ``Pb / (Pa R1app + Pb)^2``."""
    return apply_spoiling(as_float64(r1), as_float64(b1), coefficients)[1]


def _simulate(excitation: Excitation, t1: Float64, b1: Float64, spoiling: Spoiling) -> Float64:
    # The small number keeps whole ratios, e.g. 15 x 0.5 s / 25 ms, from losing a pulse to rounding.
    pulses = np.floor(PREPARATION_T1 * t1 / excitation.repetition_time_s + 1e-9).astype(np.int64)
    return flash_epg(b1 * excitation.flip_angle_rad, t1, np.maximum(pulses, 1), excitation.repetition_time_s, spoiling)


def _triple(values: Float64) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third


def _rmse_percent(found: Float64, truth: Float64) -> float:
    return float(100.0 * np.sqrt(np.mean((found / truth - 1.0) ** 2)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
