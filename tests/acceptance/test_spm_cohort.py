"""The SPM12 reference cohort through the whole engine: images and tables in, SPM's numbers out."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from voxcloud.pipeline.study import RunOptions, StudyOutcome, run_study

SPM = Path(__file__).resolve().parent.parent / "reference" / "spm"
DAYS = (0, 7, 14, 28, 84)
TERMS = {"lin": "linear", "quad": "quadratic"}
# SPM writes one-sided tables; con1 is greater and con2 is less.
SIDES = {"con1": "greater", "con2": "less"}
TWO_SAMPLE = ("t2-equalvar", "t2-unequalvar")
T_ATOL = {"equalvar": 1e-5, "unequalvar": 1e-3, "mreg": 1e-5}


def model_entry(name: str, where: str, formula: str, test: str, variance: str = "equal") -> dict[str, Any]:
    return {
        "name": name,
        "maps": ["effect"],
        "where": f"group in [{where}]",
        "estimator": "two-stage",
        "formula": formula,
        "variance": variance,
        "contrasts": {
            "difference": {"test": test, "alternative": "two-sided"},
            "any": {"test": [test], "alternative": "two-sided"},
        },
        # SPM's tables list every cluster and every peak.
        "inference": {"min_extent": 0},
    }


def write_study(out: Path, missing: tuple[tuple[str, int], ...] = (), **changes: Any) -> Path:
    """Write the cohort as a study; ``missing`` are (participant, day) without an image."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("mask.nii.gz", "cohort_int16.nii.gz"):
        shutil.copy(SPM / name, out / name)
    people = pd.read_csv(SPM / "participants.tsv", sep="\t")
    people.columns = ["participant_id", *people.columns[1:]]
    people.to_csv(out / "participants.tsv", sep="\t", index=False)
    scans = pd.read_csv(SPM / "scans.tsv", sep="\t")
    with (out / "images.tsv").open("w", newline="") as images, (out / "sessions.tsv").open("w", newline="") as sessions:
        image_rows, session_rows = csv.writer(images, delimiter="\t"), csv.writer(sessions, delimiter="\t")
        image_rows.writerow(["participant_id", "session_id", "map", "label", "path", "volume"])
        session_rows.writerow(["participant_id", "session_id", "day"])
        for who, day, volume in scans[[scans.columns[0], "day", "volume"]].itertuples(index=False):
            if (who, int(day)) not in missing:
                session = f"ses-day{int(day):02d}"
                image_rows.writerow([who, session, "effect", "", "cohort_int16.nii.gz", int(volume)])
                session_rows.writerow([who, session, int(day)])
    groups = "patient, control"
    covariates, difference = "group + age + tiv", "group[patient] - group[control]"
    tree = {
        "schema": 1,
        "name": "spm-cohort",
        "output": "out",
        "images": "images.tsv",
        "participants": "participants.tsv",
        "sessions": "sessions.tsv",
        "mask": "mask.nii.gz",
        "time": {
            "basis": "polynomial",
            "reference_days": list(DAYS),
            "terms": ["linear", "quadratic"],
            "orthogonalise": "quadratic",
        },
        "models": [
            model_entry("t2-equalvar", groups, covariates, difference),
            model_entry("t2-unequalvar", groups, covariates, difference, "unequal"),
            model_entry("mreg", "patient", "behaviour + age + tiv", "behaviour"),
        ],
        **changes,
    }
    path = out / "study.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spm")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> StudyOutcome:
    found = run_study(write_study(folder), RunOptions(engine="threads"))
    assert not found.failed
    return found


def result(folder: Path, model: str, term: str, contrast: str = "difference") -> dict[str, Any]:
    path = folder / "out" / "results" / f"model-{model}" / f"effect__{TERMS[term]}__{contrast}.json"
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def names(model: str, term: str) -> str:
    """Return the reference's name of a model and term."""
    return f"mreg_{term}" if model == "mreg" else f"t2_{term}_{model.removeprefix('t2-')}"


CASES = [(model, term) for model in ("t2-equalvar", "t2-unequalvar", "mreg") for term in TERMS]


@pytest.mark.parametrize(("model", "term"), CASES)
def test_t_map__is_spms(folder: Path, outcome: StudyOutcome, model: str, term: str) -> None:
    (path,) = (folder / "out" / "stats" / f"model-{model}").rglob(f"*_contrast-{TERMS[term]}Difference_stat-t_*.nii.gz")
    image = nib.load(path)
    inside = np.asarray(nib.load(SPM / "mask.nii.gz").dataobj) > 0
    t = image.get_fdata()
    expected = np.load(SPM / "t_maps.npz")[names(model, term)]
    atol = T_ATOL[model.removeprefix("t2-")]
    np.testing.assert_allclose(t[inside], expected, atol=atol)
    assert (t[~inside] == 0).all()


@pytest.mark.parametrize(("model", "term"), CASES)
def test_smoothness__is_spms(folder: Path, outcome: StudyOutcome, model: str, term: str) -> None:
    reference = json.loads((SPM / "models.json").read_text())[names(model, term)]
    found = result(folder, model, term)
    rtol = 1e-6 if model == "t2-unequalvar" else 1e-8
    np.testing.assert_allclose(found["df"], reference["erdf"], rtol=rtol)
    np.testing.assert_allclose(found["fwhm_voxels"], reference["FWHM_vox"], rtol=rtol)
    for search in found["searches"]:
        np.testing.assert_allclose(search["resels"], reference["RESELS"], rtol=rtol)
        assert search["n_voxels"] == reference["S"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("model", "term"), CASES)
def test_clusters__are_spms(folder: Path, outcome: StudyOutcome, model: str, term: str, side: str) -> None:
    (search,) = [s for s in result(folder, model, term)["searches"] if s["direction"] == SIDES[side]]
    compare_clusters(search["clusters"], names(model, term), side)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("model", "term"), CASES)
def test_levels_and_voxel_wise_fdr__are_spms(
    folder: Path, outcome: StudyOutcome, model: str, term: str, side: str
) -> None:
    reference = json.loads((SPM / "tables.json").read_text())[names(model, term)][side]
    (search,) = [s for s in result(folder, model, term)["searches"] if s["direction"] == SIDES[side]]
    loose = 1e-3 if model == "t2-unequalvar" else 1e-5
    height, _, smallest, _ = reference["uc"]
    assert search["height_fwe"] == pytest.approx(height, abs=1e-6)
    assert min((c["size_voxels"] for c in search["clusters"] if c["significant"]), default=None) == smallest
    assert all(c["significant"] == (c["size_voxels"] >= search["extent_fwe"]) for c in search["clusters"])
    first = reference["table_topoFDR"][0]
    assert search["clusters_any_size"] == first["set_c"]
    assert search["set_p"] == pytest.approx(first["set_p"], abs=loose)
    peaks = {(row["x"], row["y"], row["z"]): row["peak_qFDR"] for row in reference["table_voxelFDR"]}
    for cluster in search["clusters"]:
        for peak in cluster["peaks"]:
            assert peak["q_fdr_voxel"] == pytest.approx(peaks[peak["x"], peak["y"], peak["z_mm"]], abs=loose)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("model", TWO_SAMPLE)
def test_clusters_of_f__are_spms(folder: Path, outcome: StudyOutcome, model: str, term: str) -> None:
    (search,) = result(folder, model, term, "any")["searches"]
    compare_clusters(search["clusters"], names(model, term), "con3")
    (path,) = (folder / "out" / "stats" / f"model-{model}").rglob(f"*_contrast-{TERMS[term]}Any_stat-F_*.nii.gz")
    assert str(nib.load(path).header["descrip"].item().decode()).startswith("SPM{F_[1.0,2")


def compare_clusters(found: list[dict[str, Any]], name: str, contrast: str) -> None:
    table = json.loads((SPM / "tables.json").read_text())[name][contrast]["table_topoFDR"]
    expected = [row for row in table if isinstance(row["clus_k"], int | float)]
    loose = name.endswith("_unequalvar")
    assert [c["size_voxels"] for c in found] == [int(row["clus_k"]) for row in expected]
    for cluster, row in zip(found, expected, strict=True):
        assert cluster["p_fwe"] == pytest.approx(row["clus_pFWE"], abs=1e-5 if loose else 1e-6)
        assert cluster["p_uncorrected"] == pytest.approx(row["clus_punc"], abs=1e-5 if loose else 1e-6)
        peak = cluster["peaks"][0]
        assert [peak["x"], peak["y"], peak["z_mm"]] == [row["x"], row["y"], row["z"]]
        atol = 1e-3 if loose else 1e-5
        if contrast == "con3":  # F = t^2: a difference in t times 2 t
            atol *= 2 * row["peak_stat"] ** 0.5
        assert abs(peak["t"]) == pytest.approx(row["peak_stat"], abs=atol)
        assert peak["p_fwe"] == pytest.approx(row["peak_pFWE"], abs=1e-4 if loose else 1e-5)


def patients(count: int) -> list[str]:
    people = pd.read_csv(SPM / "participants.tsv", sep="\t")
    return people.loc[people["group"] == "patient"].iloc[:count, 0].tolist()


SENSORIMOTOR_MM = np.array([34.0, -22.0, 52.0])


def sensorimotor_p(folder: Path) -> float:
    """Return the smallest corrected p of a cluster with a peak in the planted sensorimotor change, 1 without."""
    (search,) = [s for s in result(folder, "t2-equalvar", "lin")["searches"] if s["direction"] == "greater"]
    near = [
        c["p_fwe"]
        for c in search["clusters"]
        for p in c["peaks"]
        if np.linalg.norm(np.array([p["x"], p["y"], p["z_mm"]]) - SENSORIMOTOR_MM) <= 13.0
    ]
    return min(near, default=1.0)


def without_last_visit(folder: Path, **settings: Any) -> StudyOutcome:
    covariates, difference = "group + age + tiv", "group[patient] - group[control]"
    model = model_entry("t2-equalvar", "patient, control", covariates, difference) | settings
    missing = tuple((who, 84) for who in patients(3))
    return run_study(write_study(folder, missing, models=[model]), RunOptions(engine="threads"))


def test_missing_last_visit__leaves_the_coefficient_by_name_and_keeps_the_cluster(tmp_path: Path) -> None:
    outcome = without_last_visit(tmp_path)
    assert not outcome.failed
    found = result(tmp_path, "t2-equalvar", "lin")
    bare = [who.removeprefix("sub-") for who in patients(3)]
    assert found["n"] == 28
    assert not set(bare) & set(found["participants"])
    assert sensorimotor_p(tmp_path) < 0.05
    left_out = pd.read_csv(tmp_path / "out" / "tables" / "left_out.tsv", sep="\t", dtype=str)
    reasons = left_out[left_out.apply(lambda row: "linear coefficient" in " ".join(map(str, row)), axis=1)]
    named = {who.removeprefix("sub-") for who in reasons["participant_id"]}
    assert named == set(bare)
    # Variance 545 times that of the complete design: a standard deviation 23 times as large.
    assert reasons.apply(lambda row: "standard deviation 23.3 times" in " ".join(map(str, row)), axis=1).all()


def test_missing_last_visit__an_unweighted_fit_that_was_asked_for_loses_the_cluster(tmp_path: Path) -> None:
    outcome = without_last_visit(tmp_path, accept_unequal_variance=True)
    assert not outcome.failed
    found = result(tmp_path, "t2-equalvar", "lin")
    assert found["n"] == 31
    assert sensorimotor_p(tmp_path) > 0.05
    assert any("plain unweighted fit" in text for text in found["warnings"])
    assert "unweighted" in (tmp_path / "out" / "report.html").read_text()
