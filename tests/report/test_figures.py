from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from voxcloud.report.figures_brain import Found, find_clusters, load_background, slices
from voxcloud.report.figures_design import basis_figure, grey_levels
from voxcloud.report.figures_glass import VIEWS, glass_brain, outline_symbols
from voxcloud.report.figures_trajectories import by_visit, cluster_figure, mean_interval
from voxcloud.report.methods import write_methods
from voxcloud.report.ramps import Ramp
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


def _one_blob(x: int) -> Found:
    """A blob at one place on a grid of 2 mm that runs from right to left (LAS)."""
    affine = np.array([[-2.0, 0, 0, 80], [0, 2, 0, -100], [0, 0, 2, -60], [0, 0, 0, 1]])
    volume = np.zeros((81, 90, 70))
    index = np.linalg.inv(affine) @ [x, -20, 40, 1]
    i, j, k = np.round(index[:3]).astype(int)
    volume[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 5.0
    return Found(volume, affine, (3.1,), 0, 0)


@pytest.mark.parametrize("x, shown_in", [(30, "right hemisphere"), (-30, "left hemisphere")])
def test_glass_brain__a_side_shows_its_own_hemisphere_only(x: int, shown_in: str) -> None:
    figure = glass_brain(_one_blob(x), "t", "test")
    views = figure.split("<g ")[1:]
    assert len(views) == len(VIEWS) == 4
    with_voxels = [view[6] for view, text in zip(VIEWS, views, strict=True) if "<image" in text]
    assert with_voxels == [v[6] for v in VIEWS if "hemisphere" not in v[6] or v[6] == shown_in]
    # Seen from behind and from above, the blob lies at its own x in mm: left is left.
    for view, text in zip(VIEWS, views, strict=True):
        if view[6] in ("from behind", "from above"):
            left, width = (float(v) for v in re.search(r'x="(-?\d+)".*? width="(\d+)"', text).groups())  # type: ignore[union-attr]
            assert left + width / 2 == pytest.approx(x, abs=1)


def test_outline_symbols__are_those_that_the_views_use() -> None:
    assert set(re.findall(r'id="glass-(\w+)"', outline_symbols())) == {v[0] for v in VIEWS}


def test_slices__the_blob_is_drawn_on_its_side() -> None:
    found = _one_blob(30)
    figure = slices(found, [{"peaks": [{"x": 30.0, "y": -20.0, "z_mm": 40.0}]}], load_background(None), "t", "test")
    assert "x = 30, right hemisphere" in figure
    axial = Image.open(io.BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", figure)[2]))).convert("RGB")
    pixels = np.asarray(axial).astype(int)
    coloured = np.argwhere(pixels[..., 0] - pixels[..., 2] > 60)
    assert coloured[:, 1].min() > pixels.shape[1] / 2


def test_ramp__signs_and_strength_differ_in_grey_too() -> None:
    ramp = Ramp(3.0, 9.0, True, True)
    colours = ramp.colours(np.array([3.0, 9.0, -3.0, -9.0, 0.0])).astype(float)
    grey = colours[:, :3] @ [0.299, 0.587, 0.114]
    assert grey[0] - grey[1] > 100
    assert grey[2] - grey[3] > 100
    assert (colours[:2, 0] > colours[:2, 2]).all()
    assert (colours[2:4, 0] < colours[2:4, 2]).all()
    assert colours[4, 3] == 0


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


def test_tick_text__steps_of_two_and_a_half_keep_their_half() -> None:
    assert [tick_text(v, 2.5) for v in (0.0, 2.5, 7.5)] == ["0.0", "2.5", "7.5"]
    assert [tick_text(v, 0.25) for v in (0.25, 0.5)] == ["0.25", "0.50"]
