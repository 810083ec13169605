"""The step ``dwi-maps``: everything of one session, from raw diffusion images to maps, quality control and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.dwi.fibre_continuity import FrameCheck, Verdict, check_frame
from voxcloud.dwi.motion import MotionCorrected, MotionSettings, correct_motion
from voxcloud.dwi.tensor import SMALLEST_SIGNAL, TensorFit, fit_tensor
from voxcloud.errors import ImageError, VoxcloudError
from voxcloud.pipeline.diffusion.cleaning import Cleaned, clean
from voxcloud.pipeline.diffusion.distortion import StaticField, static_field, unwarp_all
from voxcloud.pipeline.diffusion.outputs import write_maps
from voxcloud.pipeline.diffusion.quality import session_quality
from voxcloud.pipeline.diffusion.series import DiffusionImages, load_series
from voxcloud.pipeline.execute import CHILD_CPU
from voxcloud.pipeline.phases import Phases, refuse_changed
from voxcloud.plan.dwi_sessions import DWI, joint_table
from voxcloud.plan.paths import session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.space.bias import BiasField, estimate_bias, remove_bias
from voxcloud.space.epi_brain import BrainMask, brain_mask
from voxcloud.space.head import head_mask
from voxcloud.storage.store import Store

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

# Median MD over the brain in mm2/s; beyond, b-values are in another unit or the images are of something else.
PLAUSIBLE_MD = (0.2e-3, 3.0e-3)
# Smallest signal that is taken at its word, over the noise level; and that level over the signal at b = 0 where it is
# not known.
SHARE_OF_NOISE, UNKNOWN_NOISE = 0.1, 0.02


@dataclass(eq=False)
class Processed:
    """A session after every correction; shapes as in ``DiffusionImages``.

    Attributes
    ----------
    before
        Mean without weighting as it was measured.
    images
        Corrected; its table has the rotated b-vectors.
    inside
        (x, y, z), where tensors were fitted: brain that every volume covers.
    """

    before: Float32
    images: DiffusionImages
    cleaned: Cleaned
    field: StaticField | None
    frame: FrameCheck | None
    motion: MotionCorrected | None
    bias: BiasField | None
    brain: BrainMask
    inside: Bool
    fit: TensorFit
    warnings: list[str]

    @property
    def registrations_cpu_s(self) -> float:
        """CPU seconds of processes beside this one."""
        of_field = self.field.cpu_s if self.field is not None else 0.0
        return of_field + (float(self.motion.report["registrations_cpu_s"]) if self.motion is not None else 0.0)


def dwi_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Make the maps of one session and write them with sidecars, quality control and page.

    Every error names the session.
    """
    session = DwiSession.from_tree(unit.places["session"])
    try:
        return _make_session(unit, store, session)
    except VoxcloudError as error:
        error.args = tuple(text if session.who in text else f"{session.who}: {text}" for text in error.problems)
        raise


def _make_session(unit: WorkUnit, store: Store, session: DwiSession) -> dict[str, Any]:
    phases = Phases()
    refuse_changed(
        unit, session.who, session.paths, DwiSession.from_tree({**unit.params["session"], "warnings": ()}).paths
    )
    done = process(session, unit.params["dwi"], phases)
    quality, page = session_quality(unit, session, done)
    phases.end("quality")
    write_maps(unit, store, session, done)
    who = session.participant_id, session.session_id
    store.write_bytes(session_qc_path(*who, DWI.name, "json"), json.dumps(quality, allow_nan=False, indent=1).encode())
    store.write_bytes(session_qc_path(*who, DWI.name, "html"), page.encode())
    phases.end("write")
    return {
        "voxels": int(done.brain.brain.sum()),
        "volumes": int(done.images.table.bvals.size),
        "warnings": list(quality["warnings"]),
        "phases_cpu_s": phases.seconds | {"registrations": round(done.registrations_cpu_s, 3)},
        # Registrations are processes of their own: this thread's clock does not see them.
        CHILD_CPU: done.registrations_cpu_s,
    }


def process(session: DwiSession, dwi: Mapping[str, Any], phases: Phases) -> Processed:
    """Correct the images of a session and fit tensors.

    Raises
    ------
    VoxcloudError
        If images or tables cannot be used.
    """
    table = joint_table(session, scale_by_length=dwi["scale_by_length"])
    images = load_series(session, table)
    before = images.mean_b0()
    head = head_mask(images.data.mean(axis=3), images.voxel_mm)
    phases.end("read")
    cleaned = clean(images, session, head, dict(dwi))
    phases.end("denoise and unring")
    field = static_field(images, session, head)
    phases.end("static field")
    # A brain found in distorted images is good enough to look for it in: it is found again in corrected ones.
    rough = brain_mask(images.mean_b0(), images.voxel_mm.tolist(), name=session.who)
    frame = _frame(images, rough.brain, session.who) if dwi["frame"] == "check" else None
    phases.end("frame")
    motion = _corrected(images, session, rough.generous, field, dwi)
    phases.end("motion")
    brain = brain_mask(images.mean_b0(), images.voxel_mm.tolist(), name=session.who)
    inside = brain.brain if motion is None else brain.brain & motion.covered
    bias = None
    if dwi["bias"] == "n4":
        bias = estimate_bias(images.mean_b0(), inside, images.voxel_mm.tolist(), name=session.who)
        images.data = remove_bias(images.data, bias, name=session.who)
    phases.end("bias")
    fit = _fitted(images, inside, cleaned.noise)
    _refuse_implausible(session.who, fit)
    phases.end("tensor")
    told = _told(cleaned, field, frame, motion, brain, bias)
    return Processed(before, images, cleaned, field, frame, motion, bias, brain, inside, fit, told)


def _frame(images: DiffusionImages, brain: Bool, who: str) -> FrameCheck:
    """Check the frame of the b-vectors on the images as they are, before minutes go into correcting them."""
    fit = _fitted(images, brain, None)
    found = check_frame(fit.direction, fit.fa, images.affine, brain, unit=who)
    if found.verdict is Verdict.WRONG:
        raise ImageError(f"{found.message} To trust the table all the same, set dwi.frame: trust.")
    return found


def _fitted(images: DiffusionImages, inside: Bool, noise: Float32 | None) -> TensorFit:
    """Fit tensors in the brain.

    Unringing and splines overshoot, so that the weakest signals may come out negative. Raised to next to nothing, their
    logarithms would rule the fit; raised to a tenth of the noise level they are what such signals can be.
    """
    level = np.nan if noise is None else float(np.nanmedian(noise[inside]))
    if not level > 0:
        level = UNKNOWN_NOISE * float(np.median(images.mean_b0()[inside]))
    signals = np.where(inside[..., None], images.data, np.float32(np.nan))
    floor = max(SHARE_OF_NOISE * level, SMALLEST_SIGNAL)
    return fit_tensor(signals, images.table.bvals, images.world_vectors, smallest_signal=floor)


def _corrected(
    images: DiffusionImages,
    session: DwiSession,
    mask: Bool,
    field: StaticField | None,
    dwi: Mapping[str, Any],
) -> MotionCorrected | None:
    """Correct movement, eddy currents and the static field, in place; with one interpolation."""
    if dwi["motion"] == "none":
        unwarp_all(images, field)
        return None
    settings = MotionSettings(
        eddy=dwi["eddy"], replace_outliers=dwi["replace_outliers"], outlier_sd=float(dwi["outlier_sd"])
    )
    found = correct_motion(
        images.data,
        images.affine,
        images.table.bvals,
        images.world_vectors,
        images.acquisitions,
        mask,
        field_hz=None if field is None else field.hz,
        slice_axis=session.series[0].slice_axis,
        settings=settings,
        unit=session.who,
    )
    images.data = found.data
    images.turn(found.bvecs)
    return found


def _told(
    cleaned: Cleaned,
    field: StaticField | None,
    frame: FrameCheck | None,
    motion: MotionCorrected | None,
    brain: BrainMask,
    bias: BiasField | None,
) -> list[str]:
    found = [*cleaned.warnings, *(field.warnings if field is not None else ())]
    if frame is not None and frame.verdict is Verdict.UNCLEAR:
        found.append(frame.message)
    found += motion.warnings if motion is not None else ()
    if brain.flagged:
        found.append(brain.flagged)
    if bias is not None and bias.flagged:
        found.append(bias.flagged)
    return found


def _refuse_implausible(who: str, fit: TensorFit) -> None:
    median = float(np.nanmedian(fit.md))
    low, high = PLAUSIBLE_MD
    if not low <= median <= high:
        raise ImageError(
            f"{who}: expected a median MD of {low:g} to {high:g} mm2/s in the brain, found {median:.3g}. Are the "
            "b-values in s/mm2, and do table and images belong together?"
        )
