from __future__ import annotations

import pytest

from voxcloud.report import words


@pytest.mark.parametrize(
    "p, expected",
    [
        (0.0123, ".012"),
        (0.0004, "< .001"),
        (0.0, "< .001"),
        (1e-300, "< .001"),
        (0.001, ".001"),
        (0.9996, "> .999"),
        (1.0, "1"),
        (None, "—"),
        (float("nan"), "—"),
    ],
)
def test_p_text__as_journals_print(p: float | None, expected: str) -> None:
    assert words.p_text(p) == expected


def test_p_phrase__no_equals_before_a_smaller_sign() -> None:
    assert words.p_phrase(0.00001) == "p < .001"
    assert words.p_phrase(0.2, "p(FWE)") == "p(FWE) = .200"


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.0314159, "0.0314"),
        (29394, "29\u202f394"),
        (-2.5e-9, "−2.50×10⁻⁹"),
        (0, "0"),
        (0.0, "0"),
        (12345.6, "12\u202f346"),
        (None, "—"),
        (float("inf"), "—"),
    ],
)
def test_number__rounds_sensibly(value: float | None, expected: str) -> None:
    assert words.number(value) == expected


def test_fixed__never_prints_minus_zero() -> None:
    assert words.fixed(-0.0001) == "0.00"
    assert words.fixed(-1.5) == "−1.50"


def test_asked__has_the_direction() -> None:
    tree = {"test": "group[a] - group[b]", "kind": "t", "alternative": "two-sided"}
    assert words.asked(tree, "less") == "group[a] - group[b] < 0"
    assert words.asked(tree, None) == "group[a] - group[b] ≠ 0"
    assert words.asked({"test": ["age", "tiv"], "kind": "F"}, "greater") == "age ; tiv (F)"
