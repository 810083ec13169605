"""Normalisation: known deformations of a head with scalp found in mm, left stays left, failures are told."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space import engines, normalise
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.engines import Schedule
from voxcloud.space.normalise import Normalisation, correlation, grown
from voxcloud.space.sampling import compose, sample
from voxcloud.space.template_affine import place_template

MM = 4.0
QUICK = Schedule(iterations="60x30x10")
CENTRE = (0.0, -18.0, 10.0)
MATRIX = rigid_matrix((8, -15, 12), (9, -5, 7), CENTRE) @ np.diag([1.06, 0.96, 1.03, 1.0])
TUMOUR_MM = np.array([-38.0, -30.0, 30.0])


@dataclass(frozen=True, eq=False)
class Head:
    """An image on a grid."""

    image: np.ndarray
    affine: np.ndarray
    tissue: dict[str, np.ndarray]
    brain: np.ndarray


def bump(mm: np.ndarray, centre: object, sigma: float) -> np.ndarray:
    return np.asarray(np.exp(-((mm - np.asarray(centre)) ** 2).sum(axis=-1) / (2 * sigma**2)))


@functools.cache
def template() -> Head:
    t1, gm, wm = (
        load(resolution=int(MM))
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    image, grey, white = (np.asarray(i.get_fdata(dtype=np.float32)) for i in (t1, gm, wm))
    brain = np.asarray(ndimage.binary_fill_holes(image > 0.2 * image.max()))
    return Head(image, np.asarray(t1.affine), {"GM": grey, "WM": white}, brain)


@functools.cache
def undeformed() -> Head:
    """The template as an MTsat map, something bright on its left, with skull and scalp."""
    own = template()
    mm = compose(own.affine, own.image.shape)
    image = 0.85 * own.tissue["GM"] + 1.65 * own.tissue["WM"] + 1.2 * bump(mm, TUMOUR_MM, 8)
    distance = ndimage.distance_transform_edt(~own.brain, sampling=MM)
    image += 0.9 * ((distance > 7) & (distance < 14))
    image += np.random.default_rng(1).normal(0, 0.04, image.shape)
    return Head(image.astype(np.float32), own.affine, own.tissue, own.brain)


def back(y: np.ndarray) -> np.ndarray:
    """Where a point y of the participant was before MATRIX and the deformation: in the template."""
    inverse = np.linalg.inv(MATRIX)
    z = y @ inverse[:3, :3].T + inverse[:3, 3]
    field = [
        6 * bump(z, (30, -30, 10), 25) - 5 * bump(z, (-30, 20, 0), 20),
        7 * bump(z, (-20, -40, 20), 25),
        -6 * bump(z, (10, 30, 30), 25),
    ]
    return z + np.stack(field, axis=-1)


@functools.cache
def participant(storage: str = "LAS") -> Head:
    tilt = rigid_matrix((0, 0, 0), (10, 5, -7) if storage == "oblique" else (0, 0, 0), (0, 0, 0))
    signs = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPI": (-1, -1, -1), "oblique": (-1, 1, 1)}[storage]
    affine, shape = tilt @ np.diag([*(MM * np.array(signs)), 1.0]), (60, 66, 60)
    affine[:3, 3] = MATRIX[:3, :3] @ CENTRE + MATRIX[:3, 3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    own = undeformed()
    volumes = [own.image, *own.tissue.values(), own.brain.astype(np.float32)]
    image, grey, white, brain = sample(volumes, own.affine, back(compose(affine, shape)), outside=0.0)
    return Head(image, affine, {"GM": grey, "WM": white}, brain > 0.5)


@functools.cache
def found(storage: str = "LAS") -> Normalisation:
    return run(participant(storage))


def run(head: Head, **options: object) -> Normalisation:
    own = template()
    channels = {"image": own.image, **own.tissue}
    given = {"template_mask": own.brain, "schedule": QUICK, **options}
    return normalise.normalise({"image": head.image}, head.affine, channels, own.affine, **given)


def error_mm(result: Normalisation) -> tuple[float, float]:
    """Mean distance over the brain between where points are and where they were found, and its 95th percentile."""
    own = template()
    x = compose(own.affine, own.image.shape)[own.brain]
    gap = np.sqrt(((back(result.participant_points()[own.brain]) - x) ** 2).sum(axis=-1))
    return float(gap.mean()), float(np.percentile(gap, 95))


def test_normalise__finds_a_known_deformation_in_a_head_with_scalp() -> None:
    own = template()
    mean, high = error_mm(found())
    assert mean < 0.8  # a fifth of a voxel
    assert high < 1.6
    x = compose(own.affine, own.image.shape)[own.brain]
    straight = x @ found().matrix[:3, :3].T + found().matrix[:3, 3]
    assert np.sqrt(((back(straight) - x) ** 2).sum(axis=-1)).mean() > 1.4
    report = found().report
    assert found().flagged == ""
    assert report["correlation"]["before"] < report["correlation"]["affine"] < report["correlation"]["warp"]
    assert report["correlation"]["warp"] > 0.85
    assert report["channels"] == ["image"]
    assert report["program"].startswith("picsl-greedy ")
    assert min(report["cpu_s"].values()) > 0
    assert report["folded"] == 0.0
    assert report["jacobian"]["min"] < report["jacobian"]["p01"] < 1.0 < report["jacobian"]["p99"]


def test_normalise__the_jacobian_carries_the_volume_of_the_participant() -> None:
    own, head = template(), participant()
    grey, white = found().to_template([head.tissue["GM"], head.tissue["WM"]], head.affine, order=1, outside=0.0)
    for carried, name in ((grey, "GM"), (white, "WM")):
        modulated = float((carried * found().jacobian).sum()) * MM**3 / 1000.0
        counted = float(head.tissue[name].sum()) * MM**3 / 1000.0
        plain = float(own.tissue[name].sum()) * MM**3 / 1000.0
        assert abs(counted - plain) > 0.02 * counted
        assert modulated == pytest.approx(counted, rel=0.01)
    expected = np.linalg.det(MATRIX)
    assert float(found().jacobian[own.brain].mean()) == pytest.approx(expected, rel=0.05)


def test_normalise__leads_there_and_back() -> None:
    head = participant()
    y = compose(head.affine, head.image.shape)[head.brain]
    x = found().template_points(head.affine, head.image.shape)[head.brain]
    own = template()
    u = np.stack(sample([found().displacement[..., axis] for axis in range(3)], own.affine, x, order=1), axis=-1)
    gap = (x + u) @ found().matrix[:3, :3].T + found().matrix[:3, 3] - y
    gap = np.sqrt((gap**2).sum(axis=-1))
    assert np.nanmean(gap) < 0.05
    assert np.isnan(gap).mean() < 0.01
    (brain,) = found().to_participant([own.brain.astype(np.float32)], head.affine, head.image.shape)
    both = 2 * ((brain > 0.5) & head.brain).sum() / ((brain > 0.5).sum() + head.brain.sum())
    assert both > 0.96


def test_normalise__points_on_another_grid_and_through_further_matrices() -> None:
    finer = template().affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    shape = tuple(2 * n - 1 for n in template().image.shape)
    points = found().participant_points(finer, shape, planes=slice(20, 25))
    np.testing.assert_allclose(points[::2, ::2, ::2], found().participant_points(planes=slice(10, 13)), atol=1e-9)
    further = rigid_matrix((1, 2, 3), (4, 5, 6), (0, 0, 0))
    moved = found().participant_points(matrices=[further], planes=slice(10, 13))
    np.testing.assert_allclose(moved, points[::2, ::2, ::2] @ further[:3, :3].T + further[:3, 3], atol=1e-9)


@pytest.mark.parametrize("storage", ["RAS", "LPI", "oblique"])
def test_normalise__the_storage_of_the_image_does_not_matter(storage: str) -> None:
    brain = template().brain
    gap = found(storage).participant_points()[brain] - found("LAS").participant_points()[brain]
    distance = np.sqrt((gap**2).sum(axis=-1))
    if storage == "oblique":  # other samples of the same head
        assert distance.mean() < 0.4
        assert error_mm(found(storage))[0] < 0.8
    else:
        assert distance.max() < 0.02


@pytest.mark.parametrize("storage", ["LAS", "LPI", "oblique"])
def test_normalise__left_stays_left(storage: str) -> None:
    own, head = template(), participant(storage)
    (carried,) = found(storage).to_template([head.image], head.affine, outside=0.0)
    mm = compose(own.affine, own.image.shape)
    left, right = (bump(mm, TUMOUR_MM * side, 5) * own.brain for side in (1, [-1, 1, 1]))
    brightness = [(carried * weight).sum() / weight.sum() for weight in (left, right)]
    assert brightness[0] > brightness[1] + 0.4


def test_normalise__an_image_stored_the_wrong_way_round_is_unlike_its_asymmetric_pair() -> None:
    own, head = template(), participant()
    mm = compose(own.affine, own.image.shape)
    expected = undeformed().image
    near = bump(mm, TUMOUR_MM, 8) + bump(mm, TUMOUR_MM * [-1, 1, 1], 8) > 0.3
    wrong = run(replace(head, image=head.image[::-1]))
    alike = []
    for result, image in ((found(), head.image), (wrong, head.image[::-1])):
        (carried,) = result.to_template([image], head.affine, outside=0.0)
        alike.append(correlation(expected, carried, near))
    # The template is symmetric: its own correlation says nothing.
    assert found().report["correlation"]["warp"] == pytest.approx(wrong.report["correlation"]["warp"], abs=0.02)
    assert alike[0] > 0.8
    assert alike[1] < 0.5


def test_normalise__the_same_input_gives_the_same_bits() -> None:
    again = run(participant())
    np.testing.assert_array_equal(again.matrix, found().matrix)
    np.testing.assert_array_equal(again.displacement, found().displacement)
    np.testing.assert_array_equal(again.jacobian, found().jacobian)


def test_normalise__takes_probabilities_and_a_mask_and_leaves_out_what_only_one_has() -> None:
    own, head = template(), participant()
    result = normalise.normalise(
        {"image": np.where(head.brain, head.image, np.nan), **head.tissue, "lesion": head.image},
        head.affine,
        {"image": own.image, **own.tissue},
        own.affine,
        template_mask=own.brain,
        mask=grown(head.brain, head.affine, MM),
        schedule=QUICK,
    )
    assert result.report["channels"] == ["image", "GM", "WM"]
    assert error_mm(result)[0] < error_mm(found())[0] + 0.1


@pytest.mark.skipif(find_spec("dipy") is None, reason="dipy is not installed (extra dwi)")
def test_normalise__dipy_finds_it_too() -> None:
    result = run(participant(), engine="dipy")
    assert error_mm(result)[0] < 1.5
    assert result.report["program"].startswith("dipy ")
    assert result.flagged == ""


def test_normalise__an_engine_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistrationError, match="expected the engine greedy, antspyx or dipy, found 'fnirt'"):
        run(participant(), engine="fnirt")
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(RegistrationError, match=r"the engine antspyx to be installed.*pip install antspyx"):
        run(participant(), engine="antspyx")


def test_normalise__refuses_images_that_are_none() -> None:
    own, head = template(), participant()
    with pytest.raises(RegistrationError, match="expected the channel image of participant and template, found"):
        normalise.normalise({"GM": head.image}, head.affine, {"image": own.image}, own.affine, template_mask=own.brain)
    with pytest.raises(RegistrationError, match="found no known voxel"):
        run(replace(head, image=np.full_like(head.image, np.nan)))


def test_normalise__half_a_head_and_noise_are_flagged() -> None:
    head = participant()
    half = head.image.copy()
    half[:, :, : half.shape[2] // 2] = 0
    noise = np.random.default_rng(0).normal(size=head.image.shape)
    for image in (half, noise):
        result = run(replace(head, image=image.astype(np.float32)), schedule=Schedule(iterations="40x10"))
        assert result.flagged.startswith("expected ")


@pytest.mark.parametrize(
    "seed, pitch", [(0, 25.0), (1, -25.0), (2, 0.0)], ids=["chin up", "chin down", "head on its side"]
)
def test_place_template__finds_heads_in_any_usual_position(seed: int, pitch: float) -> None:
    own, head = template(), undeformed()
    rng = np.random.default_rng(seed)
    turn = rigid_matrix(rng.uniform(-40, 40, 3), (pitch, *rng.uniform(-10, 10, 2)), CENTRE)
    size = np.diag([*rng.uniform(0.9, 1.1, 3), 1.0])
    placed = place_template(own.image, own.affine, own.brain, head.image, turn @ size @ head.affine)
    x = compose(own.affine, own.image.shape)[own.brain]
    truth = turn @ size
    gap = x @ (placed.matrix - truth)[:3, :3].T + (placed.matrix - truth)[:3, 3]
    assert np.sqrt((gap**2).sum(axis=-1)).mean() < 1.0
    assert placed.correlation > 0.8


def test_correlation__equals_numpy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 6, 7))
    mask = a > -0.5
    assert correlation(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])
    assert correlation(a, np.ones_like(a), mask) == 0.0
