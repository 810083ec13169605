"""A head as a function of space: tissue fractions, R1, PD, R2* and MTsat at any point, in any pose, at any voxel size.

Parameters are mixed, not signals: in a voxel with fractions p_t of the tissues that give signal

    q = sum_t p_t q_t / sum_t p_t   for R1, R2* and MTsat,        PD = sum_t p_t PD_t

so that every voxel has one R1, and the truth is exact voxel by voxel. Real partial volumes mix signals: they have no
single R1, and what a fit finds there depends on the protocol. Errors at borders of tissue are thus those of noise,
motion and resampling only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.testing.fields import FWHM_TO_SIGMA, Float32, Float64, generator
from voxcloud.testing.raw_growth import Growth, origin_of, soft_ball
from voxcloud.testing.raw_sampling import sample_spline
from voxcloud.testing.raw_tissue import PARAMETERS, TISSUE_VALUES

SPLINE_FWHM_MM = 1.4  # of a cubic B-spline, per mm of spacing: what sampling itself blurs
CSF_RIM_MM, SKULL_MM, SCALP_MM = 2.0, 8.0, 15.0  # distances from the brain at which each layer ends
REGIONAL_SD = {"R1map": 0.03, "PDmap": 0.01, "R2starmap": 0.06, "MTsat": 0.04}
PERSONAL_SD = {"R1map": 0.02, "PDmap": 0.007, "R2starmap": 0.04, "MTsat": 0.03}
FIELD_SPACING_MM = 16.0  # knots of the smooth fields: variation, deformation
FIELD_SHAPE = (16, 18, 16)
FIELD_ORIGIN_MM = (-120.0, -152.0, -120.0)
SPLINE_SD = (151.0 / 315.0) ** 1.5  # SD of a 3D cubic B-spline with unit white coefficients, averaged over space
WARP_SD_MM, WARP_MOST_MM, SIZE_SD = 1.5, 8.0, 0.03


@dataclass(frozen=True)
class HeadTissues:
    """Fractions of the tissues as spline coefficients.

    Attributes
    ----------
    coefficients
        (x, y, z, tissue) in the order of ``TISSUES``, 0 to 1; the rest is air or bone and gives no signal.
    affine
        Voxel to mm in the head's own frame, (4, 4), no rotation.
    centre_mm
        Point of the head that lies at the isocentre when it is not moved.
    occupied
        Blocks in and beside which there is a head.
    block
        Coefficients per block and axis.
    """

    coefficients: Float32
    affine: Float64
    centre_mm: tuple[float, float, float]
    occupied: npt.NDArray[np.bool_]
    block: int

    def voxels(self, template_mm: Float64) -> Float64:
        """Return positions (point, 3) in voxels of the coefficients."""
        return np.asarray((template_mm - self.affine[:3, 3]) / np.diag(self.affine)[:3])


@dataclass(frozen=True)
class VisitChange:
    """A true change from visit to visit: a ball with a soft edge in which a parameter grows by a fraction per visit.

    Attributes
    ----------
    parameter
        R1map, PDmap, R2starmap or MTsat.
    centre_mm, radius_mm, fwhm_mm
        Ball in the frame of the template, and the blur of its edge.
    relative
        Change per visit after the first; 0.02 is 2 %.
    """

    parameter: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    fwhm_mm: float
    relative: float

    def profile(self, points_mm: Float64) -> Float64:
        """Return 1 deep inside, 1/2 at the radius, 0 outside, for points (point, 3)."""
        distance = np.linalg.norm(points_mm - np.asarray(self.centre_mm), axis=1)
        return soft_ball(distance, self.radius_mm, self.fwhm_mm)


@dataclass(frozen=True)
class Head:
    """One person's head at one visit.

    Attributes
    ----------
    tissues
        What everybody shares.
    to_template
        The person's size and shape: head mm to template mm, (4, 4).
    warp
        Displacement in mm on coarse knots, (x, y, z, 3).
    variation
        Relative deviation of the parameters within GM and WM on coarse knots, (x, y, z, parameter).
    changes
        Change and how many visits it has gone on, or the part of it that is there.
    growth
        What has grown since the first visit.
    """

    tissues: HeadTissues
    to_template: Float64
    warp: Float32
    variation: Float32
    changes: tuple[tuple[VisitChange, float], ...] = field(default=())
    growth: tuple[Growth, ...] = field(default=())

    def sample(self, points_mm: Float64) -> tuple[Float32, Float32]:
        """Return fractions (point, tissue) and parameters (point, parameter) at points of the head's frame, mm."""
        template = self.template_points(points_mm)
        fractions = sample_spline(self.tissues.coefficients, self.tissues.voxels(template))
        relative = sample_spline(self.variation, field_knots(template))
        for change, visits in self.changes:
            at = PARAMETERS.index(change.parameter)
            relative[:, at] += (1.0 + relative[:, at]) * (change.relative * visits * change.profile(template))
        return fractions, mixed_parameters(fractions, relative)

    def template_points(self, points_mm: Float64) -> Float64:
        """Return where points (point, 3) of this head lie in the template, mm."""
        template = self._undeformed(points_mm)
        template += sample_spline(self.warp, field_knots(template))
        return origin_of(template, self.growth)

    def may_fill(self, points_mm: Float64) -> npt.NDArray[np.bool_]:
        """Return where the head may be, (point,): quickly, and true for some points beside it too."""
        blocks = (self.tissues.voxels(self._undeformed(points_mm)) / self.tissues.block).astype(np.int64)
        shape = self.tissues.occupied.shape
        i, j, k = (np.clip(blocks[:, a], 0, shape[a] - 1) for a in range(3))
        return np.asarray(self.tissues.occupied[i, j, k])

    def _undeformed(self, points_mm: Float64) -> Float64:
        return np.asarray(points_mm @ self.to_template[:3, :3].T + self.to_template[:3, 3])


def mixed_parameters(fractions: Float32, relative: Float32) -> Float32:
    """Return (point, parameter) of mixtures: see the module.

    Parameters
    ----------
    fractions
        (point, tissue).
    relative
        (point, parameter): deviation within GM and WM; fluid and scalp do not vary.
    """
    brain = fractions[:, :2] @ TISSUE_VALUES[:2]
    rest = fractions[:, 2:] @ TISSUE_VALUES[2:]
    mixed = brain * (1.0 + relative) + rest
    total = fractions.sum(axis=1)
    for at, name in enumerate(PARAMETERS):
        if name != "PDmap":
            mixed[:, at] /= np.maximum(total, 1e-6)
    mixed[total < 1e-3] = 0.0
    return np.asarray(mixed, dtype=np.float32)


def person_head(
    tissues: HeadTissues, seed: int, participant: str, visit: int = 0, changes: Sequence[VisitChange] = ()
) -> Head:
    """Draw a person: size, shape and tissue of their own; regional variation is everybody's.

    Parameters
    ----------
    visit
        0 is the first; changes have gone on for so many visits.
    """
    rng = generator(seed, "head", participant)
    linear = np.diag(1.0 + SIZE_SD * rng.standard_normal(3)) + 0.01 * rng.standard_normal((3, 3))
    to_template = np.eye(4)
    to_template[:3, :3] = linear
    centre = np.asarray(tissues.centre_mm)
    to_template[:3, 3] = centre - linear @ centre
    warp = rng.standard_normal((*FIELD_SHAPE, 3), dtype=np.float32) * np.float32(WARP_SD_MM / SPLINE_SD)
    shared = tissue_variation(generator(seed, "regions"), REGIONAL_SD)
    own = tissue_variation(rng, PERSONAL_SD)
    own += per_parameter(PERSONAL_SD) * rng.standard_normal(len(PARAMETERS), dtype=np.float32)
    return Head(tissues, to_template, warp, shared + own, tuple((change, visit) for change in changes))


def tissue_variation(rng: np.random.Generator, sd: Mapping[str, float]) -> Float32:
    """Draw how the parameters deviate over space, relative, (x, y, z, parameter): SD per parameter."""
    drawn = rng.standard_normal((*FIELD_SHAPE, len(PARAMETERS)), dtype=np.float32) / np.float32(SPLINE_SD)
    r1, mtsat = PARAMETERS.index("R1map"), PARAMETERS.index("MTsat")
    drawn[..., mtsat] = 0.8 * drawn[..., r1] + 0.6 * drawn[..., mtsat]  # both follow myelin
    return np.asarray(drawn * per_parameter(sd), dtype=np.float32)


def per_parameter(sd: Mapping[str, float]) -> Float32:
    """Return values by name in the order of ``PARAMETERS``."""
    return np.array([sd[name] for name in PARAMETERS], dtype=np.float32)


def field_knots(points_mm: Float64) -> Float64:
    """Return positions (point, 3) of points of the template on the knots of the smooth fields."""
    return np.asarray((points_mm - np.asarray(FIELD_ORIGIN_MM)) / FIELD_SPACING_MM)


@lru_cache(maxsize=3)
def template_head(resolution_mm: float) -> HeadTissues:
    """Return the head for images of this voxel size: the MNI152 template that nilearn ships, in a skull and scalp.

    GM and WM are the template's; CSF fills up the brain and a rim of 2 mm. The template has no skull: bone, without
    signal, reaches from 2 to 8 mm and scalp from 8 to 15 mm of the brain. Together with the spline's own blur the
    coefficients are blurred to a FWHM of one voxel.

    References
    ----------
    .. [1] Fonov V et al. (2011) Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 54:313-327.
       doi:10.1016/j.neuroimage.2010.07.033
    """
    stride = max(1, int(resolution_mm / 2.0))
    layers, affine = _template_layers()
    blur = np.sqrt(max(resolution_mm**2 - (SPLINE_FWHM_MM * stride) ** 2, 0.0)) * FWHM_TO_SIGMA
    blurred = []
    for whole in layers:
        layer = whole
        for axis in range(3):
            if blur > 0:
                layer = ndimage.gaussian_filter1d(layer, blur, axis=axis, mode="nearest", truncate=3.0)
            layer = layer[(slice(None),) * axis + (slice(None, None, stride),)]
        blurred.append(layer)
    spaced = affine.copy()
    spaced[:3, :3] *= stride
    return _tissues(np.stack(blurred, axis=-1), spaced, (0.0, -18.0, 10.0))


@lru_cache(maxsize=1)
def _template_layers() -> tuple[tuple[Float32, ...], Float64]:
    """Return GM, WM, CSF and scalp on the template's 1 mm grid, and its affine."""
    from nilearn import datasets  # 0.5 s to import: only when a template is wanted

    images = [
        load(resolution=1)
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    ]
    t1, gm, wm = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    brain = _brain(t1, gm + wm)
    gm, wm = np.clip(gm, 0, 1) * brain, np.clip(wm, 0, 1) * brain
    return tuple(_with_shells(gm, wm, brain, 1.0)), np.array(images[0].affine, dtype=np.float64)


def phantom_head(resolution_mm: float = 8.0) -> HeadTissues:
    """Return a head of ellipsoids, for tests: white matter, grey shell, two ventricles of unlike size, a nose."""
    spacing = max(4.0, resolution_mm / 2.0)
    half = [int(np.ceil(mm / spacing)) for mm in (96.0, 112.0, 96.0)]
    axes = np.meshgrid(*(spacing * np.arange(-h, h + 1) for h in half), indexing="ij")
    x, y, z = axes
    radius = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + (z / 68) ** 2)
    inside = np.clip((1.0 - radius) / 0.1 + 0.5, 0, 1)
    white = np.clip((0.72 - radius) / 0.1 + 0.5, 0, 1)
    holes = np.zeros_like(x)
    for side, size in ((-1.0, 14.0), (1.0, 19.0)):
        ball = np.sqrt(((x - side * 20) / size) ** 2 + ((y - 10) / (1.8 * size)) ** 2 + ((z - 8) / size) ** 2)
        holes = np.maximum(holes, np.clip((1.0 - ball) / 0.3 + 0.5, 0, 1))
    wm = white * (1 - holes)
    gm = (inside - white) * (1 - holes)
    stack = _with_shells(gm.astype(np.float32), wm.astype(np.float32), inside > 0.5, spacing)
    nose = np.sqrt((x / 14) ** 2 + ((y - 98) / 14) ** 2 + ((z + 30) / 20) ** 2) < 1
    stack[3][nose] = 1.0
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * h for h in half]
    coefficients = np.ascontiguousarray(np.moveaxis(np.stack(stack), 0, -1), dtype=np.float32)
    return _tissues(coefficients, affine, (0.0, 0.0, 0.0))


def _tissues(coefficients: Float32, affine: Float64, centre_mm: tuple[float, float, float]) -> HeadTissues:
    filled = coefficients.max(axis=3) > 0
    # One block of margin: more than a person's shape moves a point, and the two samples that a spline reaches.
    block = int(np.ceil(WARP_MOST_MM / affine[0, 0])) + 2
    blocks = np.zeros([-(-n // block) for n in filled.shape], dtype=bool)
    for corner in np.argwhere(np.ones(blocks.shape, dtype=bool)):
        blocks[tuple(corner)] = filled[tuple(slice(c * block, (c + 1) * block) for c in corner)].any()
    coefficients.setflags(write=False)
    return HeadTissues(coefficients, affine, centre_mm, ndimage.binary_dilation(blocks, np.ones((3, 3, 3))), block)


def _brain(t1: Float32, tissue: Float32) -> npt.NDArray[np.bool_]:
    """Return the template's brain without holes: the largest part of what has intensity or tissue."""
    parts, n = ndimage.label((t1 > 0.1 * t1.max()) | (tissue > 0.05))
    if n > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        parts = parts == int(sizes.argmax())
    return np.asarray(ndimage.binary_fill_holes(parts), dtype=np.bool_)


def _with_shells(gm: Float32, wm: Float32, brain: npt.NDArray[np.bool_], spacing_mm: float) -> list[Float32]:
    """Return GM, WM, CSF and scalp: fluid where the brain is neither, and shells by distance from the brain."""
    distance = ndimage.distance_transform_edt(~brain, sampling=spacing_mm).astype(np.float32)
    width = max(1.0, 0.5 * spacing_mm)

    def within(limit_mm: float) -> npt.NDArray[Any]:
        return np.asarray(np.clip((limit_mm - distance) / width + 0.5, 0.0, 1.0), dtype=np.float32)

    csf = np.clip(within(CSF_RIM_MM) - gm - wm, 0.0, 1.0)
    return [gm, wm, csf, within(SCALP_MM) - within(SKULL_MM)]
