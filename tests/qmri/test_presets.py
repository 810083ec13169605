"""Presets: their values, overriding them, and what the record says of it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from voxcloud.qmri.presets import PRESETS, Preset, find_preset
from voxcloud.qmri.protocol import ProtocolError

OTHER: dict[str, Any] = {
    "weighted_passes": 3,
    "angles": "small-angle",
    "signal": "mean-echoes",
    "mtsat_correction": "lipp",
    "mtsat_constant": 0.5,
    "signal_floor": 0.1,
    "r1_limits": (0.0, 5.0),
    "r2star_limit": 500.0,
    "mtsat_limit": 10.0,
    "amplitude_limit": 1e6,
    "white_matter_probability": 0.9,
    "white_matter_pd": 70.0,
}


def test_presets__are_those_of_the_toolbox() -> None:
    new, old = PRESETS["hmri-1.0"], PRESETS["hmri-0.x"]
    assert (new.weighted_passes, new.angles, new.constant, new.signal) == (1, "exact", 0.4, "te0")
    assert (old.weighted_passes, old.angles, old.constant, old.signal) == (0, "small-angle", 0.4, "te0")
    assert (new.r1_limits, new.r2star_limit, new.mtsat_limit, new.amplitude_limit) == ((0, 2), 1e4, 5, 1e5)
    assert replace(new, mtsat_correction="lipp").constant == 1.2


@pytest.mark.parametrize("key", [f.name for f in fields(Preset) if f.name != "name"])
def test_preset__every_default_can_be_overridden_and_is_reported(key: str) -> None:
    changed = replace(PRESETS["hmri-1.0"], **{key: OTHER[key]})
    reported = changed.changed()
    assert list(reported) == [key]
    assert json.loads(json.dumps(changed.describe()))[key] == reported[key]


def test_preset__unchanged_reports_nothing_changed() -> None:
    assert PRESETS["hmri-0.x"].changed() == {}
    assert "angles" in Preset("mine").changed()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"angles": "exakt"}, "angles to be one of exact, small-angle, found 'exakt'. Did you mean 'exact'"),
        ({"signal": "te1"}, "signal to be one of te0"),
        ({"mtsat_correction": "helm"}, "Did you mean 'helms'"),
        ({"weighted_passes": -1}, "weighted_passes 0, 1, 2"),
        ({"r1_limits": (2.0, 0.0)}, "r1_limits"),
        ({"signal_floor": 0.0}, "signal_floor above 0"),
    ],
)
def test_preset__refuses_what_cannot_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        replace(PRESETS["hmri-1.0"], **change)


def test_find_preset__helps_with_names() -> None:
    assert find_preset("hmri-1.0") is PRESETS["hmri-1.0"]
    with pytest.raises(ProtocolError, match=r"found 'hmri-1'\. Did you mean 'hmri-1\.0'"):
        find_preset("hmri-1")
