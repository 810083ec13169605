"""Units of what sidecars say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from voxcloud.bids import protocol
from voxcloud.bids.protocol import Quantity


@pytest.mark.parametrize(
    ("quantity", "value", "said"),
    [
        (protocol.ECHO_TIME, 2.34, "2.34 where 0.00234 is meant: divide milliseconds by 1000."),
        (protocol.ECHO_TIME, 2340.0, "2340 where 0.00234 is meant: divide microseconds by 1000000."),
        (protocol.ECHO_TIME, 2.34e-6, "2.34e-06 where 0.00234 is meant: it is in seconds already"),
        (protocol.FLIP_ANGLE, 0.1, "0.1 where 5.73 is meant: convert rad to degrees"),
        (protocol.FLIP_ANGLE, 0.10472, "0.10472 where 6 is meant: convert rad to degrees"),
        (protocol.FLIP_ANGLE, 210.0, "210 where 21 is meant: divide tenths of a degree by 10."),
        (protocol.FLIP_ANGLE, -6.0, "Correct the sidecar."),
        (protocol.B1_FLIP_ANGLE, 1.0472, "1.0472 where 60 is meant: convert rad"),
        (protocol.B1_FLIP_ANGLE, 600.0, "600 where 60 is meant: divide tenths of a degree by 10."),
        (protocol.TFL_FLIP_ANGLE, 8.0, "nominal angle of the preparation pulse"),
        (protocol.SESTE_FLIP_ANGLE, 230.0, "230 where 115 is meant: FlipAngle of TB1EPI is that of the stimulated"),
        (protocol.REPETITION_TIME, 24.5, "24.5 where 0.0245 is meant: divide milliseconds by 1000."),
        (protocol.MIXING_TIME, 33.8, "33.8 where 0.0338 is meant"),
        (protocol.READOUT_TIME, 24.3, "24.3 where 0.0243 is meant"),
        # As in the published example data set of BIDS for this kind of acquisition.
        (protocol.READOUT_TIME, 6720.00624, "6720.01 where 0.00672 is meant: divide microseconds by 1000000."),
    ],
)
def test_hint__says_what_was_meant(quantity: Quantity, value: float, said: str) -> None:
    assert not quantity.fits(value)
    assert said in quantity.hint(value)


@pytest.mark.parametrize("angle", [1.0, 4.0, 30.0, 180.0])
def test_fits__angles_that_are_used(angle: float) -> None:
    assert protocol.FLIP_ANGLE.fits(angle)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.0023", r"found the text '0\.0023' .*without quotes"),
        ([0.0023, 0.0046], r"found \[0\.0023, 0\.0046\] .*one number per image"),
        (True, "found True .*Correct the sidecar"),
        (float("nan"), "found nan .*Correct the sidecar"),
        ({"value": 1}, "found {'value': 1}"),
    ],
)
def test_read_number__what_is_no_number(raw: Any, value: Any, said: str) -> None:
    raw.edit("*_echo-1_flip-1_mt-off_MPM.json", RepetitionTimeExcitation=value)
    assert re.search(said, raw.problem())


def test_read_number__one_sentence_for_all_files_of_a_series(raw: Any) -> None:
    for n in range(1, 9):
        raw.edit(f"*_echo-{n}_flip-2_mt-off_MPM.json", EchoTime=2.3 * n)
    assert raw.problem() == (
        "sub-01_ses-1: series flip-2_mt-off: expected EchoTime in s, 0.0001 to 0.2, found 2.3, 4.6, 6.9, 9.2, ... "
        "(sub-01_ses-1_echo-1_flip-2_mt-off_MPM.json and 7 more). 2.3 where 0.0023 is meant: divide milliseconds by "
        "1000."
    )


def test_read_number__names_the_sidecar_that_is_inherited(raw: Any) -> None:
    raw.edit("*_MPM.json", RepetitionTimeExcitation=None)
    raw.json("MPM.json", {"RepetitionTime": 24.5})
    problems = raw.problems()
    assert len(problems) == 3  # one per series
    assert all("0.002 to 1, found 24.5 (MPM.json). 24.5 where 0.0245 is meant" in text for text in problems)


def test_read_number__a_null_counts_as_missing(raw: Any) -> None:
    raw.root.joinpath("MPM.json").write_text('{"FlipAngle": null}')
    raw.edit("*_flip-2_mt-off_MPM.json", FlipAngle=None)
    assert "expected FlipAngle in a sidecar" in raw.problem()


def test_refuse_missing__names_keys_and_places(raw: Any) -> None:
    raw.edit("*_echo-3_flip-2_mt-off_MPM.json", FlipAngle=None)
    assert raw.problem() == (
        "sub-01_ses-1: series flip-2_mt-off: expected FlipAngle in a sidecar "
        "(sub-01_ses-1_echo-3_flip-2_mt-off_MPM.json, or MPM.json in a folder above), found a sidecar without it for "
        "sub-01_ses-1_echo-3_flip-2_mt-off_MPM.nii. Write it there, or convert the images again with sidecars."
    )
