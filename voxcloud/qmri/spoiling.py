"""Correction of R1 for imperfect spoiling, with coefficients simulated for the protocol at hand."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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
# The published form is kept where it is right within this share (percent) between these T1 and B1; it is for the
# published protocols (.20 and .28), and out by several per cent where the flip angle of PDw is above 10 degrees.
KEPT_PERCENT = 0.3
TOLERATED_PERCENT = 0.5
NOT_MENDED = "after correction for imperfect spoiling R1 is off by up to"
INNER_T1_S, INNER_B1 = (0.6, 1.8), (0.75, 1.25)

Form = Literal["published", "curved"]
Triple = tuple[float, float, float]
FORMS: tuple[Form, ...] = ("published", "curved")


@dataclass(frozen=True)
class SpoilingCoefficients:
    """Coefficients of ``R1 = R1app / (Pa(fT) R1app + Pb(fT) + Pc(fT) / R1app)``, R1 in 1/ms.

    The published form has no Pc: ``T1 = Pa + Pb T1app``; the curved one is ``T1 = Pa + Pb T1app + Pc T1app^2``.

    Attributes
    ----------
    p2_a, p2_b : quadratics in fT, highest power first, as published: Pa in ms, Pb without unit.
    pdw, t1w : the protocol that they hold for.
    angles : how R1app is computed.
    spoiling : what was simulated; None for coefficients from elsewhere.
    rmse_apparent_percent, rmse_corrected_percent : error of T1 over the simulated range before and after; NaN unknown.
    p2_c : quadratic in fT, in 1/ms; zeros in the published form.
    largest_error_percent : of T1 after correction, for T1 from .6 to 1.8 s and B1 from .75 to 1.25; NaN unknown.
    """

    p2_a: tuple[float, float, float]
    p2_b: tuple[float, float, float]
    pdw: Excitation
    t1w: Excitation
    angles: Angles = "exact"
    spoiling: Spoiling | None = None
    rmse_apparent_percent: float = field(default=math.nan)
    rmse_corrected_percent: float = field(default=math.nan)
    p2_c: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest_error_percent: float = field(default=math.nan)

    @property
    def polynomials(self) -> Float64:
        """(3, 3) Pa, Pb and Pc, highest power first."""
        return as_float64([self.p2_a, self.p2_b, self.p2_c])

    @property
    def form(self) -> Form:
        """Published or curved."""
        return "curved" if any(self.p2_c) else "published"

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
            "p2_c": list(self.p2_c),
            "form": self.form,
            "pdw": asdict(self.pdw),
            "t1w": asdict(self.t1w),
            "angles": self.angles,
            "spoiling": None if self.spoiling is None else self.spoiling.describe(),
            "rmse_apparent_percent": _finite(self.rmse_apparent_percent),
            "rmse_corrected_percent": _finite(self.rmse_corrected_percent),
            "largest_error_percent": _finite(self.largest_error_percent),
        }


def spoiling_coefficients(
    pdw: Excitation,
    t1w: Excitation,
    spoiling: Spoiling | None = None,
    *,
    angles: Angles = "exact",
    form: Form | None = None,
    t1_range_s: npt.ArrayLike = T1_RANGE_S,
    b1_range: npt.ArrayLike = B1_RANGE,
) -> SpoilingCoefficients:
    """Simulate a protocol and return its correction for imperfect spoiling.

    For each T1 and B1 both signals are simulated by extended phase graphs and give an apparent T1 with the known B1.
    ``published``: per B1 a line ``T1 = A + B T1app`` is fitted, then quadratics in B1 to A and B: Pa and Pb.
    ``curved``: ``T1 = Pa + Pb T1app + Pc T1app^2`` with quadratics in B1, fitted at once to relative errors of T1. The
    more is not spoiled, the less the first form fits; the second has a tenth of its error or less.

    Parameters
    ----------
    pdw, t1w : excitations (rad, s).
    spoiling : RF increment, spoiler, T2 and diffusion; by default 137 degrees, 26 mT/m for 3.3876 ms, 70 ms, .8
        um^2/ms.
    angles : how R1app is computed.
    form : by default the published one where it is right within .3 % for T1 from .6 to 1.8 s and B1 from .75 to 1.25,
        else the curved.
    t1_range_s : T1 in s, by default .5 to 2 in steps of .1.
    b1_range : ratios, by default .7 to 1.3 in steps of .05.

    Raises
    ------
    ProtocolError
        If the excitations are the same, there are fewer than three T1 or three B1, or the form is unknown.

    Warns
    -----
    UserWarning
        If R1 stays off by more than .5 %, as where both flip angles are large.

    References
    ----------
    1. Preibisch and Deichmann (2009), doi:10.1002/mrm.21776.
    2. Corbin and Callaghan (2021), doi:10.1002/mrm.28720.
    """
    check_pair(pdw, t1w)
    settings = Spoiling() if spoiling is None else spoiling
    t1, b1 = np.unique(as_float64(t1_range_s)), np.unique(as_float64(b1_range))
    if t1.size < 3 or b1.size < 3 or t1[0] <= 0 or b1[0] <= 0:
        raise ProtocolError(
            f"spoiling: expected at least three T1 (s) and three B1 (ratio) above zero, found {t1.tolist()} and "
            f"{b1.tolist()}."
        )
    if form is not None and form not in FORMS:
        raise ProtocolError(f"spoiling: expected form to be one of {', '.join(FORMS)}, found '{form}'.")
    t1_grid, b1_grid = (x.ravel() for x in np.meshgrid(t1, b1))  # rows of one B1
    signals = [_simulate(x, t1_grid, b1_grid, settings) for x in (pdw, t1w)]
    apparent = 1.0 / solve_r1(signals[0], signals[1], pdw, t1w, b1_grid, angles).r1
    fitted = SpoilingCoefficients((0.0,) * 3, (0.0,) * 3, pdw, t1w, angles, settings)
    for candidate in FORMS if form is None else (form,):
        fit = _fit_published if candidate == "published" else _fit_curved
        p2_a, p2_b, p2_c = fit(apparent, t1_grid, b1_grid)
        fitted = replace(fitted, p2_a=p2_a, p2_b=p2_b, p2_c=p2_c)
        corrected = 1.0 / apply_spoiling(1.0 / apparent, b1_grid, fitted)[0]
        fitted = replace(
            fitted,
            rmse_apparent_percent=_rmse_percent(apparent, t1_grid),
            rmse_corrected_percent=_rmse_percent(corrected, t1_grid),
            largest_error_percent=_largest_percent(corrected, t1_grid, b1_grid),
        )
        if fitted.largest_error_percent <= KEPT_PERCENT:
            break
    if fitted.largest_error_percent > TOLERATED_PERCENT:
        warnings.warn(
            f"{pdw.name} and {t1w.name}: {NOT_MENDED} {fitted.largest_error_percent:.1f} % at flip angles of "
            f"{math.degrees(pdw.flip_angle_rad):.1f} and {math.degrees(t1w.flip_angle_rad):.1f} degrees. A smaller "
            "flip angle of PDw is less sensitive.",
            UserWarning,
            stacklevel=2,
        )
    return fitted


def _fit_published(apparent: Float64, t1: Float64, b1: Float64) -> tuple[Triple, Triple, Triple]:
    levels = np.unique(b1)
    lines = np.array([np.polyfit(apparent[b1 == x] * MS_PER_S, t1[b1 == x] * MS_PER_S, 1) for x in levels])
    p2_b, p2_a = (np.polyfit(levels, lines[:, i], 2) for i in (0, 1))
    return _triple(p2_a), _triple(p2_b), (0.0, 0.0, 0.0)


def _fit_curved(apparent: Float64, t1: Float64, b1: Float64) -> tuple[Triple, Triple, Triple]:
    by_power = [apparent**j * b1**d for j in range(3) for d in (2, 1, 0)]
    # Divided by T1: what is made small are relative errors.
    found = np.linalg.lstsq(np.stack(by_power, axis=1) / t1[:, None], np.ones_like(t1), rcond=None)[0]
    in_ms = found.reshape(3, 3) * MS_PER_S ** np.array([[1.0], [0.0], [-1.0]])
    return _triple(in_ms[0]), _triple(in_ms[1]), _triple(in_ms[2])


def correct_spoiling(r1: npt.ArrayLike, b1: npt.ArrayLike, coefficients: SpoilingCoefficients) -> Floats:
    """Return R1 corrected for imperfect spoiling, as ``SpoilingCoefficients`` has it.

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
    spoiling_array(*flat, coefficients.polynomials, below, slope)
    with np.errstate(all="ignore"):
        return (flat[0] / below).reshape(arrays[0].shape), slope.reshape(arrays[0].shape)


def spoiling_slope(r1: npt.ArrayLike, b1: npt.ArrayLike, coefficients: SpoilingCoefficients) -> Float64:
    """Return the derivative of the corrected R1 by the apparent one (1/s): ``(Pb + 2 Pc / R1app) / below^2``."""
    return apply_spoiling(as_float64(r1), as_float64(b1), coefficients)[1]


def _simulate(excitation: Excitation, t1: Float64, b1: Float64, spoiling: Spoiling) -> Float64:
    # The small number keeps whole ratios, e.g. 15 x 0.5 s / 25 ms, from losing a pulse to rounding.
    pulses = np.floor(PREPARATION_T1 * t1 / excitation.repetition_time_s + 1e-9).astype(np.int64)
    return flash_epg(b1 * excitation.flip_angle_rad, t1, np.maximum(pulses, 1), excitation.repetition_time_s, spoiling)


def _triple(values: Float64) -> Triple:
    first, second, third = (float(v) for v in values)
    return first, second, third


def _rmse_percent(found: Float64, truth: Float64) -> float:
    return float(100.0 * np.sqrt(np.mean((found / truth - 1.0) ** 2)))


def _largest_percent(found: Float64, truth: Float64, b1: Float64) -> float:
    """Return the largest error within the inner range; over all if nothing was simulated there."""
    inner = (truth >= INNER_T1_S[0]) & (truth <= INNER_T1_S[1]) & (b1 >= INNER_B1[0]) & (b1 <= INNER_B1[1])
    error = 100.0 * np.abs(found / truth - 1.0)
    return float(np.max(error[inner] if inner.any() else error))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
