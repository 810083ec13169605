"""Bad input through validate, plan and run: named in words, nothing lost, everything else goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxcloud.errors import VoxcloudError
from voxcloud.pipeline.study import RunOptions, StudyOutcome, plan_study, run_study
from voxcloud.pipeline.validating import validate_study

SERIAL = RunOptions(engine="serial")
DIFFERENCE = {"difference": {"test": "group[sci_arm] - group[con_none]", "alternative": "greater"}}


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Write an image again with other values or another affine."""
    image: Any = nib.load(path)
    values, affine = change(np.asarray(image.dataobj), image.affine.copy())
    made = nib.Nifti1Image(values.astype(np.float32), affine)
    made.header.set_xyzt_units("mm")
    nib.save(made, path)


def moved(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    affine[0, 3] += 2.0
    return values, affine


def age(lines: list[str], participant: str, value: str) -> list[str]:
    column = lines[0].split("\t").index("age")
    out = []
    for line in lines:
        cells = line.split("\t")
        if cells[0] == f"sub-{participant}":
            cells[column] = value
        out.append("\t".join(cells))
    return out


def without(lines: list[str], start: str) -> list[str]:
    return [line for line in lines if not line.startswith(start)]


def copied(study: Any) -> None:
    """Make the output folder that of another study."""
    study.output.mkdir(parents=True)
    (study.output / "study.json").write_text(json.dumps({"name": "somebody-elses"}))


def save_mask(path: Path, like: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image: Any = nib.load(like)
    made = nib.Nifti1Image(change(np.asarray(image.dataobj)).astype(np.uint8), image.affine)
    nib.save(made, path)


def volume_elsewhere(study: Any) -> None:
    save_mask(study.folder / "roi.nii.gz", study.folder / "mask.nii.gz", lambda m: m[1:])
    study.edit(search_volumes={"hand": {"path": "roi.nii.gz", "label": "GM"}})


def volume_outside(study: Any) -> None:
    save_mask(study.folder / "roi.nii.gz", study.folder / "mask.nii.gz", lambda m: m == 0)
    study.edit(search_volumes={"hand": {"path": "roi.nii.gz", "label": "GM"}})


def collinear(study: Any) -> None:
    study.table(
        "participants.tsv", lambda lines: [f"{lines[0]}\tmonths"] + [x + "\t" + x.split("\t")[2] for x in lines[1:]]
    )
    study.model(formula="group + age + months", contrasts={"older": {"test": "age", "alternative": "greater"}})


ATTACK = "group + __import__('os').system('touch CANARY')"

# What is wrong -> how it comes about, and what everybody is told before anything is written.
REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "NaN covariate": (
        lambda s: s.table("participants.tsv", lambda t: age(t, "03", "n/a")),
        "model training, R1map_label-GM: 'age' is missing for participant 03",
    ),
    "participant in the images only": (
        lambda s: s.table("participants.tsv", lambda t: without(t, "sub-02")),
        "sub-02_ses-day00: has images",
    ),
    "session in the images only": (
        lambda s: s.table("sessions.tsv", lambda t: without(t, "sub-02\tses-day14")),
        "sub-02_ses-day14: has images",
    ),
    "session without a day": (
        lambda s: s.table(
            "sessions.tsv", lambda t: [x.replace("sub-02\tses-day14\t14", "sub-02\tses-day14\tn/a") for x in t]
        ),
        "found a row without a day",
    ),
    "duplicate session": (
        lambda s: s.table("sessions.tsv", lambda t: [*t, t[1]]),
        "found two or more for sub-01_ses-day00",
    ),
    "duplicate participant": (
        lambda s: s.table("participants.tsv", lambda t: [*t, t[1]]),
        "found two or more for sub-01",
    ),
    "duplicate image": (
        lambda s: s.table("images.tsv", lambda t: [*t, t[1]]),
        "sub-01_ses-day00: expected one R1map GM, found",
    ),
    "inestimable contrast": (collinear, "contrast `age` cannot be estimated"),
    "unknown column": (lambda s: s.model(formula="group + agee"), "'agee' is no column of the table"),
    "too few visits for everybody": (
        lambda s: s.model(sessions="day <= 7"),
        "do not determine linear, quadratic",
    ),
    "empty mask": (
        lambda s: save_mask(s.folder / "mask.nii.gz", s.folder / "mask.nii.gz", np.zeros_like),
        "expected voxels above 0, found none",
    ),
    "no tissue maps": (
        lambda s: s.table("images.tsv", lambda t: [x for x in t if "probseg" not in x]),
        "masks.GM: expected images of map 'probseg' with label GM",
    ),
    "threshold as t": (
        lambda s: s.model(inference={"cluster_forming_p": 3.1}),
        "looks like a t or z statistic",
    ),
    "another study's output": (copied, "found study 'somebody-elses'"),
    "attack": (lambda s: s.model(formula=ATTACK.replace("CANARY", str(s.folder / "canary"))), "is not allowed"),
    "unknown key": (lambda s: s.model(formla="group"), "unknown key. Did you mean 'formula'?"),
    "two images of a participant": (
        lambda s: s.model(estimator="ols", min_visits=None),
        "participant 01 has 5 rows, participant 02 has 5 rows",
    ),
    "baseline without images": (
        lambda s: (
            s.table("sessions.tsv", lambda t: [x.replace("\t0", "\t1") if x.endswith("\t0") else x for x in t]),
            s.model(estimator="ols", session="baseline", min_visits=None),
        ),  # type: ignore[func-returns-value]
        "has no image on day 0 (session: baseline), only on day 1, 7, 14, 28, 84",
    ),
    "unknown session": (
        lambda s: s.model(estimator="ols", session="day1", min_visits=None),
        "has no image of ses-day1, only of ses-day00",
    ),
    "unknown group": (
        lambda s: s.model(where="group in [sci_arms, con_none]"),
        "which is neither in `groups` nor in the group column. Did you mean 'sci_arm'?",
    ),
    "union without people": (
        lambda s: (s.edit(groups={"patients": ["sci_arm", "sci_leg"]}), s.model(where="group in [patients, con_none]")),  # type: ignore[func-returns-value]
        "groups.patients: expected participants of the group sci_leg, found none",
    ),
    "unknown map": (lambda s: s.model(maps=["R1"]), "map 'R1' is not known. Did you mean 'R1map'?"),
    "map without images": (lambda s: s.model(maps=["MTsat"]), "expected images of map 'MTsat' in the images table"),
    "label without images": (
        lambda s: s.model(labels=["WM"]),
        "expected images of R1map with label WM, found label GM",
    ),
    "PDmap": (lambda s: s.model(maps=["PDmap"]), "PDmap cannot be tested"),
    "unknown term": (lambda s: s.model(coefficients=["liner"]), "Did you mean 'linear'?"),
    "search volume on another grid": (volume_elsewhere, "search_volumes.hand"),
    "search volume outside the mask": (volume_outside, "search_volumes.hand"),
    "search volume missing": (
        lambda s: s.edit(search_volumes={"hand": {"path": "roi.nii.gz"}}),
        "search_volumes.hand",
    ),
    "newer schema": (lambda s: s.edit(schema=2), "schema 2 is newer than 1"),
    "broken YAML": (lambda s: s.file.write_text("schema: 1\nname: [tiny\n"), "not valid YAML"),
    "empty study file": (lambda s: s.file.write_text(""), "found an empty file"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_bad_input__is_refused_in_the_same_words_before_anything_is_written(why: str, study: Any) -> None:
    damage, words = REFUSED[why]
    damage(study)
    before = sorted(study.folder.rglob("*"))
    assert words in "\n".join(validate_study(study.file).problems)
    for act in (plan_study, lambda path: run_study(path, SERIAL)):
        with pytest.raises(VoxcloudError) as caught:
            act(study.file)
        assert words in str(caught.value)
    assert sorted(study.folder.rglob("*")) == before


@pytest.mark.parametrize(("name", "words"), [("", "found a folder"), ("no.yaml", "no such study file")])
def test_bad_input__study_file_is_a_folder_or_missing(name: str, words: str, study: Any) -> None:
    path = study.folder / name
    assert words in validate_study(path).problems[0]
    for act in (plan_study, run_study):
        with pytest.raises(VoxcloudError, match=words):
            act(path)


# What is wrong with one image -> how it comes about, and the words in which it is named.
BAD_IMAGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "missing": (lambda s: s.image("01", "00").unlink(), "found no file"),
    "truncated": (
        lambda s: s.image("01", "00").write_bytes(s.image("01", "00").read_bytes()[:-200]),
        "it is cut short",
    ),
    "empty": (lambda s: s.image("01", "00").write_bytes(b""), "found 0 bytes"),
    "another affine": (lambda s: rewrite(s.image("01", "00"), moved), "expected the mask's grid"),
    "another shape": (
        lambda s: rewrite(s.image("01", "00"), lambda v, a: (v[1:], a)),
        "expected the mask's grid, shape 9 x 10 x 9",
    ),
    "milliseconds": (
        lambda s: rewrite(s.image("01", "00"), lambda v, a: (1000.0 / np.maximum(v, 1e-3), a)),
        "R1map is expected in 1/s",
    ),
    "nothing in the mask": (
        lambda s: rewrite(s.image("01", "00"), lambda v, a: (np.full_like(v, np.nan), a)),
        "expected finite values in the mask",
    ),
    "wrong volume": (
        lambda s: s.table("images.tsv", lambda t: [f"{t[0]}", t[1] + "3", *t[2:]]),
        "expected volume 3 (counted from 0), found 1 volumes",
    ),
}


@pytest.mark.parametrize("why", BAD_IMAGES)
def test_bad_input__an_image_stops_only_what_needs_it(why: str, study: Any) -> None:
    damage, words = BAD_IMAGES[why]
    damage(study)
    found = validate_study(study.file).problems
    assert len(found) == 1
    assert found[0].startswith("sub-01_ses-day00")
    assert words in found[0]
    plan = plan_study(study.file).plan
    assert [words in text and "sub-01_ses-day00" in text for text in plan.missing_files] == [True] * (why == "missing")
    outcome = run_study(study.file, SERIAL)
    assert list(outcome.failed) == ["stack-shard/R1map_label-GM/shard-00000"]
    message = outcome.failed["stack-shard/R1map_label-GM/shard-00000"]["message"]
    assert "sub-01_ses-day00" in message
    assert words in message
    assert {"stack-manifest/probseg_label-GM", "stack-shard/R1map_label-GM/shard-00001"} <= set(outcome.computed)
    assert "stack-manifest/R1map_label-GM" in outcome.unavailable
    assert outcome.already_done == 0


def in_detail(outcome: StudyOutcome) -> str:
    return "\n".join([*outcome.problems, *(str(a["message"]) for a in outcome.failed.values())])


def test_bad_input__on_bad_image_exclude_goes_on_and_the_report_names_the_image(study: Any) -> None:
    rewrite(study.image("01", "00"), moved)
    study.image("02", "07").unlink()
    study.edit(on_bad_image="exclude")
    found = validate_study(study.file)
    assert found.problems == ()
    assert any("sub-01_ses-day00" in text and "mask's grid" in text for text in found.warnings)
    planned = plan_study(study.file).plan
    assert [(i.participant_id, i.session_id) for i in planned.left_out if i.session_id] == [("02", "day07")]
    outcome = run_study(study.file, SERIAL)
    assert not outcome.failed
    assert outcome.report is not None
    left_out = json.loads((study.output / "results" / "cohort.json").read_text())["left_out"]
    assert {(i["participant_id"], i["session_id"]) for i in left_out} >= {("01", "day00"), ("02", "day07")}
    page = outcome.report.read_text()
    assert "expected the mask&#39;s grid" in page or "expected the mask's grid" in page


def test_bad_input__models_that_can_be_fitted_go_on(study: Any) -> None:
    study.more_models(
        {"name": "attack", "formula": ATTACK.replace("CANARY", str(study.folder / "canary"))},
        {"name": "pd", "maps": ["PDmap", "R1map"], "coefficients": ["quadratic"]},
    )
    found = validate_study(study.file).problems
    assert [text.split(":")[0] for text in found] == ["model pd, PDmap", "model attack, R1map_label-GM"]
    plan = plan_study(study.file).plan
    assert set(plan.problems) == set(found)
    assert sorted(d["model"] for d in plan.designs.values()) == ["pd", "training"]
    assert not (study.folder / "canary").exists()


def test_bad_input__empty_analysis_mask_stops_its_models_by_name(study: Any) -> None:
    study.edit(masks={"GM": {"map": "probseg", "threshold": 0.9999}})
    assert validate_study(study.file).problems == ()
    outcome = run_study(study.file, SERIAL)
    assert [key.split("/")[0] for key in outcome.failed] == ["tissue-mask"]
    assert "found none (largest mean" in in_detail(outcome)
    assert outcome.report is None


def test_bad_input__constant_voxels_are_left_out_counted_and_reported(study: Any) -> None:
    inside = np.argwhere(np.asarray(nib.load(study.folder / "mask.nii.gz").dataobj) > 0)
    tissue = np.mean([np.asarray(nib.load(p).dataobj) for p in study.folder.rglob("*probseg.nii.gz")], axis=0)
    where = [tuple(v) for v in inside if tissue[tuple(v)] > 0.5][:3]

    def flat(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = values.copy()
        for voxel in where:
            values[voxel] = 0.7
        return values, affine

    for path in study.folder.rglob("*R1map.nii.gz"):
        rewrite(path, flat)
    # Where people came on different days, a constant is 0 in a coefficient but for rounding.
    study.table("images.tsv", lambda t: without(t, "sub-02\tses-day14\tR1map"))
    outcome = run_study(study.file, SERIAL)
    assert not outcome.failed
    warnings = json.loads((study.output / "results" / "cohort.json").read_text())["warnings"]
    assert any("the same value in every participant" in w and "training R1map_label-GM 3" in w for w in warnings)
    maps = [np.asarray(nib.load(p).dataobj) for p in study.output.rglob("*stat-t_statmap.nii.gz")]
    assert maps
    assert all(not np.isfinite(m[v]) or m[v] == 0 for m in maps for v in where)


def test_validate_study__finds_everything_at_once(study: Any) -> None:
    study.table("participants.tsv", lambda t: [*t, t[1]])
    study.table("sessions.tsv", lambda t: [*t, t[1]])
    save_mask(study.folder / "mask.nii.gz", study.folder / "mask.nii.gz", np.zeros_like)
    copied(study)
    found = validate_study(study.file).problems
    for words in ("participants.tsv", "sessions.tsv", "mask.nii.gz", "somebody-elses"):
        assert any(words in text for text in found), words


def test_validate_study__names_every_wrong_key(study: Any) -> None:
    study.edit(famil="all", output=7)
    found = validate_study(study.file).problems
    assert any("famil: unknown key. Did you mean 'family'?" in text for text in found)
    assert any("output: " in text for text in found)


def test_validate_study__names_an_engine_that_is_not_installed_and_units_that_are_too_large(study: Any) -> None:
    study.edit(compute={"engine": "thread"})
    assert "Did you mean 'threads'?" in validate_study(study.file).problems[0]
    study.edit(compute={"engine": "threads", "memory_per_worker": "1 MB"})
    assert "the largest worker has 1 MB" in validate_study(study.file).problems[0]


def test_validate_study__passes_a_sound_study_with_4d_files_and_writes_nothing(study: Any) -> None:
    rows = [line.split("\t") for line in (study.folder / "images.tsv").read_text().splitlines()]
    own = [r for r in rows if r[0] == "sub-01" and r[2] == "R1map"]
    volumes = [np.asarray(nib.load(study.folder / r[4]).dataobj) for r in own]
    first: Any = nib.load(study.folder / own[0][4])
    nib.save(nib.Nifti1Image(np.stack(volumes, axis=-1), first.affine), study.folder / "four.nii")
    for k, row in enumerate(own):
        row[4:6] = ["four.nii", str(k)]
    (study.folder / "images.tsv").write_text("\n".join("\t".join(r) for r in rows) + "\n")
    before = sorted(study.folder.rglob("*"))
    assert validate_study(study.file).problems == ()
    assert sorted(study.folder.rglob("*")) == before


def test_bad_input__compressed_file_that_is_whole_but_of_another_size_is_read_to_know(study: Any) -> None:
    path = study.image("01", "07")
    content = gzip.decompress(path.read_bytes())
    half = len(content) // 2
    path.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    assert validate_study(study.file).problems == ()
    path.write_bytes(gzip.compress(content[:half]))
    assert "cut short" in validate_study(study.file).problems[0]


def test_bad_input__a_search_volume_outside_the_analysis_mask_is_named_by_its_searches_alone(study: Any) -> None:
    tissue = np.mean([np.asarray(nib.load(p).dataobj) for p in study.folder.rglob("*probseg.nii.gz")], axis=0)
    save_mask(study.folder / "roi.nii.gz", study.folder / "mask.nii.gz", lambda m: (m > 0) & (tissue < 0.1))
    study.edit(search_volumes={"hand": {"path": "roi.nii.gz"}})
    study.model(coefficients=["linear"])
    assert validate_study(study.file).problems == ()
    outcome = run_study(study.file, SERIAL)
    assert [key.split("/")[0] for key in outcome.failed] == ["inference"]
    assert "search_volumes.hand" in in_detail(outcome)
    assert any(key.startswith("smoothness/") for key in outcome.computed)
