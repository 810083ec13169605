"""Contrasts written in names: differences of cell means and slopes, never positions of columns."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ContrastError, DesignError, nearest
from voxcloud.models.formula import INTERCEPT, Design

Floats = npt.NDArray[np.float64]

GRAMMAR = (
    "Write group[patients] - group[untrained], a covariate such as age, group[patients]:age, or intercept, "
    "with numbers as factors."
)
MAX_LENGTH = 1000
MAX_DEPTH = 50
# Of the largest weight of a contrast: what may lie outside the row space of the design for rounding alone.
ESTIMABLE = 1e-8
_CELL = re.compile(r"([A-Za-z_]\w*)\[([^\[\]]*)\]")
_OUTSIDE = re.compile(r"[\w .+\-*/():]*", re.ASCII)


@dataclass(frozen=True)
class Contrast:
    """One question to a design.

    Attributes
    ----------
    weights : (q, p) weights on the design's columns, one row per equation.
    kind : ``t`` for one comparison, ``F`` for a list of them.
    text : the contrast as it was written.
    """

    weights: Floats
    kind: Literal["t", "F"]
    text: str

    @property
    def rank(self) -> int:
        """Independent rows: the numerator degrees of freedom of F."""
        return int(np.linalg.matrix_rank(self.weights))


def contrast_matrix(test: str | Sequence[str], design: Design) -> Contrast:
    """Turn a contrast in names into weights on a design's columns.

    ``factor[level]`` is the model's cell mean at that level: numeric covariates at their centre, other factors
    averaged with equal weight. ``covariate`` is its slope in the covariate's own unit, averaged over the levels with
    equal weight; ``factor[level]:covariate`` its slope at that level; ``a[x]:b[y]`` the mean of a cell. ``intercept``
    is the mean over the cells at the covariates' centre. Each is a design row, or a difference of design rows, and
    never the name of a column: in ``group * age`` the column ``age`` is the slope of the reference group alone,
    ``age`` here is not.

    Parameters
    ----------
    test : a linear combination such as ``0.5*group[a] + 0.5*group[b] - group[c]``; a list of them is an F test.
    design : the design that the contrast is about.

    Raises
    ------
    ContrastError
        If it cannot be read, names what the design has not, or cannot be estimated; the message names the contrast.
    """
    if isinstance(test, str):
        return Contrast(_weights(test, design)[None, :], "t", test)
    rows = list(test)
    if not rows:
        raise ContrastError(f"contrast: expected at least one comparison, found an empty list. {GRAMMAR}")
    for row in rows:
        if not isinstance(row, str):
            raise ContrastError(
                f"contrast {rows}: weights by position are refused, the order of columns is not part of a study. "
                f"{GRAMMAR}"
            )
    return Contrast(np.array([_weights(row, design) for row in rows]), "F", "; ".join(rows))


def _weights(text: str, design: Design) -> Floats:
    try:
        weights, constant = _Reader(text, design).read()
    except DesignError as error:
        raise ContrastError(f"contrast `{text}`: {error}") from None
    if constant != 0.0:
        raise ContrastError(
            f"contrast `{text}`: the number {constant:g} stands alone; numbers only multiply. {GRAMMAR}"
        )
    largest = float(np.abs(weights).max(initial=0.0))
    if largest < 1e-12:
        raise ContrastError(f"contrast `{text}`: all its weights are zero, it asks nothing. {GRAMMAR}")
    _refuse_inestimable(text, weights, design)
    # Rounding of cell means would otherwise show as weights of 1e-17 in the report.
    return np.where(np.abs(weights) < largest * 1e-12, 0.0, weights)


def _refuse_inestimable(text: str, weights: Floats, design: Design) -> None:
    length = np.sqrt((design.matrix**2).sum(axis=0))
    scale = np.where(length > 0, length, 1.0)
    _, s, vt = np.linalg.svd(design.matrix / scale)
    null = vt[int((s > s.max() * max(design.matrix.shape) * np.finfo(np.float64).eps * 8).sum()) :]
    scaled = weights / scale
    outside = null @ scaled
    if np.abs(outside).max(initial=0.0) <= ESTIMABLE * np.linalg.norm(scaled):
        return
    involved = np.abs(outside @ null) > 1e-8
    names = [name for name, inside in zip(design.columns, involved, strict=True) if inside]
    raise ContrastError(
        f"contrast `{text}` cannot be estimated: the design has {len(design.columns)} columns and rank "
        f"{design.rank}, and the data "
        f"cannot tell {', '.join(names)} apart (or from nothing). Take a term out of the formula, or ask for "
        "something else."
    )


class _Reader:
    """Read a linear combination of cells and slopes; values are pairs (weights, constant)."""

    def __init__(self, text: str, design: Design) -> None:
        self.text = text
        self.design = design
        self.cells: dict[str, tuple[str, str]] = {}
        self.key = "cell_"
        while self.key in text:
            self.key += "_"

    def read(self) -> tuple[Floats, float]:
        if len(self.text) > MAX_LENGTH:
            raise ContrastError(f"contrast: expected at most {MAX_LENGTH} characters, found {len(self.text)}.")
        # Levels may be any text (`sci-arm`, `06`), so cells are taken out before Python's grammar looks at the rest.
        body = _CELL.sub(self._keep, self.text.strip())
        if not body or not _OUTSIDE.fullmatch(body) or "**" in body or "//" in body:
            raise self._unreadable()
        try:
            # Written as a power, the colon binds before * as it does in formulas.
            tree = ast.parse(body.replace(":", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._unreadable() from None
        return self._value(tree, 0)

    def _keep(self, found: re.Match[str]) -> str:
        key = f"{self.key}{len(self.cells)}"
        self.cells[key] = (found.group(1), found.group(2).strip().strip("'\""))
        return key

    def _unreadable(self) -> ContrastError:
        return ContrastError(f"contrast `{self.text}` cannot be read. {GRAMMAR}")

    def _value(self, node: ast.AST, depth: int) -> tuple[Floats, float]:
        if depth > MAX_DEPTH:
            raise self._unreadable()
        zero = np.zeros(len(self.design.columns))
        if isinstance(node, ast.Constant):
            return zero, self._number(node.value)
        if isinstance(node, ast.Name) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)):
            return self._term(self._atoms(node, depth)), 0.0
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            weights, number = self._value(node.operand, depth + 1)
            sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
            return sign * weights, sign * number
        if isinstance(node, ast.BinOp):
            return self._combine(node, depth)
        raise self._unreadable()

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self._unreadable()
        return float(value)

    def _combine(self, node: ast.BinOp, depth: int) -> tuple[Floats, float]:
        left, a = self._value(node.left, depth + 1)
        right, b = self._value(node.right, depth + 1)
        if isinstance(node.op, ast.Add | ast.Sub):
            sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
            return left + sign * right, a + sign * b
        if isinstance(node.op, ast.Mult) and not left.any():
            return a * right, a * b
        if isinstance(node.op, ast.Mult) and not right.any():
            return b * left, a * b
        if isinstance(node.op, ast.Div) and not right.any() and b != 0:
            return left / b, a / b
        if isinstance(node.op, ast.Mult):
            raise ContrastError(
                f"contrast `{self.text}`: a product of two effects is not linear; an interaction is written with a "
                f"colon. {GRAMMAR}"
            )
        raise self._unreadable()

    def _atoms(self, node: ast.AST, depth: int) -> list[str]:
        if depth > MAX_DEPTH:
            raise self._unreadable()
        if isinstance(node, ast.Name):
            return [node.id]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self._atoms(node.left, depth + 1) + self._atoms(node.right, depth + 1)
        raise self._unreadable()

    def _term(self, atoms: list[str]) -> Floats:
        levels: dict[str, str] = {}
        slopes: list[str] = []
        for atom in atoms:
            if atom in self.cells:
                factor, level = self.cells[atom]
                if factor in levels:
                    raise ContrastError(
                        f"contrast `{self.text}`: one cell cannot be at two levels of {factor}. {GRAMMAR}"
                    )
                levels[factor] = level
            elif atom == INTERCEPT and len(atoms) == 1:
                return self._intercept()
            else:
                self._check_slope(atom, slopes)
                slopes.append(atom)
        return self.design.row(levels, slopes)

    def _check_slope(self, name: str, slopes: Sequence[str]) -> None:
        if name in slopes:
            raise ContrastError(f"contrast `{self.text}`: '{name}' stands twice in one product. {GRAMMAR}")
        if name in self.design.factor_levels:
            levels = self.design.factor_levels[name]
            raise ContrastError(
                f"contrast `{self.text}`: '{name}' is a factor; name its levels, e.g. {name}[{levels[-1]}] - "
                f"{name}[{levels[0]}]."
            )
        if name not in self.design.covariate_means:
            known = [INTERCEPT, *self.design.covariate_means, *self.design.factor_levels]
            raise ContrastError(
                f"contrast `{self.text}`: '{name}' is not in the design ({', '.join(known)}).{nearest(name, known)}"
            )

    def _intercept(self) -> Floats:
        row = self.design.row({}, ())
        if not row.any():
            raise ContrastError(
                f"contrast `{self.text}`: the formula `{self.design.formula}` has no intercept. Take `0 +` or `- 1` "
                "out of it."
            )
        return row
