"""One model study at a coarse resolution and one tiny study, made once for this folder."""

from __future__ import annotations

import pytest

from voxcloud.testing import SimulatedStudy, simulate_study, tiny_study


@pytest.fixture(scope="session")
def coarse_study(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    return simulate_study(tmp_path_factory.mktemp("coarse"), resolution_mm=8.0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    return tiny_study(tmp_path_factory.mktemp("tiny"))
