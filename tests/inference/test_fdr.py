"""False discovery rates against a plain reading of Benjamini and Hochberg and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from voxcloud.inference import fdr
from voxcloud.inference.random_field import ec_density, expected_clusters, p_cluster_uncorrected

P = st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=40)


@given(P)
def test_benjamini_hochberg__equals_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(fdr.benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)


@given(P, st.sampled_from([0.01, 0.05, 0.2]))
def test_benjamini_hochberg__rejects_as_the_step_up_procedure(p: list[float], alpha: float) -> None:
    q = fdr.benjamini_hochberg(p)
    ranked = np.sort(p)
    passing = np.flatnonzero(ranked <= alpha * np.arange(1, len(p) + 1) / len(p) * (1 - 1e-12))
    limit = ranked[passing[-1]] if passing.size else -1.0
    assert np.all(q[np.array(p) <= limit] <= alpha)


def test_benjamini_hochberg__does_not_count_nan() -> None:
    q = fdr.benjamini_hochberg([0.01, np.nan, 0.04])
    np.testing.assert_allclose(q, [0.02, np.nan, 0.04])


def test_benjamini_hochberg__of_nothing_is_nothing() -> None:
    assert fdr.voxelwise_fdr([]).size == 0
    assert fdr.cluster_fdr([]).size == 0


def test_voxelwise_fdr__keeps_the_shape_and_order() -> None:
    p = np.random.default_rng(0).uniform(size=200)
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(fdr.voxelwise_fdr(p)[order], fdr.voxelwise_fdr(p[order]))


def test_p_peak__is_the_ratio_of_expected_clusters() -> None:
    counts = np.array([1.0, 40.0, 380.0, 800.0])
    expected = expected_clusters(5.0, 27.0, counts) / expected_clusters(3.42, 27.0, counts)
    assert fdr.p_peak(5.0, 3.42, 27.0, counts) == pytest.approx(float(expected), rel=1e-13)
    assert fdr.p_peak(3.42, 3.42, 27.0, counts) == 1.0


def test_peak_fdr__grows_as_peaks_fall() -> None:
    q = fdr.peak_fdr([9.0, 6.0, 4.0, 3.5], 3.42, 27.0, [1.0, 40.0, 380.0, 800.0])
    assert np.all(np.diff(q) > 0)
    assert q[0] < 0.001
    assert q[-1] <= 1


def test_cluster_and_peak_fdr__equal_scipy_on_p_values_of_a_second_code() -> None:
    u, df, counts = 3.42, 27.0, np.array([1.0, 40.9, 379.2, 812.9])

    def clusters_above(t: float) -> float:
        b, core = 4 * np.log(2), (1 + t * t / df) ** (-(df - 1) / 2)
        line = np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)) / np.sqrt(df / 2)
        densities = [
            stats.t.sf(t, df),
            np.sqrt(b) / (2 * np.pi) * core,
            b / (2 * np.pi) ** 1.5 * line * t * core,
            b**1.5 / (2 * np.pi) ** 2 * ((df - 1) / df * t * t - 1) * core,
        ]
        return float(counts @ densities)

    peaks = [9.1, 3.6, 5.2, 4.4, 3.43]
    p = [clusters_above(t) / clusters_above(u) for t in peaks]
    np.testing.assert_allclose(fdr.peak_fdr(peaks, u, df, counts), stats.false_discovery_control(p), rtol=1e-10)
    sizes = np.array([0.1, 2.0, 0.4, 1.1])  # resels
    mean = stats.t.sf(u, df) / (clusters_above(u) - counts[:3] @ ec_density(u, df)[:3]) * counts[3]
    p_sizes = np.exp(-((special.gamma(2.5) * sizes / mean) ** (2 / 3)))
    q = fdr.cluster_fdr(p_cluster_uncorrected(sizes, u, df, counts))
    np.testing.assert_allclose(q, stats.false_discovery_control(p_sizes), rtol=1e-8)
