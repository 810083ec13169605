"""Elementary functions against extended precision, at their edges, and alike wherever a number stands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from voxcloud import elementary

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="needs an extended precision to compare with"
)


def over_arrays(function: Callable[[float], float], options: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the function for arrays, compiled as loops that call it are."""

    @njit(**(options | {"cache": False}))
    def loop(values, found):  # type: ignore[no-untyped-def]
        for i in range(values.size):
            found[i] = function(values[i])

    def call(values: Any) -> Any:
        found = np.empty(np.shape(values))
        loop(np.array(values, dtype=np.float64), found)
        return found

    return call


log = over_arrays(elementary.log, elementary.FUSED)
exp = over_arrays(elementary.exp, elementary.FUSED)
tan = over_arrays(elementary.tan, elementary.STRICT)


def exact(function: Any, values: Any) -> Any:
    return function(np.asarray(values, dtype=np.longdouble))


@pytest.mark.parametrize("low, high", [(-700.0, 700.0), (-1.0, 12.0), (-1e-3, 1e-3)])
def test_log__is_exact_to_1e_15(low: float, high: float) -> None:
    x = np.exp(np.random.default_rng(1).uniform(low, high, 100_000))
    truth = exact(np.log, x)
    assert float(np.max(np.abs(log(x) - truth) / np.maximum(1, np.abs(truth)))) < 1e-15


def test_log__where_the_exponent_changes() -> None:
    edges = np.array([2.0**k * f for k in range(-20, 40) for f in (1.0, 0.5**0.5, 1 - 2**-53, 1 + 2**-52)])
    edges = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)])
    truth = exact(np.log, edges)
    assert float(np.max(np.abs(log(edges) - truth) / np.maximum(1, np.abs(truth)))) < 1e-15
    assert log([1.0])[0] == 0.0


@pytest.mark.parametrize("high", [1e-3, 3.0, 700.0])
def test_exp__is_exact_to_2e_15(high: float) -> None:
    x = np.random.default_rng(2).uniform(-high, high, 100_000)
    assert float(np.max(np.abs(exp(x) / exact(np.exp, x) - 1))) < 2e-15


def test_exp__at_its_ends() -> None:
    found = exp([0.0, -np.inf, -1e9, 1e9, np.inf, np.nan])
    assert found[0] == 1.0
    assert 0 < found[1] == found[2] < 1e-307
    assert 1e307 < found[3] == found[4] < np.inf
    assert np.isnan(found[5])


@pytest.mark.parametrize("high", [1e-3, 0.5, 3.2, 1e5])
def test_tan__is_exact_to_4e_15(high: float) -> None:
    x = np.random.default_rng(3).uniform(-high, high, 100_000)
    x = x[np.abs(np.cos(x)) > 1e-3]  # near a pole the argument itself is not known better
    # Of large arguments the reduction keeps an absolute 1e-11 at worst.
    allowed = 4e-15 if high < 10 else 1e-8
    assert float(np.max(np.abs(tan(x) / exact(np.tan, x) - 1))) < allowed
    assert np.isnan(tan([np.nan])[0])


def test_tan__is_the_same_bits_at_any_place() -> None:
    x = np.random.default_rng(4).uniform(0, 1.5, 1003)
    whole = tan(x)
    np.testing.assert_array_equal(np.concatenate([tan(x[i : i + 7]) for i in range(0, x.size, 7)]), whole)


def test_import__of_the_package_and_the_command_line_leaves_numba_out() -> None:
    code = (
        "import sys, voxcloud.cli.app, voxcloud.qmri.maps, voxcloud.qmri.maker, voxcloud.qmri.spoiling, "
        "voxcloud.qmri.presets; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
