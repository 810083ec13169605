"""A small study that tests may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxcloud.testing.simulate import tiny_study


class Damaged:
    """A copy of a small study, and the ways in which tests change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "study.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "derivatives" / "voxcloud"

    def image(self, participant: str, day: str, map_name: str = "R1map") -> Path:
        """Return one image."""
        stem = f"sub-{participant}_ses-day{day}_space-phantom_label-GM_{map_name}.nii.gz"
        return self.folder / f"sub-{participant}" / f"ses-day{day}" / stem

    def edit(self, **changes: Any) -> None:
        """Replace keys of the study file; None takes a key out."""
        tree = yaml.safe_load(self.file.read_text())
        tree.update(changes)
        self.file.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}, sort_keys=False))

    def model(self, **changes: Any) -> None:
        """Replace keys of the only model; None takes a key out."""
        model = yaml.safe_load(self.file.read_text())["models"][0] | changes
        self.edit(models=[{k: v for k, v in model.items() if v is not None}])

    def more_models(self, *models: dict[str, Any]) -> None:
        """Add models that differ from the first in some keys; None takes a key out."""
        own = yaml.safe_load(self.file.read_text())["models"]
        made = [{k: v for k, v in (own[0] | changes).items() if v is not None} for changes in models]
        self.edit(models=own + made)

    def table(self, name: str, change: Callable[[list[str]], list[str]]) -> None:
        """Change the lines of a table."""
        path = self.folder / name
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.fixture(scope="session")
def _sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"sci_arm": 4, "con_none": 4}
    return tiny_study(tmp_path_factory.mktemp("sound"), group_sizes=sizes, shape=(9, 10, 9)).folder


@pytest.fixture
def study(_sound: Path, tmp_path: Path) -> Damaged:
    """Give a copy of a sound study."""
    return Damaged(shutil.copytree(_sound, tmp_path / "study"))
