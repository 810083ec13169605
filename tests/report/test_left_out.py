from __future__ import annotations

from pathlib import Path
from typing import Any

from voxcloud.report.left_out import left_out
from voxcloud.report.results import Results

STACKS = ("R1map_label-GM", "R1map_label-WM", "FA_label-WM")
DESIGNS = {m: {"stacks": {s: {"linear": 10} for s in STACKS}} for m in ("training", "trained")}


def results_of(items: list[tuple[str, str | None, str, str]]) -> Results:
    names = ("participant_id", "session_id", "what", "reason")
    cohort: dict[str, Any] = {"left_out": [dict(zip(names, item, strict=True)) for item in items]}
    return Results(Path(), {}, cohort, {}, DESIGNS, ())


def variance(coefficient: str, ratio: str) -> str:
    return (
        f"visits on days 0, 6, 15, 29: variance of the {coefficient} coefficient {ratio} times that of the complete "
        "design (standard deviation 22.2 times), above 4"
    )


def test_left_out__one_line_per_person_and_reason() -> None:
    items = [
        ("05", None, f"model {m}, {s}, {c}", variance(c, r))
        for m in DESIGNS
        for s in STACKS
        for c, r in (("linear", "492"), ("quadratic", "52.5"))
    ]
    rows = left_out(results_of(items))
    assert [r["participant_id"] for r in rows] == ["05"]
    assert rows[0]["what"] == "models training and trained; linear and quadratic coefficients"
    assert rows[0]["reason"] == (
        "visits on days 0, 6, 15, 29 only: variance 492 (linear) and 52.5 (quadratic) times that of the complete "
        "design, above 4"
    )


def test_left_out__maps_are_named_where_they_are_not_all() -> None:
    (row,) = left_out(results_of([("20", None, "model training, FA_label-WM, linear", variance("linear", "446"))]))
    assert row["what"] == "model training; FA; linear coefficient"


def test_left_out__a_reason_that_names_the_stack_is_one() -> None:
    items = [("21", None, f"model trained, {s}", f"has no {s} image that enters the model") for s in STACKS]
    (row,) = left_out(results_of(items))
    assert row["what"] == "model trained"
    assert row["reason"] == "has no image that enters the model"


def test_left_out__other_words_and_sessions_stay() -> None:
    rows = left_out(results_of([("07", "day14", "R1map_label-GM", "the file ends early"), ("07", None, "x", "y")]))
    assert [(r["session_id"], r["what"], r["reason"]) for r in rows] == [
        ("all", "x", "y"),
        ("day14", "R1map_label-GM", "the file ends early"),
    ]
