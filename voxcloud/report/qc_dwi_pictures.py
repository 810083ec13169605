"""Every picture of a diffusion session's quality control, from its arrays."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.report.mosaic import mosaic_png, thumbnail_png
from voxcloud.report.mosaic_dwi import before_after_png, carpet_png, direction_png, direction_thumbnail_png

Values = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

# One window for all sessions: low, high, units as the letters of pictures can write them. Fluid (MD 3) is white.
FA_WINDOW = (0.0, 1.0, "no unit")
MD_WINDOW = (0.0, 1.6, "1e-3 mm2/s")
RESIDUAL_WINDOW = (0.0, 10.0, "% of S0")
REMOVED_WINDOW = (0.0, 2.0, "noise SD")
NOISE_REACH = 2.5  # times the median: noise is in arbitrary units


@dataclass(frozen=True, eq=False)
class DwiImages:
    """What pictures are made of; all volumes (x, y, z) on one grid, None what there is not.

    Attributes
    ----------
    affine : (4, 4), voxel to RAS+ mm.
    brain : boolean.
    fa : 0 to 1.
    md : mm2/s.
    direction : (3, x, y, z), unit vectors in RAS+.
    b0_before, b0_after : mean of the volumes with b = 0 before any correction of motion and distortion, and after.
    residual_percent : ``dwi.quality.residual_map``.
    noise : standard deviation before denoising, in units of the signals.
    removed : root mean square over volumes of what denoising took out, over ``noise``.
    slice_z : (slice, volume), z of each slice's mean residual; NaN where it was not judged.
    bvals : (volume,), s/mm2; needed with ``slice_z``.
    outliers : slice and volume of those that were named.
    """

    affine: Values
    brain: Bools
    fa: Values
    md: Values
    direction: Values
    b0_before: Values
    b0_after: Values
    residual_percent: Values | None = None
    noise: Values | None = None
    removed: Values | None = None
    slice_z: Values | None = None
    bvals: Values | None = None
    outliers: Sequence[tuple[int, int]] = ()


def dwi_figures(images: DwiImages) -> dict[str, bytes]:
    """Return the pictures of a session's page, name to PNG, in the order in which they are shown.

    Raises
    ------
    ImageError
        If a volume cannot be drawn.
    """
    affine, inside = images.affine, images.brain
    fa = np.where(inside, images.fa, np.nan).astype(np.float32)
    found = {
        "direction": direction_png(images.direction, fa, affine),
        "b0": before_after_png(images.b0_before, images.b0_after, affine, outline=inside, title="Mean of b = 0"),
        "fa": _map(fa, affine, FA_WINDOW, "FA"),
        "md": _map(np.where(inside, 1e3 * images.md, np.nan), affine, MD_WINDOW, "MD"),
    }
    if images.residual_percent is not None:
        residual = np.where(inside, images.residual_percent, np.nan)
        found["residual"] = _map(residual, affine, RESIDUAL_WINDOW, "What the tensor leaves")
    if images.noise is not None:
        noise = np.where(inside, images.noise, np.nan)
        known = noise[np.isfinite(noise)]
        high = NOISE_REACH * float(np.median(known)) if known.size else 1.0
        found["noise"] = _map(noise, affine, (0.0, high if high > 0 else 1.0, "arbitrary"), "Noise level")
    if images.removed is not None:
        removed = np.where(inside, images.removed, np.nan)
        found["removed"] = _map(removed, affine, REMOVED_WINDOW, "What denoising took out")
    if images.slice_z is not None and images.bvals is not None:
        found["outliers"] = carpet_png(
            images.slice_z, images.bvals, flagged=images.outliers, title="Residual of each slice, in SD (z)"
        )
    return found


def dwi_thumbnails(images: DwiImages) -> dict[str, str]:
    """Return small pictures of directions, FA and MD (PNG in base64) for the page of the cohort.

    Raises
    ------
    ImageError
        If a volume cannot be drawn.
    """
    fa = np.where(images.brain, images.fa, np.nan).astype(np.float32)
    md = np.where(images.brain, 1e3 * images.md, np.nan).astype(np.float32)
    drawn = {
        "direction": direction_thumbnail_png(images.direction, fa, images.affine),
        "fa": thumbnail_png(fa, images.affine, low=FA_WINDOW[0], high=FA_WINDOW[1]),
        "md": thumbnail_png(md, images.affine, low=MD_WINDOW[0], high=MD_WINDOW[1]),
    }
    return {name: base64.b64encode(png).decode() for name, png in drawn.items()}


def _map(volume: Values, affine: Values, window: tuple[float, float, str], title: str) -> bytes:
    low, high, units = window
    return mosaic_png(volume.astype(np.float32), affine, low=low, high=high, title=title, units=units)
