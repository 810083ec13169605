"""From a selection of images to the numbers that a fit needs, as one JSON tree: the design file.

Every estimator becomes the same two steps. First, each participant's value of a coefficient is a weighted sum of that
participant's images: the rows of ``pinv(T_i)`` for the visits' time basis ``T_i`` (two-stage), ``1/k`` (mean of k
visits), ``1`` (one image), ``-1, +1`` (paired). Second, a general linear model over participants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.config.study import Model, Study
from voxcloud.errors import DesignError, VoxcloudError, nearest
from voxcloud.models.contrasts import contrast_matrix
from voxcloud.models.design_report import design_diagnostics
from voxcloud.models.formula import Design, design_matrix
from voxcloud.models.time_basis import TimeBasis, build_time_basis
from voxcloud.models.two_stage import VisitPlan, visit_plan
from voxcloud.plan.selection import ImageRef, LeftOut, Selection
from voxcloud.schema import variable

INTERCEPT = "intercept"

# Below this, random field p values mean nothing, because smoothness cannot be estimated from so few residuals: on null
# data .99 of the searches at 2 degrees of freedom find something, and .14 at 3.
MIN_RANDOM_FIELD_DF = 4

KEPT_GROUP_LEVELS = 256
_GROUP_LEVELS: dict[str, dict[str, Any]] = {}


def time_basis(study: Study) -> TimeBasis | None:
    """Return the study's time basis, or None where it names none."""
    if study.time is None:
        return None
    t = study.time
    return build_time_basis(t.basis, t.reference_days, t.terms, orthogonalise=t.orthogonalise, knots=t.knots)


def build_design(
    study: Study, selection: Selection, known: dict[tuple[str, ...], dict[str, Any]] | None = None
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return the design file of one model and stack, and who was left out of it.

    ``known`` keeps group designs from one stack of a study to the next: the same people under the same model give the
    same one, and building it takes longer than everything else in a plan.

    Raises
    ------
    DesignError, ContrastError, FormulaError
        If the design cannot be fitted as asked; the message names the model and the reason.
    """
    model = selection.model
    try:
        first, left_out = _first_level(study, selection)
        images, entries = _only_entering(selection.images, first["coefficients"])
        coefficients = {
            name: _known_group_level(known if known is not None else {}, model, selection, entry["participants"])
            | {"first_level": entry["weights"], "units": entry["units"]}
            for name, entry in entries.items()
        }
        _check_random_field_df(model, coefficients)
    except ValueError as error:
        if str(error).startswith(f"model {model.name}"):
            raise
        kind = type(error) if isinstance(error, VoxcloudError) else DesignError
        raise kind(f"model {model.name}, {selection.stack}: {error}") from None
    tree = {
        "schema": 1,
        "model": model.name,
        "stack": selection.stack,
        "map": selection.map,
        "label": selection.label,
        "estimator": model.estimator,
        "formula": model.formula,
        "variance": model.variance,
        "images": [
            {"participant_id": i.participant_id, "session_id": i.session_id, "day": i.day, "digest": i.digest}
            for i in images
        ],
        "groups": {p: selection.group_names.get(p, "") for p in selection.participants},
        "coefficients": coefficients,
        "time": first.get("time"),
        "visits": first.get("visits", []),
        "sentences": [*first.get("sentences", []), *_alone(coefficients)],
        "accepted_unequal_variance": bool(model.accept_unequal_variance and first.get("unequal")),
        "weights": model.weights,
        "visit_rules": first.get("rules"),
    }
    return tree, left_out


def _only_entering(
    images: Sequence[ImageRef], coefficients: Mapping[str, Any]
) -> tuple[list[ImageRef], dict[str, Any]]:
    """Take out the images of whoever enters no coefficient: they must not cut the analysis mask or refit anything."""
    people = {p for entry in coefficients.values() for p in entry["participants"]}
    kept = [row for row, image in enumerate(images) if image.participant_id in people]
    place = {old: new for new, old in enumerate(kept)}
    renumbered = {
        name: entry
        | {
            "weights": {
                p: own | {"images": [place[row] for row in own["images"]]} for p, own in entry["weights"].items()
            }
        }
        for name, entry in coefficients.items()
    }
    return [images[row] for row in kept], renumbered


def _first_level(study: Study, selection: Selection) -> tuple[dict[str, Any], list[LeftOut]]:
    if selection.model.estimator == "two-stage":
        return _two_stage(study, selection)
    positions = _positions(selection)
    units = variable(selection.map).units
    name, weigh = {
        "ols": ("value", lambda k: np.full(k, 1.0 / k)),
        "paired": ("difference", lambda k: np.array([-1.0, 1.0])),
    }[selection.model.estimator]
    weights = {p: {"images": rows, "weights": weigh(len(rows)).tolist()} for p, rows in positions.items()}
    return {"coefficients": {name: {"participants": list(positions), "weights": weights, "units": units}}}, []


def _positions(selection: Selection) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, image in enumerate(selection.images):
        found.setdefault(image.participant_id, []).append(row)
    return found


def _two_stage(study: Study, selection: Selection) -> tuple[dict[str, Any], list[LeftOut]]:
    model, basis = selection.model, time_basis(study)
    assert basis is not None  # the study file's validator has seen to it
    days = [float(i.day) for i in selection.images if i.day is not None]
    # The basis stays the study's; a visit that the model leaves out for everybody is missed by nobody.
    planned = [day for day in basis.reference_days if model.session_enters(day)]
    plan = visit_plan(
        [i.participant_id for i in selection.images],
        days,
        basis,
        min_visits=model.min_visits,
        max_variance_ratio=model.max_variance_ratio,
        weights=model.weights,
        accept_unequal_variance=model.accept_unequal_variance,
        complete_days=planned,
    )
    wanted = model.coefficients or basis.terms
    unknown = [c for c in wanted if c not in basis.terms]
    if unknown:
        raise DesignError(
            f"coefficients: {', '.join(unknown)} is not a term of the time basis ({', '.join(basis.terms)})."
            f"{nearest(unknown[0], basis.terms)} Correct `coefficients`."
        )
    what = f"model {model.name}, {selection.stack}"
    left_out = [LeftOut(p, None, what, reason) for p, reason in plan.left_out.items()]
    coefficients: dict[str, Any] = {}
    for term in wanted:
        entering = plan.participants_of(term)
        left_out += [
            LeftOut(p, None, f"{what}, {term}", reason)
            for p, reason in plan.left_out_of(term).items()
            if p not in plan.left_out
        ]
        coefficients[term] = {
            "participants": entering,
            "weights": {
                p: {"images": list(plan.rows[p]), "weights": plan.first_level_weights(p, term).tolist()}
                for p in entering
            },
            "units": f"{variable(selection.map).units} {basis.unit_of(term)}".strip(),
        }
    return {
        "coefficients": coefficients,
        "time": basis.describe(),
        "visits": plan.describe(),
        "unequal": plan.unequal,
        "rules": {
            "min_visits": plan.min_visits,
            "max_variance_ratio": plan.max_variance_ratio,
            "accept_unequal_variance": plan.accept_unequal_variance,
            "complete_days": list(plan.complete_days),
        },
        "sentences": _sentences(model, plan),
    }, left_out


def _sentences(model: Model, plan: VisitPlan) -> list[str]:
    """Say what the numbers of the first level alone do not tell."""
    words = []
    if plan.complete_days != plan.basis.reference_days:
        days = ", ".join(f"{day:g}" for day in plan.complete_days)
        words.append(
            f"Variances were compared with those of the reference days that this model uses ({days}); the time basis "
            "is that of the whole study."
        )
    if model.weights == "precision":
        words.append(
            "A participant's weight is 1 / (q + variance ratio), where q, the variance between people over that of a "
            "complete participant's coefficient, is estimated once from all voxels of the analysis mask."
        )
    return words


def _check_random_field_df(model: Model, coefficients: dict[str, dict[str, Any]]) -> None:
    """Refuse random fields where their smoothness cannot be estimated."""
    if model.inference.method != "random-field":
        return
    for name, entry in coefficients.items():
        df = len(entry["participants"]) - entry["rank"]
        if df < MIN_RANDOM_FIELD_DF:
            raise DesignError(
                f"{name}: expected at least {MIN_RANDOM_FIELD_DF} error degrees of freedom for random fields, found "
                f"{df}. Use method: permutation, a simpler formula, or more people."
            )


def _alone(coefficients: dict[str, dict[str, Any]]) -> list[str]:
    """Name every group that consists of one person, and the coefficients in which it does."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in coefficients.items():
        for who in entry["diagnostics"]["alone"]:
            found.setdefault((who["factor"], who["level"], who["participant_id"]), []).append(name)
    return [
        f"{factor}[{level}] is one person, participant {person} ({', '.join(names)}): a comparison with it rests on "
        "that person alone, and its variance is that of the other people."
        for (factor, level, person), names in found.items()
    ]


def _known_group_level(
    known: dict[tuple[str, ...], dict[str, Any]], model: Model, selection: Selection, participants: list[str]
) -> dict[str, Any]:
    key = (model.name, *participants)
    if key not in known:
        known[key] = _group_level(model, selection, participants)
    return known[key]


def _group_level(model: Model, selection: Selection, participants: list[str]) -> dict[str, Any]:
    table = selection.table[selection.table["participant_id"].isin(participants)].copy()
    table = table.set_index("participant_id", drop=False).loc[list(participants)].reset_index(drop=True)
    if model.where_groups is not None:
        table["group"] = pd.Categorical(
            [selection.group_names[p] for p in table["participant_id"]], categories=list(model.where_groups)
        ).astype(str)
    # A study asks the same of the same people for every map and label, and plans several times in a run.
    key = repr((model.formula, model.contrasts, model.variance, table.to_dict("list")))
    if key not in _GROUP_LEVELS:
        if len(_GROUP_LEVELS) >= KEPT_GROUP_LEVELS:
            _GROUP_LEVELS.clear()
        _GROUP_LEVELS[key] = _group_tree(model, table, participants)
    return _GROUP_LEVELS[key]


def _group_tree(model: Model, table: pd.DataFrame, participants: list[str]) -> dict[str, Any]:
    design = design_matrix(model.formula, table)
    tests = {}
    for name, spec in model.contrasts.items():
        contrast = contrast_matrix(spec.test, design)
        tests[name] = {
            "test": contrast.text,
            "kind": contrast.kind,
            "weights": np.atleast_2d(contrast.weights).tolist(),
            "alternative": spec.alternative,
        }
    df = len(participants) - design.rank
    if df < 1:
        raise DesignError(
            f"{len(participants)} participants and rank {design.rank} leave {df} degrees of freedom; simplify the "
            "formula."
        )
    return {
        "participants": list(participants),
        "columns": list(design.columns),
        "X": design.matrix.tolist(),
        "rank": int(design.rank),
        "tests": tests,
        "variance_groups": _variance_groups(model, table),
        "diagnostics": design_diagnostics(design),
        "scores": _scores(design, table),
    }


def _variance_groups(model: Model, table: pd.DataFrame) -> list[str] | None:
    if model.variance == "equal":
        return None
    if "group" not in table or table["group"].nunique() < 2:
        raise DesignError("variance: unequal needs at least two groups in the model. Use variance: equal.")
    return [str(g) for g in table["group"]]


def _scores(design: Design, table: pd.DataFrame) -> dict[str, list[float]]:
    """Numeric covariates as given (not centred), for the scatter plots."""
    return {
        name: [float(v) for v in table[name]]
        for name in design.columns
        if name in table.columns and pd.api.types.is_numeric_dtype(table[name])
    }
