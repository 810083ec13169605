"""What a whole run writes says the same place: table, NIfTI and page; right is right, however images are stored."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from nilearn.image import load_img, math_img, resample_to_img

from voxcloud.cli.show import against_truth
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.testing import SimulatedStudy, tiny_study
from voxcloud.testing.simulate import TINY_EFFECTS

# Off the axes on every side, so that no flip or exchange of axes gives the same place.
CENTRE = (12.0, -6.0, 10.0)
EFFECT = replace(TINY_EFFECTS[0], centre_mm=CENTRE, radius_mm=7.0)
NEAR_MM = 9.0


def store_as_las(study: SimulatedStudy) -> None:
    """Store every image with its first axis from right to left; the voxels keep their places in mm."""
    for path in sorted(study.folder.glob("sub-*/**/*.nii*")):
        image = nib.load(path)
        flipped = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
        assert nib.aff2axcodes(flipped.affine) == ("L", "A", "S")
        nib.Nifti1Image(np.asanyarray(flipped.dataobj), flipped.affine).to_filename(path)


@pytest.fixture(scope="module", params=["RAS", "LAS"])
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a study with one planted increase on the right, its images stored in either order."""
    study = tiny_study(tmp_path_factory.mktemp(request.param) / "study", effects=(EFFECT,), four_d=())
    if request.param == "LAS":
        store_as_las(study)
    tree = yaml.safe_load(study.study_file.read_text())
    tree["models"][0]["inference"] = {"min_extent": 0, "permutation_beside": "never"}
    study.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    outcome = run_study(study.study_file, RunOptions(engine="serial"))
    assert not outcome.failed
    assert outcome.report is not None
    return outcome.report.parent


def first_cluster(output: Path) -> dict[str, str]:
    with (output / "tables" / "clusters.tsv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream, delimiter="\t") if r["coefficient"] == "linear"]
    return min(rows, key=lambda row: float(row["p_fwe"]))


def statmap(output: Path, stat: str) -> tuple[Any, dict[str, Any]]:
    (path,) = output.glob(f"stats/model-training/**/*contrast-linear*_stat-{stat}_statmap.nii.gz")
    return nib.load(path), json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def test_run__table_names_the_planted_side(output: Path) -> None:
    row = first_cluster(output)
    found = np.array([float(row[k]) for k in ("x", "y", "z")])
    assert np.linalg.norm(found - CENTRE) < NEAR_MM
    assert np.linalg.norm(found - np.array(CENTRE) * [-1, 1, 1]) > NEAR_MM
    assert row["direction"] == "greater"


def test_run__statistic_map_peaks_where_the_table_says(output: Path) -> None:
    row = first_cluster(output)
    image, _ = statmap(output, "t")
    volume = image.get_fdata()
    peak = np.unravel_index(int(volume.argmax()), volume.shape)
    assert (image.affine @ [*peak, 1])[:3] == pytest.approx([float(row[k]) for k in ("x", "y", "z")])
    assert volume.max() == pytest.approx(float(row["peak_t"]), rel=1e-6)
    # Programs that take the qform see the same place as those that take the sform.
    assert np.allclose(image.get_qform(), image.get_sform())
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) > 0


def test_run__nilearn_sees_the_right_side(output: Path) -> None:
    (path,) = output.glob("stats/model-training/**/*contrast-linear*_stat-t_statmap.nii.gz")
    image = load_img(path)
    grid = nib.Nifti1Image(
        np.zeros((30, 30, 30)), np.array([[-4.0, 0, 0, 60], [0, 4, 0, -58], [0, 0, 4, -58], [0, 0, 0, 1]])
    )
    seen = resample_to_img(image, grid, interpolation="nearest", copy_header=True, force_resample=True)
    strong = math_img("img > 0.7 * img.max()", img=seen).get_fdata() > 0
    places = np.argwhere(strong) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    assert len(places) > 2
    assert np.linalg.norm(places.mean(axis=0) - CENTRE) < NEAR_MM


def test_run__sidecar_says_what_the_map_is(output: Path) -> None:
    image, sidecar = statmap(output, "t")
    tree = json.loads(next(output.glob("results/model-training/*__linear__*.json")).read_text())
    assert sidecar["Statistic"] == "t"
    assert sidecar["DegreesOfFreedom"] == tree["df"] == 7
    assert sidecar["AnalysedVoxels"] == int((image.get_fdata() != 0).sum()) == tree["mask_voxels"]
    assert sidecar["OutsideAnalysisMask"] == 0
    assert "patients" in json.dumps(sidecar)
    effect, beside = statmap(output, "effect")
    assert beside["EffectUnits"] == tree["units"] == "1/s per 84 days"
    z, _ = statmap(output, "z")
    t = image.get_fdata()
    inside = t != 0
    assert (np.sign(z.get_fdata()[inside]) == np.sign(t[inside])).all()
    assert (np.sign(effect.get_fdata()[inside]) == np.sign(t[inside])).all()


def test_run__page_draws_the_cluster_on_its_side(output: Path) -> None:
    page = (output / "report.html").read_text(encoding="utf-8")
    row = first_cluster(output)
    assert f"x = {float(row['x']):g}, right hemisphere" in page


def test_run__terminal_says_what_was_found_of_what_was_planted(output: Path) -> None:
    sentence = against_truth(output)
    assert sentence.startswith(
        "No planted change is so large that the designs should show it; 1 of 1 weaker one was found"
    )
    assert sentence in (output / "report.html").read_text(encoding="utf-8")
    assert against_truth(output.parent) == ""
