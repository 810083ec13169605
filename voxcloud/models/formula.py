"""Formulas: checked before anything evaluates them, then turned into a design matrix."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import formulaic
import numpy as np
import numpy.typing as npt
import pandas as pd

from voxcloud.errors import DesignError, FormulaError, nearest

Floats = npt.NDArray[np.float64]

ALLOWED = "Allowed are column names, 0, 1, + - * : ~ ( ), C(), center() and scale()."
TRANSFORMS = ("C", "center", "scale")
# Formulas come from files that other people wrote; a longer one is an attack on the parser, not a model.
MAX_LENGTH = 1000
MAX_DEPTH = 50
INTERCEPT = "intercept"
PARTICIPANT = "participant_id"
_CHARACTERS = re.compile(r"[A-Za-z0-9_ .+\-*:~()]")
# ast does not know Wilkinson's colon; a power, which no formula may hold, binds as the colon does: before *.
_COLON = "**"
_OPERATORS: Mapping[type[ast.operator], str] = {ast.Add: " + ", ast.Sub: " - ", ast.Mult: " * ", ast.Pow: ":"}
_BINDS: Mapping[type[ast.operator], int] = {ast.Add: 0, ast.Sub: 0, ast.Mult: 1, ast.Pow: 2}
_NAMES_OF_NODES: Mapping[type[ast.AST], str] = {
    ast.Attribute: "an attribute (a.b)",
    ast.Subscript: "an index (a[b])",
    ast.Lambda: "a lambda",
    ast.Compare: "a comparison",
    ast.Div: "a division",
    ast.Starred: "a starred argument",
    ast.keyword: "a named argument",
    ast.Tuple: "a tuple",
}


@dataclass(frozen=True)
class _Checked:
    """A formula rewritten from its syntax tree: formulaic never sees what the user typed."""

    text: str
    names: frozenset[str]
    factors: frozenset[str]


def check_formula(formula: str, columns: Iterable[str]) -> frozenset[str]:
    """Return the columns that a formula names, or refuse it.

    The formula is parsed, never evaluated. Only column names, 0 and 1, ``+ - * : ~ ( )``, ``C()``, ``center()`` and
    ``scale()`` pass, because formulaic would run everything else as Python.

    Parameters
    ----------
    formula : right-hand side in Wilkinson's notation, e.g. ``group + age``.
    columns : names of the table's columns.

    Raises
    ------
    FormulaError
        If anything else is in it, or a name is no column; the message names it.
    """
    return _check(formula, columns).names


@dataclass(frozen=True)
class Design:
    """A design matrix over the rows that are fitted, and what its columns mean.

    Attributes
    ----------
    matrix : (n, p) design; rows in the order of the table.
    columns : names of the columns; ``intercept`` first where there is one.
    participant_ids : one per row.
    rank : rank of the matrix.
    factor_levels : levels of each factor, the reference level first.
    covariate_means : what was taken off each numeric covariate, in its own unit.
    alone : factor, level and participant where a level has one row.
    formula : the formula as it was read.
    """

    matrix: Floats
    columns: tuple[str, ...]
    participant_ids: tuple[str, ...]
    rank: int
    factor_levels: Mapping[str, tuple[str, ...]]
    covariate_means: Mapping[str, float]
    alone: tuple[tuple[str, str, str], ...]
    formula: str
    _spec: Any = field(repr=False, compare=False)

    def cell_mean(self, factor: str, level: str) -> Floats:
        """Return the design row (p,) whose product with the coefficients is the mean of a level.

        Numeric covariates are at their centre, other factors are averaged with equal weight for each level.

        Raises
        ------
        DesignError
            If the factor or the level is not in the design.
        """
        return self.row({factor: level}, ())

    def row(self, levels: Mapping[str, str], slopes: Sequence[str]) -> Floats:
        """Return the design row of a cell, or of its slope on covariates.

        Parameters
        ----------
        levels : the level of some factors; the others are averaged with equal weight for each level.
        slopes : numeric covariates to differentiate by, at the centre of the others; empty for the mean of the cell.
        """
        for factor, level in levels.items():
            self._check_level(factor, level)
        for name in slopes:
            if name not in self.covariate_means:
                known = (*self.covariate_means, *self.factor_levels)
                raise DesignError(
                    f"'{name}' is no numeric covariate of the design "
                    f"({', '.join(known) or 'it has none'}).{nearest(name, known)}"
                )
        cells = itertools.product(
            *([levels[f]] if f in levels else list(all_) for f, all_ in self.factor_levels.items())
        )
        rows = [dict(zip(self.factor_levels, cell, strict=True)) for cell in cells]
        total = np.zeros(len(self.columns))
        # Covariates enter as products of straight lines, so differences over one unit are derivatives.
        for corner in itertools.product((0.0, 1.0), repeat=len(slopes)):
            sign = (-1.0) ** (len(slopes) - sum(corner))
            at = dict(zip(slopes, corner, strict=True))
            total += sign * self._evaluate(rows, at).mean(axis=0)
        return total

    def _evaluate(self, cells: Sequence[Mapping[str, str]], covariates: Mapping[str, float]) -> Floats:
        table = pd.DataFrame(
            {name: [covariates.get(name, 0.0)] * len(cells) for name in self.covariate_means}, index=range(len(cells))
        )
        for factor, levels in self.factor_levels.items():
            table[factor] = pd.Categorical([cell[factor] for cell in cells], categories=list(levels))
        return np.asarray(self._spec.get_model_matrix(table, context={}), dtype=np.float64)

    def _check_level(self, factor: str, level: str) -> None:
        if factor not in self.factor_levels:
            what = (
                "is a numeric covariate, which has no levels"
                if factor in self.covariate_means
                else "is no factor of the design"
            )
            known = tuple(self.factor_levels)
            raise DesignError(f"'{factor}' {what} (factors: {', '.join(known) or 'none'}).{nearest(factor, known)}")
        if level not in self.factor_levels[factor]:
            known = self.factor_levels[factor]
            raise DesignError(
                f"'{factor}' has no level '{level}' among the rows fitted ({', '.join(known)}).{nearest(level, known)}"
            )


def design_matrix(formula: str, table: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None = None) -> Design:
    """Build the design of a formula over the rows of a table.

    Numeric covariates are centred over exactly these rows, with a sum that does not depend on their order. Text,
    boolean and ``C()`` columns are factors in treatment coding; the first level (in the order of a categorical
    column, else sorted) is the reference.

    Parameters
    ----------
    formula : Wilkinson formula without a response, e.g. ``group * age + tiv``.
    table : one row per row that is fitted, with a column participant_id; its order is kept, its index ignored.
    groups : name of a union of groups -> levels of the column ``group``; the column is recoded to these names.

    Raises
    ------
    FormulaError
        If the formula holds something that is not allowed.
    DesignError
        If a value is missing, a participant has several rows and no term of its own, a covariate is the same for
        everybody, or a factor has one level.
    """
    if PARTICIPANT not in table.columns:
        raise DesignError("design: expected a column participant_id in the table, found none.")
    rows = table.reset_index(drop=True)
    if groups is not None:
        rows = _recode_groups(rows, groups)
    checked = _check(formula, rows.columns)
    people = tuple(str(p) for p in rows[PARTICIPANT])
    if PARTICIPANT not in checked.names:
        refuse_repeated_rows(people)
    data: dict[str, Any] = {}
    levels: dict[str, tuple[str, ...]] = {}
    means: dict[str, float] = {}
    for name in sorted(checked.names):
        column = rows[name]
        _refuse_missing(name, column, people)
        if name in checked.factors or not _is_numeric(column):
            data[name] = _factor(name, column)
            levels[name] = tuple(data[name].categories)
        else:
            values = column.to_numpy(dtype=np.float64)
            means[name] = math.fsum(values) / len(values)
            _refuse_constant(name, values)
            data[name] = values - means[name]
    frame = pd.DataFrame(data, index=range(len(rows)))
    built = formulaic.model_matrix(checked.text, frame, na_action="raise", context={})
    spec = built.model_spec
    matrix = np.ascontiguousarray(built, dtype=np.float64)
    columns = tuple(INTERCEPT if c == "Intercept" else str(c) for c in spec.column_names)
    if not columns:
        raise FormulaError(
            f"formula `{formula}`: expected at least one column, found none. Use `1` for the mean of everybody."
        )
    alone = tuple(
        (name, level, people[int(np.flatnonzero(data[name] == level)[0])])
        for name, own in levels.items()
        if name != PARTICIPANT
        for level in own
        if (data[name] == level).sum() == 1
    )
    return Design(matrix, columns, people, scaled_rank(matrix), levels, means, alone, formula, spec)


def refuse_repeated_rows(participant_ids: Sequence[str]) -> None:
    """Refuse rows that are not independent: several of one participant in a model without a participant term.

    Raises
    ------
    DesignError
        Naming everybody with more than one row.
    """
    counts: dict[str, int] = {}
    for participant in participant_ids:
        counts[participant] = counts.get(participant, 0) + 1
    repeated = [f"participant {p} has {k} rows" for p, k in counts.items() if k > 1]
    if repeated:
        more = f" (and {len(repeated) - 5} more)" if len(repeated) > 5 else ""
        raise DesignError(
            f"{', '.join(repeated[:5])}{more}; expected one, because rows of one person are not independent. Use "
            "estimator: "
            "two-stage or paired, choose one session, or put participant_id into the formula."
        )


def scaled_rank(matrix: Floats) -> int:
    """Return the rank of a matrix after scaling its columns to unit length."""
    length = np.sqrt((matrix**2).sum(axis=0))
    return int(np.linalg.matrix_rank(matrix / np.where(length > 0, length, 1.0))) if matrix.size else 0


def _check(formula: str, columns: Iterable[str]) -> _Checked:
    known = {str(c) for c in columns}
    text = formula.strip() if isinstance(formula, str) else ""
    if not text:
        raise FormulaError(
            f"formula: expected a formula such as `group + age`, found `{formula}`. Use `1` for the mean of everybody."
        )
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"formula: expected at most {MAX_LENGTH} characters, found {len(text)}.")
    odd = [c for c in text if not _CHARACTERS.match(c)]
    if odd:
        raise FormulaError(f"formula `{text}`: {odd[0]!r} is not allowed. {ALLOWED}")
    body = text.removeprefix("~").strip().removeprefix("+").strip()
    if "~" in body:
        raise FormulaError(
            f"formula `{text}`: expected nothing on the left of ~, the maps are the response. Write "
            f"`{body.split('~')[-1].strip()}`."
        )
    if "**" in body:
        raise FormulaError(f"formula `{text}`: a power (**) is not allowed. {ALLOWED}")
    try:
        tree = ast.parse(body.replace(":", _COLON), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError(f"formula `{text}`: cannot be read. {ALLOWED}") from None
    walker = _Walker(text, known)
    written = walker.write(tree, 0)
    mixed = walker.factors & walker.plain
    if mixed:
        raise FormulaError(
            f"formula `{text}`: '{min(mixed)}' stands both in C() and without it. Write C({min(mixed)}) everywhere."
        )
    return _Checked(written, frozenset(walker.names), frozenset(walker.factors))


class _Walker:
    """Rewrite a syntax tree of allowed nodes and collect its names."""

    def __init__(self, text: str, known: set[str]) -> None:
        self.text = text
        self.known = known
        self.names: set[str] = set()
        self.factors: set[str] = set()
        self.plain: set[str] = set()

    def write(self, node: ast.AST, depth: int, top: bool = True) -> str:
        """Return a node as text; ``top`` says that it is a term of the formula, not inside brackets or a product."""
        if depth > MAX_DEPTH:
            raise self._refuse(f"nesting deeper than {MAX_DEPTH}")
        if isinstance(node, ast.Name):
            self.plain.add(node.id)
            return self._column(node)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in (0, 1):
            if not top:
                raise self._refuse(f"the value {node.value!r} inside brackets or a product")
            return str(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if not (top and isinstance(node.operand, ast.Constant)):
                raise self._refuse("a minus in front of anything but 0 or 1")
            return f"-{self.write(node.operand, depth + 1)}"
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._operation(node, depth, top)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            raise self._refuse(_NAMES_OF_NODES.get(type(node.op), f"the operator {type(node.op).__name__}"))
        if isinstance(node, ast.Constant):
            raise self._refuse(f"the value {node.value!r}")
        raise self._refuse(_NAMES_OF_NODES.get(type(node), type(node).__name__))

    def _operation(self, node: ast.BinOp, depth: int, top: bool) -> str:
        binds = _BINDS[type(node.op)]
        sides = []
        for side, bare in ((node.left, binds), (node.right, binds + 1)):
            # formulaic reads 0 and 1 as the intercept outside brackets alone, so no more brackets than needed.
            weaker = isinstance(side, ast.BinOp) and _BINDS.get(type(side.op), 0) < bare
            if isinstance(side, ast.UnaryOp) and (binds or side is node.right):
                raise self._refuse("a sign after an operator")
            text = self.write(side, depth + 1, top=top and not binds and not weaker)
            sides.append(f"({text})" if weaker else text)
        return _OPERATORS[type(node.op)].join(sides)

    def _call(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Name):
            raise self._refuse("calling anything but C, center or scale")
        if node.func.id not in TRANSFORMS:
            raise self._refuse(f"calling {node.func.id}()")
        if node.keywords:
            raise self._refuse("a named argument")
        if len(node.args) != 1 or not isinstance(node.args[0], ast.Name):
            raise self._refuse(f"{node.func.id}() of anything but one column name")
        name = self._column(node.args[0])
        if node.func.id == "C":
            self.factors.add(name)
            return name
        self.plain.add(name)
        # Covariates are centred already.
        return name if node.func.id == "center" else f"scale({name})"

    def _column(self, node: ast.Name) -> str:
        if node.id not in self.known or node.id in TRANSFORMS:
            raise FormulaError(
                f"formula `{self.text}`: '{node.id}' is no column of the table "
                f"({', '.join(sorted(self.known))}).{nearest(node.id, self.known)}"
            )
        self.names.add(node.id)
        return node.id

    def _refuse(self, what: str) -> FormulaError:
        return FormulaError(f"formula `{self.text}`: {what} is not allowed. {ALLOWED}")


def _is_numeric(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def _refuse_missing(name: str, column: pd.Series[Any], people: Sequence[str]) -> None:
    bad = column.isna().to_numpy(dtype=bool)
    if _is_numeric(column):
        bad = bad | ~np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if bad.any():
        missing = list(dict.fromkeys(p for p, wrong in zip(people, bad, strict=True) if wrong))
        raise DesignError(
            f"'{name}' is missing for participant{'s' if len(missing) > 1 else ''} {', '.join(missing)}; expected a "
            "value for "
            "everybody who is fitted. Add it to the participants table, or leave them out by name."
        )


def _refuse_constant(name: str, values: Floats) -> None:
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise DesignError(
            f"covariate {name} is the same for all {len(values)} people fitted ({values[0]:g}); expected values that "
            f"differ. Take {name} out of the formula, or let other people enter."
        )


def _factor(name: str, column: pd.Series[Any]) -> Any:
    text = [f"{v:g}" if isinstance(v, float | np.floating) else str(v) for v in column]
    if isinstance(column.dtype, pd.CategoricalDtype):
        order = [f"{v:g}" if isinstance(v, float | np.floating) else str(v) for v in column.cat.categories]
        levels = [level for level in order if level in set(text)]
    elif _is_numeric(column):
        levels = sorted(set(text), key=float)
    else:
        levels = sorted(set(text))
    if len(levels) < 2:
        raise DesignError(
            f"'{name}' has one level ({levels[0] if levels else 'none'}) among the rows fitted; a factor needs at "
            "least two. "
            f"Take {name} out of the formula, or let more people enter."
        )
    return pd.Categorical(text, categories=levels)


def _recode_groups(rows: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    if "group" not in rows.columns:
        raise DesignError("groups: expected a column group in the table, found none. Add it to the participants table.")
    owner: dict[str, str] = {}
    for union, members in groups.items():
        for level in members:
            if owner.setdefault(str(level), union) != union:
                raise DesignError(
                    f"groups: the level '{level}' is in {owner[str(level)]} and in {union}; expected one. Use other "
                    "unions."
                )
    names = [owner.get(str(level)) for level in rows["group"]]
    lost = [f"{p} ({g})" for p, g, name in zip(rows[PARTICIPANT], rows["group"], names, strict=True) if name is None]
    if lost:
        raise DesignError(
            f"groups: participants {', '.join(lost)} are in none of {', '.join(groups)}; expected one each. Correct "
            "`where`."
        )
    return rows.assign(group=pd.Categorical(names, categories=list(groups)))
