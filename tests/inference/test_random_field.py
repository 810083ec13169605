"""Random field theory: resels of boxes, densities against known forms, p-values against an independent formula."""

from __future__ import annotations

from math import exp, gamma, lgamma, log, pi, sqrt

import numpy as np
import pytest
from scipy import stats

from voxcloud.errors import MaskError
from voxcloud.inference import random_field as rf
from voxcloud.inference.distributions import critical_value

FWHM = np.array([2.5, 3.1, 4.2])


@pytest.mark.parametrize("box", [(5, 7, 9), (2, 2, 2), (1, 6, 4), (3, 1, 1), (1, 1, 1)])
def test_resels__of_a_box_are_its_intrinsic_volumes(box: tuple[int, int, int]) -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[2 : 2 + box[0], 1 : 1 + box[1], 3 : 3 + box[2]] = True
    a, b, c = (np.array(box) - 1) / FWHM
    expected = [1.0, a + b + c, a * b + a * c + b * c, a * b * c]
    np.testing.assert_allclose(rf.resels(mask, FWHM), expected, rtol=1e-12, atol=1e-14)


def test_resels__zero_dimension_counts_pieces_minus_holes_plus_hollows() -> None:
    mask = np.ones((9, 9, 9), dtype=bool)
    mask[4, 4, 4] = False  # a hollow
    assert rf.resels(mask, FWHM)[0] == 2
    mask[:, 4, 4] = False  # now a hole through it
    assert rf.resels(mask, FWHM)[0] == 0
    two = np.zeros((9, 9, 9), dtype=bool)
    two[:3], two[5:] = True, True
    assert rf.resels(two, FWHM)[0] == 2


def test_resels__refuses_an_empty_volume() -> None:
    with pytest.raises(MaskError, match="region of interest"):
        rf.resels(np.zeros((3, 3, 3)), FWHM)


def ec_t(t: float, v: float) -> list[float]:
    """Densities of t as Worsley's table II prints them."""
    b = 4 * log(2)
    core = (1 + t * t / v) ** (-(v - 1) / 2)
    return [
        float(stats.t.sf(t, v)),
        sqrt(b) / (2 * pi) * core,
        b / (2 * pi) ** 1.5 * exp(lgamma((v + 1) / 2) - lgamma(v / 2)) / sqrt(v / 2) * t * core,
        b**1.5 / (2 * pi) ** 2 * ((v - 1) / v * t * t - 1) * core,
    ]


@pytest.mark.parametrize("t, v", [(2.0, 5.0), (3.42, 27.0), (6.0, 12.5), (20.0, 200.0)])
def test_ec_density__of_t_equals_the_table(t: float, v: float) -> None:
    np.testing.assert_allclose(rf.ec_density(t, v), ec_t(t, v), rtol=1e-11)


@pytest.mark.parametrize("t, v", [(2.0, 5.0), (3.42, 27.0), (6.0, 12.5)])
def test_ec_density__of_f_with_one_numerator_is_twice_that_of_t(t: float, v: float) -> None:
    # {F > t^2} is {T > t} and {T < -t}, which do not meet.
    np.testing.assert_allclose(rf.ec_density(t * t, (1.0, v), "F"), 2 * np.array(ec_t(t, v)), rtol=1e-11)


@pytest.mark.parametrize("f", [1.0, 4.0, 9.0])
def test_ec_density__of_f_tends_to_chi_squared(f: float) -> None:
    # Worsley's table II for chi squared with k degrees of freedom at x = k f.
    k, x, b = 3.0, 3.0 * f, 4 * log(2)
    front = 1 / (2 ** (k / 2 - 1) * gamma(k / 2))
    one = sqrt(b / (2 * pi)) * front * x ** ((k - 1) / 2) * exp(-x / 2)
    two = b / (2 * pi) * front * x ** ((k - 2) / 2) * exp(-x / 2) * (x - (k - 1))
    three = (b / (2 * pi)) ** 1.5 * front * x ** ((k - 3) / 2) * exp(-x / 2)
    three *= x * x - (2 * k - 1) * x + (k - 1) * (k - 2)
    np.testing.assert_allclose(rf.ec_density(f, (k, 1e7), "F")[1:], [one, two, three], rtol=1e-4)


@pytest.mark.parametrize("z", [1.5, 3.1, 6.0])
def test_ec_density__of_t_tends_to_the_gaussian(z: float) -> None:
    np.testing.assert_allclose(rf.ec_density(z, 1e10), rf.ec_density(z, 0.0, "Z"), rtol=1e-6)


@pytest.mark.parametrize("kind, df", [("Z", 0.0), ("T", 27.0), ("F", (3.0, 27.0))])
def test_ec_density__stays_finite_far_out(kind: rf.Statistic, df: rf.DegreesOfFreedom) -> None:
    density = rf.ec_density(np.array([80.0, 1e6, 1e120]), df, kind)
    assert np.isfinite(density).all()
    assert np.all(density >= 0)


R = np.array([1.0, 40.9, 379.2, 812.9])


def independent_cluster_p(k: int, u: float, df: float, resels: np.ndarray, fwhm: np.ndarray) -> tuple[float, float]:
    """Familywise and uncorrected p of a cluster of k voxels, from the formulas of the papers, in plain floats."""
    density = ec_t(u, df)
    clusters = sum(float(r) * rho for r, rho in zip(resels, density, strict=True))
    mean_size = density[0] / density[3]  # in resels
    size = k / float(fwhm[0] * fwhm[1] * fwhm[2])
    p = exp(-((gamma(2.5) * size / mean_size) ** (2 / 3)))
    return 1 - exp(-clusters * p), p


@pytest.mark.parametrize("k", [1, 5, 20, 109])
@pytest.mark.parametrize("df", [12.0, 27.0, 60.5])
def test_p_cluster_fwe__equals_the_independent_formula(k: int, df: float) -> None:
    u = critical_value(0.001, df)
    fwe, unc = independent_cluster_p(k, u, df, R, FWHM)
    size = k / np.prod(FWHM)
    assert rf.p_cluster_fwe(size, u, df, R) == pytest.approx(fwe, abs=1e-12)
    assert rf.p_cluster_uncorrected(size, u, df, R) == pytest.approx(unc, rel=1e-10)


def test_p_cluster_fwe__does_not_vanish_for_huge_clusters() -> None:
    p = rf.p_cluster_fwe(np.array([1.0, 10.0, 300.0]), 3.42, 27.0, R)
    assert np.all(np.diff(p) < 0)
    assert 0 < p[-1] < 1e-50


def test_p_peak_fwe__is_the_smaller_of_field_and_bonferroni() -> None:
    rough, smooth = 100_000, 500
    t = 6.0
    field = 1 - exp(-sum(r * rho for r, rho in zip(R, ec_t(t, 27.0), strict=True)))
    assert rf.p_peak_fwe(t, 27.0, R) == pytest.approx(field, rel=1e-9)
    assert rf.p_peak_fwe(t, 27.0, R, rough) == pytest.approx(field, rel=1e-9)
    assert rf.p_peak_fwe(t, 27.0, R, smooth) == pytest.approx(smooth * stats.t.sf(t, 27), rel=1e-9)
    assert rf.p_peak_fwe(0.5, 27.0, R, rough) <= 1.0


def test_p_peak_fwe__is_finite_at_t_80() -> None:
    assert 0 < rf.p_peak_fwe(80.0, 27.0, R, 29394) < 1e-25


def test_p_set__is_the_poisson_tail() -> None:
    rate = float(rf.expected_clusters(3.42, 27.0, R))
    assert rf.p_set(14, 0.0, 3.42, 27.0, R) == pytest.approx(stats.poisson.sf(13, rate), rel=1e-10)
    assert rf.p_set(0, 0.0, 3.42, 27.0, R) == 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_height_threshold_fwe__has_that_familywise_p(alpha: float) -> None:
    u = rf.height_threshold_fwe(alpha, 27.0, R)
    assert rf.p_peak_fwe(u, 27.0, R) == pytest.approx(alpha, rel=1e-9)
    tight = rf.height_threshold_fwe(alpha, 27.0, R, 900)
    assert tight < u
    assert rf.p_peak_fwe(tight, 27.0, R, 900) == pytest.approx(alpha, rel=1e-9)
    point = rf.height_threshold_fwe(alpha, 27.0, [1.0, 0, 0, 0], 1)
    assert point == pytest.approx(stats.t.isf(-np.log1p(-alpha), 27), rel=1e-9)


def test_extent_threshold_fwe__is_the_smallest_significant_size() -> None:
    volume = float(np.prod(FWHM))
    k = rf.extent_threshold_fwe(0.05, 3.42, 27.0, R, volume)
    assert rf.p_cluster_fwe(k / volume, 3.42, 27.0, R) <= 0.05
    assert rf.p_cluster_fwe((k - 1) / volume, 3.42, 27.0, R) > 0.05


def test_expected_clusters__of_a_plane_uses_two_dimensions() -> None:
    plane = np.array([1.0, 20.0, 90.0, 0.0])
    density = ec_t(3.42, 27.0)
    assert rf.expected_clusters(3.42, 27.0, plane) == pytest.approx(
        density[0] + 20 * density[1] + 90 * density[2], rel=1e-10
    )
    assert rf.expected_resels_per_cluster(3.42, 27.0, plane) == pytest.approx(density[0] / density[2], rel=1e-10)
    p = rf.p_cluster_uncorrected(0.3, 3.42, 27.0, plane)
    assert p == pytest.approx(exp(-0.3 * density[2] / density[0]), rel=1e-10)


def test_p_cluster_uncorrected__is_one_without_extent() -> None:
    assert rf.p_cluster_uncorrected(5.0, 3.42, 27.0, [3.0, 0, 0, 0]) == 1.0
    assert rf.extent_threshold_fwe(0.05, 3.42, 27.0, [3.0, 0, 0, 0], 30.0) == 1


def test_expected_clusters__of_a_volume_full_of_holes_is_not_negative() -> None:
    mask = np.zeros((60, 60, 5), dtype=bool)
    mask[:, :, 2] = True
    mask[1::2, 1::2, 2] = False  # a net with 870 meshes, beside a field that hardly changes from one to the next
    counts = rf.resels(mask, [30.0] * 3)
    assert counts[0] < -800
    density = rf.ec_density(3.42, 27.0)
    assert counts @ density < 0
    assert rf.expected_clusters(3.42, 27.0, counts) == pytest.approx(counts[1] * density[1], rel=1e-12)
    p = rf.p_cluster_fwe(np.array([0.001, 0.01]), 3.42, 27.0, counts)
    assert np.all((p > 0) & (p <= 1))
    assert 0 < rf.p_set(2, 0.0, 3.42, 27.0, counts) < 1
    assert rf.extent_threshold_fwe(0.05, 3.42, 27.0, counts, 30.0**3) >= 1
