"""Pictures of diffusion: which colour is which direction, where signal lies, which slice is an outlier."""

from __future__ import annotations

import io
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from voxcloud.errors import ImageError
from voxcloud.report.mosaic_dwi import before_after_png, carpet_png, direction_png, direction_thumbnail_png
from voxcloud.report.mosaic_sheet import BAR_WIDTH, HEADER, OUTLINE
from voxcloud.report.qc_dwi_pictures import dwi_figures, dwi_thumbnails

SHAPE = (40, 48, 36)
TURNS = {
    "as stored": np.eye(3),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]),
}


def pixels(png: bytes) -> np.ndarray:
    """Decode a picture to (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def scene(kind: str) -> dict[str, Any]:
    """A ball whose left half has fibres to the right, its right front half to the front, its right back half up."""
    matrix = np.eye(4)
    matrix[:3, :3] = 4.0 * TURNS[kind]
    middle = (np.array(SHAPE) - 1) / 2
    matrix[:3, 3] = -matrix[:3, :3] @ middle
    x, y, z = np.einsum("ij,j...->i...", matrix[:3, :3], np.indices(SHAPE)) + matrix[:3, 3, None, None, None]
    inside = x**2 + y**2 + z**2 < 66**2
    direction = np.zeros((3, *SHAPE))
    for axis, where in ((0, x < 0), (1, (x >= 0) & (y > 0)), (2, (x >= 0) & (y <= 0))):
        direction[axis][where] = 1.0
    return {"affine": matrix, "fa": np.where(inside, 0.7, np.nan), "direction": direction, "x": x, "inside": inside}


def colour_places(picture: np.ndarray) -> list[np.ndarray]:
    """Return mean row and column (as shares) of what is nearly red, green and blue."""
    found = []
    for k in range(3):
        others = np.delete(picture, k, axis=2).max(axis=2)
        rows, columns = np.nonzero((picture[..., k] > 200) & (others < 60))
        found.append(np.array([rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]]))
    return found


@pytest.mark.parametrize("kind", list(TURNS))
def test_direction_thumbnail_png__colours_are_directions_of_the_world_however_it_is_stored(kind: str) -> None:
    s = scene(kind)
    red, green, blue = colour_places(pixels(direction_thumbnail_png(s["direction"], s["fa"], s["affine"])))
    assert red[1] < 0.4 < 0.6 < green[1]  # the person's left is on the left
    assert blue[1] > 0.6
    assert green[0] < 0.4 < 0.6 < blue[0]  # the front is on top


@pytest.mark.parametrize("kind", list(TURNS))
def test_direction_png__every_slice_is_coloured_like_the_thumbnail(kind: str) -> None:
    s = scene(kind)
    picture = pixels(direction_png(s["direction"], s["fa"], s["affine"], columns=3, rows=1))
    cell = (picture.shape[1] - BAR_WIDTH) // 3
    for k in range(3):
        own = picture[HEADER + 22 : -22, k * cell + 26 : (k + 1) * cell - 26]
        red, green, blue = colour_places(own)
        assert red[1] < 0.5 < green[1]
        assert green[0] < 0.5 < blue[0]


def test_direction_png__brightness_is_fa_and_the_sign_of_a_direction_means_nothing() -> None:
    s = scene("as stored")
    weak = np.where(s["x"] < 0, s["fa"], 0.35)
    picture = pixels(direction_thumbnail_png(-s["direction"], np.where(s["inside"], weak, np.nan), s["affine"]))
    assert picture[..., 0].max() == 255
    assert picture[..., 1].max() == pytest.approx(127.5, abs=9)


def test_direction_png__has_a_legend_of_the_three_axes() -> None:
    s = scene("as stored")
    legend = pixels(direction_png(s["direction"], s["fa"], s["affine"]))[HEADER : HEADER + 150, -BAR_WIDTH:]
    for ink in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert (np.abs(legend - ink).max(axis=2) < 3).sum() > 100
    ball = legend[2:48, 8:54]
    middle, left, top = ball[23, 23], ball[23, 1], ball[1, 23]
    assert middle.argmax() == 2  # up is towards the reader
    assert left.argmax() == 0
    assert top.argmax() == 1


def test_direction_png__equal_pictures_are_equal_bytes() -> None:
    s = scene("mirrored")
    made = [direction_png(s["direction"], s["fa"], s["affine"]) for _ in range(2)]
    assert made[0] == made[1]


def test_direction_png__refuses_directions_of_another_shape() -> None:
    s = scene("as stored")
    with pytest.raises(ImageError, match="directions"):
        direction_png(np.moveaxis(s["direction"], 0, -1), s["fa"], s["affine"])


def test_before_after_png__shows_signal_that_runs_over_the_outline_above_only(fake_dwi: ModuleType) -> None:
    images = fake_dwi.fake_images()
    pushed = np.roll(images.b0_after, 4, axis=1)  # 16 mm to the front
    picture = pixels(before_after_png(pushed, images.b0_after, images.affine, outline=images.brain, title="b = 0"))
    half = (picture.shape[0] - HEADER) // 2
    cell = picture.shape[1] // 6
    for k in range(3):  # axial: the front is on top
        rows = []
        for top in (HEADER, HEADER + half):
            own = picture[top : top + half - 16, k * cell + 16 : (k + 1) * cell - 16]
            bright = own.min(axis=2) > 90
            line = np.abs(own - OUTLINE).max(axis=2) < 12
            assert line.sum() > 100
            rows.append(np.nonzero(bright.any(axis=1))[0].min() - np.nonzero(line.any(axis=1))[0].min())
        above, below = rows
        assert above < -5  # before: over the outline in front
        assert below >= 0


def test_before_after_png__both_rows_have_one_window(fake_dwi: ModuleType) -> None:
    images = fake_dwi.fake_images()
    half_as_bright = before_after_png(
        0.5 * images.b0_after, images.b0_after, images.affine, outline=images.brain, title="b = 0"
    )
    picture = pixels(half_as_bright)
    half = (picture.shape[0] - HEADER) // 2
    cell = picture.shape[1] // 6
    above, below = (
        picture[t + half // 2 - 9 : t + half // 2 + 9, cell // 2, 0].mean() for t in (HEADER, HEADER + half)
    )
    assert above == pytest.approx(below / 2, rel=0.1)


def test_before_after_png__other_grids_are_refused(fake_dwi: ModuleType) -> None:
    images = fake_dwi.fake_images()
    with pytest.raises(ImageError, match="one shape"):
        before_after_png(images.b0_before[1:], images.b0_after, images.affine, outline=images.brain, title="b = 0")


def test_carpet_png__a_slice_without_signal_is_blue_where_it_was_and_framed() -> None:
    z = np.zeros((30, 40))
    z[5, 10] = -9.0
    z[20, 30] = 9.0
    b = np.repeat([0.0, 1000.0], [4, 36])
    plain, framed = (pixels(carpet_png(z, b, flagged=flagged, title="z")) for flagged in ([], [(5, 10)]))
    left, across = 46, (930 - BAR_WIDTH - 46) // 40
    inside = plain[HEADER:, left : left + 40 * across]
    down = 5
    blue = np.nonzero((inside[..., 2] > inside[..., 0] + 60) & (inside[..., 2] > 60))
    orange = np.nonzero(inside[..., 0] > inside[..., 2] + 60)
    assert blue[1].mean() / across == pytest.approx(10.5, abs=0.1)
    assert 30 - blue[0].mean() / down == pytest.approx(5.5, abs=0.15)  # slices count from the bottom
    assert orange[1].mean() / across == pytest.approx(30.5, abs=0.1)
    assert 30 - orange[0].mean() / down == pytest.approx(20.5, abs=0.15)
    changed = np.nonzero(np.abs(framed - plain).max(axis=2) > 60)
    assert changed[1].min() == pytest.approx(left + 10 * across - 1, abs=1)
    assert changed[1].max() == pytest.approx(left + 11 * across, abs=1)
    assert changed[0].min() == pytest.approx(HEADER + 24 * down - 1, abs=1)
    assert changed[0].max() == pytest.approx(HEADER + 25 * down, abs=1)


@pytest.mark.parametrize(("slices", "volumes"), [(1, 1), (3, 7), (72, 66), (60, 300), (90, 1200)])
def test_carpet_png__any_number_of_slices_and_volumes_fits(slices: int, volumes: int) -> None:
    rng = np.random.default_rng(0)
    picture = pixels(carpet_png(rng.standard_normal((slices, volumes)), np.full(volumes, 1000.0), title="z"))
    assert picture.shape[0] < 700
    assert picture.shape[1] <= max(930, volumes + BAR_WIDTH + 46)


@pytest.mark.parametrize("z", [np.zeros(4), np.zeros((3, 5)), np.zeros((0, 4))])
def test_carpet_png__other_shapes_are_refused(z: np.ndarray) -> None:
    with pytest.raises(ImageError, match="slice, volume"):
        carpet_png(z, np.zeros(4), title="z")


def test_dwi_figures__are_all_there_and_small(fake_dwi: ModuleType) -> None:
    found = dwi_figures(fake_dwi.fake_images())
    assert list(found) == ["direction", "b0", "fa", "md", "residual", "noise", "removed", "outliers"]
    assert all(200 < len(png) < 250_000 for png in found.values())
    thumbnails = dwi_thumbnails(fake_dwi.fake_images())
    assert list(thumbnails) == ["direction", "fa", "md"]
    assert all(len(text) < 12_000 for text in thumbnails.values())


def test_dwi_figures__what_there_is_not_is_not_drawn(fake_dwi: ModuleType) -> None:
    images = replace(fake_dwi.fake_images(), noise=None, removed=None, residual_percent=None, slice_z=None)
    assert list(dwi_figures(images)) == ["direction", "b0", "fa", "md"]


def test_dwi_figures__an_empty_brain_is_drawn_all_the_same(fake_dwi: ModuleType) -> None:
    images = fake_dwi.fake_images()
    nothing = replace(images, brain=np.zeros_like(images.brain))
    assert len(dwi_figures(nothing)) == 8
    assert len(dwi_thumbnails(nothing)) == 3
