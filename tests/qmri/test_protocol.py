"""Units of the protocol are checked, and the message says which was meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError, VoxcloudError
from voxcloud.qmri.protocol import Contrast, Excitation, ProtocolError

TIMES = [0.00234 * (i + 1) for i in range(6)]


def contrast(**changes: Any) -> Contrast:
    values: dict[str, Any] = {
        "name": "PDw",
        "echoes": [np.ones((2, 3))] * 6,
        "echo_time_s": TIMES,
        "flip_angle_rad": 0.105,
        "repetition_time_s": 0.0245,
    }
    return Contrast(**(values | changes))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"flip_angle_rad": 6.0}, r"PDw: expected a flip angle in rad, .* found 6\. 6 where 0\.1047 is meant\?"),
        ({"flip_angle_rad": 0.0}, r"PDw: expected a flip angle in rad, above 0"),
        ({"flip_angle_rad": float("nan")}, "flip angle in rad"),
        ({"repetition_time_s": 24.5}, r"PDw: expected a repetition time in s, .* 24\.5 where 0\.0245 is meant\?"),
        ({"repetition_time_s": 0.0}, "repetition time in s, above 0"),
        ({"repetition_time_s": 0.012}, r"longer than the last echo time \(0\.01404 s\), found 0\.012 s"),
        ({"echo_time_s": [*TIMES[:5], 2.34]}, r"PDw: expected echo times in s, .* 2\.34 where 0\.00234 is meant\?"),
        ({"echo_time_s": [2.34e-6, *TIMES[1:]]}, "Echo times are in seconds"),
        ({"echo_time_s": [*TIMES[:5], TIMES[0]]}, "Is an echo there twice"),
        ({"echo_time_s": TIMES[:5]}, "an echo time for each of 6 echoes, found 5"),
        ({"echoes": [np.ones(3)], "echo_time_s": TIMES[:1]}, "needs at least 2 echoes, found 1"),
    ],
)
def test_contrast__refuses_what_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as caught:
        contrast(**changes)
    assert isinstance(caught.value, VoxcloudError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"echoes": [*[np.ones((2, 3))] * 5, np.ones((3, 2))]}, r"PDw echo 6: expected an image of shape \(2, 3\)"),
        ({"receive_sensitivity": np.ones(4)}, "PDw receive sensitivity: expected an image"),
        ({"echoes": [1.0] * 6}, "found single numbers"),
    ],
)
def test_contrast__refuses_other_grids(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        contrast(**changes)


def test_contrast__takes_echoes_in_any_order_and_as_one_array() -> None:
    assert contrast(echo_time_s=TIMES[::-1]).shape == (2, 3)
    assert contrast(echoes=np.ones((6, 2, 3))).protocol.describe()["echo_time_s"] == TIMES


def test_contrast__warns_of_few_echoes() -> None:
    with pytest.warns(UserWarning, match=r"PDw: 5 echoes; R2\* from so few echoes is imprecise"):
        contrast(echoes=[np.ones(2)] * 5, echo_time_s=TIMES[:5])


def test_contrast__warns_of_a_large_angle_once() -> None:
    with pytest.warns(UserWarning, match="unusually large") as caught:
        series = contrast(flip_angle_rad=2.0)
    assert series.excitation is series.excitation
    assert len(caught) == 1


def test_excitation__warns_of_degrees_that_could_be_rad() -> None:
    with pytest.warns(UserWarning, match=r"T1w: flip angle of 3 rad \(172 degrees\)"):
        Excitation("T1w", 3.0, 0.025)
