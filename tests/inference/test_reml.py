"""Unequal variances: a known covariance is found, the maximum is a maximum, blocks add up, bad input is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import statsmodels.api as sm

from voxcloud.errors import DesignError
from voxcloud.inference import reml
from voxcloud.models.ols import fit_ols, t_contrast

N1, N2, V = 17, 14, 4000
GROUPS = ["patients"] * N1 + ["controls"] * N2


def data(sd: tuple[float, float], seed: int = 0, mean: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    age = rng.normal(size=N1 + N2)
    x = np.column_stack([np.array(GROUPS) == "patients", np.array(GROUPS) == "controls", age - age.mean()]).astype(
        float
    )
    noise = np.concatenate([sd[0] * rng.normal(size=(N1, V)), sd[1] * rng.normal(size=(N2, V))])
    return mean * np.ones((N1 + N2, V)) + noise, x


def log_likelihood(h: np.ndarray, c: np.ndarray, x: np.ndarray, q: list[np.ndarray]) -> float:
    """Restricted log likelihood of one observation with second moment c, plus the weak prior."""
    v = sum(a * b for a, b in zip(h, q, strict=True))
    inverse = np.linalg.inv(v)
    middle = x.T @ inverse @ x
    p = inverse - inverse @ x @ np.linalg.solve(middle, x.T @ inverse)
    value = -0.5 * (np.linalg.slogdet(v)[1] + np.linalg.slogdet(middle)[1] + np.trace(p @ c))
    return float(value - 0.5 * reml.PRIOR_PRECISION * h @ h)


def test_group_components__are_in_order_of_appearance() -> None:
    names, components = reml.group_components(["b", "a", "b"])
    assert names == ("b", "a")
    np.testing.assert_array_equal(components[0], np.diag([1.0, 0, 1]))
    np.testing.assert_array_equal(sum(components), np.eye(3))


@pytest.mark.parametrize("sd", [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0)])
def test_estimate_covariance__finds_the_ratio_of_variances(sd: tuple[float, float]) -> None:
    y, x = data(sd)
    found = reml.estimate_covariance(reml.pool_covariance(y, x), x, reml.group_components(GROUPS)[1])
    h1, h2 = found.hyperparameters
    true = (sd[0] / sd[1]) ** 2
    assert h1 / h2 == pytest.approx(true, rel=0.15)
    # Each voxel is divided by its own residual variance: an extreme ratio comes out nearer to one, never beyond.
    assert abs(np.log(h1 / h2)) <= abs(np.log(true)) + 0.01
    assert np.trace(found.v) == pytest.approx(N1 + N2)
    np.testing.assert_allclose(found.whitener @ found.v @ found.whitener.T, np.eye(N1 + N2), atol=1e-12)
    assert found.erdf == pytest.approx(N1 + N2 - 3)


def test_estimate_covariance__fully_converged_is_the_maximum() -> None:
    y, x = data((2.0, 1.0))
    pooled, q = reml.pool_covariance(y, x), reml.group_components(GROUPS)[1]
    h = np.array(reml.estimate_covariance(pooled, x, q, stop_change=1e-14).hyperparameters)
    c = pooled.sum_yy / pooled.n_voxels
    best = log_likelihood(h, c, x, q)
    for step in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3], [1e-3, -1e-3]):
        assert log_likelihood(h + step, c, x, q) < best
    early = np.array(reml.estimate_covariance(pooled, x, q).hyperparameters)
    np.testing.assert_allclose(early, h, rtol=0.02)


def test_estimate_covariance__takes_correlated_rows() -> None:
    rng = np.random.default_rng(4)
    n = 20
    shared = np.kron(np.eye(n // 2), np.ones((2, 2)))
    y = 5.0 + np.linalg.cholesky(np.eye(n) + 0.8 * shared) @ rng.normal(size=(n, V))
    x = np.ones((n, 1))
    found = reml.estimate_covariance(reml.pool_covariance(y, x), x, [np.eye(n), shared], stop_change=1e-10)
    assert found.hyperparameters[1] / found.hyperparameters[0] == pytest.approx(0.8, rel=0.2)
    np.testing.assert_allclose(found.whitener @ found.v @ found.whitener, np.eye(n), atol=1e-10)
    assert found.erdf == pytest.approx(n - 1)


def test_pool_covariance__of_blocks_adds_up() -> None:
    y, x = data((2.0, 1.0))
    whole = reml.pool_covariance(y, x)
    parts = reml.pool_covariance(y[:, :1500], x) + reml.pool_covariance(y[:, 1500:], x)
    assert parts.n_voxels == whole.n_voxels
    np.testing.assert_allclose(parts.sum_yy, whole.sum_yy, rtol=1e-12)


def test_pool_covariance__takes_only_voxels_that_the_design_explains() -> None:
    y, x = data((1.0, 1.0), mean=0.0)
    share = reml.pool_covariance(y, x).n_voxels / V
    assert share == pytest.approx(0.001, abs=0.002)
    assert reml.pool_covariance(y + 9.0, x).n_voxels == V
    # With the two means not of interest only age can explain, and it does not.
    assert reml.pool_covariance(y + 9.0, x, null_columns=(0, 1)).n_voxels < 0.01 * V


def test_pool_covariance__scales_every_voxel_to_unit_residual_variance() -> None:
    y, x = data((1.0, 1.0))
    units = np.where(np.arange(V) % 2, 1.0, 1000.0)
    np.testing.assert_allclose(reml.pool_covariance(y * units, x).sum_yy, reml.pool_covariance(y, x).sum_yy, rtol=1e-10)


def test_pool_covariance__leaves_out_constant_voxels() -> None:
    y, x = data((1.0, 1.0))
    y[:, 0] = 0.0
    assert reml.pool_covariance(y, x).n_voxels == V - 1


def test_estimate_covariance__without_a_voxel_says_what_to_do() -> None:
    _, x = data((1.0, 1.0))
    empty = reml.PooledCovariance(np.zeros((31, 31)), 0)
    with pytest.raises(DesignError, match="Use equal variances"):
        reml.estimate_covariance(empty, x, reml.group_components(GROUPS)[1])


def test_estimate_covariance__refuses_a_variance_of_zero() -> None:
    y, x = data((1.0, 1.0))
    y[N1:] = y[N1:].mean()
    y[N1:] += 2.0 * x[N1:, 2:]  # the second group lies exactly on the model
    with pytest.raises(DesignError, match=r"expected variances above 0|constant"):
        reml.estimate_covariance(
            reml.pool_covariance(y, np.column_stack([x[:, :2], x[:, 2] * x[:, 0], x[:, 2] * x[:, 1]])),
            np.column_stack([x[:, :2], x[:, 2] * x[:, 0], x[:, 2] * x[:, 1]]),
            reml.group_components(GROUPS)[1],
        )


def test_pool_covariance__refuses_a_design_without_degrees_of_freedom() -> None:
    with pytest.raises(DesignError, match="degrees of freedom"):
        reml.pool_covariance(np.ones((3, 5)), np.eye(3))


def test_effective_df__of_unequal_variances_without_whitening_is_satterthwaite() -> None:
    v = np.diag([4.0, 4.0, 4.0, 1.0, 1.0])
    x = np.kron(np.eye(2), np.ones((3, 1)))[:5]
    # tr(RV) = 2 x 4 + 1 x 1, tr(RVRV) = 2 x 16 + 1 x 1
    assert reml.effective_df(v, x) == pytest.approx(81 / 33)


def test_estimate_covariance__of_two_means_is_each_groups_own_variance() -> None:
    # Without shared columns the likelihood falls apart: -(n - 1) / 2h + s / 2h^2 - l h = 0 for every group, s the sum
    # of squares of C about the group's mean and l the precision of the prior.
    y, x = data((1.5, 1.0))
    pooled, q = reml.pool_covariance(y, x[:, :2]), reml.group_components(GROUPS)[1]
    h = reml.estimate_covariance(pooled, x[:, :2], q, stop_change=1e-16).hyperparameters
    c = pooled.sum_yy / pooled.n_voxels
    for value, rows in zip(h, (slice(0, N1), slice(N1, None)), strict=True):
        own = c[rows, rows]
        n = len(own)
        centre = np.eye(n) - 1 / n
        roots = np.roots([reml.PRIOR_PRECISION, 0.0, 0.5 * (n - 1), -0.5 * np.trace(centre @ own)])
        (expected,) = roots[np.abs(roots.imag) < 1e-9].real
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sd", [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0), (1.0, 0.7)])
def test_estimate_covariance__equals_a_second_code_of_the_same_steps(
    sd: tuple[float, float], validation_script: Callable[[str], ModuleType]
) -> None:
    y, x = data(sd, seed=5)
    found = reml.estimate_covariance(reml.pool_covariance(y, x), x, reml.group_components(GROUPS)[1])
    weights = validation_script("formula_from_papers").restricted_likelihood_whitener(y, x, GROUPS)
    np.testing.assert_allclose(np.diag(found.whitener), weights, rtol=1e-10)


def test_estimate_covariance__whitened_least_squares_is_generalised_least_squares() -> None:
    y, x = data((2.0, 1.0))
    found = reml.estimate_covariance(reml.pool_covariance(y, x), x, reml.group_components(GROUPS)[1])
    fit = fit_ols(found.whitener @ y[:, :4], found.whitener @ x, df=found.erdf)
    t = t_contrast(fit, [1, -1, 0])[2]
    for k in range(4):
        reference = sm.GLS(y[:, k], x, sigma=found.v).fit().t_test([1, -1, 0]).tvalue[0, 0]
        assert t[k] == pytest.approx(reference, rel=1e-9)


def test_estimate_covariance__does_not_depend_on_coding_or_units_of_the_design() -> None:
    y, x = data((2.0, 1.0))
    q = reml.group_components(GROUPS)[1]
    other = np.column_stack([np.ones(N1 + N2), x[:, 0], 1e6 * x[:, 2]])
    one, two = (reml.estimate_covariance(reml.pool_covariance(y, d), d, q) for d in (x, other))
    np.testing.assert_allclose(two.hyperparameters, one.hyperparameters, rtol=1e-9)
    assert two.erdf == pytest.approx(one.erdf, rel=1e-12)
