"""Series of a session by entities and sidecars; what is refused and what is told."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from voxcloud.bids.acquisitions import MpmSession

PDW, T1W, MTW = "flip-1_mt-off", "flip-2_mt-off", "flip-1_mt-on"


def test_read_mpm__contrasts_by_mt_pulse_and_flip_angle(raw: Any) -> None:
    session = raw.read()
    assert {name: (s.flip_angle_deg, s.repetition_time_s, len(s.echoes)) for name, s in session.series.items()} == {
        "MTw": (6, 0.0245, 6),
        "PDw": (6, 0.0245, 8),
        "T1w": (21, 0.0245, 8),
    }
    assert [e.echo_time_s for e in session.series["MTw"].echoes] == [0.0023, 0.0046, 0.0069, 0.0092, 0.0115, 0.0138]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in session.paths)
    assert session.b1 is not None
    assert session.b1.method == "AFI"
    assert session.warnings == ()


def test_read_mpm__survives_json(raw: Any) -> None:
    session = raw.read()
    assert MpmSession.from_tree(json.loads(json.dumps(session.to_tree()))) == session


def test_read_mpm__the_order_of_files_and_of_flip_labels_means_nothing(bare: Any) -> None:
    bare.series("T1w", names="flip-1_mt-off")
    bare.series("PDw", names="flip-2_mt-off")
    bare.series("MTw", names="flip-2_mt-on")
    bare.afi()
    # The train's numbers have two digits in one series, and sort otherwise as text in another.
    session = bare.read()
    assert session.series["PDw"].flip_angle_deg == 6
    assert session.series["T1w"].flip_angle_deg == 21
    assert all("flip-1_mt-off" in e.path for e in session.series["T1w"].echoes)


def test_read_mpm__ten_echoes_are_in_order_of_time(bare: Any) -> None:
    bare.series("PDw", echoes=12, RepetitionTimeExcitation=0.03)
    bare.series("T1w", echoes=12, RepetitionTimeExcitation=0.03)
    bare.afi()
    paths = [e.path for e in bare.read().series["PDw"].echoes]
    assert ["echo-2_" in paths[1], "echo-10_" in paths[9], "echo-12_" in paths[11]] == [True] * 3


@pytest.mark.parametrize("mt_in_sidecar", [True, False])
def test_read_mpm__names_of_before_the_standard(bare: Any, mt_in_sidecar: bool) -> None:
    for contrast in ("MTw", "PDw", "T1w"):
        bare.series(contrast, names=f"acq-{contrast}", **({} if mt_in_sidecar else {"MTState": None}))
    bare.afi()
    session = bare.read()
    assert {name: Path(s.echoes[0].path).name.split("_")[2] for name, s in session.series.items()} == {
        name: f"acq-{name}" for name in ("MTw", "PDw", "T1w")
    }


def test_read_mpm__sidecars_at_the_root_only_and_no_sessions(bare: Any) -> None:
    for contrast, angle, mt in (("MTw", 6, True), ("PDw", 6, False), ("T1w", 21, False)):
        bare.json(f"acq-{contrast}_MPM.json", {"FlipAngle": angle, "MTState": mt, "RepetitionTime": 0.0245})
        for n in range(1, 7):
            stem = f"sub-01/anat/sub-01_acq-{contrast}_echo-{n}_MPM"
            bare.image(stem, {"EchoTime": 0.0023 * n})
    for n in (1, 2):
        bare.image(f"sub-01/fmap/sub-01_acq-tr{n}_TB1AFI")
        bare.json(f"acq-tr{n}_TB1AFI.json", {"FlipAngle": 60, "RepetitionTime": 0.05 * n * n})
    session = bare.read(session="")
    assert session.who == "sub-01"
    assert session.series["T1w"].repetition_time_s == 0.0245


def test_read_mpm__compressed_capitals_and_files_of_macos(raw: Any) -> None:
    for path in sorted(raw.root.rglob("*_MPM.nii")):
        compressed = path.with_name(f"{path.stem}.NII.GZ")
        compressed.write_bytes(gzip.compress(path.read_bytes()))
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
        path.unlink()
    session = raw.read()
    assert len(session.series["PDw"].echoes) == 8
    assert session.warnings == ()


def test_read_mpm__phases_are_left_aside(raw: Any) -> None:
    for path in sorted(raw.root.rglob("*_mt-off_MPM.*")):
        stem = path.name.replace("_MPM", "_part-phase_MPM")
        shutil.copy(path, path.with_name(stem))
        path.rename(path.with_name(path.name.replace("_MPM", "_part-mag_MPM")))
    session = raw.read()
    assert all("part-phase" not in path for path in session.paths)
    assert len(session.series["T1w"].echoes) == 8
    assert session.warnings == ()


def test_read_mpm__real_and_imaginary_parts_are_refused(raw: Any) -> None:
    for path in sorted(raw.root.rglob("*_flip-2_mt-off_MPM.*")):
        path.rename(path.with_name(path.name.replace("_MPM", "_part-real_MPM")))
    text = raw.problems()[0]
    assert "part-real_MPM.nii and 7 more: expected magnitude images (part-mag, or no part), found real or imag" in text


def test_read_mpm__a_part_that_does_not_exist(raw: Any) -> None:
    raw.image("anat/echo-9_flip-1_mt-off_part-magn_MPM", {})
    assert "found part-magn. Did you mean 'mag'?" in raw.problem()


def test_read_mpm__the_same_image_twice(raw: Any) -> None:
    path = next(iter(sorted(raw.root.rglob("*_echo-1_flip-1_mt-off_MPM.nii"))))
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    text = raw.problem()
    assert "MPM.nii.gz: expected one magnitude image of these entities, found" in text
    assert "Remove one of the two." in text


def test_read_mpm__every_problem_is_told_at_once(raw: Any) -> None:
    raw.edit("*_flip-2_mt-off_MPM.json", FlipAngle=0.3665)
    raw.edit("*_echo-1_flip-1_mt-on_MPM.json", EchoTime=2.34)
    raw.edit("*_TB1AFI.json", FlipAngle=600)
    raw.edit("*_echo-2_flip-1_mt-off_MPM.json", RepetitionTimeExcitation=0.018)
    problems = "\n".join(raw.problems())
    assert problems.count("\n") == 3
    for said in (
        "0.3665 where 21 is meant",
        "2.34 where 0.00234 is meant",
        "600 where 60 is meant",
        "found 0.018 (sub-01_ses-1_echo-2_flip-1_mt-off_MPM.nii) and 0.0245 s",
    ):
        assert said in problems


def test_read_mpm__two_repetition_times_in_one_series(raw: Any) -> None:
    raw.edit("*_echo-8_flip-2_mt-off_MPM.json", RepetitionTimeExcitation=0.0195)
    assert (
        "series flip-2_mt-off: expected one RepetitionTimeExcitation or RepetitionTime for all its images, found "
        "0.0195 (sub-01_ses-1_echo-8_flip-2_mt-off_MPM.nii) and 0.0245 s"
    ) in raw.problem()


def test_read_mpm__two_flip_angles_in_one_series(raw: Any) -> None:
    raw.edit("*_echo-8_flip-2_mt-off_MPM.json", FlipAngle=20)
    assert "expected one FlipAngle for all its images, found 20" in raw.problem()


def test_read_mpm__two_keys_for_the_repetition_time_that_disagree(raw: Any) -> None:
    raw.edit("*_echo-1_flip-2_mt-off_MPM.json", RepetitionTime=0.49)
    text = raw.problem()
    assert "found RepetitionTimeExcitation 0.0245 and RepetitionTime 0.49 s" in text
    assert "remove the other" in text


def test_read_mpm__two_keys_that_agree(raw: Any) -> None:
    raw.edit("*_MPM.json", RepetitionTime=0.0245)
    assert raw.read().series["PDw"].repetition_time_s == 0.0245


def test_read_mpm__mt_off_marked_on(raw: Any) -> None:
    raw.edit("*_mt-on_MPM.json", MTState=False)
    text = raw.problem()
    assert "series flip-1_mt-on: expected name and sidecar to agree on the MT pulse, found mt-on in the name" in text
    assert "but MTState false in the sidecar of sub-01_ses-1_echo-1_flip-1_mt-on_MPM.nii" in text


def test_read_mpm__mt_by_name_alone_and_in_words(raw: Any) -> None:
    raw.edit("*_mt-on_MPM.json", MTState=None)
    raw.edit("*_mt-off_MPM.json", MTState="Off")
    assert sorted(raw.read().series) == ["MTw", "PDw", "T1w"]


def test_read_mpm__an_mt_state_that_is_neither(raw: Any) -> None:
    raw.edit("*_mt-on_MPM.json", MTState="maybe")
    assert "expected MTState true or false, found the text 'maybe'" in raw.problem()


@pytest.mark.parametrize("state", [1, [True], {"on": True}])
def test_read_mpm__an_mt_state_of_another_type(raw: Any, state: Any) -> None:
    raw.edit("*_mt-on_MPM.json", MTState=state)
    assert "expected MTState true or false, found" in raw.problem()


def test_read_mpm__mt_not_known(bare: Any) -> None:
    for contrast, n in (("PDw", 1), ("T1w", 2)):
        bare.series(contrast, names=f"flip-{n}", MTState=None)
    bare.afi()
    assert all("expected MTState (or mt-on, mt-off in the name) in a sidecar" in text for text in bare.problems())


@pytest.mark.parametrize(("label", "angle"), [("PDw", 21), ("T1w", 6)])
def test_read_mpm__name_and_flip_angle_contradict(bare: Any, label: str, angle: float) -> None:
    bare.series("PDw", names="acq-PDw", FlipAngle=21)
    bare.series("T1w", names="acq-T1w", FlipAngle=6)
    bare.afi()
    assert any(
        f"series acq-{label}: expected {label} by its name, found" in text and f"{angle} degrees" in text
        for text in bare.problems()
    )


def test_read_mpm__mtw_by_name_without_pulse(bare: Any) -> None:
    bare.series("PDw", names="acq-PDw")
    bare.series("T1w", names="acq-T1w")
    bare.series("MTw", names="acq-MTw", MTState=False)
    bare.afi()
    assert "found acq-MTw in the name, but MTState false" in bare.problem()


@pytest.mark.parametrize(
    ("there", "said"),
    [("PDw", "T1w is missing"), ("T1w", "PDw is missing")],
)
def test_read_mpm__pdw_or_t1w_is_missing(bare: Any, there: str, said: str) -> None:
    bare.series(there, names=f"acq-{there}")
    bare.series("MTw", names="acq-MTw")
    bare.afi()
    text = bare.problem()
    assert f"{said}: expected two series without MT pulse" in text
    assert "R1 needs both" in text


def test_read_mpm__all_with_mt_pulse(bare: Any) -> None:
    bare.series("MTw")
    bare.afi()
    assert "expected series without MT pulse at two flip angles (PDw and T1w), found none" in bare.problem()


def test_read_mpm__mtw_is_missing(bare: Any) -> None:
    bare.series("PDw")
    bare.series("T1w")
    bare.afi()
    session = bare.read()
    assert sorted(session.series) == ["PDw", "T1w"]
    assert session.warnings == ("sub-01_ses-1: there is no MTw series (MT pulse on): maps are made without MTsat.",)


def test_read_mpm__a_third_flip_angle(raw: Any) -> None:
    raw.series("PDw", names="flip-3_mt-off", FlipAngle=12)
    text = raw.problem()
    assert "found 3: flip-1_mt-off (6 degrees), flip-3_mt-off (12 degrees), flip-2_mt-off (21 degrees)" in text


def test_read_mpm__one_flip_angle_twice(raw: Any) -> None:
    raw.edit("*_flip-2_mt-off_MPM.json", FlipAngle=6)
    assert "expected two flip angles without MT pulse" in raw.problem()


def test_read_mpm__two_series_with_mt_pulse(raw: Any) -> None:
    raw.series("MTw", names="acq-strong_flip-1_mt-on")
    assert (
        "expected one series with MT pulse, found 2: acq-strong_flip-1_mt-on (6 degrees), flip-1_mt-on" in raw.problem()
    )


def test_read_mpm__an_echo_is_missing_in_the_middle(raw: Any) -> None:
    raw.remove("*_echo-3_flip-1_mt-off_MPM.*")
    text = raw.problem()
    assert (
        "series flip-1_mt-off: expected echoes without a gap, found echo 1, 2, 4, 5, 6, 7, 8; echo-3 is missing" in text
    )


def test_read_mpm__the_first_echo_is_missing(raw: Any) -> None:
    raw.remove("*_echo-1_flip-1_mt-off_MPM.*")
    assert "echo-1 is missing" in raw.problem()


@pytest.mark.parametrize(("pattern", "said"), [(T1W, "T1w (series flip-2_mt-off) has 7 echoes, others up to 8")])
def test_read_mpm__the_last_echo_is_missing(raw: Any, pattern: str, said: str) -> None:
    raw.remove(f"*_echo-8_{pattern}_MPM.*")
    assert any(said in text for text in raw.read().warnings)


def test_read_mpm__mtw_of_fewer_than_six_echoes_is_told(raw: Any) -> None:
    raw.remove(f"*_echo-6_{MTW}_MPM.*")
    warnings = raw.read().warnings
    assert len(warnings) == 2
    assert "5 echoes; R2* is imprecise with fewer than 6" in warnings[0]
    assert "MTw (series flip-1_mt-on) has 5 echoes, others up to 8" in warnings[1]


@pytest.mark.parametrize(("count", "said"), [(3, "3 echoes; R2* needs at least 4"), (4, "4 echoes; R2* is imprecise")])
def test_read_mpm__few_echoes_are_told(bare: Any, count: int, said: str) -> None:
    bare.series("PDw", echoes=count)
    bare.series("T1w", echoes=count)
    bare.afi()
    assert sum(said in text for text in bare.read().warnings) == 2


@pytest.mark.parametrize(("count", "said"), [(2, "found 2"), (13, "found 13")])
def test_read_mpm__too_few_or_too_many_echoes(bare: Any, count: int, said: str) -> None:
    bare.series("PDw", echoes=count, RepetitionTimeExcitation=0.04)
    bare.series("T1w")
    bare.afi()
    assert f"expected 3 to 12 echoes, {said}" in bare.problem()


def test_read_mpm__an_echo_time_twice(raw: Any) -> None:
    raw.edit("*_echo-2_flip-2_mt-off_MPM.json", EchoTime=0.0023)
    assert "expected different echo times, found 0.0023 s for echo-1 and echo-2" in raw.problem()


def test_read_mpm__sidecars_exchanged(raw: Any) -> None:
    raw.edit("*_echo-2_flip-2_mt-off_MPM.json", EchoTime=0.0069)
    raw.edit("*_echo-3_flip-2_mt-off_MPM.json", EchoTime=0.0046)
    assert "found 0.0069 s for echo-2 and 0.0046 s for echo-3. Check whether sidecars or names were" in raw.problem()


def test_read_mpm__the_repetition_ends_before_the_last_echo(raw: Any) -> None:
    raw.edit("*_flip-2_mt-off_MPM.json", RepetitionTimeExcitation=0.015)
    assert "expected a repetition time longer than the last echo time, found 0.015 s and 0.0184 s" in raw.problem()


def test_read_mpm__a_sidecar_is_missing(raw: Any) -> None:
    raw.remove("*_echo-4_flip-2_mt-off_MPM.json")
    problems = raw.problems()
    assert len(problems) == 3
    for key, text in zip(
        ("FlipAngle", "RepetitionTimeExcitation or RepetitionTime", "EchoTime"), problems, strict=True
    ):
        assert f"expected {key} in a sidecar" in text
        assert "found no sidecar for sub-01_ses-1_echo-4_flip-2_mt-off_MPM.nii." in text


def test_read_mpm__a_series_without_sidecars(raw: Any) -> None:
    raw.remove("*_flip-2_mt-off_MPM.json")
    assert (
        "series flip-2_mt-off: expected EchoTime, FlipAngle, RepetitionTimeExcitation or RepetitionTime, MTState in a "
        "sidecar"
    ) in raw.problem()


def test_read_mpm__stray_images_without_sidecars_are_told(raw: Any) -> None:
    raw.image("anat/acq-test_echo-1_MPM")
    raw.image("anat/acq-test_echo-2_MPM")
    raw.image("anat/echo-1_flip-1_mt-off_MPM_old")
    raw.image("anat/echo1_MPM")
    first, *others = raw.read().warnings
    assert first == (
        "sub-01_ses-1: sub-01_ses-1_acq-test_echo-1_MPM.nii and 1 more are not used: no sidecar tells what was "
        "acquired."
    )
    assert [text.split()[1] for text in others] == [
        "sub-01_ses-1_echo-1_flip-1_mt-off_MPM_old.nii",
        "sub-01_ses-1_echo1_MPM.nii",
    ]


def test_read_mpm__matrix_sizes_differ_within_a_series(raw: Any) -> None:
    raw.image("anat/echo-5_flip-2_mt-off_MPM", shape=(2, 2, 3))
    text = raw.problem()
    assert "series flip-2_mt-off: expected images of one size, found 2 x 2 x 2 and 2 x 2 x 3 voxels" in text
    assert "echo-1_flip-2_mt-off_MPM.nii and sub-01_ses-1_echo-5_flip-2_mt-off_MPM.nii" in text


def test_read_mpm__places_differ_within_a_series(raw: Any) -> None:
    raw.image("anat/echo-5_flip-2_mt-off_MPM", shift=3.0)
    assert "expected images in one place, found corners 3 mm apart" in raw.problem()


def test_read_mpm__series_on_different_grids_are_fine(bare: Any) -> None:
    bare.mpm()
    bare.afi()
    for n in range(1, 7):
        bare.image(f"anat/echo-{n}_flip-1_mt-on_MPM", shape=(3, 2, 2), shift=1.0)
    assert bare.read().warnings == ()


def test_read_mpm__all_echoes_in_one_file(bare: Any) -> None:
    times = [0.0023, 0.0046, 0.0069, 0.0092, 0.0115, 0.0138]
    for n, angle in ((1, 6), (2, 21)):
        sidecar = {"FlipAngle": angle, "MTState": False, "RepetitionTimeExcitation": 0.0245, "EchoTime": times}
        bare.image(f"anat/flip-{n}_mt-off_MPM", sidecar, shape=(2, 2, 2, 6))
    bare.afi()
    session = bare.read()
    assert [(e.echo_time_s, e.volume) for e in session.series["PDw"].echoes] == list(zip(times, range(6), strict=True))
    assert len(session.paths) == 4


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0.0023, 0.0046], "expected EchoTime as a list of 6 numbers in s, one per volume of"),
        (0.0023, "found 0.0023. Write it, or split the file"),
        ([2.3, 4.6, 6.9, 9.2, 11.5, 13.8], "2.3 where 0.0023 is meant"),
        ([0.0023] * 6, "expected different echo times"),
    ],
)
def test_read_mpm__one_file_whose_echo_times_do_not_fit(raw: Any, times: Any, said: str) -> None:
    raw.remove("*_flip-2_mt-off_MPM.*")
    sidecar = {"FlipAngle": 21, "MTState": False, "RepetitionTimeExcitation": 0.0245, "EchoTime": times}
    raw.image("anat/flip-2_mt-off_MPM", sidecar, shape=(2, 2, 2, 6))
    assert said in raw.problem()


def test_read_mpm__several_volumes_among_echoes(raw: Any) -> None:
    raw.image("anat/echo-5_flip-2_mt-off_MPM", shape=(2, 2, 2, 2))
    assert "echo-5_flip-2_mt-off_MPM.nii: expected one volume, found 2. Split it" in raw.problem()


def test_read_mpm__several_runs_ask_for_one(bare: Any) -> None:
    bare.series("PDw", names="flip-1_mt-off")
    for run in (1, 2):
        bare.series("T1w", names=f"run-{run}_flip-2_mt-off", RepetitionTimeExcitation=0.02 + 0.001 * run)
    bare.series("MTw")
    bare.afi()
    text = bare.problem()
    assert "expected one run, found run-1, run-2. Name the one to use in the study file, e.g. mpm.run: 1." in text
    session = bare.read(run="02")
    assert session.series["T1w"].run == "2"
    assert session.series["T1w"].repetition_time_s == 0.022
    assert session.series["PDw"].run == ""
    assert "expected run-7 (mpm.run), found run-1, run-2" in bare.problem(run="7")


def test_read_mpm__each_contrast_with_a_run_of_its_own(bare: Any) -> None:
    bare.series("PDw", names="run-1_flip-1_mt-off")
    bare.series("T1w", names="run-2_flip-2_mt-off")
    bare.series("MTw", names="run-3_flip-1_mt-on")
    bare.afi()
    assert {name: s.run for name, s in bare.read().series.items()} == {"MTw": "3", "PDw": "1", "T1w": "2"}


def test_read_mpm__the_scanner_where_sidecars_agree(raw: Any) -> None:
    raw.edit("*_flip-2_mt-off_MPM.json", SoftwareVersions="XA30", Manufacturer="SIEMENS ")
    raw.edit("*_flip-1_mt-off_MPM.json", SoftwareVersions="XA60")
    session = raw.read()
    assert session.scanner["MagneticFieldStrength"] == 3
    assert session.scanner["Manufacturer"].casefold() == "siemens"
    assert "SoftwareVersions" not in session.scanner
    (warning,) = session.warnings
    assert "SoftwareVersions differs between the series: the text 'XA60'" in warning


def test_read_mpm__two_field_strengths(raw: Any) -> None:
    raw.edit("*_flip-2_mt-off_MPM.json", MagneticFieldStrength=7)
    assert "expected one MagneticFieldStrength for all series, found 3 (" in raw.problem()


def test_read_mpm__field_strength_in_gauss(raw: Any) -> None:
    raw.edit("*_MPM.json", MagneticFieldStrength=30000)
    assert "30000 where 3 is meant: divide gauss by 10000." in raw.problem()
