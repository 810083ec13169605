"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

from voxcloud.cli.app import app
from voxcloud.config.load import parse_study

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def _fenced(*languages: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, text in enumerate(_blocks(page, *languages))
    ]


@pytest.mark.parametrize("name", ["study-file.md", "maps.md", "command-line.md"])
def test_pages__reference_is_up_to_date(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert _builder().pages()[name] == written, "run make reference"


def test_study_page__names_every_key() -> None:
    text = _builder().study_page()
    for key in ("schema", "cluster_forming_p", "orthogonalise", "alternative", "memory_per_worker", "better"):
        assert f"| `{key}` |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page__links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("block", [b for b in _fenced("yaml") if "schema: 1" in b.values[0]])
def test_page__whole_study_files_are_valid(block: str) -> None:
    study = parse_study(yaml.safe_load(block), "documentation")
    assert study.models or study.mpm or study.dwi


@pytest.mark.parametrize("block", _fenced("bash", "sh"))
def test_page__commands_exist(block: str) -> None:
    root: Any = typer.main.get_command(app)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, line
        elif words and words[0].split("/")[-1] == "voxcloud":
            _check_command(root, words[1:], line)


def _check_command(command: Any, words: list[str], line: str) -> None:
    while hasattr(command, "commands"):
        assert words[0] in (*command.commands, "--help", "--version"), line
        if words[0] not in command.commands:
            return
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word.split("=")[0] for word in words if word.startswith("-")} <= known, line
