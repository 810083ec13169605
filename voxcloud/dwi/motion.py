"""Movement of the head and eddy currents in diffusion images: found, undone in one interpolation, and told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.motion_model import CONSTANT, EDDY_TERMS, Encoding, encode
from voxcloud.dwi.motion_passes import correct
from voxcloud.dwi.motion_state import Corrected, Problem
from voxcloud.dwi.offsets import separate_offsets
from voxcloud.dwi.prediction import describe, group_volumes
from voxcloud.dwi.tensor_design import LARGEST_B0, GradientError
from voxcloud.errors import ImageError, MaskError
from voxcloud.space.unwarp import displacement

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Progress = Callable[[str], None]

# Splines and their gradients need neighbours; fewer slices are no head.
FEWEST_VOXELS = 8
LEAST_MASK_VOXELS = 500
# Jenkinson (1999): a head is a ball of this radius in mm.
HEAD_MM = 80.0


@dataclass(frozen=True)
class VolumeAcquisition:
    """How one volume was acquired.

    Attributes
    ----------
    phase_encoding : BIDS ``PhaseEncodingDirection``: i, i-, j, j-, k, k-.
    readout_s : total readout time in s.
    """

    phase_encoding: str
    readout_s: float


@dataclass(frozen=True)
class MotionSettings:
    """What is estimated.

    Attributes
    ----------
    eddy : terms of the field of eddy currents: 9, 3 or none.
    replace_outliers : replace slices that lost their signal by their prediction; they are found in any case.
    outlier_sd : standard deviations below its prediction from which a slice is an outlier.
    passes : predictions and registrations of all volumes at full resolution, after the coarse ones.
    """

    eddy: Literal["quadratic", "linear", "none"] = "quadratic"
    replace_outliers: bool = True
    outlier_sd: float = 4.0
    passes: int = 2

    @property
    def terms(self) -> int:
        """Number of eddy terms."""
        return {"quadratic": 9, "linear": 3, "none": 0}[self.eddy]


@dataclass(frozen=True, eq=False)
class MotionCorrected:
    """Diffusion images as a head at rest without distortion would have given them.

    Attributes
    ----------
    data : (x, y, z, v) float32: resampled once, scaled by the Jacobian determinant, outlier slices replaced; 0 where a
        volume has not seen the place.
    bvecs : (3, v), unit vectors in RAS+, turned with the head.
    movement : (v, 4, 4), RAS+ mm: a point of the head in the reference (the first b = 0 volume) to its place at the
        volume. What eddy currents shift along phase encoding was told from it (``offsets``).
    eddy_hz : (v, terms), Hz; the field is ``sum_m eddy_hz_m p_m((position - eddy_centre_mm) / 70 mm)``.
    eddy_terms : names of p_m.
    eddy_centre_mm : (3,), RAS+.
    outliers : (v, slices).
    outlier_z : (v, slices), standard deviations above the prediction; NaN where a slice has too little brain.
    framewise_displacement_mm : (v,), Jenkinson's RMS displacement in a ball of 80 mm since the volume before; first 0.
    intensity : (v,), factor of the volume against its prediction; the data are not divided by it.
    residual : (v,), RMS of volume minus prediction over the brain, outlier slices left out, over the mean signal of its
        shell; NaN where nothing predicts the volume.
    covered : (x, y, z), seen in every volume.
    model : what predicted the volumes.
    warnings : what had to be simplified or looks wrong.
    report : plain values (JSON); ``registrations_cpu_s``: CPU seconds of registrations in processes of their own.

    References
    ----------
    1. Jenkinson (1999), Measuring transformation error by RMS deviation, FMRIB TR99MJ1; framewise use:
       Jenkinson et al. (2002), doi:10.1006/nimg.2002.1132.
    """

    data: Float32
    bvecs: Float64
    movement: Float64
    eddy_hz: Float64
    eddy_terms: tuple[str, ...]
    eddy_centre_mm: Float64
    outliers: Bools
    outlier_z: Float64
    framewise_displacement_mm: Float64
    intensity: Float64
    residual: Float64
    covered: Bools
    model: str
    warnings: tuple[str, ...]
    report: dict[str, Any]


def correct_motion(
    data: npt.ArrayLike,
    affine: npt.ArrayLike,
    b: npt.ArrayLike,
    bvecs_world: npt.ArrayLike,
    acquisitions: Sequence[VolumeAcquisition],
    mask: npt.ArrayLike,
    *,
    field_hz: npt.ArrayLike | None = None,
    slice_axis: int = 2,
    settings: MotionSettings | None = None,
    unit: str = "dwi",
    progress: Progress | None = None,
) -> MotionCorrected:
    """Correct diffusion images for movement, eddy currents, the static field and slices that lost their signal.

    Signal of the reference point x (mm) is seen in volume v at

    ``y = M_v x + s_v T_v (f(x) + e_v(M_v x)) w``, thinned out by ``J = 1 + dd/dw``,

    with a rigid movement M, the static field f in Hz, which goes with the head, the field e of eddy currents (linear
    and quadratic in the scanner's coordinates), the readout time T and sign s of phase encoding, and the voxel w along
    it.

    Each volume is registered to its prediction from all others (``prediction``), as the volume would see it: M, e and
    an intensity are found by Gauss-Newton on observed voxels. Eddy terms have a prior, linear in g for each shell,
    whose variance is estimated. A constant field looks like a shift along phase encoding: it is found as one, and told
    from the head's movement by what follows the gradients (``offsets``). Shells as a whole are brought to the b = 0
    images by registration and by neighbours in time. The first b = 0 volume is the reference.

    Parameters
    ----------
    data : (x, y, z, v), finite, any unit; denoised as a rule. Not changed.
    affine : (4, 4), voxel to RAS+ mm.
    b : (v,), s/mm2.
    bvecs_world : (3, v), unit vectors in RAS+ (``gradients.bvecs_to_world``); anything where b <= 50 s/mm2.
    acquisitions : of each volume; phase-encode directions and readout times may differ.
    mask : (x, y, z), brain in the undistorted reference, generous.
    field_hz : (x, y, z), static field on the grid of the data in Hz, for the head as it lay in the first b = 0 volume.
    slice_axis : of the array, along which slices were measured one after the other.
    settings : what is estimated.
    unit : what messages begin with, such as ``sub-01_ses-1``.
    progress : called with a line now and then.

    Raises
    ------
    ImageError
        If shapes do not fit, values are not finite, or the phase encoding is unknown.
    GradientError
        If b-values or b-vectors do not fit the images, or no volume has b <= 50 s/mm2.
    MaskError
        If the mask is on another grid or nearly empty.

    References
    ----------
    1. Andersson and Sotiropoulos (2016), doi:10.1016/j.neuroimage.2015.10.019.
    2. Andersson and Sotiropoulos (2015), doi:10.1016/j.neuroimage.2015.07.067.
    3. Andersson et al. (2016), doi:10.1016/j.neuroimage.2016.06.058.
    4. Leemans and Jones (2009), rotation of b-vectors, doi:10.1002/mrm.21890.
    """
    chosen = settings if settings is not None else MotionSettings()
    images, to_mm = _checked_images(data, affine, slice_axis, chosen, unit)
    bvals, vectors = _checked_table(b, bvecs_world, images.shape[3], unit)
    encodings = _encodings(acquisitions, images.shape[3], unit)
    inside = _checked_mask(mask, images.shape[:3], unit)
    field = _checked_field(field_hz, images.shape[:3], acquisitions, unit)
    groups, told = group_volumes(bvals, vectors)
    problem = Problem(
        volumes=np.ascontiguousarray(np.moveaxis(images, 3, 0), dtype=np.float32),
        affine=to_mm,
        b=bvals,
        g=vectors,
        encodings=encodings,
        mask=inside,
        field=field,
        slice_axis=slice_axis,
        groups=groups,
        terms=chosen.terms,
        passes=chosen.passes,
        replace_outliers=chosen.replace_outliers,
        outlier_sd=chosen.outlier_sd,
        progress=progress or (lambda line: None),
    )
    found = correct(problem)
    return _result(problem, found, tuple(f"{unit}: {text}" for text in (*told, *found.warnings)))


def rotate_bvecs(bvecs_world: npt.ArrayLike, movement: npt.ArrayLike) -> Float64:
    """Return b-vectors in the frame of the head at rest: ``R_v' g_v``, R_v the rotation of the head in volume v.

    A head that turned by R measured along g what a head at rest measures along R^-1 g.

    Parameters
    ----------
    bvecs_world : (3, v), RAS+.
    movement : (v, 4, 4), RAS+ mm, rigid, reference to volume.
    """
    g, m = np.asarray(bvecs_world, np.float64), np.asarray(movement, np.float64)
    return np.asarray(np.einsum("vij,iv->jv", m[:, :3, :3], g))


def framewise_displacement(movement: npt.ArrayLike, centre_mm: npt.ArrayLike) -> Float64:
    """Return Jenkinson's RMS displacement (mm) of each volume against the one before; the first is 0.

    ``sqrt(r^2 / 5 tr(A' A) + (t + A c)' (t + A c))`` for ``M_v M_{v-1}^-1 - I = [A t]``, r = 80 mm.

    Parameters
    ----------
    movement : (v, 4, 4), mm.
    centre_mm : (3,), of the ball.
    """
    m, centre = np.asarray(movement, np.float64), np.asarray(centre_mm, np.float64)
    found = np.zeros(len(m))
    for v in range(1, len(m)):
        step = m[v] @ np.linalg.inv(m[v - 1]) - np.eye(4)
        moved = step[:3, 3] + step[:3, :3] @ centre
        found[v] = np.sqrt(HEAD_MM**2 / 5.0 * np.sum(step[:3, :3] ** 2) + moved @ moved)
    return found


def _separated(problem: Problem, found: Corrected) -> tuple[Float64, Float64]:
    """Return movement without what eddy currents shift, and the constant of their field; see ``offsets``."""
    columns = problem.affine[:3, :3]
    sizes = np.sqrt((columns**2).sum(axis=0))
    axes = [one.axis for one in problem.encodings]
    along = np.array([columns[:, axis] / sizes[axis] for axis in axes])
    scale = [one.scale * float(sizes[one.axis]) for one in problem.encodings]
    return separate_offsets(found.motion.movement, problem.b, problem.g, along, scale, found.geometry.centre)


def _result(problem: Problem, found: Corrected, warnings: tuple[str, ...]) -> MotionCorrected:
    terms: tuple[str, ...] = EDDY_TERMS[: problem.terms]
    centre = found.geometry.centre
    movement, eddy = found.motion.movement, found.motion.eddy[:, : problem.terms].copy()
    if terms:
        movement, constant = _separated(problem, found)
        terms, eddy = (CONSTANT, *terms), np.column_stack([constant, eddy])
    moved = framewise_displacement(movement, centre)
    vectors = rotate_bvecs(problem.g, movement)
    report = {
        **found.report,
        "eddy_terms": list(terms),
        "eddy_centre_mm": centre.round(4).tolist(),
        "outlier_slices": int(found.outliers.sum()),
        "framewise_displacement_mm": {
            "mean": float(moved[1:].mean()) if moved.size > 1 else 0.0,
            "max": float(moved.max()),
        },
    }
    return MotionCorrected(
        data=np.ascontiguousarray(np.moveaxis(found.data, 0, 3)),
        bvecs=vectors,
        movement=movement,
        eddy_hz=eddy,
        eddy_terms=terms,
        eddy_centre_mm=centre,
        outliers=found.outliers,
        outlier_z=found.scores,
        framewise_displacement_mm=moved,
        intensity=found.motion.intensity,
        residual=found.residual,
        covered=found.covered,
        model=describe(found.process),
        warnings=warnings,
        report=report,
    )


def _checked_images(
    data: npt.ArrayLike, affine: npt.ArrayLike, slice_axis: int, settings: MotionSettings, unit: str
) -> tuple[npt.NDArray[Any], Float64]:
    images, to_mm = np.asarray(data), np.asarray(affine, np.float64)
    if images.ndim != 4 or min(images.shape[:3], default=0) < FEWEST_VOXELS or images.shape[3] < 2:
        raise ImageError(
            f"{unit}: expected images (x, y, z, volume) with at least {FEWEST_VOXELS} voxels along each axis and 2 "
            f"volumes, found shape {images.shape}. Give the whole series of a head."
        )
    bad = [v for v in range(images.shape[3]) if not np.isfinite(images[..., v]).all()]
    if bad:
        raise ImageError(
            f"{unit}: expected finite signals, found NaN or infinite ones in {len(bad)} volumes (first {bad[0]}). Set "
            "slices that are missing to 0: they are found as outliers and replaced."
        )
    if to_mm.shape != (4, 4) or not np.isfinite(to_mm).all() or abs(np.linalg.det(to_mm[:3, :3])) < 1e-6:
        raise ImageError(f"{unit}: expected an invertible (4, 4) affine, found {to_mm.tolist()}. Check the header.")
    if slice_axis not in (0, 1, 2):
        raise ImageError(
            f"{unit}: expected a slice axis of 0, 1 or 2, found {slice_axis}. Check SliceEncodingDirection."
        )
    if settings.eddy not in ("quadratic", "linear", "none") or settings.passes < 1 or not settings.outlier_sd > 0:
        raise ImageError(
            f"{unit}: expected eddy quadratic, linear or none, at least 1 pass and outlier_sd above 0, found "
            f"{settings.eddy!r}, {settings.passes} and {settings.outlier_sd:g}."
        )
    return images, to_mm


def _checked_table(b: npt.ArrayLike, bvecs: npt.ArrayLike, volumes: int, unit: str) -> tuple[Float64, Float64]:
    bvals, vectors = np.asarray(b, np.float64), np.asarray(bvecs, np.float64)
    if bvals.shape != (volumes,) or vectors.shape != (3, volumes):
        raise GradientError(
            f"{unit}: expected {volumes} b-values and b-vectors of shape (3, {volumes}), one for each volume, found "
            f"shapes {bvals.shape} and {vectors.shape}. Look whether a volume was removed."
        )
    weighted = bvals > LARGEST_B0
    lengths = np.linalg.norm(vectors, axis=0)
    if not np.isfinite(bvals).all() or not (np.abs(lengths[weighted] - 1.0) < 0.05).all():
        raise GradientError(
            f"{unit}: expected finite b-values and b-vectors of length 1 where b is above {LARGEST_B0:g} s/mm2, found "
            "others. Check the table with check_gradients."
        )
    if weighted.all():
        raise GradientError(
            f"{unit}: expected at least one volume with b at most {LARGEST_B0:g} s/mm2 as the reference, found "
            f"b = {bvals.min():.0f} s/mm2 as the smallest of {volumes}. Add the image without weighting."
        )
    safe = np.where(weighted, lengths, 1.0)
    return bvals, np.where(weighted, vectors / safe, 0.0)


def _encodings(acquisitions: Sequence[VolumeAcquisition], volumes: int, unit: str) -> tuple[Encoding, ...]:
    if len(acquisitions) != volumes:
        raise ImageError(
            f"{unit}: expected how each of {volumes} volumes was acquired, found {len(acquisitions)} entries. Give one "
            "VolumeAcquisition per volume."
        )
    return tuple(encode(a.phase_encoding, a.readout_s, unit) for a in acquisitions)


def _checked_mask(mask: npt.ArrayLike, shape: tuple[int, ...], unit: str) -> Bools:
    inside = np.asarray(mask).astype(bool)
    if inside.shape != shape or inside.sum() < LEAST_MASK_VOXELS:
        raise MaskError(
            f"{unit}: expected a brain mask on the images' grid, {shape}, with at least {LEAST_MASK_VOXELS} voxels, "
            f"found shape {inside.shape} with {int(inside.sum())}. Look at the mask."
        )
    return inside


def _checked_field(
    field_hz: npt.ArrayLike | None, shape: tuple[int, ...], acquisitions: Sequence[VolumeAcquisition], unit: str
) -> Float32 | None:
    if field_hz is None:
        return None
    field = np.asarray(field_hz, np.float32)
    if field.shape != shape:
        raise ImageError(
            f"{unit}: expected a static field on the images' grid, {shape}, found {field.shape}. Resample it with "
            "resample_field."
        )
    for acquired in set(acquisitions):
        displacement(field, acquired.readout_s, acquired.phase_encoding, name=unit)  # type: ignore[arg-type]
    return field
