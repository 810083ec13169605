"""The static field from two EPI images of opposite phase encoding between which the head moved, and that movement."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from voxcloud.errors import ImageError
from voxcloud.space import epi_pair, epi_pair_movement
from voxcloud.space.affine import displacement_mm, rigid_parameters
from voxcloud.space.epi_pair import EpiPair, field_from_pair
from voxcloud.space.epi_pair_movement import Place
from voxcloud.space.registration import averaged
from voxcloud.space.unwarp import PhaseEncoding, phase_axis, resample_field

Float64 = npt.NDArray[np.float64]
Estimate = Callable[[Float64, Float64, Float64], EpiPair]

# The movement is sought on block means of 2 x 2 x 2 voxels first, unless these were larger than this.
LARGEST_BLOCK_MM = 8.0
# SD in mm of the Gaussian on both images while the movement is sought: the coarse one reaches further.
SIGMAS_MM = (4.0, 1.5)
MOST_PASSES = 15
# Mean distance over the head, in mm, by which the movement may still change between two passes: on the coarse grid,
# where less is noise, and on the fine one.
SETTLED_MM = (0.1, 0.01)
# How many passes are extrapolated from, and how much further than the last pass went.
MEMORY = 5
FURTHEST = 4.0
# Movement that does not make the images more alike is noise of the estimate up to here (mean over the head).
NOISE_MM = 0.5
MOST_MM = 20.0
MOST_DEG = 15.0

ALONG_PHASE = (
    "set to 0: a shift of the head along phase encoding between the images looks the same as a constant field, and is "
    "part of the field"
)


@dataclass(frozen=True)
class MovedPair:
    """What two EPI images of opposite phase encoding tell when the head moved between them.

    Attributes
    ----------
    field_hz : (x, y, z) float32, static field in Hz on the grid of ``positive``, for the head as it lay there; smooth
        and finite everywhere, so that it can be read where a moved head comes to lie.
    corrected : (x, y, z) float32, mean of both images, undistorted, in the head position of ``positive``.
    movement : (4, 4) RAS+ mm: a point of the head in ``positive`` to the same point in ``negative``.
    report : plain values (JSON): that of ``field_from_pair``, and the movement found (mm and degrees about the head's
        centre, RAS+) and whether it counts, distances over the head, correlation when movement is ignored, and by how
        many mm each pass on each grid changed it.
    doubt : why field or movement may be wrong, a sentence or two; empty if nothing speaks against them.
    """

    field_hz: npt.NDArray[np.float32]
    corrected: npt.NDArray[np.float32]
    movement: Float64
    report: dict[str, Any]
    doubt: str = ""


def field_from_moved_pair(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    affine: npt.ArrayLike,
    phase_encoding: PhaseEncoding,
    readout_s: float,
    *,
    stiffness: float = epi_pair.STIFFNESS,
    barrier: float = epi_pair.BARRIER,
    smoothing: float = epi_pair.SMOOTHING,
    name: str = "EPI pair",
) -> MovedPair:
    """Estimate the field and the rigid movement with which both images become the same.

    The head, I(x), is distorted by the field of its own position: with d in voxels along the phase-encode axis e, and
    the movement M from ``positive`` to ``negative``,

    ``P(x + d e) (1 + d') = I(x) = N(M x - d e) (1 - d'_M)``,

    d' the slope of d along e, and d'_M that along e as the moved head has it: the field in Hz moves with the head. By
    turns, the field is estimated (``field_from_pair``) with N brought to where the head was in P, and M by Gauss-Newton
    on the difference of both undistorted images (Huber's weights), until M changes by less than .01 mm; on block means
    of 2 x 2 x 2 voxels first. A field of second order is estimated together with M and then dropped, because a turn
    shears the image along phase encoding and a field does the same. Each pass still undoes only a third of the error,
    so that passes are extrapolated. Movement that does not make the images more alike, and is below .5 mm, is noise:
    field and image are then those of ``field_from_pair``, and ``movement`` is the identity.

    What cannot be known. A shift of the head along phase encoding by m mm between the images looks the same as a
    constant field of ``-s m / (2 readout_s voxel_mm)`` Hz, s the sign of ``phase_encoding``. The shift of the head's
    centre along that axis is therefore taken as 0, as ``field_from_pair`` does (turns about the centre and both other
    shifts are found), and the field holds this constant. Undistorted volumes then show the head midway: m / 2 further
    along the axis than it was in ``positive``, m / 2 less far than in ``negative``. They agree with each other and with
    ``corrected``; what a later registration reports between volumes of opposite direction lacks m. A centre frequency
    that the scanner set anew between the images is such a shift too.

    Parameters
    ----------
    positive : (x, y, z) magnitude, any unit, acquired with ``phase_encoding``; the mean of several aligned volumes.
    negative : the same with opposite phase encoding, on the same grid.
    affine : (4, 4) voxel to RAS+ mm of both.
    phase_encoding : BIDS ``PhaseEncodingDirection`` of ``positive``.
    readout_s : total readout time of both in s.
    stiffness, barrier, smoothing : as for ``field_from_pair``.
    name : what messages call the pair.

    Raises
    ------
    ImageError
        If the affine has shear or is not (4, 4), and as ``field_from_pair``.

    Warns
    -----
    UserWarning
        With ``doubt``, if there is any.

    References
    ----------
    1. Andersson, Skare and Ashburner (2003), doi:10.1016/S1053-8119(03)00336-7.
    2. Ruthotto et al. (2012), doi:10.1088/0031-9155/57/18/5715.
    """
    own, sizes = _frame(affine, name)
    phase = phase_axis(phase_encoding, name=name)

    def estimate(one: Float64, other: Float64, voxel_mm: Float64) -> EpiPair:
        # On a coarse grid the same displacement is fewer voxels.
        seconds = readout_s * float(sizes[phase.axis] / voxel_mm[phase.axis])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return field_from_pair(
                one,
                other,
                voxel_mm.tolist(),
                phase_encoding,
                seconds,
                stiffness=stiffness,
                barrier=barrier,
                smoothing=smoothing,
                name=name,
            )

    plus, minus = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    first = estimate(plus, minus, sizes)
    grids = [_Grid(plus, minus * first.report["gain"], sizes, np.eye(4), phase.axis, phase.sign * readout_s)]
    if 2.0 * sizes.max() <= LARGEST_BLOCK_MM and plus.shape[phase.axis] >= 2 * epi_pair.FEWEST_VOXELS:
        grids.insert(0, grids[0].halved())
    numbers, field_hz, settled = np.zeros(6), np.zeros(plus.shape, np.float32), []
    mask = _head(first.corrected)
    for grid in grids:
        until_mm = SETTLED_MM[grid.plus.shape == plus.shape]
        pair, place, changes = _alternate(estimate, grid, grid.read(mask) > 0.5, grid.read(field_hz), numbers, until_mm)
        numbers, field_hz = place.numbers(), grid.write(pair.field_hz, plus.shape)
        settled.append(changes)
    movement = own @ place.matrix() @ np.linalg.inv(own)
    told = _told(movement, (own @ [*place.centre, 1.0])[:3], np.asarray(affine, dtype=np.float64), mask)
    better = pair.report["correlation_after"] > first.report["correlation_after"]
    counts = better or told["movement_mean_mm"] > NOISE_MM
    if not counts:
        pair, movement = first, np.eye(4)
    report = pair.report | told
    report |= {
        "movement_counts": counts,
        "correlation_before": first.report["correlation_before"],
        "correlation_ignoring_movement": first.report["correlation_after"],
        "gain": first.report["gain"],
        "changes_mm": settled,
        "translation_along_phase_encoding": ALONG_PHASE,
    }
    del report["ignored"]
    doubt = _doubt(pair, report, better)
    if doubt:
        warnings.warn(f"{name}: {doubt}", UserWarning, stacklevel=2)
    return MovedPair(pair.field_hz, pair.corrected, movement, report, doubt)


@dataclass(frozen=True)
class _Grid:
    """Both images on one grid: voxel sizes in mm, voxel to voxel of the finest grid, phase axis, voxels per Hz."""

    plus: Float64
    minus: Float64
    sizes: Float64
    to_finest: Float64
    axis: int
    voxels_per_hz: float

    def halved(self) -> _Grid:
        (plus, to_finest), (minus, _) = (averaged(image, np.eye(4), 2.0) for image in (self.plus, self.minus))
        per_hz = 0.5 * self.voxels_per_hz
        return _Grid(plus.astype(np.float64), minus.astype(np.float64), 2.0 * self.sizes, to_finest, self.axis, per_hz)

    def read(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring values here from the finest grid."""
        return resample_field(values, np.eye(4), self.plus.shape, self.to_finest)

    def write(self, values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Bring values from here to the finest grid."""
        return resample_field(values, self.to_finest, shape, np.eye(4))


def _alternate(
    estimate: Estimate,
    grid: _Grid,
    mask: npt.NDArray[np.bool_],
    field_hz: npt.NDArray[np.float32],
    numbers: Float64,
    until_mm: float,
) -> tuple[EpiPair, Place, list[float]]:
    """Estimate field and movement by turns; return both, and by how many mm over the mask each pass moved the head."""
    voxels = np.argwhere(mask).T.astype(np.float64)
    centre = voxels.mean(axis=1) * grid.sizes
    place = Place(np.eye(3), np.zeros(3), centre, grid.sizes).at(numbers)
    whole = epi_pair_movement.splines(grid.plus, grid.minus, grid.axis, grid.sizes)
    far, near = SIGMAS_MM[0], max(SIGMAS_MM[1], 0.5 * float(grid.sizes.max()))
    blurred = [epi_pair_movement.splines(grid.plus, grid.minus, grid.axis, grid.sizes, s) for s in (far, near)]
    asked: list[Float64] = []
    found: list[Float64] = []
    changes: list[float] = []
    while True:
        moved = grid.voxels_per_hz * field_hz.astype(np.float64)
        other = epi_pair_movement.as_if_unmoved(whole, moved, place)
        pair = estimate(grid.plus, other, grid.sizes)
        if changes and (changes[-1] < until_mm or len(changes) == MOST_PASSES):
            return pair, place, changes
        field_hz = pair.field_hz
        moved = grid.voxels_per_hz * field_hz.astype(np.float64)
        points = epi_pair_movement.find_points(voxels, moved, centre, grid.sizes, grid.axis)
        asked.append(place.numbers())
        before = place.matrix()
        for images in blurred if not numbers.any() and not changes else blurred[1:]:
            place = epi_pair_movement.register(images, points, place)
        found.append(place.numbers())
        since = place.matrix() @ np.linalg.inv(before)
        changes.append(displacement_mm(since, before @ np.diag([*grid.sizes, 1.0]), mask.shape, mask)[0])
        if changes[-1] >= until_mm:
            place = place.at(_extrapolated(asked, found))


def _frame(affine: npt.ArrayLike, name: str) -> tuple[Float64, Float64]:
    """Return the transform from mm along the grid's axes to RAS+ mm (a rotation, perhaps a flip), and voxel sizes."""
    found = np.asarray(affine, dtype=np.float64)
    good = found.shape == (4, 4) and np.isfinite(found).all()
    sizes = np.sqrt((found[:3, :3] ** 2).sum(axis=0)) if good else np.zeros(3)
    if not sizes.min() > 0 or np.abs((found[:3, :3] / sizes).T @ (found[:3, :3] / sizes) - np.eye(3)).max() > 1e-3:
        raise ImageError(
            f"{name}: expected a (4, 4) affine with axes at right angles, found {found.tolist()}. Check the header, or "
            "resample the images to a grid without shear."
        )
    return found @ np.diag([*(1.0 / sizes), 1.0]), sizes


def _head(image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the bright voxels and those beside them: the rim of the head is what shows movement."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    bright = smooth > 0.7 * threshold_otsu(np.clip(smooth, 0.0, np.percentile(smooth, 99.0)))
    return np.asarray(ndimage.binary_dilation(bright, iterations=1))


def _extrapolated(asked: list[Float64], found: list[Float64]) -> Float64:
    """Return where passes that answered ``found`` when ``asked`` would settle (Anderson's mixing)."""
    last = found[-1] - asked[-1]
    n = min(len(found) - 1, MEMORY)
    if n == 0:
        return found[-1]
    steps = np.stack([found[-1 - i] - asked[-1 - i] for i in range(n + 1)])
    answers = np.stack(found[::-1][: n + 1])
    change, gained = steps[:-1] - steps[1:], answers[:-1] - answers[1:]
    share = np.linalg.lstsq(change.T, last, rcond=1e-3)[0]
    step = last - share @ gained
    longest = FURTHEST * float(np.sqrt((last**2).sum()))
    return np.asarray(asked[-1] + step * min(1.0, longest / max(float(np.sqrt((step**2).sum())), 1e-300)))


def _told(movement: Float64, centre: Float64, affine: Float64, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    shift, turn = rigid_parameters(movement, centre)
    mean, most = displacement_mm(movement, affine, mask.shape, mask)
    return {
        "translation_mm": shift.tolist(),
        "rotation_deg": turn.tolist(),
        "centre_mm": centre.tolist(),
        "movement_mean_mm": mean,
        "movement_max_mm": most,
    }


def _doubt(pair: EpiPair, report: dict[str, Any], better: bool) -> str:
    found = [pair.doubt] if pair.doubt else []
    if not report["movement_counts"]:
        return "".join(found)
    distance = float(np.linalg.norm(report["translation_mm"]))
    angle = float(np.abs(report["rotation_deg"]).max())
    if not (distance <= MOST_MM and angle <= MOST_DEG):
        found.append(
            f"Expected a movement of at most {MOST_MM:g} mm and {MOST_DEG:g} degrees between the two images, found "
            f"{distance:.1f} mm and {angle:.1f} degrees. Look at both."
        )
    left = report["changes_mm"][-1][-1]
    if left >= SETTLED_MM[1]:
        found.append(
            f"Expected the movement to settle within {SETTLED_MM[1]:g} mm, found it still changing by {left:.3f} mm "
            f"after {MOST_PASSES} passes. Look at the corrected image."
        )
    if not better:
        found.append(
            f"Expected the images to become more alike with movement, found a correlation of "
            f"{report['correlation_after']:.4f} against {report['correlation_ignoring_movement']:.4f} without, and a "
            f"movement of {report['movement_mean_mm']:.1f} mm. Use field_from_pair if the head lay still."
        )
    return " ".join(found)
