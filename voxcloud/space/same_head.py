"""Whether visits are of one head: the folds of the brain tell people apart, and nothing else does so surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.space.sampling import resample

Float64 = npt.NDArray[np.float64]

# Gaussians (SD, mm) between which detail lies: noise is below, and what all brains share above.
DETAIL_MM = (2.0, 8.0)
LEAST_AGREEMENT = 0.85


def head_agreement(
    images: Sequence[npt.NDArray[Any]],
    affines: Sequence[npt.ArrayLike],
    matrices: Sequence[npt.ArrayLike],
    brain: npt.NDArray[np.bool_],
    affine: npt.ArrayLike,
) -> Float64:
    """Return how the detail of each visit correlates with that of the mean of the others, within the brain.

    Detail is what lies between Gaussians of 2 and 8 mm (SD), each normalised within the brain. Visits of one head agree
    by more than .95 also where maps are noisy; two heads of one cohort, aligned as well as a rigid transform can, by
    .7 (``validation/within_participant.py``).

    Parameters
    ----------
    images, affines
        The visits: (x, y, z) and (4, 4) each.
    matrices
        (4, 4) each, points of the midpoint (mm) to those of the visit.
    brain, affine
        (x, y, z) bool and (4, 4) of the midpoint.

    Returns
    -------
    (visits,) float64; NaN for a single visit.
    """
    if len(images) == 1:
        return np.full(1, np.nan)
    size = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))
    seen = [
        resample([np.asarray(image, np.float32)], own, affine, brain.shape, (matrix,), order=1)[0]
        for image, own, matrix in zip(images, affines, matrices, strict=True)
    ]
    inside = brain & np.all([np.isfinite(values) for values in seen], axis=0)
    narrow, wide = (mm / size for mm in DETAIL_MM)
    detail = [_band(values, inside, narrow, wide) for values in seen]
    total = np.sum(detail, axis=0)
    return np.array([np.corrcoef(own, total - own)[0, 1] for own in detail])


def _band(
    values: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], narrow: Float64, wide: Float64
) -> npt.NDArray[np.float64]:
    share = inside.astype(np.float32)
    known = np.where(inside, values, np.float32(0))

    def blurred(sd: Float64) -> npt.NDArray[np.float64]:
        mean = ndimage.gaussian_filter(known, sd)[inside] / ndimage.gaussian_filter(share, sd)[inside]
        return np.asarray(mean, dtype=np.float64)

    return blurred(narrow) - blurred(wide)


def other_heads(agreement: Float64) -> tuple[str, ...]:
    """Return for each visit why it is not of the same head as the others; empty if it is."""
    whose = "one of the two is of another person" if agreement.size == 2 else "it is of another person"
    return tuple(
        ""
        if not value < LEAST_AGREEMENT
        else f"expected detail of the brain that agrees with the other visits by {LEAST_AGREEMENT:g} or more, found "
        f"{value:.2f}: {whose}, or was spoilt by movement. Look at the visits, and leave out the wrong one (leave_out)."
        for value in agreement
    )
