"""P values over the family that the study names."""

from __future__ import annotations

import pytest

from voxcloud.inference.family import SearchKey
from voxcloud.pipeline.publishing import _adjusted

P = {
    SearchKey(model, "R1map", "GM", "linear", "c", direction, "whole mask"): p
    for (model, direction), p in {
        ("a", "greater"): 0.01,
        ("a", "less"): 0.5,
        ("b", "greater"): 0.02,
        ("b", "less"): 1.0,
    }.items()
}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("all", [0.04, 1.0, 0.06, 1.0]),  # Holm over four: 4 x .01, 3 x .02, 2 x .5, 1
        ("model", [0.02, 0.5, 0.04, 1.0]),  # over two each
        ("none", [0.01, 0.5, 0.02, 1.0]),
    ],
)
def test_adjusted__holm_within_the_family_that_the_study_names(family: str, expected: list[float]) -> None:
    assert list(_adjusted(P, family).values()) == pytest.approx(expected)
