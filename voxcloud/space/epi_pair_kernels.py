"""Inner loops of ``epi_pair``: misfit of two EPI images, its Gauss-Newton system, and line-wise solves.

Images lie as (a, b, n) with the phase-encode axis last. The displacement u, in voxels, lives on the n + 1 faces between
voxels along that axis: a voxel then depends on its own two faces only, so that the system of one line is tridiagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from voxcloud.space.lines import slope_at, value_at


@njit(cache=True, nogil=True)
def misfit(plus: Any, minus: Any, u: Any, stiffness: Any, barrier: float) -> Any:
    """Objective at u; infinite where a voxel would be folded.

    plus, minus : spline coefficients (a, b, n); stiffness (3,): weight of squared differences of u between neighbours
    along a, b and the phase-encode axis.
    """
    na, nb, n = plus.shape
    total = 0.0
    for i in range(na):
        for j in range(nb):
            for k in range(n):
                centre, stretch = 0.5 * (u[i, j, k] + u[i, j, k + 1]), u[i, j, k + 1] - u[i, j, k]
                room = 1.0 - stretch * stretch
                if not room > 0.0:
                    return np.inf
                r = (1.0 + stretch) * value_at(plus[i, j], k + centre)
                r -= (1.0 - stretch) * value_at(minus[i, j], k - centre)
                total += 0.5 * r * r + barrier * (1.0 / room - 1.0 - stretch * stretch)
                total += 0.5 * stiffness[2] * stretch * stretch
            for k in range(n + 1):
                if i > 0:
                    total += 0.5 * stiffness[0] * (u[i, j, k] - u[i - 1, j, k]) ** 2
                if j > 0:
                    total += 0.5 * stiffness[1] * (u[i, j, k] - u[i, j - 1, k]) ** 2
    return total


@njit(cache=True, nogil=True)
def linearise(
    plus: Any, minus: Any, u: Any, stiffness: Any, barrier: float, gradient: Any, diagonal: Any, beside: Any
) -> None:
    """Write the gradient (a, b, n + 1) and, of the Gauss-Newton matrix, the diagonal and the neighbour along the line.

    What is beside those, between lines, is -stiffness[0] and -stiffness[1]; its part of the diagonal is included.
    """
    na, nb, n = plus.shape
    gradient[:], diagonal[:], beside[:] = 0.0, 0.0, 0.0
    for i in range(na):
        for j in range(nb):
            for k in range(n):
                centre, stretch = 0.5 * (u[i, j, k] + u[i, j, k + 1]), u[i, j, k + 1] - u[i, j, k]
                p, m = value_at(plus[i, j], k + centre), value_at(minus[i, j], k - centre)
                r = (1.0 + stretch) * p - (1.0 - stretch) * m
                by_centre = (1.0 + stretch) * slope_at(plus[i, j], k + centre)
                by_centre += (1.0 - stretch) * slope_at(minus[i, j], k - centre)
                by_stretch = p + m
                first, second = 0.5 * by_centre - by_stretch, 0.5 * by_centre + by_stretch
                room = 1.0 - stretch * stretch
                force = 2.0 * barrier * stretch * (1.0 / (room * room) - 1.0) + stiffness[2] * stretch
                curve = barrier * (2.0 / (room * room) + 8.0 * stretch * stretch / (room * room * room) - 2.0)
                curve += stiffness[2]
                gradient[i, j, k] += r * first - force
                gradient[i, j, k + 1] += r * second + force
                diagonal[i, j, k] += first * first + curve
                diagonal[i, j, k + 1] += second * second + curve
                beside[i, j, k] += first * second - curve
            for k in range(n + 1):
                for di, dj, weight in ((1, 0, stiffness[0]), (0, 1, stiffness[1])):
                    for side in (-1, 1):
                        oi, oj = i + side * di, j + side * dj
                        if 0 <= oi < na and 0 <= oj < nb:
                            gradient[i, j, k] += weight * (u[i, j, k] - u[oi, oj, k])
                            diagonal[i, j, k] += weight


@njit(cache=True, nogil=True)
def multiply(diagonal: Any, beside: Any, stiffness: Any, x: Any, out: Any) -> None:
    """Write the Gauss-Newton matrix times x to out."""
    na, nb, n1 = x.shape
    for i in range(na):
        for j in range(nb):
            for k in range(n1):
                value = diagonal[i, j, k] * x[i, j, k]
                if k > 0:
                    value += beside[i, j, k - 1] * x[i, j, k - 1]
                if k < n1 - 1:
                    value += beside[i, j, k] * x[i, j, k + 1]
                out[i, j, k] = value
            if i > 0:
                for k in range(n1):
                    out[i, j, k] -= stiffness[0] * x[i - 1, j, k]
            if i < na - 1:
                for k in range(n1):
                    out[i, j, k] -= stiffness[0] * x[i + 1, j, k]
            if j > 0:
                for k in range(n1):
                    out[i, j, k] -= stiffness[1] * x[i, j - 1, k]
            if j < nb - 1:
                for k in range(n1):
                    out[i, j, k] -= stiffness[1] * x[i, j + 1, k]


@njit(cache=True, nogil=True)
def solve_lines(diagonal: Any, beside: Any, right: Any, out: Any) -> None:
    """Solve the tridiagonal system of every line: the preconditioner."""
    na, nb, n1 = right.shape
    ratio = np.empty(n1)
    for i in range(na):
        for j in range(nb):
            d, e, b, x = diagonal[i, j], beside[i, j], right[i, j], out[i, j]
            pivot = d[0]
            x[0] = b[0] / pivot
            for k in range(1, n1):
                ratio[k - 1] = e[k - 1] / pivot
                pivot = d[k] - e[k - 1] * ratio[k - 1]
                x[k] = (b[k] - e[k - 1] * x[k - 1]) / pivot
            for k in range(n1 - 2, -1, -1):
                x[k] -= ratio[k] * x[k + 1]


@njit(cache=True, nogil=True)
def correct(coefficients: Any, u: Any, sign: float, out: Any) -> None:
    """Write the image at x + sign u, times 1 + sign u', to out (a, b, n)."""
    na, nb, n = coefficients.shape
    for i in range(na):
        for j in range(nb):
            for k in range(n):
                centre, stretch = 0.5 * (u[i, j, k] + u[i, j, k + 1]), u[i, j, k + 1] - u[i, j, k]
                out[i, j, k] = (1.0 + sign * stretch) * value_at(coefficients[i, j], k + sign * centre)
