"""Count false positives: null cohorts through the whole two-stage path, beside an independent code of the formula.

    python validation/false_positives.py [--cohorts 1000] [--seed 1] [--conditions standard,few-df] [--out FILE.json]

Every cohort is new: people whose intercept, linear and quadratic change differ, five visits with noise, a change that
all share, and no difference between the groups. voxcloud takes the images to clusters with its own functions;
``formula_from_papers.py``, which calls none of them, does the same, and both must give the same clusters and the same
p-values, cohort by cohort. A cohort counts when any cluster has p FWE at or below .05.

The exit status is 1 if a p-value differs, or if the standard condition finds more than .065.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before NumPy: one thread, as in production

import formula_from_papers as papers  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from scipy import stats  # noqa: E402

from voxcloud.inference.reml import estimate_covariance, group_components, pool_covariance  # noqa: E402
from voxcloud.inference.search import random_field_search  # noqa: E402
from voxcloud.inference.smoothness import estimate_smoothness, residual_rows  # noqa: E402
from voxcloud.models.ols import fit_ols, t_contrast  # noqa: E402
from voxcloud.models.time_basis import build_time_basis  # noqa: E402
from voxcloud.models.two_stage import participant_coefficients, visit_plan  # noqa: E402

Floats = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SHAPE = (22, 26, 22)
DAYS = np.array([0.0, 7.0, 14.0, 28.0, 84.0])
BASIS = build_time_basis("polynomial", DAYS.tolist(), ("linear", "quadratic"), "quadratic")
CONTRAST = np.array([1.0, -1.0, 0.0, 0.0])
ALPHA = 0.05
BOUND = 0.065  # of the standard condition
SAME_P = 1e-8  # relative


@dataclass(frozen=True)
class Condition:
    """One kind of cohort.

    Attributes
    ----------
    patients, controls
        People per group; the model has two group means, age and TIV.
    fwhm
        Of the images, in voxels.
    spread
        Standard deviation of the controls' change and noise over the patients'.
    unequal
        Whether the model has a variance per group.
    missing
        People without day 84.
    ribbon
        Whether the search volume is a thin ribbon instead of the whole mask.
    """

    name: str
    words: str
    patients: int = 17
    controls: int = 14
    fwhm: float = 3.0
    spread: float = 1.0
    unequal: bool = False
    missing: int = 0
    ribbon: bool = False


CONDITIONS = (
    Condition("standard", "31 people, 27 df, FWHM 3 voxels"),
    Condition("few-df", "16 people, 12 df", 8, 8),
    Condition("rough", "FWHM 2 voxels", fwhm=2.0),
    Condition("ribbon", "search volume: a ribbon 2 voxels thick", ribbon=True),
    Condition("unequal", "controls' SD twice the patients', `variance: unequal`", spread=2.0, unequal=True),
    Condition("missing", "4 people without day 84, who leave the coefficient: 23 df", missing=4),
)


@dataclass(frozen=True)
class Rate:
    """What a condition's cohorts gave."""

    condition: str
    words: str
    cohorts: int
    positive: int
    largest_difference: float
    different_clusters: int
    fwhm: float
    resels: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.positive / self.cohorts

    def interval(self) -> tuple[float, float]:
        """Return the exact binomial 95 % interval (Clopper and Pearson, doi:10.1093/biomet/26.4.404)."""
        found = stats.binomtest(self.positive, self.cohorts).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)


def circulant(n: int, fwhm: float) -> Float32:
    """Return the (n, n) matrix that smooths one axis with a Gaussian on a ring, for an output variance of 1."""
    sigma = fwhm / np.sqrt(8 * np.log(2))
    away = np.minimum(np.arange(n), n - np.arange(n))
    kernel = np.exp(-0.5 * (away / sigma) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    return np.array([np.roll(kernel, k) for k in range(n)], dtype=np.float32)


class Fields:
    """Smooth Gaussian fields of unit variance on the grid; three products with cached matrices smooth many at once."""

    def __init__(self, fwhm: float) -> None:
        self.x, self.y, self.z = (circulant(n, fwhm) for n in SHAPE)

    def sample(self, rng: np.random.Generator, n: int, mask: Bools) -> Float32:
        """Draw n fields: (n, v), the voxels of the mask."""
        white = rng.standard_normal((n, *SHAPE), dtype=np.float32)
        smooth = np.matmul(self.y, white @ self.z)  # the matrices are symmetric
        smooth = np.matmul(self.x, smooth.reshape(n, SHAPE[0], -1)).reshape(n, -1)
        return np.asarray(smooth[:, mask.ravel()])


def volumes() -> tuple[Bools, Bools]:
    """Return the analysis mask, an ellipsoid, and a ribbon in it: the upper half of a shell 2 voxels thick."""
    grid = np.indices(SHAPE) - (np.array(SHAPE) - 1)[:, None, None, None] / 2
    half = (np.array(SHAPE) / 2 - 1)[:, None, None, None]
    distance = np.sqrt(((grid / half) ** 2).sum(axis=0))
    depth = (1 - distance) * half.mean()
    return distance < 1, (distance < 1) & (depth > 1.5) & (depth < 3.7) & (grid[2] > 0)


@dataclass(frozen=True)
class Cohort:
    """Images (image, voxel), who and when, and the group model's rows by person."""

    images: Float32
    people: list[str]
    days: list[float]
    design: dict[str, Floats]
    groups: dict[str, str]


def draw(condition: Condition, fields: Fields, mask: Bools, rng: np.random.Generator) -> Cohort:
    """Draw a cohort without any difference between its groups.

    Noise has a standard deviation of 1. A person's linear and quadratic change vary as much as a complete person's
    estimate of them does (half of the spread between estimates is noise), the intercept twice as much as an image.
    All share a linear change, so that unequal variances have voxels to be estimated from.
    """
    n = condition.patients + condition.controls
    columns = BASIS.evaluate(DAYS)
    sd = np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
    spread = np.array([1.0] * condition.patients + [condition.spread] * condition.controls)
    own = fields.sample(rng, 3 * n, mask).reshape(3, n, -1) * np.array([2.0, *sd[1:]])[:, None, None]
    noise = fields.sample(rng, 5 * n, mask).reshape(n, 5, -1)
    images = noise + np.tensordot(columns, own, axes=(1, 0)).transpose(1, 0, 2)
    images *= spread[:, None, None]
    shared = 10.0 + 3.0 * sd[1] * columns[:, 1:2] * fields.sample(rng, 1, mask)
    images = np.asarray(images + shared, dtype=np.float32)
    names = [f"{k + 1:02d}" for k in range(n)]
    covariates = rng.standard_normal((n, 2)) * [11.0, 120.0]
    covariates -= covariates.mean(axis=0)
    arm = np.arange(n) < condition.patients
    design = {name: np.array([float(a), float(not a), *c]) for name, a, c in zip(names, arm, covariates, strict=True)}
    groups = {name: "patient" if a else "control" for name, a in zip(names, arm, strict=True)}
    gone = set(rng.choice(n, condition.missing, replace=False).tolist())
    kept = [(k, j) for k in range(n) for j in range(5) if not (k in gone and j == 4)]
    return Cohort(
        np.array([images[k, j] for k, j in kept]),
        [names[k] for k, _ in kept],
        [float(DAYS[j]) for _, j in kept],
        design,
        groups,
    )


def by_voxcloud(cohort: Cohort, condition: Condition, mask: Bools, roi: Bools | None) -> papers.Found:
    """Take a cohort's images to clusters with voxcloud's own functions."""
    plan = visit_plan(cohort.people, cohort.days, BASIS)
    people = plan.participants_of("linear")
    y = participant_coefficients(cohort.images, plan)["linear"]
    x, df = np.array([cohort.design[p] for p in people]), None
    if condition.unequal:
        components = group_components([cohort.groups[p] for p in people])[1]
        covariance = estimate_covariance(pool_covariance(y, x), x, components)
        y, x, df = covariance.whitener @ y, covariance.whitener @ x, covariance.erdf
    fit = fit_ols(y, x, df=df)
    t = t_contrast(fit, CONTRAST)[2]
    rows = residual_rows(len(people))
    residual = fit.standardised_residuals(y, rows)
    index = np.flatnonzero(mask.ravel())
    smooth = estimate_smoothness(
        lambda start, stop: residual[:, start:stop], rows.size, index, SHAPE, fit.df, n_scans=len(people)
    )
    found = random_field_search(t, fit.df, mask, index, np.eye(4), smooth, min_extent=0, roi=roi)
    ranked = sorted(found.clusters, key=lambda c: (-c.size_voxels, c.p_fwe))
    return papers.Found(
        tuple(c.size_voxels for c in ranked),
        tuple(c.p_fwe for c in ranked),
        np.array(found.fwhm_voxels),
        np.array(found.resels),
    )


def by_the_papers(cohort: Cohort, condition: Condition, mask: Bools, roi: Bools | None) -> papers.Found:
    """Take a cohort's images to clusters with the independent code."""
    complete = {p for p in cohort.design if cohort.people.count(p) == len(DAYS)}
    rows = [k for k, p in enumerate(cohort.people) if p in complete]
    person = np.array([int(cohort.people[k]) for k in rows])
    days = np.array(cohort.days)[rows]
    y = papers.linear_coefficients(cohort.images[rows].astype(np.float64), person, days, float(DAYS[-1]))
    names = [f"{k:02d}" for k in np.unique(person)]
    x = np.array([cohort.design[p] for p in names])
    if condition.unequal:
        weights = papers.restricted_likelihood_whitener(y, x, [cohort.groups[p] for p in names])[:, None]
        y, x = weights * y, weights * x
    t, residual, df = papers.group_t(y, x, CONTRAST)
    return papers.clusters(t, residual, mask, mask if roi is None else roi, df)


def difference(one: papers.Found, other: papers.Found) -> float:
    """Return the largest relative difference between the p-values; infinite if the clusters are not the same."""
    if one.sizes != other.sizes:
        return np.inf
    a, b = np.array(one.p_fwe), np.array(other.p_fwe)
    return float(np.max(np.abs(a - b) / b, initial=0.0))


def run(condition: Condition, cohorts: int, seed: int) -> Rate:
    """Draw and analyse the cohorts of one condition; cohort k of a condition is the same however many are drawn."""
    start = time.process_time()
    mask, ribbon = volumes()
    roi, fields = ribbon if condition.ribbon else None, Fields(condition.fwhm)
    number = [c.name for c in CONDITIONS].index(condition.name)
    positive, worst, other = 0, 0.0, 0
    width, volume = 0.0, 0.0
    for k in range(cohorts):
        cohort = draw(condition, fields, mask, np.random.default_rng([seed, number, k]))
        ours, theirs = (code(cohort, condition, mask, roi) for code in (by_voxcloud, by_the_papers))
        gap = difference(ours, theirs)
        if gap == np.inf:
            other += 1
        else:
            worst = max(worst, gap)
        positive += min(ours.p_fwe, default=1.0) <= ALPHA
        width += float(ours.fwhm.prod() ** (1 / 3)) / cohorts
        volume += float(ours.resels[3]) / cohorts
    return Rate(
        condition.name, condition.words, cohorts, positive, worst, other, width, volume, time.process_time() - start
    )


def chosen(names: str) -> Sequence[Condition]:
    """Return conditions by name."""
    wanted = [name.strip() for name in names.split(",")] if names else [c.name for c in CONDITIONS]
    unknown = [name for name in wanted if name not in {c.name for c in CONDITIONS}]
    if unknown:
        raise SystemExit(f"--conditions: expected {', '.join(c.name for c in CONDITIONS)}, found {', '.join(unknown)}")
    return [c for c in CONDITIONS if c.name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per condition as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cohorts", type=int, default=1000, help="null cohorts per condition (1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--conditions", default="", help="names, separated by commas; all by default")
    parser.add_argument("--out", type=Path, help="write the rates as JSON too")
    options = parser.parse_args(arguments)
    rates = []
    print(f"{'condition':10} {'cohorts':>7} {'positive':>8} {'rate':>6}  {'95 % interval':15} "
          f"{'FWHM':>5} {'resels':>6} {'p: largest rel. difference':>27} {'CPU s':>6}")  # fmt: skip
    for condition in chosen(options.conditions):
        rate = run(condition, options.cohorts, options.seed)
        low, high = rate.interval()
        same = f"{rate.largest_difference:.1e}" + (
            f", {rate.different_clusters} differ" * bool(rate.different_clusters)
        )
        print(f"{rate.condition:10} {rate.cohorts:7d} {rate.positive:8d} {rate.rate:6.3f}  {low:.4f} to {high:.4f} "
              f"{rate.fwhm:6.2f} {rate.resels:6.1f} {same:>27} {rate.cpu_seconds:6.0f}", flush=True)  # fmt: skip
        rates.append(rate)
    if options.out:
        options.out.write_text(
            json.dumps([{**r.__dict__, "rate": r.rate, "ci": r.interval()} for r in rates], indent=1)
        )
    different = any(r.different_clusters or r.largest_difference > SAME_P for r in rates)
    return int(different or any(r.condition == "standard" and r.rate > BOUND for r in rates))


if __name__ == "__main__":
    sys.exit(main())
