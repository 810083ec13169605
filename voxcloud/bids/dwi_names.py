"""Names of diffusion derivatives: the only place that knows them, because no published BIDS release has them.

Maps follow the draft of BIDS extension proposal 16, "Diffusion weighted imaging derivatives" (BEP016), as proposed for
the specification in 2025 and 2026 (https://github.com/bids-standard/bids-specification/pull/2258, not merged):
``model-<label>[_desc-<label>]_param-<label>_dwimap``, with ``model``, ``param`` and ``dwimap`` new in it. In it the
tensor is the parameter ``diffusivity`` of the model ``tensor``, its amplitude is ``s0``, and files that hold
orientations say so by ``OrientationEncoding`` in their sidecars. The draft has no table of parameters any more; ``fa``,
``md``, ``ad`` and ``rd`` are those of its earlier text (https://github.com/bids-standard/bids-bep016).

BIDS 1.10 knows ``desc-preproc`` and ``desc-brain_mask``. The draft writes ``.bvals`` and ``.bvecs`` once; here the
files are ``.bval`` and ``.bvec``, as for raw images. What neither text names (noise level, b = 0 reference, field,
negative eigenvalues) is told apart by ``desc``, on the suffixes that others use: ``dwimap``, ``dwiref`` and
``fieldmap``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from voxcloud.errors import StudyFileError, nearest
from voxcloud.schema import variable

MODEL = "tensor"
TENSOR, DIRECTION, S0 = "diffusivity", "direction", "s0"

TENSOR_ORDER = ("xx", "xy", "xz", "yy", "yz", "zz")
"""Volumes of a tensor image: the upper triangle by rows."""

DwiFile = Literal["preproc", "noise", "mask", "reference", "field", "negatives"]


@dataclass(frozen=True)
class DwiMap:
    """A map of the tensor model.

    Attributes
    ----------
    prose
        What it is, a sentence.
    units
        As a sidecar has them; empty where it has none.
    encoding
        The draft's ``OrientationEncoding`` but ``EncodingAxis`` and ``Reference``; empty for one number per voxel.
    """

    prose: str
    units: str = ""
    encoding: Mapping[str, Any] = field(default_factory=dict)


def _registered(name: str) -> DwiMap:
    found = variable(name)
    return DwiMap(found.prose, "" if found.units == "1" else found.units)


DWI_MAPS: Mapping[str, DwiMap] = {
    "fa": _registered("FA"),
    "md": _registered("MD"),
    "ad": _registered("AD"),
    "rd": _registered("RD"),
    S0: DwiMap("Signal without diffusion weighting, as the tensor's fit estimates it.", "arbitrary"),
    TENSOR: DwiMap(
        "Diffusion tensor, as fitted: eigenvalues may be negative.",
        "mm2/s",
        {"Type": "tensor", "TensorRank": 2, "AntipodalSymmetry": True},
    ),
    DIRECTION: DwiMap(
        "Direction of the tensor's largest eigenvalue.", "", {"Type": "unit3vector", "AntipodalSymmetry": True}
    ),
}
"""Parameter to what it is."""

# Folder, description, suffix and extensions.
_FILES: Mapping[DwiFile, tuple[str, str, str, tuple[str, ...]]] = {
    "preproc": ("dwi", "preproc", "dwi", (".nii.gz", ".bval", ".bvec", ".json")),
    "noise": ("dwi", "noise", "dwimap", (".nii.gz", ".json")),
    "mask": ("dwi", "brain", "mask", (".nii.gz", ".json")),
    "reference": ("dwi", "b0", "dwiref", (".nii.gz", ".json")),
    "field": ("fmap", "dwi", "fieldmap", (".nii.gz", ".json")),
    "negatives": ("dwi", "negatives", "dwimap", (".nii.gz", ".json")),
}


def dwi_map_name(
    participant: str, session: str, parameter: str, description: str = "", *, extension: str = ".nii.gz"
) -> str:
    """Return where a map of the tensor model lies, relative to the data set.

    ``sub-01/ses-1/dwi/sub-01_ses-1_model-tensor_param-fa_dwimap.nii.gz``; a description goes between model and
    parameter, as in the draft: ``model-tensor_desc-error_param-fa_dwimap``.

    Parameters
    ----------
    participant, session
        Bare labels; the session's is empty in a data set without sessions.
    parameter
        One of ``DWI_MAPS``.
    description
        Letters and digits, e.g. ``error``.
    extension
        ``.json`` for the sidecar.

    Raises
    ------
    StudyFileError
        If there is no such parameter, or a label holds anything but letters and digits.
    """
    if parameter not in DWI_MAPS:
        raise StudyFileError(
            f"parameter '{parameter}' is not known.{nearest(parameter, DWI_MAPS)} Expected one of: "
            f"{', '.join(DWI_MAPS)}."
        )
    middle = [f"model-{MODEL}", *_described(description), f"param-{parameter}", "dwimap"]
    return _path(participant, session, "dwi", middle, extension)


def dwi_file_name(participant: str, session: str, kind: DwiFile, extension: str = ".nii.gz") -> str:
    """Return where anything but a map of the tensor model lies, relative to the data set.

    ``preproc``: the series after all corrections, with ``.bval``, ``.bvec`` and ``.json``. ``noise``: its noise level.
    ``mask``: of the brain. ``reference``: mean of the volumes without diffusion weighting. ``field``: static field on
    the grid of the series (Hz). ``negatives``: number of negative eigenvalues per voxel.

    Parameters
    ----------
    participant, session
        Bare labels; the session's is empty in a data set without sessions.
    kind
        As above.
    extension
        ``.json`` for the sidecar.

    Raises
    ------
    StudyFileError
        If there is no such file, or a label holds anything but letters and digits.
    """
    if kind not in _FILES:
        raise StudyFileError(
            f"diffusion file '{kind}' is not known.{nearest(kind, _FILES)} Expected one of: {', '.join(_FILES)}."
        )
    folder, description, suffix, extensions = _FILES[kind]
    if extension not in extensions:
        raise StudyFileError(
            f"diffusion file '{kind}': expected an extension of {', '.join(extensions)}, found '{extension}'. Name "
            "one of them."
        )
    return _path(participant, session, folder, [*_described(description), suffix], extension)


def dwi_map_sidecar(parameter: str, fit_method: str) -> dict[str, Any]:
    """Return what the draft wants in a map's sidecar: what it is, the model, its fit and how orientations are stored.

    Orientations are along the scanner's axes (RAS+; ``Reference: xyz``), not along those of the image.

    Parameters
    ----------
    parameter
        One of ``DWI_MAPS``.
    fit_method
        The draft's word: ols, wls, iwls or nlls.
    """
    about = DWI_MAPS[parameter]
    tree: dict[str, Any] = {"Description": about.prose}
    if about.units:
        tree["Units"] = about.units
    tree["Model"] = {"Description": "Diffusion tensor", "Parameters": {"FitMethod": fit_method}}
    if about.encoding:
        tree["OrientationEncoding"] = {"EncodingAxis": 3, "Reference": "xyz", **about.encoding}
    return tree


def _described(description: str) -> list[str]:
    return [f"desc-{_label(description)}"] if description else []


def _label(label: str) -> str:
    if not label.isalnum() or not label.isascii():
        raise StudyFileError(f"label '{label}': expected letters and digits, found others. Rename it.")
    return label


def _path(participant: str, session: str, folder: str, rest: list[str], extension: str) -> str:
    who = [f"sub-{_label(participant)}", *([f"ses-{_label(session)}"] if session else [])]
    return "/".join([*who, folder, "_".join([*who, *rest]) + extension])
