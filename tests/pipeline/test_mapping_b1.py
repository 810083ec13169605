"""B1+ of a session from files to the voxels of PDw, against the truth: SE/STE with each kind of field map."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.mpm import read_mpm
from voxcloud.bids.sidecars import Metadata
from voxcloud.pipeline.mapping.b1 import SessionB1, map_b1
from voxcloud.pipeline.mapping.signals import gather_signals
from voxcloud.testing.raw import tiny_raw

SETTINGS = {"b1_smoothing_mm": 8.0, "registration": "none"}


def make(folder: Path, b0: str, *, without: str = "") -> tuple[SessionB1, np.ndarray]:
    """Return a session's B1 and its error in white matter, percent; ``without`` leaves a key out of all sidecars."""
    raw = tiny_raw(folder, sessions=1, b1="SESTE", b0=b0, noise=0.002, movements={}, motion=False, voxel_mm=6.0)
    for path in folder.rglob("sub-*/**/*.json"):
        tree = json.loads(path.read_text())
        if isinstance(tree, dict) and tree.pop(without, None) is not None:
            path.write_text(json.dumps(tree))
    session = read_mpm(Metadata(folder), "01", "1")
    signals = gather_signals(session, "none")
    b1 = map_b1(session, signals, SETTINGS)
    assert b1 is not None
    truth, white = (
        np.asarray(nib.load(path).dataobj).reshape(-1, order="F")[signals.positions]
        for path in (raw.truth["01", "1"]["TB1map"], folder / "truth" / "sub-01_ses-1_label-WM_probseg.nii.gz")
    )
    return b1, 100.0 * (100.0 * b1.values / truth - 1.0)[white > 0.9]


@pytest.mark.parametrize("b0", ["phasediff", "epi"])
def test_map_b1__unwarps_spin_and_stimulated_echoes(tmp_path: Path, b0: str) -> None:
    b1, error = make(tmp_path / "raw", b0)
    assert b1.record["unwarped"] is True
    assert not any("MagneticFieldStrength" in text for text in b1.warnings)
    # Left distorted, the spread is .9 % and the largest error 5 %; unwarped the wrong way, twice that.
    assert abs(np.median(error)) < 0.6
    assert error.std() < 0.2


def test_map_b1__says_that_a_field_strength_is_taken_for_granted(tmp_path: Path) -> None:
    b1, _ = make(tmp_path / "raw", "phasediff", without="MagneticFieldStrength")
    assert any("no sidecar states MagneticFieldStrength; 3 T is taken" in text for text in b1.warnings)
