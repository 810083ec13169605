"""Numbers of quality control: closed forms and the behaviour at the edges."""

from __future__ import annotations

import json

import numpy as np
import pytest

from voxcloud.errors import ImageError, MaskError
from voxcloud.qmri.estatics import fit_estatics
from voxcloud.qmri.quality import B1_EXPECTED, map_snr, motion_degradation, summarise_b1, summarise_map

TIMES = [0.0023 * (k + 1) for k in range(8)]


def masks(wm: int, gm: int, other: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of a vector: white matter first, then grey matter, then what is neither."""
    tissue = np.repeat([1, 2, 0], [wm, gm, other])
    return tissue == 1, tissue == 2


def test_map_snr__is_value_over_error() -> None:
    found = map_snr(np.array([1.0, 0.6, 0.5], np.float32), np.array([0.1, 0.2, 0.0], np.float32))
    assert found.dtype == np.float32
    assert found[:2] == pytest.approx([10.0, 3.0])
    assert np.isnan(found[2])


def test_map_snr__another_grid_is_refused() -> None:
    with pytest.raises(ImageError, match="error map"):
        map_snr(np.ones(4), np.ones(5))


def test_motion_degradation__is_the_standard_deviation_over_white_matter() -> None:
    r2star = np.concatenate([np.arange(40.0), np.full(60, 500.0)])
    r2star[3] = np.nan
    expected = np.delete(np.arange(40.0), 3).std(ddof=1)
    assert motion_degradation(r2star, np.arange(100) < 40) == pytest.approx(expected)


def test_motion_degradation__rises_with_noise_in_the_echoes() -> None:
    rng = np.random.default_rng(1)
    clean = 800.0 * np.exp(-np.outer(TIMES, np.full(400, 21.0)))
    index = []
    for sigma in (4.0, 16.0):
        noisy = list(clean + sigma * rng.standard_normal(clean.shape))
        fitted = fit_estatics({"PDw": noisy}, {"PDw": TIMES}).r2star
        index.append(motion_degradation(fitted, np.ones(400, dtype=bool)))
    assert 3.0 < index[1] / index[0] < 5.0


def test_motion_degradation__a_mask_off_the_map_is_refused() -> None:
    with pytest.raises(MaskError, match="at least 20 voxels"):
        motion_degradation(np.full(50, np.nan), np.ones(50, dtype=bool))


def test_summarise_map__quartiles_of_each_tissue() -> None:
    wm, gm = masks(101, 11, 30)
    values = np.concatenate([np.linspace(0.9, 1.1, 101), np.linspace(0.5, 0.7, 11), np.full(30, 9.0)])
    found = summarise_map(values, wm, gm, limits=(0.0, 1.6))
    assert [found["WM"][k] for k in ("p25", "median", "p75")] == pytest.approx([0.95, 1.0, 1.05])
    assert [found["GM"][k] for k in ("p25", "median", "p75")] == pytest.approx([0.55, 0.6, 0.65])
    assert (found["WM"]["n"], found["GM"]["n"]) == (101, 11)


def test_summarise_map__missing_voxels_are_a_share_and_do_not_count() -> None:
    wm, gm = masks(10, 4)
    values = np.concatenate([np.full(8, 1.0), [np.nan, np.inf], np.full(4, 0.6)])
    found = summarise_map(values, wm, gm, limits=(0.0, 2.0))
    assert found["WM"]["missing"] == pytest.approx(0.2)
    assert found["WM"]["n"] == 8
    assert found["GM"]["missing"] == 0.0


def test_summarise_map__histograms_hold_every_voxel_in_fixed_bins() -> None:
    wm, gm = masks(6, 2)
    values = np.array([-1.0, 0.05, 0.15, 0.15, 0.95, 40.0, 0.5, np.nan])
    histogram = summarise_map(values, wm, gm, limits=(0.0, 1.0), bins=10)["histogram"]
    assert (histogram["low"], histogram["high"]) == (0.0, 1.0)
    # What lies beyond the limits is in the first and the last bin.
    assert histogram["WM"] == [2, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert sum(histogram["GM"]) == 1


def test_summarise_map__noise_of_white_matter_by_the_error_map() -> None:
    wm, gm = masks(5, 2)
    values = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0])
    error = np.array([0.1, 0.1, 0.05, 0.2, np.nan, 0.001, 0.001])
    assert summarise_map(values, wm, gm, limits=(0.0, 2.0), error=error)["snr_WM"] == pytest.approx(10.0)
    assert summarise_map(values, wm, gm, limits=(0.0, 2.0))["snr_WM"] is None
    assert summarise_map(values, wm, gm, limits=(0.0, 2.0), error=np.zeros(7))["snr_WM"] is None


def test_summarise_map__no_tissue_gives_nothing_that_json_cannot_hold() -> None:
    nothing = np.zeros(5, dtype=bool)
    found = summarise_map(np.ones(5), nothing, nothing, limits=(0.0, 2.0), error=np.ones(5))
    assert found["WM"] == {"median": None, "p25": None, "p75": None, "n": 0, "missing": None}
    assert found["snr_WM"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_summarise_map__another_grid_is_refused() -> None:
    with pytest.raises(ImageError, match="grey matter"):
        summarise_map(np.ones((2, 3)), np.ones((2, 3), dtype=bool), np.ones(6, dtype=bool), limits=(0.0, 2.0))


def test_summarise_b1__range_over_the_brain() -> None:
    inside = np.concatenate([np.linspace(0.8, 1.2, 101), [np.nan] * 9, [B1_EXPECTED[1] + 0.01] * 2])
    b1 = np.concatenate([inside, np.full(50, 7.0)])
    found = summarise_b1(b1, np.arange(b1.size) < inside.size)
    assert found["median"] == pytest.approx(1.004)
    assert found["p01"] == pytest.approx(0.8 + 0.01 * 102 * 0.004)
    assert found["missing_share"] == pytest.approx(9 / 112)
    assert found["outside_share"] == pytest.approx(2 / 103)


def test_summarise_b1__unknown_everywhere() -> None:
    found = summarise_b1(np.full(4, np.nan), np.ones(4, dtype=bool))
    assert found == {"median": None, "p01": None, "p99": None, "missing_share": 1.0, "outside_share": None}
    assert summarise_b1(np.ones(4), np.zeros(4, dtype=bool))["missing_share"] is None
