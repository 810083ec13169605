"""B1 from spin and stimulated echoes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri import seste
from voxcloud.qmri.protocol import ProtocolError
from voxcloud.qmri.seste import b1_from_seste

ANGLES = np.deg2rad(np.arange(115, 60, -5.0))
TM, T1 = 0.0312, 1.192


def echoes(b1: Any, amplitude: float = 1000.0) -> tuple[Any, Any]:
    x = np.multiply.outer(np.asarray(b1), ANGLES)
    se = amplitude * np.sin(x) * np.sin(0.5 * 2 * x) ** 2
    return np.abs(se), np.abs(se * np.cos(x)) * np.exp(-TM / T1)


def test_b1_from_seste__agrees_with_the_toolbox(arrays: Callable[[str], Any]) -> None:
    t = arrays("seste_reference")
    found = b1_from_seste(
        t["SE"].astype(float),
        t["STE"].astype(float),
        np.deg2rad(t["beta"]),
        float(t["TM"]) / 1000,
        t1_s=float(t["T1"]) / 1000,
    )
    for n in (2, 3):
        np.testing.assert_allclose(found.b1, t[f"B1_nAmb{n}"], atol=1e-6)
        np.testing.assert_allclose(found.sd, t[f"SD_nAmb{n}"], atol=1e-6)
    assert found.b1.shape == (16, 14, 2)
    assert (t["sigma"] > 0).any()


def test_b1_from_seste__recovers_b1_over_the_whole_range() -> None:
    b1 = np.linspace(0.5, 1.45, 39)
    found = b1_from_seste(*echoes(b1), ANGLES, TM)
    np.testing.assert_allclose(found.b1, b1, atol=1e-6)
    np.testing.assert_allclose(found.sd, 0, atol=1e-6)


def test_b1_from_seste__order_of_angles_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    se, ste = echoes(rng.uniform(0.6, 1.3, 50))
    se, ste = np.abs(se + rng.normal(0, 15, se.shape)), np.abs(ste + rng.normal(0, 15, se.shape))
    whole = b1_from_seste(se, ste, ANGLES, TM)
    turned = b1_from_seste(se[:, ::-1], ste[:, ::-1], ANGLES[::-1], TM)
    monkeypatch.setattr(seste, "BLOCK_VOXELS", 7)
    blocks = b1_from_seste(se, ste, ANGLES, TM)
    np.testing.assert_array_equal(turned.b1, whole.b1)
    np.testing.assert_array_equal(blocks.b1, whole.b1)
    np.testing.assert_array_equal(blocks.sd, whole.sd)
    assert 0 < np.median(whole.sd) < 0.1


def test_b1_from_seste__is_nan_where_nothing_was_measured_and_only_there() -> None:
    se, ste = echoes(np.array([0.9, 1.0, 1.1]))
    se[0], ste[0], ste[1, 3] = 0.0, 0.0, np.nan
    found = b1_from_seste(se, ste, ANGLES, TM)
    np.testing.assert_array_equal(np.isnan(found.b1), [True, True, False])
    assert found.magnitude[2] == pytest.approx(np.sqrt((se[2] ** 2).sum()))


def test_b1_from_seste__refuses_wrong_units_and_shapes() -> None:
    se, ste = echoes(np.ones(2))
    with pytest.raises(ProtocolError, match="flip angles in rad"):
        b1_from_seste(se, ste, np.rad2deg(ANGLES), TM)
    with pytest.raises(ProtocolError, match=r"mixing time in s, .* found 31\.2. 31\.2 where 0\.0312 is meant"):
        b1_from_seste(se, ste, ANGLES, 31.2)
    with pytest.raises(ProtocolError, match=r"T1 in s, .* found 1192"):
        b1_from_seste(se, ste, ANGLES, TM, t1_s=1192.0)
    with pytest.raises(ProtocolError, match="2 to 11 pairs"):
        b1_from_seste(se, ste, ANGLES, TM, n_pairs=12)
    with pytest.raises(ImageError, match=r"two arrays \(\.\.\., 11\)"):
        b1_from_seste(se[:, :10], ste[:, :10], ANGLES, TM)
