"""What page one counts as found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from voxcloud.report.overview import _finding, key_numbers
from voxcloud.report.searches import _cell


def cluster(p_family: float) -> dict[str, Any]:
    peak = {"t": 5.0, "x": 0.0, "y": 0.0, "z_mm": 0.0}
    return {"p_fwe": 0.05, "p_family": p_family, "size_voxels": 30, "peaks": [peak], "significant": True}


@pytest.mark.parametrize(("p_family", "counted"), [(0.05, 1), (0.0501, 0)])
def test_key_numbers__p_equal_to_alpha_is_found_over_the_family_too(p_family: float, counted: int):
    found = cluster(p_family)
    search = {
        "alpha": 0.05, "direction": "greater", "volume": "whole mask", "p_fwe_min": 0.05, "p_family_min": p_family,
        "clusters": [found],
    }  # fmt: skip
    tree = {"map": "R1map", "label": "GM", "coefficient": "linear", "contrast": "c", "test": "intercept", "kind": "t"}
    comparison = SimpleNamespace(found=[(search, found)], tree=tree, key="k", permuted_beside=False, is_t=True)
    results: Any = SimpleNamespace(
        summary={"searches_run": 1},
        comparisons=[comparison],
        searches=lambda: [(comparison, search)],
        analysed_stacks=[],
        cohort={},
    )
    assert ("1", "clusters with p(FWE) ≤ .05 in their search") in key_numbers(results)
    assert (str(counted), "of them also with p(family) ≤ .05 over all searches") in key_numbers(results)
    assert _finding(comparison, search, found)["over_family"] == ("yes" if counted else "")
    assert _cell(comparison, [search])["family"] == bool(counted)  # type: ignore[arg-type]
