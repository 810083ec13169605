"""Pictures in template space: which side is which, where edges lie, which colour is which change, what is missing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from voxcloud.errors import ImageError
from voxcloud.report.mosaic_sheet import GAP, HEADER, OUTLINE, UNKNOWN
from voxcloud.report.mosaic_space import (
    OUTER,
    PLACES,
    Edges,
    outline_thumbnail_png,
    outlines_png,
    ratio_png,
    tissues_png,
)

RADIUS, WHITE_RADIUS, SIZE = 70.0, 40.0, 4.0
SHAPE = (45, 47, 49)
FLIPS = {"as stored": (1, 1, 1), "left to right": (-1, 1, 1), "all reversed": (-1, -1, -1)}
WINDOW = {"low": 0.0, "high": 2.0, "title": "test", "units": "1"}


def grid(kind: str = "as stored") -> np.ndarray:
    """Return the affine of a grid about the origin."""
    matrix = np.diag([*(SIZE * s for s in FLIPS[kind]), 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def points(affine: np.ndarray) -> np.ndarray:
    """Return the world coordinates of every voxel."""
    return np.einsum("ij,j...->i...", affine[:3, :3], np.indices(SHAPE)) + affine[:3, 3, None, None, None]


def ball(kind: str = "as stored") -> Edges:
    """A ball of white matter in a ball of grey matter."""
    affine = grid(kind)
    radius = np.sqrt((points(affine) ** 2).sum(axis=0))
    white = np.clip(0.5 + (WHITE_RADIUS - radius) / SIZE, 0, 1).astype(np.float32)
    tissue = np.clip(0.5 + (RADIUS - radius) / SIZE, 0, 1).astype(np.float32)
    return Edges(white, tissue, tissue >= 0.5, affine)


def pixels(png: bytes) -> np.ndarray:
    """Decode a picture to (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def cells(png: bytes) -> np.ndarray:
    """Return (row, column, height, width, 3): the slices of a picture with three rows of five."""
    picture = pixels(png)[HEADER:]
    height = (picture.shape[0] + GAP) // 3
    width = next(w for w in range(100, 200) if 5 * w + 62 - GAP == picture.shape[1])
    return np.stack(
        [[picture[r * height :, c * width :][: height - GAP, : width - GAP] for c in range(5)] for r in range(3)]
    )


def like(picture: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> np.ndarray:
    """Return where a picture has nearly this colour (a palette of 128 moves it a little)."""
    return np.asarray(np.abs(picture - np.array(colour)).max(axis=-1) <= within)


def middle(where: np.ndarray) -> tuple[float, float]:
    """Return the mean row and column of what is true, as shares of the picture."""
    rows, columns = np.nonzero(where)
    return rows.mean() / where.shape[0], columns.mean() / where.shape[1]


@pytest.mark.parametrize("kind", list(FLIPS))
def test_outlines_png__left_and_front_of_the_person_are_where_the_letters_say(kind: str) -> None:
    edges = ball(kind)
    x, y, z = points(edges.affine)
    spot = np.where((x < -10) & (y > 10) & (z > 10) & edges.brain, 2.0, 0.3).astype(np.float32)
    shown = cells(outlines_png(spot, edges, **WINDOW))
    bright = shown.min(axis=-1) > 225
    bright[..., :22, :22] = bright[..., :22, -22:] = False  # the letters
    bright[..., -18:, :80] = False  # and labels
    row, column = middle(bright[0, 3])  # axial: left and front
    assert column < 0.45
    assert row < 0.45
    row, column = middle(bright[1, 4])  # coronal: left and up
    assert column < 0.45
    assert row < 0.45
    row, column = middle(bright[2, 1])  # sagittal on the left: front is on the right, up on top
    assert column > 0.55
    assert row < 0.45
    assert not bright[2, 4].any()  # sagittal on the right


def test_outlines_png__the_edge_is_the_templates_whatever_the_image() -> None:
    edges = ball()
    rng = np.random.default_rng(0)
    images = [np.zeros(SHAPE, np.float32), rng.uniform(0, 1.4, SHAPE).astype(np.float32)]
    lines = [like(cells(outlines_png(image, edges, outer=True, **WINDOW)), OUTLINE) for image in images]
    assert np.array_equal(lines[0], lines[1])
    assert lines[0].any(axis=(2, 3)).sum() >= 10  # the outermost slices miss the inner ball


def test_outlines_png__edges_have_the_radii_of_the_tissue() -> None:
    edges = ball()
    shown = cells(outlines_png(np.zeros(SHAPE, np.float32), edges, outer=True, **WINDOW))
    per_mm = shown.shape[3] / (edges.brain.any(axis=(1, 2)).sum() * SIZE + 2 * 8.0)
    for ink, radius in ((OUTLINE, WHITE_RADIUS), (OUTER, RADIUS)):
        rows, columns = np.nonzero(like(shown[0, 1], ink))  # z = -8
        expected = np.sqrt(radius**2 - 8.0**2)
        found = np.hypot(rows - rows.mean(), columns - columns.mean()) / per_mm
        assert np.median(found) == pytest.approx(expected, rel=0.06)


def test_outlines_png__an_image_that_is_the_template_fills_its_edge() -> None:
    edges = ball()
    shown = cells(outlines_png(2.0 * edges.white, edges, **WINDOW))[0, 1]
    line, bright = like(shown, OUTLINE), shown.min(axis=-1) > 200
    bright[:22], bright[-18:] = False, False  # letters and labels
    for one, other in zip(np.nonzero(line), np.nonzero(bright), strict=True):
        assert one.mean() == pytest.approx(other.mean(), abs=0.7)
        assert one.min() == pytest.approx(other.min(), abs=4)
        assert one.max() == pytest.approx(other.max(), abs=4)


def test_outlines_png__pink_is_missing_in_the_templates_brain_and_nowhere_else() -> None:
    edges = ball()
    z = points(edges.affine)[2]
    image = np.where(z < -20, np.nan, 1.0).astype(np.float32)
    pink = like(cells(outlines_png(image, edges, missing=True, **WINDOW)), UNKNOWN)
    assert pink[0, 0].mean() > 0.2  # z = -28
    assert not pink[0, 1:].any()
    assert not like(cells(outlines_png(image, edges, **WINDOW)), UNKNOWN).any()
    outside = np.where(edges.brain, 1.0, np.nan).astype(np.float32)
    assert not like(cells(outlines_png(outside, edges, missing=True, **WINDOW)), UNKNOWN).any()


@pytest.mark.parametrize("ratio", [1.0, 0.5, 2.0])
def test_ratio_png__blue_is_less_orange_is_more_and_logarithms_are_alike(ratio: float) -> None:
    edges = ball()
    shown = cells(ratio_png(np.full(SHAPE, ratio, np.float32), edges, title="test"))[0, 2]
    inside = shown[~(like(shown, (0, 0, 0), 40) | like(shown, (60, 60, 60), 40))]
    red, green, blue = np.median(inside, axis=0)
    if ratio == 1.0:
        assert min(red, green, blue) > 235
    elif ratio < 1:
        assert blue > red + 60
    else:
        assert red > blue + 60


def test_ratio_png__half_and_double_are_equally_far_from_the_middle_of_the_bar() -> None:
    from voxcloud.report.mosaic_sheet import LEVELS, colour_table

    edges, table = ball(), colour_table("field").astype(int)
    places = []
    for ratio in (0.5, 2.0):
        shown = cells(ratio_png(np.full(SHAPE, ratio, np.float32), edges, title="test"))[0, 2]
        kept = shown[~(like(shown, (0, 0, 0), 40) | like(shown, (60, 60, 60), 40))]
        places.append(int(np.abs(table - np.median(kept, axis=0)).sum(axis=1).argmin()))
    assert places[0] + places[1] == pytest.approx(LEVELS - 1, abs=1)
    # Half way between 1 and a quarter.
    assert places[0] == pytest.approx((LEVELS - 1) / 4, abs=1)


def test_ratio_png__a_fold_is_pink() -> None:
    edges = ball()
    ratio = np.ones(SHAPE, np.float32)
    ratio[20:26, 20:26, 22:28] = -0.2
    pink = like(cells(ratio_png(ratio, edges, title="test")), UNKNOWN)
    assert pink[0, 2].any()
    assert not pink[0, 4].any()


def test_tissues_png__a_row_of_the_person_above_one_of_the_template() -> None:
    edges = ball()
    priors = {"GM": edges.tissue - edges.white, "WM": edges.white}
    own = {"GM": np.zeros(SHAPE, np.float32), "WM": np.ones(SHAPE, np.float32)}
    picture = pixels(tissues_png(own, priors, edges, title="test"))[HEADER:]
    height = (picture.shape[0] + GAP) // 4
    means = [picture[k * height : (k + 1) * height - GAP, 20:-80].mean() for k in range(4)]
    assert means[0] < means[1]  # nobody's grey matter above the template's
    assert means[2] > means[3] + 50


def test_outline_thumbnail_png__is_small_and_shows_what_lies_beside_the_edge() -> None:
    edges = ball()
    head = (edges.white + 0.5 * edges.tissue).astype(np.float32)
    png = outline_thumbnail_png(head, edges, low=0.0, high=1.5)
    assert png == outline_thumbnail_png(head, edges, low=0.0, high=1.5)
    assert 4 * len(png) / 3 < 40_000
    right, wrong = (pixels(outline_thumbnail_png(np.roll(head, n, axis=1), edges, low=0.0, high=1.5)) for n in (0, 4))
    line = like(right, OUTLINE, 40)
    assert line.mean() > 0.005
    assert np.array_equal(line, like(wrong, OUTLINE, 40))
    assert np.abs(right - wrong)[~line].mean() > 5
    alone = pixels(outline_thumbnail_png(head, edges, low=0.0, high=1.5, sagittal=False))
    assert alone.shape[1] < 0.6 * right.shape[1]


def test_pictures__images_on_another_grid_and_windows_that_are_none_are_refused() -> None:
    edges = ball()
    small = np.ones((5, 5, 5), np.float32)
    with pytest.raises(ImageError, match=r"test: expected an image on the template's grid of \(45, 47, 49\) voxels"):
        outlines_png(small, edges, **WINDOW)
    with pytest.raises(ImageError, match="expected an image on the template's grid"):
        ratio_png(small, edges, title="test")
    with pytest.raises(ImageError, match="expected a window low < high, found 2 and 2"):
        outlines_png(np.ones(SHAPE, np.float32), edges, low=2.0, high=2.0, title="test", units="1")
    with pytest.raises(ImageError, match="tissue, GM: expected an image"):
        tissues_png({"GM": small}, {"GM": edges.tissue}, edges, title="tissue")


def test_places__lie_on_both_sides_and_within_a_head() -> None:
    assert {np.sign(mm) for mm in PLACES[0]} == {-1.0, 1.0}
    assert all(list(row) == sorted(row) for row in PLACES.values())
