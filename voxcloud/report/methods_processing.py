"""The part of the methods text on images: from what the scanner gave to smoothed maps in template space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from voxcloud.config.dwi import Dwi
from voxcloud.config.mpm import Mpm
from voxcloud.config.space import DWI_MAPS, MPM_MAPS, TEMPLATE, VOLUME, Space
from voxcloud.report import words

Tree = Mapping[str, Any]
Cite = Callable[..., str]


def processing_paragraphs(study: Tree, cite: Cite, maps: set[str]) -> list[str]:
    """Return a paragraph per stage that the study ran.

    Parameters
    ----------
    study
        The resolved study file.
    cite
        Notes references and returns their numbers.
    maps
        Those that were analysed.
    """
    found = []
    if study.get("mpm") is not None:
        found.append(_mpm(Mpm.model_validate(study["mpm"]), cite))
    if study.get("dwi") is not None:
        found.append(_dwi(Dwi.model_validate(study["dwi"]), cite))
    if study.get("space") is not None:
        found.append(_space(Space.model_validate(study["space"]), cite, maps))
    return found


def _mpm(mpm: Mpm, cite: Cite) -> str:
    text = (
        "Maps of R1, MTsat, proton density (PD) and R2* were computed from multi-echo FLASH images with PD, T1 and "
        f"magnetisation transfer weighting {cite('weiskopf2014', 'helms2008')}, with the preset {mpm.preset}: R2* "
        "jointly from all contrasts, and signals extrapolated to an echo time of zero"
    )
    moved = "The other contrasts and B1+ were registered rigidly to the PD-weighted images. "
    text += f". {moved if mpm.registration == 'rigid' else ''}"
    text += "Transmit fields were taken from each session's B1+ acquisition"
    text += " (or left uncorrected where there was none). " if mpm.missing_b1 == "semi-quantitative" else ". "
    text += "R1 was corrected for imperfect spoiling by simulation." if mpm.spoiling is not None else ""
    return text.strip()


def _dwi(dwi: Dwi, cite: Cite) -> str:
    steps = []
    if dwi.denoise == "mp-pca":
        steps.append(f"denoised by MP-PCA {cite('veraart2016')}")
    if dwi.unringing == "auto":
        steps.append(f"freed from Gibbs ringing where all of k-space was measured {cite('kellner2016')}")
    steps.append("corrected for susceptibility distortion where images of opposite phase encoding or a field map exist")
    if dwi.motion == "rigid":
        eddy = f" and {dwi.eddy} eddy-current fields" if dwi.eddy != "none" else ""
        steps.append(f"for movement{eddy} against predictions from the other volumes {cite('andersson2016')}")
    text = f"Diffusion images were {words.listed(steps)}"
    if dwi.replace_outliers and dwi.motion == "rigid":
        text += f"; slices that had lost their signal (below {dwi.outlier_sd:g} SD) were replaced by their prediction"
    return f"{text}. Tensors were fitted by weighted least squares {cite('veraart2013')}, giving FA, MD, AD and RD."


def _space(space: Space, cite: Cite, maps: set[str]) -> str:
    image = "MTsat (R1 where a session had no MTsat)" if space.anatomy == "auto" else words.map_name(space.anatomy)
    text = (
        f"Each participant's {image} maps were averaged over visits in the middle of their positions, no visit being "
        f"the reference {cite('reuter2012')}. This midpoint was segmented into grey matter, white matter and "
        f"cerebrospinal fluid with the template's probabilities as priors {cite('ashburner2005')}, and "
        f"normalised to {TEMPLATE} by an affine and a diffeomorphic transform ({space.registration}) "
        f"{cite('yushkevich2016') if space.registration == 'greedy' else cite('avants2011')}. All transforms were "
        f"combined, and every map was interpolated once, onto voxels of {space.resolution_mm:g} mm. Total intracranial "
        "volume is the sum of the three tissues in the participant's own space."
    )
    if maps & set(DWI_MAPS):
        text += " Diffusion maps were registered rigidly to the midpoint by their images without weighting."
    widths = _widths(space, maps - {VOLUME})
    if widths:
        text += (
            f" Maps were smoothed within each tissue by tissue-weighted means {cite('draganski2011')} with a full "
            f"width at half maximum of {widths}; all visits of a participant shared the weights."
        )
    if VOLUME in maps:
        text += f" Tissue volume is the probability times the Jacobian determinant of the transform {cite('good2001')}"
        text += (
            ", its affine part and the deformation of each visit against the midpoint included"
            if space.longitudinal == "deformation"
            else ", its affine part included; it was taken as the same at all visits"
        )
        text += f", smoothed with {_pair(space, VOLUME)}."
    return text


def _widths(space: Space, maps: set[str]) -> str:
    """Return the kernels of the maps, maps of one kernel together."""
    by_width: dict[str, list[str]] = {}
    for name in (*MPM_MAPS, *DWI_MAPS):
        if name in maps:
            by_width.setdefault(_pair(space, name), []).append(words.map_name(name))
    if len(by_width) == 1:
        return next(iter(by_width))
    return "; ".join(f"{pair} ({words.listed(names)})" for pair, names in by_width.items())


def _pair(space: Space, name: str) -> str:
    grey, white = space.fwhm(name, "GM"), space.fwhm(name, "WM")
    if grey == white:
        return f"{grey:g} mm"
    return f"{grey:g} mm in grey and {white:g} mm in white matter"
