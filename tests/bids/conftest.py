"""A small grid with no symmetry and a writer of images for it; tiny raw BIDS data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.bids.images import MaskGrid
from voxcloud.bids.mpm import read_mpm
from voxcloud.bids.sidecars import Metadata
from voxcloud.errors import BidsError

SHAPE = (5, 6, 7)
AFFINE = np.array([[2.0, 0, 0, -4.5], [0, 3.0, 0, -9.0], [0, 0, 1.5, 2.25], [0, 0, 0, 1]])

RAW_SHAPE = (2, 2, 2)
SCANNER = {"Manufacturer": "Siemens", "ManufacturersModelName": "Prisma", "MagneticFieldStrength": 3}
SERIES: Mapping[str, tuple[float, bool, int]] = {"MTw": (6, True, 6), "PDw": (6, False, 8), "T1w": (21, False, 8)}
"""Flip angle in degrees, MT pulse, echoes."""


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Return the image stored along other axes (e.g. LAS), in the same place in space."""
    target = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    return image.as_reoriented(change)


@pytest.fixture
def grid() -> MaskGrid:
    """Return a mask with a third of the voxels."""
    mask = np.random.default_rng(1).random(SHAPE) < 0.35
    return MaskGrid.from_array(mask, AFFINE)


@pytest.fixture
def values() -> np.ndarray:
    """Return one number per voxel, none twice."""
    return np.random.default_rng(2).normal(1.0, 0.2, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an image with sform and qform."""

    def write(
        data: np.ndarray, name: str = "image.nii.gz", *, affine: np.ndarray = AFFINE, code: int = 4, axes: str = ""
    ) -> Path:
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code)
        image.set_qform(affine, code)
        image.header.set_xyzt_units("mm")
        if axes:
            image = reoriented(image, axes)
        path = tmp_path / name
        nib.save(image, path)
        return path

    return write


class RawData:
    """Writes images and sidecars of one data set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.json("dataset_description.json", {"Name": "tiny", "BIDSVersion": "1.10.0"})

    def json(self, name: str, tree: Any) -> Path:
        """Write JSON below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree))
        return path

    def edit(self, pattern: str, /, **changes: Any) -> None:
        """Change sidecars; None takes an entry away."""
        paths = sorted(self.root.rglob(pattern))
        assert paths, pattern
        for path in paths:
            tree = json.loads(path.read_text()) | changes
            path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    def remove(self, pattern: str) -> None:
        """Remove files."""
        paths = sorted(self.root.rglob(pattern))
        assert paths, pattern
        for path in paths:
            path.unlink()

    def image(
        self,
        name: str,
        sidecar: Mapping[str, Any] | None = None,
        *,
        shape: tuple[int, ...] = RAW_SHAPE,
        shift: float = 0.0,
    ) -> Path:
        """Write ``anat/<entities>_<suffix>`` of sub-01_ses-1, or any path that begins with ``sub-``."""
        stem = name if name.startswith("sub-") else f"sub-01/ses-1/{name.replace('/', '/sub-01_ses-1_', 1)}"
        path = self.root / f"{stem}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[0, 3] = shift
        image = nib.Nifti1Image(np.ones(shape, np.int16), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
        if sidecar is not None:
            self.json(f"{stem}.json", sidecar)
        return path

    def series(self, contrast: str, *, echoes: int | None = None, names: str = "", **changes: Any) -> None:
        """Write a series as BIDS names it; ``names`` are its entities."""
        angle, mt, count = SERIES[contrast]
        entities = names or f"flip-{1 if angle == 6 else 2}_mt-{'on' if mt else 'off'}"
        for n in range(1, (echoes or count) + 1):
            sidecar = {"FlipAngle": angle, "MTState": mt, "RepetitionTimeExcitation": 0.0245, **SCANNER}
            sidecar |= {"EchoTime": round(0.0023 * n, 6)} | changes
            kept = {key: value for key, value in sidecar.items() if value is not None}
            first, _, rest = entities.rpartition("flip-")
            # BIDS puts echo before flip; nothing depends on it here but the look of the names.
            label = f"{first}echo-{n}_flip-{rest}" if "flip-" in entities else f"{entities}_echo-{n}"
            self.image(f"anat/{label}_MPM", kept)

    def mpm(self) -> None:
        """Write three series."""
        for contrast in SERIES:
            self.series(contrast)

    def afi(self, **changes: Any) -> None:
        """Write a pair of AFI images."""
        for n, time in ((1, 0.05), (2, 0.15)):
            self.image(f"fmap/acq-tr{n}_TB1AFI", {"FlipAngle": 60, "RepetitionTime": time} | changes)

    def seste(self, angles: Iterable[float] = (115, 105, 95, 85, 75, 65), **changes: Any) -> None:
        """Write pairs of spin and stimulated echoes; ``flip-1`` is the smallest angle, as some converters do."""
        for n, angle in enumerate(sorted(angles), start=1):
            for echo, time in ((1, 0.0371), (2, 0.0709)):
                sidecar = {"FlipAngle": angle, "EchoTime": time, "MixingTime": 0.0338, "TotalReadoutTime": 0.0243}
                sidecar |= {"PhaseEncodingDirection": "j", "B0FieldSource": "b0"} | changes
                kept = {key: value for key, value in sidecar.items() if value is not None}
                self.image(f"fmap/echo-{echo}_flip-{n}_TB1EPI", kept)

    def phasediff(self, entities: str = "", **changes: Any) -> None:
        """Write a phase difference with its magnitude."""
        sidecar = {"EchoTime1": 0.00492, "EchoTime2": 0.00738, "B0FieldIdentifier": "b0"} | changes
        self.image(f"fmap/{entities}phasediff", {k: v for k, v in sidecar.items() if v is not None})
        self.image(f"fmap/{entities}magnitude1", {})

    def read(self, session: str = "1", **settings: Any) -> MpmSession:
        """Read sub-01."""
        return read_mpm(Metadata(self.root), "01", session, **settings)

    def problems(self, session: str = "1", **settings: Any) -> tuple[str, ...]:
        """Return every problem of sub-01; each names the session."""
        with pytest.raises(BidsError) as caught:
            self.read(session, **settings)
        name = f"sub-01_ses-{session}" if session else "sub-01"
        assert all(text.startswith(f"{name}: ") for text in caught.value.problems)
        return caught.value.problems

    def problem(self, **settings: Any) -> str:
        """Return the only problem."""
        problems = self.problems(**settings)
        assert len(problems) == 1, "\n".join(problems)
        return problems[0]


@pytest.fixture
def raw(tmp_path: Path) -> RawData:
    """Return a data set with three series and AFI of sub-01_ses-1, in a folder whose name has a space."""
    data = RawData(tmp_path / "my data")
    data.mpm()
    data.afi()
    return data


@pytest.fixture
def bare(tmp_path: Path) -> RawData:
    """Return a data set without images."""
    return RawData(tmp_path / "ds")
