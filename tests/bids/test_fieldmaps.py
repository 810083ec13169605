"""B1+ and B0 acquisitions and receive pairs: which is taken, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SESTE_FILES = "*_TB1EPI.json"


@pytest.fixture
def maps(bare: Any) -> Any:
    """Return a data set with three series and nothing in fmap."""
    bare.mpm()
    return bare


def roles(images: dict[str, str]) -> dict[str, str]:
    """Return file names without what all have in common."""
    return {role: Path(path).stem.removeprefix("sub-01_ses-1_") for role, path in images.items()}


# Which acquisition


def test_read_b1__none_stops_and_names_the_way_out(maps: Any) -> None:
    text = maps.problem()
    assert "expected a B1+ acquisition in fmap (TB1AFI, TB1DAM, TB1TFL, TB1RFM, TB1EPI, TB1map), found none." in text
    assert "mpm.missing_b1: semi-quantitative" in text


def test_read_b1__none_is_told_where_it_is_allowed(maps: Any) -> None:
    session = maps.read(missing_b1="semi-quantitative")
    assert session.b1 is None
    assert "not corrected for it and are semi-quantitative (mpm.missing_b1)" in session.warnings[0]


def test_read_b1__one_that_nobody_can_use_is_named(maps: Any) -> None:
    maps.image("fmap/flip-1_inv-1_TB1SRGE", {})
    assert "found none but sub-01_ses-1_flip-1_inv-1_TB1SRGE.nii, which voxcloud cannot use" in maps.problem()


def test_read_b1__several_kinds_ask_for_one(maps: Any) -> None:
    maps.afi()
    maps.image("fmap/TB1map", {"Units": "percent"})
    text = maps.problem()
    assert (
        "found 2: AFI (TB1AFI), TB1map (TB1map). Name the one to use in the study file, mpm.b1: AFI or TB1map." in text
    )
    assert maps.read(b1="TB1map").b1.method == "TB1map"


def test_read_b1__the_kind_that_was_asked_for_is_not_there(maps: Any) -> None:
    maps.afi()
    assert "expected a B1+ acquisition in fmap (TB1EPI (mpm.b1: SESTE)), found TB1AFI" in maps.problem(b1="SESTE")


def test_read_b1__two_acquisitions_of_a_kind(maps: Any) -> None:
    for case in ("Test", "Retest"):
        for n in (1, 2):
            maps.image(f"fmap/acq-tr{n}{case}_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.05 * n * n})
    assert "expected one TB1AFI acquisition, found 2: sub-01_ses-1_acq-tr1" in maps.problem()


def test_read_b1__runs(maps: Any) -> None:
    for run in (1, 2):
        for n in (1, 2):
            maps.image(f"fmap/acq-tr{n}_run-{run}_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.05 * n * n})
    assert "expected one run, found run-1, run-2" in maps.problem()
    assert roles(maps.read(run="2").b1.images) == {"short": "acq-tr1_run-2_TB1AFI", "long": "acq-tr2_run-2_TB1AFI"}


# AFI, DAM


def test_read_b1__afi(maps: Any) -> None:
    maps.afi()
    b1 = maps.read().b1
    assert roles(b1.images) == {"short": "acq-tr1_TB1AFI", "long": "acq-tr2_TB1AFI"}
    assert b1.parameters == {"flip_angle_deg": 60, "repetition_times_s": [0.05, 0.15]}


def test_read_b1__afi_without_roles_in_its_names(maps: Any) -> None:
    maps.image("fmap/acq-a_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.15})
    maps.image("fmap/acq-b_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.05})
    assert roles(maps.read().b1.images) == {"short": "acq-b_TB1AFI", "long": "acq-a_TB1AFI"}


def test_read_b1__afi_by_the_key_that_tells_its_times_apart(maps: Any) -> None:
    for n, time in ((1, 0.05), (2, 0.15)):
        sidecar = {"FlipAngle": 60, "RepetitionTime": 0.2, "RepetitionTimeExcitation": time}
        maps.image(f"fmap/acq-tr{n}_TB1AFI", sidecar)
    assert maps.read().b1.parameters["repetition_times_s"] == [0.05, 0.15]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"FlipAngle": 600}, "600 where 60 is meant: divide tenths of a degree by 10."),
        ({"FlipAngle": 1.0472}, "1.0472 where 60 is meant: convert rad to degrees"),
        ({"RepetitionTime": 0.2}, "a short and a long one, found 0.2 s for both"),
        ({"RepetitionTime": None}, "expected RepetitionTime or RepetitionTimeExcitation in a sidecar"),
    ],
)
def test_read_b1__afi_with_a_wrong_sidecar(maps: Any, changes: dict[str, Any], said: str) -> None:
    maps.afi(**changes)
    assert said in maps.problem()


def test_read_b1__afi_in_milliseconds(maps: Any) -> None:
    maps.afi()
    maps.edit("*tr1_TB1AFI.json", RepetitionTime=50)
    maps.edit("*tr2_TB1AFI.json", RepetitionTime=150)
    assert "found 50, 150 (sub-01_ses-1_acq-tr1_TB1AFI.json and 1 more). 50 where 0.05 is meant" in maps.problem()


def test_read_b1__afi_exchanged(maps: Any) -> None:
    maps.image("fmap/acq-tr1_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.15})
    maps.image("fmap/acq-tr2_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.05})
    assert "expected the shorter repetition time for acq-tr1, found 0.15 s for sub-01_ses-1_acq-tr1" in maps.problem()


def test_read_b1__afi_of_one_image(maps: Any) -> None:
    maps.image("fmap/acq-tr1_TB1AFI", {"FlipAngle": 60, "RepetitionTime": 0.05})
    assert "expected two images (acq-tr1 with the shorter" in maps.problem()


def test_read_b1__afi_in_one_file_of_two_volumes(maps: Any) -> None:
    maps.image("fmap/TB1AFI", {"FlipAngle": 60, "RepetitionTime": [0.05, 0.15]}, shape=(2, 2, 2, 2))
    assert "Split the file into one per volume, with a sidecar each." in maps.problem()


def test_read_b1__afi_of_two_sizes(maps: Any) -> None:
    maps.afi()
    maps.image("fmap/acq-tr2_TB1AFI", shape=(2, 3, 2))
    assert "expected images of one size, found 2 x 2 x 2 and 2 x 3 x 2 voxels" in maps.problem()


def test_read_b1__dam_by_flip_angle(maps: Any) -> None:
    maps.image("fmap/flip-1_TB1DAM", {"FlipAngle": 120.5})
    maps.image("fmap/flip-2_TB1DAM", {"FlipAngle": 60})
    b1 = maps.read().b1
    assert (b1.method, b1.parameters) == ("DAM", {"flip_angle_deg": 60})
    assert roles(b1.images) == {"single": "flip-2_TB1DAM", "double": "flip-1_TB1DAM"}


def test_read_b1__dam_that_is_not_double(maps: Any) -> None:
    maps.image("fmap/flip-1_TB1DAM", {"FlipAngle": 60})
    maps.image("fmap/flip-2_TB1DAM", {"FlipAngle": 122})
    assert "expected one flip angle twice the other within 1%, found 60 degrees" in maps.problem()


# TFL, RFM, TB1map


@pytest.mark.parametrize("suffix", ["TFL", "RFM"])
def test_read_b1__scaled_maps(maps: Any, suffix: str) -> None:
    maps.image(f"fmap/acq-anat_TB1{suffix}", {"FlipAngle": 8})
    maps.image(f"fmap/acq-famp_TB1{suffix}", {"FlipAngle": 80})
    b1 = maps.read().b1
    assert (b1.method, b1.parameters) == (suffix, {"flip_angle_deg": 80})
    assert roles(b1.images) == {"famp": f"acq-famp_TB1{suffix}", "anat": f"acq-anat_TB1{suffix}"}


def test_read_b1__tfl_with_the_angle_of_its_readout(maps: Any) -> None:
    for role in ("anat", "famp"):
        maps.image(f"fmap/acq-{role}_TB1TFL", {"FlipAngle": 8})
    assert "found 8 (sub-01_ses-1_acq-famp_TB1TFL.json). It is the nominal angle of the preparation" in maps.problem()


def test_read_b1__tfl_without_anatomy(maps: Any) -> None:
    maps.image("fmap/acq-famp_TB1TFL", {"FlipAngle": 80})
    assert "expected two images, acq-famp (flip angles) and acq-anat (to register with)" in maps.problem()


@pytest.mark.parametrize(("units", "kept"), [("percent", "percent"), ("%", "percent"), (1, "1"), (None, None)])
def test_read_b1__ready_made(maps: Any, units: Any, kept: str | None) -> None:
    maps.image("fmap/TB1map", {"Units": units})
    b1 = maps.read().b1
    assert roles(b1.images) == {"map": "TB1map"}
    assert b1.parameters.get("units") == kept


def test_read_b1__ready_made_in_degrees(maps: Any) -> None:
    maps.image("fmap/TB1map", {"Units": "degrees"})
    assert "expected Units of percent or 1 (actual over nominal flip angle), found the text 'degrees'" in maps.problem()


def test_read_b1__ready_made_with_a_magnitude(maps: Any) -> None:
    maps.image("fmap/acq-b1_TB1map", {})
    maps.image("fmap/acq-b1_magnitude", {})
    maps.image("fmap/magnitude", {})
    assert roles(maps.read().b1.images) == {"map": "acq-b1_TB1map", "anat": "acq-b1_magnitude"}


def test_read_b1__a_magnitude_of_a_b0_map_is_not_that_of_b1(maps: Any) -> None:
    maps.image("fmap/TB1map", {})
    maps.phasediff()
    assert roles(maps.read().b1.images) == {"map": "TB1map"}


# SE/STE


def test_read_b1__seste_in_order_of_falling_angle(maps: Any) -> None:
    maps.seste()
    maps.phasediff()
    b1 = maps.read().b1
    assert b1.parameters == {
        "flip_angle_deg": [115, 105, 95, 85, 75, 65],
        "mixing_time_s": 0.0338,
        "readout_s": 0.0243,
        "phase_encoding": "j",
    }
    found = roles(b1.images)
    assert (found["se-01"], found["ste-06"]) == ("echo-1_flip-6_TB1EPI", "echo-2_flip-1_TB1EPI")
    assert (b1.b0.method, b1.b0.parameters) == ("phasediff", {"echo_times_s": [0.00492, 0.00738]})
    assert roles(b1.b0.images) == {"phasediff": "phasediff", "magnitude": "magnitude1"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MixingTime": 33.8}, "33.8 where 0.0338 is meant"),
        ({"MixingTime": None}, "expected MixingTime in a sidecar"),
        ({"TotalReadoutTime": 6720.00624}, "6720.01 where 0.00672 is meant: divide microseconds by 1000000."),
        ({"TotalReadoutTime": None}, "expected TotalReadoutTime or EffectiveEchoSpacing in a sidecar"),
        ({"PhaseEncodingDirection": "AP"}, "expected a PhaseEncodingDirection of i, i-, j, j-, k, k-"),
        ({"PhaseEncodingDirection": None}, "expected PhaseEncodingDirection in a sidecar"),
    ],
)
def test_read_b1__seste_with_a_wrong_sidecar(maps: Any, changes: dict[str, Any], said: str) -> None:
    maps.seste(**changes)
    maps.phasediff()
    assert said in maps.problem()


def test_read_b1__seste_with_the_spin_echo_s_angle(maps: Any) -> None:
    maps.seste([230, 210, 190, 170, 150, 130])
    maps.phasediff()
    assert any("190 where 95 is meant: FlipAngle of TB1EPI is that of the stimulated" in t for t in maps.problems())


def test_read_b1__seste_readout_from_echo_spacing(maps: Any) -> None:
    maps.seste(TotalReadoutTime=None, EffectiveEchoSpacing=0.0005, ReconMatrixPE=49)
    maps.phasediff()
    assert maps.read().b1.parameters["readout_s"] == pytest.approx(0.024)


def test_read_b1__seste_readout_from_echo_spacing_and_size(maps: Any) -> None:
    maps.seste(TotalReadoutTime=None, EffectiveEchoSpacing=0.005)
    maps.phasediff()
    assert maps.read().b1.parameters["readout_s"] == pytest.approx(0.005)


def test_read_b1__seste_without_a_partner(maps: Any) -> None:
    maps.seste()
    maps.remove("*_echo-2_flip-3_TB1EPI.*")
    maps.phasediff()
    assert "echo-1_flip-3_TB1EPI.nii: expected echo-2 (stimulated echo) of the same flip angle" in maps.problem()


def test_read_b1__seste_of_few_angles(maps: Any) -> None:
    maps.seste([115, 105, 95])
    maps.phasediff()
    assert "expected at least 5 flip angles, found 3" in maps.problem()


def test_read_b1__seste_exchanged(maps: Any) -> None:
    maps.seste()
    maps.edit("*_echo-1_*TB1EPI.json", EchoTime=0.0709)
    maps.edit("*_echo-2_*TB1EPI.json", EchoTime=0.0371)
    maps.phasediff()
    assert "found 0.0709 and 0.0371 s. Were the two exchanged?" in maps.problem()


def test_read_b1__seste_with_two_angles_in_a_pair(maps: Any) -> None:
    maps.seste()
    maps.edit("*_echo-2_flip-2_TB1EPI.json", FlipAngle=70)
    maps.phasediff()
    assert "expected one FlipAngle for both echoes" in maps.problem()


# B0


def test_find_b0__none_stops_and_names_the_way_out(maps: Any) -> None:
    maps.seste()
    text = maps.problem()
    assert "expected a field map that belongs to it (phasediff, phase1 and phase2, fieldmap, or a pair of epi)" in text
    assert "found none in fmap" in text
    assert "mpm.missing_b0: skip" in text


def test_find_b0__none_is_told_where_it_is_allowed(maps: Any) -> None:
    maps.seste(PhaseEncodingDirection=None, TotalReadoutTime=None)
    session = maps.read(missing_b0="skip")
    assert session.b1.b0 is None
    assert "has no field map (found none in fmap); not unwarped (mpm.missing_b0: skip)" in session.warnings[0]


def test_find_b0__one_that_is_merely_there_is_not_taken(maps: Any) -> None:
    maps.seste(B0FieldSource=None)
    maps.phasediff(B0FieldIdentifier=None, IntendedFor="bids::sub-01/ses-1/anat/sub-01_ses-1_T1w.nii")
    assert "found sub-01_ses-1_phasediff.nii, which no sidecar links to it. Write the same name as" in maps.problem()


def test_find_b0__an_identifier_that_does_not_exist(maps: Any) -> None:
    maps.seste(B0FieldSource="b00")
    maps.phasediff()
    assert "found B0FieldIdentifier b0 for B0FieldSource 'b00'. Did you mean 'b0'? Write" in maps.problem()


@pytest.mark.parametrize(
    "entry",
    [
        "bids::sub-01/ses-1/fmap/sub-01_ses-1_echo-1_flip-1_TB1EPI.nii",
        "ses-1/fmap/sub-01_ses-1_echo-2_flip-4_TB1EPI.nii.gz",
        ["ses-1/anat/x.nii", "ses-1/fmap/sub-01_ses-1_echo-1_flip-1_TB1EPI.nii"],
    ],
)
def test_find_b0__by_intended_for(maps: Any, entry: Any) -> None:
    maps.seste(B0FieldSource=None)
    maps.phasediff(B0FieldIdentifier=None, IntendedFor=entry)
    assert maps.read().b1.b0.method == "phasediff"


def test_find_b0__the_source_goes_before_intended_for(maps: Any) -> None:
    maps.seste()
    maps.phasediff()
    entry = "ses-1/fmap/sub-01_ses-1_echo-1_flip-1_TB1EPI.nii"
    maps.phasediff("acq-other_", B0FieldIdentifier="other", IntendedFor=entry)
    assert roles(maps.read().b1.b0.images)["phasediff"] == "phasediff"


def test_find_b0__linked_for_the_whole_data_set_at_its_root(maps: Any) -> None:
    maps.seste(B0FieldSource=None)
    maps.phasediff(B0FieldIdentifier=None)
    maps.json("phasediff.json", {"B0FieldIdentifier": "b0"})
    maps.json("TB1EPI.json", {"B0FieldSource": "b0"})
    assert maps.read().b1.b0.method == "phasediff"


def test_find_b0__two_that_fit(maps: Any) -> None:
    maps.seste()
    maps.phasediff()
    maps.phasediff("acq-other_", B0FieldIdentifier=["x", "b0"])
    text = maps.problem()
    assert "expected one field map, found 2 that belong to it: sub-01_ses-1_acq-other_phasediff.nii; sub-01" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"EchoTime1": 4.92, "EchoTime2": 7.38}, "4.92 where 0.00492 is meant: divide milliseconds by 1000."),
        ({"EchoTime1": None}, "expected EchoTime1 in a sidecar"),
        ({"EchoTime1": 0.00738, "EchoTime2": 0.00492}, "found 0.00738 and 0.00492 s"),
    ],
)
def test_find_b0__phasediff_with_a_wrong_sidecar(maps: Any, changes: dict[str, Any], said: str) -> None:
    maps.seste()
    maps.phasediff(**changes)
    assert any(said in text for text in maps.problems())


def test_find_b0__phasediff_without_magnitude(maps: Any) -> None:
    maps.seste()
    maps.phasediff()
    maps.remove("*_magnitude1.*")
    assert "phasediff.nii: expected magnitude1 beside it" in maps.problem()


def test_find_b0__two_phases(maps: Any) -> None:
    maps.seste()
    for n, time in ((1, 0.00492), (2, 0.00738)):
        maps.image(f"fmap/phase{n}", {"EchoTime": time, "B0FieldIdentifier": "b0", "Units": "rad"})
        maps.image(f"fmap/magnitude{n}", {})
    b0 = maps.read().b1.b0
    assert (b0.method, b0.parameters) == ("phase12", {"echo_times_s": [0.00492, 0.00738], "units": "rad"})
    assert roles(b0.images) == {"phase1": "phase1", "phase2": "phase2", "magnitude": "magnitude1"}


def test_find_b0__one_phase_of_two(maps: Any) -> None:
    maps.seste()
    maps.image("fmap/phase1", {"EchoTime": 0.00492, "B0FieldIdentifier": "b0"})
    maps.image("fmap/magnitude1", {})
    assert "phase1.nii: expected phase1 and phase2, found 1 image" in maps.problem()


@pytest.mark.parametrize(("units", "kept"), [("Hz", "Hz"), ("hz", "Hz"), ("rad/s", "rad/s"), ("T", "T")])
def test_find_b0__ready_made(maps: Any, units: str, kept: str) -> None:
    maps.seste()
    maps.image("fmap/fieldmap", {"Units": units, "B0FieldIdentifier": "b0"})
    maps.image("fmap/magnitude", {})
    b0 = maps.read().b1.b0
    assert (b0.method, b0.parameters) == ("fieldmap", {"units": kept})
    assert roles(b0.images) == {"fieldmap": "fieldmap", "magnitude": "magnitude"}


@pytest.mark.parametrize(
    ("units", "said"),
    [("ppm", "expected Units of Hz, rad/s, T, found the text 'ppm'"), (None, "expected Units (Hz, rad/s, T) in a")],
)
def test_find_b0__ready_made_in_another_unit(maps: Any, units: str | None, said: str) -> None:
    maps.seste()
    sidecar = {"B0FieldIdentifier": "b0"} | ({"Units": units} if units else {})
    maps.image("fmap/fieldmap", sidecar)
    assert said in maps.problem()


def epi_pair(maps: Any, directions: tuple[str, ...], **changes: Any) -> None:
    """Write epi images."""
    for n, direction in enumerate(directions):
        sidecar = {"PhaseEncodingDirection": direction, "TotalReadoutTime": 0.0243, "B0FieldIdentifier": "b0"}
        maps.image(f"fmap/dir-{'ABC'[n]}_epi", sidecar | changes)


def test_find_b0__a_pair_of_epi(maps: Any) -> None:
    maps.seste()
    epi_pair(maps, ("j-", "j"))
    b0 = maps.read().b1.b0
    assert (b0.method, b0.parameters) == ("epi", {"readout_s": 0.0243, "phase_encoding": "j"})
    assert roles(b0.images) == {"positive": "dir-B_epi", "negative": "dir-A_epi"}


@pytest.mark.parametrize("directions", [("j", "j"), ("j", "i-"), ("j",), ("j", "j-", "j")])
def test_find_b0__epi_that_are_no_pair(maps: Any, directions: tuple[str, ...]) -> None:
    maps.seste()
    epi_pair(maps, directions)
    assert (
        "expected two images of opposite PhaseEncodingDirection, found sub-01_ses-1_dir-A_epi.nii (j)" in maps.problem()
    )


def test_find_b0__epi_readout_in_milliseconds(maps: Any) -> None:
    maps.seste()
    epi_pair(maps, ("j-", "j"), TotalReadoutTime=24.3)
    assert "24.3 where 0.0243 is meant" in maps.problem()


def test_find_b0__of_something_else_may_be_broken(maps: Any) -> None:
    maps.seste()
    maps.phasediff()
    maps.image("fmap/acq-func_dir-AP_epi", {}).write_bytes(b"")
    assert maps.read().b1.b0.method == "phasediff"


# Receive pairs


def receive(maps: Any, *labels: str) -> None:
    """Write RB1COR images."""
    maps.afi()
    for label in labels:
        maps.image(f"fmap/acq-{label}_RB1COR", {})


def test_read_receive__one_pair_for_all(maps: Any) -> None:
    receive(maps, "head", "body")
    found = {key: roles(pair) for key, pair in maps.read().receive.items()}
    assert found == {"all": {"head": "acq-head_RB1COR", "body": "acq-body_RB1COR"}}


def test_read_receive__a_pair_for_each(maps: Any) -> None:
    receive(maps, *(f"{coil}{name}" for coil in ("head", "body") for name in ("MTw", "PDw", "T1w")))
    found = maps.read().receive
    assert sorted(found) == ["MTw", "PDw", "T1w"]
    assert roles(found["T1w"]) == {"head": "acq-headT1w_RB1COR", "body": "acq-bodyT1w_RB1COR"}


def test_read_receive__half_a_pair(maps: Any) -> None:
    receive(maps, "head")
    text = maps.problem()
    assert "expected images by the head and the body coil, found only sub-01_ses-1_acq-head_RB1COR.nii" in text
    assert "mpm.receive: none" in text
    assert maps.read(receive="none").receive == {}


def test_read_receive__not_for_every_contrast(maps: Any) -> None:
    receive(maps, "headPDw", "bodyPDw", "headT1w", "bodyT1w")
    assert "expected a pair for every contrast, found PDw, T1w but not MTw" in maps.problem()


def test_read_receive__both_kinds(maps: Any) -> None:
    receive(maps, "head", "body", "headPDw", "bodyPDw")
    assert "found both (all and PDw)" in maps.problem()


def test_read_receive__labels_that_mean_nothing_are_told(maps: Any) -> None:
    receive(maps, "head", "body", "neck")
    assert "acq-neck_RB1COR.nii: not used; expected acq-head or acq-body" in maps.read().warnings[0]
