"""Diffusion maps from a raw data set: the golden list, the truth, bad input, and what a second run computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import pytest

from voxcloud.errors import PlanError
from voxcloud.pipeline.study import plan_study
from voxcloud.pipeline.validating import validate_study
from voxcloud.plan.modality import SessionChoice
from voxcloud.testing.raw import tiny_raw
from voxcloud.testing.raw_dwi_protocol import TINY_DWI, DwiProtocol

GOLDEN = Path(__file__).parent / "diffusion_outputs.txt"
RawStudy: TypeAlias = Any  # of conftest


@pytest.fixture(scope="module")
def made(raw_study: RawStudy, tmp_path_factory: pytest.TempPathFactory) -> RawStudy:
    """One person's two visits with their maps."""
    study = raw_study(tmp_path_factory.mktemp("made") / "raw")
    tiny_raw(study.folder, dwi=TINY_DWI, mpm=False)
    outcome = study.run()
    assert not outcome.failed, outcome.failed
    assert not outcome.problems
    return study


@pytest.fixture
def raw(made: RawStudy, tmp_path: Path) -> RawStudy:
    """A copy without maps, to break; movement is not looked for, which takes most of the time."""
    study = made.copy(tmp_path / "raw", maps=False)
    study.change(dwi={"motion": "none", "denoise": "none", "bias": "none"})
    return study


@pytest.fixture
def done(made: RawStudy, tmp_path: Path) -> RawStudy:
    """A copy with its maps."""
    return made.copy(tmp_path / "raw", maps=True)


def dwi_map(study: RawStudy, name: str, session: str = "1") -> np.ndarray:
    path = study.output / f"sub-01/ses-{session}/dwi/sub-01_ses-{session}_model-tensor_param-{name}_dwimap.nii.gz"
    return np.asarray(nib.load(path).dataobj)


def dwi_quality(study: RawStudy, session: str = "1") -> dict[str, Any]:
    path = study.output / f"sub-01/ses-{session}/sub-01_ses-{session}_desc-dwi_qc.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def change_table(study: RawStudy, change: Any) -> None:
    """Change the gradient table (4, volume) of session 1: b-values, then b-vectors."""
    (bval,), (bvec,) = study.images("sub-01_ses-1_*.bval"), study.images("sub-01_ses-1_*.bvec")
    table = change(np.vstack([np.loadtxt(bval)[None], np.loadtxt(bvec)]))
    np.savetxt(bval, table[:1], fmt="%g")
    np.savetxt(bvec, table[1:], fmt="%.6f")


def test_run_study__writes_the_files_of_the_golden_list(made: RawStudy) -> None:
    found = [path for path in made.objects() if not path.startswith(".voxcloud/")]
    assert found == GOLDEN.read_text().split()


def test_run_study__maps_are_near_the_truth(made: RawStudy) -> None:
    truth = {name: made.truth("1", name) for name in ("FA", "MD", "AD", "RD", "space-dwi_label-WM_probseg")}
    white = truth.pop("space-dwi_label-WM_probseg") > 0.9
    assert white.sum() > 100
    for name, tolerance in (("FA", 0.1), ("MD", 0.03), ("AD", 0.05), ("RD", 0.03)):
        found = dwi_map(made, name.lower())[white]
        assert abs(np.nanmedian(found) / np.median(truth[name][white]) - 1.0) < tolerance, name
    fa = dwi_map(made, "fa")
    inside = np.isfinite(fa)
    assert fa[inside].min() >= 0.0
    assert fa[inside].max() <= 1.0


def test_run_study__corrected_series_and_tensor_give_the_maps(made: RawStudy) -> None:
    from voxcloud.dwi.gradients import bvecs_to_world
    from voxcloud.dwi.tensor import fit_tensor

    stem = made.output / "sub-01/ses-1/dwi/sub-01_ses-1_desc-preproc_dwi"
    image = nib.load(f"{stem}.nii.gz")
    bvals, bvecs = np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec")
    fit = fit_tensor(np.asarray(image.dataobj), bvals, bvecs_to_world(bvecs, image.affine))
    fa = dwi_map(made, "fa")
    inside = np.isfinite(fa)
    np.testing.assert_allclose(fit.fa[inside], fa[inside], atol=1e-3)
    tensor = dwi_map(made, "diffusivity")
    matrices = np.empty((*fa.shape, 3, 3))
    for k, (i, j) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
        matrices[..., i, j] = matrices[..., j, i] = tensor[..., k]
    np.testing.assert_allclose(np.linalg.eigvalsh(matrices[inside])[:, 2], dwi_map(made, "ad")[inside], rtol=1e-4)


def test_run_study__a_sidecar_says_how_a_map_was_made(made: RawStudy) -> None:
    path = made.output / "sub-01/ses-1/dwi/sub-01_ses-1_model-tensor_param-fa_dwimap.json"
    tree = json.loads(path.read_text())
    assert tree["Denoising"] == "mp-pca"
    assert tree["SusceptibilityCorrection"] == "epi"
    assert tree["EddyCorrection"] == "quadratic"
    assert tree["GradientTable"] == {"b0": 2, "Shells": [{"b": 1000.2, "Volumes": 12, "Directions": 12}]}
    assert len(tree["Sources"]) == 5
    for source in tree["Sources"]:
        assert (made.folder / source.removeprefix("bids:raw:")).is_file()
    assert str(made.folder) not in path.read_text()


def test_run_study__quality_tells_what_the_simulation_did(made: RawStudy) -> None:
    found = dwi_quality(made)
    assert found["n_volumes"] == 14
    assert found["susceptibility"]["correlation_after"] > found["susceptibility"]["correlation_before"]
    assert 0.5e-3 < found["maps"]["md"]["WM"]["median"] < 1.0e-3
    assert len(found["motion"]["fd_mm"]["per_volume"]) == 14
    assert found["gibbs"]["done"]
    page = (made.output / "qc_dwi.html").read_text()
    assert "sub-01" in page
    table = (made.output / "tables/qc_dwi.tsv").read_text().splitlines()
    assert len(table) == 3


def test_run_study__again_computes_nothing(done: RawStudy) -> None:
    assert done.run().computed == ()


def test_run_study__a_changed_setting_makes_maps_anew_and_says_why(done: RawStudy) -> None:
    done.change(dwi={"motion": "none"})
    assert "motion" in plan_study(done.file).status["dwi-maps/sub-01_ses-1"].reason
    assert set(done.run().computed) == {"dwi-maps/sub-01_ses-1", "dwi-maps/sub-01_ses-2", "dwi-qc/cohort"}


def test_run_study__only_the_chosen_session(raw: RawStudy) -> None:
    outcome = raw.run(sessions=SessionChoice(("01",), ("2",)))
    assert set(outcome.computed) == {"dwi-maps/sub-01_ses-2", "dwi-qc/cohort"}


@pytest.mark.slow
def test_run_study__every_engine_writes_the_same_bytes(made: RawStudy, tmp_path: Path) -> None:
    other = made.copy(tmp_path / "raw", maps=False)
    other.run(engine="local", workers=2)
    for path in made.objects():
        if path.endswith(".nii.gz"):
            assert (made.output / path).read_bytes() == (other.output / path).read_bytes(), path


def test_bad_input__one_volume_fewer_than_b_values(raw: RawStudy) -> None:
    (path,) = raw.images("sub-01_ses-1_*_dwi.nii.gz")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., :-1], image.affine), path)
    text = raw.failing("dwi", "one for each volume of the image")
    assert "sub-01_ses-1_dir-AP_dwi.nii.gz" in text


def test_bad_input__no_b0(raw: RawStudy) -> None:
    def without(table: np.ndarray) -> np.ndarray:
        weighted = table[0] > 50
        table[:, ~weighted] = table[:, [np.flatnonzero(weighted)[0]]]
        return table

    change_table(raw, without)
    raw.failing("dwi", "b at most 50 s/mm2")


def test_bad_input__five_directions(raw: RawStudy) -> None:
    def five(table: np.ndarray) -> np.ndarray:
        weighted = np.flatnonzero(table[0] > 50)
        table[1:, weighted] = table[1:, weighted[np.arange(weighted.size) % 5]]
        return table

    change_table(raw, five)
    raw.failing("dwi", "found 5")


def test_bad_input__b_values_in_ms_per_um2(raw: RawStudy) -> None:
    change_table(raw, lambda table: table * np.array([[1e-3], [1], [1], [1]]))
    raw.failing("dwi", "ms/um2")


def test_bad_input__vectors_that_are_not_unit(raw: RawStudy) -> None:
    change_table(raw, lambda table: table * np.array([[1], [0.5], [0.5], [0.5]]))
    raw.failing("dwi", "length 1")


def test_bad_input__a_slice_of_nan(raw: RawStudy) -> None:
    (path,) = raw.images("sub-01_ses-1_*_dwi.nii.gz")
    image = nib.load(path)
    data = np.asarray(image.dataobj).astype(np.float32)
    data[:, :, 5, 3] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)
    raw.failing("dwi", "volume 3, slices 5")


def test_bad_input__no_field_map_stops_the_session_or_is_told(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-1_*_epi*"):
        path.unlink()
    raw.failing("dwi", "dwi.missing_b0: skip")
    raw.change(dwi={"motion": "none", "denoise": "none", "bias": "none", "missing_b0": "skip"})
    outcome = raw.run()
    assert not outcome.problems
    assert not outcome.failed
    assert dwi_quality(raw)["susceptibility"] is None
    assert any("field map" in text for text in dwi_quality(raw)["warnings"])


def test_bad_input__a_reversed_image_of_another_size(raw: RawStudy) -> None:
    (path,) = raw.images("sub-01_ses-1_*dir-PA_epi.nii.gz")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    raw.failing("dwi", "dir-PA_epi")


def test_bad_input__a_corrupt_file_is_named_and_the_other_session_made(raw: RawStudy) -> None:
    (path,) = raw.images("sub-01_ses-1_*_dwi.nii.gz")
    path.write_bytes(path.read_bytes()[:-4000])
    raw.failing("dwi", "dwi.nii.gz")


def test_validate__names_every_problem_of_every_session(raw: RawStudy) -> None:
    change_table(raw, lambda table: table[:, :-1])
    for path in raw.images("sub-01_ses-2_*.bvec"):
        path.unlink()
    found = validate_study(raw.file)
    assert any("sub-01_ses-1" in text and "b-values" in text for text in found.problems)
    assert any("sub-01_ses-2" in text and ".bvec" in text for text in found.problems)
    with pytest.raises(PlanError, match="sub-01_ses-2"):
        plan_study(raw.file)


def test_partial_fourier__is_not_unrung_and_told(raw: RawStudy) -> None:
    raw.sidecar("sub-01_ses-1_*_dwi.json", PartialFourier=0.75)
    outcome = raw.run()
    assert not outcome.failed
    assert not outcome.problems
    found = dwi_quality(raw)
    assert found["gibbs"]["done"] is False
    assert "0.75" in found["gibbs"]["reason"]
    assert any("sessions differ in Unringing" in text for text in plan_study(raw.file).plan.warnings)


def test_reversed_series__are_joined_and_make_the_field(raw_study: RawStudy, tmp_path: Path) -> None:
    study = raw_study(tmp_path / "raw")
    protocol = DwiProtocol(voxel_mm=8.0, shells=((1000.0, 12),), b0_volumes=2, reversed_series=True)
    tiny_raw(study.folder, dwi=protocol, mpm=False, sessions=1)
    study.change(dwi={"motion": "none", "bias": "none"})
    outcome = study.run()
    assert not outcome.failed
    assert not outcome.problems
    found = dwi_quality(study)
    assert found["n_volumes"] == 28
    assert found["susceptibility"]["correlation_after"] > found["susceptibility"]["correlation_before"]
    assert [shell["n"] for shell in found["shells"]] == [24]


def test_shells__of_two_b_values_are_fitted_together_and_told_where_images_differ(
    raw_study: RawStudy, tmp_path: Path
) -> None:
    study = raw_study(tmp_path / "raw")
    protocol = DwiProtocol(voxel_mm=8.0, shells=((700.0, 6), (2000.0, 8)), b0_volumes=2)
    tiny_raw(study.folder, dwi=protocol, mpm=False, sessions=1)
    study.change(dwi={"motion": "none", "denoise": "none", "bias": "none"})
    assert not study.run().failed
    assert [round(shell["b"], -1) for shell in dwi_quality(study)["shells"]] == [700, 2000]


@pytest.mark.slow
def test_frame__a_wrong_one_is_refused_with_what_to_do(raw_study: RawStudy, tmp_path: Path) -> None:
    from voxcloud.testing.raw import simulate_raw

    study = raw_study(tmp_path / "raw")
    protocol = DwiProtocol(voxel_mm=3.0, shells=((1000.0, 20),), b0_volumes=2, motion=0.0, eddy=0.0, dropped=0.0)
    simulate_raw(study.folder, dwi=protocol, mpm=False, participants=1, sessions=2)
    study.change(dwi={"motion": "none", "denoise": "none", "bias": "none"})
    change_table(study, lambda table: table * np.array([[1], [-1], [1], [1]]))
    text = study.failing("dwi", "x is negated")
    assert "dwi.frame: trust" in text
    assert dwi_quality(study, "2")["frame"]["verdict"] == "right"


def test_orientation__images_stored_from_right_to_left_give_the_same_maps(raw: RawStudy, tmp_path: Path) -> None:
    """In the frame of BIDS the b-vectors of an image that is stored mirrored along x stay as they are."""
    other = raw.copy(tmp_path / "mirrored", maps=False)
    for path in other.folder.glob("sub-01/ses-*/*/*.nii.gz"):
        image = nib.load(path)
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 3] = image.shape[0] - 1
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine @ mirror, image.header), path)
    chosen = SessionChoice((), ("1",))
    assert not raw.run(sessions=chosen).failed
    assert not other.run(sessions=chosen).failed
    fa, mirrored = dwi_map(raw, "fa"), dwi_map(other, "fa")[::-1]
    both = np.isfinite(fa) & np.isfinite(mirrored)
    # Masks start from block means, which begin at the first voxel: the outermost voxels may differ.
    assert both.sum() > 0.97 * max(np.isfinite(fa).sum(), np.isfinite(mirrored).sum())
    np.testing.assert_allclose(mirrored[both], fa[both], atol=2e-3)
    cosine = np.abs(np.sum(dwi_map(other, "direction")[::-1] * dwi_map(raw, "direction"), axis=3))
    certain = both & (fa > 0.3)
    assert certain.sum() > 200
    assert np.nanmin(cosine[certain]) > 0.999


def test_sparse_data__six_directions_are_not_denoised_and_follow_simpler_rules(
    raw_study: RawStudy, tmp_path: Path
) -> None:
    study = raw_study(tmp_path / "raw")
    tiny_raw(study.folder, dwi=DwiProtocol(voxel_mm=8.0, shells=((1000.0, 6),), b0_volumes=1), mpm=False, sessions=1)
    outcome = study.run()
    assert not outcome.failed, outcome.failed
    found = dwi_quality(study)
    assert found["noise"] is None
    assert found["made"]["Denoising"] == "none"
    assert any("expected at least 12 volumes to tell noise from signal, found 7" in text for text in found["warnings"])
    assert any("predicted by the mean of the others" in text for text in found["warnings"])
    assert not list(study.output.rglob("*noise*"))


def test_readout_time__is_not_needed_where_nothing_is_unwarped(raw: RawStudy) -> None:
    for path in raw.images("sub-01_ses-*_*_epi*"):
        path.unlink()
    raw.sidecar("*_dwi.json", TotalReadoutTime=None, EffectiveEchoSpacing=None, B0FieldSource=None)
    raw.change(dwi={"missing_b0": "skip", "denoise": "none", "bias": "none"})
    outcome = raw.run(sessions=SessionChoice((), ("1",)))
    assert not outcome.failed, outcome.failed
    # Nothing corrects the static field here.
    white = raw.truth("1", "space-dwi_label-WM_probseg") > 0.99
    assert abs(np.nanmedian(dwi_map(raw, "md")[white]) / np.median(raw.truth("1", "MD")[white]) - 1.0) < 0.1
    assert max(dwi_quality(raw)["motion"]["eddy_rms_mm"]["per_volume"]) > 0.3
