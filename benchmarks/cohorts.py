"""Studies to measure with: smooth noise with one planted effect in an ellipsoid of any number of voxels."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import yaml
from scipy import ndimage

from voxcloud.pipeline.study import load, open_output
from voxcloud.plan.build import build_plan
from voxcloud.storage.records import OutputRef, Record, write_record
from voxcloud.storage.stack import create_stack, write_shard

VOXEL_MM = 1.5
AFFINE = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
FWHM_VOXELS = 3.5
DAYS = (0, 7, 14, 28, 84)
COVARIATES = tuple(f"x{i}" for i in range(1, 8))  # with the intercept: eight columns
# Every image is a mixture of two of these fields: smoothing thousands of them would take longer than the measurements.
FIELDS = 60


@dataclass(frozen=True)
class Measured:
    """A study to measure with: its folder, its images' values and its design."""

    folder: Path
    images: int
    voxels: int
    visits: int

    @property
    def study_file(self) -> Path:
        """What ``voxcloud run`` takes."""
        return self.folder / "study.yaml"

    @property
    def people(self) -> int:
        """Participants; each has ``visits`` images."""
        return self.images // self.visits

    @property
    def paths(self) -> list[Path]:
        """The image files, in the order of the rows."""
        return [self.folder / "images" / f"{i:04d}.nii.gz" for i in range(self.images)]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The voxels nearest to the middle of a grid that is about 2.5 times as large, as a brain in its box."""
        side = int(np.ceil((2.5 * self.voxels) ** (1 / 3)))
        axis = (np.arange(side) - (side - 1) / 2) ** 2
        distance = (axis[:, None, None] + axis[None, :, None] + axis[None, None, :]).ravel()
        mask = np.zeros(side**3, dtype=bool)
        mask[np.argsort(distance, kind="stable")[: self.voxels]] = True
        return mask.reshape(side, side, side)

    def covariates(self) -> npt.NDArray[np.float64]:
        """Return (people, 7) covariates."""
        return np.random.default_rng(1).standard_normal((self.people, len(COVARIATES)))

    def design(self) -> npt.NDArray[np.float64]:
        """Return the (people, 8) design: intercept and centred covariates."""
        x = self.covariates()
        return np.column_stack([np.ones(self.people), x - x.mean(axis=0)])

    def vectors(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the values of each image in the mask."""
        mask = self.mask
        rng = np.random.default_rng(2)
        fields = np.empty((FIELDS, self.voxels), dtype=np.float32)
        for field in fields:
            smooth = ndimage.gaussian_filter(rng.standard_normal(mask.shape, dtype=np.float32), FWHM_VOXELS / 2.3548)
            inside = smooth[mask]
            field[:] = inside / inside.std()
        centre = np.array(mask.shape)[:, None] * 0.35
        place = np.array(np.nonzero(mask))
        planted = (np.sqrt(((place - centre) ** 2).sum(axis=0)) < 6.0).astype(np.float32)
        x = self.covariates()[:, 0]
        for image in range(self.images):
            a, b = rng.choice(FIELDS, 2, replace=False)
            angle = rng.uniform(0, 2 * np.pi)
            noise = np.cos(angle) * fields[a] + np.sin(angle) * fields[b]
            # Numbers like those of an R1 map, with the last bits of a measurement.
            noise += rng.standard_normal(self.voxels, dtype=np.float32) * np.float32(0.2)
            effect = 0.6 * x[image // self.visits] * (1 + DAYS[image % self.visits] / 28)
            yield (0.8 + 0.05 * (noise + effect * planted)).astype(np.float32)


def write_study(measured: Measured, *, with_images: bool) -> None:
    """Write tables, mask and study file, and the images or, in their place, files that only have names.

    A study whose images have only names can be run after ``write_stack``.
    """
    folder = measured.folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    mask = measured.mask
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), folder / "mask.nii.gz")
    for i, path in enumerate(measured.paths):
        if not with_images:
            path.write_bytes(gzip.compress(f"image {i}".encode(), mtime=0))
    if with_images:
        for path, vector in zip(measured.paths, measured.vectors(), strict=True):
            volume = np.zeros(mask.shape, dtype=np.float32)
            volume[mask] = vector
            nib.save(nib.Nifti1Image(volume, AFFINE), path)
    _write_tables(measured)
    measured.study_file.write_text(yaml.safe_dump(_study(measured), sort_keys=False), encoding="utf-8")


def _write_tables(measured: Measured) -> None:
    images = ["participant_id\tsession_id\tmap\tlabel\tpath"]
    sessions = ["participant_id\tsession_id\tday"]
    for i, path in enumerate(measured.paths):
        person, day = i // measured.visits, DAYS[i % measured.visits]
        images.append(f"{person:04d}\t{day:03d}\tR1map\t\t{path.relative_to(measured.folder)}")
        sessions.append(f"{person:04d}\t{day:03d}\t{day}")
    people = ["\t".join(("participant_id", *COVARIATES))]
    for person, row in enumerate(measured.covariates()):
        people.append("\t".join([f"{person:04d}", *(repr(float(v)) for v in row)]))
    for name, lines in (("images", images), ("sessions", sessions), ("participants", people)):
        (measured.folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _study(measured: Measured) -> dict[str, object]:
    model: dict[str, object] = {
        "name": "measured",
        "maps": ["R1map"],
        "estimator": "ols",
        "formula": " + ".join(COVARIATES),
        "contrasts": {"x1": {"test": "x1", "alternative": "greater"}},
    }
    study: dict[str, object] = {
        "schema": 1,
        "name": "measured",
        "output": "derivatives/voxcloud",
        "images": "images.tsv",
        "participants": "participants.tsv",
        "sessions": "sessions.tsv",
        "mask": "mask.nii.gz",
    }
    if measured.visits > 1:
        model["estimator"] = "two-stage"
        study["time"] = {"basis": "polynomial", "reference_days": list(DAYS), "terms": ["linear", "quadratic"]}
    return study | {"models": [model]}


def write_stack(measured: Measured) -> None:
    """Write the shards of the study's stack and say in their records that they are done, without reading an image."""
    loaded = load(measured.study_file)
    store = open_output(loaded)
    plan = build_plan(loaded, store, {})
    vectors = measured.vectors()
    (stack,) = plan.stacks.values()
    for unit in plan.units:
        if unit.step != "stack-shard":
            continue
        create_stack(store, stack.spec)
        rows = [row[0] % stack.spec.shard_rows for row in unit.places["rows"]]
        write_shard(store, stack.spec, unit.params["shard"], ((row, next(vectors)) for row in rows))
        outputs = tuple(OutputRef(path, store.size(path), store.digest(path)) for path in unit.outputs)
        result = {"bad": [], "images": [], "parts": unit.parts}
        write_record(
            store,
            Record(unit.step, unit.name, unit.fingerprint, "done", outputs, 0, 0, 0, 0, 0, "benchmark", {}, result),
        )


def stored_bytes(measured: Measured) -> int:
    """Return how much the study's output takes on disk."""
    return sum(p.stat().st_size for p in (measured.folder / "derivatives").rglob("*") if p.is_file())


def describe(measured: Measured) -> str:
    """Return the study in words."""
    size = measured.images * measured.voxels * 4 / 1e6
    return json.dumps(f"{measured.images} images x {measured.voxels:,} voxels ({size:,.0f} MB of float32)").strip('"')
