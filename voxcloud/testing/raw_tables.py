"""Tables, descriptions and study file of the simulated raw data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from voxcloud.testing.cohort import REFERENCE_DAYS
from voxcloud.testing.fields import generator
from voxcloud.testing.files import describe_columns, write_json, write_table
from voxcloud.testing.raw_diffusion import ANISOTROPY, DIFFUSION_SOURCES, MEAN_DIFFUSIVITY, T2_S
from voxcloud.testing.raw_dwi import DwiSettings
from voxcloud.testing.raw_head import VisitChange
from voxcloud.testing.raw_session import RawSettings, WrittenSession
from voxcloud.testing.raw_tissue import SOURCES, UNITS, VALUES
from voxcloud.testing.study_file import write_study_file

README = """Simulated raw data of multi-parameter mapping: multi-echo FLASH with MT, PD and T1 weighting, and B1+.

Nothing here was measured. `truth/` holds the maps that were put in, in the space of the PDw images, and `truth.json`
the tissue values with their sources, the movements and the noise. Make maps with: voxcloud run study.yaml
"""
README_DWI_ALONE = """Simulated raw diffusion data.

Nothing here was measured. `truth/truth.json` holds the tissue values with their sources, the movements and the noise.
Make maps with: voxcloud run study.yaml
"""
README_DWI = """
Diffusion images are spin-echo EPI with movement, eddy currents, distortion, dropped slices and noise. Their truth is in
`truth/*_FA.nii.gz` and the like, on their own grid, in the position of the first volume, undistorted; what was done to
each volume is in `truth/*_dwi.json`.
"""
IGNORED = "truth/\nstudy.yaml\n"
DAYS_BETWEEN = 28


def planned_day(visit: int) -> int:
    """Return the day of a visit (0 is the first): those of the model study, then one every four weeks."""
    known = [round(day) for day in REFERENCE_DAYS]
    return known[visit] if visit < len(known) else known[-1] + DAYS_BETWEEN * (visit - len(known) + 1)


def write_tables(folder: Path, seed: int, participants: Sequence[str], sessions: Sequence[str]) -> None:
    """Write participants.tsv, a sessions table per participant, and what their columns mean."""
    rows = []
    days = describe_columns([("day", "Days since the first visit", "day")])
    for participant in participants:
        rng = generator(seed, "person", participant)
        rows.append(
            {"participant_id": participant, "age": int(rng.integers(20, 60)), "sex": "F" if rng.random() < 0.5 else "M"}
        )
        table = pd.DataFrame(
            {"session_id": list(sessions), "day": [planned_day(visit) for visit in range(len(sessions))]}
        )
        person = folder / f"sub-{participant}"
        write_table(person / f"sub-{participant}_sessions.tsv", table)
        write_json(person / f"sub-{participant}_sessions.json", days)
    write_table(folder / "participants.tsv", pd.DataFrame(rows))
    people = describe_columns([("age", "Age at the first visit", "year"), ("sex", "F or M", "")])
    write_json(folder / "participants.json", people)


def write_descriptions(folder: Path, settings: RawSettings, name: str) -> Path:
    """Write dataset_description.json, README, .bidsignore and study.yaml; return the study file."""
    description = {
        "Name": "Simulated multi-parameter mapping" if settings.mpm else "Simulated diffusion",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "GeneratedBy": [{"Name": "voxcloud", "Description": "voxcloud.testing.simulate_raw"}],
    }
    write_json(folder / "dataset_description.json", description)
    readme = README if settings.mpm else README_DWI_ALONE
    (folder / "README").write_text(readme if settings.dwi is None else readme + README_DWI)
    (folder / ".bidsignore").write_text(IGNORED)
    mpm: dict[str, Any] = {"preset": "hmri-1.0"}
    if settings.b1 == "none":
        mpm["missing_b1"] = "semi-quantitative"
    if settings.b1 == "SESTE" and settings.b0 is None:
        mpm["missing_b0"] = "skip"
    tree: dict[str, Any] = {"schema": 1, "name": name, "bids": ".", "output": "derivatives/voxcloud"}
    if settings.mpm:
        tree["mpm"] = mpm
    if settings.dwi is not None:
        tree["dwi"] = {}
    write_study_file(folder / "study.yaml", tree)
    return folder / "study.yaml"


def write_truth_record(folder: Path, settings: RawSettings, written: Sequence[WrittenSession]) -> None:
    """Write ``truth/truth.json``: see ``truth_record``."""
    write_json(folder / "truth" / "truth.json", truth_record(settings, written))


def truth_record(settings: RawSettings, written: Sequence[WrittenSession]) -> dict[str, Any]:
    """Return what is true of a data set: tissue values and sources, protocol, noise, changes, and the sessions."""
    record: dict[str, Any] = {
        "schema": 1,
        "seed": settings.seed,
        "tissue_values": VALUES,
        "units": UNITS,
        "sources": SOURCES,
        "mixture": "parameters, weighted by tissue fractions; PD adds up",
        "noise_sd": settings.noise_sd,
        "pulse_saturation": settings.pulse_saturation,
        "spoiling": "perfect" if settings.spoiling is None else "as given",
        "motion_sd": settings.motion_sd if settings.motion and settings.movements is None else None,
        "b1": settings.b1,
        "b0": settings.b0,
        "protocol": {contrast: parameters.to_tree() for contrast, parameters in settings.protocol.items()},
        "changes_per_visit": [_change(change) for change in settings.changes],
        "sessions": [dict(session.record) for session in written],
    }
    if settings.dwi is not None:
        record["dwi"] = _diffusion_record(settings.dwi)
    return record


def _diffusion_record(settings: DwiSettings) -> dict[str, Any]:
    return {
        "protocol": settings.protocol.to_tree(),
        "mean_diffusivity": MEAN_DIFFUSIVITY,
        "anisotropy": ANISOTROPY,
        "t2_s": T2_S,
        "sources": DIFFUSION_SOURCES,
        "noise_sd": settings.noise_sd,
        "changes_per_visit": [_change(change) for change in settings.changes],
    }


def _change(change: VisitChange) -> dict[str, Any]:
    return {
        "parameter": change.parameter,
        "centre_mm": list(change.centre_mm),
        "radius_mm": change.radius_mm,
        "fwhm_mm": change.fwhm_mm,
        "relative": change.relative,
    }
