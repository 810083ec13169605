"""Fixtures and rules for every test."""

from __future__ import annotations

import os

# Before NumPy is imported: one thread per process, as in production; results and timings do not depend on the machine.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Callable, Generator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TypeVar  # noqa: E402

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent

# With --fail-on-skip a test may still be skipped for these reasons: they cannot be repaired by installing something.
NO_SHARED_DATA = "shared test data not found"
OTHER_PYTHON = "needs another Python"
ALLOWED_SKIPS = (NO_SHARED_DATA, OTHER_PYTHON)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch of ``make test-all``."""
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="a skipped test fails, except where its reason starts with one of: " + "; ".join(ALLOWED_SKIPS),
    )


def _reason(longrepr: object) -> str:
    text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def skip_is_allowed(longrepr: object) -> bool:
    """Whether a skip with this report may stay a skip under ``--fail-on-skip``."""
    return _reason(longrepr).startswith(ALLOWED_SKIPS)


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _forbid_skip(report: Report, config: pytest.Config) -> Report:
    forbidden = report.skipped and not hasattr(report, "wasxfail") and not skip_is_allowed(report.longrepr)
    if forbidden and config.getoption("fail_on_skip"):
        report.outcome = "failed"
        report.longrepr = f"A skip is a failure here (--fail-on-skip): {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips of tests into failures when asked to."""
    return _forbid_skip((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn skips of whole modules into failures when asked to."""
    return _forbid_skip((yield), collector.config)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Give the path of a folder or file of the shared test data, or skip.

    The data are too large for the repository. They are looked for in the folder that VOXCLOUD_TEST_DATA names, and
    in ``shared/data`` beside the repository.
    """
    named = os.environ.get("VOXCLOUD_TEST_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"{NO_SHARED_DATA}: {name} (set VOXCLOUD_TEST_DATA to the folder that holds it)")
        return path

    return find
