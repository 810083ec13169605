"""Fibres of the simulated head: curved bundles, and how the fibres at a point are spread over directions.

Orientation is kept as the mean of ``t t'`` over the fibres' tangents t: M, (3, 3), symmetric, with trace 1. It is
``v v'`` where all fibres run along v, and flatter where bundles meet or end. Unlike vectors, such matrices can be
interpolated and averaged without regard to sign. Positions are in mm from the middle of the brain, RAS+.

No fibre here was traced in anybody: bundles are curves with the course of known ones (arcs across the midline with
forceps, arches and belts from front to back, fans from the brain stem), bent along the sheets of white matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from voxcloud.testing.fields import FWHM_TO_SIGMA, Float32, Float64
from voxcloud.testing.raw_head import HeadTissues
from voxcloud.testing.raw_sampling import sample_spline
from voxcloud.testing.raw_tissue import TISSUES

FIELD_MM = (172.0, 212.0, 180.0)  # sides of the box with fibres: a brain
STEP_MM = 1.5
BUNDLE_FWHM_MM, FAR_FWHM_MM = 5.0, 26.0
# Of the density inside a bundle: what fibres far away contribute everywhere, and what runs in all directions alike.
FAR_PART, ISOTROPIC_PART = 0.05, 0.10
# White matter between grey is a sheet some mm thick: its normal is seen over so many mm, and fibres avoid it.
SHEET_FWHM_MM, SHEET_STRENGTH = 6.0, 0.9
LEAST_SLOPE = 1e-4  # (1/mm)^2; where white matter fills more than this distance there is no sheet
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Order of the six elements: xx, yy, zz, xy, xz, yz."""


@dataclass(frozen=True)
class FibreField:
    """Mean orientation of the fibres as spline coefficients.

    Attributes
    ----------
    coefficients
        (x, y, z, 6) in the order of ``PAIRS``; the first three add up to 1.
    origin_mm, spacing_mm
        Place of the first coefficient and distance of two, from the middle of the brain.
    """

    coefficients: Float32
    origin_mm: Float64
    spacing_mm: float

    def knots(self, points_mm: Float64) -> Float64:
        """Return positions (point, 3) in voxels of the coefficients; points are from the middle of the brain."""
        return np.asarray((points_mm - self.origin_mm) / self.spacing_mm)

    def points_mm(self) -> Float64:
        """Return where the coefficients are, (point, 3), from the middle of the brain."""
        return np.indices(self.coefficients.shape[:3]).reshape(3, -1).T * self.spacing_mm + self.origin_mm

    def order(self) -> Float32:
        """Return coefficients (x, y, z) of the sum of the squares of the elements of M."""
        square = self.coefficients**2
        return np.asarray(square[..., :3].sum(axis=-1) + 2.0 * square[..., 3:].sum(axis=-1), dtype=np.float32)

    def along(self, direction: Float64) -> Float32:
        """Return coefficients (x, y, z) of ``g' M g`` for a unit vector g, (3,)."""
        out = np.zeros(self.coefficients.shape[:3], dtype=np.float32)
        for k, (a, b) in enumerate(PAIRS):
            out += np.float32(direction[a] * direction[b] * (1.0 if a == b else 2.0)) * self.coefficients[..., k]
        return out


def _callosal() -> Iterator[Float64]:
    """Yield arcs from one side over the midline to the other, that rise to the cortex; in front and behind, forceps."""
    x = np.linspace(-52.0, 52.0, 90)
    bent = (x / 45.0) ** 2
    for y in np.linspace(-42.0, 46.0, 23):
        forceps = 34.0 * np.sign(y) * max(0.0, (abs(y) - 22.0) / 24.0)
        low = 16.0 - 14.0 * (y / 46.0) ** 2
        for rise in (14.0, 26.0, 40.0, 58.0):
            yield np.stack([x, y + forceps * bent, low + rise * (1.0 - 0.6 * abs(y) / 46.0) * bent], axis=1)


def _association() -> Iterator[Float64]:
    """Yield long fibres from front to back: arches over the insula, belts over the callosum, and low straight ones."""
    for side in (-1.0, 1.0):
        turn = np.deg2rad(np.linspace(25.0, 290.0, 130))
        for at in (36.0, 40.0, 44.0):
            for size in (0.85, 1.0, 1.15):
                y, z = -4.0 + 46.0 * size * np.cos(turn), 2.0 + 26.0 * size * np.sin(turn)
                yield np.stack([side * (at - 4.0 * np.cos(turn)), y, z], axis=1)
        belt = np.deg2rad(np.linspace(-20.0, 215.0, 100))
        for at in (8.0, 11.0):
            yield np.stack(
                [np.full_like(belt, side * at), 2.0 + 48.0 * np.cos(belt), 4.0 + 25.0 * np.sin(belt)], axis=1
            )
        t = np.linspace(-1.0, 1.0, 100)
        for at, height in ((30.0, -16.0), (34.0, -20.0), (38.0, -24.0)):
            yield np.stack([side * (at + 4.0 * t), -10.0 + 66.0 * t, height + 8.0 * t * t], axis=1)


def _projection() -> Iterator[Float64]:
    """Yield fans from the brain stem through the internal capsule up to the cortex."""
    t = np.linspace(0.0, 1.0, 90)[:, None]
    for side in (-1.0, 1.0):
        for y in np.linspace(-56.0, 52.0, 15):
            for x in (20.0, 32.0, 44.0):
                start = np.array([side * 7.0, -12.0 + 0.08 * y, -66.0])
                middle = np.array([side * 22.0, 2.0 + 0.1 * y, 2.0])
                end = np.array([side * x, y, 56.0 - 0.008 * y * y])
                yield (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t * t * end


def _cerebellar() -> Iterator[Float64]:
    """Yield arcs from one half of the cerebellum around the brain stem to the other."""
    turn = np.deg2rad(np.linspace(-20.0, 200.0, 70))
    for height in (-50.0, -44.0, -38.0):
        for size in (0.8, 1.0):
            yield np.stack(
                [26.0 * size * np.cos(turn), -34.0 + 28.0 * size * np.sin(turn), np.full_like(turn, height)], axis=1
            )


def tangents(curve: Float64) -> tuple[Float64, Float64]:
    """Return points (n, 3) every 1.5 mm along a curve and unit tangents (n, 3) there."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.arange(0.0, length[-1], STEP_MM)
    points = np.stack([np.interp(at, length, curve[:, a]) for a in range(3)], axis=1)
    along = np.gradient(points, axis=0)
    return points, along / np.linalg.norm(along, axis=1, keepdims=True)


def fibre_field(tissues: HeadTissues, spacing_mm: float) -> FibreField:
    """Return the fibres that everybody with this head has.

    Tangents are put on a grid and blurred twice, into bundles 5 mm wide and into a wide surrounding, which gives white
    matter between bundles the direction of its neighbours, with less order; an isotropic part is added. Then
    ``M <- P M P / trace(P M P)`` with ``P = 1 - s n n'``: n is the normal of the sheet of white matter, and s is .9
    where there is one and 0 where white matter has no direction of its own, by the structure tensor, the mean of
    ``w' w`` with w the gradient of its fraction.

    Parameters
    ----------
    spacing_mm
        Distance of two coefficients.
    """
    origin, shape = _box(spacing_mm)
    places, products = [], []
    for family in (_callosal, _association, _projection, _cerebellar):
        for curve in family():
            points, along = tangents(curve)
            places.append(points)
            products.append(np.stack([along[:, a] * along[:, b] for a, b in PAIRS], axis=1))
    density = _put(np.concatenate(places), np.concatenate(products), origin, spacing_mm, shape)
    near, far = (_blurred(density, fwhm / spacing_mm) for fwhm in (BUNDLE_FWHM_MM, FAR_FWHM_MM))
    fibres = near[..., :3].sum(axis=-1)
    full = np.median(fibres[density[..., :3].sum(axis=-1) > 0])
    mean = near / np.maximum(fibres, full)[..., None]
    mean += FAR_PART * far / np.maximum(far[..., :3].sum(axis=-1), 1e-9)[..., None]
    mean[..., :3] += ISOTROPIC_PART / 3.0
    mean = _within_sheets(_full(mean), _white_matter(tissues, origin, spacing_mm, shape), spacing_mm)
    coefficients = np.stack([mean[..., a, b] for a, b in PAIRS], axis=-1).astype(np.float32)
    coefficients.setflags(write=False)
    return FibreField(coefficients, origin, spacing_mm)


def _box(spacing_mm: float) -> tuple[Float64, tuple[int, int, int]]:
    shape = [2 * round(mm / spacing_mm / 2.0) for mm in FIELD_MM]
    return np.array([-spacing_mm * (n - 1) / 2.0 for n in shape]), (shape[0], shape[1], shape[2])


def _put(points: Float64, values: Float64, origin: Float64, spacing_mm: float, shape: tuple[int, int, int]) -> Float64:
    """Share values (point, 6) among the eight grid points around each point."""
    at = (points - origin) / spacing_mm
    low = np.floor(at).astype(np.int64)
    part = at - low
    out = np.zeros((*shape, values.shape[1]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner) == 1, part, 1.0 - part), axis=1)
        i, j, k = (np.clip(low[:, a] + corner[a], 0, shape[a] - 1) for a in range(3))
        np.add.at(out, (i, j, k), weight[:, None] * values)
    return out


def _blurred(values: Float64, fwhm_voxels: float) -> Float64:
    sigma = fwhm_voxels * FWHM_TO_SIGMA
    return np.asarray(ndimage.gaussian_filter(values, (sigma, sigma, sigma, 0.0), mode="nearest", truncate=4.0))


def _white_matter(tissues: HeadTissues, origin: Float64, spacing_mm: float, shape: tuple[int, int, int]) -> Float64:
    points = np.indices(shape).reshape(3, -1).T * spacing_mm + origin + np.asarray(tissues.centre_mm)
    fractions = sample_spline(tissues.coefficients, tissues.voxels(points))
    return fractions[:, TISSUES.index("WM")].reshape(shape).astype(np.float64)


def _within_sheets(mean: Float64, white: Float64, spacing_mm: float) -> Float64:
    """Return mean orientations (x, y, z, 3, 3) of which most of what crosses a sheet of white matter is taken away."""
    slope = np.stack([np.gradient(white, spacing_mm, axis=axis) for axis in range(3)], axis=-1)
    products = np.stack([slope[..., a] * slope[..., b] for a, b in PAIRS], axis=-1)
    values, vectors = np.linalg.eigh(_full(_blurred(products, SHEET_FWHM_MM / spacing_mm)))
    normal = vectors[..., 2]
    strength = SHEET_STRENGTH * (values[..., 2] - values[..., 1]) / (values[..., 2] + LEAST_SLOPE)
    keep = np.eye(3) - strength[..., None, None] * normal[..., :, None] * normal[..., None, :]
    left = keep @ mean @ keep
    return np.asarray(left / np.trace(left, axis1=-2, axis2=-1)[..., None, None])


def _full(elements: Float64) -> Float64:
    """Return symmetric matrices (..., 3, 3) of their six elements (..., 6)."""
    out = np.empty((*elements.shape[:-1], 3, 3))
    for k, (a, b) in enumerate(PAIRS):
        out[..., a, b] = out[..., b, a] = elements[..., k]
    return out
