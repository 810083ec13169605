"""B1 by each method against the toolbox and against simulated signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri.b1 import b1_from_afi, b1_from_double_angle, b1_from_percent, b1_from_rf_map, b1_from_tfl
from voxcloud.qmri.protocol import ProtocolError

METHODS: dict[str, Callable[..., Any]] = {
    "AFI": lambda one, two, angle, n: b1_from_afi(one, two, angle, (0.03, 0.03 * n)),
    "DAM": lambda one, two, angle, n: b1_from_double_angle(one, two, angle),
    "TFL": lambda one, two, angle, n: b1_from_tfl(one, angle),
    "RFMAP": lambda one, two, angle, n: b1_from_rf_map(one, angle),
}


def test_b1__every_method_agrees_with_the_toolbox(table: Callable[[str], Any]) -> None:
    t = table("b1_other")
    assert set(t["method"]) == set(METHODS)
    for method, one, two, degrees, n, expected in zip(
        *(t[c] for c in ("method", "in1", "in2", "alphanom_deg", "param", "B1_pu")), strict=True
    ):
        found = METHODS[str(method)](np.array([one]), np.array([two]), float(np.deg2rad(degrees)), float(n))
        np.testing.assert_allclose(100 * found, expected, rtol=1e-12)


def afi_signals(b1: Any, angle: float, times: tuple[float, float], t1: float) -> tuple[Any, Any]:
    """Return the steady state of two interleaved repetition times (Yarnykh 2007, equations 2 and 3)."""
    c = np.cos(b1 * angle)
    e1, e2 = (np.exp(-t / t1) for t in times)
    below = (1 - e1 * e2 * c * c) / np.sin(b1 * angle)
    return (1 - e2 + (1 - e1) * e2 * c) / below, (1 - e1 + (1 - e2) * e1 * c) / below


def test_b1_from_afi__recovers_b1_from_its_steady_state() -> None:
    b1 = np.linspace(0.5, 1.4, 19)
    found = b1_from_afi(*afi_signals(b1, np.deg2rad(60), (0.02, 0.1), 1.1), float(np.deg2rad(60)), (0.02, 0.1))
    np.testing.assert_allclose(found, b1, rtol=0.01)
    assert (found < b1)[5:].all()  # first order in TR / T1


def test_b1_from_double_angle__is_exact_at_full_relaxation() -> None:
    b1 = np.linspace(0.4, 1.4, 11)
    found = b1_from_double_angle(np.sin(b1 * 1.0), np.sin(2 * b1 * 1.0), 1.0)
    np.testing.assert_allclose(found, b1, rtol=1e-12)


def test_b1__is_nan_where_nothing_was_measured() -> None:
    none, some = np.zeros(2), np.ones(2)
    assert np.isnan(b1_from_afi(none, none, 1.0, (0.02, 0.1))).all()
    assert np.isnan(b1_from_double_angle(none, some, 1.0)).all()
    assert np.isnan(b1_from_double_angle(some, 2.1 * some, 1.0)).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: b1_from_afi(np.ones(2), np.ones(2), 60.0, (0.02, 0.1)),
        lambda: b1_from_double_angle(np.ones(2), np.ones(2), 60.0),
        lambda: b1_from_tfl(np.full(2, 800.0), 80.0),
        lambda: b1_from_rf_map(np.full(2, 3072.0), 90.0),
    ],
)
def test_b1__refuses_degrees(call: Callable[[], Any]) -> None:
    with pytest.raises(ProtocolError, match=r"flip angle in rad, .* found \d0\. \d0 where \d\.\d+ is meant"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: b1_from_tfl(np.full(5, 8.0), float(np.deg2rad(80))),  # hundredfold too small
        lambda: b1_from_rf_map(np.full(5, 80000.0), float(np.deg2rad(90))),
        lambda: b1_from_percent(np.full(5, 1.02)),
    ],
)
def test_b1__refuses_other_units(call: Callable[[], Any]) -> None:
    with pytest.raises(ImageError, match="expected the ratio of actual to nominal flip angle"):
        call()


def test_b1_from_afi__refuses_swapped_times_and_other_grids() -> None:
    with pytest.raises(ProtocolError, match=r"0 < TR1 < TR2, found 0\.1 and 0\.02 s"):
        b1_from_afi(np.ones(2), np.ones(2), 1.0, (0.1, 0.02))
    with pytest.raises(ImageError, match=r"AFI: expected two images of one shape, found \(2,\) and \(3,\)"):
        b1_from_afi(np.ones(2), np.ones(3), 1.0, (0.02, 0.1))


def test_b1_from_percent__is_a_hundredth() -> None:
    found = b1_from_percent(np.array([90, 110], dtype=np.int16))
    np.testing.assert_allclose(found, [0.9, 1.1], rtol=1e-6)
    assert found.dtype == np.float32


def alternating_signals(angle: np.ndarray, t1_s: float, short: float, long: float) -> tuple[np.ndarray, np.ndarray]:
    """Steady state of two alternating repetition times by going on until nothing changes."""
    e1, e2 = np.exp(-short / t1_s), np.exp(-long / t1_s)
    before = np.ones_like(angle)
    for _ in range(2000):
        first = before
        second = 1.0 + (first * np.cos(angle) - 1.0) * e1
        before = 1.0 + (second * np.cos(angle) - 1.0) * e2
    return first * np.sin(angle), second * np.sin(angle)


def test_b1_from_afi__with_the_right_t1_is_exact_and_with_a_wrong_one_nearly() -> None:
    b1 = np.linspace(0.6, 1.3, 15)
    nominal, times = np.deg2rad(60.0), (0.05, 0.15)
    signals = alternating_signals(b1 * nominal, 1.2, *times)
    np.testing.assert_allclose(b1_from_afi(*signals, nominal, times, t1_s=1.2), b1, rtol=1e-9)
    first_order = b1_from_afi(*signals, nominal, times) / b1 - 1.0
    assert -0.012 < first_order.min() < -0.003
    for t1_s in (0.8, 1.6):
        np.testing.assert_allclose(b1_from_afi(*signals, nominal, times, t1_s=t1_s), b1, rtol=0.006)
        assert np.abs(b1_from_afi(*signals, nominal, times, t1_s=t1_s) / b1 - 1).max() < np.abs(first_order).max()


def test_b1_from_afi__refuses_a_t1_in_milliseconds() -> None:
    with pytest.raises(ProtocolError, match="expected a T1 in s"):
        b1_from_afi(np.ones(2), np.ones(2), 1.0, (0.02, 0.1), t1_s=1200.0)
