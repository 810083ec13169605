"""Names and sidecars of the simulated raw data, as BIDS has them for quantitative MRI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.testing.files import write_json, write_nifti
from voxcloud.testing.raw_geometry import Grid

HIGHEST = 4095
"""Scanners store magnitudes with 12 bits."""

ENTITY_ORDER = ("acq", "dir", "echo", "flip", "mt", "part")
"""Order in file names (BIDS specification, appendix on entities)."""

SCANNER = {
    "Manufacturer": "voxcloud",
    "ManufacturersModelName": "simulated",
    "MagneticFieldStrength": 3,
    "DeviceSerialNumber": "0",
    "ReceiveCoilName": "simulated32",
}
"""In the sidecar of every image."""


@dataclass
class SessionWriter:
    """Writes the images of one session; counts them for the progress.

    Attributes
    ----------
    folder
        Root of the data set.
    participant, session
        Bare labels.
    written
        Called after each image.
    paths
        What was written, relative to ``folder``.
    """

    folder: Path
    participant: str
    session: str
    written: Callable[[], None]
    paths: list[str] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """Start of every file name."""
        return f"sub-{self.participant}_ses-{self.session}"

    def write(
        self,
        datatype: str,
        suffix: str,
        entities: Mapping[str, str | int],
        image: npt.NDArray[Any],
        grid: Grid,
        sidecar: Mapping[str, Any],
    ) -> None:
        """Write an image as int16, rounded and cut off at 0 and 4095, and its sidecar."""
        name = "_".join([self.stem, *(f"{key}-{entities[key]}" for key in ENTITY_ORDER if key in entities), suffix])
        path = self.folder / f"sub-{self.participant}" / f"ses-{self.session}" / datatype / f"{name}.nii.gz"
        write_nifti(path, stored(image), grid.affine, description=f"simulated {suffix}", in_mni=False)
        write_json(path.with_name(f"{name}.json"), {**SCANNER, **sidecar})
        self.paths.append(path.relative_to(self.folder).as_posix())
        self.written()

    def write_truth(self, name: str, image: npt.NDArray[Any], grid: Grid, description: str) -> Path:
        """Write a true map as float32 into ``truth``."""
        path = self.folder / "truth" / f"{self.stem}_{name}.nii.gz"
        write_nifti(path, image.astype(np.float32), grid.affine, description=description, in_mni=False)
        return path


def stored(image: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Return what a scanner stores of a magnitude: integers of 0 to 4095. What is stored already stays as it is."""
    if image.dtype == np.int16:
        return image
    return np.asarray(np.clip(np.rint(image), 0, HIGHEST), dtype=np.int16)
