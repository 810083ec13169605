"""How tissue grew and shrank between a participant's visits: small deformations from the midpoint template to each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import MaskError, RegistrationError
from voxcloud.space import volume_change_kernels as kernels
from voxcloud.space.affine import voxel_to_voxel
from voxcloud.space.bspline import check_transform, sample_linear
from voxcloud.space.change_prior import KNOT_MM, ChangePrior, Fields, Spectrum
from voxcloud.space.midpoint import Midpoint, content_order, filled, voxel_sizes
from voxcloud.space.registration import averaged
from voxcloud.space.sampling import Sampler

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Of the grid on which changes are found; finer images are averaged first.
WORKING_MM = 2.0
# The first pass is linear in the images; the second takes up what is not small.
PASSES = 2
# Noise as a share of the contrast between white matter and fluid. The same for everybody: changes are drawn towards
# zero by the same share at every visit of everybody, however noisy a visit is.
NOISE = 0.02
# Of the mean's intensities in the mask: fluid and white matter, where the levels are not given.
OUTER_LEVELS = (0.01, 0.97)
FEWEST_VOXELS = 500
# Values beyond the tissue levels by more than this part of the contrast are cut: fluid in a ratio of images is noise.
CUT = 0.5
# Conjugate gradients end when the preconditioned residual is this part of the first: what is left does not show.
TOLERANCE = 1e-2
MOST_STEPS = 100
# Knots beyond the brain, in mm: the spectra wrap round, and this keeps the two sides apart.
MARGIN_MM = 16.0
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class VolumeChange:
    """Deformations from the midpoint to each visit, as cubic B-splines.

    A point x (mm) of the midpoint space lies at ``T_k (x + u_k(x))`` in visit k, with ``T_k`` of the midpoint; the u_k
    of all visits sum to zero. What they are worth ends with the mask and the 16 mm around it.

    Attributes
    ----------
    coefficients
        (visit, X, Y, Z, 3) float32: u_k in mm, RAS+, on knots 5 mm apart.
    knots_affine
        (4, 4): knot to mm of the midpoint space.
    report
        JSON: noise, largest changes, steps, seconds.
    """

    coefficients: Float32
    knots_affine: Float64
    report: dict[str, Any]

    def jacobian(self, visit: int, affine: npt.ArrayLike, shape: Sequence[int]) -> Float32:
        """Return volume of the visit's tissue per volume of the midpoint, (x, y, z) on a grid of the midpoint space."""
        matrix, grid, out = self._asked(affine, shape)
        to_mm = np.ascontiguousarray(np.linalg.inv(self.knots_affine[:3, :3]))
        for start in range(0, out.size, BLOCK):
            kernels.jacobians(self.coefficients[visit], matrix, grid, to_mm, start, out[start : start + BLOCK])
        return out.reshape(grid)

    def displacement(self, visit: int, affine: npt.ArrayLike, shape: Sequence[int]) -> Float32:
        """Return u_k in mm, RAS+, (x, y, z, 3) on a grid of the midpoint space."""
        matrix, grid, size = self._asked(affine, shape)
        out = np.empty((size.size, 3), np.float32)
        for start in range(0, len(out), BLOCK):
            kernels.displace(self.coefficients[visit], matrix, grid, start, out[start : start + BLOCK])
        return out.reshape(*grid, 3)

    def _asked(self, affine: npt.ArrayLike, shape: Sequence[int]) -> tuple[Float64, tuple[int, ...], Float32]:
        matrix = np.ascontiguousarray(voxel_to_voxel(check_transform(affine), np.eye(4), self.knots_affine)[:3])
        grid = tuple(int(n) for n in shape)
        return matrix, grid, np.empty(int(np.prod(grid)), np.float32)


def volume_change(
    midpoint: Midpoint,
    images: Sequence[Array],
    affines: Sequence[npt.ArrayLike],
    mask: Bools,
    *,
    levels: tuple[float, float, float] | None = None,
    change_sd: float = 0.04,
) -> VolumeChange:
    """Find the small deformations that bring all visits to the midpoint template.

    The model of visit k on the midpoint grid, m the mean over visits, is

        I_k(T_k (x + u_k(x))) = m(x) + sum_b h_b(m(x)) a_kb(x) + noise,

    with hat functions h_b over the intensities of fluid, grey and white matter: each tissue's intensity may change
    smoothly from place to place (a_kb), so that myelin does not become volume. u and a are jointly the best linear
    prediction under Gaussian priors (``ChangePrior``), by conjugate gradients; m is the mean, so that the u_k sum to
    zero and no visit is the reference. A second pass starts from the first one's deformation.

    The prior draws changes towards zero, small regions more than large ones (docs/decisions/0012-volume-change.md says
    by how much), and by the same share at every visit.

    Parameters
    ----------
    midpoint
        Of these visits, in this order.
    images, affines
        As for ``midpoint_template``: the maps in which white matter is brighter than grey matter, and that than fluid.
    mask
        (x, y, z) on the midpoint's grid: the brain with the fluid around it, without skull and scalp.
    levels
        Intensity of fluid, grey and white matter; None: found in the mean (three means).
    change_sd
        SD of the prior of the log-Jacobian within about 6 mm: larger draws less towards zero and lets more noise in.

    Raises
    ------
    MaskError
        If the mask is of another grid or hardly holds a voxel.
    RegistrationError
        If visits, affines and transforms do not belong together, or the image has no contrast.

    References
    ----------
    1. Ashburner and Ridgway (2013), symmetric longitudinal modelling, doi:10.3389/fnins.2012.00197.
    """
    started = time.process_time()
    own = [check_transform(affine) for affine in affines]
    if not len(images) == len(own) == len(midpoint.matrices):
        raise RegistrationError(
            f"volume change: expected the {len(midpoint.matrices)} visits of the midpoint, found {len(images)} images "
            f"and {len(own)} affines."
        )
    if mask.shape != midpoint.image.shape:
        raise MaskError(f"volume change: expected a mask of shape {midpoint.image.shape}, found {mask.shape}.")
    order = content_order(list(images), own, [np.isfinite(image) for image in images])
    grid = _Grid(mask, midpoint.affine)
    visits = [_Visit(images[k], own[k], midpoint.matrices[k], grid) for k in order]
    prior = ChangePrior(grid.knots, change_sd)
    found = np.zeros((len(visits), *grid.knots, 3), np.float32)
    steps, noise, tissue = 0, np.zeros(len(visits)), (0.0, 0.0, 0.0)
    solutions: list[Spectrum | None] = [None] * len(visits)
    for _ in range(PASSES if len(visits) > 1 else 0):
        seen = [visit.at(u, grid) for visit, u in zip(visits, found, strict=True)]
        mean = _mean(seen, grid)
        tissue = _levels(mean, grid.mask) if levels is None else levels
        found, noise, taken = _pass(seen, mean, found, solutions, grid, prior, tissue)
        steps += taken
    back = np.argsort(order)
    report = {
        "noise": [round(float(x), 4) for x in noise[back]],
        "levels": [round(float(x), 4) for x in tissue],
        "steps": steps,
        "displacement_max_mm": [round(float(np.abs(u).max()), 3) for u in found[back]],
        "cpu_s": round(time.process_time() - started, 2),
    }
    return VolumeChange(found[back], grid.knots_affine, report)


def moved(points: Array, matrix: Float64) -> Float64:
    """Return points (n, 3) after a transform, summed in one order: a matrix product is free to choose."""
    x, y, z = (points[:, [axis]] * matrix[:3, axis] for axis in range(3))
    return np.asarray(x + y + z + matrix[:3, 3])


class _Grid:
    """The working grid: the mask's box in voxels of about 2 mm, and the knots around it."""

    def __init__(self, mask: Bools, affine: Float64) -> None:
        share, coarse = averaged(mask, affine, WORKING_MM)
        inside = share >= 0.5
        if inside.sum() < FEWEST_VOXELS:
            raise MaskError(
                f"volume change: expected a mask of a brain, found {int(inside.sum())} voxels of "
                f"{voxel_sizes(coarse).mean():.2g} mm. Look at the mask."
            )
        self.voxel_mm = float(voxel_sizes(coarse).mean())
        places = np.argwhere(inside)
        low, high = places.min(axis=0) - 1, places.max(axis=0) + 2
        # The mask may touch the edge of the grid; the box reaches beyond it.
        self.shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
        self.mask = np.zeros(self.shape, dtype=bool)
        self.mask[tuple((places - low).T)] = True
        self.affine = coarse.copy()
        self.affine[:3, 3] += coarse[:3, :3] @ low
        self.voxels = np.ascontiguousarray(np.argwhere(self.mask), dtype=np.int32)
        self.step = KNOT_MM / self.voxel_mm
        self.first = 2.0 + MARGIN_MM / KNOT_MM
        nx, ny, nz = (ChangePrior.good_length(n / self.step + 2 * self.first) for n in self.shape)
        self.knots = (nx, ny, nz)
        from_knots = np.diag([self.step, self.step, self.step, 1.0])
        from_knots[:3, 3] = -self.first * self.step
        self.knots_affine = self.affine @ from_knots

    def displaced(self, u: Float32) -> Float64:
        """Return the places (voxel, 3) in mm to which a field of knots takes the voxels of the box."""
        out = np.empty((int(np.prod(self.shape)), 3), np.float32)
        matrix = np.ascontiguousarray(voxel_to_voxel(self.affine, np.eye(4), self.knots_affine)[:3])
        kernels.displace(u, matrix, self.shape, 0, out)
        return moved(np.indices(self.shape).reshape(3, -1).T, self.affine) + out


class _Visit:
    """One visit's image as a spline, and where its voxels lie."""

    def __init__(self, image: Array, affine: Float64, matrix: Float64, grid: _Grid) -> None:
        known = np.isfinite(image)
        share, own = averaged(known, affine, WORKING_MM)
        sums, _ = averaged(np.where(known, image, 0.0).astype(np.float32), affine, WORKING_MM)
        inside = share >= 0.5
        if not inside.any():
            raise RegistrationError("volume change: expected an image, found no known voxel. Look at the map.")
        means = np.where(inside, sums / np.maximum(share, 1e-6), np.nan).astype(np.float32)
        between = voxel_to_voxel(grid.affine, matrix, own)
        self._known = sample_linear(inside.astype(np.float32), between, grid.shape, outside=0.0) > 0.99
        self._image, self._matrix = Sampler([means], own), matrix

    def at(self, u: Float32, grid: _Grid) -> tuple[Float32, Bools]:
        """Return values at ``T (x + u(x))`` over the box, flat, and which of them are known."""
        (values,) = self._image.at(moved(grid.displaced(u), self._matrix))
        known = self._known & np.isfinite(values)
        return np.where(known, values, np.float32(0.0)), known


def _mean(seen: list[tuple[Float32, Bools]], grid: _Grid) -> Float32:
    total = np.sum([values for values, _ in seen], axis=0, dtype=np.float64)
    count = np.sum([known for _, known in seen], axis=0, dtype=np.int32)
    mean = (total / np.maximum(count, 1)).reshape(grid.shape)
    return filled(mean, (count > 0).reshape(grid.shape))


def _levels(mean: Float32, mask: Bools) -> tuple[float, float, float]:
    """Return the intensities of fluid, grey and white matter: quantiles, and the middle one of three means."""
    values = np.sort(mean[mask].astype(np.float64))
    low, high = np.quantile(values, OUTER_LEVELS)
    found = np.quantile(values, (0.05, 0.45, 0.85))
    sums = np.append(0.0, np.cumsum(values))
    for _ in range(50):
        cuts = np.searchsorted(values, (found[:-1] + found[1:]) / 2.0)
        edges = np.concatenate([[0], cuts, [values.size]])
        counts = np.diff(edges)
        new = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), found)
        if np.allclose(new, found, rtol=1e-4):
            break
        found = new
    middle = float(found[1])
    if not low < middle < high:
        raise RegistrationError(
            f"volume change: expected an image with contrast, found intensities {low:.3g}, {middle:.3g} and {high:.3g} "
            "of the three tissues. Look at the midpoint image and its mask."
        )
    return float(low), middle, float(high)


def _slope(image: Float32, axis: int) -> Float32:
    """Return the derivative per voxel of the cubic spline through the samples of each line: differences fall short."""
    coefficients = ndimage.spline_filter1d(image, 3, axis=axis, output=np.float32, mode="mirror")
    return np.asarray(np.gradient(coefficients, axis=axis), dtype=np.float32)


def _pass(
    seen: list[tuple[Float32, Bools]],
    mean: Float32,
    before: Float32,
    solutions: list[Spectrum | None],
    grid: _Grid,
    prior: ChangePrior,
    levels: tuple[float, float, float],
) -> tuple[Float32, Float64, int]:
    """Return the fields of all visits after one pass, their residuals' SD as a share of the contrast, and steps."""
    contrast = levels[2] - levels[0]
    cut = np.clip(mean, levels[0] - CUT * contrast, levels[2] + CUT * contrast)
    slopes = np.stack([_slope(cut, axis)[grid.mask] for axis in range(3)], axis=-1) / grid.voxel_mm
    axes = np.eye(4)
    axes[:3, :3] = grid.affine[:3, :3] / voxel_sizes(grid.affine)  # slopes along the axes of space
    hats = [np.interp(cut[grid.mask], levels, unit) for unit in np.eye(3)]
    factors = np.c_[moved(slopes, axes), np.stack(hats, axis=-1) * contrast].astype(np.float32) / np.float32(contrast)
    inside = grid.mask.reshape(-1)
    found, noise, steps = np.empty_like(before), [], 0
    for k, (values, known) in enumerate(seen):
        weights = known[inside].astype(np.float32)
        own = np.ascontiguousarray(factors * weights[:, None])
        low, high = levels[0] - CUT * contrast, levels[2] + CUT * contrast
        rest = (np.clip(values, low, high) - cut.reshape(-1))[inside] * weights / np.float32(contrast)
        fields = Fields(prior, grid.voxels, grid.step, grid.first, own, NOISE)
        solution, taken = fields.solve(fields.along(before[k]) - rest, solutions[k], TOLERANCE, MOST_STEPS)
        solutions[k] = solution
        left = rest - fields.along(before[k]) + fields.seen(solution)
        noise.append(float(1.4826 * np.median(np.abs(left[weights > 0]))) if weights.any() else np.nan)
        found[k] = fields.displacement(solution)
        steps += taken
    # Zero already, but for rounding and for voxels that not all visits know.
    found -= found.mean(axis=0)
    return found, np.array(noise), steps
