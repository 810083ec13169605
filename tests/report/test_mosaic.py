"""Pictures for quality control: orientation, window, colours, what is unknown, and what they cost."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from voxcloud.errors import ImageError
from voxcloud.report.mosaic import (
    COLOURS,
    HEADER,
    OUTLINE,
    PICTURE_WIDTH,
    UNKNOWN,
    WINDOWS,
    edges_png,
    mosaic_png,
    thumbnail_png,
    window,
)

RAS = np.diag([2.0, 2.0, 2.0, 1.0])
RAS[:3, 3] = (-60.0, -80.0, -60.0)
SHAPE = (61, 81, 61)


def pixels(png: bytes) -> np.ndarray:
    """Decode a picture to (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def points(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Return the world coordinates of every voxel."""
    return np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]


def head(shape: tuple[int, int, int] = SHAPE, affine: np.ndarray = RAS) -> np.ndarray:
    """An ellipsoid of .5 in which the left front is 1.5; NaN outside."""
    x, y, z = points(shape, affine)
    inside = (x / 56) ** 2 + (y / 76) ** 2 + (z / 56) ** 2 < 1
    return np.where(inside, np.where((x < -10) & (y > 20), 1.5, 0.5), np.nan).astype(np.float32)


def turned(kind: str) -> np.ndarray:
    """Return an affine whose axes are mirrored, permuted or oblique, about the same middle."""
    middle = RAS @ [*((n - 1) / 2 for n in SHAPE), 1.0]
    axes = {
        "as stored": np.eye(3),
        "mirrored": np.diag([-1.0, 1.0, 1.0]),
        "all mirrored": -np.eye(3),
        "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]),
    }
    angle = np.deg2rad(12)
    c, s = np.cos(angle), np.sin(angle)
    axes["oblique"] = np.diag([-1.0, 1, 1]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix = np.eye(4)
    matrix[:3, :3] = 2.0 * axes[kind]
    size = (81, 61, 61) if kind == "sagittal" else SHAPE
    matrix[:3, 3] = middle[:3] - matrix[:3, :3] @ [(n - 1) / 2 for n in size]
    return matrix


@pytest.mark.parametrize("kind", ["as stored", "mirrored", "all mirrored", "sagittal", "oblique"])
def test_thumbnail_png__left_of_the_person_is_on_the_left_and_front_on_top(kind: str) -> None:
    affine = turned(kind)
    shape = (81, 61, 61) if kind == "sagittal" else SHAPE
    picture = pixels(thumbnail_png(head(shape, affine), affine, low=0.0, high=1.6))[..., 0]
    rows, columns = np.nonzero(picture > 200)
    assert rows.size > 50
    height, width = picture.shape
    assert rows.max() < 0.5 * height
    assert columns.max() < 0.5 * width


@pytest.mark.parametrize("kind", ["mirrored", "sagittal"])
def test_mosaic_png__every_slice_shows_left_on_the_left(kind: str) -> None:
    affine = turned(kind)
    shape = (81, 61, 61) if kind == "sagittal" else SHAPE
    volume = head(shape, affine)
    picture = pixels(mosaic_png(volume, affine, low=0.0, high=1.6, title="R1map", units="1/s", columns=3, rows=1))
    cell = (picture.shape[1] - 62) // 3
    for k in range(3):
        own = picture[HEADER + 20 : -20, k * cell + 25 : (k + 1) * cell - 25, 0]
        bright, grey = np.nonzero(own > 220)[1], np.nonzero((own > 60) & (own < 110))[1]
        assert bright.mean() < grey.mean()


def test_mosaic_png__a_value_has_the_same_shade_in_every_session() -> None:
    volume = np.full((40, 40, 40), 0.8, np.float32)
    brighter = volume.copy()
    brighter[:20] = 1.4
    shades = [
        pixels(mosaic_png(v, np.diag([4.0, 4.0, 4.0, 1.0]), low=0.0, high=1.6, title="R1map", units="1/s"))[60, 40, 0]
        for v in (volume, np.concatenate([brighter[20:], brighter[:20]]))
    ]
    assert shades[0] == shades[1] == pytest.approx(127.5, abs=4)


def test_mosaic_png__what_is_missing_inside_the_head_is_seen() -> None:
    volume = head()
    whole = pixels(mosaic_png(volume, RAS, low=0.0, high=1.6, title="R1map", units="1/s"))
    volume[26:36, 30:40, 20:50] = np.nan
    holed = pixels(mosaic_png(volume, RAS, low=0.0, high=1.6, title="R1map", units="1/s"))
    near = [np.abs(p - UNKNOWN).max(axis=2) < 12 for p in (whole, holed)]
    assert near[0].sum() == 0
    assert near[1].sum() > 500


def test_mosaic_png__outlines_a_mask() -> None:
    volume = head()
    plain = pixels(mosaic_png(volume, RAS, low=0.0, high=1.6, title="R1map", units="1/s"))
    lined = pixels(mosaic_png(volume, RAS, low=0.0, high=1.6, title="R1map", units="1/s", contour=volume > 1.0))
    drawn = np.abs(lined - OUTLINE).max(axis=2) < 12
    assert 200 < drawn.sum() < 0.1 * drawn.size
    assert (np.abs(plain - OUTLINE).max(axis=2) < 12).sum() == 0


def test_mosaic_png__a_field_has_a_middle_and_two_hues() -> None:
    x, *_ = points(SHAPE, RAS)
    volume = np.where(np.isnan(head()), np.nan, 100.0 + x / 2)
    low, high, units = WINDOWS["TB1map"]
    drawn = mosaic_png(volume, RAS, low=low, high=high, title="TB1map", units=units, colours=COLOURS["TB1map"])
    picture = pixels(drawn)[HEADER:, :-62]
    red, blue = picture[..., 0], picture[..., 2]
    less, more = np.nonzero(blue > red + 60)[1], np.nonzero(red > blue + 60)[1]
    cell = picture.shape[1] / 6
    assert (less % cell).mean() < 0.4 * cell
    assert (more % cell).mean() > 0.6 * cell


def test_mosaic_png__equal_pictures_are_equal_bytes_and_fit_a_page() -> None:
    made = [mosaic_png(head(), RAS, low=0.0, high=1.6, title="R1map", units="1/s") for _ in range(2)]
    assert made[0] == made[1]
    assert abs(pixels(made[0]).shape[1] - PICTURE_WIDTH) < 12
    assert len(made[0]) < 150_000


def test_mosaic_png__does_not_copy_the_volume() -> None:
    shape = (256, 240, 176)
    volume = np.asfortranarray(np.ones(shape, dtype=np.float32))
    mosaic_png(volume[::8, ::8, ::8], RAS, low=0.0, high=2.0, title="R1map", units="1/s")  # what is imported late
    tracemalloc.start()
    mosaic_png(volume, np.diag([1.0, 1.0, 1.0, 1.0]), low=0.0, high=2.0, title="R1map", units="1/s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * volume.nbytes


def test_mosaic_png__an_empty_map_is_drawn_all_the_same() -> None:
    nothing = np.full(SHAPE, np.nan, np.float32)
    assert pixels(mosaic_png(nothing, RAS, low=0.0, high=1.6, title="MTsat", units="p.u."))[60, 120].tolist() == [
        0,
        0,
        0,
    ]
    assert len(thumbnail_png(nothing, RAS, low=0.0, high=1.6)) > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": np.ones((4, 4))}, "expected a volume"),
        ({"affine": np.zeros((4, 4))}, "4 x 4 affine"),
        ({"low": 2.0}, "low < high"),
        ({"high": float("nan")}, "low < high"),
        ({"contour": np.ones((3, 3, 3), dtype=bool)}, "contour of shape"),
    ],
)
def test_mosaic_png__refuses_what_cannot_be_drawn(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"volume": head(), "affine": RAS, "low": 0.0, "high": 1.6} | change
    with pytest.raises(ImageError, match=message):
        mosaic_png(values.pop("volume"), values.pop("affine"), title="R1map", units="1/s", **values)  # type: ignore[arg-type]


def test_edges_png__show_where_the_moving_image_lies() -> None:
    x, y, z = points(SHAPE, RAS)
    inside = np.isfinite(head())
    brain = np.where((x / 40) ** 2 + (y / 55) ** 2 + (z / 40) ** 2 < 1, 1.0, 0.3)
    still = np.where(inside, brain, np.nan)
    moved = np.where(inside, np.roll(brain, 6, axis=1), np.nan)  # 12 mm to the front
    picture = pixels(edges_png(brain, moved, still, RAS, title="T1w to PDw"))
    half = (picture.shape[0] - HEADER) // 2
    lines = [np.abs(p - OUTLINE).max(axis=2) < 12 for p in (picture[HEADER : HEADER + half], picture[HEADER + half :])]
    assert min(line.sum() for line in lines) > 1000
    # The first view is axial, where the front is on top; in the last, sagittal one it is on the right.
    view = picture.shape[1] // 6
    up = [np.nonzero(line[:, :view])[0].mean() for line in lines]
    right = [np.nonzero(line[:, -view:])[1].mean() for line in lines]
    per_mm = view / 152
    assert up[1] - up[0] == pytest.approx(12 * per_mm, abs=2.5)
    assert right[0] - right[1] == pytest.approx(12 * per_mm, abs=2.5)


def test_edges_png__other_grids_are_refused() -> None:
    with pytest.raises(ImageError, match="three volumes of one shape"):
        edges_png(head(), head()[1:], head(), RAS, title="T1w to PDw")


def test_edges_png__an_image_without_edges_is_no_error() -> None:
    flat = np.ones(SHAPE, np.float32)
    assert len(edges_png(flat, flat, flat, RAS, title="MTw to PDw")) > 1000


def test_thumbnail_png__is_small() -> None:
    rng = np.random.default_rng(0)
    noisy = head() + 0.1 * rng.standard_normal(SHAPE)
    made = thumbnail_png(noisy, RAS, low=0.0, high=1.6, width=72)
    assert pixels(made).shape[1] == 72
    assert len(made) < 5000


def test_window__is_fixed_for_units_and_found_for_arbitrary_ones() -> None:
    values = np.concatenate([np.linspace(0, 1000, 1001), [np.nan]]).reshape(-1, 1, 1)
    assert window("R1map", values) == (0.0, 1.6, "1/s")
    low, high, units = window("M0map", values)
    assert (low, high, units) == (0.0, pytest.approx(990.0), "arbitrary")
    assert window("M0map", np.full((2, 2, 2), np.nan)) == (0.0, 1.0, "arbitrary")
