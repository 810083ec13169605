"""Predictions of volumes from all others: closed forms, chosen variances, and the rules by which they get simpler."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from voxcloud.dwi.prediction import (
    ORDERS,
    Group,
    Process,
    covariance,
    describe,
    fit_process,
    group_volumes,
    leave_one_out,
    legendre,
    mean_process,
)
from voxcloud.dwi.tensor_design import GradientError


def table(n: dict[float, int], b0s: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    b = np.concatenate([np.zeros(b0s), *(np.full(count, value) for value, count in n.items())])
    g = np.random.default_rng(seed).normal(size=(3, b.size))
    g /= np.linalg.norm(g, axis=0)
    return b, np.where(b > 0, g, 0.0)


def full_process(groups: tuple[Group, ...]) -> Process:
    return Process(groups, np.array([[0.0, 0.0, 0.0], [5.0, 0.5, 0.1], [3.0, 1.0, 0.2]]), 0.7)


@pytest.mark.parametrize("order", ORDERS)
def test_legendre__is_scipy_s(order: int) -> None:
    x = np.linspace(-1, 1, 101)
    np.testing.assert_allclose(legendre(order, x), special.eval_legendre(order, x), atol=1e-14)


def test_leave_one_out__is_the_conditional_mean_without_the_volume() -> None:
    b, g = table({1000.0: 30, 2500.0: 50})
    groups, _ = group_volumes(b, g)
    c = covariance(full_process(groups), b, g, flat=100.0)
    weights = leave_one_out(c)
    assert (np.diag(weights) == 0).all()
    for i in (0, 7, 60):
        others = np.delete(np.arange(b.size), i)
        expected = np.linalg.solve(c[np.ix_(others, others)], c[others, i])
        np.testing.assert_allclose(weights[i, others], expected, atol=1e-9)


def test_leave_one_out__of_means_averages_the_others_of_the_shell() -> None:
    b, g = table({1000.0: 12}, b0s=4)
    groups, _ = group_volumes(b, g)
    weights = leave_one_out(covariance(mean_process(groups), b, g))
    expected = np.zeros((16, 16))
    expected[:4, :4], expected[4:, 4:] = 1 / 3, 1 / 11
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_leave_one_out__leaves_a_single_unweighted_volume_unpredicted() -> None:
    b, g = table({1000.0: 12}, b0s=1)
    groups, _ = group_volumes(b, g)
    weights = leave_one_out(covariance(mean_process(groups), b, g))
    assert not weights[0].any()
    assert not weights[:, 0].any()


def test_leave_one_out__predicts_a_signal_of_the_kernel_s_space_exactly_without_noise() -> None:
    b, g = table({1000.0: 60})
    groups, _ = group_volumes(b, g)
    ratios = np.array([[0.0, 0.0, 0.0], [1e6, 0.0, 0.0]])
    weights = leave_one_out(covariance(Process(groups, ratios, 0.0), b, g, flat=1e8))
    tensor = np.array([[2.0, 0.3, -0.2], [0.3, 1.0, 0.1], [-0.2, 0.1, -1.0]])
    signal = 7.0 + np.einsum("iv,ij,jv->v", g, tensor, g)
    np.testing.assert_allclose((weights @ signal)[b > 0], signal[b > 0], atol=1e-3)


def test_covariance__is_positive_definite_and_blind_to_the_sign_of_directions() -> None:
    b, g = table({1000.0: 30, 2500.0: 50})
    groups, _ = group_volumes(b, g)
    c = covariance(full_process(groups), b, g)
    assert np.linalg.eigvalsh(c).min() >= 1.0 - 1e-6  # the noise is 1
    flipped = g * np.random.default_rng(1).choice([-1.0, 1.0], b.size)
    np.testing.assert_allclose(covariance(full_process(groups), b, flipped), c)


def test_fit_process__finds_the_variances_that_signals_were_drawn_from() -> None:
    b, g = table({1000.0: 45, 2500.0: 60})
    groups, _ = group_volumes(b, g)
    true = full_process(groups)
    root = np.linalg.cholesky(covariance(true, b, g, flat=50.0))
    y = root @ np.random.default_rng(0).normal(size=(b.size, 20_000))
    found = fit_process(y @ y.T / y.shape[1], groups, b, g)
    np.testing.assert_allclose(found.ratios[1:], true.ratios[1:], rtol=0.1)
    assert found.coupling == pytest.approx(0.7, abs=0.03)
    assert "b = 2500 s/mm2: Gaussian process" in describe(found)


def test_fit_process__predicts_no_worse_than_the_mean_of_noise_alone() -> None:
    b, g = table({1000.0: 30})
    groups, _ = group_volumes(b, g)
    y = np.random.default_rng(2).normal(size=(b.size, 5000))
    weights = leave_one_out(covariance(fit_process(y @ y.T / 5000, groups, b, g), b, g))
    error = (weights @ y - y)[b > 0].std()
    assert error == pytest.approx(np.sqrt(1 + 1 / 29), rel=0.01)


@pytest.mark.parametrize(("count", "orders"), [(6, ()), (12, (2,)), (30, (2, 4)), (60, (2, 4, 6))])
def test_group_volumes__takes_simpler_models_for_fewer_directions(count: int, orders: tuple[int, ...]) -> None:
    groups, told = group_volumes(*table({1000.0: count}))
    assert groups[1].orders == orders
    assert bool(told) == (not orders)
    if told:
        assert "found 6: each volume is predicted by the mean of the others" in told[0]


def test_group_volumes__joins_b_values_that_form_no_shells() -> None:
    b = np.concatenate([[0.0, 0.0], np.linspace(300, 3000, 40)])
    _, g = table({1000.0: 40}, b0s=2)
    groups, told = group_volumes(b, g)
    assert sorted(v for group in groups for v in group.volumes) == list(range(42))
    assert all(len(group.volumes) >= 2 for group in groups)
    b[2:] = np.geomspace(300, 9000, 40)
    groups, told = group_volumes(b, g)
    assert groups[1].degrees == 2
    assert "found 40 volumes of other b-values" in told[0]


def test_group_volumes__leaves_out_single_volumes_and_says_so() -> None:
    b, g = table({1000.0: 20, 3000.0: 1})
    groups, told = group_volumes(b, g)
    assert 24 not in {v for group in groups for v in group.volumes}
    assert "found 1 of another b-value (volumes 24)" in told[0]
    assert not leave_one_out(covariance(mean_process(groups), b, g))[24].any()


def test_group_volumes__refuses_transposed_vectors() -> None:
    b, g = table({1000.0: 20})
    with pytest.raises(GradientError, match="one vector per volume"):
        group_volumes(b, g.T)
