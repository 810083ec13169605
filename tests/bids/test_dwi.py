"""Diffusion images of a session: series, runs, gradient tables, sidecars; what is refused and what is told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids import dwi_acquisitions
from voxcloud.bids.dwi import read_dwi
from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.sidecars import Metadata
from voxcloud.dwi import tensor_design
from voxcloud.errors import BidsError

SCANNER = {"Manufacturer": "Siemens", "ManufacturersModelName": "Prisma", "MagneticFieldStrength": 3}
SIDECAR = {
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.05,
    "PartialFourier": 1,
    "SliceEncodingDirection": "k",
    **SCANNER,
}
BVALS = (0, 1000, 1000, 2000)
Write = Callable[..., Path]


def table(path: Path, bvals: Sequence[float] | None) -> None:
    """Write a gradient table beside an image; vectors along x."""
    if bvals is not None:
        vectors = [[float(b > 50) for b in bvals], [0.0] * len(bvals), [0.0] * len(bvals)]
        path.with_suffix(".bval").write_text(" ".join(map(str, bvals)))
        path.with_suffix(".bvec").write_text("\n".join(" ".join(map(str, row)) for row in vectors))


@pytest.fixture
def write(bare: Any) -> Write:
    """Return a function that writes an image of sub-01_ses-1 with sidecar and table."""

    def image(name: str = "dwi/dwi", bvals: Sequence[float] | None = BVALS, **changes: Any) -> Path:
        layout = {key: changes.pop(key) for key in ("shape", "shift") if key in changes}
        shape = layout.pop("shape", (2, 3, 4, len(bvals or (0,))))
        tree = {key: value for key, value in {**SIDECAR, **changes}.items() if value is not None}
        path: Path = bare.image(name, tree, shape=shape, **layout)
        table(path, bvals)
        return path

    return image


@pytest.fixture
def read(bare: Any) -> Callable[..., DwiSession]:
    """Return a function that reads sub-01_ses-1 without a field map."""

    def session(**settings: Any) -> DwiSession:
        return read_dwi(Metadata(bare.root), "01", "1", **{"missing_b0": "skip", **settings})

    return session


@pytest.fixture
def problems(read: Callable[..., DwiSession]) -> Callable[..., tuple[str, ...]]:
    """Return a function that gives every problem; each names the session."""

    def told(**settings: Any) -> tuple[str, ...]:
        with pytest.raises(BidsError) as caught:
            read(**settings)
        assert all(text.startswith("sub-01_ses-1: ") for text in caught.value.problems)
        return caught.value.problems

    return told


@pytest.fixture
def problem(problems: Callable[..., tuple[str, ...]]) -> Callable[..., str]:
    """Return a function that gives the only problem."""

    def told(**settings: Any) -> str:
        found = problems(**settings)
        assert len(found) == 1, "\n".join(found)
        return found[0]

    return told


def stems(session: DwiSession) -> list[str]:
    return [Path(one.path).name.split(".")[0].removeprefix("sub-01_ses-1_") for one in session.series]


NO_FIELD = (
    "sub-01_ses-1: sub-01_ses-1_dwi.nii: has no field map (found none in fmap); not unwarped (dwi.missing_b0: skip)."
)


def test_read_dwi__one_series(write: Write, read: Any) -> None:
    path = write("dwi/dir-AP_run-1_dwi")
    session = read()
    (one,) = session.series
    assert one.path == str(path)
    assert (one.bval_path, one.bvec_path) == (str(path.with_suffix(".bval")), str(path.with_suffix(".bvec")))
    assert one.bvals == (0, 1000, 1000, 2000)
    assert one.bvecs == ((0, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0))
    assert (one.n_volumes, one.phase_encoding, one.readout_s, one.partial_fourier) == (4, "j-", 0.05, 1.0)
    assert (one.slice_axis, one.run, one.direction, one.unweighted) == (2, "1", "AP", (0,))
    assert session.scanner == SCANNER
    assert session.b0 is None
    assert (session.who, session.paths) == ("sub-01_ses-1", (one.path, one.bval_path, one.bvec_path))


def test_read_dwi__what_counts_as_unweighted_is_what_the_tensor_counts() -> None:
    assert dwi_acquisitions.LARGEST_B0 == tensor_design.LARGEST_B0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("left_to_right", [True, False])
def test_read_dwi__tables_are_as_written_however_the_image_is_stored(
    write: Write, read: Any, order: str, ending: str, left_to_right: bool
) -> None:
    path = write()
    path.unlink()
    affine = np.diag([2.0 if left_to_right else -2.0, 2.0, 2.0, 1.0])
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.ones((2, 3, 4, 4), np.int16), affine, header)
    nib.save(image, path.with_suffix("").with_suffix(ending))
    (one,) = read().series
    assert one.n_volumes == 4
    assert one.bvecs[1] == (1, 0, 0)


def test_dwi_session__goes_through_json_unchanged(write: Write, read: Any) -> None:
    path = write("dwi/dir-AP_dwi", TotalReadoutTime=0.05)
    write("dwi/dir-PA_dwi", (0, 5), PhaseEncodingDirection="j")
    path.with_suffix(".bvec").write_text("nan 1 0 inf\nnan 0 1 0\nnan 0 0 1\n")
    session = read()
    assert session.b0 is not None
    assert math.isnan(session.series[0].bvecs[0][0])
    text = json.dumps(session.to_tree(), allow_nan=False)
    again = DwiSession.from_tree(json.loads(text))
    assert again == session
    assert json.dumps(again.to_tree()) == text
    assert DwiSession.from_tree(session.to_tree()) == session


def test_dwi_session__without_field_map_goes_through_json_unchanged(write: Write, read: Any) -> None:
    write(TotalReadoutTime=None)
    session = read()
    assert session.series[0].readout_s is None
    assert DwiSession.from_tree(json.loads(json.dumps(session.to_tree()))) == session


# Which images


def test_read_dwi__split_shells_are_taken_together_in_order(write: Write, read: Any) -> None:
    write("dwi/acq-b2000_dwi", (0, 2000))
    write("dwi/acq-b1000_dwi", (0, 1000))
    assert stems(read()) == ["acq-b1000_dwi", "acq-b2000_dwi"]


def test_read_dwi__phases_and_references_and_maps_of_the_scanner_are_left_aside(write: Write, read: Any) -> None:
    write("dwi/part-mag_dwi")
    write("dwi/part-phase_dwi")
    write("dwi/sbref", None)
    write("dwi/TRACE", None)
    session = read()
    assert stems(session) == ["part-mag_dwi"]
    assert any("part-phase_dwi.nii: phase images are not used; diffusion is measured" in t for t in session.warnings)
    assert not any("sbref" in text or "TRACE" in text for text in session.warnings)


def test_read_dwi__phases_alone_are_no_images(write: Write, problem: Any) -> None:
    write("dwi/part-phase_dwi")
    assert "expected images *_dwi.nii[.gz] with magnitudes in sub-01/ses-1/dwi, found none. Check" in problem()


def test_read_dwi__real_parts_are_refused(write: Write, problem: Any) -> None:
    write("dwi/part-real_dwi")
    assert "part-real_dwi.nii: expected magnitude images (part-mag, or no part)" in problem()


def test_read_dwi__nothing_there(bare: Any) -> None:
    with pytest.raises(BidsError, match=r"sub-01: expected images \*_dwi\.nii\[\.gz\] with .* in sub-01/dwi, found"):
        read_dwi(Metadata(bare.root), "01", "")


def test_read_dwi__two_images_of_one_name(write: Write, problem: Any) -> None:
    path = write()
    nib.save(nib.load(path), f"{path}.gz")
    assert "expected one magnitude image of these entities, found sub-01_ses-1_dwi.nii too" in problem()


def test_read_dwi__an_image_of_another_session_in_the_folder(write: Write, problem: Any) -> None:
    write()
    write("sub-01/ses-1/dwi/sub-02_ses-1_dwi")
    assert "sub-02_ses-1_dwi.nii: expected sub-01_ses-1 in the name, found another session's" in problem()


def test_read_dwi__strays_are_told(write: Write, read: Any, bare: Any) -> None:
    write()
    write("fmap/dir-PA_dwi")
    write("sub-01/ses-1/dwi/my_dwi", None)
    warnings = read().warnings
    assert any(
        "sub-01_ses-1_dir-PA_dwi.nii is not used: it is expected in dwi, found in fmap." in text for text in warnings
    )
    assert any("my_dwi.nii is not used: names are sub-<label>_[ses-<label>_]" in text for text in warnings)


def test_read_dwi__another_size_is_refused_by_name(write: Write, problem: Any) -> None:
    write("dwi/acq-a_dwi")
    write("dwi/acq-b_dwi", shape=(2, 3, 5, 4))
    assert problem().startswith(
        "sub-01_ses-1: diffusion: expected images of one size, found 2 x 3 x 4 and 2 x 3 x 5 voxels "
        "(sub-01_ses-1_acq-a_dwi.nii and sub-01_ses-1_acq-b_dwi.nii). Images of a session are taken together"
    )


def test_read_dwi__every_image_of_another_size_is_named(write: Write, problems: Any) -> None:
    write("dwi/acq-a_dwi")
    write("dwi/acq-b_dwi", shape=(2, 3, 5, 4))
    write("dwi/acq-c_dwi", shape=(2, 2, 4, 4))
    found = problems()
    assert [f"and sub-01_ses-1_acq-{name}_dwi.nii)" in text for name, text in zip("bc", found, strict=True)] == [
        True,
        True,
    ]


def test_read_dwi__every_image_in_another_place_is_named(write: Write, problems: Any) -> None:
    write("dwi/acq-a_dwi")
    write("dwi/acq-b_dwi", shift=1.0)
    write("dwi/acq-c_dwi", shift=0.005)
    write("dwi/acq-d_dwi", shift=0.5)
    found = problems()
    assert len(found) == 2
    assert "found corners 1 mm apart (sub-01_ses-1_acq-a_dwi.nii and sub-01_ses-1_acq-b_dwi.nii)" in found[0]
    assert "found corners 0.5 mm apart (sub-01_ses-1_acq-a_dwi.nii and sub-01_ses-1_acq-d_dwi.nii)" in found[1]


def test_read_dwi__single_volumes_are_series_too(write: Write, read: Any) -> None:
    write("dwi/acq-a_dwi")
    write("dwi/acq-b_dwi", (0,), shape=(2, 3, 4))
    assert [one.n_volumes for one in read().series] == [4, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"/annex/objects/SHA256E-s1--ab.nii\n", "found a git-annex pointer whose content is not here. Get it with"),
        (b"", "expected a NIfTI file, found 0 bytes"),
        (b"not an image", "expected a NIfTI header"),
    ],
)
def test_read_dwi__what_is_no_image(write: Write, problem: Any, content: bytes, said: str) -> None:
    write().write_bytes(content)
    assert said in problem()


# Runs


@pytest.fixture
def runs(write: Write) -> None:
    """Write runs 2 and 10 of one direction, and one image without runs."""
    for run in (10, 2):
        write(f"dwi/dir-AP_run-{run}_dwi")
    write("dwi/acq-x_dwi")


@pytest.mark.usefixtures("runs")
def test_read_dwi__several_runs_ask_for_one_or_all(problem: Any) -> None:
    assert problem() == (
        "sub-01_ses-1: sub-01_ses-1_dir-AP_run-2_dwi.nii: expected one run, found run-2, run-10. Name the one to use "
        "in the study file, e.g. dwi.run: 2, or take them together: dwi.run: all."
    )


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("run", "taken"),
    [
        ("10", ["acq-x_dwi", "dir-AP_run-10_dwi"]),
        ("02", ["acq-x_dwi", "dir-AP_run-2_dwi"]),
        ("all", ["acq-x_dwi", "dir-AP_run-2_dwi", "dir-AP_run-10_dwi"]),
    ],
)
def test_read_dwi__runs_by_setting(read: Any, run: str, taken: list[str]) -> None:
    assert stems(read(run=run)) == taken


@pytest.mark.usefixtures("runs")
def test_read_dwi__a_run_that_is_not_there(problem: Any) -> None:
    assert "expected run-3 (dwi.run), found run-2, run-10. Name a run that is there, or all." in problem(run="3")


def test_read_dwi__a_single_run_is_taken_whatever_its_label(write: Write, read: Any) -> None:
    write("dwi/run-2_dwi")
    assert not any("run" in text for text in read().warnings if "is taken" in text)
    session = read(run="1")
    assert stems(session) == ["run-2_dwi"]
    assert any("run-2_dwi.nii is taken although dwi.run is 1: there is no other run" in t for t in session.warnings)


def test_read_dwi__runs_of_one_number_written_twice(write: Write, problem: Any) -> None:
    write("dwi/run-1_dwi")
    write("dwi/run-01_dwi")
    assert "expected one run, found run-01, run-1" in problem(run="1")


def test_read_dwi__runs_that_are_not_taken_may_be_broken(write: Write, read: Any) -> None:
    write("dwi/run-1_dwi").write_bytes(b"")
    write("dwi/run-2_dwi")
    assert stems(read(run="2")) == ["run-2_dwi"]


# Gradient tables


def test_read_dwi__tables_by_inheritance(write: Write, read: Any, bare: Any) -> None:
    write(bvals=None, shape=(2, 3, 4, 2))
    (bare.root / "dwi.bval").write_text("0 1000")
    (bare.root / "dwi.bvec").write_text("0 1\n0 0\n0 0")
    (one,) = read().series
    assert one.bvals == (0, 1000)
    assert one.bval_path == str(bare.root / "dwi.bval")


def test_read_dwi__no_table(write: Write, problem: Any) -> None:
    write(bvals=None)
    assert "sub-01_ses-1_dwi.nii: expected a file sub-01_ses-1_dwi.bval beside it" in problem()


@pytest.mark.parametrize(("volumes", "advised"), [(6, True), (7, False)])
def test_read_dwi__a_few_volumes_without_table_may_be_unweighted(
    write: Write, problem: Any, volumes: int, advised: bool
) -> None:
    write(bvals=None, shape=(2, 3, 4, volumes))
    text = problem()
    assert (
        text.endswith("If none of its volumes is diffusion-weighted, write zeros into both files, one for each volume.")
        == advised
    )


def test_read_dwi__what_is_odd_about_a_table_is_told(write: Write, read: Any) -> None:
    path = write(bvals=(0, 1000))
    path.with_suffix(".bvec").write_text("0 0 0\n1 0 0\n")
    session = read()
    assert session.series[0].bvecs == ((0, 0, 0), (1, 0, 0))
    assert any("one vector per row; they were turned" in text for text in session.warnings)


def test_read_dwi__one_volume_fewer_than_the_table(write: Write, problem: Any) -> None:
    write(shape=(2, 3, 4, 3))
    assert problem() == (
        "sub-01_ses-1: sub-01_ses-1_dwi.nii: expected 3 b-values and b-vectors, one for each volume of the image, "
        "found 4 (sub-01_ses-1_dwi.bval) and 4 (sub-01_ses-1_dwi.bvec). Were volumes cut off or taken out, or do the "
        "files belong to another image? Give table and image the same volumes."
    )


def test_read_dwi__fewer_vectors_than_volumes(write: Write, problem: Any) -> None:
    write().with_suffix(".bvec").write_text("0 1\n0 0\n0 0")
    assert "expected 4 b-values and b-vectors, one for each volume of the image, found 4" in problem()


def test_read_dwi__a_damaged_table(write: Write, problem: Any) -> None:
    write().with_suffix(".bval").write_text("0 a 1000 2000")
    assert "expected b-values, found 'a', which is no number" in problem()


# Sidecars


def test_read_dwi__no_sidecar_says_what_is_needed_and_who_writes_it(write: Write, problem: Any, bare: Any) -> None:
    for name in ("a", "b"):
        write(f"dwi/acq-{name}_dwi")
    bare.remove("*_dwi.json")
    assert problem() == (
        "sub-01_ses-1: sub-01_ses-1_acq-a_dwi.nii and 1 more: expected PhaseEncodingDirection in a sidecar "
        "(sub-01_ses-1_acq-a_dwi.json, or dwi.json in a folder above), found no sidecar. Eddy currents distort along "
        "it. Convert the scanner's files again with dcm2niix, which writes it, or write it there."
    )


def test_read_dwi__a_sidecar_without_phase_encoding(write: Write, problem: Any) -> None:
    write(PhaseEncodingDirection=None)
    assert "found a sidecar without it" in problem()


def test_read_dwi__phase_encoding_for_all_at_the_root(write: Write, read: Any, bare: Any) -> None:
    write(PhaseEncodingDirection=None)
    bare.json("dwi.json", {"PhaseEncodingDirection": "i"})
    assert read().series[0].phase_encoding == "i"


def test_read_dwi__the_axis_alone_does_for_eddy_currents(write: Write, read: Any) -> None:
    write(PhaseEncodingDirection=None, PhaseEncodingAxis="j")
    session = read()
    assert session.series[0].phase_encoding == "j"
    assert any(
        "PhaseEncodingAxis is known and PhaseEncodingDirection is not: eddy currents are corrected" in text
        for text in session.warnings
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PhaseEncodingDirection": "AP"}, "expected a PhaseEncodingDirection of i, i-, j, j-, k, k-"),
        ({"PhaseEncodingDirection": "k"}, "expected slices along another axis than phase, found k for both"),
        ({"SliceEncodingDirection": "z"}, "expected a SliceEncodingDirection of i, i-, j, j-, k, k-"),
        ({"SliceEncodingDirection": ["k"]}, "expected a SliceEncodingDirection of i, i-, j, j-, k, k-"),
        ({"TotalReadoutTime": 50}, "50 where 0.05 is meant: divide milliseconds by 1000."),
        ({"PartialFourier": 75}, "75 where 0.75 is meant: divide percent by 100."),
        ({"PartialFourier": 6}, "6 where 0.75 is meant: divide eighths by 8."),
        ({"PartialFourier": 0.2}, "expected PartialFourier in parts of k-space, 0.5 to 1, found 0.2"),
        ({"PartialFourier": "6/8"}, "found the text '6/8'"),
        ({"MagneticFieldStrength": 30000}, "30000 where 3 is meant: divide gauss by 10000."),
    ],
)
def test_read_dwi__a_wrong_sidecar(write: Write, problem: Any, changes: dict[str, Any], said: str) -> None:
    write(**changes)
    assert said in problem()


def test_read_dwi__a_damaged_sidecar(write: Write, problem: Any) -> None:
    write().with_suffix(".json").write_text("{")
    assert "sub-01_ses-1_dwi.json: expected a JSON sidecar" in problem()


@pytest.mark.parametrize(("stated", "axis"), [("i", 0), ("j-", 1), ("k-", 2), (None, 2)])
def test_read_dwi__slices(write: Write, read: Any, stated: str | None, axis: int) -> None:
    write(SliceEncodingDirection=stated, PhaseEncodingDirection="i" if axis == 1 else "j")
    assert read().series[0].slice_axis == axis


def test_read_dwi__partial_fourier(write: Write, read: Any) -> None:
    write(PartialFourier=0.75)
    session = read()
    assert session.series[0].partial_fourier == 0.75
    assert session.warnings == (NO_FIELD,)


def test_read_dwi__partial_fourier_that_is_not_stated_is_told_once(write: Write, read: Any) -> None:
    for name in ("a", "b"):
        write(f"dwi/acq-{name}_dwi", PartialFourier=None)
    session = read()
    assert [one.partial_fourier for one in session.series] == [1.0, 1.0]
    (told,) = [text for text in session.warnings if "PartialFourier" in text]
    assert told.startswith(
        "sub-01_ses-1: sub-01_ses-1_acq-a_dwi.nii and 1 more: PartialFourier is not in a sidecar and taken as 1"
    )


def test_read_dwi__readout_from_echo_spacing(write: Write, read: Any) -> None:
    write(TotalReadoutTime=None, EffectiveEchoSpacing=0.0005, ReconMatrixPE=101)
    assert read().series[0].readout_s == pytest.approx(0.05)


def test_read_dwi__scanner_entries_that_differ_are_told_and_left_out(write: Write, read: Any) -> None:
    write("dwi/acq-a_dwi")
    write("dwi/acq-b_dwi", ManufacturersModelName="Skyra")
    session = read()
    assert "ManufacturersModelName" not in session.scanner
    assert any("ManufacturersModelName differs between the series" in text for text in session.warnings)


@pytest.mark.parametrize(("other", "told"), [(0.0805, False), (0.085, True), (None, False), ("0.085", False)])
def test_read_dwi__echo_times_that_differ_are_told(write: Write, read: Any, other: Any, told: bool) -> None:
    write("dwi/acq-a_dwi", EchoTime=0.08)
    write("dwi/acq-b_dwi", EchoTime=other)
    said = "EchoTime differs between the series: 0.08 (sub-01_ses-1_acq-a_dwi.nii) and 0.085 s (sub-01_ses-1_acq-b_dwi"
    assert any(said in text for text in read().warnings) == told


def test_read_dwi__every_problem_is_told_at_once(write: Write, problems: Any) -> None:
    write("dwi/acq-a_dwi", PhaseEncodingDirection=None)
    write("dwi/acq-b_dwi", shape=(2, 3, 5, 4), PartialFourier=6)
    write("dwi/acq-c_dwi", bvals=None)
    found = "\n".join(problems(missing_b0="stop"))
    for said in ("PhaseEncodingDirection", "PartialFourier", "of one size", "acq-c_dwi.bval", "a field map that"):
        assert said in found
