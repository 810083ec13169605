"""Rigid movement between two EPI images whose field is known, and one image as it would be had the head not moved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import ndimage

from voxcloud.space import lines

Float64 = npt.NDArray[np.float64]

MOST_STEPS = 12
MOST_HALVINGS = 6
# A step of the registration (mm over the head) below which it has arrived.
SMALLEST_STEP_MM = 2e-3
MOST_POINTS = 150_000
# Residuals beyond this many SD (by the median) count by their size, not its square: eyes, pulsation, lost signal.
HUBER = 1.5
# Of the space that a voxel takes after distortion: where less is left, signal of several places lies together.
LEAST_ROOM = 0.1
# Scale of the polynomials, about the radius of a head.
RADIUS_MM = 70.0


@dataclass(frozen=True)
class Place:
    """A movement in mm along the axes of the grid: ``x -> turn (x - centre) + centre + shift``."""

    turn: Float64
    shift: Float64
    centre: Float64
    sizes: Float64

    def matrix(self) -> Float64:
        """Return (4, 4), mm to mm along the grid's axes."""
        found = np.eye(4)
        found[:3, :3] = self.turn
        found[:3, 3] = self.centre + self.shift - self.turn @ self.centre
        return found

    def of_voxels(self) -> Float64:
        """The same from voxels to voxels."""
        scale = np.diag([*self.sizes, 1.0])
        return np.asarray(np.linalg.inv(scale) @ self.matrix() @ scale)

    def numbers(self) -> Float64:
        """Return shift and rotation vector, both in mm at the rim of a head."""
        u = 0.5 * np.array([self.turn[2, 1], self.turn[0, 2], self.turn[1, 0]])
        u -= 0.5 * np.array([self.turn[1, 2], self.turn[2, 0], self.turn[0, 1]])
        sine = float(np.sqrt((u * u).sum()))
        angle = float(np.arctan2(sine, 0.5 * (np.trace(self.turn) - 1.0)))
        return np.concatenate([self.shift, u * RADIUS_MM * (angle / sine if sine > 1e-14 else 1.0)])

    def at(self, numbers: Float64) -> Place:
        """Return the place that has these ``numbers``."""
        return replace(self, shift=numbers[:3].copy(), turn=_rotation(numbers[3:] / RADIUS_MM))

    def moved(self, turn: Float64, shift: Float64) -> Place:
        """Return the place after a further turn (rotation vector, rad) about the head's centre, and a shift (mm)."""
        return replace(self, turn=_rotation(turn) @ self.turn, shift=self.shift + shift)


@dataclass(frozen=True)
class Images:
    """Spline coefficients of both (blurred) images, phase axis and voxel sizes."""

    plus: Float64
    minus: Float64
    axis: int
    sizes: Float64


@dataclass(frozen=True)
class Points:
    """Places in the undistorted head: voxels (3, m), displacement there and its slopes (per mm), polynomials."""

    voxels: Float64
    moved: Float64
    slopes: Float64
    polynomials: Float64
    polynomial_slopes: Float64 = field(repr=False)


def splines(plus: Float64, minus: Float64, axis: int, sizes: Float64, sigma_mm: float = 0.0) -> Images:
    """Return both images, blurred by a Gaussian, as splines."""
    if sigma_mm > 0:
        plus, minus = (ndimage.gaussian_filter(image, sigma_mm / sizes, mode="nearest") for image in (plus, minus))
    return Images(_spline(plus), _spline(minus), axis, sizes)


def _spline(image: npt.NDArray[Any]) -> Float64:
    return np.asarray(ndimage.spline_filter(image, 3, mode="mirror"), dtype=np.float64)


def _read(coefficients: Float64, voxels: Float64) -> Float64:
    """Return the spline's values at voxels (3, m); beyond the rim those of the rim."""
    within = np.clip(voxels, 0.0, np.array(coefficients.shape, dtype=np.float64)[:, None] - 1.0)
    return np.asarray(ndimage.map_coordinates(coefficients, within, order=3, mode="mirror", prefilter=False))


def find_points(voxels: Float64, moved: Float64, centre: Float64, sizes: Float64, axis: int) -> Points:
    """Read the displacement and the polynomials up to second order at a thinned set of voxels."""
    thin = voxels[:, :: 1 + voxels.shape[1] // MOST_POINTS]
    at = tuple(thin.astype(np.intp))
    slopes = np.stack([np.gradient(moved, axis=a)[at] * sizes[axis] / sizes[a] for a in range(3)])
    place = (thin * sizes[:, None] - centre[:, None]) / RADIUS_MM
    one, zero = np.ones(thin.shape[1]), np.zeros(thin.shape[1])
    values, gradients = [one], [np.stack([zero, zero, zero])]
    for a in range(3):
        values.append(place[a])
        gradients.append(np.stack([one if b == a else zero for b in range(3)]))
    for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        values.append(place[a] * place[b])
        gradients.append(np.stack([(c == a) * place[b] + (c == b) * place[a] for c in range(3)]))
    per_mm = np.stack(gradients) * sizes[axis] / RADIUS_MM
    return Points(thin, moved[at], slopes, np.stack(values), per_mm)


def register(images: Images, points: Points, start: Place) -> Place:
    """Find the movement by Gauss-Newton, together with a gain and a smooth addition to the field."""
    n_field = points.polynomials.shape[0]
    place, addition, gain = start, np.zeros(n_field), 1.0
    across = [a for a in range(3) if a != images.axis]
    radius = float(np.sqrt(((points.voxels * images.sizes[:, None] - start.centre[:, None]) ** 2).mean()))
    residual, slopes = _residual(images, points, place, addition, gain)
    limit = _limit(residual)
    cost = _cost(residual, limit)
    for _ in range(MOST_STEPS):
        weights = np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-300))
        weighted = slopes * weights
        # einsum adds in one order; a threaded matrix product need not.
        curvature, slope = np.einsum("im,jm->ij", weighted, slopes), np.einsum("im,m->i", weighted, residual)
        curvature[np.diag_indices_from(curvature)] *= 1.0 + 1e-6
        step = -np.linalg.solve(curvature, slope)
        length = 1.0
        for _ in range(MOST_HALVINGS):
            shift = np.zeros(3)
            shift[across] = length * step[:2]
            trial = (
                place.moved(length * step[2:5], shift),
                addition + length * step[5 : 5 + n_field],
                gain + length * step[-1],
            )
            found, new_slopes = _residual(images, points, *trial)
            if _cost(found, limit) < cost:
                break
            length *= 0.5
        else:
            return place
        (place, addition, gain), residual, slopes, cost = trial, found, new_slopes, _cost(found, limit)
        if length * (np.abs(step[:2]).max() + radius * np.abs(step[2:5]).max()) < SMALLEST_STEP_MM:
            break
    return place


def _limit(residual: Float64) -> float:
    return max(HUBER * 1.4826 * float(np.median(np.abs(residual))), 1e-12)


def _cost(residual: Float64, limit: float) -> float:
    size = np.abs(residual)
    return float(np.where(size <= limit, 0.5 * size * size, limit * (size - 0.5 * limit)).sum())


def _residual(images: Images, points: Points, place: Place, addition: Float64, gain: float) -> tuple[Float64, Float64]:
    """Return P - gain N, both undistorted, at the points (m,), and its slopes (parameters, m).

    Parameters: shifts across the phase axis (mm), turns (rad) about the grid's axes, additions to the field, gain.
    """
    axis = images.axis
    moved = points.moved + addition @ points.polynomials
    along = points.slopes + np.tensordot(addition, points.polynomial_slopes, 1)
    unit = np.zeros((3, 1))
    unit[axis] = 1.0
    here = points.voxels + unit * moved
    turned = place.turn @ (points.voxels * images.sizes[:, None] - place.centre[:, None])
    there = (turned + (place.centre + place.shift)[:, None]) / images.sizes[:, None] - unit * moved
    room, moved_room = 1.0 + along[axis], 1.0 - place.turn[axis] @ along
    read = np.empty((2, 4, here.shape[1]))
    _read_slopes(images.plus, here, read[0])
    _read_slopes(images.minus, there, read[1])
    p, p_slope, n, n_slope = read[0, 0], read[0, 1 + axis], read[1, 0], read[1, 1:]
    per_mm = gain * moved_room * n_slope / images.sizes[:, None]
    by_turn = gain * n * np.cross(place.turn @ along, unit, axis=0) - np.cross(turned, per_mm, axis=0)
    by_field = points.polynomials * (room * p_slope + gain * moved_room * n_slope[axis])
    by_field += points.polynomial_slopes[:, axis] * p
    by_field += gain * n * np.tensordot(points.polynomial_slopes, place.turn[axis], (1, 0))
    across = [a for a in range(3) if a != axis]
    slopes = np.concatenate([-per_mm[across], by_turn, by_field, -(moved_room * n)[None]])
    # Of what has left the image nothing is known.
    within = _within(there, np.array(images.minus.shape), 0.0)
    return np.where(within, room * p - gain * moved_room * n, 0.0), slopes * within


@njit(cache=True, nogil=True)
def _read_slopes(coefficients: Any, places: Any, out: Any) -> None:
    """Write the cubic spline's value and its slopes per voxel at places (3, m) to out (4, m); the rim goes on outside.

    coefficients : (x, y, z), of samples mirrored at both ends; every axis has two or more.
    """
    weights, slopes = np.empty((3, 4)), np.empty((3, 4))
    index = np.empty((3, 4), np.int64)
    for m in range(places.shape[1]):
        for a in range(3):
            n = coefficients.shape[a]
            p = min(max(places[a, m], 0.0), n - 1.0)
            k = min(int(p), n - 2)
            f = p - k
            g = 1.0 - f
            weights[a, 0], weights[a, 3] = g * g * g / 6.0, f * f * f / 6.0
            weights[a, 1], weights[a, 2] = 2.0 / 3.0 - f * f * (1.0 - 0.5 * f), 2.0 / 3.0 - g * g * (1.0 - 0.5 * g)
            slopes[a, 0], slopes[a, 3] = -0.5 * g * g, 0.5 * f * f
            slopes[a, 1], slopes[a, 2] = f * (1.5 * f - 2.0), g * (2.0 - 1.5 * g)
            for w in range(4):
                index[a, w] = lines.mirror(k - 1 + w, n)
                if not 0.0 < places[a, m] < n - 1.0:
                    slopes[a, w] = 0.0
        value, by_x, by_y, by_z = 0.0, 0.0, 0.0, 0.0
        for i in range(4):
            for j in range(4):
                total, total_z = 0.0, 0.0
                for k in range(4):
                    c = coefficients[index[0, i], index[1, j], index[2, k]]
                    total += weights[2, k] * c
                    total_z += slopes[2, k] * c
                value += weights[0, i] * weights[1, j] * total
                by_x += slopes[0, i] * weights[1, j] * total
                by_y += weights[0, i] * slopes[1, j] * total
                by_z += weights[0, i] * weights[1, j] * total_z
        out[0, m], out[1, m], out[2, m], out[3, m] = value, by_x, by_y, by_z


def _rotation(turn: Float64) -> Float64:
    """Return the rotation about an axis by its length in rad (Rodrigues)."""
    angle = float(np.sqrt((turn * turn).sum()))
    if angle < 1e-14:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross)


def as_if_unmoved(images: Images, moved: Float64, place: Place) -> Float64:
    """Return the negative image as it would be had the head not moved, by the field known so far.

    What is seen at z belongs at x, ``x - d(x) e = z``, and is seen in the negative image at ``z + M x - x``, in other
    proportion if the head turned: ``N'(z) = N(z + M x - x) (1 - d'_M) / (1 - d')``. What lies beyond the negative
    image is taken from the positive one, ``P(2 x - z) (1 + d') / (1 - d')``, and so does not tell of the field.

    Parameters
    ----------
    images : not blurred.
    moved : (x, y, z) displacement of the positive image in voxels.
    place : where the head lies in the negative image.
    """
    axis, shape = images.axis, moved.shape
    behind = np.moveaxis(moved, axis, 2)
    origin = _inverted(np.ascontiguousarray(behind).reshape(-1, shape[axis]))

    def at_origin(values: Float64) -> Float64:
        out = np.empty(origin.shape)
        along = np.ascontiguousarray(np.moveaxis(values, axis, 2))
        lines.read_linear(along.reshape(origin.shape), origin, out)
        return np.moveaxis(out.reshape(behind.shape), 2, axis).reshape(-1)

    seen = np.indices(shape).reshape(3, -1).astype(np.float64)
    x = seen.copy()
    x[axis] = np.moveaxis(origin.reshape(behind.shape), 2, axis).reshape(-1)
    matrix = place.of_voxels()
    there = seen + matrix[:3, :3] @ x + matrix[:3, 3:] - x
    slopes = np.stack([np.gradient(moved, axis=a) * images.sizes[axis] / images.sizes[a] for a in range(3)])
    room = np.maximum(at_origin(1.0 - slopes[axis]), LEAST_ROOM)
    moved_room = np.maximum(at_origin(1.0 - np.tensordot(place.turn[axis], slopes, 1)), LEAST_ROOM)
    found = _read(images.minus, there) * moved_room / room
    beyond = ~_within(there, np.array(shape), 0.5)
    positive = seen[:, beyond]
    positive[axis] = 2.0 * x[axis, beyond] - positive[axis]
    found[beyond] = _read(images.plus, positive) * (2.0 / room[beyond] - 1.0)
    return np.maximum(found, 0.0).reshape(shape)


def _within(places: Float64, shape: npt.NDArray[np.int_], rim: float) -> npt.NDArray[np.bool_]:
    return np.asarray(((places >= -rim) & (places <= shape[:, None] - 1.0 + rim)).all(axis=0))


def _inverted(moved: Float64) -> Float64:
    """Return x with x - d(x) = z for every z of the lines (lines, n); beyond the ends d is that of the end."""
    n = moved.shape[1]
    out, z = np.empty(moved.shape), np.arange(n, dtype=np.float64)
    far = np.concatenate([[-float(n)], z, [2.0 * n]])
    for line, found in zip(moved, out, strict=True):
        seen = far - np.concatenate([line[:1], line, line[-1:]])
        # Increasing where nothing folds, which the barrier of the estimate sees to.
        found[:] = np.interp(z, np.maximum.accumulate(seen), far)
    return out
