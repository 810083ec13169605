"""Leave-one-out clusters against refitting everything without each participant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from voxcloud.bids.images import MaskGrid
from voxcloud.inference.random_field import p_cluster_fwe
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.pipeline import clusters
from voxcloud.pipeline.clusters import CONNECTIVITY_18, ClusterContext, _leave_one_out_clusters

PEOPLE = 14
SHAPE = (20, 18, 16)
FORMING_P = 0.001
CONTRAST = np.array([0.0, 1.0])
RESELS = (1.0, 12.0, 40.0, 30.0)


def whitening() -> np.ndarray:
    return np.diag(np.linspace(0.5, 2.0, PEOPLE))


@pytest.fixture(params=["whole mask", "region", "whitened", "less"])
def context(request: pytest.FixtureRequest) -> ClusterContext:
    """A cluster in the middle of an ellipsoid, which two participants hold together."""
    rng = np.random.default_rng(11)
    place = np.indices(SHAPE)
    centre = (np.array(SHAPE)[:, None, None, None] - 1) / 2
    mask = (((place - centre) / centre) ** 2).sum(axis=0) < 1
    grid = MaskGrid.from_array(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
    inside = np.flatnonzero(np.arange(mask.sum()) % 97 != 5)  # the analysis mask has holes
    values = ndimage.gaussian_filter(rng.standard_normal((PEOPLE, *SHAPE)), (0, 1, 1, 1))
    near = ((place - centre) ** 2).sum(axis=0) < 9
    X = np.column_stack([np.ones(PEOPLE), np.linspace(-1, 1, PEOPLE)])
    values += 0.7 * X[:, 1, None, None, None] * near
    values[[0, -1]] += np.sign(X[[0, -1], 1])[:, None, None, None] * near * (place[0] > centre[0]) * 0.5
    sign = -1.0 if request.param == "less" else 1.0
    stored = sign * values[:, mask].astype(np.float32)
    white = whitening() if request.param == "whitened" else None
    view = SimpleNamespace(
        values=lambda voxels: stored[:, voxels].astype(np.float64),
        entry={"X": X.tolist(), "participants": [f"{i:02d}" for i in range(PEOPLE)]},
        whitener=white,
        df=float(PEOPLE - 2),
    )
    roi = place[1] > 5 if request.param == "region" else None
    params = {"inference": {"cluster_forming_p": FORMING_P, "alpha": 0.05}}
    smooth = {"fwhm_voxels": [2.4, 2.4, 2.4]}
    test: dict[str, Any] = {"kind": "t", "weights": [CONTRAST.tolist()]}
    return ClusterContext(
        view, grid, inside, np.zeros(inside.size), smooth, "greater" if sign > 0 else "less", test, roi, params, None
    )


def map_of(context: ClusterContext, keep: np.ndarray) -> np.ndarray:
    """Return t in the direction of the search, refitted on some participants; -inf outside the search volume."""
    X, _ = context.design()
    values = context.whiten(context.view.values(context.inside))
    _, _, t = t_contrast(fit_ols(values[keep], X[keep]), CONTRAST)
    volume = np.full(SHAPE, -np.inf)
    volume.ravel()[context.grid.voxel_index[context.inside]] = t * context.sign
    return volume if context.roi is None else np.where(context.roi, volume, -np.inf)


def largest(volume: np.ndarray, df: float) -> np.ndarray:
    labels, _ = ndimage.label(volume > stats.t.isf(FORMING_P, df), CONNECTIVITY_18)
    return labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1


@pytest.mark.parametrize("panel", [1_024, 50])
def test_leave_one_out_clusters__equals_refitting_without_each_participant(
    context: ClusterContext, panel: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clusters, "PANEL_VOXELS", panel)
    monkeypatch.setattr(clusters, "MARGIN_VOXELS", max(SHAPE))  # the box is the grid: nothing can be cut off
    everybody = np.arange(PEOPLE)
    cluster = largest(map_of(context, everybody), context.view.df)
    place = context.grid.voxel_index[context.inside]
    positions = np.flatnonzero(cluster.ravel()[place])
    found: Any = SimpleNamespace(resels=RESELS)
    X, c = context.design()
    p_values, held_out = _leave_one_out_clusters(context, found, positions, X, c)
    stored = context.view.values(context.inside)
    df = context.view.df - 1
    sizes = []
    for person in everybody:
        volume = map_of(context, np.delete(everybody, person))
        labels, _ = ndimage.label(volume > stats.t.isf(FORMING_P, df), CONNECTIVITY_18)
        overlap = np.bincount(labels[cluster], minlength=labels.max() + 1)
        overlap[0] = 0
        left = labels == overlap.argmax() if overlap.any() else np.zeros(SHAPE, dtype=bool)
        sizes.append(int(left.sum()))
        if not left.any():
            assert p_values[person] == 1.0
            assert np.isnan(held_out[person])
            continue
        threshold = float(stats.t.isf(FORMING_P, df))
        expected = p_cluster_fwe(left.sum() / 2.4**3, threshold, df, RESELS)
        assert p_values[person] == pytest.approx(float(expected), rel=1e-12)
        assert held_out[person] == pytest.approx(stored[person, left.ravel()[place]].mean(), rel=1e-12)
    assert positions.size > 5
    assert len(set(sizes)) > 2  # the participants differ: the comparison says something


def test_leave_one_out_clusters__box_with_the_usual_margin_finds_the_same(context: ClusterContext):
    cluster = largest(map_of(context, np.arange(PEOPLE)), context.view.df)
    positions = np.flatnonzero(cluster.ravel()[context.grid.voxel_index[context.inside]])
    X, c = context.design()
    found: Any = SimpleNamespace(resels=RESELS)
    usual = _leave_one_out_clusters(context, found, positions, X, c)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "MARGIN_VOXELS", max(SHAPE))
        whole = _leave_one_out_clusters(context, found, positions, X, c)
    np.testing.assert_array_equal(usual[0], whole[0])
    np.testing.assert_array_equal(usual[1], whole[1])
