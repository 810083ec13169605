"""A session's diffusion derivatives: maps with sidecars that say how they were made, and the corrected series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.dwi_names import (
    DIRECTION,
    S0,
    TENSOR,
    TENSOR_ORDER,
    DwiFile,
    dwi_file_name,
    dwi_map_name,
    dwi_map_sidecar,
)
from voxcloud.bids.volumes import sidecar_bytes, volume_bytes
from voxcloud.plan.dwi_sessions import how_made
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.store import Store
from voxcloud.version import __version__

if TYPE_CHECKING:
    from voxcloud.pipeline.diffusion.step import Processed

Floats = npt.NDArray[np.floating[Any]]
# As voxcloud.dwi.tensor has them.
FITTED_ORDER = ("xx", "yy", "zz", "xy", "xz", "yz")
FIT_METHOD = "wls"
REFERENCES = {
    "denoising": ("doi:10.1016/j.neuroimage.2016.08.016", "doi:10.1016/j.neuroimage.2019.06.039"),
    "unringing": ("doi:10.1002/mrm.26054",),
    "static field": ("doi:10.1016/S1053-8119(03)00336-7", "doi:10.1088/0031-9155/57/18/5715"),
    "movement and eddy currents": ("doi:10.1016/j.neuroimage.2015.07.067", "doi:10.1016/j.neuroimage.2015.10.019"),
    "bias field": ("doi:10.1109/TMI.2010.2046908",),
    "tensor": ("doi:10.1016/S0006-3495(94)80775-1", "doi:10.1016/j.neuroimage.2013.05.028"),
}


def write_maps(unit: WorkUnit, store: Store, session: DwiSession, done: Processed) -> None:
    """Write every map, the masks and fields beside them, and the corrected series if the study wants it."""
    who = session.participant_id, session.session_id
    common = _common(unit, done)
    affine = done.images.affine
    for parameter, values in _maps(done):
        store.write_bytes(dwi_map_name(*who, parameter), volume_bytes(values, affine, _described(parameter)))
        tree = dwi_map_sidecar(parameter, FIT_METHOD) | common
        store.write_bytes(dwi_map_name(*who, parameter, extension=".json"), sidecar_bytes(tree))
    for kind, values, tree in _files(done):
        store.write_bytes(dwi_file_name(*who, kind), volume_bytes(values, affine, _described(kind)))
        store.write_bytes(dwi_file_name(*who, kind, ".json"), sidecar_bytes(common | tree))
    if unit.params["dwi"]["series"]:
        _write_series(store, session, done, common)


def _described(name: str) -> str:
    return f"voxcloud {__version__} {name}"


def _maps(done: Processed) -> Iterator[tuple[str, Floats]]:
    fit = done.fit
    yield from (("fa", fit.fa), ("md", fit.md), ("ad", fit.ad), ("rd", fit.rd), (S0, fit.s0))
    order = [FITTED_ORDER.index(element) for element in TENSOR_ORDER]
    yield TENSOR, np.moveaxis(fit.tensor[order], 0, 3)
    yield DIRECTION, np.moveaxis(fit.direction, 0, 3)


def _files(done: Processed) -> Iterator[tuple[DwiFile, Floats, dict[str, Any]]]:
    fit = done.fit
    yield (
        "mask",
        done.inside.astype(np.float32),
        {"Description": "Brain that every volume covers.", "Type": "Brain", "Units": "1"},
    )
    yield (
        "reference",
        done.images.mean_b0(),
        {"Description": "Mean of the corrected volumes without diffusion weighting.", "Units": "arbitrary"},
    )
    yield (
        "negatives",
        np.where(np.isfinite(fit.fa), fit.negatives, np.nan).astype(np.float32),
        {"Description": "Number of negative eigenvalues of the tensor, which count as 0 in the maps.", "Units": "1"},
    )
    if done.cleaned.noise is not None:
        yield (
            "noise",
            done.cleaned.noise,
            {
                "Description": "Noise level (standard deviation) of the images as measured.",
                "Units": "arbitrary",
                "Space": "as the diffusion images were acquired, with their distortion",
            },
        )
    if done.field is not None:
        yield "field", done.field.hz, {"Description": "Static field, as the first image has it.", "Units": "Hz"}


def _write_series(store: Store, session: DwiSession, done: Processed, common: dict[str, Any]) -> None:
    who = session.participant_id, session.session_id
    images = done.images
    store.write_bytes(dwi_file_name(*who, "preproc"), volume_bytes(images.data, images.affine, _described("preproc")))
    rows = [images.table.bvals[None, :], images.table.bvecs]
    for kind, row, digits in ((".bval", rows[0], 1), (".bvec", rows[1], 6)):
        text = "".join(" ".join(f"{value:.{digits}f}" for value in line) + "\n" for line in row)
        store.write_bytes(dwi_file_name(*who, "preproc", kind), text.encode())
    tree: dict[str, Any] = {
        "Description": "All volumes after every correction, in the place of the first.",
        "Units": "arbitrary",
        "SkullStripped": False,
    }
    if done.motion is not None:
        tree |= {
            "Movement": {
                "Description": "Rigid movement of the head, RAS+ mm, from its place in the first volume to each one's",
                "Matrices": np.round(done.motion.movement, 9).tolist(),
            },
            "EddyField": {
                "Description": "Coefficients of the field of eddy currents in Hz",
                "Terms": list(done.motion.eddy_terms),
                "Volumes": np.round(done.motion.eddy_hz, 6).tolist(),
            },
            "FramewiseDisplacement_mm": np.round(done.motion.framewise_displacement_mm, 6).tolist(),
            "OutlierSlices": [[int(v), int(s)] for v, s in np.argwhere(done.motion.outliers)],
        }
    store.write_bytes(dwi_file_name(*who, "preproc", ".json"), sidecar_bytes(tree | common))


def _common(unit: WorkUnit, done: Processed) -> dict[str, Any]:
    session = unit.params["session"]
    made = how_made(unit)
    steps = {
        "denoising": done.cleaned.record["denoising"] != "none",
        "unringing": done.cleaned.record["unringing"] != "none",
        "static field": done.field is not None,
        "movement and eddy currents": done.motion is not None,
        "bias field": done.bias is not None,
        "tensor": True,
    }
    return {
        "Space": "as the diffusion images were acquired, undistorted, the head in the place of the first volume",
        "MissingValue": "NaN: outside the brain, or not in every volume's field of view",
        **made,
        **session["scanner"],
        "GradientTable": {
            "b0": int(done.images.table.b0.sum()),
            "Shells": [
                {"b": round(shell.bval, 1), "Volumes": len(shell.volumes), "Directions": shell.directions}
                for shell in done.images.table.shells
            ],
        },
        "Settings": dict(unit.params["dwi"]),
        "DenoisingMethod": done.cleaned.record["denoising"],
        "UnringingMethod": done.cleaned.record["unringing"],
        "StaticField": None if done.field is None else done.field.record,
        "MotionModel": None if done.motion is None else done.motion.model,
        "References": [doi for step, used in steps.items() if used for doi in REFERENCES[step]],
        "GeneratedBy": [{"Name": "voxcloud", "Version": __version__}],
        # In a derivatives data set its sources are told from its own files by their name (SourceDatasets).
        "Sources": [f"bids:raw:{path}" for path in unit.inputs],
    }
