"""Inner loops of cubic B-splines: the recursive filter, and 64 taps for all images at once.

Coefficients lie as (x, y, z, image) in memory, the image fastest: where a voxel reads four neighbours in a row, all
images of all four are one piece of memory, and the weights are computed once for all images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

Float32 = npt.NDArray[np.float32]

# Pole of the cubic B-spline (Unser 1999, doi:10.1109/79.799930).
POLE = np.float32(np.sqrt(3.0) - 2.0)
GAIN = 6.0
# The filter forgets as POLE^n: after 16 samples less than 1e-9 is left, below what float32 resolves.
HORIZON = 16
# Columns filtered side by side along the slowest axis, in floats: 176 rows of this stay in a cache of the second level.
COLUMNS = 512
# A position this far (voxels) beyond the first or last sample is rounding, not outside.
TOLERANCE = 1e-6
# Multiplication and addition may be fused: the sum is then more exact and takes half the instructions.
FUSED = ("contract",)


def start_weights(n: int) -> Float32:
    """Return the weights of the first samples in the filter's start value, for samples mirrored about both ends."""
    pole, period = float(POLE), 2 * n - 2
    powers = pole ** np.arange(n) + pole ** (period - np.arange(n))
    powers[[0, -1]] = 1.0, pole ** (n - 1)
    return (powers / (1.0 - pole**period))[:HORIZON].astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _filter_rows(c: Any, start: Any) -> None:
    """Filter along the first axis of (n, columns), in place."""
    n, columns = c.shape
    for q in range(columns):
        first = np.float32(0.0)
        for i in range(start.size):
            first += start[i] * c[i, q]
        c[0, q] = first
    for i in range(1, n):
        before, here = c[i - 1], c[i]
        for q in range(columns):
            here[q] += POLE * before[q]
    last = POLE / (POLE * POLE - np.float32(1.0))
    for q in range(columns):
        c[n - 1, q] = last * (c[n - 1, q] + POLE * c[n - 2, q])
    for i in range(n - 2, -1, -1):
        after, here = c[i + 1], c[i]
        for q in range(columns):
            here[q] = POLE * (after[q] - here[q])


@njit(cache=True, nogil=True, error_model="numpy")
def filter_slab(c: Any, start_y: Any, start_z: Any) -> None:
    """Filter (y, z, image) along y and z, in place; an empty start leaves an axis as it is."""
    if start_y.size:
        _filter_rows(c.reshape(c.shape[0], -1), start_y)
    if start_z.size:
        for j in range(c.shape[0]):
            _filter_rows(c[j], start_z)


@njit(cache=True, nogil=True, error_model="numpy")
def filter_slowest(c: Any, start: Any) -> None:
    """Filter (x, columns) along x, in place, a few columns at a time."""
    columns = c.shape[1]
    for first in range(0, columns, COLUMNS):
        _filter_rows(c[:, first : min(first + COLUMNS, columns)], start)


def _taps(  # type: ignore[no-untyped-def]
    typing_context, coefficients, offset, stride_x, stride_y, weights_x, weights_y, weights_z, lanes, out
):
    """Write sum_abc wx[a] wy[b] wz[c] values[offset + a stride_x + b stride_y + c n + e] to out[e], for n images e.

    Written in the compiler's own terms, because numba does not turn short loops into vector instructions: as loops this
    took three times as long. ``lanes`` is a tuple of n values, so that n is known when this is compiled.
    """
    n = len(lanes)
    signature = types.void(coefficients, offset, stride_x, stride_y, weights_x, weights_y, weights_z, lanes, out)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index, lane = ir.IntType(64), ir.IntType(32)
        four, one = ir.VectorType(ir.FloatType(), 4 * n), ir.VectorType(ir.FloatType(), n)

        def data(i):  # type: ignore[no-untyped-def]
            return context.make_array(signature.args[i])(context, builder, arguments[i]).data

        def spread(value, kind, width):  # type: ignore[no-untyped-def]
            undefined = ir.Constant(kind, ir.Undefined)
            first = builder.insert_element(undefined, value, lane(0))
            return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(lane, width), [0] * width))

        def add(total, factor, values):  # type: ignore[no-untyped-def]
            product = builder.fmul(factor, values, flags=FUSED)
            return product if total is None else builder.fadd(total, product, flags=FUSED)

        wx, wy, wz = ([builder.load(builder.gep(data(i), [index(k)])) for k in range(4)] for i in (4, 5, 6))
        start, rows = data(0), None
        for a in range(4):
            plane = builder.add(arguments[1], builder.mul(arguments[2], index(a)))
            for b in range(4):
                place = builder.gep(start, [builder.add(plane, builder.mul(arguments[3], index(b)))])
                values = builder.load(builder.bitcast(place, four.as_pointer()), align=4)
                rows = add(rows, spread(builder.fmul(wx[a], wy[b]), four, 4 * n), values)
        total = None
        for c in range(4):
            piece = ir.Constant(ir.VectorType(lane, n), list(range(c * n, c * n + n)))
            total = add(total, spread(wz[c], one, n), builder.shuffle_vector(rows, rows, piece))
        builder.store(total, builder.bitcast(data(8), one.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


_sum_taps: Any = intrinsic(_taps)


@njit(cache=True, nogil=True, error_model="numpy")
def weigh(p: float, n: int, w: Any) -> int:
    """Write the weights of four neighbours of position p on an axis of n samples; return the first neighbour.

    At an end the neighbours beyond it are mirrored, and their weights added to those of the samples that they mirror,
    so that the four read are always in a row. An axis shorter than four is padded in memory.
    """
    p = min(max(p, 0.0), n - 1.0)
    base = min(int(p), max(n - 2, 0))
    f = p - base
    g = 1.0 - f
    w0, w3 = g * g * g * (1.0 / 6.0), f * f * f * (1.0 / 6.0)
    w1, w2 = 2.0 / 3.0 - f * f * (1.0 - 0.5 * f), 2.0 / 3.0 - g * g * (1.0 - 0.5 * g)
    if base >= 1 and base + 2 < n:
        w[0], w[1], w[2], w[3] = w0, w1, w2, w3
        return base - 1
    first = min(max(base - 1, 0), max(n - 4, 0))
    w[:] = 0.0
    for k, weight in enumerate((w0, w1, w2, w3)):
        t = abs(base - 1 + k)
        if t > n - 1:
            t = max(2 * (n - 1) - t, 0)
        w[t - first] += np.float32(weight)
    return first


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate(
    coefficients: Any, padded: Any, size: Any, lanes: Any, matrix: Any, shape: Any, voxels: Any, outside: Any, out: Any
) -> None:
    """Write the splines' values at voxels of a grid.

    Parameters
    ----------
    coefficients : (x * y * z * n,) with the axes ``padded`` to four samples or more.
    padded, size : samples per axis in memory, and those that are samples.
    lanes : tuple of n values.
    matrix : (3, 4) voxel of the grid -> voxel of the images, both with the slowest axis first.
    shape : of the grid.
    voxels : (m,) flat indices.
    outside : value beyond the images.
    out : (n, m).
    """
    n = len(lanes)
    row = np.zeros(len(lanes), np.float32)
    wx, wy, wz = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32)
    step_y = padded[2] * n
    step_x = padded[1] * step_y
    for v in range(voxels.size):
        rest, k = divmod(voxels[v], shape[2])
        i, j = divmod(rest, shape[1])
        x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
        y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
        z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
        if not (
            -TOLERANCE <= x <= size[0] - 1 + TOLERANCE
            and -TOLERANCE <= y <= size[1] - 1 + TOLERANCE
            and -TOLERANCE <= z <= size[2] - 1 + TOLERANCE
        ):
            for e in range(n):
                out[e, v] = outside
            continue
        first = weigh(x, size[0], wx) * step_x + weigh(y, size[1], wy) * step_y + weigh(z, size[2], wz) * n
        _sum_taps(coefficients, first, step_x, step_y, wx, wy, wz, lanes, row)
        for e in range(n):
            out[e, v] = row[e]


@njit(cache=True, nogil=True, error_model="numpy")
def find_sources(matrix: Any, size: Any, shape: Any, voxels: Any, out: Any) -> None:
    """Write the flat index of the sample that each voxel falls on, -1 outside; ``matrix`` is of integers."""
    for v in range(voxels.size):
        rest, k = divmod(voxels[v], shape[2])
        i, j = divmod(rest, shape[1])
        x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
        y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
        z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
        inside = 0 <= x < size[0] and 0 <= y < size[1] and 0 <= z < size[2]
        out[v] = (x * size[1] + y) * size[2] + z if inside else -1


@njit(cache=True, nogil=True, error_model="numpy")
def interpolate(image: Any, matrix: Any, shape: Any, voxels: Any, outside: Any, out: Any) -> None:
    """Write trilinear values of (x, y, z); samples without weight are not read, so that a NaN stays in its voxel."""
    size = image.shape
    for v in range(voxels.size):
        rest, k = divmod(voxels[v], shape[2])
        i, j = divmod(rest, shape[1])
        x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
        y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
        z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
        if not (
            -TOLERANCE <= x <= size[0] - 1 + TOLERANCE
            and -TOLERANCE <= y <= size[1] - 1 + TOLERANCE
            and -TOLERANCE <= z <= size[2] - 1 + TOLERANCE
        ):
            out[v] = outside
            continue
        x, y, z = min(max(x, 0.0), size[0] - 1.0), min(max(y, 0.0), size[1] - 1.0), min(max(z, 0.0), size[2] - 1.0)
        a, b, c = int(x), int(y), int(z)
        fx, fy, fz = x - a, y - b, z - c
        total = 0.0
        for da in range(2 if fx > 0 else 1):
            wa = fx if da else 1.0 - fx
            for db in range(2 if fy > 0 else 1):
                wb = wa * (fy if db else 1.0 - fy)
                for dc in range(2 if fz > 0 else 1):
                    total += wb * (fz if dc else 1.0 - fz) * image[a + da, b + db, c + dc]
        out[v] = total
