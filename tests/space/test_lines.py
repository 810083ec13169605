"""Values along lines, against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.space import lines


def along_lines(values: Any, positions: Any, order: int) -> Any:
    clipped = np.clip(positions, 0, values.shape[1] - 1)
    rows = [
        ndimage.map_coordinates(row, [at], order=order, mode="mirror") for row, at in zip(values, clipped, strict=True)
    ]
    return np.array(rows)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_read_cubic__as_scipy(n: int) -> None:
    rng = np.random.default_rng(0)
    values, positions = rng.normal(size=(6, n)), rng.uniform(-3, n + 2, (6, 50))
    positions[:, :2] = 0, n - 1
    coefficients, out = values.copy(), np.empty_like(positions)
    lines.filter_lines(coefficients)
    lines.read_cubic(coefficients, positions, out)
    np.testing.assert_allclose(out, along_lines(values, positions, 3), atol=1e-12)


def test_read_linear__as_scipy() -> None:
    rng = np.random.default_rng(0)
    values, positions = rng.normal(size=(6, 9)), rng.uniform(-3, 11, (6, 50))
    out = np.empty_like(positions)
    lines.read_linear(values, positions, out)
    np.testing.assert_allclose(out, along_lines(values, positions, 1), atol=1e-14)


def test_one_sample__is_everywhere_the_same() -> None:
    for read in (lines.read_linear, lines.read_cubic):
        values, out = np.array([[3.0]]), np.empty((1, 3))
        if read is lines.read_cubic:
            lines.filter_lines(values)
        read(values, np.array([[-1.0, 0.0, 2.0]]), out)
        np.testing.assert_allclose(out, 3.0)


def test_slope_at__is_the_derivative_of_value_at() -> None:
    rng = np.random.default_rng(1)
    coefficients = rng.normal(size=(1, 12))
    lines.filter_lines(coefficients)
    h = 1e-6
    for p in [0.3, 1.0, 4.7, 10.2, 10.9]:
        numeric = (lines.value_at(coefficients[0], p + h) - lines.value_at(coefficients[0], p - h)) / (2 * h)
        assert lines.slope_at(coefficients[0], p) == pytest.approx(numeric, abs=1e-8)
    assert lines.slope_at(coefficients[0], -0.5) == 0
    assert lines.slope_at(coefficients[0], 11.5) == 0


def test_bridge_gaps__nearest_known_value() -> None:
    nan = np.nan
    values = np.array([[nan, 1, nan, nan, nan, 5, nan], [nan] * 7, [1, 2, 3, 4, 5, 6, 7]])
    lines.bridge_gaps(values)
    np.testing.assert_array_equal(values, [[1, 1, 1, 1, 5, 5, 5], [0] * 7, [1, 2, 3, 4, 5, 6, 7]])
