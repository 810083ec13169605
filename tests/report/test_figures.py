from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from voxcloud.report.figures_brain import find_clusters, load_background
from voxcloud.report.figures_design import basis_figure, grey_levels
from voxcloud.report.figures_trajectories import by_visit, cluster_figure, mean_interval
from voxcloud.report.methods import write_methods
from voxcloud.report.results import read_results, scores_of
from voxcloud.report.svg import tick_text, ticks


def test_mean_interval__is_students() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    mean, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean == np.mean(values)
    assert (low, high) == pytest.approx(expected)


def test_mean_interval__two_values_have_none() -> None:
    assert np.isnan(mean_interval([1.0, 2.0])[1])


def test_by_visit__days_go_to_the_nearest_reference_day() -> None:
    found = by_visit({"01": [[0, 1.0], [8, 2.0], [80, 3.0]], "02": [[6, 4.0]]}, ["01", "02"], [0, 7, 84])
    assert {day: [v for _, v in seen] for day, seen in found.items()} == {0.0: [1.0], 7.0: [2.0, 4.0], 84.0: [3.0]}


def test_grey_levels__columns_from_black_to_white_and_constants_white() -> None:
    levels = grey_levels(np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 3.0]]))
    np.testing.assert_array_equal(levels, [[1, 0], [1, 1], [1, 0.5]])


def test_find_clusters__takes_only_significant_clusters_whole(results_folder: Path) -> None:
    results = read_results(results_folder)
    comparison = results.found[0]
    found = find_clusters(results, comparison)
    assert found is not None
    assert (found.uncut, found.lost) == (0, 0)
    assert int((found.volume != 0).sum()) == sum(c["size_voxels"] for _, c in comparison.found)
    for _, cluster in comparison.found:
        peak = cluster["peaks"][0]
        voxel = np.linalg.inv(found.affine) @ [peak["x"], peak["y"], peak["z_mm"], 1]
        assert found.volume[tuple(np.round(voxel[:3]).astype(int))] == pytest.approx(peak["t"], abs=1e-5)


def test_load_background__covers_the_brain_in_mm() -> None:
    background = load_background(None)
    assert background.low[0] < -60 < 60 < background.high[0]
    assert background.low[1] < -95 < 65 < background.high[1]
    assert 0 <= background.data.min() <= background.data.max() <= 1


def test_cluster_figure__regression_draws_the_scores(results_folder: Path) -> None:
    tree = read_results(results_folder).found[0].tree
    cluster = tree["searches"][0]["clusters"][0]
    scores = {p: float(k) for k, p in enumerate(tree["participants"])}
    figure, _ = cluster_figure(cluster, tree, [0, 7, 14, 28, 84], ("alpha", scores)) or ("", [])
    assert "Coefficient against score" in figure
    assert figure.count("alpha 3,") == 1


def test_scores_of__only_a_named_covariate_is_a_score() -> None:
    tree = {"test": "pc_alpha", "participants": ["01", "02"], "scores": {"pc_alpha": [1.0, 2.0], "age": [3.0, 4.0]}}
    assert scores_of(tree) == ("pc_alpha", {"01": 1.0, "02": 2.0})
    assert scores_of({**tree, "test": "group[a] - group[b]"}) is None


def test_basis_figure__categorical_terms_are_joined_by_straight_lines() -> None:
    time = {
        "kind": "categorical",
        "reference_days": [0, 7, 14],
        "terms": ["day7", "day14"],
        "matrix": [[1, 0, 0], [1, 1, 0], [1, 0, 1]],
        "scale_days": 14,
    }
    figure = basis_figure(time)
    assert figure is not None
    assert figure.count("<polyline") == 3


def test_ticks__are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.03, 0.031) == [-0.02, 0.0, 0.02]
    assert tick_text(-0.02, 0.02) == "−0.02"
    assert tick_text(0.025, 0.025) == "0.025"


def test_write_methods__cites_only_what_was_run(results_folder: Path) -> None:
    methods = write_methods(read_results(results_folder))
    text = methods.plain
    assert "Freedman" not in text
    assert "p < 0.001" in text
    assert text.count("quadratic is residualised on the intercept and linear") == 1
    assert "4 searches" in text
    assert all(f"{n}. {r.text}" in text for n, r in enumerate(methods.references, 1))
