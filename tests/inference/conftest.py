"""Scripts of validation/ as modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

VALIDATION = Path(__file__).resolve().parents[2] / "validation"


@pytest.fixture(scope="session")
def validation_script() -> Callable[[str], ModuleType]:
    """Return a function that imports a script of validation/ by name; the scripts import one another by name too."""
    if str(VALIDATION) not in sys.path:
        sys.path.insert(0, str(VALIDATION))
    return importlib.import_module
