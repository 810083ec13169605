"""Which diffusion sessions are named, why, and how often by chance."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import ModuleType
from typing import Any

import pytest

from voxcloud.report.qc_dwi_measures import FRAME, dwi_measures, find_dwi_outliers, shells_of
from voxcloud.report.qc_outliers import Outlier

Quality = dict[str, Any]


@pytest.fixture(scope="module")
def make(fake_dwi: ModuleType) -> Callable[..., Quality]:
    """Give the maker of sessions; thumbnails are left out."""

    def made(participant: str = "01", visit: str = "1", seed: int = 0, **changes: Any) -> Quality:
        found: Quality = fake_dwi.fake_session(participant, visit, seed, thumbnails={}, **changes)
        return found

    return made


@pytest.fixture(scope="module")
def forty(make: Callable[..., Quality]) -> list[Quality]:
    """Forty sessions of forty people."""
    return [make(f"{k:02d}", "1", seed=k) for k in range(1, 41)]


def named(outliers: list[Outlier], kind: str) -> list[tuple[str, str]]:
    """Return who is named in which measure for one kind of reason."""
    return [(o.who, o.measure) for o in outliers if o.kind == kind]


def test_find_dwi_outliers__normal_sessions_are_rarely_named(make: Callable[..., Quality]) -> None:
    sessions = [make(f"{k:03d}", seed=k) for k in range(1, 121)]
    assert len({o.who for o in find_dwi_outliers(sessions)}) <= 5


def test_find_dwi_outliers__a_good_session_alone_is_not_named(make: Callable[..., Quality]) -> None:
    assert find_dwi_outliers([make()]) == []


def _put(qc: Quality, path: str, value: float) -> None:
    *most, last = path.split(".")
    for key in most:
        qc = qc[int(key)] if key.isdigit() else qc[key]
    qc[last] = value


@pytest.mark.parametrize(
    ("path", "value", "measure"),
    [
        ("motion.fd_mm.mean", 1.5, "Movement between volumes (FD), mean"),
        ("motion.fd_mm.max", 9.0, "Movement between volumes (FD), largest"),
        ("motion.eddy_rms_mm.mean", 2.5, "Eddy-current distortion, mean"),
        ("outliers.percent", 6.0, "Slices that are outliers"),
        ("snr_b0", 20.0, "SNR of b = 0 between volumes"),
        ("snr_noise", 12.0, "SNR of b = 0 over the noise map"),
        ("cnr.0.cnr", 1.0, "CNR at b = 1000"),
        ("residual.median_percent", 6.0, "What the tensor leaves, of S0"),
        ("negatives_percent", 6.0, "Brain with a negative eigenvalue"),
        ("susceptibility.correlation_after", 0.8, "Likeness of both phase encodings"),
        ("maps.fa.brain.median", 0.15, "FA in the brain, median"),
        ("maps.fa.WM.median", 0.45, "FA where it is at least .4, median"),
        ("maps.md.WM.median", 0.9e-3, "MD where FA is at least .4, median"),
        ("maps.md.brain.median", 1.2e-3, "MD in the brain, median"),
        ("volume_ml.brain", 1900.0, "Volume of the brain mask"),
    ],
)
def test_find_dwi_outliers__each_number_can_name_a_session(
    forty: list[Quality], path: str, value: float, measure: str
) -> None:
    sessions = deepcopy(forty)
    _put(sessions[11], path, value)
    assert ("sub-12_ses-1", measure) in named(find_dwi_outliers(sessions), "cohort")


@pytest.mark.parametrize(
    ("path", "value"), [("snr_b0", 90.0), ("outliers.percent", 0.0), ("cnr.0.cnr", 4.0), ("motion.fd_mm.mean", 0.01)]
)
def test_find_dwi_outliers__better_than_the_others_is_no_reason(forty: list[Quality], path: str, value: float) -> None:
    sessions = deepcopy(forty)
    _put(sessions[11], path, value)
    assert "sub-12_ses-1" not in {o.who for o in find_dwi_outliers(sessions)}


def test_find_dwi_outliers__limits_hold_for_a_single_session(make: Callable[..., Quality]) -> None:
    qc = make()
    qc["motion"]["fd_mm"]["mean"] = 2.4
    qc["outliers"]["percent"] = 11.0
    found = [(o.measure, o.kind, o.reference) for o in find_dwi_outliers([qc])]
    assert found == [
        ("Movement between volumes (FD), mean", "limit", "up to 2"),
        ("Slices that are outliers", "limit", "up to 10"),
    ]


@pytest.mark.parametrize(("verdict", "count"), [("right", 0), ("unclear", 0), ("wrong", 1)])
def test_find_dwi_outliers__only_a_frame_that_images_contradict_is_named(
    make: Callable[..., Quality], verdict: str, count: int
) -> None:
    found = find_dwi_outliers([make(frame={"verdict": verdict, "message": "m", "lead": 12.5})])
    assert [(o.measure, o.value, o.kind) for o in found] == count * [(FRAME, 12.5, "limit")]


def test_find_dwi_outliers__a_visit_is_compared_with_the_persons_others(make: Callable[..., Quality]) -> None:
    visits = [make("01", str(k), seed=k, fa=1.0, md=1.0) for k in range(1, 5)]
    visits[2] = make("01", "3", seed=3, fa=0.92, md=1.0)
    assert named(find_dwi_outliers(visits), "visits") == [("sub-01_ses-3", "FA where it is at least .4, median")]


def test_find_dwi_outliers__a_mask_of_another_size_is_a_visit_that_differs(make: Callable[..., Quality]) -> None:
    visits = [make("01", str(k), seed=k, fa=1.0, md=1.0) for k in range(1, 4)]
    visits[1]["volume_ml"] = {"brain": 1150.0, "WM": 400.0}
    assert named(find_dwi_outliers(visits), "visits") == [("sub-01_ses-2", "Volume of the brain mask")]


def test_find_dwi_outliers__missing_numbers_are_not_compared(forty: list[Quality]) -> None:
    sessions = deepcopy(forty)
    for qc in sessions[:5]:
        qc.update(motion=None, outliers=None, susceptibility=None, frame=None, snr_b0=None, snr_noise=None)
        qc["cnr"] = []
        qc["maps"] = {}
        qc["volume_ml"] = {"brain": 0.0, "WM": 0.0}
    assert {o.measure for o in find_dwi_outliers(sessions)} <= {"Volume of the brain mask"}


def test_shells_of__b_values_within_a_tenth_are_one(make: Callable[..., Quality]) -> None:
    sessions = [make(seed=k) for k in range(3)]
    for qc, shells in zip(sessions, ((995.0, 2000.0), (1005.0,), (710.0, 2010.0)), strict=True):
        qc["shells"] = [{"b": b, "n": 30, "directions": 30} for b in shells]
        qc["cnr"] = [{"b": b, "cnr": b / 1000} for b in shells]
    assert shells_of(sessions) == [700.0, 1000.0, 2000.0]
    by_key = {m.key: m for m in dwi_measures(sessions)}
    assert [by_key["cnr_1000"].value(qc) for qc in sessions] == [0.995, 1.005, None]
    assert [by_key["cnr_2000"].value(qc) for qc in sessions] == [2.0, None, 2.01]


def test_dwi_measures__have_keys_of_their_own_and_units(forty: list[Quality]) -> None:
    measures = dwi_measures(forty)
    assert len({m.key for m in measures}) == len(measures)
    assert len({m.title for m in measures}) == len(measures)
    assert all(m.units for m in measures)
