"""Segmentation: fractions, not labels; known volumes; one scale, one order, one result; what is refused or flagged."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import norm

from voxcloud.errors import ImageError, MaskError
from voxcloud.space import segmentation_kernels as kernels
from voxcloud.space.brain import inner_brain, largest_part
from voxcloud.space.segmentation import Segmentation, segment
from voxcloud.space.volumes import overlap, tissue_volumes

VOXEL_MM = 3.0
SHAPE = (56, 64, 56)
# mm: white matter, brain, fluid's end, bone's end, scalp's end; two ventricles of unlike size.
RADII = {"WM": 48.0, "brain": 60.0, "fluid": 65.0, "bone": 71.0, "scalp": 78.0}
VENTRICLES = ((-14.0, 12.0), (16.0, 9.0))
MTSAT = {"GM": 0.85, "WM": 1.70, "CSF": 0.0, "scalp": 0.3}
NOISE = 0.05


@dataclass(frozen=True, eq=False)
class Head:
    """Concentric shells with known volumes."""

    fractions: dict[str, Any]
    priors: dict[str, Any]
    mask: Any


def ball(centre: tuple[float, float, float], radius_mm: float) -> Any:
    """Return the share of each voxel within a ball, by the distance of its centre from the surface."""
    axes = [VOXEL_MM * (np.arange(n) - (n - 1) / 2.0) - c for n, c in zip(SHAPE, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.clip((radius_mm - np.sqrt(x * x + y * y + z * z)) / VOXEL_MM + 0.5, 0.0, 1.0)


@functools.cache
def head(white_mm: float = RADII["WM"]) -> Head:
    radii = {**RADII, "WM": white_mm}
    shells = {name: ball((0.7, -0.4, 1.1), radius) for name, radius in radii.items()}
    holes = sum(ball((side, 3.0, 4.0), radius) for side, radius in VENTRICLES)
    white = shells["WM"] - holes
    fractions = {"GM": shells["brain"] - shells["WM"], "WM": white, "CSF": shells["fluid"] - shells["brain"] + holes}
    fractions["scalp"] = shells["scalp"] - shells["bone"]
    standard = fractions if white_mm == RADII["WM"] else head().fractions
    # Priors lie 3 mm off and are smooth.
    priors = {t: np.roll(ndimage.gaussian_filter(standard[t], 1.0), 1, axis=0) for t in ("GM", "WM", "CSF")}
    brain = sum(priors.values()) > 0.5
    return Head(fractions, priors, ndimage.binary_dilation(brain, iterations=2))


def mtsat(which: Head, seed: int = 0) -> Any:
    """Return a map whose values are mixed by fractions; without tissue it is noise of any size."""
    water = sum(which.fractions.values())
    total = sum(which.fractions[name] * value for name, value in MTSAT.items())
    noise = NOISE * np.random.default_rng(seed).standard_normal(SHAPE)
    return np.where(water > 0.05, total / np.maximum(water, 0.05) + noise, 10.0 * noise).astype(np.float32)


def run(image: Any, which: Head, **more: Any) -> Segmentation:
    return segment(image, which.priors, mask=which.mask, voxel_mm=(VOXEL_MM,) * 3, **more)


@functools.cache
def found() -> Segmentation:
    return run(mtsat(head()), head())


def volume(fractions: Any) -> float:
    return float(np.asarray(fractions).sum()) * VOXEL_MM**3 / 1000.0


def test_segment__finds_the_volumes_and_fractions_that_are_there() -> None:
    truth, result = head().fractions, found()
    for name, got in (("GM", result.gm), ("WM", result.wm)):
        assert volume(got) == pytest.approx(volume(truth[name]), rel=0.02)
        assert np.sqrt(((got - truth[name])[result.brain] ** 2).mean()) < 0.07
        assert overlap(got > 0.5, truth[name] > 0.5) > 0.97
        assert result.report["volumes_ml"][name] == pytest.approx(volume(got), rel=1e-5)
    tiv = sum(volume(truth[name]) for name in ("GM", "WM", "CSF"))
    # Bone looks like fluid: where fluid ends is what the priors say.
    assert result.report["volumes_ml"]["TIV"] == pytest.approx(tiv, rel=0.03)
    # The ball has the volume that its radius says.
    assert volume(ball((0.7, -0.4, 1.1), RADII["brain"])) == pytest.approx(4 / 3 * np.pi * 6.0**3, rel=0.005)
    assert result.report["mean"]["GM"] == pytest.approx(MTSAT["GM"], rel=0.03)
    assert result.report["mean"]["WM"] == pytest.approx(MTSAT["WM"], rel=0.03)
    assert result.report["sd"]["WM"] == pytest.approx(NOISE, rel=0.25)
    assert result.flagged == ""
    assert result.field is None


def test_segment__fractions_stay_within_bounds_and_off_the_scalp() -> None:
    result, truth = found(), head().fractions
    total = result.gm + result.wm + result.csf
    assert min(result.gm.min(), result.wm.min(), result.csf.min()) >= 0.0
    assert total.max() <= 1.0 + 1e-5
    assert result.gm.dtype == result.wm.dtype == result.csf.dtype == np.float32
    assert not total[~ndimage.binary_dilation(result.brain)].any()
    assert total[(truth["scalp"] > 0.9)].mean() < 0.01


def test_segment__partial_volume_is_a_fraction_and_not_a_label() -> None:
    truth, result = head().fractions["WM"], found().wm
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        some = (truth > low) & (truth < high) & (head().fractions["GM"] > 0.1)
        assert some.sum() > 300
        assert result[some].mean() == pytest.approx(truth[some].mean(), abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("change", [-0.04, -0.02, 0.02, 0.04])
def test_segment__follows_a_boundary_that_moves_by_a_part_of_a_voxel(change: float) -> None:
    # The priors stay where they were.
    grown = head(RADII["WM"] * (1.0 + change) ** (1.0 / 3.0))
    planted = volume(grown.fractions["WM"]) / volume(head().fractions["WM"]) - 1.0
    got = volume(run(mtsat(grown), grown).wm) / volume(found().wm) - 1.0
    assert got == pytest.approx(planted, rel=0.15)


@pytest.mark.slow
def test_segment__a_regional_rise_is_less_tissue_than_it_would_be_by_global_means() -> None:
    which = head()
    x = VOXEL_MM * (np.arange(SHAPE[0]) - (SHAPE[0] - 1) / 2.0)[:, None, None]
    raised = mtsat(which) * (1.0 + 0.03 * np.clip(x / 10.0 + 0.5, 0.0, 1.0))
    change = volume(run(raised, which).wm) / volume(found().wm) - 1.0
    # Half the head is 3 % brighter. With means of .85 and 1.70 for all of it, unmixing finds (y - .85) / .85 more.
    naive = np.clip((raised - 0.85) / 0.85, 0, 1).sum() / np.clip((mtsat(which) - 0.85) / 0.85, 0, 1).sum() - 1.0
    assert naive > 0.01
    assert abs(change) < 0.004


def test_segment__the_unit_of_the_image_does_not_matter() -> None:
    # A power of two: not a bit differs.
    again = run(mtsat(head()) * np.float32(1024), head())
    np.testing.assert_array_equal(again.wm, found().wm)
    assert again.report["mean"]["WM"] == pytest.approx(1024 * found().report["mean"]["WM"])


def test_segment__same_input_same_bits_and_unknown_voxels_follow_their_neighbours() -> None:
    image = mtsat(head())
    image[28, 20:30, 28] = np.nan
    one, other = run(image, head()), run(image.copy(), head())
    assert one.wm.tobytes() == other.wm.tobytes()
    assert one.report == other.report
    lost = np.isnan(image)
    assert one.report["unknown"] == lost.sum()
    assert one.wm[lost].min() > 0.9


def test_segment__what_is_cut_away_outside_is_no_brain() -> None:
    which, image = head(), mtsat(head())
    away = sum(which.fractions[t] for t in ("GM", "WM", "CSF")) < 0.5
    for nothing in (0.0, np.nan):
        result = run(np.where(away, nothing, image), which)
        assert not (result.gm + result.wm + result.csf)[away].any()
        assert volume(result.gm) == pytest.approx(volume(which.fractions["GM"]), rel=0.02)


@pytest.mark.slow
def test_segment__finds_a_receive_field_with_the_tissue() -> None:
    which = head()
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    field = np.exp(0.4 * y - 0.3 * x + 0.3 * (x * x + z * z))
    result = run((mtsat(which) + 0.5) * 300 * field, which, bias=True)
    assert result.field is not None
    assert volume(result.wm) == pytest.approx(volume(which.fractions["WM"]), rel=0.03)
    inside = result.wm > 0.9
    assert np.log(field)[inside].std() > 0.1
    left = np.log(result.field / field)[inside]
    assert left.std() < 0.03
    assert np.log(result.field[result.wm > 0.5]).mean() == pytest.approx(0.0, abs=1e-4)
    assert np.isfinite(result.field).all()


def test_segment__refuses_by_name() -> None:
    which, image = head(), mtsat(head())
    two = {"GM": which.priors["GM"], "WM": which.priors["WM"]}
    with pytest.raises(ImageError, match=r"sub-01: expected .* priors of GM, WM and CSF .* without \['CSF'\]"):
        segment(image, two, mask=which.mask, voxel_mm=(3, 3, 3), name="sub-01")
    with pytest.raises(ImageError, match="Resample the priors"):
        segment(image[1:], which.priors, mask=which.mask, voxel_mm=(3, 3, 3))
    with pytest.raises(ImageError, match="three positive voxel sizes"):
        segment(image, which.priors, mask=which.mask, voxel_mm=(3, 3, 0))
    with pytest.raises(MaskError, match="expected at least 500 voxels with a value in the mask, found 0"):
        run(np.full(SHAPE, np.nan), which)
    with pytest.raises(MaskError, match="white matter brighter than grey matter"):
        run(2.0 - image, which)


def test_segment__flags_a_brain_of_unlikely_size_and_one_that_lies_elsewhere() -> None:
    which, image = head(), mtsat(head())
    small = segment(image, which.priors, mask=which.mask, voxel_mm=(2, 2, 2))
    assert "expected an intracranial volume of 900 to 2200 ml" in small.flagged
    away = {name: np.roll(p, 9, axis=1) for name, p in which.priors.items()}
    lost = segment(image, away, mask=np.roll(which.mask, 9, axis=1), voxel_mm=(VOXEL_MM,) * 3)
    assert lost.flagged != ""


def test_pass_over__is_bayes_rule() -> None:
    """One voxel without neighbours against the formula, by scipy."""
    fractions, kinds = kernels.states()
    np.testing.assert_allclose(fractions.sum(axis=1), 1.0)
    assert np.bincount(kinds).tolist() == [1, 1, 1, 6, 6, 6]
    weights = np.array([0.7, 1.0, 0.4, 0.3, 0.2, 0.1, 1.5])
    centre, variance = np.array([0.85, 1.7, 0.1]), np.array([0.01, 0.02, 0.03])
    b = np.array([0.5, 0.3, 0.15, 0.05])
    histogram = np.array([0.3, 0.5, 0.2, 0.1])
    y, least, width = 1.2, -0.5, 1.0
    split = weights.copy()
    split[3:6] /= kernels.STEPS
    new, sums = np.zeros((3, 27), np.float32), np.zeros((1, kernels.SUMS))
    totals, counts = np.zeros((kernels.KINDS, 3)), np.zeros(4)
    kernels.pass_over(
        np.array([y]),
        np.array([True]),
        np.array([13]),
        np.log(b)[None].astype(np.float32),
        np.zeros((1, 2), np.float32),
        fractions,
        kinds,
        split,
        fractions @ variance,
        np.concatenate([centre, [least], histogram]),
        np.zeros((3, 27), np.float32),
        np.array([0.0, 0.0, 0.0, width]),
        np.array([9, 3, 1]),
        new,
        np.zeros(1, np.int64),
        sums,
        totals,
        counts,
    )
    tissue = split[kinds] * np.exp(fractions @ np.log(b[:3]))
    beside = weights[6] * b[3] / (weights[6] * b[3] + b[:3].sum())
    prior = np.append((1.0 - beside) * tissue / tissue.sum(), beside)
    likelihood = np.append(
        norm.pdf(y, fractions @ centre, np.sqrt(fractions @ variance)), np.interp(y, least + np.arange(4), histogram)
    )
    posterior = prior * likelihood / (prior @ likelihood)
    np.testing.assert_allclose(new[:, 13], posterior[:-1] @ fractions, rtol=1e-5)
    assert totals[3, 2] == pytest.approx(np.log(prior @ likelihood), rel=1e-6)
    assert counts.sum() == pytest.approx(posterior[-1], rel=1e-6)
    residual = posterior[:-1] * (y - fractions @ centre) / (fractions @ variance)
    np.testing.assert_allclose(sums[0, 3:], residual @ fractions[:, :2], rtol=1e-5)


def test_tissue_volumes__are_millilitres() -> None:
    shares = {"GM": np.full((10, 10, 10), 0.5, np.float32), "WM": np.full((10, 10, 10), 0.25, np.float32)}
    got = tissue_volumes({**shares, "CSF": np.zeros((10, 10, 10))}, (2.0, 1.0, 1.5))
    assert got == pytest.approx({"GM": 1.5, "WM": 0.75, "CSF": 0.0, "TIV": 2.25})


def test_overlap__is_dice() -> None:
    a, b = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert overlap(a, b) == pytest.approx(2 / 3)
    assert np.isnan(overlap(~a & a, ~b & b))


def test_inner_brain__is_the_largest_part_without_holes() -> None:
    share = np.zeros((1, 12, 12, 12))
    share[0, 2:8, 2:8, 2:8], share[0, 4, 4, 4], share[0, 10, 10, 10] = 1.0, 0.0, 1.0
    brain, near = inner_brain(share)
    assert brain.sum() == 216
    assert brain[4, 4, 4]
    assert near[1, 4, 4]
    assert not near[0, 4, 4]
    assert not near[10, 10, 10]
    assert not largest_part(np.zeros((2, 2, 2), bool)).any()
