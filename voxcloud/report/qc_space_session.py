"""The pages on one participant's anatomy in template space and on one session's maps there."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.templates import Template
from voxcloud.report.mosaic import WINDOWS, window
from voxcloud.report.mosaic_space import Edges, outline_thumbnail_png, outlines_png, ratio_png, tissues_png
from voxcloud.report.qc_dwi_pictures import FA_WINDOW, MD_WINDOW
from voxcloud.report.qc_outliers import who_of
from voxcloud.report.qc_page import data_url, render, without_name
from voxcloud.report.qc_ranges import FIELD_STRENGTH_T, NEAR_T, RANGES
from voxcloud.report.qc_space_figures import change_figure, movement_figure
from voxcloud.report.qc_space_measures import (
    MAPS,
    NEXT,
    TISSUES,
    beyond_limits,
    people_of,
    scaled,
    title_of,
    visits_of,
)
from voxcloud.report.words import MINUS, count, fixed, number

Float32 = npt.NDArray[np.float32]
Quality = Mapping[str, Any]

QC_SPACE_PAGE = "qc_space.html"
# One window for all sessions, in the unit that is shown.
MAP_WINDOWS: Mapping[str, tuple[float, float, str]] = WINDOWS | {
    "FA": FA_WINDOW,
    "MD": MD_WINDOW,
    "AD": (0.0, 2.4, "1e-3 mm2/s"),
    "RD": (0.0, 1.6, "1e-3 mm2/s"),
}
CAPTIONS = {
    "outlines": "Mean of all visits, brought onto the template's grid. The outlines are the template's and must follow "
    "this person's tissue: white matter within the orange one, grey matter between both. A few millimetres beside a "
    "gyrus are usual, as folds differ; ventricles, midline, brain stem and the outer edge must fit. Left and right are "
    "named: they are the person's.",
    "tissues": "Probability of tissue of this person, brought onto the template's grid, above the template's own. "
    "Look for neck, eyes or dura that were taken for grey matter, and for parts of the brain that are lost.",
    "jacobian": "Volume in this person per volume of the template, the size of the whole head included. White: alike; "
    "blue: smaller here than in the template; orange: larger. Smooth is right. Spots of both colours beside one "
    "another are a deformation that failed.",
}
ALTS = {
    "outlines": "mean image under the template's outlines, axial, coronal and sagittal slices",
    "tissues": "tissue probabilities above the template's, axial slices",
    "jacobian": "volume against the template, axial, coronal and sagittal slices",
}
RATIOS = {
    "minimum": "Smallest",
    "p01": "1st percentile",
    "median": "Median",
    "p99": "99th percentile",
    "maximum": "Largest",
}
MODALITIES = {"mpm": "quantitative maps", "dwi": "diffusion"}


def anatomy_page(
    tree: Quality, template: Template, image: Float32, probability: Mapping[str, Float32], jacobian: Float32
) -> str:
    """Return the page of a participant, complete in itself.

    Parameters
    ----------
    tree
        The participant's quality control (``pipeline.spatial.quality``).
    template
        Its grid is that of all images.
    image
        (x, y, z): mean of the visits in template space, in the unit of its contrast.
    probability
        Label to tissue probability, (x, y, z).
    jacobian
        (x, y, z): volume in the participant per volume in the template.
    """
    (person,) = people_of([tree])
    visits = visits_of([tree], [])
    who, edges = who_of(person), edges_of(template)
    low, high, units = _window(tree["contrast"], image)
    pictures = {
        "outlines": outlines_png(
            image, edges, low=low, high=high, title=f"{title_of(tree['contrast'])} of {who}", units=units, outer=True
        ),
        "tissues": tissues_png(probability, template.priors, edges, title=f"Tissue of {who}"),
        "jacobian": ratio_png(jacobian, edges, title=f"Volume of {who} per volume of the template"),
    }
    return render(
        "qc_space_anatomy.html.j2",
        who=who,
        cohort=QC_SPACE_PAGE,
        qc=person,
        notes=beyond_limits([person], visits),
        next_step=NEXT,
        warnings=[without_name(text, who) for text in tree["warnings"]],
        facts=_facts(tree),
        pictures=[{"src": data_url(png), "alt": ALTS[k], "caption": CAPTIONS[k]} for k, png in pictures.items()],
        volumes=_volumes(tree),
        visits=[_visit_row(visit) for visit in visits],
        tissues=list(next((v["change"] for v in visits if v["change"]), {})),
        figures=[f for f in (change_figure(visits), movement_figure(visits)) if f],
        ratios=[(words, tree["jacobian"].get(name)) for name, words in RATIOS.items()],
        made=_details(tree),
        contrast=title_of(tree["contrast"]),
        n=count(len(tree["sessions"]), "visit"),
    )


def maps_page(tree: Quality, template: Template, maps: Mapping[str, Float32]) -> str:
    """Return the page of a session's maps in template space, complete in itself.

    Parameters
    ----------
    tree
        The session's quality control (``pipeline.spatial.quality``).
    template
        Its grid is that of all maps.
    maps
        Map to its values, (x, y, z), not smoothed; NaN where nothing is known.
    """
    who, edges = who_of(tree), edges_of(template)
    (visit,) = visits_of([], [tree])
    pictures = []
    for name, values in maps.items():
        low, high, units = _window(name, values)
        shown = values * np.float32(_scale(name))
        png = outlines_png(
            shown, edges, low=low, high=high, title=f"{title_of(name)} of {who}", units=units, missing=True
        )
        alt = f"{title_of(name)} under the edge of the template's white matter, axial, coronal and sagittal slices"
        pictures.append({"src": data_url(png), "alt": alt, "caption": title_of(name)})
    return render(
        "qc_space_maps.html.j2",
        who=who,
        cohort=QC_SPACE_PAGE,
        qc=tree,
        what=MODALITIES.get(tree["modality"], tree["modality"]),
        notes=beyond_limits([], [visit]),
        next_step=NEXT,
        warnings=[without_name(text, who) for text in tree["warnings"]],
        rows=_rows(tree),
        known_strength=tree.get("field_strength_t") is not None,
        diffusion=tree["modality"] == "dwi",
        registration=_moved(tree["registration"]),
        calibration=_scalars(tree["calibration"] or {}),
        pictures=pictures,
        home="../" * str(tree["page"]).count("/"),
        anatomy=f"sub-{tree['participant_id']}/sub-{tree['participant_id']}_desc-space_qc.html",
    )


def anatomy_thumbnail(contrast: str, template: Template, image: Float32) -> str:
    """Return two small slices under the template's edge for the page of all participants, PNG in base64."""
    low, high, _ = _window(contrast, image)
    return base64.b64encode(outline_thumbnail_png(image, edges_of(template), low=low, high=high)).decode()


def map_thumbnail(name: str, template: Template, values: Float32) -> str:
    """Return one small slice of a map under the template's edge for the page of all participants, PNG in base64."""
    low, high, _ = _window(name, values)
    shown = values * np.float32(_scale(name))
    png = outline_thumbnail_png(shown, edges_of(template), low=low, high=high, sagittal=False)
    return base64.b64encode(png).decode()


def edges_of(template: Template) -> Edges:
    """Return the edges that pictures show."""
    return Edges.of(template.priors, template.brain, template.affine)


def _scale(name: str) -> float:
    return float(scaled(name, 1.0) or 1.0)


def _window(name: str, values: Float32) -> tuple[float, float, str]:
    if name in MAP_WINDOWS and name != "MTsat":
        return MAP_WINDOWS[name]
    # What is not in units, and MTsat with strong pulses, goes by the data; 0 is outside the head.
    return window(name, np.where(values == 0, np.nan, values))


def _facts(tree: Quality) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first, each with its words."""
    found = []
    volumes, dice, jacobian = tree["volumes_ml"], tree["dice"], tree["jacobian"]
    if volumes.get("TIV") is not None:
        found.append((f"{volumes['TIV']:.0f} ml", "inside the skull (TIV): grey and white matter and fluid"))
    shares = [f"{TISSUES.get(k, k)} {fixed(v)}" for k, v in dice.items()]
    known = [v for v in dice.values() if v is not None]
    if known:
        found.append((fixed(min(known)), f"lowest Dice of tissue with the template's: {', '.join(shares)}"))
    correlation = (tree["normalisation"].get("correlation") or {}).get("warp")
    if correlation is not None:
        found.append((fixed(correlation), "correlation of the image with the template's"))
    if jacobian.get("p01") is not None:
        reach = f"{fixed(jacobian['p01'])} – {fixed(jacobian['p99'])}"
        found.append(
            (reach, f"volume per volume of the template, 1st to 99th percentile; median {fixed(jacobian['median'])}")
        )
    agreement = [v["agreement"] for v in tree["midpoint"].get("visits", ()) if v.get("agreement") is not None]
    if agreement:
        found.append((fixed(min(agreement), 3), "least agreement of a visit with the others"))
    return found


def _volumes(tree: Quality) -> list[dict[str, Any]]:
    whole = tree["volumes_ml"].get("TIV")
    found = []
    for label, ml in tree["volumes_ml"].items():
        share = None if not whole or ml is None or label == "TIV" else 100.0 * ml / whole
        name = "all, inside the skull (TIV)" if label == "TIV" else TISSUES.get(label, label)
        found.append({"name": name, "ml": ml, "share": share, "dice": tree["dice"].get(label)})
    return found


def _visit_row(visit: Quality) -> dict[str, Any]:
    place = visit["place"]
    return {
        "session": f"ses-{visit['session_id']}" if visit["session_id"] else "the only one",
        "translation": _three(place.get("translation_mm")),
        "rotation": _three(place.get("rotation_deg")),
        "agreement": fixed(place.get("agreement"), 3),
        "change": {label: signed(value) for label, value in visit["change"].items()},
    }


def _three(values: Sequence[float] | None) -> str:
    return "—" if values is None else ", ".join(fixed(v) for v in values)


def signed(value: float | None) -> str:
    """Return a percentage with its sign."""
    return "—" if value is None else f"{value:+.2f}".replace("-", MINUS)


def _moved(told: Quality | None) -> dict[str, str] | None:
    if told is None:
        return None
    return {
        "translation": _three(told["translation_mm"]),
        "rotation": _three(told["rotation_deg"]),
        "displacement": fixed(told.get("displacement_mm")),
        "agreement": fixed(told["agreement"], 3),
    }


def _rows(tree: Quality) -> list[dict[str, Any]]:
    """Return medians with the published range: judged at 3 T, beside it where the field strength is not known."""
    strength, found = tree.get("field_strength_t"), []
    for name, medians in tree["medians"].items():
        for label, median in medians.items():
            value = scaled(name, median)
            expected = RANGES.get((name, label))
            at_3t = strength is not None and abs(float(strength) - FIELD_STRENGTH_T) <= NEAR_T
            if strength is not None and not at_3t:
                expected = None
            outside = at_3t and expected is not None and value is not None
            missing = tree["missing"].get(name)
            found.append(
                {
                    "map": title_of(name),
                    "tissue": TISSUES.get(label, label),
                    "median": value,
                    "units": MAPS.get(name, ("", 0.0))[0],
                    "expected": expected,
                    "outside": outside and not expected.low <= value <= expected.high,  # type: ignore[union-attr, operator]
                    "missing": "—" if missing is None else f"{100 * missing:.1f} %",
                }
            )
    return found


def _details(tree: Quality) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what the steps tell of themselves, by step."""
    steps = {"Midpoint": tree["midpoint"], "Segmentation": tree["segmentation"], "Normalisation": tree["normalisation"]}
    return [(name, lines) for name, told in steps.items() if (lines := _scalars(told))]


def _scalars(told: Quality, before: str = "") -> list[tuple[str, str]]:
    """Return names and values of a report's numbers, words and short lists, in words; tables are shown elsewhere."""
    found: list[tuple[str, str]] = []
    for key, value in told.items():
        name = (before + str(key)).replace("_", " ")
        if isinstance(value, Mapping):
            found += _scalars(value, f"{name}: ")
        elif isinstance(value, bool | int | float):
            found.append((name, number(value)))
        elif isinstance(value, str) and value:
            found.append((name, value))
        elif isinstance(value, list | tuple) and 0 < len(value) <= 8 and not isinstance(value[0], Mapping):
            found.append((name, ", ".join(number(v) if isinstance(v, int | float) else str(v) for v in value)))
    return found
