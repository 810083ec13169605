"""What a second run computes: nothing, or exactly what hangs on what changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from voxcloud.errors import CorruptStoreError, PlanError
from voxcloud.pipeline.study import plan_study, run_one_unit, write_study_report

Flip = Callable[[Path], None]

SHARD = "stack-shard/R1map_label-GM/shard-00001"
MANIFEST = "stack-manifest/R1map_label-GM"
TEMPLATE = "fit-template/training/R1map_label-GM"
FIT = "fit-block/training/R1map_label-GM/block-00000"
SMOOTH = "smoothness/training/R1map_label-GM/"
SEARCH = "inference/training/R1map_label-GM/"
LINEAR, QUADRATIC = f"{SEARCH}linear_patients_minus_untrained", f"{SEARCH}quadratic_patients_minus_untrained"
CLOSING = {"summary/study", "report/study"}
STACK = "stacks/R1map_label-GM/mask-49d24ed6"
MODEL = "fits/model-training/R1map_label-GM"
MAPS = "stats/model-training/R1map_label-GM/map-R1map_label-GM_contrast-linearPatientsMinusUntrained_stat-"

# Object -> the one unit that writes it.
WRITERS = {
    f"{STACK}/stack.zarr/values/c/1/0": SHARD,
    f"{STACK}/manifest-1.json": MANIFEST,
    f"{STACK}/stack.zarr/values/zarr.json": MANIFEST,
    f"{STACK}/stack.zarr/voxel_index/c/0": MANIFEST,
    f"{MODEL}/fit.zarr/zarr.json": TEMPLATE,
    f"{MODEL}/fit.zarr/statistic/zarr.json": TEMPLATE,
    f"{MODEL}/fit.zarr/statistic/c/0/0": FIT,
    f"{MODEL}/smoothness-linear.json": f"{SMOOTH}linear",
    f"{MAPS}t_statmap.nii.gz": LINEAR,
    "results/model-training/R1map_label-GM__linear__patients_minus_untrained.json": LINEAR,
    "results/summary.json": "summary/study",
    "report.html": "report/study",
    "tables/clusters.tsv": "report/study",
}


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage", ["flip", pytest.param("cut", marks=pytest.mark.slow), pytest.param("delete", marks=pytest.mark.slow)]
)
def test_run__of_damaged_objects_computes_the_units_that_wrote_them(
    finished: Any, expected: dict[str, str], flip: Flip, damage: str
) -> None:
    change = {"flip": flip, "cut": cut, "delete": Path.unlink}[damage]
    for path in WRITERS:
        change(finished.output / path)
    outcome = finished.run()
    assert (set(outcome.computed), outcome.failed) == (set(WRITERS.values()), {})
    assert finished.numbers() == expected
    assert finished.to_compute() == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
@pytest.mark.parametrize("path", WRITERS)
def test_run__of_one_damaged_object_computes_the_one_unit_that_wrote_it(
    finished: Any, expected: dict[str, str], flip: Flip, path: str, damage: str
) -> None:
    {"flip": flip, "cut": cut, "delete": Path.unlink}[damage](finished.output / path)
    assert finished.to_compute() == [WRITERS[path]]
    assert finished.run().computed == (WRITERS[path],)
    assert finished.numbers() == expected
    assert finished.to_compute() == []


def test_run__of_damaged_records_computes_their_units(finished: Any, expected: dict[str, str], flip: Flip) -> None:
    units = {}
    for path in finished.objects():
        if path.startswith(".voxcloud/records/"):
            unit = path.removeprefix(".voxcloud/records/").rpartition("/")[0]
            units[unit] = finished.output / path
    damages = dict(zip(sorted(units), [cut, Path.unlink, flip, None] * len(units), strict=False))
    for unit, change in damages.items():
        if change is flip:
            record = json.loads(units[unit].read_text())
            units[unit].write_text(json.dumps(record | {"fingerprint": "0" * 64}))
        elif change is not None:
            change(units[unit])
    assert set(finished.to_compute()) == {unit for unit, change in damages.items() if change is not None}
    outcome = finished.run()
    assert set(outcome.computed) == {unit for unit, change in damages.items() if change is not None}
    assert finished.numbers() == expected


def test_run__waits_for_a_damaged_fit_that_a_changed_search_reads(
    finished: Any, expected: dict[str, str], flip: Flip
) -> None:
    flip(finished.output / f"{MODEL}/fit.zarr/statistic/c/0/0")
    finished.change_model(inference={"method": "random-field", "cluster_forming_p": 0.001, "alpha": 0.01})
    outcome = finished.run("threads", workers=2)
    # Smoothness lies between the two and is done.
    assert set(outcome.computed) == {FIT, LINEAR, QUADRATIC, *CLOSING}
    for path, digest in finished.numbers().items():
        if path.startswith("stats/"):
            assert digest == expected[path]


def test_run__of_a_damaged_design_writes_it_anew(finished: Any, expected: dict[str, str], flip: Flip) -> None:
    (design,) = (finished.output / ".voxcloud/designs").iterdir()
    before = design.read_bytes()
    flip(design)
    (finished.output / f"{MODEL}/fit.zarr/n/c/0").unlink()
    assert finished.run().computed == (FIT,)
    assert design.read_bytes() == before
    assert finished.numbers() == expected


def test_run__after_touching_everything_computes_nothing(finished: Any) -> None:
    for path in finished.folder.rglob("*"):
        os.utime(path)
    assert finished.run().computed == ()


def test_run__in_another_folder_computes_nothing(finished: Any, tmp_path: Path, expected: dict[str, str]) -> None:
    moved = finished.copy(tmp_path / "elsewhere" / "the study")
    shutil.rmtree(finished.folder)
    assert moved.run().computed == ()
    assert moved.numbers() == expected


def one_image(study: Any, participant: str) -> Path:
    """Return the file of somebody's first R1 image."""
    table = pd.read_csv(study.folder / "images.tsv", sep="\t", dtype=str)
    rows = table[(table["map"] == "R1map") & (table["participant_id"].str.endswith(participant))]
    return Path(study.folder / rows.iloc[0]["path"])


GOLDEN_ONE_VOXEL = {
    # A new row in a new shard; those with the other images stay as they are.
    "stack-shard/R1map_label-GM/shard-00002",
    "stack-manifest/R1map_label-GM",
    "fit-template/training/R1map_label-GM",
    "fit-block/training/R1map_label-GM/block-00000",
    "smoothness/training/R1map_label-GM/linear",
    "smoothness/training/R1map_label-GM/quadratic",
    "inference/training/R1map_label-GM/linear_patients_minus_untrained",
    "inference/training/R1map_label-GM/quadratic_patients_minus_untrained",
    "summary/study",
    "report/study",
}


def change_one_voxel(path: Path) -> None:
    """Add a little to one voxel in the middle."""
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32).copy()
    data[tuple(n // 2 for n in data.shape)] += np.float32(0.01)
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    nib.save(nib.Nifti1Image(data, image.affine, header), path)


def test_run__of_one_changed_voxel_computes_exactly_its_chain(finished: Any, made: Any, tmp_path: Path) -> None:
    path = one_image(finished, "03")
    change_one_voxel(path)
    outcome = finished.run()
    assert (set(outcome.computed), outcome.failed) == (GOLDEN_ONE_VOXEL, {})
    anew = made.copy(tmp_path / "anew")
    shutil.copy(path, anew.folder / path.relative_to(finished.folder))
    anew.run()
    # Only the stack's rows lie in another order; what is computed from them is the same.
    assert without_stacks(anew.numbers()) == without_stacks(finished.numbers())


def without_stacks(numbers: dict[str, str]) -> dict[str, str]:
    """Return the numbers that are computed from stacks."""
    return {path: digest for path, digest in numbers.items() if not path.startswith("stacks/")}


def test_run__of_a_lost_shard_with_a_replaced_image_goes_on(finished: Any) -> None:
    change_one_voxel(one_image(finished, "03"))
    finished.run()
    before = without_stacks(finished.numbers())
    # The shard cannot come out as it was: the image of one of its rows is no more.
    (finished.output / f"{STACK}/stack.zarr/values/c/0/0").unlink()
    (finished.output / f"{MODEL}/fit.zarr/n/c/0").unlink()
    outcome = finished.run()
    assert outcome.failed == {}
    assert set(outcome.computed) == {"stack-shard/R1map_label-GM/shard-00000", MANIFEST, FIT}
    assert without_stacks(finished.numbers()) == before
    assert finished.to_compute() == []


def test_run__of_another_alpha_computes_inference_and_report_only(finished: Any) -> None:
    inference = {"method": "random-field", "cluster_forming_p": 0.001, "min_extent": 20, "alpha": 0.01}
    finished.change_model(inference=inference)
    assert set(finished.run().computed) == {LINEAR, QUADRATIC, *CLOSING}


def test_run__of_a_new_person_without_images_tells_it(finished: Any) -> None:
    table = finished.folder / "participants.tsv"
    last = table.read_text().splitlines()[-1].split("\t")
    table.write_text(table.read_text() + "\t".join(["sub-99", *last[1:]]) + "\n")
    assert set(finished.run().computed) == CLOSING
    left_out = json.loads((finished.output / "results/cohort.json").read_text())["left_out"]
    assert "99" in {item["participant_id"] for item in left_out}
    assert "99" in (finished.output / "tables/left_out.tsv").read_text()


def test_run__of_another_truth_compares_again(finished: Any) -> None:
    truth = finished.folder / "truth/truth.json"
    truth.write_text(json.dumps(json.loads(truth.read_text()) | {"planted": []}))
    assert set(finished.run().computed) == CLOSING


def test_run__by_another_engine_elsewhere_computes_nothing(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert finished.run("threads", workers=1).computed == ()


def test_run__names_results_that_the_study_does_not_ask_for(finished: Any) -> None:
    finished.change_model(name="other")
    outcome = finished.run()
    assert set(outcome.leftovers) == {"results/model-training", "stats/model-training", "fits/model-training"}
    page = (finished.output / "report.html").read_text()
    assert "model-training" not in page
    assert json.loads((finished.output / "results/summary.json").read_text())["results"] == [
        f"results/model-other/R1map_label-GM__{c}__patients_minus_untrained.json" for c in ("linear", "quadratic")
    ]


def test_run__names_files_that_a_renamed_contrast_left_and_no_folder_in_use(finished: Any) -> None:
    (model,) = yaml.safe_load(finished.file.read_text())["models"]
    contrasts = model["contrasts"]
    finished.change_model(contrasts={"renamed": contrasts.pop("patients_minus_untrained"), **contrasts})
    outcome = finished.run()
    assert set(outcome.leftovers) == {
        f"{MAPS}*",
        MAPS.replace("linear", "quadratic") + "*",
        *(
            f"results/model-training/R1map_label-GM__{c}__patients_minus_untrained.json"
            for c in ("linear", "quadratic")
        ),
    }
    for pattern in outcome.leftovers:  # following the advice loses nothing that is in the report
        for path in finished.output.glob(pattern):
            path.unlink()
    assert finished.run().computed == ()


def test_plan__names_the_setting_that_changed_inside_a_nested_one(finished: Any) -> None:
    (model,) = yaml.safe_load(finished.file.read_text())["models"]
    assert model.get("inference", {}).get("alpha", 0.05) == 0.05
    finished.change_model(inference={**model.get("inference", {}), "alpha": 0.01})
    assert plan_study(finished.file).status[LINEAR].reason == "inference.alpha 0.05 -> 0.01"


def test_run__of_a_study_file_copy_that_cannot_be_read_is_refused(finished: Any) -> None:
    (finished.output / "study.json").write_text("{")
    with pytest.raises(CorruptStoreError, match="Delete it if this is the folder of study 'tiny'"):
        finished.run()


@pytest.mark.slow
def test_run__with_recompute_computes_a_step_once(finished: Any, expected: dict[str, str]) -> None:
    outcome = finished.run(recompute=("stack-shard", "stack-manifest", "smoothness"))
    assert len(outcome.computed) == len(set(outcome.computed))
    assert {key.split("/")[0] for key in outcome.computed} == {"stack-shard", "stack-manifest", "smoothness"}
    assert finished.numbers() == expected


def test_run_one_unit__is_done_for_the_next_run(finished: Any, expected: dict[str, str]) -> None:
    (finished.output / f"{MODEL}/fit.zarr/n/c/0").unlink()
    answer = run_one_unit(FIT, finished.output)
    assert answer["state"] == "done"
    assert finished.run().computed == ()
    assert finished.numbers() == expected


def test_run_one_unit__of_a_study_that_moved_keeps_the_record_until_it_is_run(finished: Any, tmp_path: Path) -> None:
    assert finished.run().computed == ()  # its units lie where it lies now
    moved = finished.copy(tmp_path / "renamed")
    shutil.rmtree(finished.folder)
    for key in (SHARD, FIT, LINEAR):
        with pytest.raises(PlanError, match="so the study moved"):
            run_one_unit(key, moved.output)
    assert moved.run().computed == ()
    assert run_one_unit(SHARD, moved.output)["state"] == "done"
    assert moved.to_compute() == []


def test_run_one_unit__waits_for_a_failed_shard_behind_a_manifest_that_is_done(finished: Any) -> None:
    shard = finished.output / ".voxcloud/records" / SHARD
    (record,) = shard.iterdir()
    tree = json.loads(record.read_text()) | {"state": "failed", "outputs": []}
    record.with_name(record.name.replace(".done.", ".failed.")).write_text(json.dumps(tree))
    record.unlink()
    with pytest.raises(PlanError, match=f"expected {SHARD} to be done, found it failed"):
        run_one_unit(FIT, finished.output)


@pytest.mark.slow
def test_write_study_report__is_not_taken_for_that_of_another_summary(finished: Any) -> None:
    participants = finished.folder / "participants.tsv"
    before = participants.read_text()
    last = before.splitlines()[-1].split("\t")
    participants.write_text(before + "\t".join(["sub-99", *last[1:]]) + "\n")
    finished.run()
    participants.write_text(before)
    write_study_report(finished.file)  # of the summary that is there, with the person
    assert set(finished.run().computed) == CLOSING
    assert ">99<" not in (finished.output / "tables/left_out.tsv").read_text()
    assert "\n99\t" not in (finished.output / "tables/left_out.tsv").read_text()
