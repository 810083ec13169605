"""The five group models of the simulated study, and the time basis that its changes follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from voxcloud.testing.fields import Float64

GROUPS: dict[str, tuple[str, ...]] = {
    "patients": ("sci_arm", "sci_leg"),
    "untrained": ("con_none",),
    "trained_controls": ("con_arm", "con_leg"),
    "controls": ("con_arm", "con_leg", "con_none"),
}
SCORE = "percent_correct"


@dataclass(frozen=True)
class GroupModel:
    """One group model: two groups compared, or a regression on a score.

    ``minus`` is empty for a regression on ``covariate``.
    """

    name: str
    contrast: str
    plus: str
    minus: str = ""
    covariate: str = ""
    estimator: str = "two-stage"
    nuisance: tuple[str, ...] = ("age", "tiv")

    def can_be_filled(self, group_sizes: Mapping[str, int]) -> bool:
        """Tell whether a cohort has people for both sides and degrees of freedom for the design."""
        plus, minus = (sum(group_sizes.get(level, 0) for level in levels(n)) for n in (self.plus, self.minus))
        return plus > 0 and (minus > 0 or not self.minus) and plus + minus > 2 + len(self.nuisance)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Coefficients that the model tests."""
        return ("value",) if self.estimator == "ols" else ("linear", "quadratic")

    def study_entry(self, maps: Sequence[str], inference: Mapping[str, object]) -> dict[str, object]:
        """Return the model as it stands in the study file."""
        names = [n for n in (self.plus, self.minus) if n]
        entry: dict[str, object] = {
            "name": self.name,
            "maps": list(maps),
            "where": f"group in [{', '.join(names)}]",
            "estimator": self.estimator,
        }
        entry |= {"session": "baseline"} if self.estimator == "ols" else {"min_visits": 3}
        entry["formula"] = " + ".join([self.covariate or "group", *self.nuisance])
        test = self.covariate or f"group[{self.plus}] - group[{self.minus}]"
        entry["contrasts"] = {self.contrast: {"test": test, "alternative": "two-sided"}}
        entry["inference"] = dict(inference)
        return entry


MODELS: tuple[GroupModel, ...] = (
    GroupModel("training", "patients_minus_untrained", "patients", "untrained"),
    GroupModel("arm_leg", "arms_minus_legs", "sci_arm", "sci_leg"),
    GroupModel("learning", "improvement", "patients", covariate=f"{SCORE}_improvement"),
    GroupModel("trained", "patients_minus_trained_controls", "patients", "trained_controls"),
    GroupModel("baseline", "patients_minus_controls", "patients", "controls", estimator="ols"),
)


@dataclass(frozen=True)
class PolynomialTime:
    """Linear and quadratic time as the study file asks for them.

    t = day / max(reference days); linear = t - mean(t); quadratic = t^2 residualised on 1 and t over the reference
    days. The constants are fixed by the reference days and applied at the actual days.
    """

    reference_days: tuple[float, ...]
    _constants: tuple[float, float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fix the constants of the basis."""
        t = np.asarray(self.reference_days) / max(self.reference_days)
        mean = float(t.mean())
        slope = float(((t - mean) * t**2).sum() / ((t - mean) ** 2).sum())
        object.__setattr__(self, "_constants", (mean, slope, float((t**2).mean())))

    def term(self, name: str, days: Float64) -> Float64:
        """Evaluate a term (intercept, linear or quadratic) at actual days."""
        mean, slope, square = self._constants
        t = np.asarray(days, dtype=np.float64) / max(self.reference_days)
        if name == "intercept":
            return np.ones_like(t)
        return t - mean if name == "linear" else t**2 - square - slope * (t - mean)

    def course(self, name: str, days: Float64) -> Float64:
        """Return the course of a planted change: the term, shifted so that nothing has changed on day 0."""
        if name == "intercept":
            return np.ones(len(days))
        return np.asarray(self.term(name, days) - self.term(name, np.zeros(1)))

    def unit_variance(self, name: str) -> float:
        """Return c'(X'X)^-1 c of a coefficient for the complete design; 1 for ``value``, a single image."""
        if name in ("value", "intercept"):
            return 1.0
        column = self.term(name, np.asarray(self.reference_days))
        return float(1.0 / (column**2).sum())


@dataclass(frozen=True)
class ExpectedTest:
    """What a design makes of a planted change, per SD of the coefficient."""

    t: float
    z: float
    df: int


def expected_test(
    model: GroupModel, participants: pd.DataFrame, multiplier: Mapping[str, float], size: float
) -> ExpectedTest:
    """Return the t that noise-free coefficients would have if their noise had an SD of one.

    t = size c'(X'X)^-1 X'u / sqrt(c'(X'X)^-1 c), u the participants' multipliers.

    A design that these people cannot fill (a group without people, no degrees of freedom) gives t = 0.

    Parameters
    ----------
    model
        The group model.
    participants
        participant_id, group, age, tiv and the model's covariate, of the people who enter.
    multiplier
        Planted change of each participant.
    size
        Change for a multiplier of one, in SDs of the coefficient.
    """
    table = participants[participants["group"].isin(levels(model.plus) + levels(model.minus))]
    if table.empty:
        return ExpectedTest(0.0, 0.0, 0)
    first = table["group"].isin(levels(model.plus)).to_numpy(float)
    columns = [first, 1.0 - first] if model.minus else [np.ones(len(table)), table[model.covariate].to_numpy(float)]
    columns += [table[name].to_numpy(float) for name in model.nuisance]
    x = np.column_stack(
        [columns[0], *(c if k == 0 and model.minus else c - c.mean() for k, c in enumerate(columns[1:]))]
    )
    df = len(table) - x.shape[1]
    if df < 1 or np.linalg.matrix_rank(x) < x.shape[1]:
        return ExpectedTest(0.0, 0.0, max(df, 0))
    c = np.zeros(x.shape[1])
    c[:2] = (1.0, -1.0) if model.minus else (0.0, 1.0)
    u = np.array([multiplier.get(pid, 0.0) for pid in table["participant_id"]])
    inverse = np.linalg.inv(x.T @ x)
    t = size * float(c @ inverse @ (x.T @ u)) / float(np.sqrt(c @ inverse @ c))
    z = float(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), df))) if t else 0.0
    return ExpectedTest(t, z, df)


def levels(name: str) -> tuple[str, ...]:
    """Return the levels of the group column behind a name."""
    if not name:
        return ()
    return GROUPS.get(name, (name,))
