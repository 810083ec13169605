"""The null distribution of a permuted t contrast: one matrix product per batch of relabellings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from voxcloud.errors import DesignError, MaskError
from voxcloud.inference.exchange import Relabelling
from voxcloud.inference.neighbourhood import Neighbourhood, sizes_and_masses, tfce_maps

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALTERNATIVES = ("greater", "less", "two-sided")

# Fixed, so that the shape of every matrix product, and with it its last bits, does not depend on who asks for which
# relabellings: 16 relabellings by 4,096 voxels stay in the cache of one core.
_BATCH = 16
_WIDTH = 4096

# A relabelling whose maximum equals the observed value up to rounding counts as reaching it.
_TIE = 1e-9


@dataclass(frozen=True)
class PermutationProblem:
    """Everything that the relabellings need.

    ``residual`` (n, w) is what the nuisance model leaves of the data, at the w voxels where anything ``varies`` (v,);
    ``sum_squares`` (w,) are its sums of squares. ``neighbourhood`` and ``threshold`` (in t) are there for clusters,
    ``neighbourhood`` and ``tfce`` for TFCE.
    """

    relabelling: Relabelling
    residual: Floats
    sum_squares: Floats
    varies: NDArray[np.bool_]
    alternative: str
    neighbourhood: Neighbourhood | None
    threshold: float | None
    tfce: bool


@dataclass(frozen=True)
class NullPart:
    """Maxima of the relabellings ``first`` to ``last`` - 1, and per voxel how many of them reach the observed value.

    ``max_t``, ``max_size`` (voxels), ``max_mass`` (sum of t - threshold) and ``max_tfce`` are (last - first,), 0 for
    what was not asked for; ``reached`` is (w,).
    """

    first: int
    last: int
    max_t: Floats
    max_size: Floats
    max_mass: Floats
    max_tfce: Floats
    reached: Ints


def build_problem(
    data: ArrayLike,
    relabelling: Relabelling,
    alternative: str,
    where: Neighbourhood | None,
    cluster_forming_p: float | None,
    tfce: bool,
) -> PermutationProblem:
    """Check the data against the plan and take the nuisance part out of them.

    Parameters
    ----------
    data
        (n, v), finite.
    relabelling
        Of the same n rows.
    alternative
        ``greater``, ``less`` or ``two-sided``.
    where
        Places of the v voxels, for clusters or TFCE.
    cluster_forming_p
        Of the alternative: halved for each direction of a two-sided one.
    tfce
        Whether TFCE is wanted.

    Raises
    ------
    DesignError
        If the data do not fit the design, are not finite or do not vary, or a setting is not valid.
    MaskError
        If clusters or TFCE are asked for and the voxels' places are missing or do not fit the data.
    """
    values = np.asarray(data, dtype=np.float64)
    n = relabelling.interest.size
    if values.ndim != 2 or values.shape[0] != n:
        raise DesignError(
            f"permutation test: expected data of {n} rows by voxels, found shape {values.shape}. "
            "Give one row per row of the design."
        )
    if not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).any(axis=0).sum())
        raise DesignError(
            f"permutation test: expected finite data, found {missing} voxels with "
            "NaN or infinity. Leave those voxels out of the mask."
        )
    if alternative not in ALTERNATIVES:
        raise DesignError(
            f"permutation test: expected alternative to be one of {', '.join(ALTERNATIVES)}, found '{alternative}'. "
            "There is no default: name the direction."
        )
    if where is not None and where.index.shape[0] != values.shape[1]:
        raise MaskError(
            f"permutation test: expected {values.shape[1]} voxels in the mask, found {where.index.shape[0]}. "
            "Use the mask of the data."
        )
    if where is None and (cluster_forming_p is not None or tfce):
        raise MaskError(
            "permutation test: clusters or TFCE were asked for, expected voxel_index and shape, found none. Give both."
        )
    residual = relabelling.nuisance @ (relabelling.nuisance.T @ values)
    np.subtract(values, residual, out=residual)  # no third array of the data's size
    sum_squares = np.einsum("ij,ij->j", residual, residual)
    varies = sum_squares > 1e-20 * np.einsum("ij,ij->j", values, values)
    if not varies.any():
        raise DesignError("permutation test: expected data that vary, found none. Check the images and the mask.")
    if not varies.all():
        residual, sum_squares = np.ascontiguousarray(residual[:, varies]), sum_squares[varies]
        where = None if where is None else where.subset(varies)
    return PermutationProblem(
        relabelling=relabelling,
        residual=residual,
        sum_squares=sum_squares,
        varies=varies,
        alternative=alternative,
        neighbourhood=where,
        threshold=_threshold(cluster_forming_p, relabelling.df, alternative),
        tfce=tfce,
    )


def _threshold(cluster_forming_p: float | None, df: int, alternative: str) -> float | None:
    if cluster_forming_p is None:
        return None
    if not 0.0 < cluster_forming_p < 0.5:
        raise DesignError(
            f"permutation test: expected cluster_forming_p between 0 and 0.5, found {cluster_forming_p}. "
            "It is a p value, not a t; 0.001 is usual."
        )
    return float(stats.t.isf(cluster_forming_p / (2.0 if alternative == "two-sided" else 1.0), df))


def t_maps(problem: PermutationProblem, order: NDArray[np.intp], sign: Floats, start: int, stop: int) -> Floats:
    """Compute t of one batch of relabellings at voxels ``start`` to ``stop``: (batch, stop - start)."""
    plan = problem.relabelling
    columns = np.column_stack([plan.interest, plan.moving])
    batch, n = order.shape
    rows = np.empty((columns.shape[1], batch, n))
    # x'(sign y[order]) = sum over k of x[k] sign[k] y[order[k]]: the relabelling is carried to the design side.
    for column in range(columns.shape[1]):
        np.put_along_axis(rows[column], order, columns[:, column] * sign, axis=1)
    products = (rows.reshape(-1, n) @ problem.residual[:, start:stop]).reshape(columns.shape[1], batch, -1)
    return _t_from_products(products, problem.sum_squares[start:stop], plan.df)


def _t_from_products(products: Floats, sum_squares: Floats, df: int) -> Floats:
    interest: Floats = products[0]
    rest = interest * interest
    for nuisance in products[1:]:
        nuisance *= nuisance
        rest += nuisance
    np.subtract(sum_squares, rest, out=rest)
    # Rounding may leave a perfect fit with a tiny negative rest.
    np.maximum(rest, sum_squares * 1e-14, out=rest)
    np.sqrt(rest, out=rest)
    np.divide(interest, rest, out=interest)
    interest *= np.sqrt(df)
    return interest


def towards(t: Floats, alternative: str) -> Floats:
    """Orient maps so that larger is more extreme."""
    if alternative == "two-sided":
        return np.abs(t)
    return -t if alternative == "less" else t


def null_part(problem: PermutationProblem, observed: Floats, first: int, last: int) -> NullPart:
    """Compute the relabellings ``first`` to ``last`` - 1; parts can be computed anywhere and joined.

    Parameters
    ----------
    problem
        What ``build_problem`` made.
    observed
        (w,), observed t in the direction of the alternative (``towards``).
    """
    floor = first - first % _BATCH
    order, sign = problem.relabelling.indices(floor, last)
    missing = -order.shape[0] % _BATCH
    order = np.concatenate([order, np.repeat(order[:1], missing, axis=0)])
    sign = np.concatenate([sign, np.repeat(sign[:1], missing, axis=0)])
    maxima = np.zeros((4, order.shape[0]))
    v = problem.residual.shape[1]
    reached = np.zeros(v, dtype=np.int64)
    level = observed - _TIE * np.abs(observed)
    whole = problem.neighbourhood is not None and (problem.threshold is not None or problem.tfce)
    for batch in range(0, order.shape[0], _BATCH):
        rows = slice(batch, batch + _BATCH)
        wanted = slice(max(first - floor - batch, 0), min(last - floor - batch, _BATCH))
        maps = np.empty((_BATCH, v)) if whole else None
        highest = np.full(_BATCH, -np.inf)
        for start in range(0, v, _WIDTH):
            stop = min(start + _WIDTH, v)
            t = t_maps(problem, order[rows], sign[rows], start, stop)
            oriented = towards(t, problem.alternative)
            reached[start:stop] += (oriented[wanted] >= level[start:stop]).sum(axis=0)
            np.maximum(highest, oriented.max(axis=1), out=highest)
            if maps is not None:
                maps[:, start:stop] = t
        maxima[0, rows] = highest
        if maps is not None:
            _spatial_maxima(problem, maps, maxima[1:, rows])
    chosen = maxima[:, first - floor : last - floor]
    return NullPart(first, last, chosen[0], chosen[1], chosen[2], chosen[3], reached)


def oriented_sides(maps: Floats, alternative: str) -> list[tuple[str, Floats]]:
    """Return the maps in each direction that the alternative looks at."""
    sides = []
    if alternative in ("greater", "two-sided"):
        sides.append(("greater", maps))
    if alternative in ("less", "two-sided"):
        sides.append(("less", -maps))
    return sides


def _spatial_maxima(problem: PermutationProblem, maps: Floats, maxima: Floats) -> None:
    where = problem.neighbourhood
    assert where is not None
    for _, side in oriented_sides(maps, problem.alternative):
        if problem.threshold is not None:
            for row in range(side.shape[0]):
                sizes, masses, _, _ = sizes_and_masses(side[row], problem.threshold, where)
                if sizes.size:
                    maxima[0, row] = max(maxima[0, row], float(sizes.max()))
                    maxima[1, row] = max(maxima[1, row], float(masses.max()))
        if problem.tfce:
            np.maximum(maxima[2], tfce_maps(side, where).max(axis=1), out=maxima[2])


def p_from_maxima(observed: Floats, maxima: Floats) -> Floats:
    """Compute p = (1 + number of maxima at or above the observed value) / (1 + number of maxima).

    References
    ----------
    .. [1] Phipson B, Smyth GK. Permutation p-values should never be zero. Stat Appl Genet Mol Biol 2010;9:39.
       doi:10.2202/1544-6115.1585
    """
    level = observed - _TIE * np.abs(observed)
    reached = maxima.size - np.searchsorted(np.sort(maxima), level, side="left")
    p = (1.0 + reached) / (1.0 + maxima.size)
    return np.asarray(np.where(np.isnan(observed), np.nan, p), dtype=np.float64)


def monte_carlo_interval(p: float, n_permutations: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return where the p of all relabellings lies, given the p of ``n_permutations`` drawn ones.

    Clopper and Pearson's interval for b exceedances in n, b = p (n + 1) - 1. It shows whether more permutations could
    move p across alpha; p values of a full enumeration have no such error.

    Parameters
    ----------
    p
        A p value (1 + b) / (1 + n).
    n_permutations
        n, the relabellings drawn.
    confidence
        Level of the interval.

    References
    ----------
    .. [1] Clopper CJ, Pearson ES. Biometrika 1934;26:404-413. doi:10.1093/biomet/26.4.404
    """
    reached = round(p * (n_permutations + 1)) - 1
    tail = (1.0 - confidence) / 2.0
    low = float(stats.beta.ppf(tail, reached, n_permutations - reached + 1)) if reached > 0 else 0.0
    high = float(stats.beta.isf(tail, reached + 1, n_permutations - reached)) if reached < n_permutations else 1.0
    return low, high
