"""R1 and signal amplitude from two FLASH contrasts: the rational approximation of the Ernst equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, Floats, as_float64, check_b1, result_dtype
from voxcloud.qmri.protocol import Excitation, check_pair

Angles = Literal["exact", "small-angle"]
ANGLES: tuple[Angles, ...] = ("exact", "small-angle")


@dataclass(frozen=True)
class R1Estimate:
    """R1 and amplitude, and by how much each changes with each signal.

    Attributes
    ----------
    r1 : 1/s, not clipped.
    amplitude : signal of an excitation by 90 degrees at full relaxation, in units of the images.
    r1_by_pdw, r1_by_t1w : derivatives of R1, 1/s per unit of signal.
    amplitude_by_pdw, amplitude_by_t1w : derivatives of the amplitude.
    """

    r1: Float64
    amplitude: Float64
    r1_by_pdw: Float64
    r1_by_t1w: Float64
    amplitude_by_pdw: Float64
    amplitude_by_t1w: Float64


def ernst_signal(
    r1: npt.ArrayLike,
    amplitude: npt.ArrayLike,
    excitation: Excitation,
    b1: npt.ArrayLike = 1.0,
    mtsat: npt.ArrayLike = 0.0,
) -> Float64:
    """Return the steady-state FLASH signal at TE = 0 with perfect spoiling.

    ``S = A sin(a) (1 - E) / (1 - (1 - d) E cos(a))`` with ``a = fT alpha`` and ``E = exp(-R1 TR)``; a saturation d just
    before each excitation stands for magnetisation transfer, and lowers the numerator too.

    Parameters
    ----------
    r1 : 1/s.
    amplitude : any unit; the result has it.
    excitation : nominal flip angle (rad) and repetition time (s).
    b1 : ratio of actual to nominal flip angle.
    mtsat : saturation per repetition as a fraction (not p.u.).
    """
    angle = as_float64(b1) * excitation.flip_angle_rad
    e1 = np.exp(-as_float64(r1) * excitation.repetition_time_s)
    kept = 1.0 - as_float64(mtsat)
    signal = as_float64(amplitude) * np.sin(angle) * kept * (1.0 - e1) / (1.0 - kept * e1 * np.cos(angle))
    return np.asarray(signal)


def effective_angle(excitation: Excitation, b1: npt.ArrayLike | None = None, angles: Angles = "exact") -> Float64:
    """Return t = 2 tan(fT alpha / 2), or t = fT alpha in the small-angle approximation.

    Parameters
    ----------
    excitation : nominal flip angle in rad.
    b1 : fT, ratio of actual to nominal flip angle; None is 1 everywhere.
    angles : ``exact`` or ``small-angle``.
    """
    from voxcloud.qmri.relaxation_kernel import effective_array

    actual = np.atleast_1d(np.array(excitation.flip_angle_rad * as_float64(1.0 if b1 is None else b1)))
    found = np.empty(actual.size)
    effective_array(actual.ravel(), angles == "exact", found)
    return found.reshape(() if b1 is None else np.shape(b1))


def solve_r1(
    s_pdw: Float64, s_t1w: Float64, pdw: Excitation, t1w: Excitation, b1: Float64 | None, angles: Angles
) -> R1Estimate:
    """Solve for R1 and amplitude on float64 arrays, unclipped; formulas and units as in ``estimate_r1``."""
    from voxcloud.qmri.relaxation_kernel import solve_r1_array

    t_pdw, t_t1w = (effective_angle(x, b1, angles) for x in (pdw, t1w))
    arrays = np.broadcast_arrays(s_pdw, s_t1w, t_pdw, t_t1w)
    found = np.empty((6, arrays[0].size))
    # Copies: what is broadcast cannot be written to, and would be compiled for anew.
    solve_r1_array(*(np.array(x).ravel() for x in arrays), pdw.repetition_time_s, t1w.repetition_time_s, found)
    return R1Estimate(*(row.reshape(arrays[0].shape) for row in found))


def estimate_r1(
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
) -> Floats:
    """Return R1 in 1/s.

    ``R1 = 0.5 (S_PD t_PD / TR_PD - S_T1 t_T1 / TR_T1) / (S_T1 / t_T1 - S_PD / t_PD)``, ``t = 2 tan(fT alpha / 2)``
    (exact) or ``fT alpha`` (small angle). Against the Ernst equation the exact form is right within .07 %, the small
    angle within 9.3 % for protocols in use; both assume R1 TR << 1.

    Parameters
    ----------
    s_pdw, s_t1w : signals at TE = 0 of one shape, arbitrary units.
    pdw, t1w : excitations.
    b1 : ratio of actual to nominal flip angle, of a shape that broadcasts; None: R1 is then semi-quantitative.
    angles : ``exact`` or ``small-angle``.

    Returns
    -------
    1/s, not clipped; NaN where a signal or B1 is zero or NaN. float32 if both signals are.

    Raises
    ------
    ProtocolError
        If both excitations are the same.
    ImageError
        If B1 is not a ratio (e.g. in percent).

    References
    ----------
    1. Helms, Dathe and Dechent (2008), doi:10.1002/mrm.21542.
    2. Tabelow et al. (2019), doi:10.1016/j.neuroimage.2019.01.029.
    """
    return _solve(s_pdw, s_t1w, pdw, t1w, b1, angles).r1.astype(result_dtype(s_pdw, s_t1w))


def estimate_amplitude(
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
) -> Floats:
    """Return the amplitude A in units of the images: proton density times receive sensitivity times a constant.

    ``A = S_T1 S_PD (TR_T1 t_PD / t_T1 - TR_PD t_T1 / t_PD) / (S_PD TR_T1 t_PD - S_T1 TR_PD t_T1)``; within .003 % of
    the Ernst equation (exact), 7 % (small angle). Parameters, NaN, errors and references as for ``estimate_r1``.
    """
    return _solve(s_pdw, s_t1w, pdw, t1w, b1, angles).amplitude.astype(result_dtype(s_pdw, s_t1w))


def r1_error(
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    e_pdw: npt.ArrayLike,
    e_t1w: npt.ArrayLike,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
) -> Floats:
    """Return the error of R1 in 1/s: ``sqrt((dR1/dS_PD e_PD)^2 + (dR1/dS_T1 e_T1)^2)``.

    Parameters
    ----------
    e_pdw, e_t1w : errors of the signals, e.g. ``EstaticsFit.residual``, in units of the signals.

    The others, and what is raised, as for ``estimate_r1``.

    References
    ----------
    Mohammadi et al. (2022), doi:10.1016/j.neuroimage.2022.119529.
    """
    found = _solve(s_pdw, s_t1w, pdw, t1w, b1, angles)
    error = np.hypot(found.r1_by_pdw * as_float64(e_pdw), found.r1_by_t1w * as_float64(e_t1w))
    return np.asarray(error, dtype=result_dtype(s_pdw, s_t1w))


def amplitude_error(
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    e_pdw: npt.ArrayLike,
    e_t1w: npt.ArrayLike,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
) -> Floats:
    """Return the error of the amplitude, in its units, by propagation; parameters as for ``r1_error``."""
    found = _solve(s_pdw, s_t1w, pdw, t1w, b1, angles)
    error = np.hypot(found.amplitude_by_pdw * as_float64(e_pdw), found.amplitude_by_t1w * as_float64(e_t1w))
    return np.asarray(error, dtype=result_dtype(s_pdw, s_t1w))


def _solve(
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None,
    angles: Angles,
) -> R1Estimate:
    check_pair(pdw, t1w)
    if b1 is not None:
        check_b1(b1)
    return solve_r1(as_float64(s_pdw), as_float64(s_t1w), pdw, t1w, None if b1 is None else as_float64(b1), angles)
