"""Raw BIDS to maps: the files that a session gets, what its sidecars say, and that one bad session stops no other."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.errors import ImageError, PlanError, StudyFileError
from voxcloud.pipeline.mapping.step import spoiling_warnings
from voxcloud.pipeline.study import plan_study
from voxcloud.pipeline.validating import validate_study
from voxcloud.plan.modality import SessionChoice
from voxcloud.qmri.protocol import Excitation
from voxcloud.qmri.spoiling import spoiling_coefficients
from voxcloud.testing.raw import tiny_raw

GOLDEN = Path(__file__).parent / "mapping_outputs.txt"


RawStudy: TypeAlias = Any  # of conftest


def make(study: RawStudy, **mpm: Any) -> RawStudy:
    """Simulate a raw data set of one person's two visits and make its maps."""
    tiny_raw(study.folder)
    study.change(mpm={"preset": "hmri-1.0", **mpm})
    outcome = study.run()
    assert not outcome.failed, outcome.failed
    assert not outcome.problems
    return study


@pytest.fixture(scope="module")
def made(raw_study: RawStudy, tmp_path_factory: pytest.TempPathFactory) -> RawStudy:
    """A data set with its maps, made with every default."""
    return make(raw_study(tmp_path_factory.mktemp("made") / "raw"))


@pytest.fixture(scope="module")
def quick(raw_study: RawStudy, tmp_path_factory: pytest.TempPathFactory) -> RawStudy:
    """A data set with its maps, made without registration, which takes most of the time."""
    return make(raw_study(tmp_path_factory.mktemp("quick") / "raw"), registration="none")


@pytest.fixture
def raw(quick: RawStudy, tmp_path: Path) -> RawStudy:
    """A copy of the quick data set without maps, to break."""
    return quick.copy(tmp_path / "raw", maps=False)


@pytest.fixture
def done(quick: RawStudy, tmp_path: Path) -> RawStudy:
    """A copy of the quick data set with its maps."""
    return quick.copy(tmp_path / "raw", maps=True)


def test_run_study__writes_the_files_of_the_golden_list(made: RawStudy) -> None:
    found = [path for path in made.objects() if not path.startswith(".voxcloud/")]
    assert found == GOLDEN.read_text().split()


def test_run_study__maps_are_near_the_truth(made: RawStudy) -> None:
    pure = made.truth("1", "label-WM_probseg") > 0.95
    for name, tolerance in (("R1map", 0.04), ("R2starmap", 0.05), ("MTsat", 0.06), ("TB1map", 0.03)):
        ratio = np.median(made.map("1", name)[pure]) / np.median(made.truth("1", name)[pure])
        assert abs(ratio - 1.0) < tolerance, name


def test_run_study__a_sidecar_says_how_a_map_was_made(made: RawStudy) -> None:
    path = made.output / "sub-01/ses-1/anat/sub-01_ses-1_R1map.json"
    tree = json.loads(path.read_text())
    assert tree["Units"] == "1/s"
    assert tree["Preset"] == "hmri-1.0"
    assert tree["B1Method"] == "AFI"
    assert tree["B1mapProvided"] is True
    assert tree["SpoilingCorrection"] is False
    assert tree["Protocol"]["PDw"]["repetition_time_s"] == 0.0245
    assert tree["MagneticFieldStrength"] == 3
    assert any("B1 map" in sentence for sentence in tree["Corrections"])
    assert len(tree["Sources"]) == 24
    for source in tree["Sources"]:
        assert (made.folder / source.removeprefix("bids:raw:")).is_file()
    assert str(made.folder) not in path.read_text()
    links = json.loads((made.output / "dataset_description.json").read_text())["DatasetLinks"]
    assert (made.output / links["raw"]).resolve() == made.folder.resolve()


def test_run_study__again_computes_nothing_and_a_touched_file_neither(done: RawStudy) -> None:
    assert done.run().computed == ()
    image = done.images("*echo-1*MPM.nii.gz")[0]
    image.touch()
    assert done.run().computed == ()


def test_run_study__a_changed_setting_makes_maps_anew_and_says_why(done: RawStudy) -> None:
    done.change(mpm={"preset": "hmri-0.x", "registration": "none"})
    status = plan_study(done.file).status
    assert "preset" in status["mpm-maps/sub-01_ses-1"].reason
    assert set(done.run().computed) == {"mpm-maps/sub-01_ses-1", "mpm-maps/sub-01_ses-2", "mpm-qc/cohort"}


def test_run_study__a_new_session_computes_only_itself_and_the_cohorts_page(raw: RawStudy, tmp_path: Path) -> None:
    second = raw.folder / "sub-01" / "ses-2"
    second.rename(tmp_path / "later")
    assert set(raw.run().computed) == {"mpm-maps/sub-01_ses-1", "mpm-qc/cohort"}
    (tmp_path / "later").rename(second)
    assert set(raw.run().computed) == {"mpm-maps/sub-01_ses-2", "mpm-qc/cohort"}


def test_run_study__names_maps_of_a_session_that_is_gone_and_of_images_that_are(done: RawStudy) -> None:
    for path in done.images("sub-01_ses-1_*mt-on*"):
        path.unlink()
    shutil.rmtree(done.folder / "sub-01" / "ses-2")
    assert set(done.run().leftovers) == {
        "sub-01/ses-2",
        *(
            f"sub-01/ses-1/anat/sub-01_ses-1_{name}.{kind}"
            for name in ("MTsat", "desc-error_MTsat")
            for kind in ("json", "nii.gz")
        ),
    }


def test_run_study__maps_of_a_session_that_cannot_be_read_or_was_not_chosen_are_no_leftovers(done: RawStudy) -> None:
    assert done.run(sessions=SessionChoice((), ("1",))).leftovers == ()
    done.images("sub-01_ses-2_*echo-1_flip-2*MPM.json")[0].unlink()
    assert done.run().leftovers == ()


@pytest.mark.parametrize("engine", ["threads", pytest.param("local", marks=pytest.mark.slow)])
def test_run_study__every_engine_writes_the_same_bytes(quick: RawStudy, raw: RawStudy, engine: str) -> None:
    raw.run(engine=engine, workers=2)
    for path in quick.objects():
        if path.endswith(".nii.gz"):
            assert (quick.output / path).read_bytes() == (raw.output / path).read_bytes(), path


def test_run_study__only_the_chosen_sessions(raw: RawStudy) -> None:
    outcome = raw.run(sessions=SessionChoice(("01",), ("2",)))
    assert set(outcome.computed) == {"mpm-maps/sub-01_ses-2", "mpm-qc/cohort"}
    with pytest.raises(Exception, match="sub-09"):
        raw.run(sessions=SessionChoice(("09",)))


def failing(study: RawStudy, pattern: str) -> str:
    return str(study.failing("mpm", pattern))


def test_bad_input__missing_b1_stops_the_session(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-1_*TB1AFI*"):
        path.unlink()
    failing(raw, "semi-quantitative")


@pytest.mark.slow
def test_bad_input__missing_b1_goes_on_when_told_and_says_so(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-1_*TB1AFI*"):
        path.unlink()
    raw.change(mpm={"missing_b1": "semi-quantitative", "registration": "none"})
    outcome = raw.run()
    assert not outcome.failed
    tree = json.loads((raw.output / "sub-01/ses-1/anat/sub-01_ses-1_R1map.json").read_text())
    assert tree["B1mapProvided"] is False
    assert any("semi-quantitative" in sentence for sentence in tree["Corrections"])
    assert any("sessions differ in B1Method" in text for text in plan_study(raw.file).plan.warnings)
    assert not (raw.output / "sub-01/ses-1/fmap").exists()


@pytest.mark.slow
def test_bad_input__echo_times_in_milliseconds(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-1_*MPM.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"EchoTime": tree["EchoTime"] * 1000}))
    problems = raw.run().problems
    assert any("2.3" in text and "0.0023" in text for text in problems)


def test_bad_input__an_echo_lost_at_the_end_of_one_session_is_a_warning(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-2_*echo-8_flip-2*MPM*"):
        path.unlink()
    told = plan_study(raw.file).plan.warnings
    assert any("sub-01: sessions differ in the number of echoes of T1w" in text for text in told), told


@pytest.mark.slow
def test_bad_input__saturated_signals(raw: RawStudy) -> None:
    raw.values("sub-01_ses-1_*echo-1_flip-2*MPM.nii.gz", lambda v: np.minimum(v, np.percentile(v, 80)))
    failing(raw, "cut off")


@pytest.mark.slow
def test_bad_input__a_few_saturated_signals_are_a_warning(raw: RawStudy) -> None:
    def cut(values: np.ndarray) -> np.ndarray:
        return np.minimum(values, np.sort(values.ravel())[-25])

    raw.values("sub-01_ses-1_*echo-1_flip-2*MPM.nii.gz", cut)
    assert not raw.run().failed
    assert any("cut off" in text for text in raw.quality("1")["warnings"])


@pytest.mark.slow
def test_bad_input__an_empty_series(raw: RawStudy) -> None:
    raw.values("sub-01_ses-1_*mt-on*MPM.nii.gz", lambda v: v * 0)
    failing(raw, "zero")


@pytest.mark.slow
def test_bad_input__mt_that_was_not_on(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-1_*mt-on*MPM.nii.gz"):
        echo = path.name.split("echo-")[1][0]
        shutil.copy(raw.images(f"sub-01_ses-1_*echo-{echo}_flip-1*mt-off*MPM.nii.gz")[0], path)
    failing(raw, "Is MT really on")


@pytest.mark.slow
def test_bad_input__afi_that_is_a_map_in_tenths_of_a_degree(raw: RawStudy) -> None:
    raw.values("sub-01_ses-1_*tr1*TB1AFI.nii.gz", lambda v: np.where(v > 100, 600, 0))
    raw.values("sub-01_ses-1_*tr2*TB1AFI.nii.gz", lambda v: np.where(v > 100, 600, 0))
    assert "tenths of a degree" in failing(raw, "B1 by AFI")


@pytest.mark.slow
def test_bad_input__echoes_of_two_sizes(raw: RawStudy) -> None:
    path = raw.images("sub-01_ses-1_*echo-3_flip-2*MPM.nii.gz")[0]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    assert "one size" in failing(raw, "echo-3")


@pytest.mark.slow
def test_bad_input__a_file_cut_short(raw: RawStudy) -> None:
    path = raw.images("sub-01_ses-1_*echo-3_flip-2*MPM.nii.gz")[0]
    path.write_bytes(path.read_bytes()[:-200])
    failing(raw, "cut short")


def as_floats(study: RawStudy, scale: float, holes: bool = False) -> None:
    """Store the first session's echoes as float32 in another scale, with unknown voxels in one echo if asked for."""
    for path in study.images("sub-01_ses-1_*MPM.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32) * scale
        if holes and "echo-5_flip-1_mt-off" in path.name:
            middle = tuple(n // 2 for n in values.shape)
            values[middle[0] : middle[0] + 3, middle[1], middle[2]] = np.nan
        nib.save(nib.Nifti1Image(values, image.affine), path)


@pytest.mark.slow
def test_bad_input__too_small_a_scale(raw: RawStudy) -> None:
    as_floats(raw, 1 / 500)
    assert "too small a scale" in failing(raw, "the floor of the fit")


def test_run_study__a_background_of_zeros_is_no_missing_signal(raw: RawStudy) -> None:
    raw.values("sub-01_ses-1_*MPM.nii.gz", lambda v: np.where(v < 60, 0, v))
    outcome = raw.run(sessions=SessionChoice((), ("1",)))
    assert (outcome.failed, outcome.problems) == ({}, ())


@pytest.mark.slow
def test_bad_input__too_large_a_scale(raw: RawStudy) -> None:
    as_floats(raw, 300.0)
    failing(raw, "too large a scale")


@pytest.mark.slow
def test_bad_input__unknown_voxels_stay_unknown_and_in_their_place(raw: RawStudy) -> None:
    as_floats(raw, 1.0, holes=True)
    assert not raw.run().failed
    values = raw.map("1", "R1map")
    x, y, z = (n // 2 for n in values.shape)
    assert np.isnan(values[x : x + 3, y, z]).all()
    assert np.isfinite(values[x - 1, y, z])
    assert np.isfinite(values[x, y + 1, z])


@pytest.mark.slow
def test_quality__a_session_of_few_echoes(raw: RawStudy) -> None:
    for echo in range(5, 9):
        for path in raw.images(f"sub-01_ses-1_*echo-{echo}_*MPM*"):
            path.unlink()
    assert not raw.run(sessions=SessionChoice((), ("1",))).failed
    found = raw.quality("1")
    assert any("4 echoes" in text for text in found["warnings"])
    assert all(value > 0 for value in found["motion_degradation"].values())


@pytest.mark.parametrize(("angles_deg", "left"), [((6, 21), None), ((12, 50), "1.3 %"), ((20, 50), "refused")])
def test_spoiling__tells_what_the_correction_leaves_and_refuses_much(
    angles_deg: tuple[float, float], left: str | None
) -> None:
    pdw, t1w = (Excitation(name, math.radians(a), 0.02) for name, a in zip(("PDw", "T1w"), angles_deg, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        record = {"spoiling": spoiling_coefficients(pdw, t1w).describe()}
    session = MpmSession("01", "2", {})
    if left == "refused":
        with pytest.raises(ImageError, match=r"sub-01_ses-2: .* up to 71.0 % with this protocol"):
            spoiling_warnings(session, {"spoiling": {}}, record)
    else:
        found = spoiling_warnings(session, {"spoiling": {}}, record)
        assert len(found) == (left is not None)
        assert all(f"up to {left}" in text for text in found)


@pytest.mark.slow
def test_spoiling__is_told_where_it_needs_a_b1_map_that_is_not_there(raw: RawStudy) -> None:
    raw.change(mpm={"registration": "none", "spoiling": {}, "missing_b1": "semi-quantitative"})
    for path in raw.images("sub-01_ses-1_*TB1AFI*"):
        path.unlink()
    assert not raw.run().failed
    assert any("not corrected for imperfect spoiling" in text for text in raw.quality("1")["warnings"])
    tree = json.loads((raw.output / "sub-01/ses-2/anat/sub-01_ses-2_R1map.json").read_text())
    assert tree["SpoilingCorrection"] is True
    assert tree["Spoiling"]["largest_error_percent"] < 0.5


def test_bad_input__two_presets_within_a_person(done: RawStudy) -> None:
    done.change(mpm={"preset": "hmri-0.x", "registration": "none"})
    with pytest.raises(
        PlanError, match=r"sub-01_ses-2: expected Preset as in sub-01_ses-1, 'hmri-1.0', found 'hmri-0.x'"
    ):
        done.run(sessions=SessionChoice((), ("2",)))
    assert done.run().computed


def test_validate_study__finds_what_is_wrong_with_sessions(raw: RawStudy) -> None:
    assert validate_study(raw.file).problems == ()
    raw.sidecar("sub-01_ses-2_*flip-2*MPM.json", FlipAngle=0.37)
    problems = validate_study(raw.file).problems
    assert problems
    assert all(text.startswith("sub-01_ses-2") for text in problems)


def test_run_study__output_in_a_participants_folder_is_refused(raw: RawStudy) -> None:
    raw.change(output="sub-01/derivatives")
    with pytest.raises(StudyFileError, match="sub-01"):
        raw.run()
