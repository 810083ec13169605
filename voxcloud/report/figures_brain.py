"""Significant clusters in the brain: glass brain, slices through the peaks, a viewer to scroll in."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.report.results import Comparison, Results
from voxcloud.report.words import coordinates

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONNECTIVITY_18 = ndimage.generate_binary_structure(3, 2)
SLICE_MM = 1.0
INK = "#1f2933"
# Orange for more, blue for less: they differ in lightness and in hue with every kind of colour vision.
LESS = ("#9ecae1", "#2b8cbe", "#084081")
MORE = ("#fdd49e", "#ef6548", "#7f0000")
PERCENTILE_WHITE = 99.5


@dataclass(frozen=True)
class Background:
    """The anatomical image under the clusters, scaled to 0..1."""

    data: Floats
    affine: Floats
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    name: str


@dataclass(frozen=True)
class Found:
    """The significant clusters of one comparison as one image of the statistic, 0 elsewhere.

    ``uncut`` counts the clusters that reach beyond their search volume and are drawn whole, ``lost`` those that the
    statistic map does not show at the listed peak.
    """

    volume: Floats
    affine: Floats
    thresholds: tuple[float, ...]
    uncut: int
    lost: int

    @property
    def limit(self) -> float:
        """Largest absolute statistic."""
        return float(np.abs(self.volume).max())


@lru_cache(maxsize=2)
def load_background(template_image: str | None) -> Background:
    """Load the study's template, or the MNI152 template that nilearn carries."""
    import nibabel as nib

    if template_image is None:
        from nilearn.datasets import load_mni152_template

        image: Any = load_mni152_template(resolution=2)
        name = "MNI152 template (ICBM 2009a nonlinear symmetric, as distributed with nilearn)"
    else:
        image, name = nib.load(template_image), f"template of the study ({Path(template_image).name})"
    data = np.asarray(image.dataobj, dtype=np.float64)
    data = np.nan_to_num(data[..., 0] if data.ndim == 4 else data)
    inside = data > 0.02 * data.max()
    white = float(np.percentile(data[inside], PERCENTILE_WHITE)) if inside.any() else 1.0
    affine = np.asarray(image.affine, dtype=np.float64)
    corners = np.argwhere(inside) if inside.any() else np.array([[0, 0, 0], np.array(data.shape) - 1])
    low, high = corners.min(axis=0), corners.max(axis=0)
    box = (
        np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        @ affine.T
    )
    margin = 3.0
    return Background(
        np.clip(data / white, 0, 1),
        affine,
        _triple(box[:, :3].min(axis=0) - margin),
        _triple(box[:, :3].max(axis=0) + margin),
        name,
    )


def _triple(values: Floats) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def find_clusters(results: Results, comparison: Comparison) -> Found | None:
    """Cut the significant clusters of a comparison out of its statistic map; None where the map is not there."""
    import nibabel as nib

    relative = comparison.statistic_map
    if relative is None or not (results.output / relative).is_file():
        return None
    image: Any = nib.load(results.output / relative)
    statistic = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float64))
    affine = np.asarray(image.affine, dtype=np.float64)
    kept = np.zeros(statistic.shape, dtype=bool)
    labels: dict[tuple[str, float], npt.NDArray[np.int32]] = {}
    uncut = lost = 0
    for search, cluster in comparison.found:
        key = (str(search["direction"]), float(search["height_threshold_t"]))
        if key not in labels:
            signed = -statistic if key[0] == "less" else statistic
            labels[key] = ndimage.label(signed > key[1], CONNECTIVITY_18)[0]
        own = _component(labels[key], affine, cluster["peaks"][0])
        if own is None:
            lost += 1
            continue
        uncut += int(own.sum()) != int(cluster["size_voxels"])
        kept |= own
    return Found(np.where(kept, statistic, 0.0), affine, tuple(sorted({abs(t) for _, t in labels})), uncut, lost)


def _component(labels: npt.NDArray[np.int32], affine: Floats, peak: Any) -> Bools | None:
    voxel = np.linalg.inv(affine) @ np.array([peak["x"], peak["y"], peak["z_mm"], 1.0])
    index = tuple(int(v) for v in np.round(voxel[:3]))
    if any(i < 0 or i >= n for i, n in zip(index, labels.shape, strict=True)) or labels[index] == 0:
        return None
    return np.asarray(labels == labels[index])


def _data_uri(figure: Any, dots: int) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dots, pil_kwargs={"quality": 82, "method": 4})
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _colours(signed: bool, less: bool = False) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    if not signed:
        return LinearSegmentedColormap.from_list("one_way", LESS[::-1] if less else MORE)
    return LinearSegmentedColormap.from_list("two_ways", [*LESS[::-1], *MORE])


def _scale(found: Found) -> tuple[Any, float, float]:
    """Return colour map and range: one way where only one direction was found."""
    more, less = bool((found.volume > 0).any()), bool((found.volume < 0).any())
    bottom = min(found.thresholds, default=0.0)
    if more and less:
        return _colours(True), -found.limit, found.limit
    if less:
        return _colours(False, less=True), -found.limit, -bottom
    return _colours(False), bottom, found.limit


def glass_brain(found: Found, name: str) -> str:
    """Return a glass brain of the significant clusters (maximum projection) as a data URI."""
    import nibabel as nib
    from nilearn import plotting

    figure = _figure(9.0, 2.5)
    axes = figure.add_axes((0, 0.06, 1, 0.94))
    colours, low, high = _scale(found)
    image = nib.Nifti1Image(found.volume.astype(np.float32), found.affine)
    plotting.plot_glass_brain(
        image,
        display_mode="lyrz",
        threshold=1e-6,
        colorbar=True,
        plot_abs=False,
        cmap=colours,
        vmin=low,
        vmax=high,
        symmetric_cbar=False,
        figure=figure,
        axes=axes,
        annotate=True,
    )
    figure.axes[-1].set_xlabel(name, fontsize=9, color=INK, labelpad=3)
    return _data_uri(figure, 100)


def slices(found: Found, clusters: Sequence[Any], background: Background, name: str) -> str:
    """Return sagittal, coronal and axial slices through the highest peak of each cluster as a data URI."""
    spans = [h - w for h, w in zip(background.high, background.low, strict=True)]
    widths = [spans[1], spans[0], spans[0]]
    heights = [spans[2], spans[2], spans[1]]
    inch = 6.6 / sum(widths)
    row_height = max(heights) * inch + 0.25
    figure = _figure(7.6, row_height * len(clusters) + 0.05)
    total = row_height * len(clusters) + 0.05
    colours, low, high = _scale(found)
    for row, cluster in enumerate(clusters):
        peak = cluster["peaks"][0]
        at = (float(peak["x"]), float(peak["y"]), float(peak["z_mm"]))
        left = 0.0
        for axis in range(3):
            bottom = total - (row + 1) * row_height + 0.03
            box = (left / 7.6, bottom / total, widths[axis] * inch / 7.6, heights[axis] * inch / total)
            _slice(figure.add_axes(box), axis, at, found, background, colours, (low, high))
            left += widths[axis] * inch + 0.04
        figure.text(
            0.004,
            (total - row * row_height - 0.16) / total,
            f"Cluster {row + 1}: {coordinates(peak)}",
            fontsize=8.5,
            color=INK,
        )
    _colour_bar(figure, colours, low, high, name, total)
    return _data_uri(figure, 110)


def _slice(
    axes: Any,
    axis: int,
    at: tuple[float, float, float],
    found: Found,
    background: Background,
    colours: Any,
    limits: tuple[float, float],
) -> None:
    """Draw one plane: anatomy by linear interpolation, the statistic voxel by voxel as it was tested."""
    across, up = [(1, 2), (0, 2), (0, 1)][axis]
    a = np.arange(background.low[across], background.high[across] + SLICE_MM / 2, SLICE_MM)
    b = np.arange(background.low[up], background.high[up] + SLICE_MM / 2, SLICE_MM)
    points = np.empty((3, b.size, a.size))
    points[axis], points[across], points[up] = at[axis], a[None, :], b[:, None]
    anatomy = _sample(background.data, background.affine, points, 1)
    overlay = _sample(found.volume, found.affine, points, 0)
    # Outside the head the page stays white, also in print.
    grey = np.where(anatomy > 0.03, 0.12 + 0.8 * anatomy, 1.0)
    extent = (a[0], a[-1], b[0], b[-1])
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent, aspect="auto", interpolation="bilinear"
    )
    shown = np.ma.masked_where(overlay == 0, overlay)
    axes.imshow(
        shown,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    for line, place in ((axes.axvline, at[across]), (axes.axhline, at[up])):
        line(place, color="#00695c", linewidth=0.5, alpha=0.8)
    axes.set_axis_off()
    axes.text(
        0.02, 0.02, f"{'xyz'[axis]} = {at[axis]:g}".replace("-", "−"), transform=axes.transAxes, fontsize=7.5, color=INK
    )
    if axis:
        axes.text(0.01, 0.9, "L", transform=axes.transAxes, fontsize=8, color=INK)
        axes.text(0.99, 0.9, "R", transform=axes.transAxes, fontsize=8, color=INK, ha="right")


def _sample(volume: Floats, affine: Floats, points: Floats, order: int) -> Floats:
    inverse = np.linalg.inv(affine)
    voxels = np.tensordot(inverse[:3, :3], points, axes=1) + inverse[:3, 3][:, None, None]
    return np.asarray(ndimage.map_coordinates(volume, voxels, order=order, mode="constant", cval=0.0))


def _colour_bar(figure: Any, colours: Any, low: float, high: float, name: str, total: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height = min(1.3, total * 0.7)
    axes = figure.add_axes((6.95 / 7.6, (total - 0.35 - height) / total, 0.12 / 7.6, height / total))
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), colours), cax=axes)
    bar.ax.tick_params(labelsize=7.5, length=2, color=INK, labelcolor=INK)
    bar.ax.set_title(name, fontsize=8, color=INK, pad=4)
    bar.outline.set_linewidth(0.4)


def viewer(found: Found, title: str) -> str:
    """Return a page with a slice viewer of the significant clusters that loads nothing from elsewhere."""
    import nibabel as nib
    from nilearn import plotting
    from nilearn.datasets import load_mni152_template

    image = nib.Nifti1Image(found.volume.astype(np.float32), found.affine)
    made = plotting.view_img(
        image,
        bg_img=load_mni152_template(resolution=3),
        threshold=1e-6,
        cmap=_colours(True),
        symmetric_cmap=True,
        black_bg=False,
        colorbar=True,
        title=title,
        width_view=640,
    )
    page: str = made.get_standalone()
    # The only thing that nilearn's page would fetch is its icon.
    page = re.sub(r"<link rel=\"icon\"[^>]*>", "", page)
    # nilearn names its elements by chance; in a frame of its own a fixed name is as good, and the page stays the same.
    for name in sorted(set(re.findall(r"[0-9a-f]{32}", page))):
        page = page.replace(name, "slices")
    return page
