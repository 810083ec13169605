"""Shell scripts: continuous integration, services, installation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "infra").rglob("*.sh"))]

FAKE_MAKE = """#!/usr/bin/env bash
echo "make $1"
[ "$1" != "$FAILING" ] || exit 3
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script__parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    "script", [ROOT / ".ci" / "run", ROOT / "infra/services/up.sh", ROOT / "infra/container/install.sh"]
)
def test_script__is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


def _ci(folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    fake = folder / "make"
    fake.write_text(FAKE_MAKE)
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FAILING": failing}
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")], capture_output=True, text=True, env=environment, check=False
    )


def test_ci__runs_every_stage_and_fails_when_one_did(tmp_path: Path) -> None:
    ended = _ci(tmp_path, "lint")
    called = [line.removeprefix("make ") for line in ended.stdout.splitlines() if line.startswith("make ")]
    assert called == ["install-dev", "lint", "test", "services", "test-all"]
    assert ended.returncode != 0
    table = [line.split() for line in ended.stdout.splitlines()[-6:]]
    assert table[0] == ["stage", "seconds", "result"]
    assert {row[0]: row[2] for row in table[1:]} == {
        "install": "passed",
        "lint": "failed",
        "test": "passed",
        "services": "passed",
        "test-all": "passed",
    }


def test_ci__passes_when_every_stage_did(tmp_path: Path) -> None:
    assert _ci(tmp_path, "nothing").returncode == 0


def test_services__unknown_name_is_refused() -> None:
    ended = subprocess.run(
        [str(ROOT / "infra/services/up.sh"), "no-such-service"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "no-such-service" in ended.stderr


@pytest.mark.service
def test_services__running_them_again_changes_nothing() -> None:
    ended = subprocess.run([str(ROOT / "infra/services/up.sh")], capture_output=True, text=True, check=True)
    assert "chromium: ready" in ended.stdout
