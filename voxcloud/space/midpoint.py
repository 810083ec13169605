"""A participant's own template: the mean of all visits in the middle of their positions; none is the reference."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space.affine import displacement_mm, rigid_parameters, voxel_to_voxel
from voxcloud.space.bspline import SplineImages, check_transform, sample_linear
from voxcloud.space.registration import Registration, averaged, register_rigid

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Movements are found on grids of about this voxel size; finer images are averaged first.
WORKING_MM = 2.0
# Of a voxel: blurs noise alike wherever a voxel falls between those of a visit, which interpolation alone does not.
BLUR_VOX = 0.5
POINTS = 300_000
FEWEST_VOXELS = 1000
MOST_ITERATIONS = 20
# Movement (mm, mean over the head) below which nothing changes any more.
SMALL_MM = 0.002
DECIMALS = 10
TUKEY = 4.685
MAD_TO_SD = 1.4826
MARGIN_VOX = 2
# Voxel centres lie this part of a voxel off multiples of the voxel size: a grid on the voxel centres of a visit that
# was never moved would not interpolate it, and its image would be sharper than those of all others.
GRID_OFFSET = 0.25
# Fine detail is what lies between Gaussians of these SD: folds, which differ between heads, without shading and noise.
DETAIL_MM = (1.5, 5.0)
# Correlation of fine detail with the mean of the other visits below which a visit is not of the same head: measured in
# docs/decisions/0012-volume-change.md.
LEAST_AGREEMENT = 0.85


@dataclass(frozen=True, eq=False)
class Midpoint:
    """The mean of a participant's visits, and where each visit lies.

    Attributes
    ----------
    image
        (x, y, z) float32: mean over the visits in which a voxel is known; NaN where it is in none.
    affine
        (4, 4), voxel to RAS+ mm of the midpoint space; axes along those of the scanner.
    matrices
        (visit, 4, 4): a point of the midpoint space (mm, RAS+) to the same point of the head in that visit's image.
    known
        (x, y, z) uint8: number of visits in which a voxel is known.
    report
        JSON: per visit movement and agreement (correlation of fine detail with the others); iterations; CPU seconds, in
        all and of child processes.
    flagged
        Per visit a sentence on why it does not fit the others; empty if it does.
    """

    image: Float32
    affine: Float64
    matrices: Float64
    known: npt.NDArray[np.uint8]
    report: dict[str, Any]
    flagged: tuple[str, ...]


def midpoint_template(
    images: Sequence[Array],
    affines: Sequence[npt.ArrayLike],
    *,
    masks: Sequence[Bools] | None = None,
    voxel_mm: float | None = None,
    iterations: int = MOST_ITERATIONS,
) -> Midpoint:
    """Average a participant's visits in the middle of their positions.

    The model of visit k is ``I_k(T_k x) = g_k(x) m(x) + noise``, T_k rigid, m the mean over visits and g a gain that is
    linear in x. From pairwise registrations (``register_rigid``) as a start, T and g are found by Gauss-Newton with
    Tukey's weights against the mean of all, which is then computed anew, until nothing moves. The space is the one
    with ``sum_k log T_k = 0`` (the bi-invariant mean of rigid transforms), so that every visit is as much a reference
    as any other and all are interpolated alike, also a single one. The order of the visits changes no bit.

    Parameters
    ----------
    images
        (x, y, z) maps of one contrast, e.g. MTsat in p.u.; NaN where nothing is known. Grids may differ.
    affines
        (4, 4) each, voxel to RAS+ mm; may be oblique, without shear.
    masks
        Voxels that count for the movement, one array per visit; None: all that are known.
    voxel_mm
        Of the template; None: the finest of the visits.
    iterations
        At most.

    Raises
    ------
    RegistrationError
        If there is no visit, or an image cannot be used.

    References
    ----------
    1. Reuter et al. (2012), doi:10.1016/j.neuroimage.2012.02.084: no visit may be the reference.
    2. Pennec and Arsigny (2013), exponential barycentre, doi:10.1007/978-3-642-30232-9_7.
    """
    started = time.process_time()
    given, own, counted = _checked(images, affines, masks)
    order = content_order(given, own, counted)
    visits = [_Visit(given[k], own[k], counted[k]) for k in order]
    found = [visits[0].start(visit) for visit in visits[1:]]
    child_s = sum(other.cpu_s for other in found)
    start = np.stack([np.eye(4), *(other.matrix for other in found)])
    matrices, passes, moved = _align(visits, _centred(start), iterations)
    agreement = _agreement(visits, matrices)
    size = float(min(voxel_sizes(affine).min() for affine in own)) if voxel_mm is None else float(voxel_mm)
    affine, shape = _grid(visits, matrices, size)
    del visits
    sorted_images = [(given[k], own[k]) for k in order]
    image, known = _mean(sorted_images, matrices, affine, shape)
    back = np.argsort(order)
    matrices, agreement = matrices[back], agreement[back]
    report = _report(matrices, affine, shape, agreement)
    report |= {
        "iterations": passes,
        "last_step_mm": moved,
        "cpu_s": round(time.process_time() - started + child_s, 2),
        "child_cpu_s": round(child_s, 2),
    }
    return Midpoint(image, affine, matrices, known, report, _flags(agreement))


def voxel_sizes(affine: Float64) -> Float64:
    """Return (3,) voxel sizes in mm."""
    return np.asarray(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def filled(image: Array, known: Bools) -> Float32:
    """Return an image in which every unknown voxel has the value of the nearest known one."""
    if known.all():
        return np.asarray(image, dtype=np.float32)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)], dtype=np.float32)


class _Visit:
    """An image prepared for finding its movement: averaged, clipped, without NaN."""

    def __init__(self, image: Array, affine: Float64, mask: Bools) -> None:
        known = np.isfinite(image)
        values = image[mask & known]
        low, high = np.percentile(values, (1.0, 99.0))
        share, self.affine = averaged(mask & known, affine, WORKING_MM)
        sums, _ = averaged(
            np.where(mask & known, np.clip(image, low, high), 0.0).astype(np.float32), affine, WORKING_MM
        )
        self.mask = share >= 0.5
        self.image = filled(sums / np.maximum(share, 1e-6), self.mask)
        blurred = ndimage.gaussian_filter(self.image, BLUR_VOX)
        self._splines = SplineImages([blurred], np.eye(4), (1, 1, 1), movable=True)
        self._share = self.mask.astype(np.float32)

    def start(self, other: _Visit) -> Registration:
        """Return where the points of this visit lie in another, from scratch."""
        shown = [np.where(visit.mask, visit.image, 0.0).astype(np.float32) for visit in (self, other)]
        mask = np.asarray(ndimage.binary_dilation(self.mask, iterations=2))
        return register_rigid(shown[0], self.affine, shown[1], other.affine, fixed_mask=mask)

    def at(self, matrix: Float64, affine: Float64, shape: Sequence[int]) -> tuple[Float32, Bools]:
        """Return values on a grid of the midpoint space, flat, and where they are known."""
        between = voxel_to_voxel(affine, matrix, self.affine)
        moved = self._splines.moved(between)
        moved.shape = tuple(shape)
        known = sample_linear(self._share, between, shape, outside=0.0) > 0.99
        return moved.sample()[0], known


def _checked(
    images: Sequence[Array], affines: Sequence[npt.ArrayLike], masks: Sequence[Bools] | None
) -> tuple[list[Array], list[Float64], list[Bools]]:
    given = [np.asarray(image) for image in images]
    if not given or len(affines) != len(given) or (masks is not None and len(masks) != len(given)):
        raise RegistrationError(
            f"midpoint: expected one or more images and as many affines and masks, found {len(given)}, {len(affines)} "
            f"and {'none' if masks is None else len(masks)}."
        )
    own = [check_transform(affine) for affine in affines]
    counted = [np.isfinite(image) for image in given] if masks is None else [np.asarray(m, bool) for m in masks]
    for k, (image, mask) in enumerate(zip(given, counted, strict=True)):
        if image.ndim != 3 or mask.shape != image.shape:
            raise RegistrationError(
                f"midpoint, visit {k + 1}: expected a 3-D image and a mask of its shape, found {image.shape} and "
                f"{mask.shape}. Make the mask on the image's grid."
            )
        values = image[mask & np.isfinite(image)]
        if values.size < FEWEST_VOXELS or not values.max() > values.min():
            raise RegistrationError(
                f"midpoint, visit {k + 1}: expected an image with at least {FEWEST_VOXELS} known voxels that "
                f"differ, found "
                f"{values.size} known voxels. Look at the map and its mask."
            )
    return given, own, counted


def content_order(images: list[Array], affines: list[Float64], masks: list[Bools]) -> list[int]:
    """Return the visits in an order that depends on what they hold alone."""
    digests = []
    for image, affine, mask in zip(images, affines, masks, strict=True):
        digest = hashlib.sha256(repr(image.shape).encode())
        for array in (image.astype(np.float32), affine, mask):
            digest.update(np.ascontiguousarray(array).tobytes())
        digests.append(digest.digest())
    return sorted(range(len(images)), key=digests.__getitem__)


def _centred(matrices: Float64) -> Float64:
    """Return the transforms seen from their exponential barycentre: their logarithms sum to zero."""
    for _ in range(50):
        mean = np.mean([np.real(linalg.logm(matrix)) for matrix in matrices], axis=0)
        if np.abs(mean).max() < 1e-12:
            break
        matrices = matrices @ _rigid(-mean)
    return matrices


def _rigid(generator: Float64) -> Float64:
    """Return the exponential of an element of se(3), (4, 4)."""
    found = np.asarray(linalg.expm(generator), dtype=np.float64)
    found[3] = 0.0, 0.0, 0.0, 1.0  # but for rounding it is
    return found


def _align(visits: list[_Visit], matrices: Float64, iterations: int) -> tuple[Float64, int, float]:
    """Return the transforms after registration to the mean, the number of passes and what the last one moved (mm)."""
    moved = 0.0
    if len(visits) == 1:
        return matrices, 0, moved
    passes = 0
    while passes < iterations:
        passes += 1
        affine, shape = _grid(visits, matrices, min(float(voxel_sizes(v.affine).min()) for v in visits))
        seen = [visit.at(matrix, affine, shape) for visit, matrix in zip(visits, matrices, strict=True)]
        count = np.sum([known for _, known in seen], axis=0, dtype=np.int32)
        total = np.sum([np.where(known, values, 0.0) for values, known in seen], axis=0, dtype=np.float64)
        mean = (total / np.maximum(count, 1)).reshape(shape)
        equations = _Equations(mean, (count == len(visits)).reshape(shape), affine)
        new = np.stack([m @ equations.step(values) for m, (values, _) in zip(matrices, seen, strict=True)])
        # A matrix product may differ in its last bit from one place in memory to the next: that must not go on.
        new = np.round(_centred(new), DECIMALS)
        inside = (count == len(visits)).reshape(shape)
        steps = [
            displacement_mm(np.linalg.inv(m) @ found, affine, shape, inside)[0]
            for m, found in zip(matrices, new, strict=True)
        ]
        matrices, moved = new, float(max(steps))
        if moved < SMALL_MM:
            break
    return matrices, passes, moved


class _Equations:
    """Gauss-Newton for the movement of a visit against the mean, at the mean's strongest edges."""

    def __init__(self, mean: Float64, known: Bools, affine: Float64) -> None:
        size = voxel_sizes(affine)
        inner = np.asarray(ndimage.binary_erosion(known))
        slopes = np.asarray(np.gradient(mean, *size), dtype=np.float64).reshape(3, -1)
        strength = np.where(inner.reshape(-1), (slopes**2).sum(axis=0), 0.0)
        n = min(POINTS, int(inner.sum()))
        if n < FEWEST_VOXELS:
            raise RegistrationError(
                f"midpoint: expected visits that overlap in at least {FEWEST_VOXELS} voxels, found {n}. Are they "
                "of one person, and their masks of the head?"
            )
        self._at = np.sort(np.argpartition(strength, -n)[-n:])
        index = np.stack(np.unravel_index(self._at, mean.shape)).astype(np.float64)
        places = affine[:3, :3] @ index + affine[:3, 3:]
        self._centre = places.mean(axis=1)
        about = (places - self._centre[:, None]).T
        slope = slopes[:, self._at].T
        values = mean.reshape(-1)[self._at]
        gains = values[:, None] * np.c_[np.ones(n), about / 100.0]
        self._values = values
        self._columns = np.c_[slope, np.cross(about, slope), gains]

    def step(self, values: Float32) -> Float64:
        """Return the rigid transform (4, 4) that brings a visit nearer: T becomes T times it."""
        residual = values[self._at] - self._values
        spread = MAD_TO_SD * float(np.median(np.abs(residual))) + 1e-12
        weight = np.clip(1.0 - (residual / (TUKEY * spread)) ** 2, 0.0, None) ** 2
        weighted = self._columns * weight[:, None]
        normal = weighted.T @ self._columns
        normal[np.diag_indices_from(normal)] *= 1.0 + 1e-9
        found = np.linalg.solve(normal, -(weighted.T @ residual))
        # I(T exp(xi) x) = I(T x) + slope xi(x): the step takes the residual away.
        generator = np.zeros((4, 4))
        x, y, z = found[3:6]
        generator[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
        generator[:3, 3] = found[:3] - generator[:3, :3] @ self._centre
        return _rigid(generator)


def _grid(visits: list[_Visit], matrices: Float64, voxel_mm: float) -> tuple[Float64, tuple[int, int, int]]:
    """Return affine and shape of the grid along the scanner's axes that holds all that is known."""
    lows, highs = [], []
    for visit, matrix in zip(visits, matrices, strict=True):
        to_mid = np.linalg.inv(matrix) @ visit.affine
        # The outermost known voxels of every line are enough.
        edge = visit.mask & ~ndimage.binary_erosion(visit.mask)
        places = to_mid[:3, :3] @ np.argwhere(edge).T + to_mid[:3, 3:]
        lows.append(places.min(axis=1))
        highs.append(places.max(axis=1))
    reach = MARGIN_VOX * max(voxel_mm, WORKING_MM)
    low = np.floor((np.min(lows, axis=0) - reach) / voxel_mm) + GRID_OFFSET
    high = np.ceil((np.max(highs, axis=0) + reach) / voxel_mm) + GRID_OFFSET
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = low * voxel_mm
    nx, ny, nz = (int(n) for n in np.rint(high - low) + 1)
    return affine, (nx, ny, nz)


def _mean(
    visits: list[tuple[Array, Float64]], matrices: Float64, affine: Float64, shape: tuple[int, int, int]
) -> tuple[Float32, npt.NDArray[np.uint8]]:
    total = np.zeros(int(np.prod(shape)), dtype=np.float32)
    count = np.zeros(total.size, dtype=np.uint8)
    for (image, own), matrix in zip(visits, matrices, strict=True):
        between = voxel_to_voxel(affine, matrix, own)
        known = np.isfinite(image)
        seen = sample_linear(known.astype(np.float32), between, shape, outside=0.0) >= 0.5
        values = SplineImages([filled(image, known)], between, shape, movable=True).sample()[0]
        total[seen] += values[seen]
        count += seen
    with np.errstate(invalid="ignore"):
        total /= count
    return total.reshape(shape), count.reshape(shape)


def _agreement(visits: list[_Visit], matrices: Float64) -> Float64:
    """Return how the fine detail of each visit correlates with that of the mean of the others; NaN for a single one."""
    if len(visits) == 1:
        return np.full(1, np.nan)
    affine, shape = _grid(visits, matrices, min(float(voxel_sizes(v.affine).min()) for v in visits))
    seen = [visit.at(matrix, affine, shape) for visit, matrix in zip(visits, matrices, strict=True)]
    inside = np.all([known for _, known in seen], axis=0)
    if not inside.any():
        return np.zeros(len(visits))
    narrow, wide = (mm / voxel_sizes(affine) for mm in DETAIL_MM)
    detail = []
    for values, _ in seen:
        image = values.reshape(shape)
        band = ndimage.gaussian_filter(image, narrow) - ndimage.gaussian_filter(image, wide)
        detail.append(band.reshape(-1)[inside].astype(np.float64))
    total = np.sum(detail, axis=0)
    return np.array([np.corrcoef(own, total - own)[0, 1] for own in detail])


def _flags(agreement: Float64) -> tuple[str, ...]:
    whose = "one of the two is of another person" if agreement.size == 2 else "it is of another person"
    return tuple(
        ""
        if not value < LEAST_AGREEMENT
        else f"expected fine detail that correlates with the other visits by {LEAST_AGREEMENT:g} or more, found "
        f"{value:.2f}: {whose}, or was spoilt by movement. Look at the visits."
        for value in agreement
    )


def _report(
    matrices: Float64,
    affine: Float64,
    shape: tuple[int, int, int],
    agreement: Float64,
) -> dict[str, Any]:
    centre = (affine @ [*((n - 1) / 2.0 for n in shape), 1.0])[:3]
    rows = []
    for matrix, value in zip(matrices, agreement, strict=True):
        shift, turn = rigid_parameters(matrix, centre)
        rows.append(
            {
                "translation_mm": [round(float(x), 4) for x in shift],
                "rotation_deg": [round(float(x), 4) for x in turn],
                "agreement": None if np.isnan(value) else round(float(value), 4),
            }
        )
    return {"visits": rows}
