"""Where signal of a moved and distorted head is seen, voxel by voxel, compiled.

A point x of the reference (voxels) lies at ``u = V x`` in the scanner's voxels and is seen at ``u + d(u) a``, a being
the phase-encode axis and

    d = k (f(x) + e(u)),    J = 1 + dd/du_a,    k = sign readout_s,

with the static field f, which goes with the head, and the field e of the eddy currents, which stays with the scanner.
Signal is conserved: what is seen is ``value(x) / J``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from voxcloud.space.bspline_kernels import weigh
from voxcloud.space.relation_kernels import value_and_gradient

# Terms of the field: x, y, z, x2, y2, z2, xy, xz, yz.
TERMS = 9
RIGID = 6
# Steps of Newton's method to where signal seen at a voxel comes from; the second is exact to 1e-3 voxels as a rule.
STEPS = 3
# Less room than this is left to signal where the field folds space over; there is nothing to be learned there.
LEAST_ROOM = 0.2
# Of a voxel beyond the centres of the outermost ones: the field of view reaches that far.
EDGE = 0.5
# Sums of a slice: voxels, residual, its square, its size, observed signal.
SUMS = 5


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _along(c: Any, x: float, y: float, z: float, a: Any) -> Any:
    """Return the derivative of the eddy-current field along a."""
    return (
        (c[0] + 2.0 * c[3] * x + c[6] * y + c[7] * z) * a[0]
        + (c[1] + 2.0 * c[4] * y + c[6] * x + c[8] * z) * a[1]
        + (c[2] + 2.0 * c[5] * z + c[7] * x + c[8] * y) * a[2]
    )


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _eddy(c: Any, x: float, y: float, z: float) -> Any:
    return (
        c[0] * x
        + c[1] * y
        + c[2] * z
        + c[3] * x * x
        + c[4] * y * y
        + c[5] * z * z
        + c[6] * x * y
        + c[7] * x * z
        + c[8] * y * z
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _linear(field: Any, x: float, y: float, z: float) -> Any:
    """Return the trilinear value, beyond the edge that of the edge."""
    nx, ny, nz = field.shape
    x, y, z = min(max(x, 0.0), nx - 1.001), min(max(y, 0.0), ny - 1.001), min(max(z, 0.0), nz - 1.001)
    i, j, k = int(x), int(y), int(z)
    p, q, r = x - i, y - j, z - k
    lower = (1 - q) * ((1 - r) * field[i, j, k] + r * field[i, j, k + 1])
    lower += q * ((1 - r) * field[i, j + 1, k] + r * field[i, j + 1, k + 1])
    upper = (1 - q) * ((1 - r) * field[i + 1, j, k] + r * field[i + 1, j, k + 1])
    upper += q * ((1 - r) * field[i + 1, j + 1, k] + r * field[i + 1, j + 1, k + 1])
    return (1 - p) * lower + p * upper


@njit(cache=True, nogil=True, error_model="numpy")
def _value(coefficients: Any, padded: Any, size: Any, x: float, y: float, z: float, w: Any) -> Any:
    step_y = padded[2]
    step_x = padded[1] * step_y
    first = weigh(x, size[0], w[0]) * step_x + weigh(y, size[1], w[1]) * step_y + weigh(z, size[2], w[2])
    total = np.float32(0.0)
    for a in range(4):
        plane = np.float32(0.0)
        for b in range(4):
            o = first + a * step_x + b * step_y
            plane += w[1, b] * (
                w[2, 0] * coefficients[o]
                + w[2, 1] * coefficients[o + 1]
                + w[2, 2] * coefficients[o + 2]
                + w[2, 3] * coefficients[o + 3]
            )
        total += w[0, a] * plane
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def pull(
    coefficients: Any,
    padded: Any,
    size: Any,
    forward: Any,
    place: Any,
    axis: int,
    scale: float,
    field: Any,
    slope: Any,
    eddy: Any,
    origin: Any,
    out: Any,
    seen: Any,
) -> None:
    """Bring an observed volume to the reference, with the Jacobian.

    Parameters
    ----------
    coefficients, padded, size : spline of the observed volume.
    forward : (3, 4), reference voxel to scanner voxel.
    place : (3, 4), scanner voxel to position in units of the eddy-current terms.
    axis, scale : of phase encoding, and k in voxels per Hz.
    field, slope : (x, y, z) in Hz and its change per scanner voxel along the axis; of size 0 without a field.
    eddy : (9,) Hz.
    origin : of the box that is wanted.
    out, seen : the box, filled: values, and whether the place was inside the field of view (0 where it was not).
    """
    w = np.empty((3, 4), np.float32)
    u = np.empty(3)
    along = place[:, axis]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x, y, z = i + origin[0], j + origin[1], k + origin[2]
                for r in range(3):
                    u[r] = forward[r, 0] * x + forward[r, 1] * y + forward[r, 2] * z + forward[r, 3]
                px = place[0, 0] * u[0] + place[0, 1] * u[1] + place[0, 2] * u[2] + place[0, 3]
                py = place[1, 0] * u[0] + place[1, 1] * u[1] + place[1, 2] * u[2] + place[1, 3]
                pz = place[2, 0] * u[0] + place[2, 1] * u[1] + place[2, 2] * u[2] + place[2, 3]
                hertz, rise = _eddy(eddy, px, py, pz), _along(eddy, px, py, pz, along)
                if field.size:
                    hertz += field[x, y, z]
                    rise += slope[x, y, z]
                u[axis] += scale * hertz
                room = max(1.0 + scale * rise, 0.0)
                inside = True
                for r in range(3):
                    inside = inside and -EDGE <= u[r] <= size[r] - 1 + EDGE
                seen[i, j, k] = inside
                out[i, j, k] = room * _value(coefficients, padded, size, u[0], u[1], u[2], w) if inside else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _source(
    u: Any, backward: Any, place: Any, axis: int, scale: float, field: Any, slope: Any, eddy: Any, x: Any
) -> float:
    """Move u, a scanner voxel, to where its signal comes from, write the reference voxel to x and return J."""
    seen, room = u[axis], 1.0
    along = place[:, axis]
    for step in range(STEPS + 1):
        for r in range(3):
            x[r] = backward[r, 0] * u[0] + backward[r, 1] * u[1] + backward[r, 2] * u[2] + backward[r, 3]
        px = place[0, 0] * u[0] + place[0, 1] * u[1] + place[0, 2] * u[2] + place[0, 3]
        py = place[1, 0] * u[0] + place[1, 1] * u[1] + place[1, 2] * u[2] + place[1, 3]
        pz = place[2, 0] * u[0] + place[2, 1] * u[1] + place[2, 2] * u[2] + place[2, 3]
        hertz, rise = _eddy(eddy, px, py, pz), _along(eddy, px, py, pz, along)
        if field.size:
            hertz += _linear(field, x[0], x[1], x[2])
            rise += _linear(slope, x[0], x[1], x[2])
        room = max(1.0 + scale * rise, LEAST_ROOM)
        if step < STEPS:
            u[axis] -= (u[axis] + scale * hertz - seen) / room
    return room


@njit(cache=True, nogil=True, error_model="numpy")
def push(
    coefficients: Any,
    padded: Any,
    size: Any,
    corner: Any,
    backward: Any,
    place: Any,
    axis: int,
    scale: float,
    field: Any,
    slope: Any,
    eddy: Any,
    intensity: float,
    out: Any,
) -> None:
    """Write what of an image in the reference would be seen in a volume; voxels without a source stay as they are.

    Parameters
    ----------
    coefficients, padded, size, corner : spline of the image on a box of the reference, and the box's first voxel.
    backward : (3, 4), scanner voxel to reference voxel.
    intensity : factor of the volume.
    out : (x, y, z), filled.
    """
    w = np.empty((3, 4), np.float32)
    u, x = np.empty(3), np.empty(3)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                u[0], u[1], u[2] = i, j, k
                room = _source(u, backward, place, axis, scale, field, slope, eddy, x)
                inside = True
                for r in range(3):
                    x[r] -= corner[r]
                    inside = inside and -EDGE <= x[r] <= size[r] - 1 + EDGE
                if inside:
                    out[i, j, k] = intensity / room * _value(coefficients, padded, size, x[0], x[1], x[2], w)


@njit(cache=True, nogil=True, error_model="numpy")
def mark(
    mask: Any,
    backward: Any,
    place: Any,
    axis: int,
    scale: float,
    field: Any,
    slope: Any,
    eddy: Any,
    stride: Any,
    out: Any,
) -> None:
    """Mark voxels of a volume, some apart, whose signal comes from a mask of the reference; ``out`` is (x, y, z)."""
    u, x = np.empty(3), np.empty(3)
    for i in range(0, out.shape[0], stride[0]):
        for j in range(0, out.shape[1], stride[1]):
            for k in range(0, out.shape[2], stride[2]):
                u[0], u[1], u[2] = i, j, k
                _source(u, backward, place, axis, scale, field, slope, eddy, x)
                inside = True
                for r in range(3):
                    inside = inside and -EDGE <= x[r] < mask.shape[r] - 1 + EDGE
                out[i, j, k] = inside and mask[int(x[0] + 0.5), int(x[1] + 0.5), int(x[2] + 0.5)]


@njit(cache=True, nogil=True, error_model="numpy")
def _rigid_row(row: Any, g: Any, arm: Any) -> None:
    """Write the derivatives by shifts and turns of the head, for a gradient g and a place along the scanner's axes."""
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        row[a] = -g[a]
        row[3 + a] = -(arm[b] * g[c] - arm[c] * g[b])


@njit(cache=True, nogil=True, error_model="numpy")
def _eddy_row(
    row: Any, terms: int, place: Any, axis: int, x: float, y: float, z: float, g: Any, moved: float, thinned: float
) -> None:
    """Write the derivatives by eddy terms: the source moves by ``moved`` along the axis, and signal is thinned out."""
    a, b, c = place[0, axis], place[1, axis], place[2, axis]
    pulled = moved * (g[0] * a + g[1] * b + g[2] * c)
    row[RIGID], row[RIGID + 1], row[RIGID + 2] = (
        pulled * x + thinned * a,
        pulled * y + thinned * b,
        pulled * z + thinned * c,
    )
    if terms > 3:
        row[RIGID + 3] = pulled * x * x + thinned * 2.0 * x * a
        row[RIGID + 4] = pulled * y * y + thinned * 2.0 * y * b
        row[RIGID + 5] = pulled * z * z + thinned * 2.0 * z * c
        row[RIGID + 6] = pulled * x * y + thinned * (x * b + y * a)
        row[RIGID + 7] = pulled * x * z + thinned * (x * c + z * a)
        row[RIGID + 8] = pulled * y * z + thinned * (y * c + z * b)


@njit(cache=True, nogil=True, error_model="numpy")
def _seen_at(scale_to: Any, gx: float, gy: float, gz: float, factor: float, g: Any) -> None:
    """Write the gradient along the scanner's axes."""
    for r in range(3):
        g[r] = factor * (scale_to[r, 0] * gx + scale_to[r, 1] * gy + scale_to[r, 2] * gz)


@njit(cache=True, nogil=True, error_model="numpy")
def _add(row: Any, weight: float, residual: float, normal: Any, right: Any) -> None:
    """Add a voxel to the normal equations."""
    for p in range(row.size):
        scaled = weight * row[p]
        right[p] += scaled * residual
        for q in range(p + 1):
            normal[p, q] += scaled * row[q]


@njit(cache=True, nogil=True, error_model="numpy")
def _count(part: Any, residual: float, expected: float) -> None:
    """Add a voxel to the sums of its slice."""
    part[0] += 1.0
    part[1] += residual
    part[2] += residual * residual
    part[3] += abs(residual)
    part[4] += expected


@njit(cache=True, nogil=True, error_model="numpy")
def compare(
    observed: Any,
    coefficients: Any,
    padded: Any,
    size: Any,
    corner: Any,
    counted: Any,
    backward: Any,
    place: Any,
    to_scanner: Any,
    unit: float,
    axis: int,
    scale: float,
    field: Any,
    slope: Any,
    eddy: Any,
    terms: int,
    intensity: float,
    slice_axis: int,
    weights: Any,
    stride: Any,
    limit: float,
    normal: Any,
    right: Any,
    sums: Any,
) -> float:
    """Compare a volume with its prediction and add up the normal equations of a Gauss-Newton step.

    Parameters are, in this order: shifts along the scanner's axes (mm), turns about the origin of positions
    (radians times ``unit``), ``terms`` of the eddy-current field (Hz), and the intensity.

    Parameters
    ----------
    observed : (x, y, z).
    coefficients, padded, size, corner : spline of the prediction on a box of the reference, and its first voxel.
    counted : (x, y, z), which voxels of the volume count.
    backward, place : (3, 4), as for ``push``.
    to_scanner : (3, 3), gradient per reference voxel to gradient per mm along the scanner's axes.
    unit : of positions, mm.
    slice_axis, weights : axis of slices and a weight for each of them; those of 0 are compared but do not count.
    stride : (3,), of the voxels compared.
    limit : residuals beyond it count by their size, not its square.
    normal, right : (parameters, parameters) lower triangle, and (parameters,); added to.
    sums : (slices, 5), added to.

    Returns
    -------
    The sum of Huber's function of the residuals.
    """
    w = np.empty((6, 4), np.float32)
    (u, x, g, arm), at = np.empty((4, 3)), np.empty(3, np.int64)
    n = RIGID + terms + 1
    row = np.empty(n)
    cost = 0.0
    for i in range(0, observed.shape[0], stride[0]):
        for j in range(0, observed.shape[1], stride[1]):
            for k in range(0, observed.shape[2], stride[2]):
                at[0], at[1], at[2] = i, j, k
                if not counted[i, j, k]:
                    continue
                u[0], u[1], u[2] = i, j, k
                room = _source(u, backward, place, axis, scale, field, slope, eddy, x)
                inside = True
                for r in range(3):
                    inside = inside and 1.0 <= x[r] - corner[r] < size[r] - 2
                if not inside:
                    continue
                value, gx, gy, gz = value_and_gradient(
                    coefficients, padded, size, x[0] - corner[0], x[1] - corner[1], x[2] - corner[2], w
                )
                expected = value / room
                residual = observed[i, j, k] - intensity * expected
                _count(sums[at[slice_axis]], residual, intensity * expected)
                weight = weights[at[slice_axis]]
                if weight == 0.0:
                    continue
                magnitude = abs(residual)
                if magnitude > limit:
                    cost += weight * limit * (magnitude - 0.5 * limit)
                    weight *= limit / magnitude
                else:
                    cost += weight * 0.5 * residual * residual
                if normal.size == 0:
                    continue
                _seen_at(to_scanner, gx, gy, gz, intensity / room, g)
                px = place[0, 0] * u[0] + place[0, 1] * u[1] + place[0, 2] * u[2] + place[0, 3]
                py = place[1, 0] * u[0] + place[1, 1] * u[1] + place[1, 2] * u[2] + place[1, 3]
                pz = place[2, 0] * u[0] + place[2, 1] * u[1] + place[2, 2] * u[2] + place[2, 3]
                arm[0], arm[1], arm[2] = px, py, pz
                _rigid_row(row, g, arm)
                if terms:
                    _eddy_row(
                        row,
                        terms,
                        place,
                        axis,
                        px,
                        py,
                        pz,
                        g,
                        -scale / room * unit,
                        -scale / room * intensity * expected,
                    )
                row[n - 1] = expected
                _add(row, weight, residual, normal, right)
    return cost


@njit(cache=True, nogil=True, error_model="numpy")
def look(coefficients: Any, padded: Any, size: Any, matrix: Any, voxels: Any, values: Any, gradients: Any) -> None:
    """Write value and gradient (per voxel of the image) of a spline at voxels of another grid; NaN near edges.

    Parameters
    ----------
    matrix : (3, 4), from voxels of the other grid.
    voxels : (n, 3).
    values, gradients : (n,) and (n, 3), filled.
    """
    w = np.empty((6, 4), np.float32)
    x = np.empty(3)
    for v in range(len(voxels)):
        inside = True
        for r in range(3):
            x[r] = matrix[r, 3]
            for c in range(3):
                x[r] += matrix[r, c] * voxels[v, c]
            inside = inside and 1.0 <= x[r] < size[r] - 2
        values[v] = np.nan
        if inside:
            values[v], gradients[v, 0], gradients[v, 1], gradients[v, 2] = value_and_gradient(
                coefficients, padded, size, x[0], x[1], x[2], w
            )
