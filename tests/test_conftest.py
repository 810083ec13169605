"""The rules of the test run itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_runs():
    pass

def test_skips_for_a_missing_program():
    pytest.skip("chromium is not installed")

def test_skips_for_data(shared_data):
    shared_data("no-such-data")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    assert False
"""


def _pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    (folder / "conftest.py").write_text((here / "conftest.py").read_text())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "VOXCLOUD_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "expected", "code"),
    [((), "1 passed, 2 skipped, 1 xfailed", 0), (("--fail-on-skip",), "1 failed, 1 passed, 1 skipped, 1 xfailed", 1)],
)
def test_fail_on_skip__only_missing_data_may_be_skipped(
    tmp_path: Path, options: tuple[str, ...], expected: str, code: int
) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    ended = _pytest(tmp_path, *options)
    assert expected in ended.stdout
    assert ended.returncode == code


def test_fail_on_skip__skipped_module_fails(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module_anywhere')\n")
    ended = _pytest(tmp_path, "--fail-on-skip")
    assert ended.returncode != 0
    assert "A skip is a failure here" in ended.stdout
