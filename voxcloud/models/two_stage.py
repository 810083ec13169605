"""First stage of the two-stage model: each participant's time coefficients, and how precisely each is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.errors import DesignError
from voxcloud.models.time_basis import INTERCEPT, TimeBasis

Floats = npt.NDArray[np.float64]
Weights = Literal["equal", "precision"]

# Of the norm of a unit vector: what a visit pattern may miss of a coefficient for rounding alone.
ESTIMABLE = 1e-8
# More digits would print 13.999999999 for a scan counted in weeks.
DAY_FORMAT = "{:.6g}"


@dataclass(frozen=True)
class Visits:
    """One participant's visits and what they say about each coefficient.

    Attributes
    ----------
    participant_id : who.
    rows : rows of the images, in the order given.
    days : days of the visits, in the same order.
    weights : (1 + terms, visits) rows of pinv(T): coefficient = weights @ images.
    variance_factor : term -> ``c'(T'T)^-1 c``, the variance of the coefficient over that of one image; inf where the
        visits do not determine it.
    ratio : term -> variance factor over that of the complete design.
    left_out_of : term -> why this participant does not enter it.
    """

    participant_id: str
    rows: tuple[int, ...]
    days: tuple[float, ...]
    weights: Floats
    variance_factor: Mapping[str, float]
    ratio: Mapping[str, float]
    left_out_of: Mapping[str, str]


@dataclass(frozen=True)
class VisitPlan:
    """Who enters which coefficient, with which rows and weights.

    Attributes
    ----------
    basis : the time basis.
    visits : participant -> visits, for everybody with enough of them, in order of first row.
    left_out : participant -> why they enter no coefficient.
    complete : term -> variance factor of the complete design.
    complete_days : its days.
    min_visits, max_variance_ratio, weights, accept_unequal_variance : as asked for.
    """

    basis: TimeBasis
    visits: Mapping[str, Visits]
    left_out: Mapping[str, str]
    complete: Mapping[str, float]
    complete_days: tuple[float, ...]
    min_visits: int
    max_variance_ratio: float
    weights: Weights
    accept_unequal_variance: bool

    @property
    def participants(self) -> tuple[str, ...]:
        """Everybody with enough visits."""
        return tuple(self.visits)

    @property
    def rows(self) -> Mapping[str, tuple[int, ...]]:
        """Participant -> rows of the images."""
        return {p: v.rows for p, v in self.visits.items()}

    @property
    def unequal(self) -> bool:
        """Whether a plain unweighted fit was asked for although some coefficient varies more than allowed."""
        return self.weights == "equal" and any(
            np.isfinite(v.ratio[t]) and v.ratio[t] > self.max_variance_ratio and t not in v.left_out_of
            for v in self.visits.values()
            for t in self.basis.terms
        )

    def participants_of(self, term: str) -> list[str]:
        """Return who enters a coefficient, in order of first row.

        Raises
        ------
        DesignError
            If nobody does; the message says why.
        """
        self._check(term)
        entering = self._entering(term)
        if not entering:
            who, why = next(iter(self.left_out_of(term).items()))
            raise DesignError(
                f"coefficient {term}: nobody's visits determine it as precisely as the complete design (days "
                f"{_list(self.complete_days)}) within a ratio of {self.max_variance_ratio:g}; e.g. participant "
                f"{who}: {why}. "
                "Correct reference_days or the rule on sessions, name fewer terms, or set max_variance_ratio."
            )
        return entering

    def _entering(self, term: str) -> list[str]:
        return [p for p, v in self.visits.items() if term not in v.left_out_of]

    def left_out_of(self, term: str) -> dict[str, str]:
        """Return participant -> reason for everybody who does not enter a coefficient."""
        self._check(term)
        return dict(self.left_out) | {p: v.left_out_of[term] for p, v in self.visits.items() if term in v.left_out_of}

    def first_level_weights(self, participant: str, term: str) -> Floats:
        """Return the weights (visits,) of one participant's images in a coefficient, in the order of ``rows``."""
        self._check(term)
        return np.asarray(self.visits[participant].weights[(INTERCEPT, *self.basis.terms).index(term)])

    def precision_weights(self, term: str, between_to_within: float = 1.0) -> list[float]:
        """Return a weight for each of ``participants_of(term)``, with mean 1, for a weighted group model.

        A coefficient differs between people and is measured with noise: ``Var(b_i) = tau^2 + sigma^2 v_i``. In units
        of the noise of a complete participant, ``w_i = 1 / (between_to_within + ratio_i)`` with ``between_to_within =
        tau^2 / (sigma^2 v_complete)``: least squares with these weights is generalised least squares.

        Pass the ratio that ``precision.pool_variances`` estimates from all voxels. The default of 1 (half of the
        spread of a complete cohort is noise) is for when there is none. Weights of 1 / ratio, which is 0 here, would
        take people for identical: then sparse rows have too little residual and p is too small wherever people do
        differ.

        References
        ----------
        Worsley et al. (2002), A general statistical analysis for fMRI data, doi:10.1006/nimg.2001.0933.
        """
        if not between_to_within >= 0:
            raise DesignError(f"weights: expected a ratio of variances of at least 0, found {between_to_within:g}.")
        raw = np.array([1.0 / (between_to_within + self.visits[p].ratio[term]) for p in self.participants_of(term)])
        return [float(w) for w in raw / raw.mean()]

    def describe(self) -> list[dict[str, Any]]:
        """Return one plain record per participant with enough visits (JSON; None for what is not determined)."""
        return [
            {
                "participant_id": v.participant_id,
                "n_visits": len(v.days),
                "days": list(v.days),
                "variance_factor": {t: _finite(f) for t, f in v.variance_factor.items()},
                "ratio": {t: _finite(r) for t, r in v.ratio.items()},
                "left_out_of": dict(v.left_out_of),
            }
            for v in self.visits.values()
        ]

    def sentences(self) -> list[str]:
        """Return what the report says about visits and precision."""
        days = _list(self.complete_days)
        words = [
            "Each participant's coefficients are ordinary least squares over their own visits (at least "
            f"{self.min_visits}). "
            f"The variance of a coefficient is compared with that of the complete design (days {days})."
        ]
        if self.weights == "precision":
            words.append("The group model weights each participant by the precision of the coefficient.")
        elif self.unequal:
            words.append(
                f"Participants whose coefficient has more than {self.max_variance_ratio:g} times the variance of the "
                "complete design "
                "were fitted unweighted with all others, as the study file asked: a single one of them can make or "
                "hide a result."
            )
        else:
            words.append(
                f"Participants whose coefficient has more than {self.max_variance_ratio:g} times that variance were "
                "left out of it, by name."
            )
        return words

    def _check(self, term: str) -> None:
        if term not in (INTERCEPT, *self.basis.terms):
            raise DesignError(f"coefficient: expected one of {', '.join(self.basis.terms)}, found '{term}'.")


def visit_plan(
    participant_ids: Sequence[str],
    days: Sequence[float],
    basis: TimeBasis,
    min_visits: int | None = None,
    max_variance_ratio: float = 4.0,
    *,
    weights: Weights = "equal",
    accept_unequal_variance: bool = False,
    complete_days: Sequence[float] | None = None,
) -> VisitPlan:
    """Decide who enters which coefficient, from the days on which people came.

    Without the last visit a coefficient may vary a few hundred times as much as with it (days 0, 7, 14, 28 against 0,
    7, 14, 28, 84, quadratic orthogonalised: the standard deviation of the linear coefficient grows 23-fold); one such
    participant can make or swallow a cluster. So the variance factor ``c'(T'T)^-1 c`` of every participant and term
    is compared with that of the complete design, and beyond ``max_variance_ratio`` the participant leaves that
    coefficient.

    Parameters
    ----------
    participant_ids : participant of each image.
    days : day of each image.
    basis : the time basis.
    min_visits : fewest visits; at least, and by default, the number of terms + 1.
    max_variance_ratio : largest variance over that of the complete design.
    weights : ``equal``, or ``precision``: everybody stays and the group model is weighted (``precision_weights``).
    accept_unequal_variance : with ``equal``: everybody stays in a plain unweighted fit, which ``unequal`` then says.
    complete_days : days of the complete design; the reference days by default. A model whose rule on sessions leaves
        planned visits out for everybody (``day <= 28``) names the reference days that are left: the basis stays the
        study's, but nobody can be asked for a visit that the model does not use.

    Raises
    ------
    DesignError
        If a setting is out of range, a day is missing, or nobody is left.
    """
    fewest = len(basis.terms) + 1 if min_visits is None else min_visits
    if fewest < len(basis.terms) + 1:
        raise DesignError(
            f"min_visits: {len(basis.terms)} time terms and an intercept need at least {len(basis.terms) + 1} "
            f"visits, found {fewest}. Raise min_visits or name fewer terms."
        )
    if not max_variance_ratio >= 1:
        raise DesignError(
            f"max_variance_ratio: expected at least 1, the complete design itself, found {max_variance_ratio:g}."
        )
    if weights not in ("equal", "precision"):
        raise DesignError(f"weights: expected equal or precision, found '{weights}'.")
    terms = (INTERCEPT, *basis.terms)
    planned = basis.reference_days if complete_days is None else tuple(float(d) for d in complete_days)
    complete = dict(zip(terms, _variance_factors(basis.evaluate(planned)), strict=True)) if planned else {}
    if not complete or not np.isfinite(list(complete.values())).all():
        raise DesignError(
            f"visits: the days of the complete design ({_list(planned) or 'none'}) do not determine "
            f"{', '.join(basis.terms)}. "
            "Let more sessions enter the model or name fewer terms."
        )
    own_rows: dict[str, list[int]] = {}
    for row, participant in enumerate(participant_ids):
        own_rows.setdefault(participant, []).append(row)
    if len(days) != len(participant_ids):
        raise DesignError(f"visits: expected a day for each of {len(participant_ids)} images, found {len(days)}.")
    stays = weights == "precision" or accept_unequal_variance
    visits: dict[str, Visits] = {}
    left_out: dict[str, str] = {}
    for participant, rows in own_rows.items():
        own_days = tuple(float(days[r]) for r in rows)
        if len(rows) < fewest:
            left_out[participant] = (
                f"has {len(rows)} visit{'s' if len(rows) > 1 else ''} (day {_list(own_days)}), needs {fewest}"
            )
            continue
        visits[participant] = _visits(
            participant, rows, own_days, basis, complete, np.inf if stays else max_variance_ratio
        )
    if not visits:
        raise DesignError(_nobody(fewest, max((len(rows) for rows in own_rows.values()), default=0), basis))
    return VisitPlan(
        basis, visits, left_out, complete, planned, fewest, max_variance_ratio, weights, accept_unequal_variance
    )


def participant_coefficients(Y: npt.ArrayLike, plan: VisitPlan) -> dict[str, Floats]:
    """Return each participant's coefficients, ``b_i = (T_i'T_i)^-1 T_i' y_i``.

    Sums run image by image in a fixed order, so that a voxel has the same bits in any block of voxels.

    Parameters
    ----------
    Y : (images, v) maps in the row order that the plan was made with; a NaN makes the participant's own voxel NaN.
    plan : who enters what.

    Returns
    -------
    coefficient (``intercept`` and the terms) -> (participants_of(coefficient), v) float64, in units of the map per unit
    of the basis' term

    Raises
    ------
    DesignError
        If Y has fewer rows than the plan.
    """
    data = np.asarray(Y)
    largest = max(max(v.rows) for v in plan.visits.values())
    if data.ndim != 2 or len(data) <= largest:
        raise DesignError(
            f"coefficients: expected at least {largest + 1} rows of images, found an array of shape {data.shape}."
        )
    found: dict[str, Floats] = {}
    for term in (INTERCEPT, *plan.basis.terms):
        people = plan._entering(term)
        values = np.zeros((len(people), data.shape[1]))
        for out, participant in zip(values, people, strict=True):
            for row, weight in zip(plan.rows[participant], plan.first_level_weights(participant, term), strict=True):
                out += weight * data[row].astype(np.float64)
        found[term] = values
    return found


def _visits(
    participant: str,
    rows: list[int],
    days: tuple[float, ...],
    basis: TimeBasis,
    complete: Mapping[str, float],
    limit: float,
) -> Visits:
    try:
        columns = basis.evaluate(days)
    except DesignError as error:
        raise DesignError(f"participant {participant}: {error}") from None
    factors = dict(zip((INTERCEPT, *basis.terms), _variance_factors(columns), strict=True))
    ratios = {term: factors[term] / complete[term] for term in basis.terms}
    reasons: dict[str, str] = {}
    for term, ratio in ratios.items():
        if not np.isfinite(ratio):
            reasons[term] = f"visits on days {_list(days)} do not determine the {term} coefficient"
        elif ratio > limit:
            reasons[term] = (
                f"visits on days {_list(days)}: variance of the {term} coefficient {ratio:.3g} times that of the "
                "complete design "
                f"(standard deviation {np.sqrt(ratio):.3g} times), above {limit:g}"
            )
    return Visits(
        participant,
        tuple(rows),
        days,
        np.asarray(np.linalg.pinv(columns), dtype=np.float64),
        {t: factors[t] for t in basis.terms},
        ratios,
        reasons,
    )


def _nobody(fewest: int, most: int, basis: TimeBasis) -> str:
    """Say why nobody has enough visits, and which setting can be changed."""
    needed = len(basis.terms) + 1
    if fewest > needed:
        next_action = f"Lower min_visits; {len(basis.terms)} time terms and an intercept need at least {needed}."
        if most < needed:
            next_action += " With so few visits, name fewer terms as well."
        return f"min_visits: nobody has {fewest} visits, the most that anybody has is {most}. {next_action}"
    return (
        f"visits: nobody has the {fewest} visits that {len(basis.terms)} time terms need, the most that anybody has is "
        f"{most}. Name fewer terms."
    )


def _variance_factors(columns: Floats) -> list[float]:
    """Return ``c'(T'T)^- c`` of each column, inf for one that the rows do not determine."""
    inverse = np.linalg.pinv(columns)
    # A coefficient is determined when its unit vector lies in the row space.
    missed = np.abs(inverse @ columns - np.eye(columns.shape[1])).max(axis=1)
    factors = (inverse**2).sum(axis=1)
    return [float(f) if m < ESTIMABLE else float("inf") for f, m in zip(factors, missed, strict=True)]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _list(days: Sequence[float]) -> str:
    return ", ".join(DAY_FORMAT.format(d) for d in days)
