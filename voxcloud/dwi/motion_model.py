"""How a head moved and a field distorted it in each volume, and the step that makes a volume fit its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.dwi import motion_kernel as kernel
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.bspline import spline_coefficients
from voxcloud.space.unwarp import check_readout, phase_axis

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

EDDY_TERMS = ("x", "y", "z", "x2", "y2", "z2", "xy", "xz", "yz")
# Registration does not see the constant, which is a shift of the head to it; it is told apart at last (``offsets``).
CONSTANT = "1"
# Positions in the field of eddy currents are in units of this many mm, about the radius of a head.
RADIUS_MM = 70.0
NO_FIELD = np.zeros((0, 0, 0), np.float32)
# Residuals beyond this many standard deviations count by their size, not their square.
HUBER = 2.0
# From the mean size of residuals to their standard deviation, for a normal distribution.
MEAN_TO_SD = 1.2533
DAMPINGS = (0.0, 1e-2, 1.0, 100.0)


@dataclass(frozen=True)
class Encoding:
    """Phase encoding of a volume: the axis of the array, and voxels along it per Hz."""

    axis: int
    scale: float


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid that all volumes share, and what about it does not change.

    Attributes
    ----------
    affine : (4, 4), voxel to RAS+ mm.
    shape : (3,).
    centre : (3,), mm, about which heads turn and fields are described.
    slice_axis : of the array.
    field : (x, y, z), static field in Hz in the reference, or of size 0.
    gradient : (3, x, y, z) of it per voxel, or of size 0.
    """

    affine: Float64
    shape: tuple[int, int, int]
    centre: Float64
    slice_axis: int
    field: Float32
    gradient: Float32

    @property
    def place(self) -> Float64:
        """(3, 4), voxel to position about the centre in units of ``RADIUS_MM``."""
        found = self.affine[:3].copy()
        found[:, 3] -= self.centre
        return np.ascontiguousarray(found / RADIUS_MM)

    def forward(self, movement: Float64) -> Float64:
        """(4, 4), reference voxel to scanner voxel."""
        return np.asarray(np.linalg.inv(self.affine) @ movement @ self.affine)

    def slope(self, backward: Float64, axis: int) -> Float32:
        """Return the static field's change per scanner voxel along an axis, (x, y, z) of the reference."""
        if not self.field.size:
            return NO_FIELD
        weights = backward[:3, axis].astype(np.float32)
        return np.asarray(np.tensordot(weights, self.gradient, axes=1), dtype=np.float32)


@dataclass(eq=False)
class Motion:
    """What is estimated; changed in place.

    Attributes
    ----------
    movement : (v, 4, 4), RAS+ mm, reference to the head's place at the volume.
    eddy : (v, 9), Hz at ``RADIUS_MM``.
    intensity : (v,), factor of the volume against its prediction.
    sd : (v,), of the residual after the last comparison.
    precision : (v, p, p), information of the last comparison on shifts, turns and eddy terms (mm, mm at RADIUS_MM, Hz),
        per squared residual standard deviation.
    """

    movement: Float64
    eddy: Float64
    intensity: Float64
    sd: Float64
    precision: Float64

    @staticmethod
    def still(volumes: int) -> Motion:
        """Return a head that does not move."""
        n = kernel.RIGID + kernel.TERMS
        return Motion(
            np.tile(np.eye(4), (volumes, 1, 1)),
            np.zeros((volumes, kernel.TERMS)),
            np.ones(volumes),
            np.full(volumes, np.nan),
            np.zeros((volumes, n, n)),
        )


@dataclass(frozen=True, eq=False)
class Box:
    """A part of the reference: slices of the array."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the part."""
        a, b, c = (stop - start for start, stop in zip(self.first, self.last, strict=True))
        return a, b, c

    @property
    def slices(self) -> tuple[slice, ...]:
        """That cut it out."""
        return tuple(slice(start, stop) for start, stop in zip(self.first, self.last, strict=True))


@dataclass(frozen=True)
class Prior:
    """Expected eddy terms (n,) in Hz and their variances (n,)."""

    mean: Float64
    variance: Float64


@dataclass(frozen=True, eq=False)
class Comparison:
    """What ``compare`` found: Huber's sum, normal equations, sums per slice (``motion_kernel.SUMS``)."""

    cost: float
    normal: Float64
    right: Float64
    sums: Float64

    @property
    def sd(self) -> float:
        """Standard deviation of the residuals, little moved by few large ones."""
        count = self.sums[:, 0].sum()
        return float(MEAN_TO_SD * self.sums[:, 3].sum() / count) if count else np.nan


def bounding_box(mask: Bools, margin: int) -> Box:
    """Return the box around a mask and ``margin`` voxels more where the grid has them."""
    first, last = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first.append(max(int(hit[0]) - margin, 0))
        last.append(min(int(hit[-1]) + 1 + margin, mask.shape[axis]))
    return Box((first[0], first[1], first[2]), (last[0], last[1], last[2]))


def pull_volume(
    geometry: Geometry, encoding: Encoding, observed: Float32, movement: Float64, eddy: Float64, box: Box
) -> tuple[Float32, Bools]:
    """Return a volume in the reference, scaled by the Jacobian, on a box of it, and where it was seen."""
    coefficients, padded, size = spline_coefficients([observed])
    forward = geometry.forward(movement)
    out, seen = np.empty(box.shape, np.float32), np.empty(box.shape, np.bool_)
    kernel.pull(
        coefficients,
        padded,
        size,
        np.ascontiguousarray(forward[:3]),
        geometry.place,
        encoding.axis,
        encoding.scale,
        geometry.field,
        geometry.slope(np.asarray(np.linalg.inv(forward), np.float64), encoding.axis),
        np.ascontiguousarray(eddy),
        np.array(box.first),
        out,
        seen,
    )
    return out, seen


class Predicted:
    """An image in the reference, ready to be seen as a volume would see it."""

    def __init__(self, geometry: Geometry, box: Box, image: Float32, mask: Bools) -> None:
        self._geometry, self._mask = geometry, mask
        self._coefficients, self._padded, self._size = spline_coefficients([image])
        self._corner = np.array(box.first)

    def push(self, encoding: Encoding, motion: Motion, volume: int, out: Float32) -> None:
        """Write it as seen in a volume to ``out``; voxels without a source stay as they are."""
        backward = np.asarray(np.linalg.inv(self._geometry.forward(motion.movement[volume])), np.float64)
        kernel.push(
            self._coefficients,
            self._padded,
            self._size,
            self._corner,
            np.ascontiguousarray(backward[:3]),
            self._geometry.place,
            encoding.axis,
            encoding.scale,
            self._geometry.field,
            self._geometry.slope(backward, encoding.axis),
            np.ascontiguousarray(motion.eddy[volume]),
            float(motion.intensity[volume]),
            out,
        )

    def counted(self, encoding: Encoding, movement: Float64, eddy: Float64, stride: Sequence[int]) -> Bools:
        """Return which voxels of a volume show the mask; while a volume is fitted these stay the same."""
        geometry = self._geometry
        backward = np.asarray(np.linalg.inv(geometry.forward(movement)), np.float64)
        out = np.empty(geometry.shape, np.bool_)
        kernel.mark(
            self._mask,
            np.ascontiguousarray(backward[:3]),
            geometry.place,
            encoding.axis,
            encoding.scale,
            geometry.field,
            geometry.slope(backward, encoding.axis),
            np.ascontiguousarray(eddy),
            np.asarray(stride),
            out,
        )
        return out

    def compare(
        self,
        encoding: Encoding,
        observed: Float32,
        counted: Bools,
        movement: Float64,
        eddy: Float64,
        intensity: float,
        terms: int,
        weights: Float64,
        stride: Sequence[int],
        limit: float,
        *,
        derivatives: bool = True,
    ) -> Comparison:
        """Compare a volume with it; see ``motion_kernel.compare``."""
        geometry = self._geometry
        backward = np.asarray(np.linalg.inv(geometry.forward(movement)), np.float64)
        n = kernel.RIGID + terms + 1
        normal = np.zeros((n, n) if derivatives else (0, 0))
        right, sums = np.zeros(n), np.zeros((geometry.shape[geometry.slice_axis], kernel.SUMS))
        # Gradients along the scanner's axes: first to mm in the reference, then turned with the head.
        to_scanner = movement[:3, :3] @ np.linalg.inv(geometry.affine[:3, :3]).T
        cost = kernel.compare(
            observed,
            self._coefficients,
            self._padded,
            self._size,
            self._corner,
            counted,
            np.ascontiguousarray(backward[:3]),
            geometry.place,
            np.ascontiguousarray(to_scanner),
            RADIUS_MM,
            encoding.axis,
            encoding.scale,
            geometry.field,
            geometry.slope(backward, encoding.axis),
            np.ascontiguousarray(eddy),
            terms,
            intensity,
            geometry.slice_axis,
            weights,
            np.asarray(stride),
            limit,
            normal,
            right,
            sums,
        )
        return Comparison(float(cost), normal + np.tril(normal, -1).T, right, sums)


def fit_volume(
    predicted: Predicted,
    geometry: Geometry,
    encoding: Encoding,
    observed: Float32,
    motion: Motion,
    volume: int,
    *,
    terms: int,
    prior: Prior | None,
    weights: Float64,
    stride: Sequence[int],
    steps: int,
) -> Comparison:
    """Move a volume to its prediction by Gauss-Newton steps; ``motion`` is changed, the last comparison returned.

    Minimises ``sum h(I(u) - s p(u)) / sd^2 + sum (e - m)^2 / (2 t^2)`` with Huber's function h, the prediction p as the
    volume would see it, a factor s, and eddy terms e of prior mean m and variance t^2.
    """

    counted = predicted.counted(encoding, motion.movement[volume], motion.eddy[volume], stride)

    def look(movement: Float64, eddy: Float64, intensity: float, limit: float, derivatives: bool) -> Comparison:
        return predicted.compare(
            encoding,
            observed,
            counted,
            movement,
            eddy,
            intensity,
            terms,
            weights,
            stride,
            limit,
            derivatives=derivatives,
        )

    def penalty(eddy: Float64, variance: float) -> float:
        if prior is None or not terms:
            return 0.0
        return 0.5 * variance * float(((eddy[:terms] - prior.mean[:terms]) ** 2 / prior.variance[:terms]).sum())

    place: tuple[Float64, Float64, float] = (
        motion.movement[volume].copy(),
        motion.eddy[volume].copy(),
        float(motion.intensity[volume]),
    )
    first = look(*place, np.inf, False)
    found = first
    limit, variance = HUBER * first.sd, first.sd**2
    for _ in range(steps):
        found = look(*place, limit, True)
        before = found.cost + penalty(place[1], variance)
        for damping in DAMPINGS:
            trial = _stepped(geometry, place, found, terms, prior, variance, damping)
            if trial is None:
                continue
            if look(*trial, limit, False).cost + penalty(trial[1], variance) < before:
                place = trial
                break
        else:
            break
    motion.movement[volume], motion.eddy[volume], motion.intensity[volume] = place
    motion.sd[volume] = found.sd
    n = kernel.RIGID + terms
    motion.precision[volume] = 0.0
    motion.precision[volume, :n, :n] = _without_last(found.normal) / max(found.sd, 1e-30) ** 2
    return found


def _without_last(normal: Float64) -> Float64:
    """Return the information on all parameters but the last, the intensity, which is unknown too."""
    if normal.size == 0:
        return normal
    return np.asarray(normal[:-1, :-1] - np.outer(normal[:-1, -1], normal[-1, :-1]) / max(normal[-1, -1], 1e-30))


def _stepped(
    geometry: Geometry,
    place: tuple[Float64, Float64, float],
    found: Comparison,
    terms: int,
    prior: Prior | None,
    variance: float,
    damping: float,
) -> tuple[Float64, Float64, float] | None:
    """Return movement, eddy terms and intensity after a step; None where the images say nothing about it."""
    movement, eddy, intensity = place
    normal, right = found.normal.copy(), found.right.copy()
    n = kernel.RIGID
    if prior is not None and terms:
        where = np.arange(n, n + terms)
        normal[where, where] += variance / prior.variance[:terms]
        right[where] += variance * (prior.mean[:terms] - eddy[:terms]) / prior.variance[:terms]
    diagonal = np.diag(normal)
    if not diagonal.min() > 0:
        return None
    scale = 1.0 / np.sqrt(diagonal)
    scaled = normal * np.outer(scale, scale) + (damping + 1e-9) * np.eye(len(scale))
    step = scale * np.linalg.solve(scaled, scale * right)
    if not np.isfinite(step).all():
        return None
    turn = rigid_matrix(step[:3].tolist(), np.rad2deg(step[3:6] / RADIUS_MM).tolist(), geometry.centre.tolist())
    fields = eddy.copy()
    fields[:terms] += step[n : n + terms]
    return turn @ movement, fields, intensity + float(step[-1])


def eddy_displacement(
    eddy_hz: npt.ArrayLike,
    affine: npt.ArrayLike,
    shape: Sequence[int],
    centre_mm: npt.ArrayLike,
    phase_encoding: str,
    readout_s: float,
) -> Float64:
    """Return by how many mm eddy currents move signal along the phase-encode axis, towards higher indices.

    ``d = s readout_s size sum_m e_m p_m(r)``, s = 1 for i, j, k and -1 for i-, j-, k-, size that of a voxel along the
    axis, and p the terms 1, x, y, z, x2, y2, z2, xy, xz, yz of ``r = (position - centre) / 70 mm``, RAS+.

    Parameters
    ----------
    eddy_hz : (n_terms,), Hz: a row of ``MotionCorrected.eddy_hz``, the constant first.
    affine : (4, 4), voxel to RAS+ mm of the images.
    shape : (3,).
    centre_mm : (3,), ``MotionCorrected.eddy_centre_mm``.
    phase_encoding, readout_s : of the volume.

    Returns
    -------
    (x, y, z) in mm, at the scanner's voxels: at the place where the moved head has the signal.
    """
    to_mm = np.asarray(affine, np.float64)
    encoding = encode(phase_encoding, readout_s)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij", sparse=True)
    x, y, z = (
        (sum(to_mm[r, a] * axes[a] for a in range(3)) + to_mm[r, 3] - np.asarray(centre_mm, np.float64)[r]) / RADIUS_MM
        for r in range(3)
    )
    terms: tuple[Any, ...] = (1.0, x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    hertz = np.zeros(tuple(shape))
    coefficients = np.asarray(eddy_hz, np.float64)
    for value, term in zip(coefficients, terms[: coefficients.size], strict=True):
        hertz += value * term
    return np.asarray(encoding.scale * float(np.linalg.norm(to_mm[:3, encoding.axis])) * hertz)


def encode(phase_encoding: str, readout_s: float, name: str = "dwi") -> Encoding:
    """Return axis and voxels per Hz; see ``voxcloud.space.unwarp.displacement``."""
    check_readout(readout_s, name=name)
    phase = phase_axis(phase_encoding, name=name)
    return Encoding(phase.axis, phase.sign * readout_s)
