"""Grey matter, white matter and fluid as fractions of each voxel, from one image and warped priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import ImageError, MaskError
from voxcloud.space.brain import inner_brain
from voxcloud.space.segmentation_model import KINDS, NEIGHBOURS, Mixture
from voxcloud.space.volumes import TISSUES, overlap, tissue_volumes

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Always so many: a rule that stops would make volumes jump where an image changes a little.
PASSES = 40
# With a receive field, most of them for the field: each makes it finer.
PASSES_WITH_FIELD = 80
FEWEST_VOXELS = 500
# Usual of adults and of children from two years on.
USUAL_TIV_ML = (900.0, 2200.0)
# Standard deviations between grey and white matter, and overlap of white matter with its prior, below which somebody
# should look.
LEAST_CONTRAST = 2.5
LEAST_OVERLAP = 0.6


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Tissue of one image.

    Attributes
    ----------
    gm, wm, csf : (x, y, z) float32: fractions of each voxel, 0 to 1, together at most 1; 0 more than a voxel outside
        ``brain``.
    brain : (x, y, z) bool: where they are at least half of the voxel; largest part, holes filled.
    field : (x, y, z) float32: receive field, geometric mean 1 in white matter; None unless asked for.
    report : plain values (JSON): ``volumes_ml`` of GM, WM, CSF and TIV, their sum; ``mean`` and ``sd`` of each
        tissue in the image's unit, ``local_mean`` percentiles of GM and WM, ``weights`` of the kinds of voxels
        relative to white matter, ``passes``, ``log_likelihood`` of a voxel, ``overlap`` with the priors (Dice),
        ``unknown`` voxels.
    flagged : why it may be wrong, a sentence; empty if nothing speaks against it.
    """

    gm: Float32
    wm: Float32
    csf: Float32
    brain: Bool
    field: Float32 | None
    report: dict[str, Any]
    flagged: str = ""


def segment(
    image: npt.ArrayLike,
    priors: Mapping[str, npt.NDArray[Any]],
    *,
    mask: npt.NDArray[np.bool_],
    voxel_mm: Sequence[float],
    bias: bool = False,
    neighbours: float = NEIGHBOURS,
    name: str = "image",
) -> Segmentation:
    """Find the fractions of grey matter, white matter and fluid in each voxel.

    A voxel is one tissue, a mixture of two in fractions f and 1 - f that are all equally likely, or no brain:

        ``y ~ N(sum_k phi_k m_k(x), sum_k phi_k v_k)``,    phi fractions of GM, WM, CSF

    in 21 states, and a histogram for what is no brain. The prior of a state is ``w_s prod_k (b_k exp(B n_k))^phi_k``
    with warped priors b, blurred by 1 mm, neighbours' fractions n, and weights w per kind of voxel that the image
    decides. Means, variances and weights follow by expectation maximisation; means of GM and WM are local, smooth over
    12 mm, so that regional differences of myelin are not taken for tissue. The result is the expected fraction: where
    tissue boundaries move by less than a voxel, it moves along. Order of brightness is taken to be CSF < GM < WM.

    With ``bias``, a receive field, smooth over 40 mm, is fitted first, and the image divided by it.

    In MTsat, bone without signal looks like fluid: there, where fluid ends is what the priors say.

    Parameters
    ----------
    image : (x, y, z) MTsat, R1 or T1w. NaN and exact zeros are unknown: joined to the outside they are no brain, inside
        the priors and neighbours decide.
    priors : ``GM``, ``WM``, ``CSF``: (x, y, z) probabilities on the image's grid; what is missing to 1 is no brain.
    mask : (x, y, z) bool: may be brain (the priors' brain and about 6 mm).
    voxel_mm : (3,) voxel sizes in mm.
    bias : whether the image has a receive field.
    neighbours : B, what six neighbours of one tissue add to the logarithm of its prior.
    name : what messages call the image.

    Raises
    ------
    ImageError
        If shapes differ or voxel sizes are not positive.
    MaskError
        If the mask has fewer than 500 known voxels, or the image does not look like a brain where priors expect one.

    References
    ----------
    1. Ashburner and Friston (2005), unified segmentation, doi:10.1016/j.neuroimage.2005.02.018.
    2. Van Leemput et al. (2003), partial volume, doi:10.1109/TMI.2002.806587.
    3. Avants et al. (2011), Atropos, doi:10.1007/s12021-011-9109-y.
    """
    values, inside, stacked, sizes = _checked(image, priors, mask, voxel_mm, name)
    unknown = ~np.isfinite(values) | (values == 0)
    # Whatever of it touches the outside is air, bone, or what somebody has cut away.
    beyond = ndimage.binary_propagation(~inside, mask=unknown | ~inside)
    inside = inside & ~beyond
    if int((inside & ~unknown).sum()) < FEWEST_VOXELS:
        raise MaskError(
            f"{name}: expected at least {FEWEST_VOXELS} voxels with a value in the mask, found "
            f"{int((inside & ~unknown).sum())}. Look at the image and the mask."
        )
    model = Mixture(
        np.where(unknown, 0.0, values),
        ~unknown,
        stacked,
        inside,
        sizes,
        receive=bias,
        neighbours=neighbours,
        name=name,
    )
    passes = PASSES_WITH_FIELD if bias else PASSES
    likelihood = [model.step(turn) for turn in range(passes)][-1]
    found = model.fractions()
    brain, near = inner_brain(found)
    found *= near
    fractions = dict(zip(TISSUES, found, strict=True))
    field = _normalised(model.gain(), found[1]) if bias else None
    report = _report(model, fractions, stacked, sizes)
    report |= {"passes": passes, "log_likelihood": likelihood, "unknown": int((inside & unknown).sum())}
    return Segmentation(found[0], found[1], found[2], brain, field, report, _doubt(report))


def _checked(
    image: npt.ArrayLike, priors: Mapping[str, npt.NDArray[Any]], mask: Bool, voxel_mm: Sequence[float], name: str
) -> tuple[Float64, Bool, Float32, Float64]:
    values, sizes = np.asarray(image, dtype=np.float64), np.asarray(voxel_mm, dtype=np.float64)
    inside = np.asarray(mask, dtype=np.bool_)
    lacking = [tissue for tissue in TISSUES if tissue not in priors]
    shapes = [np.shape(priors[tissue]) for tissue in TISSUES if tissue in priors]
    if lacking or values.ndim != 3 or any(shape != values.shape for shape in (inside.shape, *shapes)):
        raise ImageError(
            f"{name}: expected (x, y, z), with a mask and priors of GM, WM and CSF on its grid, found shapes "
            f"{values.shape}, {inside.shape} and {shapes}, without {lacking or 'none lacking'}. Resample the priors to "
            "the image."
        )
    if sizes.shape != (3,) or not sizes.min() > 0:
        raise ImageError(f"{name}: expected three positive voxel sizes in mm, found {tuple(voxel_mm)}. Give mm.")
    return values, inside, np.stack([np.asarray(priors[t], dtype=np.float32) for t in TISSUES], axis=-1), sizes


def _normalised(gain: Float32, wm: Float32) -> Float32:
    white = wm > 0.5
    level = np.exp(np.log(gain[white]).mean()) if white.any() else 1.0
    return np.asarray(gain / np.float32(level))


def _report(model: Mixture, fractions: Mapping[str, Float32], priors: Float32, sizes: Float64) -> dict[str, Any]:
    unit, local = model.unit, model.local_means()
    return {
        "volumes_ml": tissue_volumes(fractions, sizes.tolist()),
        "mean": {t: float(m * unit) for t, m in zip(TISSUES, model.centre, strict=True)},
        "sd": {t: float(np.sqrt(v) * unit) for t, v in zip(TISSUES, model.variance, strict=True)},
        "local_mean": {
            t: {str(p): float(np.percentile(local[:, k], p) * unit) for p in (5, 50, 95)}
            for k, t in enumerate(TISSUES[:2])
        },
        "weights": {kind: float(w) for kind, w in zip(KINDS, model.weights, strict=True)},
        "overlap": {t: overlap(fractions[t] > 0.5, priors[..., k] > 0.5) for k, t in enumerate(TISSUES)},
    }


def _doubt(report: Mapping[str, Any]) -> str:
    volume, mean, sd = report["volumes_ml"]["TIV"], report["mean"], report["sd"]
    if not USUAL_TIV_ML[0] <= volume <= USUAL_TIV_ML[1]:
        return (
            f"expected an intracranial volume of {USUAL_TIV_ML[0]:g} to {USUAL_TIV_ML[1]:g} ml, found {volume:.0f} ml. "
            "Look at the tissue's edges on the image: is the brain cut off, or scalp in it?"
        )
    contrast = (mean["WM"] - mean["GM"]) / max(sd["GM"], sd["WM"])
    if not (mean["CSF"] < mean["GM"] < mean["WM"] and contrast >= LEAST_CONTRAST):
        return (
            f"expected CSF < GM < WM with at least {LEAST_CONTRAST:g} standard deviations between GM and WM, found "
            f"means of {mean['CSF']:.4g}, {mean['GM']:.4g} and {mean['WM']:.4g} and {contrast:.2g}. Look at the image."
        )
    if not report["overlap"]["WM"] >= LEAST_OVERLAP:
        return (
            f"expected white matter to overlap with its prior by at least {LEAST_OVERLAP:g} (Dice), found "
            f"{report['overlap']['WM']:.2f}. Look at the registration of the template."
        )
    return ""
