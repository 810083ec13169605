"""What is measured in template space, of a participant and of a visit; which numbers are compared, who stands out.

``sub-01/sub-01_desc-space_qc.json`` tells of a participant, ``sub-01/ses-1/sub-01_ses-1_desc-spacempm_qc.json`` (or
``spacedwi``) of a session's maps; docs/explanation/quality-control.md has their keys. None (``null``) is what was not
done or could not be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.report.qc_dwi_measures import DIFFUSIVITY, PER_MM2_S
from voxcloud.report.qc_outliers import Measure, Outlier, find_outliers, who_of
from voxcloud.report.qc_ranges import LARGEST_CHANGE
from voxcloud.report.words import MAP_NAMES, MINUS, number

Quality = Mapping[str, Any]

SPACE_QC_SCHEMA = 1
TISSUES = {"GM": "grey matter", "WM": "white matter", "CSF": "fluid"}
# Map to what has one value of it in each session: unit in which it is shown, least spread (WM and GM alike).
MAPS: Mapping[str, tuple[str, float]] = {
    "R1map": ("1/s", 0.005),
    "MTsat": ("p.u.", 0.01),
    "R2starmap": ("1/s", 0.1),
    "PDmap": ("p.u.", 0.2),
    "FA": ("1", 0.005),
    "MD": (DIFFUSIVITY, 0.005),
    "AD": (DIFFUSIVITY, 0.01),
    "RD": (DIFFUSIVITY, 0.01),
}
# Chosen, not published. On a grid of 2 mm, colin27 has .89 in grey and .88 in white matter where it fits, .79 and .77
# by its affine transform alone, .74 to .78 when it is moved by 4 mm and .60 to .69 by 8 mm.
LEAST_DICE = 0.75
# Adults' heads; children's and the largest heads are outside without a fault.
HEAD_ML = (950.0, 2100.0)
# Nobody loses or gains so much of a tissue between visits that are compared.
MOST_CHANGE_PERCENT = 5.0
MOST_MISSING_PERCENT = 5.0
# Medians over tissue of two scans of a person; as on the pages of maps and of diffusion.
CHANGES: Mapping[str, float] = {**LARGEST_CHANGE, "FA": 0.05, "MD": 0.05}
PEOPLE, VISITS = "participants", "visits"

OUTLINES = "look whether the outlines follow the tissue; if they do not, check orientation and extent of the raw images"
TISSUE = (
    "look at the tissue probabilities: neck and dura that were taken for brain, or parts of the brain that are lost"
)
DEFORMED = "look at the map of volume: a lesion, atrophy, or a place where the registration failed"
SAME_PERSON = "check whether this visit is of the same person (labels may be swapped), and its maps for movement"
HEAD_MOVED = "no fault by itself: how the head lay in the scanner; look at this visit's edges"
CHANGED = "look at this visit's maps: another contrast, protocol or movement changes volumes too"
LEVEL = "look at this visit's maps and at the page on their quality"
DIFFUSION = (
    "look whether FA follows the edge of white matter; if not, distortion was not corrected or the visit is wrong"
)
HOLES = "look at pink voxels: a slab that is too small, or a visit that lies elsewhere"
"""What a reader does next."""


def scaled(name: str, value: float | None) -> float | None:
    """Return a map's number in the unit in which it is shown: diffusivities in 10^-3 mm2/s."""
    return value if value is None or name not in ("MD", "AD", "RD") else PER_MM2_S * value


def title_of(name: str) -> str:
    """Return the name of a map as papers write it."""
    return MAP_NAMES.get(name, name)


def _at(*path: str) -> Callable[[Quality], float | None]:
    def value(qc: Quality) -> float | None:
        found: Any = qc
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    return value


def _length(*path: str) -> Callable[[Quality], float | None]:
    def value(qc: Quality) -> float | None:
        found: Any = qc
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else math.sqrt(sum(float(v) ** 2 for v in found))

    return value


def _median(name: str, label: str) -> Callable[[Quality], float | None]:
    inner = _at("medians", name, label)
    return lambda qc: scaled(name, inner(qc))


def _missing(qc: Quality) -> float | None:
    known = [100.0 * float(share) for share in qc.get("missing", {}).values() if share is not None]
    return max(known) if known else None


PEOPLE_MEASURES: tuple[Measure, ...] = (
    *(
        Measure(f"dice_{label}", f"Dice of {TISSUES[label]}", "1", _at("dice", label), "low", 0.005, counted=PEOPLE)
        for label in ("GM", "WM")
    ),
    Measure(
        "correlation",
        "Correlation with the template",
        "1",
        _at("normalisation", "correlation", "warp"),
        "low",
        0.005,
        counted=PEOPLE,
    ),
    Measure("tiv", "Volume inside the skull (TIV)", "ml", _at("volumes_ml", "TIV"), "either", 20.0, counted=PEOPLE),
    *(
        Measure(
            f"{label.lower()}_ml",
            f"Volume of {TISSUES[label]}",
            "ml",
            _at("volumes_ml", label),
            "either",
            10.0,
            counted=PEOPLE,
        )
        for label in TISSUES
    ),
    Measure(
        "jacobian_p01",
        "Volume against the template, 1st percentile",
        "1",
        _at("jacobian", "p01"),
        "low",
        0.02,
        skewed=True,
        counted=PEOPLE,
    ),
    Measure(
        "jacobian_p99",
        "Volume against the template, 99th percentile",
        "1",
        _at("jacobian", "p99"),
        "high",
        0.05,
        skewed=True,
        counted=PEOPLE,
    ),
)
ANATOMY_MEASURES: tuple[Measure, ...] = (
    Measure(
        "agreement", "Agreement with the other visits", "1", _at("place", "agreement"), "low", 0.003, counted=VISITS
    ),
    Measure(
        "translation",
        "Translation from the midpoint",
        "mm",
        _length("place", "translation_mm"),
        "high",
        1.0,
        skewed=True,
        counted=VISITS,
    ),
    Measure(
        "rotation",
        "Rotation from the midpoint",
        "degrees",
        _length("place", "rotation_deg"),
        "high",
        0.5,
        skewed=True,
        counted=VISITS,
    ),
    *(
        Measure(
            f"change_{label}",
            f"Change of {TISSUES[label]}'s volume",
            "percent",
            _at("change", label),
            "either",
            0.2,
            counted=VISITS,
        )
        for label in ("GM", "WM")
    ),
)
MAPS_MEASURES: tuple[Measure, ...] = (
    Measure(
        "dwi_agreement",
        "Agreement of diffusion's edges with the anatomy's",
        "1",
        _at("registration", "agreement"),
        "low",
        0.01,
        counted=VISITS,
    ),
    Measure(
        "dwi_displacement",
        "Movement between anatomy and diffusion",
        "mm",
        _at("registration", "displacement_mm"),
        "high",
        0.5,
        skewed=True,
        counted=VISITS,
    ),
    Measure("missing", "Brain without a value", "percent", _missing, "high", 0.2, counted=VISITS),
    *(
        Measure(
            f"{name}_{label}",
            f"{title_of(name)} in {TISSUES[label]}, median",
            units,
            _median(name, label),
            "either",
            least,
            map=name,
            tissue=label,
            largest_change=CHANGES.get(name),
            counted=VISITS,
        )
        for name, (units, least) in MAPS.items()
        for label in ("WM", "GM")
    ),
)
VISIT_MEASURES = (*ANATOMY_MEASURES, *MAPS_MEASURES)

_NEXT: Mapping[str, str] = {
    **dict.fromkeys(("dice_GM", "dice_WM", "correlation"), OUTLINES),
    **dict.fromkeys(("tiv", "gm_ml", "wm_ml", "csf_ml"), TISSUE),
    **dict.fromkeys(("jacobian_p01", "jacobian_p99"), DEFORMED),
    **dict.fromkeys(("change_GM", "change_WM"), CHANGED),
    **dict.fromkeys(("translation", "rotation"), HEAD_MOVED),
    **dict.fromkeys(("dwi_agreement", "dwi_displacement"), DIFFUSION),
    "agreement": SAME_PERSON,
    "missing": HOLES,
}
NEXT: Mapping[str, str] = {m.title: _NEXT.get(m.key, LEVEL) for m in (*PEOPLE_MEASURES, *VISIT_MEASURES)}
"""Title of a measure to what a reader does where it stands out."""


def people_of(anatomies: Sequence[Quality]) -> list[dict[str, Any]]:
    """Return participants in order, as the pages compare them."""
    found = [dict(tree) | {"session_id": ""} for tree in anatomies]
    return sorted(found, key=lambda tree: str(tree["participant_id"]))


def visits_of(anatomies: Sequence[Quality], sessions: Sequence[Quality]) -> list[dict[str, Any]]:
    """Return visits in order: where each lies, its change of volume, and its maps of both kinds in one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for tree in anatomies:
        for session, place in zip(tree["sessions"], tree["midpoint"].get("visits", ()), strict=False):
            visit = _visit(found, str(tree["participant_id"]), str(session))
            visit |= {"place": place, "change": tree["change_percent"].get(session, {}), "page": tree["page"]}
    for tree in sessions:
        visit = _visit(found, str(tree["participant_id"]), str(tree["session_id"]))
        kind = str(tree["modality"])
        visit["medians"] = visit["medians"] | tree["medians"]
        visit["missing"] = visit["missing"] | tree["missing"]
        visit["pages"] = visit["pages"] | {kind: tree["page"]}
        visit["warnings"] = [*visit["warnings"], *tree["warnings"]]
        visit["thumbnails"] = visit["thumbnails"] | {kind: (tree.get("shown", ""), tree.get("thumbnail", ""))}
        for key in ("registration", "calibration", "field_strength_t"):
            if tree.get(key) is not None:
                visit[key] = tree[key]
        visit["page"] = visit["page"] or tree["page"]
    return [found[who] for who in sorted(found)]


def _visit(found: dict[tuple[str, str], dict[str, Any]], participant: str, session: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"participant_id": participant, "session_id": session, "page": "", "pages": {}}
    empty |= {"place": {}, "change": {}, "medians": {}, "missing": {}, "thumbnails": {}, "warnings": []}
    return found.setdefault((participant, session), empty)


def find_space_outliers(people: Sequence[Quality], visits: Sequence[Quality]) -> list[Outlier]:
    """Return participants and visits that stand out; what is published is told on the pages of the maps themselves."""
    cohort = [*find_outliers(people, PEOPLE_MEASURES), *find_outliers(visits, VISIT_MEASURES)]
    told = {(o.who, o.measure) for o in cohort if o.kind == "cohort"}
    limit = [o for o in beyond_limits(people, visits) if (o.who, o.measure) not in told]
    return [*limit, *(o for o in cohort if o.kind != "published")]


def beyond_limits(people: Sequence[Quality], visits: Sequence[Quality]) -> list[Outlier]:
    """Return who is beyond what is expected of anybody, however many others there are."""
    found: list[Outlier] = []
    by_key = {m.key: m for m in (*PEOPLE_MEASURES, *VISIT_MEASURES)}
    for key, low, high, reason in (
        ("dice_GM", LEAST_DICE, math.inf, "tissue does not lie where the template has it"),
        ("dice_WM", LEAST_DICE, math.inf, "tissue does not lie where the template has it"),
        ("tiv", *HEAD_ML, "hardly any adult has such a head"),
        ("change_GM", -MOST_CHANGE_PERCENT, MOST_CHANGE_PERCENT, "more than brains change"),
        ("change_WM", -MOST_CHANGE_PERCENT, MOST_CHANGE_PERCENT, "more than brains change"),
        ("missing", 0.0, MOST_MISSING_PERCENT, "more than a rim of the brain has no value"),
    ):
        measure = by_key[key]
        for qc in people if measure in PEOPLE_MEASURES else visits:
            value = measure.value(qc)
            if value is None or low <= value <= high:
                continue
            found.append(
                Outlier(
                    who_of(qc),
                    measure.title,
                    value,
                    measure.units,
                    _between(low, high),
                    reason,
                    "limit",
                    _strength(value, low, high),
                )
            )
    return found


def _between(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {number(low, 2)}"
    return f"{low:g} to {high:g}".replace("-", MINUS) if low else f"up to {high:g}"


def _strength(value: float, low: float, high: float) -> float:
    """Return how far beyond a limit a value is: 1 at the limit. A failed registration goes before everything else."""
    if math.isinf(high):
        return 5.0 + low / max(value, 1e-6)
    return max(value / high, low / value if low > 0 and value > 0 else abs(value / high))
