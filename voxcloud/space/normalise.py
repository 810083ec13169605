"""Normalisation: where every point of the template lies in a participant's head, and how volume changes on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space.deformable import upright
from voxcloud.space.engines import Engine, Schedule, check_engine, find_warp
from voxcloud.space.sampling import Float32, Float64, compose, jacobian_determinant, resample
from voxcloud.space.template_affine import place_template

Bool = npt.NDArray[np.bool_]

# Maps of quantities have rare values far from all others, where there was no signal: they are cut off.
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.5

# Images are compared blurred by this much (standard deviation).
ALIKE_SIGMA_MM = 2.0
# Good cases against failures, as measured (docs/decisions/0010-normalisation.md): .64 to .84 against -.1 to .51 after
# the affine, .70 to .95 against .16 to .77 after the warp; sizes of heads .92 to 1.07, half a head .69.
LEAST_CORRELATION = {"affine": 0.55, "warp": 0.7}
SIZE_RANGE = (0.75, 1.3)
JACOBIAN_RANGE = (0.1, 10.0)
MOST_FOLDED = 0.0


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Where the points of the template lie in a participant's image.

    A point ``x`` of the template (mm, RAS+) lies at ``M (x + u(x))``; a point ``y`` of the participant lies at
    ``z + v(z)``, ``z = M^-1 y``, in the template.

    Attributes
    ----------
    matrix
        (4, 4): M, template mm to participant mm.
    affine
        (4, 4) of the template's grid, on which u, v and the Jacobian are.
    displacement
        (x, y, z, 3): u in mm.
    inverse
        (x, y, z, 3): v in mm, on the template's grid, that is after ``M^-1``.
    jacobian
        (x, y, z): volume in the participant per volume in the template, mm3 per mm3, with the affine part.
    report
        What was done and how well it went; JSON.
    flagged
        Why the result cannot be right; empty if nothing speaks against it.
    """

    matrix: Float64
    affine: Float64
    displacement: Float32
    inverse: Float32
    jacobian: Float32
    report: dict[str, Any]
    flagged: str = ""

    def participant_points(
        self,
        affine: npt.ArrayLike | None = None,
        shape: Sequence[int] | None = None,
        matrices: Sequence[npt.ArrayLike] = (),
        *,
        planes: slice = slice(None),
    ) -> Float64:
        """Return where voxels of a grid in template space lie in the participant, and after further matrices.

        The grid is the template's own if none is given; see ``sampling.compose``.
        """
        steps = [self.matrix, *matrices]
        if affine is None or shape is None:
            return compose(self.affine, self.jacobian.shape, steps, displacement=self.displacement, planes=planes)
        return compose(
            affine, shape, steps, displacement=self.displacement, displacement_affine=self.affine, planes=planes
        )

    def template_points(self, affine: npt.ArrayLike, shape: Sequence[int], *, planes: slice = slice(None)) -> Float64:
        """Return where voxels of a grid in the participant's space lie in the template."""
        # Seen from the template before the warp, the participant's grid is an oblique one.
        seen = np.linalg.inv(self.matrix) @ np.asarray(affine, dtype=np.float64)
        return compose(seen, shape, displacement=self.inverse, displacement_affine=self.affine, planes=planes)

    def to_template(
        self, images: Sequence[npt.ArrayLike], affine: npt.ArrayLike, *, order: Any = 3, outside: float = np.nan
    ) -> list[Float32]:
        """Return a participant's images on the template's grid."""
        return resample(
            images,
            affine,
            self.affine,
            self.jacobian.shape,
            [self.matrix],
            displacement=self.displacement,
            order=order,
            outside=outside,
        )

    def to_participant(
        self,
        images: Sequence[npt.ArrayLike],
        affine: npt.ArrayLike,
        shape: Sequence[int],
        *,
        order: Any = 1,
        outside: float = 0.0,
    ) -> list[Float32]:
        """Return images of the template's grid (priors, atlases) on a grid of the participant."""
        seen = np.linalg.inv(self.matrix) @ np.asarray(affine, dtype=np.float64)
        return resample(
            images,
            self.affine,
            seen,
            shape,
            displacement=self.inverse,
            displacement_affine=self.affine,
            order=order,
            outside=outside,
        )


def normalise(
    channels: Mapping[str, npt.NDArray[Any]],
    affine: npt.ArrayLike,
    template: Mapping[str, npt.NDArray[Any]],
    template_affine: npt.ArrayLike,
    *,
    template_mask: Bool,
    mask: Bool | None = None,
    engine: Engine = "greedy",
    schedule: Schedule | None = None,
    initial: npt.ArrayLike | None = None,
) -> Normalisation:
    """Find the transform between a template and a participant: affine first, then a smooth deformation.

    ``x -> M (x + u(x))`` from template mm to participant mm. The affine part is found by the correlation of the images
    (``place_template``), the deformation by local correlation over all channels that both have.

    Parameters
    ----------
    channels
        Of the participant, on one grid: ``image``, a map or image in which white matter is brightest and fluid dark
        (MTsat, R1, T1w), NaN where nothing is known; ``GM``, ``WM`` and so on: probabilities, if there are any.
    affine
        (4, 4) of the participant's grid.
    template
        The same names, on the template's grid; what only one side has is left out.
    template_affine
        (4, 4) of the template's grid.
    template_mask
        Its brain.
    mask
        The participant's brain; without it, skull and scalp may be in the image.
    engine
        ``greedy``; ``antspyx`` and ``dipy`` if they are installed.
    schedule
        Of greedy.
    initial
        (4, 4) template mm to participant mm to start from; default: several guesses.

    Raises
    ------
    RegistrationError
        If an image cannot be used, the engine is not installed, or a program failed. A result that cannot be right is
        returned and flagged.
    """
    started = time.thread_time()
    check_engine(engine)
    names = _shared(channels, template)
    grid, shape = np.asarray(template_affine, dtype=np.float64), template_mask.shape
    moving, own = upright([_shown(channels[name], mask) for name in names], np.asarray(affine, dtype=np.float64))
    fixed = [_known(template[name]) for name in names]
    found = place_template(fixed[0], grid, template_mask, moving[0], own, initial=initial)
    affine_s = time.thread_time() - started
    before = resample(moving, own, grid, shape, [found.matrix], order=1, outside=0.0)
    warp = find_warp(engine, fixed, before, grid, template_mask, schedule or Schedule())
    (after,) = resample(
        moving[:1], own, grid, shape, [found.matrix], displacement=warp.displacement, order=1, outside=0.0
    )
    jacobian = jacobian_determinant(warp.displacement, grid, found.matrix)
    (start,) = resample(moving[:1], own, grid, shape, [np.eye(4)], order=1, outside=0.0)
    inside = jacobian[template_mask]
    report: dict[str, Any] = {
        "engine": engine,
        "channels": names,
        "program": warp.program,
        "cpu_s": {"affine": affine_s, "warp": warp.cpu_s, "rest": time.thread_time() - started - affine_s},
        "peak_bytes": warp.peak_bytes,
        "correlation": {
            "before": _alike(fixed[0], start, grid, template_mask),
            "affine": _alike(fixed[0], before[0], grid, template_mask),
            "warp": _alike(fixed[0], after, grid, template_mask),
        },
        "jacobian": {
            "min": float(inside.min()),
            "p01": float(np.percentile(inside, 1)),
            "p99": float(np.percentile(inside, 99)),
            "max": float(inside.max()),
        },
        "size": found.size.tolist(),
        "folded": float((inside <= 0).mean()),
        "displacement_p99_mm": float(np.percentile(np.sqrt((warp.displacement[template_mask] ** 2).sum(axis=-1)), 99)),
    }
    return Normalisation(found.matrix, grid, warp.displacement, warp.inverse, jacobian, report, _doubt(report))


def _shared(channels: Mapping[str, npt.NDArray[Any]], template: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    if "image" not in channels or "image" not in template:
        raise RegistrationError(
            f"normalisation: expected the channel image of participant and template, found {sorted(channels)} and "
            f"{sorted(template)}. Give both."
        )
    return ["image", *(name for name in channels if name != "image" and name in template)]


def _known(image: npt.NDArray[Any]) -> Float32:
    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)


def _shown(image: npt.NDArray[Any], mask: Bool | None) -> Float32:
    """Return an image without its rare extremes, 0 where nothing is known or outside the mask."""
    known = np.isfinite(image)
    if mask is not None:
        known &= mask
    if not known.any():
        raise RegistrationError("normalisation: expected a participant's image, found no known voxel. Look at it.")
    low, high = np.percentile(image[known], (LOW_PERCENTILE, HIGH_PERCENTILE))
    return np.where(known, np.clip(image, min(0.0, float(low)), float(high)), 0.0).astype(np.float32)


def grown(mask: Bool, affine: Float64, margin_mm: float) -> Bool:
    """Return a mask and what lies within a margin around it."""
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=size) <= margin_mm)


def _alike(template: Float32, image: Float32, grid: Float64, mask: Bool) -> float:
    """Return the correlation of two images without fine detail, so that noise hardly counts."""
    sigma = ALIKE_SIGMA_MM / np.sqrt((grid[:3, :3] ** 2).sum(axis=0))
    still, seen = (ndimage.gaussian_filter(a * mask, sigma) for a in (template, image))
    return correlation(still, seen, mask)


def correlation(a: npt.NDArray[Any], b: npt.NDArray[Any], mask: Bool) -> float:
    """Return the correlation of two images within a mask; 0 where one is constant."""
    x, y = a[mask].astype(np.float64), b[mask].astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else 0.0


def _doubt(report: dict[str, Any]) -> str:
    """Say why a normalisation cannot be right; empty if nothing speaks against it."""
    jacobian, sizes = report["jacobian"], report["size"]
    for step, least in LEAST_CORRELATION.items():
        alike = report["correlation"][step]
        if not alike >= least:  # NaN too
            return (
                f"expected a correlation with the template of at least {least:g} after the {step}, found {alike:.3f}: "
                "the registration failed, or the image is not of a whole brain with bright white matter. Look at it."
            )
    low, high = SIZE_RANGE
    if not (min(sizes) >= low and max(sizes) <= high):
        return (
            f"expected a head of {low:g} to {high:g} times the template's size along each axis, found {min(sizes):.3g} "
            f"to {max(sizes):.3g}: the registration failed, or part of the head is missing. Look at the image."
        )
    if report["folded"] > MOST_FOLDED:
        return (
            f"expected a deformation without folds, found {100 * report['folded']:.2g} % of the brain folded: the "
            "registration failed. Look at the image."
        )
    low, high = JACOBIAN_RANGE
    if not (jacobian["min"] >= low and jacobian["max"] <= high):
        return (
            f"expected volumes between {low:g} and {high:g} times those of the template, found {jacobian['min']:.3g} "
            f"to {jacobian['max']:.3g}: the registration failed in some place. Look at the image."
        )
    return ""
