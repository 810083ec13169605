"""How one image of a session lies to another: a registration, or what the headers say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError
from voxcloud.space.registration import register_rigid

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Move:
    """A rigid movement from the fixed image to the moving one.

    Attributes
    ----------
    matrix
        (4, 4): a point of the fixed image, in mm, to its place in the moving one.
    record
        What is told of it (JSON): translation in mm, rotation in degrees, displacement over the head in mm.
    cpu_s
        CPU seconds of the process that found it.
    """

    matrix: Float64
    record: dict[str, Any]
    cpu_s: float


def find_move(
    name: str,
    fixed: npt.NDArray[Any],
    fixed_affine: Float64,
    moving: npt.NDArray[Any],
    moving_affine: Float64,
    head: npt.NDArray[np.bool_],
    registration: Literal["rigid", "none"],
) -> Move:
    """Register an image, or take the headers at their word where no registration is wanted."""
    if registration == "none":
        return Move(np.eye(4), {"name": name, "method": "none"}, 0.0)
    found = register_rigid(fixed, fixed_affine, moving, moving_affine, fixed_mask=head)
    if found.flagged:
        raise ImageError(f"{name}: {found.flagged}")
    record = {
        "name": name,
        "method": found.program,
        "translation_mm": [float(v) for v in found.translation_mm],
        "rotation_deg": [float(v) for v in found.rotation_deg],
        "displacement_mm": float(found.displacement_mm),
        "displacement_max_mm": float(found.displacement_max_mm),
        "edge_agreement": float(found.agreement),
    }
    return Move(np.asarray(found.matrix), record, float(found.cpu_s))
