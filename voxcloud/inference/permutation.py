"""Permutation inference of t contrasts: Freedman-Lane, sign flips, max statistics, clusters and TFCE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxcloud.errors import DesignError
from voxcloud.inference.exchange import plan_relabelling
from voxcloud.inference.neighbourhood import neighbourhood_of, sizes_and_masses, tfce_maps
from voxcloud.inference.permutation_null import (
    NullPart,
    PermutationProblem,
    build_problem,
    null_part,
    oriented_sides,
    p_from_maxima,
    t_maps,
    towards,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PermutedCluster:
    """One cluster of the observed map.

    Attributes
    ----------
    label, direction
        Its number in the map of labels; ``greater`` or ``less``.
    size_voxels, mass
        Voxels, and the sum of |t| - threshold over them.
    peak_t, peak_voxel
        The most extreme t and its position in the vector of voxels.
    p_fwe_size, p_fwe_mass
        (1 + maxima that reach it) / (1 + relabellings), over size and over mass.
    """

    label: int
    direction: str
    size_voxels: int
    mass: float
    peak_t: float
    peak_voxel: int
    p_fwe_size: float
    p_fwe_mass: float


@dataclass(frozen=True)
class PermutationResult:
    """Observed maps and their permutation p values.

    ``t``, ``effect``, ``p_uncorrected`` and ``p_fwe`` are (v,), NaN at voxels where nothing varies. ``max_t``,
    ``max_size``, ``max_mass`` and ``max_tfce`` are the null distributions (n_permutations,), without the observed
    value, in the direction of the alternative (|t| if two-sided). ``labels`` (v,) numbers the clusters from 1.
    ``tfce`` and ``p_fwe_tfce`` are (v,), signed, and None unless asked for. ``df`` are error degrees of freedom;
    ``kind`` is permutation or sign-flip; with ``exact`` all ``n_possible`` relabellings were taken, otherwise they were
    drawn with ``seed``; ``cluster_threshold`` is in t. The smallest p possible is 1 / (1 + n_permutations).
    """

    t: Floats
    effect: Floats
    df: int
    alternative: str
    kind: str
    exact: bool
    n_permutations: int
    n_possible: int
    seed: int
    p_uncorrected: Floats
    p_fwe: Floats
    max_t: Floats
    cluster_threshold: float | None
    labels: NDArray[np.int32] | None
    clusters: tuple[PermutedCluster, ...]
    max_size: Floats
    max_mass: Floats
    tfce: Floats | None
    p_fwe_tfce: Floats | None
    max_tfce: Floats


def prepare_permutation(
    data: ArrayLike,
    design: ArrayLike,
    weights: ArrayLike,
    *,
    n_permutations: int,
    seed: int,
    alternative: str,
    participant_ids: Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    exchange: str = "auto",
    whitener: ArrayLike | None = None,
    voxel_index: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    connectivity: int = 18,
    cluster_forming_p: float | None = None,
    tfce: bool = False,
) -> PermutationProblem:
    """Plan the relabellings and take the nuisance part out of the data; parameters of :func:`permutation_test`.

    With :func:`~voxcloud.inference.permutation_null.null_part` and :func:`finish_permutation` the work can be cut
    into ranges of relabellings that run anywhere; the result is the same to the last bit.

    Raises
    ------
    DesignError, ContrastError, MaskError
        As :func:`permutation_test`.
    """
    if (voxel_index is None) != (shape is None):
        raise DesignError(
            "permutation test: expected voxel_index and shape together, found one of them. Give both or neither."
        )
    relabelling = plan_relabelling(
        design,
        weights,
        n_permutations=n_permutations,
        seed=seed,
        blocks=blocks,
        participant_ids=participant_ids,
        exchange=exchange,
        whitener=whitener,
    )
    if whitener is not None:
        data = np.asarray(whitener, dtype=np.float64) @ np.asarray(data, dtype=np.float64)
    where = None
    if voxel_index is not None and shape is not None and (cluster_forming_p is not None or tfce):
        where = neighbourhood_of(voxel_index, shape, connectivity=connectivity)
    return build_problem(data, relabelling, alternative, where, cluster_forming_p, tfce)


def observed_t(problem: PermutationProblem) -> Floats:
    """Return the observed t (w,) at the voxels where anything varies."""
    order, sign = problem.relabelling.indices(0, 1)
    t: Floats = t_maps(problem, order, sign, 0, problem.residual.shape[1])[0]
    return t


def permutation_test(
    data: ArrayLike,
    design: ArrayLike,
    weights: ArrayLike,
    *,
    n_permutations: int,
    seed: int,
    alternative: str,
    participant_ids: Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    exchange: str = "auto",
    whitener: ArrayLike | None = None,
    voxel_index: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    connectivity: int = 18,
    cluster_forming_p: float | None = None,
    tfce: bool = False,
) -> PermutationResult:
    """Test a t contrast at every voxel against the permutation distribution of the maximum.

    Model y = X b + e with X split by the contrast into the part of interest x and nuisance Z. Freedman and Lane:
    y* = P R_Z y (+ H_Z y, which t does not see), P a permutation or a diagonal of signs, R_Z = I - H_Z; then
    t* of the full model, and p = (1 + number of max t* >= t) / (1 + number of relabellings).

    Parameters
    ----------
    data
        (n, v), one row per participant, any unit.
    design
        (n, p) design matrix.
    weights
        (p,) contrast.
    n_permutations
        Relabellings beside the observed data. If no more exist, each is taken once and the p values are exact.
    seed
        Seed; every relabelling has its own stream.
    alternative
        ``greater``, ``less`` or ``two-sided``; no default.
    participant_ids
        (n,) labels, to refuse a participant with several rows.
    blocks
        (n,) labels; rows are exchanged within a block only, e.g. within a scanner.
    exchange
        ``auto`` (sign flips where the contrast tests a mean, permutations elsewhere), ``permutation``, ``sign-flip``.
    whitener
        (n, n), for unequal variances: data and design are multiplied with it and whitened residuals are relabelled.
        Whether the contrast tests a mean is asked of the design as given.
    voxel_index, shape
        Places of the voxels, (v,) C order in a grid of ``shape`` or (v, 3); needed for clusters and TFCE.
    connectivity
        6, 18 or 26, for clusters and TFCE.
    cluster_forming_p
        Cluster-forming p of the test (two-sided: of both tails together).
    tfce
        Enhance by the exact TFCE of the package tfce, E = 0.5, H = 2.

    Raises
    ------
    DesignError
        If data, design and labels do not fit together, or a participant has several rows.
    ContrastError
        If the contrast is zero or not estimable.
    MaskError
        If clusters or TFCE are asked for and the voxels' places are missing or do not fit.

    References
    ----------
    .. [1] Winkler AM et al. Permutation inference for the general linear model. NeuroImage 2014;92:381-397.
       doi:10.1016/j.neuroimage.2014.01.060
    .. [2] Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. J Bus Econ Stat
       1983;1:292-298. doi:10.1080/07350015.1983.10509354
    .. [3] Smith SM, Nichols TE. Threshold-free cluster enhancement. NeuroImage 2009;44:83-98.
       doi:10.1016/j.neuroimage.2008.03.061
    """
    problem = prepare_permutation(
        data,
        design,
        weights,
        n_permutations=n_permutations,
        seed=seed,
        alternative=alternative,
        participant_ids=participant_ids,
        blocks=blocks,
        exchange=exchange,
        whitener=whitener,
        voxel_index=voxel_index,
        shape=shape,
        connectivity=connectivity,
        cluster_forming_p=cluster_forming_p,
        tfce=tfce,
    )
    part = null_part(problem, towards(observed_t(problem), alternative), 1, problem.relabelling.n_permutations + 1)
    return finish_permutation(problem, [part])


def _joined(parts: Sequence[NullPart], n_permutations: int) -> NullPart:
    ordered = sorted(parts, key=lambda part: part.first)
    edges = [1, *(part.last for part in ordered)]
    if [part.first for part in ordered] != edges[:-1] or edges[-1] != n_permutations + 1:
        found = ", ".join(f"{part.first} to {part.last - 1}" for part in ordered)
        raise DesignError(
            f"permutation test: expected parts that cover relabellings 1 to {n_permutations} once, found {found}. "
            "Compute the missing parts."
        )
    return NullPart(
        first=1,
        last=n_permutations + 1,
        max_t=np.concatenate([part.max_t for part in ordered]),
        max_size=np.concatenate([part.max_size for part in ordered]),
        max_mass=np.concatenate([part.max_mass for part in ordered]),
        max_tfce=np.concatenate([part.max_tfce for part in ordered]),
        reached=np.sum([part.reached for part in ordered], axis=0),
    )


def _clusters(
    problem: PermutationProblem, t: Floats, null: NullPart
) -> tuple[NDArray[np.int32] | None, tuple[PermutedCluster, ...]]:
    where = problem.neighbourhood
    if problem.threshold is None or where is None:
        return None, ()
    labels = np.zeros(problem.varies.size, dtype=np.int32)
    voxels = np.flatnonzero(problem.varies)
    found: list[PermutedCluster] = []
    for direction, side in oriented_sides(t[None], problem.alternative):
        sizes, masses, chosen, numbers = sizes_and_masses(side[0], problem.threshold, where)
        p_size = p_from_maxima(sizes.astype(np.float64), null.max_size)
        p_mass = p_from_maxima(masses, null.max_mass)
        for number in np.argsort(-sizes, kind="stable"):
            members = chosen[numbers == number]
            peak = members[np.argmax(side[0][members])]
            labels[voxels[members]] = len(found) + 1
            found.append(
                PermutedCluster(
                    label=len(found) + 1,
                    direction=direction,
                    size_voxels=int(sizes[number]),
                    mass=float(masses[number]),
                    peak_t=float(t[peak]),
                    peak_voxel=int(voxels[peak]),
                    p_fwe_size=float(p_size[number]),
                    p_fwe_mass=float(p_mass[number]),
                )
            )
    return labels, tuple(found)


def finish_permutation(problem: PermutationProblem, parts: Sequence[NullPart]) -> PermutationResult:
    """Join the parts of the null distribution and compute every p value, (1 + b) / (1 + n).

    Parameters
    ----------
    problem
        What ``prepare_permutation`` made.
    parts
        Null parts that together cover relabellings 1 to ``n_permutations``, in any order.

    Raises
    ------
    DesignError
        If the parts do not cover all relabellings exactly once.
    """
    plan = problem.relabelling
    null = _joined(parts, plan.n_permutations)
    t = observed_t(problem)
    oriented = towards(t, problem.alternative)
    labels, clusters = _clusters(problem, t, null)
    enhanced = p_tfce = None
    if problem.tfce and problem.neighbourhood is not None:
        signed = np.zeros_like(t)
        for direction, side in oriented_sides(t[None], problem.alternative):
            signed += tfce_maps(side, problem.neighbourhood)[0] * (1.0 if direction == "greater" else -1.0)
        enhanced = _spread(problem, signed)
        p_tfce = _spread(problem, p_from_maxima(np.abs(signed), null.max_tfce))
    return PermutationResult(
        t=_spread(problem, t),
        effect=_spread(problem, plan.scale * (plan.interest @ problem.residual)),
        df=plan.df,
        alternative=problem.alternative,
        kind=plan.kind,
        exact=plan.exact,
        n_permutations=plan.n_permutations,
        n_possible=plan.n_possible,
        seed=plan.seed,
        p_uncorrected=_spread(
            problem, np.asarray((1.0 + null.reached) / (1.0 + plan.n_permutations), dtype=np.float64)
        ),
        p_fwe=_spread(problem, p_from_maxima(oriented, null.max_t)),
        max_t=null.max_t,
        cluster_threshold=problem.threshold,
        labels=labels,
        clusters=clusters,
        max_size=null.max_size,
        max_mass=null.max_mass,
        tfce=enhanced,
        p_fwe_tfce=p_tfce,
        max_tfce=null.max_tfce,
    )


def _spread(problem: PermutationProblem, values: Floats) -> Floats:
    """Put values of the varying voxels in their places among all; NaN elsewhere."""
    out = np.full(problem.varies.size, np.nan)
    out[problem.varies] = values
    return out
