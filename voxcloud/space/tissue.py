"""Where white and grey matter are, roughly: for quality control, until a segmentation takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import MaskError
from voxcloud.space.affine import voxel_to_voxel
from voxcloud.space.bspline import sample_linear
from voxcloud.space.registration import Registration, register_affine

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

BRAIN_PROBABILITY = 0.5
TISSUE_PROBABILITY = 0.9
# Voxels larger than this are not eroded: there would be nothing left.
ERODE_UP_TO_MM = 2.5
PASSES = 30
FEWEST_VOXELS = 50
# Of the prior: an affine transform leaves a few mm, so a template's probability of 1 is not taken at its word.
PRIOR_FLOOR = 0.05


@dataclass(frozen=True, eq=False)
class RoughTissue:
    """Masks on the grid of the image, and how the template was brought there.

    Attributes
    ----------
    brain, gm, wm
        Boolean volumes; white matter is eroded by a voxel, so that partial volume does not count.
    registration
        Template to image, affine.
    """

    brain: Bool
    gm: Bool
    wm: Bool
    registration: Registration


def rough_tissue(
    image: npt.NDArray[Any],
    affine: Float64,
    template: npt.NDArray[Any],
    priors: Mapping[str, npt.NDArray[Any]],
    template_affine: Float64,
) -> RoughTissue:
    """Find white and grey matter in a quantitative map in which white matter is the brightest (MTsat, R1).

    The template is registered (12 parameters), its tissue probabilities are carried over, and a mixture of two normal
    distributions tells white from grey matter by the map itself, voxel by voxel:
    ``p(k | y) ~ prior_k N(y; mu_k, sigma_k)``, by expectation maximisation.

    Parameters
    ----------
    image
        3-D map; NaN where nothing is known. Scalp and skull may be in it.
    affine, template_affine
        (4, 4), voxel to mm.
    template
        T1-weighted brain.
    priors
        ``GM`` and ``WM``: probabilities on the template's grid.

    Raises
    ------
    MaskError
        If hardly a voxel is found of either: the image is no brain, or lies elsewhere.
    RegistrationError
        If the registration failed.
    """
    low, high = np.nanpercentile(image, (1, 99))
    shown = np.nan_to_num(np.clip(image, min(0.0, low), high))
    found = register_affine(template, template_affine, shown, affine, fixed_mask=_around(priors))
    from_image = voxel_to_voxel(affine, np.linalg.inv(found.matrix), template_affine)
    gm_prior, wm_prior = (
        sample_linear(priors[name], from_image, image.shape, outside=0.0).reshape(image.shape) for name in ("GM", "WM")
    )
    brain = (gm_prior + wm_prior > BRAIN_PROBABILITY) & np.isfinite(image)
    if brain.sum() < FEWEST_VOXELS:
        raise MaskError(
            f"expected a brain in the map, found {int(brain.sum())} voxels where the registered template has one. Look "
            "at the map and at its orientation."
        )
    white = np.zeros(image.shape, dtype=np.float64)
    white[brain] = _white_share(image[brain].astype(np.float64), gm_prior[brain], wm_prior[brain])
    wm = _largest(brain & (white > TISSUE_PROBABILITY))
    voxel_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if voxel_mm.max() <= ERODE_UP_TO_MM:
        wm = ndimage.binary_erosion(wm)
    gm = brain & (1.0 - white > TISSUE_PROBABILITY) & (gm_prior > 0.5)
    if min(wm.sum(), gm.sum()) < FEWEST_VOXELS:
        raise MaskError(
            f"expected white and grey matter in the map, found {int(wm.sum())} and {int(gm.sum())} voxels. Look at the "
            "map."
        )
    return RoughTissue(brain, gm, wm, found)


def _around(priors: Mapping[str, npt.NDArray[Any]]) -> Bool:
    """Return the template's brain with what lies near it: the edge of the brain is what registration goes by."""
    brain = np.asarray(priors["GM"]) + np.asarray(priors["WM"]) > 0.1
    return np.asarray(ndimage.binary_dilation(brain, iterations=8))


def _white_share(values: Float64, gm_prior: npt.NDArray[Any], wm_prior: npt.NDArray[Any]) -> Float64:
    """Return the probability of white matter of each voxel."""
    prior = np.clip(wm_prior / np.maximum(gm_prior + wm_prior, 1e-6), PRIOR_FLOOR, 1.0 - PRIOR_FLOOR).astype(np.float64)
    share: Float64 = prior
    for _ in range(PASSES):
        density = []
        for weight in (share, 1.0 - share):
            total = weight.sum()
            mean = (weight * values).sum() / total
            spread = np.sqrt((weight * (values - mean) ** 2).sum() / total) + 1e-12
            density.append(np.exp(-0.5 * ((values - mean) / spread) ** 2) / spread)
        white, grey = prior * density[0], (1.0 - prior) * density[1]
        with np.errstate(invalid="ignore"):
            new: Float64 = np.nan_to_num(white / (white + grey), nan=0.0)
        if np.abs(new - share).max() < 1e-3:
            break
        share = new
    return share


def _largest(mask: Bool) -> Bool:
    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:])))
