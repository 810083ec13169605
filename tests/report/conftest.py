"""Results folders that the tests of the report share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from voxcloud.report.page import write_report


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """Give the maker of results folders."""
    return _load("fake_results")


@pytest.fixture(scope="session")
def fake_quality() -> ModuleType:
    """Give the maker of sessions' quality control."""
    return _load("fake_quality")


@pytest.fixture(scope="session")
def fake_dwi() -> ModuleType:
    """Give the maker of diffusion sessions' quality control."""
    return _load("fake_dwi")


@pytest.fixture(scope="session")
def fake_space() -> ModuleType:
    """Give the maker of quality control in template space."""
    return _load("fake_space")


@pytest.fixture(scope="session")
def write_fake(fake: ModuleType) -> Callable[..., Path]:
    """Give the function that writes a results folder."""
    made: Callable[..., Path] = fake.write_fake_results
    return made


@pytest.fixture(scope="session")
def results_folder(write_fake: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study with findings and one failed unit, and its report."""
    output = write_fake(tmp_path_factory.mktemp("study"), maps=["R1map"], labels=["GM"], significant=1, failed=True)
    write_report(output)
    return output


@pytest.fixture(scope="session")
def page(results_folder: Path) -> str:
    """Its page."""
    return (results_folder / "report.html").read_text(encoding="utf-8")
