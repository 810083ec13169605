"""The time basis and the power that a design lets one expect."""

from __future__ import annotations

import numpy as np
import pandas as pd

from voxcloud.testing.design import GroupModel, PolynomialTime, expected_test

DAYS = np.array([0.0, 7.0, 14.0, 28.0, 84.0])


def test_polynomial_time__terms_are_orthogonal_over_the_reference_days():
    time = PolynomialTime(tuple(DAYS))
    x = np.column_stack([time.term(name, DAYS) for name in ("intercept", "linear", "quadratic")])
    gram = x.T @ x
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-12)
    assert np.allclose(x[:, 1], [-0.31666667, -0.23333333, -0.15, 0.01666667, 0.68333333])
    assert np.allclose(x[:, 2], [0.10467553, 0.02376675, -0.04325311, -0.13562620, 0.05043702])


def test_polynomial_time__constants_do_not_move_with_the_actual_days():
    time = PolynomialTime(tuple(DAYS))
    assert time.term("quadratic", np.array([14.0]))[0] == time.term("quadratic", DAYS)[2]


def test_polynomial_time__nothing_has_changed_on_day_zero():
    time = PolynomialTime(tuple(DAYS))
    assert time.course("linear", DAYS)[0] == time.course("quadratic", DAYS)[0] == 0.0


def test_expected_test__is_the_two_sample_t_of_a_shift():
    table = pd.DataFrame(
        {"participant_id": list("abcdefg"), "group": ["sci_arm"] * 3 + ["con_none"] * 4, "age": 40.0, "tiv": 1500.0}
    )
    model = GroupModel("m", "c", "sci_arm", "con_none", nuisance=())
    found = expected_test(model, table, {"a": 1.0, "b": 1.0, "c": 1.0}, 2.0)
    assert np.isclose(found.t, 2.0 / np.sqrt(1 / 3 + 1 / 4))
    assert found.df == 5
    assert 0 < found.z < found.t
