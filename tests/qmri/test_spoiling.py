"""Coefficients of imperfect spoiling, and R1 that they mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxcloud.qmri.epg import Spoiling, flash_epg
from voxcloud.qmri.protocol import Excitation, ProtocolError
from voxcloud.qmri.relaxation import estimate_r1
from voxcloud.qmri.spoiling import (
    Form,
    SpoilingCoefficients,
    correct_spoiling,
    spoiling_coefficients,
    spoiling_slope,
)

REFERENCE = Path(__file__).resolve().parent.parent / "reference" / "hmri"
SPOILED = Spoiling()
PDW = Excitation("PDw", float(np.deg2rad(6)), 0.025)
T1W = Excitation("T1w", float(np.deg2rad(21)), 0.025)


@pytest.fixture(scope="module")
def published() -> Any:
    return json.loads((REFERENCE / "epg_FIL_v3star.json").read_text())


@pytest.fixture(scope="module")
def coefficients() -> SpoilingCoefficients:
    return spoiling_coefficients(PDW, T1W)


def test_spoiling_coefficients__are_the_published_ones(coefficients: SpoilingCoefficients, published: Any) -> None:
    given, expected = published["Input"], published["Output"]
    settings = Spoiling()
    assert given["seq_params"]["FA_deg"] == pytest.approx(np.rad2deg([PDW.flip_angle_rad, T1W.flip_angle_rad]))
    assert given["seq_params"]["TR_ms"] == [25, 25]
    assert settings.rf_increment_rad == pytest.approx(np.deg2rad(given["seq_params"]["Phi0_deg"]))
    np.testing.assert_allclose(coefficients.p2_a, expected["P2_a"], atol=5.001e-5)
    np.testing.assert_allclose(coefficients.p2_b, expected["P2_b"], atol=5.001e-5)
    assert coefficients.rmse_apparent_percent == pytest.approx(expected["RMSE_percent"]["T1app"], abs=1e-3)
    assert coefficients.rmse_corrected_percent == pytest.approx(expected["RMSE_percent"]["T1corr"], abs=1e-3)


def residual_error(pdw: Excitation, t1w: Excitation, found: SpoilingCoefficients, seed: int) -> tuple[float, float]:
    """Return the largest relative error of R1 before and after, at T1 and B1 between those of the simulation."""
    rng = np.random.default_rng(seed)
    t1, b1 = rng.uniform(0.6, 1.9, 40), rng.uniform(0.75, 1.25, 40)
    assert found.spoiling is not None
    signals = [
        flash_epg(
            b1 * e.flip_angle_rad, t1, (15 * t1 / e.repetition_time_s).astype(int), e.repetition_time_s, found.spoiling
        )
        for e in (pdw, t1w)
    ]
    apparent = estimate_r1(*signals, pdw, t1w, b1)
    corrected = correct_spoiling(apparent, b1, found)
    return float(np.abs(apparent * t1 - 1).max()), float(np.abs(corrected * t1 - 1).max())


def test_correct_spoiling__mends_simulated_r1(coefficients: SpoilingCoefficients) -> None:
    before, after = residual_error(PDW, T1W, coefficients, 1)
    assert before > 0.01
    assert after < 0.002


def test_spoiling_coefficients__exact_diffusion_hardly_changes_r1(
    coefficients: SpoilingCoefficients,
) -> None:
    exact = spoiling_coefficients(PDW, T1W, Spoiling(rephasing="exact"))
    r1, b1 = (x.ravel() for x in np.meshgrid(np.linspace(0.5, 2.0, 16), np.linspace(0.7, 1.3, 13)))
    ratio = correct_spoiling(r1, b1, exact) / correct_spoiling(r1, b1, coefficients)
    assert 1e-6 < np.abs(ratio - 1).max() < 5e-4


def random_protocol(seed: int) -> tuple[Excitation, Excitation]:
    """Draw repetition times of 18 to 30 ms and flip angles of 4 to 30 degrees, T1w's well above PDw's."""
    rng = np.random.default_rng(100 + seed)
    small = rng.uniform(4, 15)
    large = rng.uniform(max(1.5 * small, small + 8), 30)
    tr = rng.uniform(0.018, 0.030, 2)
    return (
        Excitation("PDw", float(np.deg2rad(small)), float(tr[0])),
        Excitation("T1w", float(np.deg2rad(large)), float(tr[seed % 2])),
    )


@pytest.mark.parametrize("seed", range(8))
def test_correct_spoiling__holds_for_protocols_drawn_at_random(seed: int) -> None:
    pdw, t1w = random_protocol(seed)
    _, after = residual_error(pdw, t1w, spoiling_coefficients(pdw, t1w), seed)
    assert after < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_correct_spoiling__r1_stays_when_b1_is_scaled(seed: int) -> None:
    pdw, t1w = random_protocol(seed)
    found, rng = spoiling_coefficients(pdw, t1w), np.random.default_rng(seed)
    t1, b1 = rng.uniform(0.6, 1.8, 40), rng.uniform(0.75, 1.14, 40)
    r1 = []
    for scale in (1.0, 1.1):
        signals = [
            flash_epg(
                scale * b1 * e.flip_angle_rad,
                t1,
                (15 * t1 / e.repetition_time_s).astype(int),
                e.repetition_time_s,
                SPOILED,
            )
            for e in (pdw, t1w)
        ]
        r1.append(correct_spoiling(estimate_r1(*signals, pdw, t1w, scale * b1), scale * b1, found))
    np.testing.assert_allclose(r1[1], r1[0], rtol=5e-3)


def test_spoiling_coefficients__take_the_curved_form_where_the_published_one_does_not_hold(
    coefficients: SpoilingCoefficients,
) -> None:
    assert coefficients.form == "published"
    assert coefficients.largest_error_percent < 0.3
    pdw, t1w = (Excitation(n, float(np.deg2rad(a)), 0.0205) for n, a in (("PDw", 11), ("T1w", 28)))
    found = spoiling_coefficients(pdw, t1w)
    assert found.form == found.describe()["form"] == "curved"
    with pytest.warns(
        UserWarning, match=r"PDw and T1w: .* off by up to 2\.\d % at flip angles of 11\.0 and 28\.0 degrees"
    ):
        line = spoiling_coefficients(pdw, t1w, form="published")
    assert line.p2_c == (0.0, 0.0, 0.0)
    assert found.largest_error_percent < 0.1 * line.largest_error_percent
    assert residual_error(pdw, t1w, line, 3)[1] > 0.01 > 5 * residual_error(pdw, t1w, found, 3)[1]


def test_spoiling_coefficients__the_curved_form_is_better_for_the_published_protocol_too(
    coefficients: SpoilingCoefficients,
) -> None:
    curved = spoiling_coefficients(PDW, T1W, form="curved")
    assert curved.largest_error_percent < 0.1 * coefficients.largest_error_percent
    assert residual_error(PDW, T1W, curved, 1)[1] < 2e-4


def test_spoiling_coefficients__are_the_same_bits_every_time(coefficients: SpoilingCoefficients) -> None:
    assert spoiling_coefficients(PDW, T1W) == coefficients


@pytest.mark.parametrize("form", ["published", "curved"])
def test_spoiling_slope__is_the_derivative(form: Form) -> None:
    found = spoiling_coefficients(PDW, T1W, form=form)
    r1, b1 = np.array([0.6, 1.0, 1.5]), np.array([0.8, 1.0, 1.2])
    up, down = (correct_spoiling(r1 + step, b1, found) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(spoiling_slope(r1, b1, found), (up - down) / 2e-5, rtol=1e-8)


def test_coefficients__refuse_another_protocol(coefficients: SpoilingCoefficients) -> None:
    coefficients.check(PDW, T1W, "exact")
    with pytest.raises(ProtocolError, match=r"T1w: spoiling coefficients were made for 0\.3665 rad"):
        coefficients.check(PDW, Excitation("T1w", 0.3, 0.025), "exact")
    with pytest.raises(ProtocolError, match=r"PDw: .* repetition time of 0\.025 s, found .* 0\.0245 s"):
        coefficients.check(Excitation("PDw", PDW.flip_angle_rad, 0.0245), T1W, "exact")
    with pytest.raises(ProtocolError, match="made for exact R1, found small-angle"):
        coefficients.check(PDW, T1W, "small-angle")
    with pytest.raises(ProtocolError, match="at least three T1"):
        spoiling_coefficients(PDW, T1W, t1_range_s=[1.0, 1.5])
    with pytest.raises(ProtocolError, match="one of published, curved, found 'straight'"):
        spoiling_coefficients(PDW, T1W, form="straight")  # type: ignore[arg-type]


def test_coefficients__describe_themselves_in_json(coefficients: SpoilingCoefficients) -> None:
    assert json.loads(json.dumps(coefficients.describe())) == coefficients.describe()
    typed_in = SpoilingCoefficients((1.0, 2.0, 3.0), (0.0, 0.1, 0.9), PDW, T1W)
    assert typed_in.describe()["rmse_apparent_percent"] is None
