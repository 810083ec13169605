"""One search: p-values, search volumes, warnings, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxcloud.errors import MaskError
from voxcloud.inference import random_field as rf
from voxcloud.inference import search as s
from voxcloud.inference.smoothness import Smoothness
from voxcloud.testing.fields import SmoothNoise

SHAPE = (24, 26, 22)
AFFINE = np.array([[-4.0, 0, 0, 46], [0, 4, 0, -50], [0, 0, 4, -40], [0, 0, 0, 1]])
DF = 27.0


def smooth(fwhm: float = 3.3, erdf: float = DF, resels: np.ndarray | None = None) -> Smoothness:
    per_voxel = np.full(100, fwhm**-3) if resels is None else resels
    return Smoothness((fwhm, fwhm, fwhm), 100, erdf, per_voxel)


def noise_map(seed: int = 0, blob: float = 9.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:22, 3:23, 2:20] = True
    volume = SmoothNoise(SHAPE, [3.3] * 3).sample(np.random.default_rng(seed)).astype(float)
    grid = np.indices(SHAPE)
    distance = ((grid - np.array([12, 12, 10])[:, None, None, None]) ** 2).sum(axis=0)
    volume += blob * np.exp(-distance / 8.0)
    index = np.flatnonzero(mask.ravel())
    return volume.ravel()[index], mask, index


def run(**options: Any) -> s.SearchResult:
    t, mask, index = noise_map()
    arguments: dict[str, Any] = {"min_extent": 0} | options
    return s.random_field_search(
        arguments.pop("stat", t),
        arguments.pop("df", DF),
        mask,
        index,
        AFFINE,
        arguments.pop("smoothness", smooth()),
        **arguments,
    )


def test_random_field_search__finds_the_blob_with_its_place_and_size() -> None:
    found = run()
    top = found.clusters[0]
    assert top.significant
    assert found.p_fwe_min == top.p_fwe
    peak = top.peaks[0]
    np.testing.assert_allclose(np.array(peak.mm), AFFINE[:3, :3] @ peak.voxel + AFFINE[:3, 3])
    assert np.linalg.norm(np.array(peak.voxel) - [12, 12, 10]) < 2.5
    assert top.size_mm3 == pytest.approx(top.size_voxels * 64.0)
    assert top.size_resels == pytest.approx(top.size_voxels / 3.3**3)
    assert top.voxels.size == top.size_voxels


def test_random_field_search__numbers_the_clusters_by_height_and_labels_their_voxels() -> None:
    t, _, _ = noise_map()
    found = run()
    heights = [c.peaks[0].value for c in found.clusters]
    assert heights == sorted(heights, reverse=True)
    for cluster in found.clusters:
        assert t[cluster.voxels].max() == cluster.peaks[0].value
        assert t[cluster.voxels].min() > found.height_threshold
        np.testing.assert_array_equal(np.flatnonzero(found.labels == cluster.id), cluster.voxels)
    assert np.count_nonzero(found.labels) == np.count_nonzero(t > found.height_threshold)


def test_random_field_search__extent_only_hides() -> None:
    whole, large = run(), run(min_extent=20)
    kept = [c for c in whole.clusters if c.size_voxels >= 20]
    assert 0 < len(kept) < len(whole.clusters)
    assert [(c.p_fwe, c.q_fdr, c.size_voxels) for c in large.clusters] == [
        (c.p_fwe, c.q_fdr, c.size_voxels) for c in kept
    ]
    assert [c.id for c in large.clusters] == list(range(1, len(kept) + 1))
    assert large.n_clusters_all == whole.n_clusters_all
    assert set(np.unique(large.labels)) == set(range(len(kept) + 1))


def test_random_field_search__roi_equal_to_the_mask_changes_nothing() -> None:
    _, mask, _ = noise_map()
    whole, roi = run(), run(roi=mask)
    assert roi.resels == whole.resels
    assert [(c.p_fwe, c.p_uncorrected, c.q_fdr, c.peaks) for c in roi.clusters] == [
        (c.p_fwe, c.p_uncorrected, c.q_fdr, c.peaks) for c in whole.clusters
    ]


def test_random_field_search__roi_box_has_the_resels_of_a_box() -> None:
    roi = np.zeros(SHAPE, dtype=bool)
    roi[8:17, 9:16, 5:16] = True
    found = run(roi=roi)
    a, b, c = np.array([8, 6, 10]) / 3.3
    np.testing.assert_allclose(found.resels, [1, a + b + c, a * b + a * c + b * c, a * b * c], rtol=1e-12)
    assert found.n_voxels == 9 * 7 * 11


def test_random_field_search__smaller_volume_gives_smaller_p() -> None:
    roi = np.zeros(SHAPE, dtype=bool)
    roi[6:19, 6:19, 4:17] = True
    whole, small = run(), run(roi=roi)
    assert small.clusters[0].size_voxels == whole.clusters[0].size_voxels
    assert small.clusters[0].p_fwe < whole.clusters[0].p_fwe
    assert small.clusters[0].peaks[0].p_fwe <= whole.clusters[0].peaks[0].p_fwe


def test_random_field_search__flags_clusters_that_the_volume_cuts() -> None:
    roi = np.zeros(SHAPE, dtype=bool)
    roi[:12] = True
    found = run(roi=roi)
    assert found.clusters[0].cut
    assert found.clusters[0].touches_edge
    assert any("1 of 1 listed clusters reach beyond the search volume" in note for note in found.warnings)
    assert not run().clusters[0].cut
    assert not run().clusters[0].touches_edge


def test_random_field_search__nan_is_outside() -> None:
    t, _, _ = noise_map()
    t[t > 5.0] = np.nan
    found = run(stat=t)
    assert found.n_voxels == np.count_nonzero(np.isfinite(t))
    assert np.all(np.isfinite([c.p_fwe for c in found.clusters]))


def test_random_field_search__without_anything_above_is_an_empty_result() -> None:
    t, _, _ = noise_map()
    found = run(stat=np.minimum(t, 3.0))
    assert found.clusters == ()
    assert found.p_fwe_min == 1.0
    assert found.set_p == 1.0
    assert found.height_fdr == np.inf
    assert not found.labels.any()


def test_random_field_search__sub_peaks_are_apart() -> None:
    _, _, index = noise_map()
    volume = np.zeros(SHAPE)
    volume[12, 8:19, 10] = 5.0  # one cluster, a ridge of 11 voxels, with four peaks, two of them 4 mm apart
    for place, height in ((8, 9.0), (10, 8.0), (14, 7.0), (18, 6.0)):
        volume[12, place, 10] = height
    peaks = run(stat=volume.ravel()[index]).clusters[0].peaks
    # 8 mm is not more than 8 mm: the second is left out.
    assert [p.value for p in peaks] == [9.0, 7.0, 6.0]
    every = run(stat=volume.ravel()[index], peaks_per_cluster=9, peak_distance_mm=0.0).clusters[0].peaks
    assert [p.value for p in every] == [9.0, 8.0, 7.0, 6.0]


def test_random_field_search__thresholds_for_the_page_agree_with_the_p_values() -> None:
    found = run()
    counts = np.array(found.resels)
    assert rf.p_peak_fwe(found.height_fwe, DF, counts, found.n_voxels) == pytest.approx(0.05, rel=1e-6)
    for cluster in found.clusters:
        assert cluster.significant == (cluster.size_voxels >= found.extent_fwe)


def test_random_field_search__is_quiet_when_there_is_nothing_to_warn_of() -> None:
    assert run().warnings == ()


def test_random_field_search__warns_of_few_degrees_of_freedom_and_a_rough_field() -> None:
    few = run(df=12.0)
    assert [note for note in few.warnings if "12 error degrees of freedom" in note and "permutation" in note]
    rough = run(smoothness=Smoothness((3.5, 3.5, 2.4), 100, DF, np.full(100, 0.03)))
    assert [note for note in rough.warnings if "3.5 x 3.5 x 2.4 voxels" in note and "permutation" in note]


def test_random_field_search__warns_of_a_smoothness_wider_than_the_mask() -> None:
    # The mask extends over 20 x 20 x 18 voxels of a grid of 24 x 26 x 22.
    notes = run(smoothness=Smoothness((9.0, 9.0, 18.5), 100, DF, np.full(100, 1e-3))).warnings
    assert [n for n in notes if "wider on an axis than the mask's 20 x 20 x 18 voxels" in n and "permutation" in n]
    fits = run(smoothness=Smoothness((9.0, 9.0, 18.0), 100, DF, np.full(100, 1e-3)))
    assert not any("wider" in n for n in fits.warnings)


def test_random_field_search__warns_of_uneven_smoothness() -> None:
    uneven = np.concatenate([np.full(50, 0.001), np.full(50, 0.1)])
    assert any("Uneven smoothness" in n for n in run(smoothness=smooth(resels=uneven)).warnings)
    assert any(n.startswith("Volume maps have uneven") for n in run(nonstationary_map="Volume").warnings)


def test_random_field_search__advice_for_an_f_contrast_can_be_followed() -> None:
    t, _, _ = noise_map()
    rough = Smoothness((2.5, 2.5, 2.4), 100, 12.0, np.concatenate([np.full(50, 0.001), np.full(50, 0.1)]))
    found = run(stat=t**2, df=(2.0, 12.0), statistic="F", smoothness=rough)
    assert len(found.warnings) == 3
    assert all("test its parts as t contrasts" in note for note in found.warnings)
    assert not any("Compare them" in note for note in found.warnings)


def test_random_field_search__refuses_a_liberal_threshold_unless_accepted() -> None:
    with pytest.raises(s.ThresholdError, match="accept_liberal_threshold: true"):
        run(cluster_forming_p=0.01)
    found = run(cluster_forming_p=0.01, accept_liberal_threshold=True)
    assert any("accepted on request" in note for note in found.warnings)
    assert run(cluster_forming_p=0.0001).height_threshold > found.height_threshold


def test_random_field_search__refuses_a_t_where_a_p_is_meant_and_names_the_p() -> None:
    with pytest.raises(s.ThresholdError, match=r"t = 3.1 at 27 degrees of freedom is p = 0.0022"):
        run(cluster_forming_p=3.1, accept_liberal_threshold=True)


@pytest.mark.parametrize("p", [0.0, -0.001])
def test_random_field_search__refuses_what_is_no_p(p: float) -> None:
    with pytest.raises(s.ThresholdError, match="expected a p-value"):
        run(cluster_forming_p=p)


def test_random_field_search__refuses_grids_that_do_not_fit() -> None:
    t, mask, index = noise_map()
    with pytest.raises(MaskError, match="one value for each"):
        run(stat=t[:-1])
    with pytest.raises(MaskError, match="expected the grid"):
        run(roi=mask[1:])
    with pytest.raises(MaskError, match="no voxel lies in it"):
        run(roi=~mask)
    with pytest.raises(MaskError, match="do not fit"):
        s.random_field_search(t, DF, mask, index + mask.size, AFFINE, smooth())


def test_random_field_search__says_when_the_volume_is_too_thin_for_three_dimensions() -> None:
    roi = np.zeros(SHAPE, dtype=bool)
    roi[:, :, 10] = True
    found = run(roi=roi)
    assert any("2 dimensions" in note for note in found.warnings)
    assert 0 < found.clusters[0].p_fwe < 1


def test_random_field_search__f_of_t_squared_holds_both_directions() -> None:
    t, _, _ = noise_map()
    both = run(stat=t**2, df=(1.0, DF), statistic="F")
    one, other = run(cluster_forming_p=0.0005), run(stat=-t, cluster_forming_p=0.0005)
    # F > f is |t| > sqrt(f): the clusters of both directions, each at half the p.
    assert both.height_threshold == pytest.approx(one.height_threshold**2, rel=1e-9)
    assert both.n_clusters_all == one.n_clusters_all + other.n_clusters_all
    assert both.clusters[0].peaks[0].p_uncorrected == pytest.approx(
        2 * one.clusters[0].peaks[0].p_uncorrected, rel=1e-9
    )
    assert both.expected_clusters == pytest.approx(2 * one.expected_clusters, rel=1e-9)


def test_random_field_search__does_not_depend_on_the_sign_of_the_affine() -> None:
    t, mask, index = noise_map()
    flipped = AFFINE.copy()
    flipped[0] = [4.0, 0, 0, -46]
    one, two = run(), s.random_field_search(t, DF, mask, index, flipped, smooth(), min_extent=0)
    assert [c.p_fwe for c in one.clusters] == [c.p_fwe for c in two.clusters]
    assert one.clusters[0].peaks[0].mm[0] == -two.clusters[0].peaks[0].mm[0]
