"""Time bases: what their columns are, what collinearity they have, what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxcloud.errors import DesignError
from voxcloud.models.time_basis import build_time_basis, variance_inflation

DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
QUADRATIC = ("linear", "quadratic")


def test_build_time_basis__polynomial_is_powers_of_day_over_last_reference_day() -> None:
    basis = build_time_basis("polynomial", DAYS, QUADRATIC)
    columns = basis.evaluate([0, 21, 42, 84, 168])
    np.testing.assert_allclose(columns, [[1, 0, 0], [1, 0.25, 0.0625], [1, 0.5, 0.25], [1, 1, 1], [1, 2, 4]])
    assert basis.scale_days == 84.0
    assert basis.terms == QUADRATIC


def test_describe__collinearity_of_the_model_study() -> None:
    told = build_time_basis("polynomial", DAYS, QUADRATIC, "quadratic").describe()
    assert round(told["correlation"][0][1], 3) == 0.977
    assert {k: round(v, 1) for k, v in told["vif"].items()} == {"linear": 21.9, "quadratic": 21.9}
    assert told["vif_used"] == pytest.approx({"linear": 1.0, "quadratic": 1.0})


@pytest.mark.parametrize("term, other", [("quadratic", "linear"), ("linear", "quadratic")])
def test_describe__says_what_orthogonalisation_means_for_both_terms(term: str, other: str) -> None:
    words = " ".join(build_time_basis("polynomial", DAYS, QUADRATIC, term).describe()["sentences"])
    assert f"The {term} term was residualised on the intercept and the {other} term" in words
    assert f"does not change the test of the {term} term" in words
    assert f"changes what the {other} term means: it absorbs the variance shared with the {term} term" in words


def test_describe__is_silent_on_orthogonalisation_without_it() -> None:
    words = " ".join(build_time_basis("polynomial", DAYS, QUADRATIC).describe()["sentences"])
    assert "residualised" not in words
    assert "correlate at 0.977" in words


@pytest.mark.parametrize("term", ["linear", "quadratic", "cubic"])
def test_build_time_basis__orthogonalised_term_is_the_residual_over_the_reference_days(term: str) -> None:
    terms = ("linear", "quadratic", "cubic")
    raw = build_time_basis("polynomial", DAYS, terms).evaluate(DAYS)
    columns = build_time_basis("polynomial", DAYS, terms, term).evaluate(DAYS)
    own = 1 + terms.index(term)
    others = np.delete(columns, own, axis=1)
    np.testing.assert_allclose(others.T @ columns[:, own], 0, atol=1e-12)
    np.testing.assert_array_equal(others, np.delete(raw, own, axis=1))


@given(st.lists(st.floats(-50, 400), min_size=1, max_size=8), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_evaluate__a_days_columns_do_not_depend_on_the_other_days(days: list[float], pick: int) -> None:
    basis = build_time_basis("polynomial", DAYS, QUADRATIC, "quadratic")
    one = days[pick % len(days)]
    np.testing.assert_array_equal(basis.evaluate(days)[pick % len(days)], basis.evaluate([one])[0])


def test_build_time_basis__piecewise_coefficients_are_the_slopes_of_the_segments() -> None:
    basis = build_time_basis("piecewise", DAYS, QUADRATIC, knots=(14, 28))
    assert basis.terms == ("slopeTo14", "slope14To28", "slopeFrom28")
    days = np.array([-7.0, 0, 3, 14, 20, 28, 60, 84])
    line = 5.0 + np.interp(days, [-7, 0, 14, 28, 84], [-14, 0, 28, 14, 14])
    fitted = np.linalg.lstsq(basis.evaluate(days), line, rcond=None)[0]
    np.testing.assert_allclose(fitted, [5.0, 2.0 * 84, -1.0 * 84, 0.0], atol=1e-10)


def test_build_time_basis__categorical_takes_the_nearest_reference_day() -> None:
    basis = build_time_basis("categorical", DAYS, QUADRATIC)
    assert basis.terms == ("day7", "day14", "day28", "day84")
    np.testing.assert_array_equal(basis.evaluate([1, 8, 80])[:, 1:], [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def test_evaluate__categorical_refuses_a_day_between_visits() -> None:
    with pytest.raises(DesignError, match=r"day 40 is near no reference day .* days up to 7 away"):
        build_time_basis("categorical", DAYS, ()).evaluate([0, 40])


def test_evaluate__refuses_a_missing_day() -> None:
    with pytest.raises(DesignError, match="finite day"):
        build_time_basis("polynomial", DAYS, QUADRATIC).evaluate([0, float("nan")])


def test_unit_of__says_per_what() -> None:
    basis = build_time_basis("polynomial", DAYS, ("linear", "quadratic", "cubic"))
    assert [basis.unit_of(t) for t in ("intercept", *basis.terms)] == [
        "",
        "per 84 days",
        "per (84 days)²",
        "per (84 days)³",
    ]
    assert build_time_basis("categorical", DAYS, ()).unit_of("day7") == ""
    assert build_time_basis("piecewise", DAYS, (), knots=(28,)).unit_of("slopeTo28") == "per 84 days"


@pytest.mark.parametrize(
    "kind, days, terms, orthogonalise, knots, words",
    [
        ("polynomial", (0, 84), QUADRATIC, None, (), "at least 3 reference days"),
        ("polynomial", (0, 14, 7), ("linear",), None, (), "increasing order"),
        ("polynomial", DAYS, ("lineal",), None, (), "Did you mean 'linear'"),
        ("polynomial", DAYS, ("linear", "linear"), None, (), "each term once"),
        ("polynomial", DAYS, QUADRATIC, "cubic", (), "orthogonalise: expected one of linear, quadratic"),
        ("polynomial", DAYS, QUADRATIC, None, (14,), "only a piecewise basis has knots"),
        ("piecewise", DAYS, (), None, (), "at least one day inside 0 to 84"),
        ("piecewise", DAYS, (), None, (84,), "at least one day inside 0 to 84"),
        ("piecewise", DAYS, (), None, (2, 5), "cannot be told apart"),
        ("categorical", DAYS, ("week1",), None, (), "makes its own terms"),
        ("spline", DAYS, QUADRATIC, None, (), "expected polynomial, piecewise or categorical"),
    ],
)
def test_build_time_basis__refuses(kind, days, terms, orthogonalise, knots, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DesignError, match=words):
        build_time_basis(kind, days, terms, orthogonalise, knots)


def test_variance_inflation__is_infinite_for_a_copy() -> None:
    t = np.arange(5.0)
    assert variance_inflation(np.column_stack([np.ones(5), t, 2 * t + 1])) == [float("inf"), float("inf")]


def test_describe__is_plain_for_one_term() -> None:
    told = json.loads(json.dumps(build_time_basis("polynomial", DAYS, ("linear",)).describe(), allow_nan=False))
    assert told["vif"] == {"linear": pytest.approx(1.0)}
    assert told["correlation"] == [[1.0]]
