"""Permutation inference: enumeration, known null distributions, nilearn, planted effects, bit-identity."""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import ndimage, stats

from voxcloud.errors import ContrastError, DesignError, MaskError
from voxcloud.inference.exchange import plan_relabelling
from voxcloud.inference.neighbourhood import neighbourhood_of, sizes_and_masses, tfce_maps
from voxcloud.inference.permutation import (
    finish_permutation,
    observed_t,
    permutation_test,
    prepare_permutation,
)
from voxcloud.inference.permutation_null import monte_carlo_interval, null_part, p_from_maxima, towards

SHAPE = (12, 11, 10)


def _two_groups(rng: np.random.Generator, n1: int = 9, n2: int = 8, covariates: int = 2) -> np.ndarray:
    groups = np.repeat(np.eye(2), [n1, n2], axis=0)
    return np.column_stack([groups, rng.normal(size=(n1 + n2, covariates))])


def _field(rng: np.random.Generator, n: int, shape: tuple[int, int, int] = SHAPE, width: float = 1.0) -> np.ndarray:
    noise = rng.normal(size=(n, *shape))
    smooth = np.stack([ndimage.gaussian_filter(image, width) for image in noise])
    return (smooth / smooth.std()).reshape(n, -1)


C = np.array([1.0, -1.0, 0.0, 0.0])


def test_permutation_test__observed_t_equals_least_squares() -> None:
    rng = np.random.default_rng(0)
    x, y = _two_groups(rng), rng.normal(5.0, 2.0, size=(17, 6))
    result = permutation_test(y, x, C, n_permutations=10, seed=1, alternative="two-sided")
    for voxel in range(6):
        fit = sm.OLS(y[:, voxel], x).fit().t_test(C)
        assert result.t[voxel] == pytest.approx(float(fit.tvalue.item()), rel=1e-10)
        assert result.effect[voxel] == pytest.approx(float(np.squeeze(fit.effect)), rel=1e-10)
    assert result.df == 13


def test_permutation_test__is_freedman_and_lane_step_by_step() -> None:
    """Each relabelled t equals: fit the nuisance model, permute its residuals, add its fit back, fit everything."""
    rng = np.random.default_rng(1)
    x, y = _two_groups(rng), rng.normal(size=(17, 1))
    plan = plan_relabelling(x, C, n_permutations=25, seed=3)
    problem = prepare_permutation(y, x, C, n_permutations=25, seed=3, alternative="greater")
    part = null_part(problem, observed_t(problem), 1, 26)
    order, sign = plan.indices(1, 26)
    assert np.all(sign == 1)
    nuisance = np.column_stack([x[:, 0] + x[:, 1], x[:, 2:]])
    hat = nuisance @ np.linalg.pinv(nuisance)
    for number in range(25):
        relabelled = ((y - hat @ y)[order[number]] + hat @ y)[:, 0]
        expected = float(sm.OLS(relabelled, x).fit().t_test(C).tvalue.item())
        assert part.max_t[number] == pytest.approx(expected, rel=1e-9)


def test_permutation_test__sign_flips_spare_the_nuisance_fit() -> None:
    rng = np.random.default_rng(26)
    x = np.column_stack([np.ones(14), rng.normal(1.0, 1.0, size=14)])
    y = 3.0 * x[:, 1:] + rng.normal(size=(14, 1))
    problem = prepare_permutation(y, x, [1, 0], n_permutations=25, seed=3, alternative="greater")
    part = null_part(problem, observed_t(problem), 1, 26)
    order, sign = problem.relabelling.indices(1, 26)
    assert np.all(order == np.arange(14))
    hat = x[:, 1:] @ np.linalg.pinv(x[:, 1:])
    for number in range(25):
        relabelled = (sign[number][:, None] * (y - hat @ y) + hat @ y)[:, 0]
        assert part.max_t[number] == pytest.approx(float(sm.OLS(relabelled, x).fit().tvalues[0]), rel=1e-9)


def test_permutation_test__few_relabellings_are_enumerated() -> None:
    """4 against 4 without covariates: 70 relabellings, the p of the classical exact test."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=(8, 1))
    x = np.repeat(np.eye(2), 4, axis=0)
    result = permutation_test(y, x, [1, -1], n_permutations=1000, seed=0, alternative="two-sided")
    means = [abs(y[list(g)].mean() - np.delete(y, list(g)).mean()) for g in itertools.combinations(range(8), 4)]
    observed = abs(y[:4].mean() - y[4:].mean())
    assert result.exact
    assert (result.n_possible, result.n_permutations) == (70, 69)
    assert result.p_fwe[0] == pytest.approx(np.mean(np.array(means) >= observed - 1e-12))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_permutation_test__few_signs_are_enumerated(alternative: str) -> None:
    y = np.random.default_rng(3).normal(0.4, 1.0, size=(7, 1))
    result = permutation_test(y, np.ones((7, 1)), [1], n_permutations=127, seed=0, alternative=alternative)
    expected = stats.permutation_test(
        (y[:, 0],), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    )
    assert (result.kind, result.exact, result.n_possible) == ("sign-flip", True, 128)
    assert result.p_fwe[0] == pytest.approx(expected.pvalue)


def test_plan_relabelling__enumeration_within_blocks_is_complete_and_without_repeats() -> None:
    x = np.column_stack([[1, 0, 1, 0, 0, 1.0], np.ones(6)])
    plan = plan_relabelling(x, [1, 0], n_permutations=500, seed=0, blocks=["a", "a", "a", "b", "b", "b"])
    order, _ = plan.indices(0, plan.n_possible)
    assert plan.n_possible == 9
    # The design row that each person receives tells one arrangement from another.
    received = {tuple(x[np.argsort(row), 0]) for row in order}
    assert len(received) == 9
    assert all(set(row[:3]) == {0, 1, 2} for row in order)
    np.testing.assert_array_equal(order[0], np.arange(6))


def test_plan_relabelling__drawn_permutations_stay_within_blocks() -> None:
    rng = np.random.default_rng(4)
    plan = plan_relabelling(_two_groups(rng), C, n_permutations=50, seed=1, blocks=["a"] * 9 + ["b"] * 8)
    order, _ = plan.indices(1, 51)
    assert np.all(np.sort(order[:, :9], axis=1) == np.arange(9))
    assert len({tuple(row) for row in order}) == 50


def test_plan_relabelling__a_mean_is_tested_by_signs_and_a_comparison_by_permutations() -> None:
    rng = np.random.default_rng(5)
    x = _two_groups(rng)
    age = np.column_stack([np.ones(16), rng.normal(size=16)])
    assert plan_relabelling(x, C, n_permutations=10, seed=0).kind == "permutation"
    assert plan_relabelling(x, [1, 0, 0, 0], n_permutations=10, seed=0).kind == "sign-flip"
    assert plan_relabelling(age, [1, 0], n_permutations=10, seed=0).kind == "sign-flip"
    assert plan_relabelling(age, [0, 1], n_permutations=10, seed=0).kind == "permutation"


@pytest.mark.parametrize("spread", ["by group", "by person"])
def test_plan_relabelling__whitening_does_not_turn_a_comparison_into_a_mean(spread: str) -> None:
    """Whitening takes the constant out of the model's span; the question is still one for permutations."""
    rng = np.random.default_rng(31)
    x = _two_groups(rng)
    variance = np.repeat([1.0, 4.0], [9, 8]) if spread == "by group" else rng.uniform(1.0, 4.0, size=17)
    whitener = np.diag(variance**-0.5)
    plan = plan_relabelling(x, C, n_permutations=10, seed=0, whitener=whitener)
    assert plan.kind == "permutation"
    assert plan.moving.shape[1] == plan.nuisance.shape[1] == 3
    assert plan_relabelling(x, [1, 0, 0, 0], n_permutations=10, seed=0, whitener=whitener).kind == "sign-flip"


def test_permutation_test__whitened_residuals_are_permuted() -> None:
    """Freedman and Lane step by step in the whitened model, by another code's weighted least squares."""
    rng = np.random.default_rng(32)
    x, variance = _two_groups(rng), np.repeat([1.0, 4.0], [9, 8])
    whitener = np.diag(variance**-0.5)
    y = rng.normal(size=(17, 1)) * np.sqrt(variance)[:, None]
    problem = prepare_permutation(y, x, C, n_permutations=25, seed=3, alternative="greater", whitener=whitener)
    assert observed_t(problem)[0] == pytest.approx(
        float(sm.WLS(y[:, 0], x, 1 / variance).fit().t_test(C).tvalue.item())
    )
    part = null_part(problem, observed_t(problem), 1, 26)
    order, sign = problem.relabelling.indices(1, 26)
    assert np.all(sign == 1)
    white_x, white_y = whitener @ x, whitener @ y
    nuisance = np.column_stack([white_x[:, 0] + white_x[:, 1], white_x[:, 2:]])
    hat = nuisance @ np.linalg.pinv(nuisance)
    for number in range(25):
        relabelled = ((white_y - hat @ white_y)[order[number]] + hat @ white_y)[:, 0]
        expected = float(sm.OLS(relabelled, white_x).fit().t_test(C).tvalue.item())
        assert part.max_t[number] == pytest.approx(expected, rel=1e-9)


def test_permutation_test__skewed_errors_of_unequal_variance_keep_the_level() -> None:
    """One-sided tests of many voxels at once: sign flips of the same whitened data give more than .12 at .05."""
    rng = np.random.default_rng(33)
    x = np.column_stack([np.ones(24), np.repeat([0.0, 1.0], [18, 6])])
    sd = np.repeat([1.0, 2.0], [18, 6])
    y = (rng.exponential(size=(24, 6000)) - 1.0) * sd[:, None]

    def rate(exchange: str) -> float:
        result = permutation_test(
            y, x, [0, 1], n_permutations=299, seed=1, alternative="less", whitener=np.diag(1 / sd), exchange=exchange
        )
        return float(np.mean(result.p_uncorrected <= 0.05))

    flips, permutations = rate("sign-flip"), rate("auto")
    assert permutations < 0.07
    assert flips > permutations + 0.02


def test_plan_relabelling__a_whitener_of_another_size_is_refused() -> None:
    x = _two_groups(np.random.default_rng(34))
    with pytest.raises(DesignError, match=r"expected a whitener of 17 x 17.*found shape \(3, 3\)"):
        plan_relabelling(x, C, n_permutations=10, seed=0, whitener=np.eye(3))


@pytest.mark.parametrize("size", [100, 1000, 10_000])
@pytest.mark.parametrize("kind", ["permutation", "sign-flip"])
def test_permutation_test__null_distribution_is_that_of_t(kind: str, size: int) -> None:
    rng = np.random.default_rng(6)
    if kind == "permutation":
        x, c = _two_groups(rng, 40, 40, 1), np.array([1.0, -1.0, 0.0])
    else:
        x, c = np.column_stack([np.ones(80), rng.normal(size=80)]), np.array([1.0, 0.0])
    result = permutation_test(rng.normal(size=(80, 1)), x, c, n_permutations=size, seed=7, alternative="greater")
    assert result.kind == kind
    statistic = stats.kstest(result.max_t, stats.t(result.df).cdf).statistic
    # 1.95/sqrt(n) is Kolmogorov's critical value at .001; .012 allows for the discreteness of one fixed sample.
    assert statistic < 1.95 / np.sqrt(size) + 0.012


def test_permutation_test__p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(8)
    x = _two_groups(rng, 10, 9, 2)
    # Nuisance effects are large: they must not leak into the test.
    y = rng.standard_t(4, size=(19, 1500)) + 10 * x[:, 2:3] - 20 * x[:, 3:4]
    result = permutation_test(y, x, C, n_permutations=499, seed=9, alternative="two-sided")
    assert stats.kstest(result.p_uncorrected, "uniform").pvalue > 0.001
    assert result.p_uncorrected.min() >= 1 / 500


@pytest.mark.slow
def test_permutation_test__family_wise_error_is_alpha() -> None:
    rng = np.random.default_rng(10)
    x, hits, size_hits = _two_groups(rng, 8, 8, 1), 0, 0
    for seed in range(200):
        y = _field(rng, 16, (6, 6, 6))
        result = permutation_test(
            y, x, C[:3], n_permutations=99, seed=seed, alternative="greater",
            voxel_index=np.arange(216), shape=(6, 6, 6), cluster_forming_p=0.05,
        )  # fmt: skip
        hits += result.p_fwe.min() <= 0.05
        size_hits += any(cluster.p_fwe_size <= 0.05 for cluster in result.clusters)
    assert 2 <= hits <= 20
    assert 2 <= size_hits <= 20


@pytest.mark.parametrize("two_sided", [True, False])
def test_permutation_test__agrees_with_nilearn(two_sided: bool) -> None:
    from nilearn.mass_univariate import permuted_ols

    rng = np.random.default_rng(11)
    n, count = 20, 2000
    tested, confounds = rng.normal(size=(n, 1)), rng.normal(size=(n, 2))
    y = rng.normal(size=(n, 50))
    y[:, :5] += 1.1 * tested
    # nilearn adds the intercept to the confounds itself.
    theirs = permuted_ols(
        tested, y, confounding_vars=confounds, n_perm=count, two_sided_test=two_sided,
        random_state=0, n_jobs=1, output_type="dict",
    )  # fmt: skip
    x = np.column_stack([tested, np.ones(n), confounds])
    ours = permutation_test(
        y, x, [1, 0, 0, 0], n_permutations=count, seed=0, alternative="two-sided" if two_sided else "greater"
    )
    t = np.ravel(theirs["t"])
    assert (np.abs(ours.t) if np.allclose(t, np.abs(t)) else ours.t) == pytest.approx(t, rel=1e-9)
    p = 10.0 ** -np.ravel(theirs["logp_max_t"])
    # Four standard errors of the difference of two Monte Carlo p values.
    pooled = (p + ours.p_fwe) / 2
    tolerance = 4 * np.sqrt(2 * pooled * (1 - pooled) / count) + 2 / count
    assert np.all(np.abs(ours.p_fwe - p) < tolerance)
    assert np.quantile(ours.max_t, 0.95) == pytest.approx(np.quantile(theirs["h0_max_t"], 0.95), rel=0.03)


def test_permutation_test__finds_a_planted_effect_and_nothing_else() -> None:
    rng = np.random.default_rng(12)
    x, y = _two_groups(rng, 14, 14, 2), _field(rng, 28)
    planted = np.zeros(SHAPE, dtype=bool)
    planted[3:7, 3:7, 3:7] = True
    y[:14, planted.ravel()] += 2.5
    result = permutation_test(
        y, x, C, n_permutations=499, seed=1, alternative="greater",
        voxel_index=np.arange(y.shape[1]), shape=SHAPE, cluster_forming_p=0.001, tfce=True,
    )  # fmt: skip
    assert result.p_fwe[planted.ravel()].max() <= 0.05
    assert (result.p_fwe[~planted.ravel()] <= 0.05).mean() < 0.05
    largest = result.clusters[0]
    assert largest.p_fwe_size == largest.p_fwe_mass == 1 / 500
    assert planted.ravel()[largest.peak_voxel]
    assert result.p_fwe_tfce is not None
    assert result.p_fwe_tfce[planted.ravel()].max() <= 0.01


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_permutation_test__directions_mirror_each_other(alternative: str) -> None:
    rng = np.random.default_rng(13)
    x, y = _two_groups(rng), _field(rng, 17)
    mirror = {"greater": "less", "less": "greater", "two-sided": "two-sided"}[alternative]
    settings = {"n_permutations": 60, "seed": 5, "voxel_index": np.arange(y.shape[1]), "shape": SHAPE}
    one = permutation_test(y, x, C, alternative=alternative, cluster_forming_p=0.01, tfce=True, **settings)
    other = permutation_test(-y, x, C, alternative=mirror, cluster_forming_p=0.01, tfce=True, **settings)
    np.testing.assert_array_equal(one.p_fwe, other.p_fwe)
    np.testing.assert_array_equal(one.p_fwe_tfce, other.p_fwe_tfce)
    assert sorted(c.p_fwe_mass for c in one.clusters) == sorted(c.p_fwe_mass for c in other.clusters)
    assert {c.direction for c in one.clusters} <= ({alternative} if alternative != "two-sided" else {"greater", "less"})


def test_permutation_test__parts_joined_equal_the_whole_to_the_last_bit() -> None:
    rng = np.random.default_rng(14)
    x, y = _two_groups(rng), _field(rng, 17, (20, 20, 20))
    settings = {"voxel_index": np.arange(8000), "shape": (20, 20, 20), "cluster_forming_p": 0.01, "tfce": True}
    problem = prepare_permutation(y, x, C, n_permutations=75, seed=3, alternative="two-sided", **settings)
    observed = towards(observed_t(problem), "two-sided")
    edges = [1, 2, 17, 40, 41, 76]
    parts = [null_part(problem, observed, *edge) for edge in itertools.pairwise(edges)]
    joined = finish_permutation(problem, parts[::-1])
    whole = permutation_test(y, x, C, n_permutations=75, seed=3, alternative="two-sided", **settings)
    for name in ("t", "p_uncorrected", "p_fwe", "max_t", "max_size", "max_mass", "max_tfce", "p_fwe_tfce"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name), err_msg=name)
    assert joined.clusters == whole.clusters


def test_permutation_test__voxel_chunks_give_the_same_maxima_to_the_last_bit() -> None:
    rng = np.random.default_rng(15)
    x, y = _two_groups(rng), rng.normal(size=(17, 9001))
    settings = {"n_permutations": 40, "seed": 3, "alternative": "greater"}
    whole = permutation_test(y, x, C, **settings)
    pieces = [permutation_test(piece, x, C, **settings) for piece in np.split(y, [3, 4100, 5000], axis=1)]
    np.testing.assert_array_equal(np.max([piece.max_t for piece in pieces], axis=0), whole.max_t)
    np.testing.assert_array_equal(np.concatenate([piece.p_uncorrected for piece in pieces]), whole.p_uncorrected)


def test_permutation_test__more_permutations_keep_the_first_ones() -> None:
    rng = np.random.default_rng(16)
    x, y = _two_groups(rng), rng.normal(size=(17, 30))
    few = permutation_test(y, x, C, n_permutations=20, seed=3, alternative="greater")
    many = permutation_test(y, x, C, n_permutations=70, seed=3, alternative="greater")
    other = permutation_test(y, x, C, n_permutations=20, seed=4, alternative="greater")
    np.testing.assert_array_equal(many.max_t[:20], few.max_t)
    assert not np.array_equal(other.max_t, few.max_t)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_sizes_and_masses__equal_those_of_ndimage(connectivity: int) -> None:
    rng = np.random.default_rng(17)
    mask = rng.random(SHAPE) < 0.8
    values = rng.normal(size=int(mask.sum()))
    where = neighbourhood_of(np.flatnonzero(mask), SHAPE, connectivity=connectivity)
    sizes, masses, chosen, labels = sizes_and_masses(values, 0.3, where)
    volume = np.zeros(SHAPE)
    volume[mask] = np.where(values > 0.3, values - 0.3, 0.0)
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    expected, count = ndimage.label(volume > 0, ndimage.generate_binary_structure(3, reach))
    assert sizes.size == count
    assert sorted(sizes) == sorted(np.bincount(expected.ravel())[1:])
    assert np.sort(masses) == pytest.approx(np.sort(ndimage.sum_labels(volume, expected, np.arange(1, count + 1))))
    assert len(set(zip(labels.tolist(), expected[mask][chosen].tolist(), strict=True))) == count


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_tfce_maps__equal_the_integral_over_every_height(connectivity: int) -> None:
    rng = np.random.default_rng(27)
    mask = rng.random((5, 6, 7)) < 0.8
    maps = rng.normal(0.5, 1.0, size=(3, int(mask.sum())))
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    expected = np.zeros_like(maps)
    for row in range(3):
        volume = np.full(mask.shape, -np.inf)
        volume[mask] = maps[row]
        previous = 0.0
        for height in np.sort(maps[row][maps[row] > 0]):
            labels, _ = ndimage.label(volume >= height, ndimage.generate_binary_structure(3, reach))
            extent = np.where(labels > 0, np.bincount(labels.ravel())[labels], 0)[mask]
            expected[row] += np.sqrt(extent) * (height**3 - previous**3) / 3.0
            previous = height
    where = neighbourhood_of(np.flatnonzero(mask), mask.shape, connectivity=connectivity)
    np.testing.assert_allclose(tfce_maps(maps, where), expected, rtol=2e-5, atol=1e-5)


def test_permutation_test__the_grid_may_be_larger_than_the_mask() -> None:
    rng = np.random.default_rng(18)
    x, y = _two_groups(rng), _field(rng, 17)
    large = (40, 30, 25)
    inside = np.zeros(large, dtype=bool)
    inside[20:32, 10:21, 8:18] = True
    settings = {"n_permutations": 20, "seed": 1, "alternative": "greater", "cluster_forming_p": 0.05}
    small = permutation_test(y, x, C, voxel_index=np.arange(y.shape[1]), shape=SHAPE, **settings)
    moved = permutation_test(y, x, C, voxel_index=np.flatnonzero(inside), shape=large, **settings)
    assert small.clusters == moved.clusters
    np.testing.assert_array_equal(small.max_mass, moved.max_mass)


def test_permutation_test__constant_voxels_get_nan_and_change_nothing() -> None:
    rng = np.random.default_rng(19)
    x, y = _two_groups(rng), rng.normal(size=(17, 40))
    y[:, :20] -= 5 * (np.arange(17)[:, None] < 9)
    held = np.insert(y, [0, 10], np.array([[3.0, 0.0]]), axis=1)
    plain = permutation_test(y, x, C, n_permutations=50, seed=1, alternative="greater")
    result = permutation_test(held, x, C, n_permutations=50, seed=1, alternative="greater")
    assert np.flatnonzero(np.isnan(result.p_fwe)).tolist() == np.flatnonzero(np.isnan(result.t)).tolist() == [0, 11]
    np.testing.assert_allclose(result.max_t, plain.max_t, rtol=1e-12)  # BLAS: bits may depend on the width
    np.testing.assert_array_equal(result.p_fwe[~np.isnan(result.p_fwe)], plain.p_fwe)


def test_p_from_maxima__counts_the_observed_map_in() -> None:
    maxima = np.array([1.0, 2.0, 3.0, 4.0])
    p = p_from_maxima(np.array([5.0, 4.0, 2.5, 0.0, np.nan]), maxima)
    np.testing.assert_allclose(p, [1 / 5, 2 / 5, 3 / 5, 1.0, np.nan])


@pytest.mark.parametrize("truth", [0.001, 0.05, 0.4])
def test_monte_carlo_interval__covers_the_p_of_all_relabellings(truth: float) -> None:
    reached = np.random.default_rng(28).binomial(999, truth, size=1000)
    inside = 0
    for count in reached:
        low, high = monte_carlo_interval((1 + count) / 1000, 999)
        inside += low <= truth <= high
    assert inside >= 935


def test_monte_carlo_interval__ends_at_zero_and_one() -> None:
    assert monte_carlo_interval(1 / 100, 99)[0] == 0.0
    assert monte_carlo_interval(1.0, 99)[1] == 1.0


def test_permutation_test__repeated_columns_are_allowed_where_the_contrast_is_estimable() -> None:
    rng = np.random.default_rng(20)
    x, y = _two_groups(rng), rng.normal(size=(17, 3))
    repeated = np.column_stack([x, np.ones(17)])
    plain = permutation_test(y, x, C, n_permutations=20, seed=1, alternative="greater")
    result = permutation_test(y, repeated, [1, -1, 0, 0, 0], n_permutations=20, seed=1, alternative="greater")
    assert result.t == pytest.approx(plain.t, rel=1e-9)
    assert result.effect == pytest.approx(plain.effect, rel=1e-9)
    with pytest.raises(ContrastError, match="estimable"):
        permutation_test(y, repeated, [1, 0, 0, 0, 0], n_permutations=20, seed=1, alternative="greater")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"participant_ids": ["03", "03", *map(str, range(15))]}, DesignError, "one row per participant, found 2 for"),
        ({"alternative": "bigger"}, DesignError, "name the direction"),
        ({"cluster_forming_p": 3.0, "voxel_index": np.arange(4), "shape": (4, 1, 1)}, DesignError, "not a t"),
        ({"cluster_forming_p": 0.01}, MaskError, "voxel_index and shape"),
        ({"voxel_index": np.arange(4)}, DesignError, "together"),
        ({"voxel_index": np.arange(3), "shape": (4, 1, 1), "tfce": True}, MaskError, "4 voxels in the mask, found 3"),
        ({"voxel_index": [0, 1, 2, 9], "shape": (4, 1, 1), "tfce": True}, MaskError, "inside a grid"),
        ({"blocks": ["a"] * 5}, DesignError, "17 blocks"),
        ({"n_permutations": 0}, DesignError, "1 permutation or more"),
        ({"exchange": "bootstrap"}, DesignError, "bootstrap"),
    ],
)
def test_permutation_test__refuses_with_words(change: dict[str, object], error: type[Exception], words: str) -> None:
    rng = np.random.default_rng(21)
    settings: dict[str, object] = {"n_permutations": 20, "seed": 1, "alternative": "greater"}
    with pytest.raises(error, match=words):
        permutation_test(rng.normal(size=(17, 4)), _two_groups(rng), C, **(settings | change))  # type: ignore[arg-type]


def test_permutation_test__refuses_nan_and_constant_data() -> None:
    rng = np.random.default_rng(22)
    x, y = _two_groups(rng), rng.normal(size=(17, 4))
    y[2, 1] = np.nan
    for data, words in ((y, "1 voxels with NaN"), (np.ones((17, 4)), "data that vary"), (y[:5], "17 rows")):
        with pytest.raises(DesignError, match=words):
            permutation_test(data, x, C, n_permutations=20, seed=1, alternative="greater")


def test_finish_permutation__refuses_a_gap() -> None:
    rng = np.random.default_rng(23)
    problem = prepare_permutation(
        rng.normal(size=(17, 4)), _two_groups(rng), C, n_permutations=20, seed=1, alternative="greater"
    )
    observed = observed_t(problem)
    with pytest.raises(DesignError, match="found 1 to 5, 11 to 20"):
        finish_permutation(problem, [null_part(problem, observed, 1, 6), null_part(problem, observed, 11, 21)])


def test_permutation_test__names_the_missing_tfce_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tfce", None)
    rng = np.random.default_rng(24)
    with pytest.raises(DesignError, match=r"voxcloud\[tfce\]"):
        permutation_test(
            rng.normal(size=(17, 4)), _two_groups(rng), C, n_permutations=20, seed=1, alternative="greater",
            voxel_index=np.arange(4), shape=(4, 1, 1), tfce=True,
        )  # fmt: skip


@pytest.mark.slow
def test_permutation_test__costs_less_than_nilearn() -> None:
    """31 images x 61,686 voxels, two nuisance covariates: nilearn takes 14 CPU-s per 1,000 permutations."""
    rng = np.random.default_rng(25)
    x, y = _two_groups(rng, 17, 14, 2), rng.normal(size=(31, 61_686))
    start = time.process_time()
    permutation_test(y, x, C, n_permutations=500, seed=1, alternative="two-sided")
    assert 2 * (time.process_time() - start) < 14.0
