"""How much people differ and how much is noise: pooled over voxels, for the weights of a group model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.errors import DesignError
from voxcloud.models.ols import fit_ols
from voxcloud.models.two_stage import VisitPlan, participant_coefficients

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PooledVariance:
    """Sums of squares over voxels; add the blocks in a fixed order, then ask for the ratio.

    Attributes
    ----------
    within : sum over voxels of the squared residuals of the participants' own fits.
    within_df : their degrees of freedom, per voxel.
    between : sum over voxels of the squared residuals of the group model among the precise participants.
    between_df : its degrees of freedom, per voxel.
    mean_ratio : mean variance ratio of those participants, each weighted by 1 - leverage.
    complete : variance factor of the complete design.
    """

    within: float
    within_df: int
    between: float
    between_df: int
    mean_ratio: float
    complete: float

    def __add__(self, other: PooledVariance) -> PooledVariance:
        """Add the sums of another block of voxels of the same model."""
        return PooledVariance(
            self.within + other.within,
            self.within_df,
            self.between + other.between,
            self.between_df,
            self.mean_ratio,
            self.complete,
        )

    @property
    def between_to_within(self) -> float:
        """``tau^2 / (sigma^2 v_complete)``, at least 0: what ``VisitPlan.precision_weights`` wants."""
        noise = self.within / self.within_df * self.complete
        if noise <= 0:
            raise DesignError("weights: the maps have no variance within participants. Check the images.")
        return max(0.0, self.between / self.between_df / noise - self.mean_ratio)


def pool_variances(Y: npt.ArrayLike, plan: VisitPlan, term: str, X: npt.ArrayLike) -> PooledVariance:
    """Pool the variance within and between participants of a block of voxels, by the method of moments.

    ``E[rss_within / df] = sigma^2`` and ``E[rss_between] = sum_i (1 - h_i) (tau^2 + sigma^2 v_i)``. Pooling over
    voxels gives one ratio for the whole map, as one covariance does for unequal variances: a single voxel's is far
    too uncertain with some thirty people. The between part uses participants up to the plan's ``max_variance_ratio``
    only, because one with 500 times the noise would decide it.

    Parameters
    ----------
    Y : (images, v) maps in the plan's row order, finite.
    plan : visits of everybody.
    term : the coefficient.
    X : (participants_of(term), p) group design.

    Raises
    ------
    DesignError
        If nobody has a visit more than coefficients, or too few precise participants are left.
    """
    data, design = np.asarray(Y), np.asarray(X, dtype=np.float64)
    people = plan.participants_of(term)
    if len(design) != len(people):
        raise DesignError(f"weights: expected a design of {len(people)} rows for {term}, found {len(design)}.")
    within, free = 0.0, 0
    for v in plan.visits.values():
        columns = plan.basis.evaluate(v.days)
        left = len(v.days) - int(np.linalg.matrix_rank(columns))
        if left > 0:
            own = data[list(v.rows)].astype(np.float64)
            within += float(((own - columns @ (v.weights @ own)) ** 2).sum())
            free += left
    if free == 0:
        raise DesignError(
            f"weights: nobody has more visits than the {len(plan.basis.terms) + 1} coefficients, so the noise within "
            "participants cannot "
            "be told from differences between them. Use weights: equal."
        )
    ratios = np.array([plan.visits[p].ratio[term] for p in people])
    precise = ratios <= plan.max_variance_ratio
    if not precise.any():
        raise DesignError(
            f"weights: no participant's {term} is as precise as max_variance_ratio {plan.max_variance_ratio:g} asks. "
            "Raise it."
        )
    fit = fit_ols(participant_coefficients(data, plan)[term][precise], design[precise])
    spare = 1.0 - np.einsum("ij,jk,ik->i", design[precise], fit.xtx_inv, design[precise])
    mean_ratio = float((spare * ratios[precise]).sum() / spare.sum())
    return PooledVariance(within, free, float(fit.resms.sum() * fit.df), round(fit.df), mean_ratio, plan.complete[term])
