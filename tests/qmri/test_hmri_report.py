"""The table of differences from the hMRI toolbox: complete, and none above its tolerance."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "validation" / "hmri_report.py"


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("hmri_report", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hmri_report"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hmri_report"]


def test_compare__nothing_is_above_its_tolerance_and_every_file_is_there(report: ModuleType) -> None:
    rows = report.compare()
    assert [r for r in rows if not r.holds] == []
    files = {p.name for p in report.REFERENCE.iterdir() if p.suffix != ".md"}
    assert {r.file for r in rows} == files
    assert min(r.n for r in rows) >= 6


def test_row__sees_a_difference_and_a_missing_value(report: ModuleType) -> None:
    expected = np.array([1.0, np.nan, 4.0])
    assert report.row("f", "q", [(expected, expected)], 1e-9).holds
    assert report.row("f", "q", [(expected * (1 + 1e-6), expected)], 1e-9).difference == pytest.approx(1e-6)
    assert report.row("f", "q", [([1.0, np.nan, 4.5], expected)], 0.1, "1/s").difference == 0.5
    assert report.row("f", "q", [([1.0, 2.0, 4.0], expected)], 0.1).difference == np.inf
    assert not report.row("f", "q", [], 1.0).holds


def test_main__ends_with_1_if_a_difference_is_above(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "compare", lambda: [report.Row("a.csv", "R1", 3, 2e-6, 1e-6)])
    assert report.main() == 1
    assert "| `a.csv` | R1 | 3 | 2.0e-06 | 1e-06 ABOVE | relative |" in capsys.readouterr().out
