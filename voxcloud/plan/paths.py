"""Where things lie in a study's output folder: names of objects, relative to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.config.space import TEMPLATE
from voxcloud.schema import stack_name, variable

MIDPOINT = "midpoint"
DESIGNS_PREFIX = ".voxcloud/designs"
STATS_T = ("t", "effect", "variance", "z", "p", "r", "rLower", "rUpper")
STATS_F = ("F", "z", "p")
STATS_FIELD = ("n", "resels")


def session_folder(participant: str, session: str) -> str:
    """Return where everything of one session lies."""
    return f"sub-{participant}" + (f"/ses-{session}" if session else "")


def session_stem(participant: str, session: str) -> str:
    """Return how the names of a session's files begin."""
    return f"sub-{participant}" + (f"_ses-{session}" if session else "")


def session_map_path(participant: str, session: str, name: str, description: str = "") -> str:
    """Return where a map of a session lies, in the space in which PDw was acquired."""
    place = "fmap" if name == "TB1map" else "anat"
    described = f"_desc-{description}" if description else ""
    stem = session_stem(participant, session)
    return f"{session_folder(participant, session)}/{place}/{stem}{described}_{name}.nii.gz"


def session_qc_path(participant: str, session: str, modality: str, extension: str) -> str:
    """Return where a session's quality control of a modality lies: ``json`` for programs, ``html`` for people."""
    stem = session_stem(participant, session)
    return f"{session_folder(participant, session)}/{stem}_desc-{modality}_qc.{extension}"


def fit_folder(model: str, stack: str) -> str:
    """Return where everything about the fit of a model on a stack lies."""
    return f"fits/model-{model}/{stack}"


def fit_prefix(model: str, stack: str) -> str:
    """Return the Zarr group of a fit; nothing else lies in it, so that other programs open it without a warning."""
    return f"{fit_folder(model, stack)}/fit.zarr"


def pools_variances(variance: str, weights: str) -> bool:
    """Whether variances are pooled over all voxels before the group model is fitted, by units of their own."""
    return variance == "unequal" or weights == "precision"


def block_objects(design: Mapping[str, Any], index: int) -> list[str]:
    """Return the objects that one fit block writes, relative to the fit's group."""
    pooled = pools_variances(design["variance"], design["weights"])
    names = [f"valid/c/{index}", f"n/c/{index}"]
    names += [f"value_{c}/c/0/{index}" for c in design["coefficients"]]
    if not pooled:
        names += group_objects(design, index)
    else:
        names += [f"pooled_{c}/c/{index}/0/0" for c in design["coefficients"]]
    return names


def group_objects(design: Mapping[str, Any], index: int) -> list[str]:
    """Return the objects of the group model that one block writes."""
    names = [f"{kind}/c/0/{index}" for kind in ("effect", "se", "statistic", "resms")]
    return names + [f"residual_{c}/c/0/{index}" for c in design["coefficients"]]


def fit_documents(design: Mapping[str, Any]) -> list[str]:
    """Return the metadata objects of a fit's group, relative to it; the group's own comes last."""
    names = {name.split("/c/")[0] for name in (*block_objects(design, 0), *group_objects(design, 0))}
    return [*(f"{name}/zarr.json" for name in sorted(names)), "zarr.json"]


def search_result_path(model: str, stack: str, coefficient: str, contrast: str) -> str:
    """Return where the result of a search lies."""
    return f"results/model-{model}/{stack}__{coefficient}__{contrast}.json"


def stat_paths(model: str, map_name: str, label: str, coefficient: str, contrast: str, kind: str) -> tuple[str, ...]:
    """Return the statistical maps of one contrast: images and their sidecars."""
    stats = STATS_T if kind == "t" else STATS_F
    stem = stat_stem(model, map_name, label, coefficient, contrast)
    return tuple(f"{stem}_stat-{stat}_statmap.{ext}" for stat in stats for ext in ("nii.gz", "json"))


def field_paths(model: str, map_name: str, label: str, coefficient: str) -> tuple[str, ...]:
    """Return the maps that tell how far a coefficient's maps can be trusted: images and their sidecars."""
    stack = stack_name(map_name, label)
    labelled = f"_label-{label}" if label else ""
    stem = f"stats/model-{model}/{stack}/map-{map_name}{labelled}_coefficient-{coefficient}"
    return tuple(f"{stem}_stat-{stat}_statmap.{ext}" for stat in STATS_FIELD for ext in ("nii.gz", "json"))


def stat_stem(model: str, map_name: str, label: str, coefficient: str, contrast: str) -> str:
    """Return path and beginning of the file name of a contrast's maps, with BIDS entities (letters and digits only)."""
    name = "".join(part[:1].upper() + part[1:] for part in f"{coefficient}_{contrast}".replace("-", "_").split("_"))
    stack = stack_name(map_name, label)
    labelled = f"_label-{label}" if label else ""
    return f"stats/model-{model}/{stack}/map-{map_name}{labelled}_contrast-{name[:1].lower() + name[1:]}"


def participant_path(
    participant: str,
    suffix: str,
    *,
    label: str = "",
    description: str = "",
    space: str = TEMPLATE,
    ext: str = ".nii.gz",
) -> str:
    """Return where an image lies that belongs to a participant and to no visit."""
    return f"sub-{participant}/anat/" + _named(f"sub-{participant}", suffix, label, description, space, ext)


def space_map_path(
    participant: str, session: str, name: str, label: str = "", description: str = "", ext: str = ".nii.gz"
) -> str:
    """Return where a map of a session lies in template space: smoothed within a tissue, or (no label) not smoothed."""
    suffix = variable(name).suffix
    diffusion = suffix.endswith("_dwimap")
    folder = "dwi" if diffusion else "anat"
    stem = session_stem(participant, session)
    described = description or ("smoothed" if label else "")
    return f"{session_folder(participant, session)}/{folder}/" + _named(stem, suffix, label, described, TEMPLATE, ext)


def _named(stem: str, suffix: str, label: str, description: str, space: str, ext: str) -> str:
    """Return a file name with its entities in the order of BIDS."""
    entities = [f"space-{space}"] if space else []
    entities += [f"label-{label}"] if label else []
    entities += [f"desc-{description}"] if description else []
    return "_".join([stem, *entities, suffix]) + ext


def anatomy_outputs(participant: str, sessions: Sequence[str], contrast: str, longitudinal: str) -> tuple[str, ...]:
    """Return what the anatomy of a participant writes: its template, tissues, transforms and quality control."""
    images = anatomy_images(participant, contrast)
    if longitudinal == "deformation":
        for session in sessions:
            ratio, warp = change_paths(participant, session)
            images |= {f"change {session}": ratio, f"change of place {session}": warp}
    sidecars = [path.removesuffix(".nii.gz") + ".json" for path in images.values()]
    return (*images.values(), *sidecars, transforms_path(participant), *anatomy_pages(participant))


def anatomy_images(participant: str, contrast: str) -> dict[str, str]:
    """Return the images of a participant's anatomy by name."""
    own = {"space": MIDPOINT}
    return {
        "midpoint": participant_path(participant, contrast, **own),
        **{label: participant_path(participant, "probseg", label=label, **own) for label in ("GM", "WM", "CSF")},
        "brain": participant_path(participant, "mask", description="brain", **own),
        "warp": participant_path(participant, "xfm", description="frommidpoint"),
        "jacobian": participant_path(participant, "jacobian"),
        **{f"template {label}": participant_path(participant, "probseg", label=label) for label in ("GM", "WM")},
        "template image": participant_path(participant, contrast),
    }


def transforms_path(participant: str) -> str:
    """Return where the linear transforms of a participant lie."""
    return participant_path(participant, "xfm", description="linear", space="", ext=".json")


def change_paths(participant: str, session: str) -> tuple[str, str]:
    """Return where the deformation of a visit against the midpoint lies: its ratio of volumes, its displacement."""
    stem, folder = session_stem(participant, session), f"{session_folder(participant, session)}/anat"
    ratio, warp = (_named(stem, kind, "", "change", TEMPLATE, ".nii.gz") for kind in ("jacobian", "xfm"))
    return f"{folder}/{ratio}", f"{folder}/{warp}"


def anatomy_pages(participant: str) -> tuple[str, str]:
    """Return where the quality control of a participant's anatomy lies, for programs and for people."""
    stem = f"sub-{participant}/sub-{participant}_desc-space_qc"
    return f"{stem}.json", f"{stem}.html"


def space_outputs(
    participant: str, session: str, modality: str, maps: Sequence[str], smoothed: Sequence[str]
) -> tuple[str, ...]:
    """Return what a session writes in template space: maps as they are, and those smoothed within each tissue."""
    who = participant, session
    images = [space_map_path(*who, name) for name in maps]
    images += [space_map_path(*who, name, label) for name in smoothed for label in ("GM", "WM")]
    if "PDmap" in maps:
        images.append(session_map_path(*who, "PDmap"))
    sidecars = [path.removesuffix(".nii.gz") + ".json" for path in images]
    return (*images, *sidecars, *(session_qc_path(*who, f"space{modality}", kind) for kind in ("json", "html")))
