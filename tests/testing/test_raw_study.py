"""The simulated raw study: its tables and study file, and that its images hold what its truth says, where it says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml
from scipy import ndimage

from voxcloud.config.load import load_study
from voxcloud.errors import PlanError, StudyFileError
from voxcloud.qmri.maps import create_maps
from voxcloud.qmri.protocol import Contrast
from voxcloud.testing import RawChange, SimulatedRawStudy, compare_with_truth, simulate_raw_study
from voxcloud.testing.raw_changes import STUDY_CHANGES
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.raw_protocol import echo_train
from voxcloud.testing.raw_study import FEW_ECHOES

Floats = npt.NDArray[np.float64]
FEW = DwiProtocol(
    shells=((1000.0, 6),), b0_volumes=1, multiband=1, noise=0.0, motion=0.0, eddy=0.0, dropped=0.0, gibbs=False
)
CENTRE = (0.0, -30.0, 26.0)
VOLUME = RawChange("grows", "volume", "WM", "linear", CENTRE, 18.0, 0.10)
MTSAT = RawChange("myelin", "MTsat", "WM", "linear", CENTRE, 18.0, 0.10)
FA = RawChange("order", "FA", "WM", "linear", CENTRE, 18.0, -0.20)


ECHOES = {name: replace(one, echo_times_s=echo_train(6)) for name, one in FEW_ECHOES.items()}
"""As many as are advised: fewer are told of by a warning."""


def study(out: Path, **options: Any) -> SimulatedRawStudy:
    """Write a small study of a phantom: two people, two visits 84 days apart, who do not move."""
    few = {"resolution_mm": 8.0, "phantom": True, "people": 2, "days": (0, 84), "jitter_days": False, "noise": 0.0}
    return simulate_raw_study(out, **{**few, "dwi": False, "motion": False, "changes": None, **options})


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRawStudy:
    return study(tmp_path_factory.mktemp("null"), dwi=FEW, protocol=ECHOES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRawStudy:
    """Eight people with the planted changes of the study, movement and noise; some visits are missing."""
    return study(
        tmp_path_factory.mktemp("whole"),
        people=8,
        days=(0, 7, 28, 84),
        dwi=FEW,
        changes=STUDY_CHANGES,
        motion=True,
        noise=0.003,
        resolution_mm=12.0,
        jitter_days=True,
    )


def load(path: Path) -> Floats:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def truth(made: SimulatedRawStudy, name: str, session: str, participant: str = "01") -> Floats:
    return load(made.maps[participant, session][name])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def in_template(made: SimulatedRawStudy, name: str, session: str, participant: str = "01") -> Floats:
    """Return where voxels of a true map lie in the template on day 0, (x, y, z, 3), by what is on disk alone."""
    image = nib.load(made.maps[participant, session][name])
    record = next(
        s
        for s in made.truth["sessions"]
        if (s["participant_id"], s["session_id"]) == (f"sub-{participant}", f"ses-{session}")
    )
    back = np.linalg.inv(np.array(record["head_to_scanner"]))
    world = np.moveaxis(np.indices(image.shape[:3]), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    head = world @ back[:3, :3].T + back[:3, 3]
    warp = nib.load(made.folder / "truth" / f"sub-{participant}_from-head_to-template_warp.nii.gz")
    at = np.moveaxis((head - warp.affine[:3, 3]) @ np.linalg.inv(warp.affine[:3, :3]).T, -1, 0)
    field = np.asarray(warp.dataobj, dtype=np.float64)
    moved = [ndimage.map_coordinates(field[..., k], at, order=1, mode="nearest") for k in range(3)]
    return np.asarray(head + np.stack(moved, axis=-1))


def test_simulate_raw_study__writes_the_same_bytes_for_the_same_arguments(
    null: SimulatedRawStudy, tmp_path: Path
) -> None:
    again = study(tmp_path / "again", dwi=FEW, protocol=ECHOES)
    assert digests(again.folder) == digests(null.folder)


def test_simulate_raw_study__another_seed_makes_other_images(null: SimulatedRawStudy, tmp_path: Path) -> None:
    other = study(tmp_path / "other", protocol=ECHOES, seed=1)
    before = digests(null.folder)
    same = {name for name, digest in digests(other.folder).items() if before.get(name) == digest}
    assert not [name for name in same if name.endswith(".nii.gz") and name != "truth/null.nii.gz"]


def test_simulate_raw_study__maps_made_of_its_images_are_its_truth(null: SimulatedRawStudy) -> None:
    contrasts = {}
    for name, (flip, mt) in {"MTw": (1, "on"), "PDw": (1, "off"), "T1w": (2, "off")}.items():
        parameters = ECHOES[name]
        folder = null.folder / "sub-01" / "ses-day84" / "anat"
        paths = [
            folder / f"sub-01_ses-day84_echo-{k + 1}_flip-{flip}_mt-{mt}_part-mag_MPM.nii.gz"
            for k in range(len(parameters.echo_times_s))
        ]
        echoes = np.stack([load(path) for path in paths])
        angle = float(np.deg2rad(parameters.flip_angle_deg))
        contrasts[name] = Contrast(name, echoes, parameters.echo_times_s, angle, parameters.repetition_time_s)
    b1 = truth(null, "TB1map", "day84") / 100.0
    made = create_maps(contrasts["PDw"], contrasts["T1w"], contrasts["MTw"], b1=np.where(b1 > 0, b1, 1.0)).maps
    brain = (truth(null, "label-GM_probseg", "day84") + truth(null, "label-WM_probseg", "day84")) > 0.95
    assert brain.sum() > 500
    for name, low, high in (("R1map", 0.998, 1.002), ("R2starmap", 0.998, 1.002), ("MTsat", 1.0, 1.04)):
        ratio = made[name][brain] / truth(null, name, "day84")[brain]
        assert low < np.median(ratio) < high
        assert ratio.std() < 0.03


def test_simulate_raw_study__without_changes_the_same_anatomy_is_scanned_again(null: SimulatedRawStudy) -> None:
    for name in ("R1map", "PDmap", "R2starmap", "MTsat", "label-GM_probseg", "label-WM_probseg", "FA", "MD"):
        np.testing.assert_array_equal(truth(null, name, "day00"), truth(null, name, "day84"))
    assert np.abs(truth(null, "R1map", "day00") - truth(null, "R1map", "day00", "02")).max() > 0.2
    assert null.truth["planted"] == []


def test_simulate_raw_study__mtsat_alone_changes_at_its_place_and_nothing_else_does(
    null: SimulatedRawStudy, tmp_path: Path
) -> None:
    made = study(tmp_path / "mtsat", changes=[MTSAT], slopes=0.0)
    at = in_template(made, "MTsat", "day84")
    expected = 0.10 * MTSAT.visit_change(1.0).profile(at.reshape(-1, 3)).reshape(at.shape[:3])
    before, after = truth(made, "MTsat", "day00"), truth(made, "MTsat", "day84")
    brain = truth(made, "label-WM_probseg", "day00") > 0.99
    np.testing.assert_allclose((after / np.maximum(before, 1e-6) - 1.0)[brain], expected[brain], atol=2e-3)
    assert expected[brain].max() > 0.09
    np.testing.assert_array_equal(before, truth(null, "MTsat", "day00"))
    for name in ("R1map", "PDmap", "R2starmap", "label-GM_probseg", "label-WM_probseg"):
        np.testing.assert_array_equal(truth(made, name, "day84"), truth(null, name, "day84"))


def test_simulate_raw_study__volume_alone_grows_at_its_place_and_tissue_keeps_its_values(tmp_path: Path) -> None:
    made = study(tmp_path / "volume", changes=[VOLUME], slopes=0.0, resolution_mm=4.0)
    voxel_ml = 4.0**3 / 1000.0
    first, last = (made.truth["sessions"][k]["volumes_ml"] for k in (0, 1))
    # The ball lies within white matter for the most part: its gain is that of the template's ball times the room
    # that it takes in this head.
    ratio = nib.load(made.folder / "truth" / "sub-01_volumeratio.nii.gz")
    soft = nib.load(made.folder / "truth" / "grows_profile.nii.gz")
    points = np.indices(soft.shape).reshape(3, -1).T @ soft.affine[:3, :3].T + soft.affine[:3, 3]
    at = (points - ratio.affine[:3, 3]) @ np.linalg.inv(ratio.affine[:3, :3]).T
    room = ndimage.map_coordinates(np.asarray(ratio.dataobj, dtype=np.float64), at.T, order=1)
    grown = np.exp(np.log(1.1) * np.asarray(soft.dataobj, dtype=np.float64).ravel()) - 1.0
    gain_ml = float((grown * room).sum()) * 2.0**3 / 1000.0
    assert gain_ml > 1.5
    assert last["TIV"] - first["TIV"] == pytest.approx(gain_ml, rel=0.05)
    for tissue in ("GM", "WM"):
        whole = truth(made, f"label-{tissue}_probseg", "day84").sum() * voxel_ml
        assert whole == pytest.approx(last[tissue], abs=1e-2)
    # Deep in the ball there is white matter before and after, and its values are those of the tissue.
    where = in_template(made, "R1map", "day00")
    deep = (np.linalg.norm(where - CENTRE, axis=-1) < 8.0) & (truth(made, "label-WM_probseg", "day00") > 0.999)
    assert deep.sum() >= 10
    np.testing.assert_allclose(truth(made, "MTsat", "day84")[deep], truth(made, "MTsat", "day00")[deep], rtol=5e-3)


def test_simulate_raw_study__fa_changes_at_its_place_and_md_does_not(null: SimulatedRawStudy, tmp_path: Path) -> None:
    made = study(tmp_path / "fa", changes=[FA], slopes=0.0, dwi=FEW)
    at = in_template(made, "FA", "day84")
    near = np.linalg.norm(at - CENTRE, axis=-1)
    white = truth(made, "space-dwi_label-WM_probseg", "day84") > 0.99
    ratio = truth(made, "FA", "day84") / np.maximum(truth(made, "FA", "day00"), 1e-6)
    assert (white & (near < 8.0)).sum() >= 1
    # Where fibres cross, FA of the mixture is known to some per cent only.
    np.testing.assert_allclose(ratio[white & (near < 8.0)], 0.80, atol=0.03)
    np.testing.assert_allclose(ratio[white & (near > 40.0)], 1.0, atol=1e-3)
    np.testing.assert_allclose(truth(made, "MD", "day84"), truth(null, "MD", "day84"), rtol=1e-4, atol=1e-9)


def test_simulate_raw_study__written_displacements_are_inverse_to_each_other(null: SimulatedRawStudy) -> None:
    there, back = (
        nib.load(null.folder / "truth" / f"sub-01_from-{one}_warp.nii.gz")
        for one in ("template_to-head", "head_to-template")
    )
    field = np.asarray(there.dataobj, dtype=np.float64)
    points = np.moveaxis(np.indices(field.shape[:3]), 0, -1) @ there.affine[:3, :3].T + there.affine[:3, 3]
    head = points + field
    at = np.moveaxis((head - back.affine[:3, 3]) @ np.linalg.inv(back.affine[:3, :3]).T, -1, 0)
    other = np.asarray(back.dataobj, dtype=np.float64)
    moved = np.stack([ndimage.map_coordinates(other[..., k], at, order=1) for k in range(3)], axis=-1)
    inside = np.linalg.norm(points / np.array([66.0, 84.0, 68.0]), axis=-1) < 1.0
    assert np.linalg.norm(head + moved - points, axis=-1)[inside].max() < 0.1
    assert 2.0 < np.linalg.norm(field, axis=-1)[inside].mean() < 15.0


def test_simulate_raw_study__tables_hold_no_tiv_and_the_visits_that_took_place(whole: SimulatedRawStudy) -> None:
    people = pd.read_csv(whole.folder / "participants.tsv", sep="\t")
    assert list(people.columns) == ["participant_id", "group", "age", "sex"]
    assert people["group"].value_counts().to_dict() == {"con_none": 4, "sci_arm": 2, "sci_leg": 2}
    tables = [pd.read_csv(path, sep="\t") for path in sorted(whole.folder.glob("sub-*/sub-*_sessions.tsv"))]
    assert len(tables) == 8
    assert sum(len(table) for table in tables) == len(whole.cohort.sessions) == 8 * 4 - 2
    folders = {path.name for path in whole.folder.glob("sub-*/ses-*")}
    assert folders == {"ses-day00", "ses-day07", "ses-day28", "ses-day84"}
    assert len(list(whole.folder.glob("sub-*/ses-*/dwi"))) == len(list(whole.folder.glob("sub-*/ses-*"))) - 1
    assert len({float(day) for table in tables for day in table["day"]}) > 4  # actual days, not the planned ones


def test_simulate_raw_study__its_study_file_goes_from_raw_data_to_models(whole: SimulatedRawStudy) -> None:
    tree = yaml.safe_load(whole.study_file.read_text())
    assert tree["space"] == {"resolution_mm": 8}
    assert not {"images", "mask", "masks", "search_volumes"} & set(tree)
    assert tree["dwi"] == {"denoise": "none", "unringing": "none", "motion": "none", "eddy": "none"}
    (model,) = tree["models"]
    assert model["formula"] == "group + age + tiv"
    assert model["estimator"] == "two-stage"
    assert model["maps"] == ["R1map", "MTsat", "R2starmap", "FA", "MD", "AD", "RD", "volume"]
    assert load_study(whole.study_file).study.models[0].name == "training"


def test_simulate_raw_study__truth_can_be_compared_with_results(whole: SimulatedRawStudy) -> None:
    written = json.loads((whole.folder / "truth" / "truth.json").read_text())
    assert written == json.loads(json.dumps(whole.truth))
    entry = next(e for e in written["planted"] if e["name"] == "r1_right_corona_radiata" and e["label"] == "WM")
    cluster = {
        "significant": True,
        "p_fwe": 0.001,
        "size_voxels": 40,
        "peaks": [{"x": 27.0, "y": -20.0, "z_mm": 31.0, "t": 9.0, "z": 4.5}],
    }
    searches = [{"volume": "", "direction": "greater", "clusters": [cluster]}]
    result = {"model": "training", "map": "R1map", "label": "WM", "coefficient": "linear"}
    result |= {"contrast": "patients_minus_untrained", "searches": searches}
    assert entry["shows_in"][0]["direction"] == "greater"
    assert [row["outcome"] for row in compare_with_truth(written, [result])] == ["found"]
    assert written["null_stacks"] == [
        {"map": name, "label": label} for name in ("R2starmap", "MD") for label in ("GM", "WM")
    ]
    tivs = {person["participant_id"]: person["tiv_ml"] for person in written["participants"]}
    assert len(tivs) == 8
    assert np.std(list(tivs.values())) / np.mean(list(tivs.values())) > 0.02


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"people": 1}, "people is expected to be 2 to 99, found 1"),
        ({"resolution_mm": 0.5}, "resolution_mm is expected to be 1 to 12 mm, found 0.5"),
        ({"days": (7, 0)}, "days are expected to rise from 0 or later, found 7, 0"),
        ({"b1": "none"}, "b1 is expected to be one of AFI, SESTE, DAM, TFL, RFM, TB1map, found none"),
        ({"maps": ("FA",)}, "maps are expected among R1map, MTsat, R2starmap, volume, found FA"),
        ({"changes": [replace(MTSAT, label="CSF")]}, "label of change myelin is expected to be one of GM, WM"),
    ],
)
def test_simulate_raw_study__refuses_what_cannot_be(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=sentence):
        study(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_simulate_raw_study__refuses_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(StudyFileError, match="new or empty folder"):
        study(tmp_path)
