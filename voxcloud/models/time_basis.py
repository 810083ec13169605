"""Bases of time: built once from a study's reference days, evaluated at the days on which people came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import DesignError, nearest

Kind = Literal["polynomial", "piecewise", "categorical"]
Floats = npt.NDArray[np.float64]

POWERS: Mapping[str, int] = {"linear": 1, "quadratic": 2, "cubic": 3}
INTERCEPT = "intercept"
# A study file that names no terms carries these; they mean nothing to a basis that is made from knots or days.
DEFAULT_TERMS = ("linear", "quadratic")


@dataclass(frozen=True)
class TimeBasis:
    """A basis of time whose columns do not depend on who was scanned when.

    Attributes
    ----------
    kind : how the terms are made.
    reference_days : days of the complete design, increasing.
    terms : names of the columns after the intercept.
    scale_days : the unit of time in days; polynomial and piecewise terms count time in this unit.
    orthogonalise : the term that is residualised on the intercept and the other terms over the reference days.
    knots : days at which a piecewise slope may change.
    projection : (len(terms),) weights on the intercept and the other terms (in their order) that are taken off the
        orthogonalised term; empty without one.
    """

    kind: Kind
    reference_days: tuple[float, ...]
    terms: tuple[str, ...]
    scale_days: float
    orthogonalise: str | None = None
    knots: tuple[float, ...] = ()
    projection: tuple[float, ...] = ()

    def evaluate(self, days: Sequence[float] | npt.ArrayLike) -> Floats:
        """Return the columns at some days, shape (n, 1 + len(terms)), the intercept first.

        Nothing is centred or orthogonalised over ``days``: a participant's columns do not change when another visit
        or another participant arrives.

        Raises
        ------
        DesignError
            If a day is not finite or, in a categorical basis, is near no reference day.
        """
        columns = self.evaluate_raw(days)
        if self.orthogonalise is None:
            return columns
        own = 1 + self.terms.index(self.orthogonalise)
        others = [j for j in range(columns.shape[1]) if j != own]
        # Column by column: a product would round by the number of days.
        for j, weight in zip(others, self.projection, strict=True):
            columns[:, own] -= weight * columns[:, j]
        return columns

    def evaluate_raw(self, days: Sequence[float] | npt.ArrayLike) -> Floats:
        """Return the columns before orthogonalisation, shape (n, 1 + len(terms))."""
        when = np.atleast_1d(np.asarray(days, dtype=np.float64))
        if not np.isfinite(when).all():
            raise DesignError(
                "time: expected a finite day for every visit, found a missing one. Check the sessions table."
            )
        columns = np.ones((when.size, 1 + len(self.terms)))
        if self.kind == "polynomial":
            for j, term in enumerate(self.terms, 1):
                columns[:, j] = (when / self.scale_days) ** POWERS[term]
        elif self.kind == "piecewise":
            columns[:, 1:] = _segments(when, self.knots) / self.scale_days
        else:
            columns[:, 1:] = self._visits(when)[:, None] == np.arange(1, len(self.reference_days))
        return columns

    def unit_of(self, term: str) -> str:
        """Return what follows a map's unit in the unit of a coefficient, e.g. ``per (84 days)²``."""
        if self.kind == "categorical" or term == INTERCEPT:
            return ""
        power = POWERS.get(term, 1)
        span = f"{self.scale_days:g} days"
        return f"per {span}" if power == 1 else f"per ({span}){'²' if power == 2 else '³'}"

    def describe(self) -> dict[str, Any]:
        """Return the basis for the report: columns at the reference days, collinearity, and words.

        ``correlation`` and ``vif`` are those of the terms before orthogonalisation over the reference days,
        ``vif_used`` of the terms as they enter the model.
        """
        raw, used = self.evaluate_raw(self.reference_days), self.evaluate(self.reference_days)
        return {
            "kind": self.kind,
            "reference_days": list(self.reference_days),
            "terms": list(self.terms),
            "scale_days": self.scale_days,
            "knots": list(self.knots),
            "orthogonalise": self.orthogonalise,
            "units": {term: self.unit_of(term) for term in self.terms},
            "matrix": used.tolist(),
            "correlation": np.atleast_2d(np.corrcoef(raw[:, 1:], rowvar=False)).tolist(),
            "vif": dict(zip(self.terms, variance_inflation(raw), strict=True)),
            "vif_used": dict(zip(self.terms, variance_inflation(used), strict=True)),
            "sentences": self._sentences(raw),
        }

    def _sentences(self, raw: Floats) -> list[str]:
        days = ", ".join(f"{d:g}" for d in self.reference_days)
        first = f"day {self.reference_days[0]:g}"
        made = {
            "polynomial": f"Time is day / {self.scale_days:g}; its terms are {', '.join(self.terms)}.",
            "piecewise": f"Time is a broken line with knots at day {', '.join(f'{k:g}' for k in self.knots)}; "
            f"each term is the slope of one segment per {self.scale_days:g} days.",
            "categorical": f"Each term is the difference between a reference day and {first}; "
            "an actual day counts as the reference day nearest to it.",
        }[self.kind]
        words = [
            f"{made} The basis was built once from the reference days {days} and evaluated at the actual days; "
            "nothing was centred or orthogonalised within a participant."
        ]
        if len(self.terms) == 2 and self.kind == "polynomial":
            r = float(np.corrcoef(raw[:, 1], raw[:, 2])[0, 1])
            words.append(
                f"Over the reference days the terms {self.terms[0]} and {self.terms[1]} correlate at {r:.3f} "
                f"(variance inflation {variance_inflation(raw)[0]:.1f})."
            )
        if self.orthogonalise is not None:
            words += self._orthogonalisation()
        return words

    def _orthogonalisation(self) -> list[str]:
        own = self.orthogonalise
        others = [t for t in self.terms if t != own]
        named = " and ".join(others)
        plural = len(others) > 1
        return [
            f"The {own} term was residualised on the intercept and the {named} term{'s' if plural else ''} over the "
            "reference days.",
            f"This does not change the test of the {own} term: its coefficient, t and p are those of the plain model.",
            f"It changes what the {named} term{'s mean' if plural else ' means'}: "
            f"{'they absorb' if plural else 'it absorbs'} "
            f"the variance shared with the {own} term, so a {named} effect may come from change of either shape. "
            "Without "
            f"orthogonalisation {'they' if plural else 'it'} would be tested over and above the {own} term.",
        ]

    def _visits(self, when: Floats) -> npt.NDArray[np.intp]:
        """Return the position of the reference day that each actual day stands for."""
        reference = np.asarray(self.reference_days)
        gaps = np.diff(reference)
        # Half the smaller gap to a neighbour: a scan further away than that stands for no planned visit.
        reach = np.minimum(np.r_[np.inf, gaps], np.r_[gaps, np.inf]) / 2
        position = np.abs(when[:, None] - reference).argmin(axis=1)
        far = np.abs(when - reference[position]) > reach[position]
        if far.any():
            day = when[far][0]
            raise DesignError(
                f"time: day {day:g} is near no reference day ({', '.join(f'{d:g}' for d in reference)}); the nearest, "
                f"{reference[position[far][0]]:g}, stands for days up to {reach[position[far][0]]:g} away. Leave the "
                "session out, correct its day, or use a polynomial or piecewise basis."
            )
        return np.asarray(position)


def build_time_basis(
    kind: Kind,
    reference_days: Sequence[float],
    terms: Sequence[str],
    orthogonalise: str | None = None,
    knots: Sequence[float] = (),
) -> TimeBasis:
    """Build a basis of time from the days of the complete design.

    polynomial: ``t = day / max|reference_days|``, columns ``t, t^2, t^3``. piecewise: column j is the time spent in
    segment j since day 0, in units of ``max|reference_days|``, so that its coefficient is that segment's slope.
    categorical: an indicator of each reference day but the first. ``orthogonalise: q`` replaces column q by
    ``q - [1, others] P`` with ``P = argmin ||q - [1, others] P||`` over the reference days, fixed for good.

    Parameters
    ----------
    kind : polynomial, piecewise or categorical.
    reference_days : days of the complete design, increasing.
    terms : polynomial: some of linear, quadratic, cubic. Otherwise made from knots or days, and need not be named.
    orthogonalise : the term to residualise, or None.
    knots : piecewise: days strictly inside the reference days, increasing.

    Raises
    ------
    DesignError
        If the reference days cannot carry the terms.

    References
    ----------
    Mumford, Poline, Poldrack (2015), Orthogonalization of regressors in fMRI models, doi:10.1371/journal.pone.0126255.
    """
    days = tuple(float(d) for d in reference_days)
    if len(days) < 2 or not np.isfinite(days).all() or any(b <= a for a, b in pairwise(days)):
        raise DesignError(
            f"reference_days: expected at least two days in increasing order, found {list(reference_days)}."
        )
    inner = tuple(float(k) for k in knots)
    _check_knots(kind, days, inner)
    names = _term_names(kind, days, tuple(terms), inner)
    if len(days) < len(names) + 1:
        raise DesignError(
            f"time: {len(names)} terms and an intercept need at least {len(names) + 1} reference days, found "
            f"{len(days)}. "
            "Name fewer terms."
        )
    basis = TimeBasis(kind, days, names, max(abs(d) for d in days), None, inner)
    raw = basis.evaluate_raw(days)
    if np.linalg.matrix_rank(raw) < raw.shape[1]:
        raise DesignError(
            f"time: the terms {', '.join(names)} cannot be told apart on the reference days "
            f"{', '.join(f'{d:g}' for d in days)}. Use fewer terms or fewer knots."
        )
    if orthogonalise is None:
        return basis
    if orthogonalise not in names:
        raise DesignError(
            f"orthogonalise: expected one of {', '.join(names)}, found "
            f"'{orthogonalise}'.{nearest(orthogonalise, names)}"
        )
    own = 1 + names.index(orthogonalise)
    others = np.delete(raw, own, axis=1)
    projection = np.linalg.lstsq(others, raw[:, own], rcond=None)[0]
    return TimeBasis(kind, days, names, basis.scale_days, orthogonalise, inner, tuple(float(p) for p in projection))


def variance_inflation(columns: Floats) -> list[float]:
    """Return 1 / (1 - R^2) of each column after the first, regressed on all the others; ``inf`` where R^2 is 1."""
    found = []
    for j in range(1, columns.shape[1]):
        others = np.delete(columns, j, axis=1)
        own = columns[:, j]
        residual = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
        total, left = float(((own - own.mean()) ** 2).sum()), float((residual**2).sum())
        found.append(total / left if left > total * 1e-12 else float("inf"))
    return found


def _check_knots(kind: Kind, days: tuple[float, ...], knots: tuple[float, ...]) -> None:
    if kind != "piecewise":
        if knots:
            raise DesignError(
                f"knots: only a piecewise basis has knots, this one is {kind}. Remove knots or set basis: piecewise."
            )
        return
    inside = all(days[0] < k < days[-1] for k in knots)
    if not knots or not inside or any(b <= a for a, b in pairwise(knots)):
        raise DesignError(
            f"knots: expected at least one day inside {days[0]:g} to {days[-1]:g}, in increasing order, found "
            f"{list(knots)}."
        )


def _term_names(
    kind: Kind, days: tuple[float, ...], terms: tuple[str, ...], knots: tuple[float, ...]
) -> tuple[str, ...]:
    if kind == "polynomial":
        unknown = [t for t in terms if t not in POWERS]
        if unknown:
            raise DesignError(
                f"terms: expected some of {', '.join(POWERS)}, found '{unknown[0]}'.{nearest(unknown[0], POWERS)}"
            )
        if not terms or len(set(terms)) < len(terms):
            raise DesignError(f"terms: expected each term once and at least one, found {list(terms)}.")
        return terms
    if kind == "piecewise":
        label = [_label(k) for k in knots]
        middle = [f"slope{a}To{b}" for a, b in pairwise(label)]
        made = (f"slopeTo{label[0]}", *middle, f"slopeFrom{label[-1]}")
    elif kind == "categorical":
        made = tuple(f"day{_label(d)}" for d in days[1:])
    else:
        raise DesignError(f"basis: expected polynomial, piecewise or categorical, found '{kind}'.")
    if terms not in ((), DEFAULT_TERMS, made):
        raise DesignError(
            f"terms: a {kind} basis makes its own terms ({', '.join(made)}), found {list(terms)}. Remove terms."
        )
    return made


def _label(day: float) -> str:
    """Return a day in letters and digits, as file names need it: -1.5 is m1p5."""
    return f"{day:g}".replace("-", "m").replace(".", "p").replace("+", "")


def _segments(when: Floats, knots: tuple[float, ...]) -> Floats:
    """Return the time since day 0 that lies in each segment, shape (n, len(knots) + 1)."""
    edges = np.r_[-np.inf, np.asarray(knots), np.inf]

    def lengths(at: Floats) -> Floats:
        # Measured from a finite edge of each segment; the choice drops out of the difference to day 0.
        anchor = np.r_[knots[0], np.asarray(knots)]
        return np.asarray(np.clip(at[:, None], edges[:-1], edges[1:]) - anchor, dtype=np.float64)

    return np.asarray(lengths(when) - lengths(np.zeros(1)), dtype=np.float64)
