"""Significant clusters in the brain: slices through the peaks, and a viewer to scroll in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.report.ramps import LESS, MORE, Ramp, picture
from voxcloud.report.results import Comparison, Results
from voxcloud.report.svg import figure
from voxcloud.report.words import MINUS, coordinates

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONNECTIVITY_18 = ndimage.generate_binary_structure(3, 2)
SLICE_MM = 1.0
SLICES_WIDTH = 740.0
PERCENTILE_WHITE = 99.5


@dataclass(frozen=True)
class Background:
    """The anatomical image under the clusters, scaled to 0..1."""

    data: npt.NDArray[np.float32]
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

    @property
    def ramp(self) -> Ramp:
        """Colours from the lowest cluster-forming threshold to the largest statistic."""
        more, less = bool((self.volume > 0).any()), bool((self.volume < 0).any())
        return Ramp(min(self.thresholds, default=0.0), self.limit, more, less)


@lru_cache(maxsize=2)
def load_background(template_image: str | None) -> Background:
    """Load the study's template, or the MNI152 template that nilearn carries."""
    import nibabel as nib

    if template_image is None:
        from nilearn.datasets import load_mni152_template

        image: Any = load_mni152_template(resolution=1)
        name = "MNI152 template (ICBM 2009a nonlinear symmetric, as distributed with nilearn)"
    else:
        image, name = nib.load(template_image), f"template of the study ({Path(template_image).name})"
    data = np.asarray(image.dataobj, dtype=np.float32)
    data = np.nan_to_num(data[..., 0] if data.ndim == 4 else data)
    inside = data > 0.02 * data.max()
    white = float(np.percentile(data[inside], PERCENTILE_WHITE)) if inside.any() else 1.0
    affine = np.asarray(image.affine, dtype=np.float64)
    low, high = _extent(inside)
    box = (
        np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        @ affine.T
    )
    margin = 3.0
    return Background(
        np.clip(data / np.float32(white), 0, 1),
        affine,
        _triple(box[:, :3].min(axis=0) - margin),
        _triple(box[:, :3].max(axis=0) + margin),
        name,
    )


def _extent(inside: Bools) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first and last voxel of a mask on each axis; of an empty one, the whole grid."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        ends.append((there[0], there[-1]) if there.size else (0, inside.shape[axis] - 1))
    low, high = np.array(ends, dtype=np.int64).T
    return low, high


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


def slices(found: Found, clusters: Sequence[Any], background: Background, name: str, title: str) -> str:
    """Return sagittal, coronal and axial slices through the highest peak of each cluster; left is left."""
    spans = [h - w for h, w in zip(background.high, background.low, strict=True)]
    widths = [spans[1], spans[0], spans[0]]
    heights = [spans[2], spans[2], spans[1]]
    row_height = max(heights) + 16.0
    parts: list[str] = []
    for row, cluster in enumerate(clusters):
        peak = cluster["peaks"][0]
        at = (float(peak["x"]), float(peak["y"]), float(peak["z_mm"]))
        left, bottom = 0.0, (row + 1) * row_height - 2.0
        parts.append(
            f'<text x="0" y="{row * row_height + 9:.1f}" font-size="9">Cluster {row + 1}: {coordinates(peak)}</text>'
        )
        for axis in range(3):
            box = (left, bottom - heights[axis], widths[axis], heights[axis])
            parts.append(_slice(axis, at, found, background, box))
            left += widths[axis] + 6.0
    height = row_height * len(clusters)
    parts.append(found.ramp.bar(left + 4, 24, min(110.0, height - 40), name))
    alt = f"Slices through the peaks of the first {len(clusters)} clusters of {title}; coordinates are in the table."
    return figure("".join(parts), left + 40, height, alt, SLICES_WIDTH)


def _slice(
    axis: int,
    at: tuple[float, float, float],
    found: Found,
    background: Background,
    box: tuple[float, float, float, float],
) -> str:
    """Draw one plane: anatomy by linear interpolation, the statistic voxel by voxel as it was tested."""
    across, up = [(1, 2), (0, 2), (0, 1)][axis]
    a = np.arange(background.low[across] + SLICE_MM / 2, background.high[across], SLICE_MM)
    b = np.arange(background.low[up] + SLICE_MM / 2, background.high[up], SLICE_MM)
    points = np.empty((3, b.size, a.size))
    points[axis], points[across], points[up] = at[axis], a[None, :], b[:, None]
    anatomy = _sample(background.data, background.affine, points, 1)
    overlay = _sample(found.volume, found.affine, points, 0)
    # Outside the head the page stays white, also in print; the edge fades instead of breaking into steps.
    head = np.clip((anatomy - 0.02) / 0.06, 0.0, 1.0)
    grey = np.round(255 * (1.0 + head * (np.minimum(0.12 + 0.8 * anatomy, 1.0) - 1.0))).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    inside = overlay != 0
    pixels[inside] = found.ramp.colours(overlay)[inside][:, :3]
    x, y, width, height = box
    cross_x, cross_y = x + at[across] - background.low[across], y + background.high[up] - at[up]
    parts = [
        f'<image href="{picture(pixels[::-1], lossless=False)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" preserveAspectRatio="none"/>',
        f'<path d="M{cross_x:.1f} {y:.1f}v{height:.1f}M{x:.1f} {cross_y:.1f}h{width:.1f}" stroke="#00695c" '
        'stroke-width="0.5" opacity="0.8"/>',
        _written(
            x + 3, y + height - 3, f"{'xyz'[axis]} = {at[axis]:g}{_side(axis, at[0])}".replace("-", MINUS), "start", 8
        ),
    ]
    if axis:
        parts += [_written(x + 3, y + 10, "L", "start", 9), _written(x + width - 3, y + 10, "R", "end", 9)]
    return "".join(parts)


def _side(axis: int, x: float) -> str:
    """Return the hemisphere that a sagittal slice shows."""
    return "" if axis else ", left hemisphere" if x < 0 else ", right hemisphere" if x > 0 else ", midline"


def _written(x: float, y: float, words: str, anchor: str, size: float) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}" stroke="white" stroke-width="2" '
        f'paint-order="stroke">{words}</text>'
    )


def _sample(volume: npt.NDArray[Any], affine: Floats, points: Floats, order: int) -> Floats:
    inverse = np.linalg.inv(affine)
    voxels = np.tensordot(inverse[:3, :3], points, axes=1) + inverse[:3, 3][:, None, None]
    return np.asarray(ndimage.map_coordinates(volume, voxels, order=order, mode="constant", cval=0.0), dtype=np.float64)


def viewer(found: Found, title: str) -> str:
    """Return a page with a slice viewer of the significant clusters that loads nothing from elsewhere."""
    import nibabel as nib
    from matplotlib.colors import LinearSegmentedColormap
    from nilearn import plotting
    from nilearn.datasets import load_mni152_template

    image = nib.Nifti1Image(found.volume.astype(np.float32), found.affine)
    made = plotting.view_img(
        image,
        bg_img=load_mni152_template(resolution=3),
        threshold=1e-6,
        cmap=LinearSegmentedColormap.from_list("two_ways", [*LESS[::-1], *MORE]),
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
