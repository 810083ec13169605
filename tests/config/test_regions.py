"""The section ``regions`` of the study file."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from voxcloud.config.regions import Regions

THALAMUS = {"atlas": "Thalamus", "labels": ["*"], "tissue": "GM"}


def regions(**changes: Any) -> Regions:
    return Regions.model_validate({"folder": "atlases", "volumes": {"thalamus": THALAMUS}, **changes})


def test_regions__defaults_are_four_volumes_at_25_percent() -> None:
    spec = regions(min_tissue={"WM": 0.5})
    assert (spec.threshold, spec.hemispheres, spec.combine) == (25.0, True, "union")
    assert (spec.least("GM"), spec.least("WM")) == (0.2, 0.5)
    assert spec.volumes["thalamus"].tissues == ("GM",)
    assert spec.volume_name("thalamus", "GM", "L") == "GM_L"
    assert regions(combine="single").volume_name("thalamus", "GM", "L") == "thalamus_GM_L"
    assert regions(combine="single").volume_name("thalamus", "GM", "") == "thalamus_GM"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 0}, "greater than 0"),
        ({"threshold": 101}, "less than or equal to 100"),
        ({"volumes": {}}, "at least 1"),
        ({"combine": "both"}, "'union' or 'single'"),
        ({"volumes": {"a": {**THALAMUS, "labels": []}}}, "at least 1"),
        ({"volumes": {"a": {**THALAMUS, "labels": ["x", " "]}}}, "found an empty one"),
        ({"volumes": {"a": {**THALAMUS, "tissue": []}}}, r"expected GM, WM or \[GM, WM\]"),
        ({"volumes": {"a": {**THALAMUS, "tissue": ["GM", "GM"]}}}, r"expected GM, WM or \[GM, WM\]"),
        ({"volumes": {"a": {**THALAMUS, "atlas": "../x"}}}, "pattern"),
        ({"volumes": {"1a": THALAMUS}}, "pattern"),
        ({"volumes": {"a-b": THALAMUS, "AB": THALAMUS}}, "a-b and AB would be the same file"),
        ({"min_tissue": {"CSF": 0.2}}, "'GM' or 'WM'"),
    ],
)
def test_regions__refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        regions(**changes)
