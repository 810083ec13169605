"""The study file: what is read, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voxcloud.config import load_study
from voxcloud.errors import StudyFileError, VoxcloudError

FILES = Path(__file__).parent / "files"
EXPECTED: dict[str, str] = json.loads((FILES / "expected.json").read_text())


@pytest.mark.parametrize("path", sorted(FILES.glob("*.happy.yaml")), ids=lambda p: p.name)
def test_load_study__reads_each_happy_file(path: Path) -> None:
    study = load_study(path).study
    assert study.schema_version == 1
    assert study.models[0].contrasts


@pytest.mark.parametrize("why", sorted(EXPECTED))
def test_load_study__refuses_in_the_words_of_the_file(why: str) -> None:
    with pytest.raises(VoxcloudError) as caught:
        load_study(FILES / f"study.error.{why}.yaml")
    assert EXPECTED[why] in str(caught.value)


def test_load_study__has_a_test_for_every_error_file() -> None:
    assert {p.name.split(".")[2] for p in FILES.glob("study.error.*.yaml")} == set(EXPECTED)


def test_load_study__names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"no such study file"):
        load_study(tmp_path / "study.yaml")


def test_load_study__does_not_run_yaml_tags(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "study.yaml").write_text(f"schema: 1\nname: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(StudyFileError, match="not valid YAML"):
        load_study(tmp_path / "study.yaml")
    assert not marker.exists()


def test_resolve__is_relative_to_the_study_file(tmp_path: Path) -> None:
    target = tmp_path / "study.yaml"
    target.write_text((FILES / "two-stage.happy.yaml").read_text())
    loaded = load_study(target)
    assert loaded.resolve("tables/images.tsv") == str(tmp_path.resolve() / "tables" / "images.tsv")
    assert loaded.resolve("/elsewhere/images.tsv") == "/elsewhere/images.tsv"


@pytest.mark.parametrize(
    ("rule", "day", "enters"),
    [("day <= 28", 28.0, True), ("day <= 28", 84.0, False), ("day == 0", 0.0, True), ("day > 7", 7.0, False)],
)
def test_session_enters__applies_the_rule(tmp_path: Path, rule: str, day: float, enters: bool) -> None:
    text = (FILES / "two-stage.happy.yaml").read_text().replace("min_visits: 3", f"sessions: {rule}")
    (tmp_path / "study.yaml").write_text(text)
    assert load_study(tmp_path / "study.yaml").study.models[0].session_enters(day) is enters


def test_load_study__tells_of_every_wrong_key(tmp_path: Path) -> None:
    text = (
        (FILES / "two-stage.happy.yaml")
        .read_text()
        .replace("alpha: 0.05", "alpha: 5")
        .replace("name: sci", "title: sci")
    )
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyFileError) as caught:
        load_study(tmp_path / "study.yaml")
    starts = sorted(
        problem.removeprefix(f"{tmp_path / 'study.yaml'}: ").split(":")[0] for problem in caught.value.problems
    )
    assert starts == ["models.0.inference.alpha", "name", "title"]


@pytest.mark.parametrize("content", ["", "# nothing\n"])
def test_load_study__names_an_empty_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(StudyFileError, match="found an empty file"):
        load_study(tmp_path / "study.yaml")


def test_load_study__names_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="found a folder"):
        load_study(tmp_path)
