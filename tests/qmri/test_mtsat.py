"""MTsat, its corrections and its error against the toolbox and against a simulated saturation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.qmri.mtsat import estimate_mtsat, mtsat_error
from voxcloud.qmri.protocol import Excitation
from voxcloud.qmri.relaxation import ernst_signal


def six(name: str, degrees: float = 6) -> Excitation:
    return Excitation(name, float(np.deg2rad(degrees)), 0.0245)


PDW, T1W, MTW = six("PDw"), six("T1w", 21), six("MTw")


@pytest.mark.parametrize(
    "angles, correction, column",
    [
        ("exact", "none", "raw_exact"),
        ("exact", "helms", "helms_exact"),
        ("small-angle", "none", "raw_small"),
        ("small-angle", "helms", "helms_small"),
        ("exact", "lipp", "lipp_exact"),
    ],
)
def test_estimate_mtsat__agrees_with_the_toolbox(
    table: Callable[[str], Any], angles: Any, correction: Any, column: str
) -> None:
    t = table("mtsat")
    protocols = np.stack(
        [t[f"{q}_{c}_{u}"] for c in ("mtw", "pdw", "t1w") for q, u in (("fa", "deg"), ("TR", "ms"))], 1
    )
    seen = 0
    for row in np.unique(protocols, axis=0):
        rows = (protocols == row).all(axis=1)
        mtw, pdw, t1w = (Excitation("", float(np.deg2rad(row[2 * i])), row[2 * i + 1] / 1000) for i in range(3))
        signals = [t[f"S_{c}"][rows] for c in ("mtw", "pdw", "t1w")]
        found = estimate_mtsat(*signals, mtw, pdw, t1w, t["B1"][rows], angles=angles, correction=correction)
        np.testing.assert_allclose(found, t[f"MTsat_{column}_pu"][rows], rtol=1e-10)
        seen += int(rows.sum())
    assert seen == len(t["B1"]) == 150


@pytest.mark.parametrize("angles", ["exact", "small-angle"])
def test_mtsat_error__agrees_with_the_toolbox(table: Callable[[str], Any], angles: Any) -> None:
    t = table("errormaps")
    signals, errors = (tuple(t[f"{q}_{c}"] for c in ("mtw", "pdw", "t1w")) for q in ("S", "d"))
    found = mtsat_error(signals, errors, MTW, PDW, T1W, t["B1"], angles=angles, correction="none")
    np.testing.assert_allclose(found / 100, t[f"dMT_{angles.split('-')[0]}_frac"], rtol=1e-9)


@pytest.mark.parametrize("correction", ["helms", "lipp"])
def test_mtsat_error__is_the_total_differential_of_the_corrected_map(correction: Any) -> None:
    b1 = np.linspace(0.8, 1.2, 6)
    s = [ernst_signal(0.9, 700.0, e, b1, d) for e, d in ((MTW, 0.012), (PDW, 0.0), (T1W, 0.0))]
    e = [np.full(6, 0.5), np.full(6, 0.8), np.full(6, 0.3)]
    total = 0.0
    for i in range(3):
        up, down = ([x * (1 + sign * 1e-5 * (k == i)) for k, x in enumerate(s)] for sign in (1, -1))
        slope = [estimate_mtsat(*x, MTW, PDW, T1W, b1, correction=correction) for x in (up, down)]
        total += ((slope[0] - slope[1]) / (2e-5 * s[i]) * e[i]) ** 2
    found = mtsat_error(tuple(s), tuple(e), MTW, PDW, T1W, b1, correction=correction)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.sqrt(total), rtol=1e-6)


@pytest.mark.parametrize("saturation", [0.002, 0.01, 0.02])
def test_estimate_mtsat__recovers_a_simulated_saturation(saturation: float) -> None:
    s = [ernst_signal(1.0, 700.0, e, 1.0, d) for e, d in ((MTW, saturation), (PDW, 0.0), (T1W, 0.0))]
    # The equation is of first order in saturation, R1 TR and the squared angle.
    assert float(estimate_mtsat(*s, MTW, PDW, T1W)) == pytest.approx(100 * saturation, rel=0.04)


def test_estimate_mtsat__without_b1_is_uncorrected() -> None:
    s = [ernst_signal(1.0, 700.0, e, 0.9, d) for e, d in ((MTW, 0.01), (PDW, 0.0), (T1W, 0.0))]
    plain = estimate_mtsat(*s, MTW, PDW, T1W)
    assert plain == estimate_mtsat(*s, MTW, PDW, T1W, 0.9, correction="none")
    corrected = estimate_mtsat(*s, MTW, PDW, T1W, 0.9, constant=0.3)
    assert float(corrected / plain) == pytest.approx(0.7 / (1 - 0.3 * 0.9))


def test_estimate_mtsat__is_nan_where_a_signal_is_zero() -> None:
    s = np.array([40.0, 0.0, 40.0, 40.0])
    found = estimate_mtsat(s, np.array([60.0, 60, 0, 60]), np.array([50.0, 50, 50, 0]), MTW, PDW, T1W)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True])
