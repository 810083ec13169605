"""Copies of a study that can be given away: from every image of a person all is cut away that shows the face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.bids.dwi_names import dwi_file_name
from voxcloud.bids.nifti import open_nifti
from voxcloud.bids.templates import load_template
from voxcloud.bids.volumes import Volume, load_volume, volume_bytes
from voxcloud.config.space import TEMPLATE
from voxcloud.errors import ImageError, StudyFileError
from voxcloud.pipeline.spatial.outputs import read_way
from voxcloud.pipeline.study import StudySource, plan_study
from voxcloud.plan.paths import MIDPOINT, anatomy_images
from voxcloud.plan.space import ANATOMY, SESSION_STEPS
from voxcloud.plan.status import UnitStatus
from voxcloud.plan.unit import WorkUnit
from voxcloud.space.affine import voxel_to_voxel
from voxcloud.storage.store import Store, open_store
from voxcloud.version import __version__

Bool = npt.NDArray[np.bool_]

# Around the brain: enough for its edge to be seen, and no eye, nose or ear.
MARGIN_MM = 3.0
# Copied as they are: nothing of a single head is in them.
GROUP_FOLDERS = ("stats", "results", "tables", "rois")
GROUP_FILES = ("report.html", "dataset_description.json", ".bidsignore")
TEXTS = (".json", ".bval", ".bvec")


@dataclass(frozen=True)
class Shared:
    """What was copied, and the sessions and participants that were not."""

    folder: Path
    images: int
    texts: int
    left_out: tuple[str, ...]


def share_study(source: StudySource, folder: Path, told: Callable[[str], None] = lambda unit: None) -> Shared:
    """Copy the derivatives of a study without faces.

    Of every image what is further than 3 mm from the brain becomes NaN. Pages on the quality of single sessions, which
    show heads, stacks and fits are not copied; raw images never are. What is not done is left out and named.

    Parameters
    ----------
    folder
        New or empty.
    told
        Called with the key of each unit whose images are copied.

    Raises
    ------
    StudyFileError
        If the study has no ``space`` section, by which brains are known, or the folder holds something.
    """
    planned = plan_study(source)
    loaded = planned.plan.loaded
    if loaded.study.space is None:
        raise StudyFileError(
            f"{loaded.path}: expected the section `space`, by which the brain in every image is known, found none. Add "
            "it and run the study."
        )
    if folder.exists() and any(folder.iterdir()):
        raise StudyFileError(f"{folder}: expected a new or empty folder, found files in it. Name another one.")
    store = open_store(loaded.resolve(loaded.study.output))
    shared = open_store(str(folder))
    brains = _Brains(store, loaded.study.space.resolution_mm, planned.status)
    images = texts = 0
    left_out = []
    for key, status in planned.status.items():
        unit = status.unit
        if unit.step not in SESSION_STEPS:
            continue
        if status.state != "done" or not brains.known(unit):
            left_out.append(key)
            continue
        told(key)
        for path in unit.outputs:
            if path.endswith(".nii.gz"):
                shared.write_bytes(path, _cut(store, path, brains.of(unit, path)))
                images += 1
            elif path.endswith(TEXTS):
                shared.write_bytes(path, store.read_bytes(path))
                texts += 1
    for path in _of_the_group(store):
        shared.write_bytes(path, store.read_bytes(path))
        texts += 1
    return Shared(folder, images, texts, tuple(left_out))


def _of_the_group(store: Store) -> Iterator[str]:
    for folder in GROUP_FOLDERS:
        yield from store.list(folder)
    yield from (path for path in GROUP_FILES if store.exists(path))


class _Brains:
    """The brain, with a margin, on the grid of any image of the study; the last one is kept."""

    def __init__(self, store: Store, resolution_mm: float, status: dict[str, UnitStatus] | Any) -> None:
        self._store, self._resolution_mm = store, resolution_mm
        self._anatomies: dict[str, WorkUnit] = {
            s.unit.params["participant_id"]: s.unit
            for s in status.values()
            if s.unit.step == ANATOMY and s.state == "done"
        }
        self._kept: dict[tuple[Any, ...], Bool] = {}

    def known(self, unit: WorkUnit) -> bool:
        """Whether the anatomy of a unit's participant is done, and holds its session."""
        participant, session = _who(unit)
        anatomy = self._anatomies.get(participant)
        return anatomy is not None and (unit.step != "mpm-maps" or session in anatomy.params["sessions"])

    def of(self, unit: WorkUnit, path: str) -> Bool:
        """Return where the brain is in an image that a unit wrote."""
        participant, session = _who(unit)
        nifti = open_nifti(self._store.local_path(path))
        kind = TEMPLATE if f"_space-{TEMPLATE}" in path else MIDPOINT if f"_space-{MIDPOINT}" in path else unit.step
        key = (kind, participant, session, nifti.shape, nifti.affine.tobytes())
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = self._found(kind, participant, session, nifti.shape, nifti.affine)
        return self._kept[key]

    def _found(
        self, kind: str, participant: str, session: str, shape: tuple[int, ...], affine: npt.NDArray[np.float64]
    ) -> Bool:
        size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if kind == TEMPLATE:
            brain = load_template(self._resolution_mm).brain
        elif kind == "dwi-maps":
            brain = np.asarray(self._volume(dwi_file_name(participant, session, "mask")).values) > 0.5
        else:
            contrast = self._anatomies[participant].params["contrast"]
            own = self._volume(anatomy_images(participant, contrast)["brain"])
            # PD in a session's own space is written with its maps in template space.
            to_midpoint: npt.NDArray[np.float64] = np.eye(4)
            if kind != MIDPOINT:
                to_midpoint = np.asarray(np.linalg.inv(read_way(self._store, participant, contrast).visits[session]))
            brain = _moved(np.asarray(own.values) > 0.5, own.affine, to_midpoint, affine, shape)
        if brain.shape != tuple(shape):
            raise ImageError(f"sub-{participant}: expected a brain mask of shape {shape}, found {brain.shape}.")
        return np.asarray(ndimage.distance_transform_edt(~brain, sampling=size) <= MARGIN_MM)

    def _volume(self, path: str) -> Volume:
        return load_volume(self._store.local_path(path))


def _moved(
    brain: Bool,
    affine: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float64],
    grid: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> Bool:
    """Return a mask on another grid; ``matrix`` brings points of that grid (mm) to the mask's space."""
    steps = voxel_to_voxel(grid, matrix, affine)
    moved = ndimage.affine_transform(
        brain.astype(np.float32), steps[:3, :3], steps[:3, 3], tuple(shape[:3]), order=1, mode="constant"
    )
    return np.asarray(moved >= 0.5)


def _cut(store: Store, path: str, brain: Bool) -> bytes:
    """Return an image's bytes without what lies outside the brain."""
    place = store.local_path(path)
    nifti = open_nifti(place)
    volumes = [np.asarray(load_volume(place, k).values, dtype=np.float32) for k in range(nifti.n_volumes)]
    cut = [np.where(brain, volume, np.float32(np.nan)) for volume in volumes]
    values = cut[0] if len(cut) == 1 else np.stack(cut, axis=-1)
    return volume_bytes(values, nifti.affine, f"voxcloud {__version__} without face")


def _who(unit: WorkUnit) -> tuple[str, str]:
    """Return participant and session of a unit; the session of a whole participant is empty."""
    session = unit.params.get("session", unit.params)
    return str(session["participant_id"]), str(session.get("session_id", ""))
