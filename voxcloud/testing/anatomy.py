"""Where the simulated maps live: the MNI152 template that nilearn ships, or a small ellipsoid phantom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import PlanError
from voxcloud.testing.fields import FWHM_TO_SIGMA, Float32, Float64, distance_mm, grid_mm

BOX_MM = ((-78.0, 78.0), (-114.0, 78.0), (-72.0, 86.0))
"""Bounding box of the analysis grid, mm; voxel centres are multiples of the voxel size, as in SPM's templates."""

SUPPORT = 0.05
"""Tissue probability below which a map has no value (NaN), as after tissue-weighted smoothing."""

ROI_SPHERES: tuple[tuple[str, tuple[float, float, float], float], ...] = (
    ("sensorimotor cortex", (36.0, -26.0, 54.0), 24.0),
    ("sensorimotor cortex, medial wall", (8.0, -28.0, 64.0), 14.0),
    ("corticospinal tract, corona radiata", (24.0, -20.0, 26.0), 16.0),
    ("corticospinal tract, peduncle and pons", (10.0, -20.0, -16.0), 14.0),
    ("thalamus", (12.0, -18.0, 8.0), 14.0),
    ("cerebellum", (26.0, -62.0, -34.0), 24.0),
    ("hippocampal formation", (28.0, -22.0, -14.0), 16.0),
)
"""Simulated regions of interest of the right hemisphere (name, centre mm, radius mm); the left ones are mirrored."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Anatomy:
    """A template on one grid.

    Attributes
    ----------
    affine
        Voxel to RAS+ mm, (4, 4), no rotation.
    t1
        Template intensity scaled to a median of 1 in white matter, (x, y, z).
    gm, wm
        Tissue probabilities, (x, y, z), 0 to 1.
    mask
        Template brain: the fixed superset mask of the study.
    voxel_mm
        Voxel size.
    space
        BIDS space label.
    """

    affine: Float64
    t1: Float32
    gm: Float32
    wm: Float32
    mask: BoolArray
    voxel_mm: float
    space: str

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.mask.shape
        return (x, y, z)

    def tissue(self, label: str) -> Float32:
        """Return the probability of a label; without a label, the mask itself."""
        if label == "":
            return self.mask.astype(np.float32)
        return self.gm if label == "GM" else self.wm

    def support(self, label: str) -> BoolArray:
        """Return the voxels in which the maps of a label have values."""
        return np.asarray(self.mask & (self.tissue(label) > SUPPORT))


def mni_anatomy(resolution_mm: float = 4.0) -> Anatomy:
    """Resample the MNI152 template of nilearn (ICBM 2009a symmetric, 1 mm) to an isotropic grid.

    The 1 mm templates are blurred with a Gaussian whose FWHM is the new voxel size, then interpolated linearly.
    Everything is read from files inside the nilearn package; nothing is downloaded.

    Parameters
    ----------
    resolution_mm
        Voxel size, 1 to 12 mm.

    Raises
    ------
    PlanError
        If the resolution is outside 1 to 12 mm.

    References
    ----------
    .. [1] Fonov V et al. (2011) Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 54:313-327.
       doi:10.1016/j.neuroimage.2010.07.033
    """
    if not 1.0 <= resolution_mm <= 12.0:
        raise PlanError(
            f"simulation: resolution_mm is expected between 1 and 12 mm, found {resolution_mm:g}. Use 4 for the demo."
        )
    from nilearn import datasets  # 0.5 s to import: only when a template is wanted

    first = [int(np.ceil(lo / resolution_mm)) for lo, _ in BOX_MM]
    counts = [int(np.floor(hi / resolution_mm)) - f + 1 for f, (_, hi) in zip(first, BOX_MM, strict=True)]
    affine = np.diag([resolution_mm, resolution_mm, resolution_mm, 1.0])
    affine[:3, 3] = [f * resolution_mm for f in first]
    t1, gm, wm = (
        _resample(load(resolution=1), affine, counts, resolution_mm)
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    gm, wm = np.clip(gm, 0, 1), np.clip(wm, 0, 1)
    mask = _largest_part((t1 > 0.2 * t1.max()) & (gm + wm > 0.02))
    t1 = (t1 / np.median(t1[mask & (wm > 0.8)])).astype(np.float32)
    return Anatomy(affine, t1, gm, wm, mask, float(resolution_mm), "MNI152NLin2009aSym")


def phantom_anatomy(shape: Sequence[int] = (12, 14, 12), voxel_mm: float = 4.0) -> Anatomy:
    """Return an ellipsoid with a white core and a grey shell, centred on the origin of the world."""
    x, y, z = (int(n) for n in shape)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = [-voxel_mm * (n - 1) / 2 for n in (x, y, z)]
    gx, gy, gz = grid_mm((x, y, z), affine)
    half = [voxel_mm * n / 2 for n in (x, y, z)]
    radius = np.sqrt((gx / half[0]) ** 2 + (gy / half[1]) ** 2 + (gz / half[2]) ** 2)
    wm = np.clip((0.75 - radius) / 0.2, 0.0, 1.0).astype(np.float32)
    mask = radius <= 0.97
    gm = np.where(mask, 1.0 - wm, 0.0).astype(np.float32)
    t1 = np.where(mask, 0.7 * gm + wm, 0.0).astype(np.float32)
    return Anatomy(affine, t1, gm, wm, mask, float(voxel_mm), "phantom")


def search_volumes(anatomy: Anatomy, thresholds: dict[str, float]) -> dict[str, BoolArray]:
    """Return the simulated search volumes GM_left, GM_right, WM_left and WM_right.

    Each is the union of generous spheres round the regions of the model study, cut by the tissue threshold and the
    sign of x: simulated regions, not an atlas. Voxels with x = 0 belong to neither side.
    """
    x = np.broadcast_to(grid_mm(anatomy.shape, anatomy.affine)[0], anatomy.shape)
    near = np.zeros(anatomy.shape, dtype=bool)
    for _, centre, radius in ROI_SPHERES:
        for side in (-1.0, 1.0):
            near |= distance_mm(anatomy.shape, anatomy.affine, (side * centre[0], centre[1], centre[2])) <= radius
    volumes = {}
    for label, threshold in thresholds.items():
        tissue = anatomy.mask & (anatomy.tissue(label) >= threshold) & near
        volumes[f"{label}_left"] = tissue & (x < 0)
        volumes[f"{label}_right"] = tissue & (x > 0)
    return volumes


def region_atlas(anatomy: Anatomy) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Return the simulated regions as an atlas of labels, and their names: label k is the k-th name, 0 is none.

    A voxel inside several spheres belongs to the one in whose centre it lies deepest. Voxels with x = 0 belong to none,
    as in the search volumes.
    """
    x = np.broadcast_to(grid_mm(anatomy.shape, anatomy.affine)[0], anatomy.shape)
    labels = np.zeros(anatomy.shape, dtype=np.uint8)
    deepest = np.ones(anatomy.shape)
    names: list[str] = []
    for name, centre, radius in ROI_SPHERES:
        for side, word in ((-1.0, "left"), (1.0, "right")):
            names.append(f"{word} {name}")
            depth = distance_mm(anatomy.shape, anatomy.affine, (side * centre[0], centre[1], centre[2])) / radius
            own = anatomy.mask & (x * side > 0) & (depth < deepest)
            labels[own], deepest[own] = len(names), depth[own]
    return labels, tuple(names)


def _resample(image: object, affine: Float64, counts: Sequence[int], resolution_mm: float) -> Float32:
    source = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    origin = image.affine[:3, 3]  # type: ignore[attr-defined]
    if resolution_mm > 1.0:
        for axis in range(3):
            source = ndimage.gaussian_filter1d(source, resolution_mm * FWHM_TO_SIGMA, axis=axis, mode="nearest")
    offset = affine[:3, 3] - origin
    out = ndimage.affine_transform(
        source, np.full(3, resolution_mm), offset=offset, output_shape=tuple(counts), order=1, mode="constant"
    )
    return np.asarray(out, dtype=np.float32)


def _largest_part(mask: BoolArray) -> BoolArray:
    parts, n = ndimage.label(mask)
    if n < 2:
        return np.asarray(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == int(sizes.argmax()))
