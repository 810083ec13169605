"""Maps against physics that is computed another way: magnetisation pulse by pulse, and repeated noisy measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.qmri.maker import MapMaker
from voxcloud.qmri.mtsat import Correction, estimate_mtsat
from voxcloud.qmri.protocol import Excitation, SeriesProtocol
from voxcloud.qmri.relaxation import ernst_signal

Float64 = npt.NDArray[np.float64]
Flash = Callable[[str, float, float], Excitation]


def steady_signal(r1: Float64, angle: Float64, tr_s: float, saturation: Float64 | float) -> Float64:
    """Return the signal after thousands of repetitions of MT pulse, excitation, perfect spoiling and relaxation."""
    z, signal = np.ones_like(r1), np.zeros_like(r1)
    for _ in range(3000):
        z = z * (1.0 - saturation)
        signal, z = z * np.sin(angle), z * np.cos(angle)
        z = 1.0 + (z - 1.0) * np.exp(-r1 * tr_s)
    return signal


def test_ernst_signal__is_the_steady_state(flash: Flash) -> None:
    r1, b1, saturation = np.array([0.5, 1.0, 1.6]), np.array([0.8, 1.0, 1.2]), np.array([0.0, 0.01, 0.02])
    mtw = flash("MTw", 7, 25)
    expected = steady_signal(r1, b1 * mtw.flip_angle_rad, 0.025, saturation)
    np.testing.assert_allclose(ernst_signal(r1, 1.0, mtw, b1, saturation), expected, rtol=1e-9)


@pytest.mark.parametrize("correction", ["helms", "lipp"])
@pytest.mark.parametrize("degrees, tr", [((6, 21, 6), 24.5), ((4, 24, 5), 19.0)])
def test_estimate_mtsat__undoes_what_b1_does_to_the_pulse(
    flash: Flash, correction: Correction, degrees: tuple[float, float, float], tr: float
) -> None:
    grid = np.meshgrid([0.6, 0.8, 1.0, 1.3, 1.6], [0.005, 0.010, 0.020], [0.75, 0.9, 1.0, 1.1, 1.25])
    r1, nominal, b1 = (x.ravel() for x in grid)
    pdw, t1w, mtw = (flash(n, a, tr) for n, a in zip(("PDw", "T1w", "MTw"), degrees, strict=True))
    # What each correction assumes: Helms a saturation of b1^2 (1 - C b1), whose first factor cancels; Lipp a line.
    seen = nominal * (b1**2 * (1 - 0.4 * b1) / 0.6 if correction == "helms" else 1 + 1.2 * (b1 - 1))
    signals = [steady_signal(r1, b1 * e.flip_angle_rad, tr / 1000, seen if e is mtw else 0.0) for e in (mtw, pdw, t1w)]
    found = estimate_mtsat(*signals, mtw, pdw, t1w, b1, correction=correction)
    ratio = found / (100 * nominal)
    # The equation is of first order in the saturation: a little too high, the more the larger it is.
    assert 1.0 < ratio.min() < ratio.max() < 1.05
    assert ratio[nominal < 0.006].max() < 1.025
    uncorrected = estimate_mtsat(*signals, mtw, pdw, t1w, b1, correction="none") / (100 * nominal)
    assert np.ptp(uncorrected) > 5 * np.ptp(ratio)


@pytest.mark.parametrize("b1", [0.8, 1.2])
@pytest.mark.parametrize("r1, saturation, noise", [(1.0, 0.018, 5.0), (0.65, 0.009, 20.0)])
def test_map_maker__errors_against_the_spread_of_repeated_measurements(
    b1: float, r1: float, saturation: float, noise: float
) -> None:
    rng, n = np.random.default_rng(7), 8000
    times = [2.34e-3 * (i + 1) for i in range(8)]
    contrasts = {
        name: SeriesProtocol(name, times[:echoes], float(np.deg2rad(degrees)), 0.0245)
        for name, degrees, echoes in (("PDw", 6, 8), ("T1w", 21, 8), ("MTw", 6, 6))
    }
    signals: dict[str, Any] = {}
    for name, series in contrasts.items():
        at_zero = float(ernst_signal(r1, 1e4, series.excitation, b1, saturation if name == "MTw" else 0.0))
        pure = at_zero * np.exp(-20 * np.array(series.echo_time_s))[:, None]
        signals[name] = np.hypot(pure + rng.normal(0, noise, (len(pure), n)), rng.normal(0, noise, (len(pure), n)))
    found = MapMaker(contrasts, with_b1=True).block(signals, np.full(n, b1))
    # Residuals of single echoes stand for errors of signals at TE = 0, as published: of 22 echoes that is twice too
    # much for R1 and MTsat. R2* lacks the degrees of freedom that the fit took.
    for name, expected in (("R1map", 2.14), ("A", 1.67), ("MTsat", 1.93), ("R2starmap", np.sqrt(18 / 22))):
        ratio = np.sqrt((found[f"{name}_error"] ** 2).mean()) / found[name].std()
        assert ratio == pytest.approx(expected, rel=0.06 if name != "R2starmap" else 0.04), name
