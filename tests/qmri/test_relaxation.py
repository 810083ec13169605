"""R1 and amplitude against the toolbox and against the Ernst equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri.protocol import Excitation, ProtocolError
from voxcloud.qmri.relaxation import amplitude_error, ernst_signal, estimate_amplitude, estimate_r1, r1_error

PDW = Excitation("PDw", float(np.deg2rad(6)), 0.0245)
T1W = Excitation("T1w", float(np.deg2rad(21)), 0.0245)


def by_protocol(t: dict[str, Any]) -> Any:
    for name in np.unique(t["protocol"]):
        rows = t["protocol"] == name
        one = {k: v[rows] for k, v in t.items()}
        yield (
            one,
            *(
                Excitation(c, float(np.deg2rad(one[f"fa_{c}_deg"][0])), one[f"TR_{c}_ms"][0] / 1000)
                for c in ("pdw", "t1w")
            ),
        )


@pytest.mark.parametrize("angles, column", [("exact", "exact"), ("small-angle", "smallangle")])
@pytest.mark.parametrize("corrected", [True, False])
def test_estimate__agrees_with_the_toolbox(
    table: Callable[[str], Any], angles: Any, column: str, corrected: bool
) -> None:
    suffix = "" if corrected else "_noB1"
    seen = 0
    for t, pdw, t1w in by_protocol(table("r1_pd")):
        args = (t["S_pdw"], t["S_t1w"], pdw, t1w, t["B1"] if corrected else None)
        np.testing.assert_allclose(estimate_r1(*args, angles=angles), t[f"R1_{column}{suffix}_per_s"], rtol=1e-12)
        np.testing.assert_allclose(estimate_amplitude(*args, angles=angles), t[f"A_{column}{suffix}"], rtol=1e-12)
        seen += len(t["B1"])
    assert seen == 473


def test_estimate__edge_cases_are_those_of_the_toolbox(table: Callable[[str], Any]) -> None:
    t = table("edge_cases")
    args = (t["S_pdw"], t["S_t1w"], PDW, T1W, t["B1"])
    np.testing.assert_allclose(estimate_r1(*args) / 1000, t["R1_exact_per_ms"], rtol=1e-12)
    np.testing.assert_allclose(estimate_amplitude(*args), t["A_exact"], rtol=1e-12)
    assert np.isnan(t["A_exact"]).sum() == 4


@pytest.mark.parametrize("angles, r1_bound, a_bound", [("exact", 7e-4, 3e-5), ("small-angle", 0.094, 0.071)])
def test_estimate__recovers_the_ernst_equation(angles: Any, r1_bound: float, a_bound: float) -> None:
    r1, b1 = (x.ravel() for x in np.meshgrid(np.linspace(0.25, 2.0, 36), np.linspace(0.6, 1.4, 17)))
    pdw, t1w = Excitation("PDw", PDW.flip_angle_rad, 0.0237), Excitation("T1w", float(np.deg2rad(20)), 0.0187)
    s = [ernst_signal(r1, 800.0, e, b1) for e in (pdw, t1w)]
    off_r1 = np.abs(estimate_r1(*s, pdw, t1w, b1, angles=angles) / r1 - 1).max()
    off_a = np.abs(estimate_amplitude(*s, pdw, t1w, b1, angles=angles) / 800 - 1).max()
    # An error far below its bound would mean that the wrong formula was tested.
    assert 0.1 * r1_bound < off_r1 < r1_bound
    assert 0.01 * a_bound < off_a < a_bound


def test_estimate_amplitude__of_equal_repetition_times_is_exact() -> None:
    r1 = np.linspace(0.25, 2.0, 8)
    s = [ernst_signal(r1, 800.0, e, 1.2) for e in (PDW, T1W)]
    np.testing.assert_allclose(estimate_amplitude(*s, PDW, T1W, 1.2), 800, rtol=1e-12)


def test_estimate__b1_matters() -> None:
    s = [ernst_signal(1.0, 800.0, e, 0.9) for e in (PDW, T1W)]
    # R1 = fT^2 R1app: both angles are 10 % too large in the calculation.
    assert float(estimate_r1(*s, PDW, T1W)) == pytest.approx(1 / 0.9**2, rel=0.01)


def central_difference(fun: Callable[..., Any], signals: list[Any], errors: list[Any]) -> Any:
    total = 0.0
    for i, (s, e) in enumerate(zip(signals, errors, strict=True)):
        step = 1e-5 * s
        up, down = ([*signals[:i], s + sign * step, *signals[i + 1 :]] for sign in (1, -1))
        total += ((fun(*up) - fun(*down)) / (2 * step) * e) ** 2
    return np.sqrt(total)


@pytest.mark.parametrize("angles", ["exact", "small-angle"])
def test_errors__agree_with_the_toolbox(table: Callable[[str], Any], angles: Any) -> None:
    t = table("errormaps")
    column = angles.split("-")[0]
    args = (t["S_pdw"], t["S_t1w"], t["d_pdw"], t["d_t1w"], PDW, T1W, t["B1"])
    np.testing.assert_allclose(r1_error(*args, angles=angles) / 1000, t[f"dR1_{column}"], rtol=1e-9)
    np.testing.assert_allclose(amplitude_error(*args, angles=angles), t[f"dPD_{column}"], rtol=1e-9)


def test_errors__are_total_differentials_for_another_protocol() -> None:
    pdw, t1w = Excitation("PDw", 0.07, 0.0237), Excitation("T1w", 0.35, 0.0187)
    r1, b1 = np.linspace(0.4, 1.8, 8), np.linspace(0.8, 1.2, 8)
    s = [ernst_signal(r1, 500.0, e, b1) for e in (pdw, t1w)]
    e = [np.full(8, 1.3), np.full(8, 0.7)]
    for error, estimate in ((r1_error, estimate_r1), (amplitude_error, estimate_amplitude)):
        expected = central_difference(lambda p, t, f=estimate: f(p, t, pdw, t1w, b1), s, e)
        np.testing.assert_allclose(error(*s, *e, pdw, t1w, b1), expected, rtol=1e-7)


def test_estimate__precision_of_results_is_that_of_images() -> None:
    s = [ernst_signal(np.ones(3), 800.0, e).astype(np.float32) for e in (PDW, T1W)]
    assert estimate_r1(*s, PDW, T1W, np.ones(3)).dtype == np.float32
    assert estimate_r1(s[0].astype(np.float64), s[1], PDW, T1W).dtype == np.float64


def test_estimate__refuses_b1_in_percent_and_twins() -> None:
    with pytest.raises(ImageError, match="found a median of 98"):
        estimate_r1(np.ones(4), np.ones(4), PDW, T1W, np.full(4, 98.0))
    with pytest.raises(ProtocolError, match="no information on R1"):
        estimate_r1(np.ones(4), np.ones(4), PDW, Excitation("T1w", PDW.flip_angle_rad, 0.0245))
