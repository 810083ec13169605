"""Which field map belongs to diffusion: a pair of its own, one that is linked, half of a pair, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from voxcloud.bids.dwi import read_dwi
from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.sidecars import Metadata
from voxcloud.errors import BidsError

SIDECAR = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05, "PartialFourier": 1}
INTENDED = "ses-1/dwi/sub-01_ses-1_dir-AP_dwi.nii.gz"
URI = "bids::sub-01/ses-1/dwi/sub-01_ses-1_dir-AP_dwi.nii.gz"
BVALS = (0, 1000, 10, 1000)
Write = Callable[..., Path]
NONE_FOUND = "expected a field map that belongs to it (phasediff, phase1 and phase2, fieldmap, or a pair of epi)"


@pytest.fixture
def write(bare: Any) -> Write:
    """Return a function that writes an image of sub-01_ses-1 with sidecar and table."""

    def image(name: str, bvals: Sequence[float] | None = None, **changes: Any) -> Path:
        layout = {key: changes.pop(key) for key in ("shape", "shift") if key in changes}
        shape = layout.pop("shape", (2, 3, 4, len(bvals or (0,))))
        tree = {key: value for key, value in {**SIDECAR, **changes}.items() if value is not None}
        path: Path = bare.image(name, tree, shape=shape, **layout)
        if bvals is not None:
            row = " ".join(str(float(b > 50)) for b in bvals)
            none = " ".join("0" for _ in bvals)
            path.with_suffix(".bval").write_text(" ".join(map(str, bvals)))
            path.with_suffix(".bvec").write_text(f"{row}\n{none}\n{none}\n")
        return path

    return image


@pytest.fixture
def ap(write: Write) -> Path:
    """Write the series that is to be unwarped."""
    return write("dwi/dir-AP_dwi", BVALS)


@pytest.fixture
def read(bare: Any) -> Callable[..., DwiSession]:
    """Return a function that reads sub-01_ses-1."""
    return lambda **settings: read_dwi(Metadata(bare.root), "01", "1", **settings)


@pytest.fixture
def problem(read: Callable[..., DwiSession]) -> Callable[..., str]:
    """Return a function that gives the only problem."""

    def told(**settings: Any) -> str:
        with pytest.raises(BidsError) as caught:
            read(**settings)
        assert len(caught.value.problems) == 1, str(caught.value)
        return caught.value.problems[0]

    return told


def roles(session: DwiSession) -> dict[str, str]:
    """Return file names without what all have in common."""
    assert session.b0 is not None
    return {role: Path(path).stem.removeprefix("sub-01_ses-1_") for role, path in session.b0.images.items()}


# A pair of its own


def test_read_dwi__series_of_opposite_phase_encoding_need_no_field_map(ap: Path, write: Write, read: Any) -> None:
    other = write("dwi/dir-PA_dwi", (5, 0), PhaseEncodingDirection="j")
    session = read()
    assert [one.direction for one in session.series] == ["AP", "PA"]
    assert roles(session) == {"positive": "dir-PA_dwi", "negative": "dir-AP_dwi"}
    assert session.b0.method == "epi"
    assert session.b0.parameters == {
        "readout_s": 0.05,
        "phase_encoding": "j",
        "volumes": {"positive": [0, 1], "negative": [0, 2]},
    }
    assert session.warnings == ()
    assert len(session.paths) == 6
    assert {str(ap), str(other)} <= set(session.paths)


def test_read_dwi__a_pair_of_one_acquisition_is_preferred(write: Write, read: Any) -> None:
    write("dwi/acq-a_dir-AP_dwi", BVALS)
    write("dwi/acq-b_dir-AP_dwi", BVALS)
    write("dwi/acq-b_dir-PA_dwi", BVALS, PhaseEncodingDirection="j")
    assert roles(read()) == {"positive": "acq-b_dir-PA_dwi", "negative": "acq-b_dir-AP_dwi"}


@pytest.mark.usefixtures("ap")
def test_read_dwi__its_own_pair_goes_before_a_field_map(write: Write, read: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j")
    write("fmap/phasediff", EchoTime1=0.00492, EchoTime2=0.00738, IntendedFor=INTENDED)
    assert roles(read()) == {"positive": "dir-PA_dwi", "negative": "dir-AP_dwi"}


@pytest.mark.usefixtures("ap")
def test_read_dwi__readout_times_that_differ_a_little_are_told(write: Write, read: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j", TotalReadoutTime=0.0506)
    session = read()
    assert session.b0.parameters["readout_s"] == pytest.approx(0.0503)
    assert [one.readout_s for one in session.series] == [0.05, 0.0506]
    (told,) = session.warnings
    assert "sub-01_ses-1_dir-AP_dwi.nii and sub-01_ses-1_dir-PA_dwi.nii: total readout times of a pair differ" in told
    assert "0.0506 s (sub-01_ses-1_dir-PA_dwi.nii) and 0.05 s (sub-01_ses-1_dir-AP_dwi.nii)" in told


@pytest.mark.usefixtures("ap")
def test_read_dwi__readout_times_that_differ_are_refused(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j", TotalReadoutTime=0.06)
    assert (
        "expected one total readout time for both halves of a pair within 2%, found 0.06 s "
        "(sub-01_ses-1_dir-PA_dwi.nii) and 0.05 s (sub-01_ses-1_dir-AP_dwi.nii). Link a pair"
    ) in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__a_pair_without_readout_time(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j", TotalReadoutTime=None)
    assert "dir-PA_dwi.nii: expected TotalReadoutTime or EffectiveEchoSpacing in a sidecar" in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__a_third_series_without_readout_time(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j")
    write("dwi/acq-x_dwi", (0,), TotalReadoutTime=None)
    assert "acq-x_dwi.nii: expected TotalReadoutTime or EffectiveEchoSpacing in a sidecar" in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__a_series_on_another_grid_is_told_once(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (0,), PhaseEncodingDirection="j", shift=1.0)
    assert "diffusion: expected images in one place" in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__opposite_names_with_one_phase_encoding(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (0,))
    assert problem(missing_b0="skip") == (
        "sub-01_ses-1: sub-01_ses-1_dir-AP_dwi.nii and sub-01_ses-1_dir-PA_dwi.nii: expected opposite "
        "PhaseEncodingDirection for dir-AP and dir-PA, found j- and j-. Correct the sidecar that is wrong, or the name."
    )


@pytest.mark.usefixtures("ap")
def test_read_dwi__a_counterpart_without_b0_is_no_pair(write: Write, problem: Any) -> None:
    write("dwi/dir-PA_dwi", (1000, 1000), PhaseEncodingDirection="j")
    assert NONE_FOUND in problem()


@pytest.mark.usefixtures("ap")
@pytest.mark.parametrize("direction", ["j", "i"])
def test_read_dwi__different_distortions_cannot_go_on_without_a_field_map(
    write: Write, problem: Any, direction: str
) -> None:
    write("dwi/acq-x_dwi", (1000,), PhaseEncodingDirection=direction)
    text = problem(missing_b0="skip")
    assert f"expected a field map for series of different PhaseEncodingDirection ({direction}, j-)" in text.replace(
        "(j-, j)", "(j, j-)"
    )


# Links


@pytest.mark.usefixtures("ap")
@pytest.mark.parametrize("entry", [INTENDED, URI, [URI], INTENDED.removesuffix(".gz")])
def test_read_dwi__one_epi_of_the_opposite_direction(write: Write, read: Any, entry: Any) -> None:
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=entry, shape=(2, 3, 4, 3))
    session = read()
    assert roles(session) == {"positive": "dir-PA_epi", "negative": "dir-AP_dwi"}
    assert session.b0.parameters == {
        "readout_s": 0.05,
        "phase_encoding": "j",
        "volumes": {"positive": [0, 1, 2], "negative": [0, 2]},
    }
    assert session.warnings == ()
    assert session.paths[-1].endswith("dir-PA_epi.nii")


def test_read_dwi__one_epi_by_identifier(write: Write, read: Any) -> None:
    write("dwi/dir-AP_dwi", BVALS, B0FieldSource="pair", B0FieldIdentifier="pair")
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", B0FieldIdentifier="pair")
    write("fmap/acq-func_dir-PA_epi", PhaseEncodingDirection="j", B0FieldIdentifier="other")
    assert roles(read()) == {"positive": "dir-PA_epi", "negative": "dir-AP_dwi"}


@pytest.mark.usefixtures("ap")
def test_read_dwi__two_epi(write: Write, read: Any) -> None:
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED, shape=(2, 2, 2, 2))
    write("fmap/dir-AP_epi", IntendedFor=INTENDED, shape=(2, 2, 2))
    session = read()
    assert roles(session) == {"positive": "dir-PA_epi", "negative": "dir-AP_epi"}
    assert session.b0.parameters["volumes"] == {"positive": [0, 1], "negative": [0]}


@pytest.mark.usefixtures("ap")
def test_read_dwi__b_values_beside_an_epi_tell_which_volumes_compare(write: Write, read: Any) -> None:
    write("fmap/dir-PA_epi", (0, 1000, 0), PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert read().b0.parameters["volumes"] == {"positive": [0, 2], "negative": [0, 2]}


@pytest.mark.usefixtures("ap")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 1000", "dir-PA_epi.nii: expected 1 b-values, one for each volume, found 2 in sub-01_ses-1_dir-PA_epi.bval"),
        ("1000", "dir-PA_epi.nii: expected a volume with b at most 50 s/mm2, found none in sub-01_ses-1_dir-PA_epi"),
        ("a", "dir-PA_epi.bval, line 1: expected b-values, found 'a', which is no number"),
    ],
)
def test_read_dwi__wrong_b_values_beside_an_epi(write: Write, problem: Any, text: str, said: str) -> None:
    path = write("fmap/dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    path.with_suffix(".bval").write_text(text)
    assert said in problem()


@pytest.mark.usefixtures("ap")
@pytest.mark.parametrize("direction", ["j-", "i"])
def test_read_dwi__one_epi_that_is_no_counterpart(write: Write, problem: Any, direction: str) -> None:
    write("fmap/dir-X_epi", PhaseEncodingDirection=direction, IntendedFor=INTENDED)
    assert problem() == (
        "sub-01_ses-1: sub-01_ses-1_dir-X_epi.nii: expected two images of opposite PhaseEncodingDirection, found "
        f"sub-01_ses-1_dir-X_epi.nii ({direction}), sub-01_ses-1_dir-AP_dwi.nii (j-). Link one pair."
    )


def test_read_dwi__one_epi_and_no_b0_to_compare_with(write: Write, problem: Any) -> None:
    write("dwi/dir-AP_dwi", (1000, 2000))
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert (
        "dir-AP_dwi.nii: expected a volume with b at most 50 s/mm2 to compare with sub-01_ses-1_dir-PA_epi.nii, found"
    ) in problem()


def test_read_dwi__one_epi_and_a_series_whose_sign_is_not_known(write: Write, problem: Any) -> None:
    write("dwi/dir-AP_dwi", BVALS, PhaseEncodingDirection=None, PhaseEncodingAxis="j")
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert (
        "dir-AP_dwi.nii: expected a PhaseEncodingDirection with its sign (such as j or j-), which tells whether "
        "sub-01_ses-1_dir-PA_epi.nii is its counterpart, found none."
    ) in problem()


@pytest.mark.usefixtures("ap")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shift": 1.0}, "dir-PA_epi.nii: expected images in one place, found corners 1 mm apart"),
        ({"shape": (2, 3, 5)}, "dir-PA_epi.nii: expected images of one size, found 2 x 3 x 5 and 2 x 3 x 4 voxels"),
        ({"TotalReadoutTime": 0.1}, "dir-PA_epi.nii: expected one total readout time for both halves"),
        ({"TotalReadoutTime": None}, "dir-PA_epi.nii: expected TotalReadoutTime or EffectiveEchoSpacing"),
        ({"PhaseEncodingDirection": None}, "dir-PA_epi.nii: expected PhaseEncodingDirection in a sidecar"),
    ],
)
def test_read_dwi__one_epi_that_does_not_fit(write: Write, problem: Any, changes: dict[str, Any], said: str) -> None:
    write("fmap/dir-PA_epi", **{"PhaseEncodingDirection": "j", "IntendedFor": INTENDED, **changes})
    assert said in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__two_epi_of_one_direction(write: Write, problem: Any) -> None:
    for name in ("PA", "PB"):
        write(f"fmap/dir-{name}_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert (
        "expected two images of opposite PhaseEncodingDirection, found sub-01_ses-1_dir-PA_epi.nii (j), " in problem()
    )


@pytest.mark.usefixtures("ap")
def test_read_dwi__runs_of_an_epi(write: Write, problem: Any) -> None:
    for run in (1, 2):
        write(f"fmap/dir-PA_run-{run}_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert "expected one field map, found 2 that belong to it" in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__phase_difference(write: Write, read: Any) -> None:
    write("fmap/phasediff", EchoTime1=0.00492, EchoTime2=0.00738, IntendedFor=INTENDED)
    write("fmap/magnitude1")
    session = read()
    assert roles(session) == {"phasediff": "phasediff", "magnitude": "magnitude1"}
    assert session.b0.parameters == {"echo_times_s": [0.00492, 0.00738]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TotalReadoutTime": None}, "dir-AP_dwi.nii: expected TotalReadoutTime or EffectiveEchoSpacing in a sidecar"),
        (
            {"PhaseEncodingDirection": None, "PhaseEncodingAxis": "j"},
            "dir-AP_dwi.nii: expected PhaseEncodingDirection in a sidecar",
        ),
    ],
)
def test_read_dwi__a_field_map_needs_readout_time_and_sign(
    write: Write, problem: Any, changes: dict[str, Any], said: str
) -> None:
    write("dwi/dir-AP_dwi", BVALS, **changes)
    write("fmap/fieldmap", Units="Hz", IntendedFor=INTENDED)
    assert said in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__a_broken_field_map(write: Write, problem: Any) -> None:
    write("fmap/phasediff", EchoTime1=4.92, EchoTime2=0.00738, IntendedFor=INTENDED)
    write("fmap/magnitude1")
    assert "4.92 where 0.00492 is meant" in problem()


@pytest.mark.usefixtures("ap")
def test_read_dwi__an_epi_of_another_session_in_the_folder_is_not_taken(write: Write, problem: Any) -> None:
    write("sub-01/ses-1/fmap/sub-01_ses-2_dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=INTENDED)
    assert "found none in fmap" in problem()


# None


@pytest.mark.usefixtures("ap")
def test_read_dwi__no_field_map_stops_and_names_the_ways_out(problem: Any) -> None:
    text = problem()
    assert text.startswith(f"sub-01_ses-1: sub-01_ses-1_dir-AP_dwi.nii: {NONE_FOUND}, found none in fmap.")
    assert text.endswith("into this one's, or go on without unwarping: dwi.missing_b0: skip.")


@pytest.mark.usefixtures("ap")
def test_read_dwi__no_field_map_is_told_where_it_is_allowed(read: Any) -> None:
    session = read(missing_b0="skip")
    assert session.b0 is None
    assert session.warnings == (
        "sub-01_ses-1: sub-01_ses-1_dir-AP_dwi.nii: has no field map (found none in fmap); not unwarped "
        "(dwi.missing_b0: skip).",
    )


@pytest.mark.usefixtures("ap")
def test_read_dwi__one_that_is_merely_there_is_not_taken(write: Write, problem: Any) -> None:
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j")
    assert (
        "found sub-01_ses-1_dir-PA_epi.nii, which no sidecar links to it. Write the same name as B0FieldIdentifier"
    ) in problem()


def test_read_dwi__an_identifier_that_does_not_exist(write: Write, problem: Any) -> None:
    write("dwi/dir-AP_dwi", BVALS, B0FieldSource="b00")
    write("fmap/dir-PA_epi", PhaseEncodingDirection="j", B0FieldIdentifier="b0")
    assert "found B0FieldIdentifier b0 for B0FieldSource 'b00'. Did you mean 'b0'?" in problem()
