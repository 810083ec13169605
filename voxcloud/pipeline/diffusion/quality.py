"""Quality control of a diffusion session: numbers for programs, a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.dwi.motion import MotionCorrected
from voxcloud.dwi.motion_model import eddy_displacement
from voxcloud.dwi.quality import dwi_quality_numbers, residual_map
from voxcloud.plan.dwi_sessions import DWI, how_made
from voxcloud.plan.paths import session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.report.qc_dwi_measures import DWI_QC_SCHEMA
from voxcloud.report.qc_dwi_pictures import DwiImages, dwi_figures, dwi_thumbnails
from voxcloud.report.qc_dwi_session import session_page
from voxcloud.space.affine import rigid_parameters
from voxcloud.space.unwarp import displacement, phase_axis

if TYPE_CHECKING:
    from voxcloud.pipeline.diffusion.step import Processed

FIELD_METHODS = {
    "epi": "images of opposite phase encoding",
    "phasediff": "a phase difference map",
    "phase12": "two phase images",
    "fieldmap": "a field map",
}


def session_quality(unit: WorkUnit, session: DwiSession, done: Processed) -> tuple[dict[str, Any], str]:
    """Return the numbers (JSON) and the page."""
    images, fit, motion = done.images, done.fit, done.motion
    who = session.participant_id, session.session_id
    voxel_ml = float(np.prod(images.voxel_mm)) / 1000.0
    world = images.world_vectors
    numbers = dwi_quality_numbers(
        images.data, fit, images.table.bvals, world, done.inside, voxel_ml=voxel_ml, noise=done.cleaned.noise
    )
    pictures = DwiImages(
        affine=images.affine,
        brain=done.inside,
        fa=fit.fa,
        md=fit.md,
        direction=fit.direction,
        b0_before=done.before,
        b0_after=images.mean_b0(),
        residual_percent=residual_map(images.data, fit, images.table.bvals, world, done.inside),
        noise=done.cleaned.noise,
        removed=done.cleaned.removed,
        slice_z=None if motion is None else motion.outlier_z.T,
        bvals=images.table.bvals,
        outliers=_outlier_slices(motion),
    )
    qc: dict[str, Any] = {
        "schema": DWI_QC_SCHEMA,
        "participant_id": session.participant_id,
        "session_id": session.session_id,
        "made": how_made(unit),
        "field_strength_t": session.scanner.get("MagneticFieldStrength"),
        "voxel_mm": [round(float(mm), 3) for mm in images.voxel_mm],
        **numbers,
        # Directions as they were asked for: those that the head has seen all differ a little.
        "shells": [
            {"b": round(shell.bval, 1), "n": len(shell.volumes), "directions": shell.directions}
            for shell in images.table.shells
        ],
        "frame": _frame(done),
        "gibbs": _gibbs(done),
        "susceptibility": _susceptibility(session, done),
        "motion": None if motion is None else _motion(done, motion),
        "outliers": None if motion is None else _outliers(motion, unit.params["dwi"]["replace_outliers"]),
        "corrections": _corrections(done),
        "warnings": [*session.warnings, *images.table.notes, *done.warnings],
        "page": session_qc_path(*who, DWI.name, "html"),
        "thumbnails": dwi_thumbnails(pictures),
    }
    return qc, session_page(qc, dwi_figures(pictures))


def _frame(done: Processed) -> dict[str, Any] | None:
    if done.frame is None:
        return None
    return {"verdict": str(done.frame.verdict), "message": done.frame.message, "lead": float(done.frame.lead)}


def _gibbs(done: Processed) -> dict[str, Any]:
    method = done.cleaned.record["unringing"]
    reason = next((text for text in done.cleaned.warnings if "PartialFourier" in text), "")
    if method == "none" and not reason:
        reason = "Not asked for (dwi.unringing: none)."
    return {"done": method != "none", "reason": reason or f"By {method}."}


def _susceptibility(session: DwiSession, done: Processed) -> dict[str, Any] | None:
    if done.field is None or session.b0 is None:
        return None
    images, record = done.images, done.field.record
    direction: Any = images.acquisitions[0].phase_encoding
    axis = phase_axis(direction).axis
    moved = displacement(done.field.hz, images.acquisitions[0].readout_s, direction)[done.inside]
    low, middle, high = (float(v) for v in np.percentile(moved * images.voxel_mm[axis], (1, 50, 99)))
    return {
        "method": FIELD_METHODS[session.b0.method],
        "correlation_before": record.get("correlation_before"),
        "correlation_after": record.get("correlation_after"),
        "displacement_mm": {"p01": low, "p50": middle, "p99": high},
    }


def _motion(done: Processed, motion: MotionCorrected) -> dict[str, Any]:
    centre = done.images.affine @ [*np.argwhere(done.inside).mean(axis=0), 1.0]
    translations, rotations = [], []
    for matrix in motion.movement:
        translation, rotation = rigid_parameters(matrix, centre[:3])
        translations.append([round(float(v), 4) for v in translation])
        rotations.append([round(float(v), 4) for v in rotation])
    found = {
        "model": motion.model,
        "translation_mm": translations,
        "rotation_deg": rotations,
        "fd_mm": _per_volume(motion.framewise_displacement_mm),
    }
    if motion.eddy_terms:
        found["eddy_rms_mm"] = _per_volume(_eddy_rms_mm(done, motion))
    return found


def _eddy_rms_mm(done: Processed, motion: MotionCorrected) -> list[float]:
    """Return by how many mm eddy currents move signal: root of the mean square over the brain, of each volume."""
    images, found = done.images, []
    for hz, acquired in zip(motion.eddy_hz, images.acquisitions, strict=True):
        moved = eddy_displacement(
            hz, images.affine, done.inside.shape, motion.eddy_centre_mm, acquired.phase_encoding, acquired.readout_s
        )
        found.append(float(np.sqrt(np.mean(moved[done.inside] ** 2))))
    return found


def _per_volume(values: Any) -> dict[str, Any]:
    numbers = [round(float(v), 4) for v in values]
    return {"mean": float(np.mean(numbers)), "max": max(numbers), "per_volume": numbers}


def _outlier_slices(motion: MotionCorrected | None) -> list[tuple[int, int]]:
    """Return (slice, volume) of those that were named."""
    return [] if motion is None else [(int(s), int(v)) for v, s in np.argwhere(motion.outliers)]


def _outliers(motion: MotionCorrected, replaced: bool) -> dict[str, Any]:
    judged = int(np.isfinite(motion.outlier_z).sum())
    return {
        "slices": [
            {"volume": int(v), "slice": int(s), "z": round(float(motion.outlier_z[v, s]), 2)}
            for v, s in np.argwhere(motion.outliers)
        ],
        "percent": 100.0 * float(motion.outliers.sum()) / max(judged, 1),
        "replaced": replaced,
    }


def _corrections(done: Processed) -> list[str]:
    """Return what was done, in order."""
    record: Mapping[str, Any] = done.cleaned.record
    found = []
    if record["denoising"] != "none":
        found.append(f"Denoised by {record['denoising']}.")
    if record["unringing"] != "none":
        found.append(f"Gibbs ringing removed by {record['unringing']}.")
    if done.field is not None:
        found.append(f"Static field from {FIELD_METHODS[done.field.record['method']]}.")
    if done.motion is not None:
        found.append(
            f"Movement{' and eddy currents' if done.motion.eddy_terms else ''} by registration of each volume to its "
            f"prediction ({done.motion.model}); one cubic interpolation; b-vectors rotated."
        )
    if done.bias is not None:
        found.append("Receive field removed (N4 on the mean without weighting).")
    found.append("Tensor by weighted least squares, weights from an ordinary fit.")
    return found
