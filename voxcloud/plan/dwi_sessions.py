"""The units that make diffusion maps, one per session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi import find_dwi_sessions, read_dwi
from voxcloud.bids.dwi_acquisitions import DwiSeries, DwiSession
from voxcloud.bids.dwi_names import DWI_MAPS, DwiFile, dwi_file_name, dwi_map_name
from voxcloud.bids.nifti import open_nifti
from voxcloud.config.dwi import Dwi
from voxcloud.dwi.gradients import GradientTable, check_gradients, compare_shells
from voxcloud.dwi.tensor_design import GradientError
from voxcloud.plan.modality import Modality, RawData, relative_to, renamed
from voxcloud.plan.paths import session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.store import file_digest

Float64 = npt.NDArray[np.float64]

# Memory of a session (tests/pipeline/test_memory.py holds it to this): libraries and compiled kernels, a registration
# process, and of every value of the series so many bytes.
LIBRARIES_BYTES = 450_000_000
REGISTRATION_BYTES = 200_000_000
BYTES_PER_VALUE = 24
CPU_S_PER_VALUE = 7e-6
CPU_S_AT_LEAST = 20.0

# MP-PCA on fewer volumes tells signal from noise badly (Veraart et al. 2016, doi:10.1016/j.neuroimage.2016.08.016).
FEWEST_TO_DENOISE = 12

# Settings that decide which acquisitions are taken: what was taken is in the unit, how it was chosen is not.
CHOOSING = ("missing_b0", "run")


def plan_session(raw: RawData, participant: str, session: str) -> tuple[WorkUnit, tuple[str, ...]]:
    """Read one session and return the unit that makes its maps, and what must be told of it.

    Raises
    ------
    BidsError, GradientError
        With every problem of the session.
    """
    dwi = raw.loaded.study.dwi
    assert dwi is not None
    found = read_dwi(raw.metadata, participant, session, missing_b0=dwi.missing_b0, run=dwi.run)
    table = joint_table(found, scale_by_length=dwi.scale_by_length)
    return _maps_unit(raw, dwi, found), (*found.warnings, *table.notes, *_unlike_shells(found))


def joint_table(session: DwiSession, *, scale_by_length: bool) -> GradientTable:
    """Check and join the gradient tables of a session's images.

    Raises
    ------
    GradientError
        With every problem.
    """
    several = len(session.series) > 1
    b = np.concatenate([np.asarray(series.bvals, np.float64) for series in session.series])
    vectors = np.concatenate([_columns(series.bvecs) for series in session.series], axis=1)
    names = ", ".join(Path(series.path).name for series in session.series)
    unit = f"{session.who}, {names}" + (" (volumes counted through all)" if several else "")
    joint = check_gradients(b, vectors, b.size, unit=unit, scale_by_length=scale_by_length)
    if not several:
        return joint
    # What is measured again with opposite phase encoding repeats its directions on purpose.
    tables = _own_tables(session, scale_by_length=scale_by_length)
    return replace(joint, notes=tuple(note for table in tables.values() for note in table.notes))


def _own_tables(session: DwiSession, *, scale_by_length: bool = False) -> dict[str, GradientTable]:
    """Return the table of each image that makes one by itself, as the b = 0 of the other direction does not."""
    found = {}
    for series in session.series:
        b, name = np.asarray(series.bvals), Path(series.path).name
        with contextlib.suppress(GradientError):
            found[name] = check_gradients(
                b, _columns(series.bvecs), b.size, unit=f"{session.who}, {name}", scale_by_length=scale_by_length
            )
    return found


def _columns(vectors: Any) -> Float64:
    return np.asarray(vectors, np.float64).reshape(-1, 3).T


def _unlike_shells(session: DwiSession) -> tuple[str, ...]:
    """Say which images of a session have other shells than the first."""
    return tuple(f"{session.who}: {text}" for text in compare_shells(_own_tables(session)))


def denoised(session: DwiSession, how: str) -> list[DwiSeries]:
    """Return which images of a session are denoised: those with enough volumes."""
    return [series for series in session.series if how == "mp-pca" and series.n_volumes >= FEWEST_TO_DENOISE]


def derivative_paths(session: DwiSession, dwi: Dwi) -> Iterator[str]:
    """Yield where the derivatives of a session lie, but for its quality control."""
    who = session.participant_id, session.session_id
    for parameter in DWI_MAPS:
        for extension in (".nii.gz", ".json"):
            yield dwi_map_name(*who, parameter, extension=extension)
    kinds: list[DwiFile] = ["mask", "reference", "negatives"]
    kinds += ["noise"] if denoised(session, dwi.denoise) else []
    kinds += ["field"] if session.b0 is not None else []
    for kind in kinds:
        for extension in (".nii.gz", ".json"):
            yield dwi_file_name(*who, kind, extension)
    if dwi.series:
        for extension in (".nii.gz", ".bval", ".bvec", ".json"):
            yield dwi_file_name(*who, "preproc", extension)


def _maps_unit(raw: RawData, dwi: Dwi, session: DwiSession) -> WorkUnit:
    paths = session.paths
    relative = {path: relative_to(path, raw.root) for path in paths}
    shape = open_nifti(session.series[0].path).shape
    values = int(np.prod(shape[:3])) * sum(series.n_volumes for series in session.series)
    who = session.participant_id, session.session_id
    pages = [session_qc_path(*who, DWI.name, kind) for kind in ("json", "html")]
    return WorkUnit(
        step=DWI.maps_step,
        name=session.who,
        params={"dwi": dwi.model_dump(exclude=set(CHOOSING)), "session": renamed(session.to_tree(), relative)},
        inputs={relative[path]: file_digest(path) for path in paths},
        places={"output": raw.store_url, "bids": str(raw.root), "session": session.to_tree()},
        outputs=(*derivative_paths(session, dwi), *pages),
        projected_mem=LIBRARIES_BYTES + REGISTRATION_BYTES + BYTES_PER_VALUE * values,
        bytes_read=sum(Path(path).stat().st_size for path in paths),
        bytes_written=2 * values,
        objects_read=len(paths),
        expected_s=CPU_S_AT_LEAST + CPU_S_PER_VALUE * values,
    )


def how_made(unit: WorkUnit) -> dict[str, Any]:
    """Return how a session's maps are made, in the words of their sidecars (``bids.signatures``)."""
    dwi, session = unit.params["dwi"], unit.params["session"]
    images = DwiSession.from_tree({**session, "warnings": ()})
    whole = all(series.partial_fourier >= 1 for series in images.series)
    b0, defaults = session["b0"], Dwi().model_dump()
    told = ("denoise", "unringing", "motion", "eddy", "bias", "frame", "series")
    return {
        "Denoising": dwi["denoise"] if denoised(images, dwi["denoise"]) else "none",
        "Unringing": dwi["unringing"] == "auto" and whole,
        "SusceptibilityCorrection": b0["method"] if b0 is not None else "none",
        "MotionCorrection": dwi["motion"],
        "EddyCorrection": dwi["eddy"] if dwi["motion"] != "none" else "none",
        "BiasCorrection": dwi["bias"],
        "ChangedSettings": {key: dwi[key] for key in dwi if key not in told and dwi[key] != defaults[key]},
    }


def _acquired(unit: WorkUnit) -> dict[str, str]:
    """Return how a session was acquired and is made, each as words that can be compared."""
    found = {key: str(value) for key, value in how_made(unit).items()}
    session = DwiSession.from_tree({**unit.places["session"]})
    table = joint_table(session, scale_by_length=unit.params["dwi"]["scale_by_length"])
    shells = [f"{len(shell.volumes)} volumes at b = {shell.bval:.0f}" for shell in table.shells]
    found["the gradient table"] = ", ".join([f"{int(table.b0.sum())} volumes at b = 0", *shells])
    found["the phase encoding"] = ", ".join(dict.fromkeys(str(series.phase_encoding) for series in session.series))
    times = dict.fromkeys(series.readout_s for series in session.series if series.readout_s is not None)
    found["the readout time"] = ", ".join(f"{1e3 * time:.3g} ms" for time in times)
    image = open_nifti(session.series[0].path)
    size = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0))
    found["the voxel size"] = " x ".join(f"{mm:.2f}" for mm in size) + " mm"
    return found


DWI = Modality("dwi", "qc_dwi.html", find_dwi_sessions, plan_session, how_made, _acquired)
