"""Fixtures of the engine's tests: a study that runs in a second, run once, and copies of it to break."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from voxcloud.pipeline.study import RunOptions, StudyOutcome, plan_study, run_study
from voxcloud.storage import digests
from voxcloud.testing.simulate import tiny_study

# Numbers; what else is written tells of the run itself (host, time).
NUMBERS = ("stacks/", "masks/", "fits/", "stats/", "results/model-")


@dataclass(frozen=True)
class RawStudy:
    """A raw data set in a folder of its own."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "derivatives" / "voxcloud"

    @property
    def file(self) -> Path:
        return self.folder / "study.yaml"

    def copy(self, folder: Path, *, maps: bool) -> RawStudy:
        """Return a copy, with or without what was made of it."""
        shutil.copytree(self.folder, folder, ignore=None if maps else shutil.ignore_patterns("derivatives"))
        return RawStudy(folder)

    def run(self, engine: str = "serial", **options: Any) -> StudyOutcome:
        return run_study(self.file, RunOptions(engine=engine, **options))

    def change(self, **keys: Any) -> None:
        tree = yaml.safe_load(self.file.read_text())
        tree.update(keys)
        self.file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def images(self, pattern: str) -> list[Path]:
        found = sorted(self.folder.glob(f"sub-*/**/{pattern}"))
        assert found, pattern
        return found

    def failing(self, modality: str, pattern: str) -> str:
        """Run, see that session 2 was made all the same, and return what is said of session 1."""
        outcome = self.run()
        texts = [*outcome.problems, *(str(answer["message"]) for answer in outcome.failed.values())]
        assert len(texts) == 1, texts
        assert f"{modality}-maps/sub-01_ses-2" in outcome.computed
        assert "sub-01_ses-1" in texts[0]
        assert pattern in texts[0], texts[0]
        assert outcome.quality is not None
        assert "sub-01_ses-1" in outcome.quality.read_text()
        return texts[0]

    def sidecar(self, pattern: str, **changes: Any) -> None:
        """Change sidecars; None takes a key out."""
        for path in self.images(pattern):
            tree = json.loads(path.read_text())
            tree.update(changes)
            path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    def values(self, pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change stored values of images."""
        for path in self.images(pattern):
            image = nib.load(path)
            data = change(np.asarray(image.dataobj).copy())
            nib.save(nib.Nifti1Image(data.astype(image.get_data_dtype()), image.affine), path)

    def map(self, session: str, name: str) -> np.ndarray:
        place = "fmap" if name == "TB1map" else "anat"
        path = self.output / f"sub-01/ses-{session}/{place}/sub-01_ses-{session}_{name}.nii.gz"
        return np.asarray(nib.load(path).dataobj)

    def truth(self, session: str, name: str) -> np.ndarray:
        return np.asarray(nib.load(self.folder / "truth" / f"sub-01_ses-{session}_{name}.nii.gz").dataobj)

    def quality(self, session: str) -> dict[str, Any]:
        path = self.output / f"sub-01/ses-{session}/sub-01_ses-{session}_desc-mpm_qc.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def objects(self) -> list[str]:
        return sorted(p.relative_to(self.output).as_posix() for p in self.output.rglob("*") if p.is_file())


@pytest.fixture(scope="session")
def raw_study() -> type[RawStudy]:
    """Takes a folder with a raw data set and its study file."""
    return RawStudy


@dataclass(frozen=True)
class TinyStudy:
    """A study in a folder of its own."""

    folder: Path

    @property
    def file(self) -> Path:
        """The study file."""
        return self.folder / "study.yaml"

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.folder / "derivatives" / "voxcloud"

    def run(self, engine: str = "serial", **options: Any) -> StudyOutcome:
        """Run it."""
        return run_study(self.file, RunOptions(engine=engine, **options))

    def to_compute(self) -> list[str]:
        """Return the keys of the units that a run would compute, in the order of the plan."""
        return [key for key, state in plan_study(self.file).status.items() if state.to_compute]

    def change(self, **keys: Any) -> None:
        """Replace keys of the study file, top level only."""
        tree = yaml.safe_load(self.file.read_text())
        tree.update(keys)
        self.file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def change_model(self, **keys: Any) -> None:
        """Replace keys of the first model."""
        models = yaml.safe_load(self.file.read_text())["models"]
        models[0].update(keys)
        self.change(models=models)

    def numbers(self) -> dict[str, str]:
        """Return path to sha256 of every object that holds numbers."""
        return {
            path: hashlib.sha256((self.output / path).read_bytes()).hexdigest()
            for path in self.objects()
            if path.startswith(NUMBERS)
        }

    def objects(self) -> list[str]:
        """Return every object of the output folder."""
        return sorted(p.relative_to(self.output).as_posix() for p in self.output.rglob("*") if p.is_file())

    def copy(self, folder: Path) -> TinyStudy:
        """Copy inputs and output."""
        shutil.copytree(self.folder, folder)
        return TinyStudy(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_digest_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(digests, "_memory", {})
        patch.setattr(digests, "_loaded", set())
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """The study's inputs, before any run; only to be copied."""
    folder = tmp_path_factory.mktemp("made") / "study"
    tiny_study(folder)
    return TinyStudy(folder)


@pytest.fixture(scope="session")
def done(made: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyStudy, StudyOutcome]:
    """The study after an uninterrupted run, and what that run did; only to be copied."""
    study = made.copy(tmp_path_factory.mktemp("done") / "study")
    outcome = study.run()
    assert not outcome.failed
    return study, outcome


@pytest.fixture
def fresh(made: TinyStudy, tmp_path: Path) -> TinyStudy:
    """A copy before any run."""
    return made.copy(tmp_path / "study")


@pytest.fixture
def finished(done: tuple[TinyStudy, StudyOutcome], tmp_path: Path) -> TinyStudy:
    """A copy after an uninterrupted run."""
    return done[0].copy(tmp_path / "study")


@pytest.fixture
def expected(done: tuple[TinyStudy, StudyOutcome]) -> dict[str, str]:
    """Path to digest of the numbers of an uninterrupted run."""
    return done[0].numbers()


@pytest.fixture
def order(done: tuple[TinyStudy, StudyOutcome]) -> tuple[str, ...]:
    """The units in the order in which one worker computes them."""
    return done[1].computed


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Change one bit in the middle of a file."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return change
