"""A cluster that one person makes is found, attributed to them and flagged; one that everybody makes is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from voxcloud.inference.search import SearchResult, random_field_search
from voxcloud.inference.smoothness import Smoothness, smoothness_of_array
from voxcloud.models.influence import ContrastInfluence, contrast_influence, crosses_alpha, leave_one_out_t
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.testing.fields import SmoothNoise

SHAPE, N = (24, 24, 20), 17
MASK = np.zeros(SHAPE, dtype=bool)
MASK[2:22, 2:22, 2:18] = True
INDEX = np.flatnonzero(MASK.ravel())
SCORE = np.array([0.0, 1.0, 0.0])
PEOPLE = [f"{k + 1:02d}" for k in range(N)]
OUTLIER = 4  # participant 05


@dataclass(frozen=True)
class Example:
    """Coefficients, design, and what the search found in them."""

    y: np.ndarray
    x: np.ndarray
    smooth: Smoothness
    found: SearchResult
    influence: ContrastInfluence


def search(t: np.ndarray, df: float, smooth: Smoothness) -> SearchResult:
    return random_field_search(t, df, MASK, INDEX, np.diag([2.0, 2, 2, 1]), smooth)


def example(one_person: bool) -> Example:
    rng = np.random.default_rng(3)
    score, age = rng.normal(size=N), rng.normal(size=N)
    if one_person:
        score[OUTLIER] = 10.0
    x = np.column_stack([np.ones(N), score - score.mean(), age - age.mean()])
    noise = SmoothNoise(SHAPE, [3.3] * 3)
    y = np.stack([noise.sample(rng)[MASK] for _ in range(N)]).astype(np.float64)
    distance = ((np.indices(SHAPE) - np.array([12, 12, 10])[:, None, None, None]) ** 2).sum(axis=0)[MASK]
    blob = np.exp(-distance / 15.0)
    if one_person:
        y[OUTLIER] += 25.0 * blob
    else:
        y += 3.0 * x[:, 1:2] * blob
    fit = fit_ols(y, x)
    smooth = smoothness_of_array(fit.standardised_residuals(y), INDEX, SHAPE, fit.df)
    found = search(t_contrast(fit, SCORE)[2], fit.df, smooth)
    values = y[:, found.clusters[0].voxels]
    return Example(y, x, smooth, found, contrast_influence(values, x, SCORE, PEOPLE))


@pytest.fixture(scope="module")
def one() -> Example:
    return example(one_person=True)


@pytest.fixture(scope="module")
def everybody() -> Example:
    return example(one_person=False)


def without_each(case: Example) -> np.ndarray:
    """Smallest familywise cluster p without each person in turn."""
    t = leave_one_out_t(case.y, case.x, SCORE)
    return np.array([search(row, case.found.df - 1, case.smooth).p_fwe_min for row in t])


def test_contrast_influence__names_and_flags_the_one_who_makes_the_cluster(one: Example) -> None:
    assert one.found.clusters[0].significant
    assert one.influence.largest_participant == "05"
    assert one.influence.largest_share > 0.7
    assert one.influence.flagged
    assert one.influence.flagged_participants == ("05",)
    assert one.influence.loo_t_min_participant == "05"


def test_crosses_alpha__of_the_cluster_p_flags_the_same_person(one: Example) -> None:
    flagged = crosses_alpha(one.found.p_fwe_min, without_each(one), 0.05)
    assert [p for p, bad in zip(PEOPLE, flagged, strict=True) if bad] == ["05"]


def test_contrast_influence__does_not_flag_a_cluster_that_everybody_makes(everybody: Example) -> None:
    assert everybody.found.clusters[0].significant
    assert not everybody.influence.flagged
    assert everybody.influence.largest_share < 0.5
    assert not crosses_alpha(everybody.found.p_fwe_min, without_each(everybody), 0.05).any()
