"""ESTATICS against the toolbox, against a solver of normal equations, and what must never change a result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri.estatics import EstaticsFit, fit_estatics
from voxcloud.qmri.protocol import ProtocolError

N_ECHOES = {"mtw": 6, "pdw": 8, "t1w": 8}
TIMES = {name: [2.34e-3 * (i + 1) for i in range(n)] for name, n in N_ECHOES.items()}
FITS = {"OLS": 0, "WLS1": 1, "WLS2": 2, "WLS3": 3}
TRAINS = {"PDw": [0.002, 0.0043, 0.0066, 0.009, 0.0112, 0.0135], "T1w": [0.003 * i for i in range(1, 10)]}


def noisy(shape: tuple[int, ...] = (31,), seed: int = 0, dtype: type = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rate, level = rng.uniform(5, 60, shape), {"PDw": rng.uniform(200, 900, shape), "T1w": rng.uniform(200, 900, shape)}
    return {
        name: [(level[name] * np.exp(-t * rate) + rng.normal(0, 8, shape)).astype(dtype) for t in times]
        for name, times in TRAINS.items()
    }


def assert_same_bits(one: EstaticsFit, other: EstaticsFit, where: Any = ...) -> None:
    np.testing.assert_array_equal(one.r2star[where], other.r2star[where])
    np.testing.assert_array_equal(one.r2star_error[where], other.r2star_error[where])
    for name in one.intercept:
        np.testing.assert_array_equal(one.intercept[name][where], other.intercept[name][where])
        np.testing.assert_array_equal(one.residual[name][where], other.residual[name][where])


@pytest.mark.parametrize("method, passes", FITS.items())
def test_fit_estatics__agrees_with_the_toolbox(table: Callable[[str], Any], method: str, passes: int) -> None:
    t = table("r2s_estatics")
    echoes = {name: [t[f"{name}_e{i + 1}"] for i in range(n)] for name, n in N_ECHOES.items()}
    found = fit_estatics(echoes, TIMES, weighted_passes=passes)
    np.testing.assert_allclose(found.r2star, 1000 * t[f"R2s_{method}_per_ms"], rtol=1e-8)
    noise = t["sigma"] > 0
    assert noise.sum() > 50
    for name in N_ECHOES:
        np.testing.assert_allclose(found.intercept[name], t[f"S0{name}_{method}"], rtol=1e-8)
        np.testing.assert_allclose(found.residual[name][noise], t[f"rms_{name}_{method}"][noise], rtol=1e-8)
        assert found.residual[name][~noise].max() < 1e-9


@pytest.mark.parametrize("method, passes", FITS.items())
def test_fit_estatics__of_one_contrast_agrees_with_the_toolbox(
    table: Callable[[str], Any], method: str, passes: int
) -> None:
    t = table("r2s_estatics")
    found = fit_estatics({"pdw": [t[f"pdw_e{i + 1}"] for i in range(8)]}, {"pdw": TIMES["pdw"]}, weighted_passes=passes)
    np.testing.assert_allclose(found.r2star, 1000 * t[f"R2s_pdwonly_{method}_per_ms"], rtol=1e-8)


def dense_fit(echoes: dict[str, Any], passes: int, voxel: int) -> tuple[np.ndarray, np.ndarray]:
    """Solve the same problem with a design matrix, and propagate the residuals through its pseudo-inverse."""
    names = list(TRAINS)
    rows = [(c, t) for c in names for t in TRAINS[c]]
    x = np.array([[*(float(c == other) for other in names), -t] for c, t in rows])
    y = np.log([echoes[c][TRAINS[c].index(t)][voxel] for c, t in rows])
    w = np.ones(len(rows))
    for _ in range(passes + 1):
        root = np.sqrt(w)[:, None]
        to_coefficients = np.linalg.pinv(root * x) * root.T
        b = to_coefficients @ y
        w = np.exp(2 * x @ b)
    fitted, signal = np.exp(x @ b), np.exp(y)
    rms = {
        c: np.sqrt(np.mean([(s - f) ** 2 for (k, _), s, f in zip(rows, signal, fitted, strict=True) if k == c]))
        for c in names
    }
    e = np.array([rms[c] for c, _ in rows]) / fitted
    return b, np.sqrt(((to_coefficients * e) ** 2).sum(axis=1))


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_fit_estatics__equals_a_dense_solver_for_unequal_trains(passes: int) -> None:
    echoes = noisy()
    found = fit_estatics(echoes, TRAINS, weighted_passes=passes)
    for voxel in range(31):
        b, error = dense_fit(echoes, passes, voxel)
        assert found.r2star[voxel] == pytest.approx(b[2], rel=1e-9)
        assert found.intercept["PDw"][voxel] == pytest.approx(np.exp(b[0]), rel=1e-9)
        assert found.r2star_error[voxel] == pytest.approx(error[2], rel=1e-8)


@pytest.mark.parametrize("passes", [0, 1])
def test_fit_estatics__error_is_the_spread_of_repeated_measurements(passes: int) -> None:
    rng = np.random.default_rng(5)
    echoes = {c: [500 * np.exp(-20 * t) + rng.normal(0, 2, 4000) for t in times] for c, times in TRAINS.items()}
    found = fit_estatics(echoes, TRAINS, weighted_passes=passes)
    # Residuals of 15 echoes after fitting 3 values hold 12 / 15 of the variance.
    expected = found.r2star.std() * np.sqrt(12 / 15)
    assert np.sqrt((found.r2star_error**2).mean()) == pytest.approx(expected, rel=0.05)
    assert found.r2star.mean() == pytest.approx(20, abs=4 * found.r2star.std() / np.sqrt(4000))


def test_fit_estatics__one_weighted_pass_beats_none_and_three_are_no_better() -> None:
    rng = np.random.default_rng(8)
    rate = rng.uniform(10, 60, 4000)
    echoes = {c: [400 * np.exp(-rate * t) + rng.normal(0, 12, 4000) for t in times] for c, times in TRAINS.items()}
    rmse = [
        float(np.sqrt(np.mean((fit_estatics(echoes, TRAINS, weighted_passes=n).r2star - rate) ** 2))) for n in (0, 1, 3)
    ]
    assert rmse[1] < 0.9 * rmse[0]
    assert rmse[2] == pytest.approx(rmse[1], rel=0.03)


@pytest.mark.parametrize("block", [1, 7, 1000, 4096])
def test_fit_estatics__block_size_does_not_change_a_bit(block: int) -> None:
    echoes = noisy((401,), dtype=np.float32)
    assert_same_bits(fit_estatics(echoes, TRAINS, block_voxels=block), fit_estatics(echoes, TRAINS, block_voxels=133))


def test_fit_estatics__order_of_echoes_does_not_change_a_bit() -> None:
    echoes = noisy()
    turned = {c: e[::-1] for c, e in echoes.items()}
    times = {c: t[::-1] for c, t in TRAINS.items()}
    assert_same_bits(fit_estatics(turned, times), fit_estatics(echoes, TRAINS))


def test_fit_estatics__memory_order_does_not_change_a_bit() -> None:
    echoes = noisy((5, 4, 3))
    fortran = {c: [np.asfortranarray(e) for e in images] for c, images in echoes.items()}
    assert_same_bits(fit_estatics(fortran, TRAINS, block_voxels=7), fit_estatics(echoes, TRAINS))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fit_estatics__what_is_not_finite_stays_where_it_is(bad: float) -> None:
    echoes = noisy()
    clean = fit_estatics(echoes, TRAINS)
    echoes["T1w"][3][11] = bad
    found = fit_estatics(echoes, TRAINS)
    assert np.isnan([found.r2star[11], found.intercept["PDw"][11], found.residual["T1w"][11]]).all()
    assert_same_bits(found, clean, np.arange(31) != 11)


def test_fit_estatics__raises_weak_signals_to_the_floor() -> None:
    echoes = noisy()
    echoes["PDw"][2][4], echoes["T1w"][8][5] = 0.0, -3.0
    raised = {c: [np.maximum(e, 1.0) for e in images] for c, images in echoes.items()}
    assert_same_bits(fit_estatics(echoes, TRAINS), fit_estatics(raised, TRAINS))
    zeros = fit_estatics({c: [np.zeros(3) for _ in images] for c, images in echoes.items()}, TRAINS)
    np.testing.assert_array_equal(zeros.r2star, 0)
    np.testing.assert_array_equal(zeros.intercept["PDw"], 1)


@pytest.mark.parametrize(
    "given, expected", [(np.float32, np.float32), (np.int16, np.float32), (np.float64, np.float64)]
)
def test_fit_estatics__precision_of_results_is_that_of_images(given: type, expected: type) -> None:
    found = fit_estatics(noisy((2, 3), dtype=given), TRAINS)
    assert {found.r2star.dtype, found.intercept["PDw"].dtype, found.residual["T1w"].dtype} == {np.dtype(expected)}
    assert found.r2star.shape == (2, 3)


def test_fit_estatics__two_echoes_are_the_least() -> None:
    s = [np.array([200.0]), np.array([100.0])]
    with pytest.warns(UserWarning, match="PDw: 2 echoes"):
        found = fit_estatics({"PDw": s}, {"PDw": [0.01, 0.02]})
    assert found.r2star[0] == pytest.approx(np.log(2) / 0.01)
    with pytest.raises(ProtocolError, match="PDw: R2\\* needs at least 2 echoes, found 1"):
        fit_estatics({"PDw": s[:1]}, {"PDw": [0.01]})


def test_fit_estatics__six_echoes_are_enough_to_be_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_estatics(noisy(), TRAINS)


def test_fit_estatics__names_what_does_not_fit() -> None:
    echoes = noisy()
    with pytest.raises(ProtocolError, match="contrasts PDw, T1w, found some for PDw"):
        fit_estatics(echoes, {"PDw": TRAINS["PDw"]})
    with pytest.raises(ImageError, match=r"T1w echo 3: expected an image of shape \(31,\)"):
        fit_estatics(echoes | {"T1w": [*echoes["T1w"][:2], np.zeros(5), *echoes["T1w"][3:]]}, TRAINS)
    with pytest.raises(ProtocolError, match="weighted_passes >= 0"):
        fit_estatics(echoes, TRAINS, weighted_passes=-1)
