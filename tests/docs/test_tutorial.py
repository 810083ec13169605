"""The commands of the tutorial, run as they stand there, on a smaller study."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# The demo has eight maps at 4 mm; one map at coarse resolution takes the same path in seconds.
SMALLER = ["--resolution", "8", "--map", "R1map"]


def _commands() -> list[list[str]]:
    text = (ROOT / "docs" / "tutorial" / "first-study.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] != "make"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tutorial__every_command_works(tmp_path: Path) -> None:
    commands = _commands()
    assert len(commands) >= 8
    for words in commands:
        if words[0] == ".venv/bin/voxcloud":
            more = SMALLER if words[1] == "simulate" else []
            words = [str(Path(sys.executable).parent / "voxcloud"), *words[1:], *more]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
    assert (tmp_path / "demo/study/derivatives/voxcloud/report.html").is_file()
