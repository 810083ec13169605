"""Plans: what is read when planning, what is a problem of one model, what is said about people."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxcloud.config import load_study
from voxcloud.errors import TableError, VoxcloudError
from voxcloud.plan.build import StudyPlan, build_plan, read_cohort
from voxcloud.storage.store import open_store
from voxcloud.testing.simulate import tiny_study


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"sci_arm": 4, "con_none": 4}
    folder = tmp_path_factory.mktemp("sound")
    return tiny_study(folder, group_sizes=sizes, shape=(8, 9, 8), labels=("GM", "WM")).folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "study")


def edit(folder: Path, model: dict[str, Any] | None = None, **keys: Any) -> None:
    path = folder / "study.yaml"
    tree = yaml.safe_load(path.read_text()) | keys
    tree["models"][0] |= model or {}
    path.write_text(yaml.safe_dump(tree))


def plan_of(folder: Path) -> StudyPlan:
    loaded = load_study(folder / "study.yaml")
    return build_plan(loaded, open_store(loaded.resolve(loaded.study.output)), {})


def sidecar(folder: Path, pattern: str, tree: dict[str, Any]) -> None:
    """Write a sidecar beside every image that fits."""
    for image in folder.rglob(pattern):
        image.with_name(image.name.replace(".nii.gz", ".json")).write_text(json.dumps(tree))


def test_build_plan__refuses_a_participant_whose_sessions_were_made_in_different_ways(folder: Path) -> None:
    sidecar(folder, "sub-02_*label-GM_R1map.nii.gz", {"B1Method": "EPI"})
    sidecar(folder, "sub-02_ses-day28_*label-GM_R1map.nii.gz", {"B1Method": "AFI"})
    plan = plan_of(folder)
    assert [text.split(":")[0] for text in plan.problems] == ["model training, R1map_label-GM"]
    for words in ("sub-02", "B1Method 'EPI' in ses-day00", "'AFI' in ses-day28", "look like change"):
        assert words in plan.problems[0]
    assert [d["stack"] for d in plan.designs.values()] == ["R1map_label-WM"]
    assert {u.name.split("/")[0] for u in plan.units if u.step == "stack-manifest"} >= {"R1map_label-GM"}


def test_build_plan__a_session_that_does_not_enter_may_differ(folder: Path) -> None:
    sidecar(folder, "sub-02_*R1map.nii.gz", {"B1Method": "EPI"})
    sidecar(folder, "sub-02_ses-day84_*R1map.nii.gz", {"B1Method": "AFI"})
    edit(folder, {"sessions": "day <= 28"})
    assert plan_of(folder).problems == ()


def test_build_plan__warns_where_participants_were_measured_in_different_ways(folder: Path) -> None:
    for participant in ("01", "02", "03"):
        sidecar(folder, f"sub-{participant}_*R1map.nii.gz", {"MagneticFieldStrength": 3})
    sidecar(folder, "sub-04_*R1map.nii.gz", {"MagneticFieldStrength": 7.0})
    plan = plan_of(folder)
    assert plan.problems == ()
    own = [w for w in plan.warnings if "MagneticFieldStrength differs between participants" in w]
    assert [w.split(":")[0] for w in own] == ["R1map_label-GM", "R1map_label-WM"]
    assert "3 (3 participants: 01, 02, 03); 7 (1 participants: 04)" in own[0]


def test_build_plan__one_sentence_for_all_stacks_of_a_problem(folder: Path) -> None:
    path = folder / "participants.tsv"
    path.write_text(re.sub(r"(sub-03\tcon_none|sub-03\tsci_arm)\t[\d.]+", r"\1\tn/a", path.read_text()))
    with pytest.raises(VoxcloudError) as caught:
        plan_of(folder)
    assert [p.split(": 'age'")[0] for p in caught.value.problems] == ["model training, R1map_label-GM, R1map_label-WM"]


def test_read_cohort__tells_of_every_table(folder: Path) -> None:
    (folder / "participants.tsv").unlink()
    (folder / "sessions.tsv").write_text("participant_id\tsession_id\nsub-01\tses-1\n")
    with pytest.raises(TableError) as caught:
        read_cohort(load_study(folder / "study.yaml"))
    assert ["participants.tsv" in caught.value.problems[0], "sessions.tsv" in caught.value.problems[1]] == [True, True]


def test_read_cohort__tells_of_every_row_without_a_partner(folder: Path) -> None:
    path = folder / "participants.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith(("sub-01", "sub-05"))))
    path = folder / "sessions.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith("sub-02\tses-day07")))
    with pytest.raises(TableError) as caught:
        read_cohort(load_study(folder / "study.yaml"))
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "sub-01_ses-day00, sub-05_ses-day00",
        "sub-02_ses-day07",
    ]


def test_build_plan__people_and_sessions_without_images_are_named(folder: Path) -> None:
    with (folder / "participants.tsv").open("a") as table:
        table.write("sub-99\tsci_arm\t30\tM\t1500\n")
    path = folder / "images.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith("sub-02\tses-day07")))
    found = [(i.participant_id, i.session_id, i.reason) for i in plan_of(folder).left_out]
    assert found == [
        ("99", None, "is in the participants table but has no image"),
        ("02", "day07", "the session is in the sessions table but has no image"),
    ]


def dated(folder: Path, without: str = "none") -> None:
    """Give the sessions table dates, shifted per participant, in place of days."""
    lines = (folder / "sessions.tsv").read_text().splitlines()
    made = ["participant_id\tsession_id\tacq_time"]
    for line in lines[1:]:
        participant, session, day = line.split("\t")
        year = 1900 + int(participant[-2:])
        date = (f"{year}-01-{1 + int(day):02d}" if int(day) < 31 else f"{year}-03-26") + "T10:00:00"
        made.append(f"{participant}\t{session}\t{'n/a' if session == without and participant == 'sub-02' else date}")
    (folder / "sessions.tsv").write_text("\n".join(made) + "\n")


def test_build_plan__dates_alone_give_the_days_since_the_baseline_session(folder: Path) -> None:
    days = {d["stack"]: d["coefficients"] for d in plan_of(folder).designs.values()}
    dated(folder)
    edit(folder, baseline_session="ses-day00")
    # 1 January to 26 March is 84 days in a year that is no leap year, 85 in one.
    plan = plan_of(folder)
    own = {i["day"] for d in plan.designs.values() for i in d["images"]}
    assert own <= {0.0, 7.0, 14.0, 28.0, 84.0, 85.0}
    assert set(days) == {d["stack"] for d in plan.designs.values()}


def test_build_plan__dates_alone_need_everybodys_baseline(folder: Path) -> None:
    dated(folder, without="ses-day00")
    with pytest.raises(TableError, match=r"expected a dated baseline session, ses-day00, of every participant.*sub-02"):
        plan_of(folder)


def test_build_plan__a_covariate_of_the_sessions_table_is_the_mean_over_visits(folder: Path) -> None:
    lines = (folder / "sessions.tsv").read_text().splitlines()
    volume = {"day00": 1400, "day07": 1402, "day14": 1404, "day28": 1406, "day84": 1408}
    rows = [f"{line}\t{volume[line.split('ses-')[1][:5]] + 10 * int(line[4:6])}" for line in lines[1:]]
    (folder / "sessions.tsv").write_text("\n".join([f"{lines[0]}\ticv", *rows]) + "\n")
    path = folder / "images.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith("sub-02\tses-day07")))
    edit(folder, {"formula": "group + icv"})
    plan = plan_of(folder)
    entry = next(iter(plan.designs.values()))["coefficients"]["linear"]
    value = dict(zip(entry["participants"], entry["scores"]["icv"], strict=True))
    assert value["01"] == pytest.approx(1404 + 10)
    assert value["02"] == pytest.approx((1400 + 1404 + 1406 + 1408) / 4 + 20)
    assert any("has no column icv" in w and "mean over the visits" in w for w in plan.warnings)


def test_build_plan__counts_searches_over_models_stacks_coefficients_directions_and_volumes(folder: Path) -> None:
    # 2 stacks x 2 coefficients x 2 directions.
    assert plan_of(folder).searches == 8
    for name in ("a", "b"):
        shutil.copy(folder / "mask.nii.gz", folder / f"{name}.nii.gz")
    edit(folder, search_volumes={"a": {"path": "a.nii.gz", "label": "GM"}, "b": {"path": "b.nii.gz"}})
    # GM in two volumes, WM in one.
    assert plan_of(folder).searches == 2 * 2 * 2 + 1 * 2 * 2
