"""Tissue values of the simulated raw data at 3 T."""

from __future__ import annotations

import numpy as np

from voxcloud.testing.fields import Float32

TISSUES = ("GM", "WM", "CSF", "scalp")
PARAMETERS = ("R1map", "PDmap", "R2starmap", "MTsat")
UNITS = {"R1map": "1/s", "PDmap": "p.u.", "R2starmap": "1/s", "MTsat": "p.u."}

VALUES: dict[str, dict[str, float]] = {
    "GM": {"R1map": 0.61, "PDmap": 82.0, "R2starmap": 15.8, "MTsat": 0.85},
    "WM": {"R1map": 1.04, "PDmap": 69.0, "R2starmap": 21.0, "MTsat": 1.70},
    "CSF": {"R1map": 0.23, "PDmap": 100.0, "R2starmap": 2.0, "MTsat": 0.0},
    "scalp": {"R1map": 2.6, "PDmap": 70.0, "R2starmap": 35.0, "MTsat": 0.2},
}
"""Value per tissue and map."""

TISSUE_VALUES: Float32 = np.array([[VALUES[t][p] for p in PARAMETERS] for t in TISSUES], dtype=np.float32)
"""(tissue, parameter)."""

SOURCES: dict[str, str] = {}
