"""Commands as text: what a shell makes of them is what was meant."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxcloud.cli import app as cli
from voxcloud.cli.text import command_line


def test_command_line__is_taken_by_a_shell_as_it_is_meant() -> None:
    line = command_line(["run", Path("my study/study.yaml")], {"--engine": None, "--session-label": ["1", "2"]})
    assert line == "voxcloud run 'my study/study.yaml' --session-label 1 --session-label 2"
    assert shlex.split(line)[2] == "my study/study.yaml"


def test_command_line__leaves_out_options_without_a_value() -> None:
    assert command_line(["plan", "a"], {"--engine": None, "--participant-label": []}) == "voxcloud plan a"


def test_maps__goes_on_with_the_options_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(cli, "_compute", lambda source, options, log, again: told.append(again))
    words = ["maps", str(tmp_path / "raw data"), str(tmp_path / "out"), "--modality", "mpm"]
    words += ["--preset", "hmri-0.x", "--session-label", "2"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert shlex.split(told[0])[1:4] == ["maps", str(tmp_path / "raw data"), str(tmp_path / "out")]
    assert "--preset hmri-0.x" in told[0]
    assert told[0].endswith("--session-label 2")
