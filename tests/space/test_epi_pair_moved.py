"""Field and movement from a pair between whose halves the head moved: known field, known movement, a measured pair."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space import epi_pair_moved, epi_pair_movement
from voxcloud.space.affine import displacement_mm, rigid_matrix, rigid_parameters
from voxcloud.space.epi_pair import field_from_pair
from voxcloud.space.epi_pair_moved import MovedPair, field_from_moved_pair

READOUT_S = 0.030
FINE = 20
CENTRE = (0.0, -18.0, 8.0)
SHIFT, TURN = (1.0, 0.0, 1.5), (2.0, -1.5, 1.0)

Pair = tuple[Any, Any, Any, Any, Any]


def move_mass(density: Any, moved: Any) -> Any:
    """Distort along the second axis: the signal in front of y ends up in front of y + d(y)."""
    n = density.shape[1]
    out = np.empty(density.shape)
    places, edges = (np.arange(n * FINE) + 0.5) / FINE - 0.5, np.arange(n * FINE + 1) / FINE - 0.5
    for i, k in np.ndindex(density.shape[0], density.shape[2]):
        before = np.concatenate([[0], np.cumsum(np.interp(places, np.arange(n), density[i, :, k])) / FINE])
        arrives = edges + np.interp(edges, np.arange(n), moved[i, :, k])
        out[i, :, k] = np.diff(np.interp(np.arange(n + 1) - 0.5, arrives, before))
    return out


@functools.cache
def template() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

        image = load_mni152_template(resolution=2)
        brain = load_mni152_brain_mask(resolution=2).get_fdata()
    return image.get_fdata() / image.get_fdata()[brain > 0].mean(), brain, image.affine


@functools.cache
def simulate(
    shift: tuple[float, ...], turn: tuple[float, ...], voxel_mm: float = 4.0, peak: float = 3.0, noise: float = 0.03
) -> Pair:
    """Return images with j and j- of a head that moved, displacement in voxels, brain and affine.

    The head and its field are functions of a place in the head; the scanner's voxels ask for them where they are.
    """
    density, mask, affine = template()
    density = ndimage.gaussian_filter(density, 0.2 * voxel_mm)
    shape = tuple(int(n / voxel_mm) for n in (188, 232, 188))
    grid = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    grid[:3, 3] = np.array(CENTRE) - voxel_mm * (np.array(shape) - 1) / 2
    mm = grid @ np.vstack([np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    rng, images, truth = np.random.default_rng(0), [], []
    for sign, move in ((1, np.eye(4)), (-1, rigid_matrix(shift, turn, CENTRE))):
        places = np.linalg.inv(move) @ mm
        voxels = (np.linalg.inv(affine) @ places)[:3]
        head, brain = (ndimage.map_coordinates(a, voxels, order=1).reshape(shape) for a in (density, mask))
        x, y, z = (places[:3] - np.array(CENTRE)[:, None]).reshape(3, *shape)
        # Above the sinuses, above both ear canals, and a shim that is a little off; in mm.
        field = np.exp(-((x / 25) ** 2 + ((y - 50) / 22) ** 2 + ((z + 35) / 20) ** 2)) + 0.001 * y
        field -= 0.5 * np.exp(-(((np.abs(x) - 45) / 18) ** 2 + ((y + 5) / 20) ** 2 + ((z + 35) / 16) ** 2))
        truth.append((peak * field, brain > 0.5))
        noises = noise * rng.standard_normal((2, *shape))
        images.append(np.hypot(move_mass(head, sign * peak * field) + noises[0], noises[1]))
    return images[0], images[1], *truth[0], grid


def error_voxels(pair: MovedPair | Any, moved: Any, brain: Any) -> Any:
    return np.abs(pair.field_hz * READOUT_S - moved)[brain]


def movement_error_mm(found: Any, true: Any, grid: Any, brain: Any) -> float:
    """Mean distance over the brain across the phase-encode axis: along it a shift cannot be known."""
    error = (np.linalg.inv(true) @ found - np.eye(4)) @ grid
    places = np.vstack([np.argwhere(brain).T, np.ones(brain.sum())])
    apart = (error @ places)[:3]
    apart[1] -= apart[1].mean()
    return float(np.sqrt((apart**2).sum(axis=0)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "turn", "voxel_mm", "median", "p95", "mm"),
    [
        ((0.0, 0.0, 1.0), (2.0, 0.0, 0.0), 4.0, 0.03, 0.09, 0.1),
        (SHIFT, TURN, 4.0, 0.03, 0.09, 0.1),
        ((4.0, 0.0, -5.0), (6.0, -4.0, 5.0), 4.0, 0.10, 0.20, 0.2),
        ((2.0, 0.0, -2.0), (3.0, 2.0, -3.0), 3.0, 0.03, 0.09, 0.1),
    ],
)
def test_field_from_moved_pair__known_field_and_movement(
    shift: tuple[float, ...], turn: tuple[float, ...], voxel_mm: float, median: float, p95: float, mm: float
) -> None:
    positive, negative, moved, brain, grid = simulate(shift, turn, voxel_mm)
    pair = field_from_moved_pair(700 * positive, 730 * negative, grid, "j", READOUT_S)
    error = error_voxels(pair, moved, brain)
    assert np.median(error) < median
    assert np.percentile(error, 95) < p95
    true = rigid_matrix(shift, turn, CENTRE)
    assert movement_error_mm(pair.movement, true, grid, brain) < mm
    _, turned = rigid_parameters(pair.movement, CENTRE)
    np.testing.assert_allclose(turned, turn, atol=0.1)
    assert pair.doubt == ""
    assert pair.report["movement_counts"]
    assert pair.report["gain"] == pytest.approx(700 / 730, rel=0.01)
    assert pair.report["correlation_after"] > pair.report["correlation_ignoring_movement"] + 0.02
    ignoring = field_from_pair(positive, negative, (voxel_mm,) * 3, "j", READOUT_S)
    assert np.percentile(error_voxels(ignoring, moved, brain), 95) > 4 * p95
    # Smooth and finite outside, too: no step between neighbours that is not in the head's own field.
    assert np.isfinite(pair.field_hz).all()
    for axis in range(3):
        steps = np.abs(np.diff(pair.field_hz * READOUT_S, axis=axis))
        assert steps.max() < 2 * np.abs(np.diff(moved, axis=axis)).max()


@pytest.mark.slow
def test_field_from_moved_pair__shift_along_phase_encoding_becomes_a_constant_field() -> None:
    positive, negative, moved, brain, grid = simulate((0.0, 2.0, 0.0), (0.0, 0.0, 0.0))
    pair = field_from_moved_pair(positive, negative, grid, "j", READOUT_S)
    # Half of 2 mm, in voxels of 4 mm, against the movement.
    assert np.median((pair.field_hz * READOUT_S - moved)[brain]) == pytest.approx(-0.25, abs=0.02)
    shift, turn = np.array(pair.report["translation_mm"]), np.array(pair.report["rotation_deg"])
    assert shift[1] == pytest.approx(0.0, abs=1e-9)
    assert np.abs(shift).max() < 0.05
    assert np.abs(turn).max() < 0.1
    assert "constant field" in pair.report["translation_along_phase_encoding"]
    # The head lies half-way.
    still, *_ = simulate((0.0, 1.0, 0.0), (0.0, 0.0, 0.0), 4.0, 0.0, 0.0)
    plain, *_ = simulate((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 4.0, 0.0, 0.0)
    half_way = ndimage.shift(plain, (0, 0.25, 0), order=3)
    assert np.corrcoef(pair.corrected[brain], half_way[brain])[0, 1] > 0.985
    assert np.abs(still - plain).max() == 0  # the positive image is where the head lay first


@pytest.mark.slow
def test_field_from_moved_pair__any_axis_direction_and_affine() -> None:
    positive, negative, moved, brain, grid = simulate(SHIFT, TURN)
    first = field_from_moved_pair(positive, negative, grid, "j", READOUT_S)
    true = rigid_matrix(SHIFT, TURN, CENTRE)
    # Axes turned and flipped, grid oblique: the same head in the same space, seen by other voxels.
    tilt = rigid_matrix((3, -4, 5), (12, -8, 20), (0, 0, 0))
    flip = np.eye(4)
    flip[1, 1], flip[1, 3] = -1, positive.shape[1] - 1
    swap = np.eye(4)[[1, 0, 2, 3]]
    images = [np.swapaxes(image[:, ::-1], 0, 1) for image in (positive, negative)]
    pair = field_from_moved_pair(*images, tilt @ grid @ flip @ swap, "i-", READOUT_S)
    back = np.swapaxes(pair.field_hz, 0, 1)[:, ::-1]
    assert np.median(error_voxels(pair, np.swapaxes(moved[:, ::-1], 0, 1), np.swapaxes(brain[:, ::-1], 0, 1))) < 0.03
    np.testing.assert_allclose(back[brain], first.field_hz[brain], atol=0.02 / READOUT_S)
    found = np.linalg.inv(tilt) @ pair.movement @ tilt
    assert movement_error_mm(found, true, grid, brain) < 0.1
    assert np.linalg.det(pair.movement) == pytest.approx(1.0, abs=1e-9)
    # The other image first: the way back.
    swapped = field_from_moved_pair(negative, positive, grid, "j-", READOUT_S)
    assert movement_error_mm(np.linalg.inv(swapped.movement), true, grid, brain) < 0.15


@pytest.mark.slow
def test_field_from_moved_pair__still_head_and_same_bits() -> None:
    positive, negative, moved, brain, grid = simulate((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    pair = field_from_moved_pair(positive, negative, grid, "j", READOUT_S)
    again = field_from_moved_pair(positive, negative, grid, "j", READOUT_S)
    assert np.median(error_voxels(pair, moved, brain)) < 0.03
    assert movement_error_mm(pair.movement, np.eye(4), grid, brain) < 0.05
    assert pair.report["movement_mean_mm"] < 0.1
    assert pair.doubt == ""
    assert pair.field_hz.tobytes() == again.field_hz.tobytes()
    assert pair.movement.tobytes() == again.movement.tobytes()
    assert pair.report == again.report


@pytest.mark.slow
def test_field_from_moved_pair__measured_pair_with_planted_movement(shared_data: Callable[[str], Path]) -> None:
    import nibabel as nib

    loaded = [nib.load(shared_data(f"dwi/DWI_dir80_{name}.nii.gz")) for name in ("PA", "AP")]  # type: ignore[attr-defined]
    pa, ap = (np.asarray(image.dataobj[..., 0], dtype=np.float32) for image in loaded)  # type: ignore[attr-defined]
    affine = loaded[0].affine  # type: ignore[attr-defined]
    still = field_from_moved_pair(pa, ap, affine, "j", 0.0265)
    assert still.report["movement_mean_mm"] < 0.3
    assert still.report["correlation_after"] > 0.96
    # By whole voxels across the phase-encode axis, head and field move with no interpolation: 3 mm left and up.
    shifted = np.roll(ap, (1, 1), axis=(0, 2))
    shifted[:, :, 0] = 0
    found = field_from_moved_pair(pa, shifted, affine, "j", 0.0265)
    assert found.report["correlation_ignoring_movement"] < 0.9
    assert found.report["correlation_after"] > 0.96
    more = np.array(found.report["translation_mm"]) - np.array(still.report["translation_mm"])
    np.testing.assert_allclose(more, (-3.0, 0.0, 3.0), atol=0.2)
    np.testing.assert_allclose(found.report["rotation_deg"], still.report["rotation_deg"], atol=0.2)
    head = still.corrected > np.percentile(still.corrected, 80)
    apart = 0.0265 * np.abs(found.field_hz - still.field_hz)[head]
    assert np.median(apart) < 0.03
    assert np.percentile(apart, 95) < 0.12
    ignoring = field_from_pair(pa, shifted, (3, 3, 3), "j", 0.0265)
    assert np.median(0.0265 * np.abs(ignoring.field_hz - still.field_hz)[head]) > 0.2


def test_field_from_moved_pair__refuses_by_name() -> None:
    image = np.random.default_rng(0).uniform(1, 2, (10, 12, 9))
    shear = np.eye(4)
    shear[0, 1] = 0.2
    for affine in (shear, np.eye(3), np.diag([1.0, 0.0, 1.0, 1.0])):
        with pytest.raises(ImageError, match=r"sub-01: expected a \(4, 4\) affine with axes at right angles"):
            field_from_moved_pair(image, image, affine, "j", 0.03, name="sub-01")
    with pytest.raises(ImageError, match=r"sub-01: .*one shape"):
        field_from_moved_pair(image, image[1:], np.eye(4), "j", 0.03, name="sub-01")
    with pytest.raises(ImageError, match=r"found 30\. 30 where 0\.03 is meant"):
        field_from_moved_pair(image, image, np.eye(4), "j", 30)


def test_field_from_moved_pair__doubts_what_it_cannot_have_found(monkeypatch: pytest.MonkeyPatch) -> None:
    positive, negative, _, _, grid = simulate(SHIFT, TURN, 8.0, 1.5)
    monkeypatch.setattr(epi_pair_moved, "MOST_PASSES", 1)
    monkeypatch.setattr(epi_pair_moved, "MOST_DEG", 0.5)
    with pytest.warns(UserWarning, match="still changing by"):
        pair = field_from_moved_pair(positive, negative, grid, "j", READOUT_S)
    assert "at most 20 mm and 0.5 degrees" in pair.doubt


def test_residual__slopes_are_its_derivatives() -> None:
    rng = np.random.default_rng(1)
    images = [ndimage.gaussian_filter(rng.uniform(0, 9, (16, 18, 14)), 2) for _ in range(2)]
    sizes = np.array([2.0, 3.0, 2.5])
    both = epi_pair_movement.splines(*images, 1, sizes)
    voxels = rng.integers(4, 10, (3, 50)).astype(float)
    moved = ndimage.gaussian_filter(rng.normal(size=(16, 18, 14)), 3) * 10
    centre = np.array([15.0, 25.0, 16.0])
    points = epi_pair_movement.find_points(voxels, moved, centre, sizes, 1)
    place = epi_pair_movement.Place(np.eye(3), np.array([0.3, 0.0, -0.2]), centre, sizes)
    start = np.concatenate([np.zeros(5), 0.05 * rng.normal(size=10), [1.1]])

    def at(numbers: Any) -> tuple[Any, Any]:
        where = place.moved(numbers[2:5], np.array([numbers[0], 0.0, numbers[1]]))
        return epi_pair_movement._residual(both, points, where, numbers[5:15], numbers[15])

    _, slopes = at(start)
    for k, unit in enumerate(np.eye(16)):
        numerical = (at(start + 1e-5 * unit)[0] - at(start - 1e-5 * unit)[0]) / 2e-5
        assert np.abs(slopes[k] - numerical).max() < 1e-5 * np.abs(numerical).max(), k


def test_as_if_unmoved__undoes_a_known_movement() -> None:
    """Nothing moved: the same; moved by whole voxels: moved back; beyond the image: what the positive one says."""
    rng = np.random.default_rng(2)
    image = ndimage.gaussian_filter(rng.uniform(0, 9, (12, 16, 11)), 1.5)
    moved = ndimage.gaussian_filter(rng.normal(size=image.shape), 3) * 10
    sizes = np.array([2.0, 3.0, 2.5])
    centre = np.array([11.0, 22.5, 12.5])
    still = epi_pair_movement.Place(np.eye(3), np.zeros(3), centre, sizes)
    both = epi_pair_movement.splines(image, image, 1, sizes)
    np.testing.assert_allclose(epi_pair_movement.as_if_unmoved(both, moved, still), image, rtol=1e-9)
    along = still.moved(np.zeros(3), np.array([4.0, 0.0, -2.5]))
    found = epi_pair_movement.as_if_unmoved(both, moved, along)
    np.testing.assert_allclose(found[:-2, :, 1:], image[2:, :, :-1], rtol=1e-9)
    unmoved = epi_pair_movement.as_if_unmoved(both, np.zeros(image.shape), along)
    np.testing.assert_allclose(unmoved[-2:], image[-2:], rtol=1e-9)


def test_place__numbers_and_back() -> None:
    for turn in ((0.0, 0.0, 0.0), (0.1, -0.2, 0.05), (1e-9, 0.0, 0.0)):
        place = epi_pair_movement.Place(np.eye(3), np.zeros(3), np.ones(3), np.ones(3)).moved(
            np.array(turn), np.array([1.0, 2.0, 3.0])
        )
        np.testing.assert_allclose(place.numbers()[3:] / epi_pair_movement.RADIUS_MM, turn, atol=1e-15)
        np.testing.assert_allclose(place.at(place.numbers()).matrix(), place.matrix(), atol=1e-14)
        assert displacement_mm(place.matrix(), np.eye(4), (2, 2, 2))[0] > 3.0
