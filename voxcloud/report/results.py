"""The results of a study, read from its output folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from voxcloud.errors import CorruptStoreError

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One result file: a model, stack, coefficient and contrast, with all its searches."""

    tree: Tree
    number: int

    @property
    def key(self) -> str:
        """Anchor of its section on the page."""
        return f"comparison-{self.number}"

    @cached_property
    def found(self) -> list[tuple[Tree, Tree]]:
        """Significant clusters with their search, the smallest p first."""
        pairs = [(s, c) for s in self.tree["searches"] for c in s["clusters"] if c["significant"]]
        return sorted(pairs, key=lambda pair: (pair[1]["p_fwe"], -pair[1]["size_voxels"]))

    @property
    def permuted_instead(self) -> bool:
        """Whether permutation decides, in place of random fields."""
        return (self.tree.get("inference") or {}).get("method") == "permutation"

    @property
    def permuted_beside(self) -> bool:
        """Whether some cluster has the p of a permutation beside the one that decides."""
        return not self.permuted_instead and any(c.get("p_permutation") is not None for _, c in self.found)

    @property
    def is_t(self) -> bool:
        """Whether the contrast is a t contrast."""
        return str(self.tree.get("kind", "t")) == "t"

    @property
    def statistic_map(self) -> str | None:
        """Path of the t (or F) map, relative to the output folder."""
        maps = self.tree.get("maps", {})
        found = maps.get("t") or maps.get("F")
        return None if found is None else str(found)


@dataclass(frozen=True)
class Results:
    """Everything that the report shows.

    Attributes
    ----------
    output
        The output folder.
    study, cohort, summary
        Contents of ``study.json``, ``results/cohort.json`` and ``results/summary.json`` ({} where absent).
    designs
        Content of ``design.json`` by model.
    comparisons
        Result files that could be read, those with findings first.
    behaviour
        Content of ``results/behaviour.json``, or None.
    """

    output: Path
    study: Tree
    cohort: Tree
    summary: Tree
    designs: Mapping[str, Tree]
    comparisons: tuple[Comparison, ...]
    behaviour: Tree | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def found(self) -> list[Comparison]:
        """Comparisons with significant clusters."""
        return [c for c in self.comparisons if c.found]

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.summary.get("study") or self.study.get("name") or self.output.name)

    @property
    def family_size(self) -> int:
        """Number of searches over which p values are adjusted."""
        return int(
            self.summary.get("searches_planned") or self.summary.get("searches_run") or len(list(self.searches()))
        )

    @cached_property
    def group_places(self) -> dict[str, int]:
        """Number of every group in order of first appearance: a group has one colour on the whole page."""
        named = (str(g) for d in self.designs.values() for g in (d.get("groups") or {}).values())
        return {group: place for place, group in enumerate(dict.fromkeys(named))}

    @property
    def analysed_stacks(self) -> list[Tree]:
        """Stacks that models are fitted to, without those that only cut masks."""
        for_masks = {str(m.get("map")) for m in (self.study.get("masks") or {}).values() if isinstance(m, Mapping)}
        return [s for s in self.cohort.get("stacks", []) if str(s["map"]) not in for_masks | {"probseg"}]

    def searches(self) -> Iterator[tuple[Comparison, Tree]]:
        """Give every search with its comparison."""
        for comparison in self.comparisons:
            for search in comparison.tree["searches"]:
                yield comparison, search

    def model_settings(self, model: str) -> Tree:
        """Return the study file's section of a model, {} where it is not known."""
        for entry in self.study.get("models", ()):
            if entry.get("name") == model:
                return dict(entry)
        return {}


def read_results(output: Path) -> Results:
    """Read the results layout under an output folder.

    Raises
    ------
    CorruptStoreError
        If a result file is not JSON or lacks its searches; the message names the file.
    """
    summary = _read(output / "results" / "summary.json")
    listed = summary.get("results")
    paths = (
        [output / path for path in listed] if listed is not None else sorted(output.glob("results/model-*/*__*.json"))
    )
    trees = [_read_result(path) for path in paths if path.is_file()]
    trees.sort(key=_order)
    designs = {}
    for path in sorted(output.glob("results/model-*/design.json")):
        tree = _read(path)
        designs[str(tree.get("model", path.parent.name.removeprefix("model-")))] = tree
    used = {str(t["model"]) for t in trees}
    study = _read(output / "study.json")
    asked = [str(m.get("name")) for m in study.get("models", [])]
    designs = dict(sorted(designs.items(), key=lambda d: asked.index(d[0]) if d[0] in asked else len(asked)))
    return Results(
        output,
        study,
        _read(output / "results" / "cohort.json"),
        summary,
        {model: tree for model, tree in designs.items() if model in used or not used},
        tuple(Comparison(tree, number) for number, tree in enumerate(trees, 1)),
        # A study that has no learning curves any more still has the file of an earlier run.
        (_read(output / "results" / "behaviour.json") or None) if summary.get("behaviour", True) else None,
    )


def _order(tree: Tree) -> tuple[Any, ...]:
    smallest = min((c["p_fwe"] for s in tree["searches"] for c in s["clusters"] if c["significant"]), default=2.0)
    names = tuple(str(tree.get(k, "")) for k in ("model", "map", "label", "coefficient", "contrast"))
    return smallest, names


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise CorruptStoreError(
            f"{path}: expected JSON, found {error}. Delete the file and run the study again."
        ) from None
    if not isinstance(tree, dict):
        raise CorruptStoreError(f"{path}: expected a JSON object, found a {type(tree).__name__}. Run the study again.")
    return tree


def _refuse(name: str) -> None:
    """Refuse NaN and infinities: a page that printed them would look like a result."""
    raise ValueError(f"the value {name}, which is no number")


def _read_result(path: Path) -> dict[str, Any]:
    tree = _read(path)
    missing = [k for k in ("model", "map", "coefficient", "contrast", "searches") if k not in tree]
    if missing:
        raise CorruptStoreError(
            f"{path}: expected a search result, found no {', '.join(missing)}. Run the study again."
        )
    return tree


def effect_units(tree: Tree) -> str:
    """Return the units of a comparison's effect: those of the coefficient, for a regression per unit of its score."""
    units, score = str(tree.get("units", "")), scores_of(tree)
    return f"{units} per unit of {score[0]}" if units and score else units


def scores_of(tree: Tree) -> tuple[str, dict[str, float]] | None:
    """Return the score that a contrast tests, as given, per participant; None where the contrast is no regression."""
    test = tree.get("test", "")
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", test if isinstance(test, str) else " ".join(test)))
    named = [name for name in tree.get("scores", {}) if name in words]
    if len(named) != 1:
        return None
    values = tree["scores"][named[0]]
    people = tree.get("participants", [])
    if isinstance(values, Mapping):
        return named[0], {str(p): float(v) for p, v in values.items()}
    return named[0], {str(p): float(v) for p, v in zip(people, values, strict=False)}
