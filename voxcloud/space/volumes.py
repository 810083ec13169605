"""Volumes of tissue and overlap of segmentations, by fractions of voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

TISSUES = ("GM", "WM", "CSF")


def tissue_volumes(fractions: Mapping[str, npt.NDArray[Any]], voxel_mm: Sequence[float]) -> dict[str, float]:
    """Return volumes in ml of GM, WM and CSF, and TIV, their sum: total intracranial volume, in the image's own space.

    Parameters
    ----------
    fractions : ``GM``, ``WM``, ``CSF``: (x, y, z), 0 to 1.
    voxel_mm : (3,) voxel sizes in mm.
    """
    millilitres = float(np.prod(np.asarray(voxel_mm, dtype=np.float64))) / 1000.0
    found = {name: float(fractions[name].sum(dtype=np.float64)) * millilitres for name in TISSUES}
    return {**found, "TIV": sum(found.values())}


def overlap(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return Dice's coefficient of two masks: ``2 |A and B| / (|A| + |B|)``; NaN of two empty ones.

    References
    ----------
    Dice (1945), doi:10.2307/1932409.
    """
    a, b = np.asarray(one, dtype=np.bool_), np.asarray(other, dtype=np.bool_)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else float("nan")
