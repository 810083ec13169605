"""The static field in Hz, from whatever a session has of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.acquisitions import B0Acquisition
from voxcloud.bids.volumes import Volume, load_alike
from voxcloud.qmri.fieldmap import field_from_map, field_from_phasediff, field_from_phases
from voxcloud.space.epi_pair import field_from_pair
from voxcloud.space.unwarp import resample_field


@dataclass(frozen=True, eq=False)
class HertzMap:
    """The static field on its own grid.

    Attributes
    ----------
    hz
        (x, y, z) deviation from the centre frequency in Hz, known everywhere.
    affine
        (4, 4), voxel to mm.
    record
        How it was made (JSON).
    warnings
        Sentences.
    """

    hz: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()


def to_hertz(b0: B0Acquisition, field_strength_t: float) -> HertzMap:
    """Compute the field of an acquisition.

    Raises
    ------
    ImageError
        If values cannot be in their unit or the images do not fit each other.
    """
    loaded = load_alike((path, None) for path in b0.images.values())
    volumes = dict(zip(b0.images, loaded, strict=True))
    if b0.method == "epi":
        return _from_pair(b0, volumes)
    grid = next(v for role, v in volumes.items() if role != "magnitude")
    magnitude = volumes["magnitude"].values if "magnitude" in volumes else None
    common: dict[str, Any] = {"magnitude": magnitude, "field_strength_t": field_strength_t}
    units = b0.parameters.get("units")
    if b0.method == "fieldmap":
        found = field_from_map(volumes["fieldmap"].values, str(units), **common)
    elif b0.method == "phasediff":
        times = b0.parameters["echo_times_s"]
        found = field_from_phasediff(volumes["phasediff"].values, times, units=units, **common)
    else:
        times = b0.parameters["echo_times_s"]
        first, second = volumes["phase1"].values, volumes["phase2"].values
        found = field_from_phases(first, second, times, units=units, **common)
    return HertzMap(found.hz, grid.affine, found.record)


def _from_pair(b0: B0Acquisition, volumes: dict[str, Volume]) -> HertzMap:
    positive, negative = volumes["positive"], volumes["negative"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it doubts is told with the session
        found = field_from_pair(
            positive.values,
            negative.values,
            positive.voxel_mm.tolist(),
            b0.parameters["phase_encoding"],
            float(b0.parameters["readout_s"]),
        )
    told = (f"field map from a pair of EPI images: {found.doubt}",) if found.doubt else ()
    return HertzMap(found.field_hz, positive.affine, {"method": "epi", **found.report}, told)


def field_on(hertz: HertzMap, grid: Volume) -> npt.NDArray[np.float32]:
    """Return the field at the voxels of another image; both lie in the scanner's space."""
    return resample_field(hertz.hz, hertz.affine, grid.values.shape, grid.affine)
