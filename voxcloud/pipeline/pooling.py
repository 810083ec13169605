"""Variances pooled over voxels before the group model is fitted: unequal groups, unequally precise participants.

A fit block adds up its share and stores it as one small table; ``fit-covariance`` sums the tables in the order of the
blocks and estimates one covariance of the participants for the whole map, with which ``fit-whitened`` fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from voxcloud.inference.reml import PooledCovariance, estimate_covariance, group_components, pool_covariance
from voxcloud.models.precision import PooledVariance, pool_variances
from voxcloud.models.time_basis import build_time_basis
from voxcloud.models.two_stage import VisitPlan, visit_plan
from voxcloud.plan.paths import fit_folder, fit_prefix
from voxcloud.storage.regions import open_array
from voxcloud.storage.store import Store

Tree = dict[str, Any]


class Pool(Protocol):
    """What a block adds up of one coefficient."""

    def add(self, block: np.ndarray, values: np.ndarray) -> None:
        """Add some voxels: their images (images, v) and the participants' coefficients (participants, v)."""

    def table(self) -> np.ndarray:
        """Return the share of the block, of the shape that ``table_shape`` gives."""


def make_pool(design: Mapping[str, Any], coefficient: str) -> Pool:
    """Return an empty pool for one coefficient of a design that pools variances."""
    if design["weights"] == "precision":
        return _PrecisionPool(design, coefficient)
    return _CovariancePool(design, coefficient)


def table_shape(design: Mapping[str, Any], coefficient: str) -> tuple[int, int]:
    """Return rows and columns of a block's table."""
    people = len(design["coefficients"][coefficient]["participants"])
    return (1, _PrecisionPool.COLUMNS) if design["weights"] == "precision" else (people + 1, people)


class _CovariancePool:
    """Sum of y y' over the voxels that pass the F test; the last row holds their number."""

    def __init__(self, design: Mapping[str, Any], coefficient: str) -> None:
        self.X = np.asarray(design["coefficients"][coefficient]["X"], dtype=np.float64)
        self.pooled = PooledCovariance(np.zeros((len(self.X),) * 2), 0)

    def add(self, block: np.ndarray, values: np.ndarray) -> None:
        del block
        self.pooled += pool_covariance(values, self.X)

    def table(self) -> np.ndarray:
        number = np.full((1, len(self.X)), float(self.pooled.n_voxels))
        return np.vstack([self.pooled.sum_yy, number])


class _PrecisionPool:
    """Sums of squares within and between participants."""

    COLUMNS = 6

    def __init__(self, design: Mapping[str, Any], coefficient: str) -> None:
        self.plan, self.coefficient = plan_of(design), coefficient
        self.X = np.asarray(design["coefficients"][coefficient]["X"], dtype=np.float64)
        self.pooled: PooledVariance | None = None

    def add(self, block: np.ndarray, values: np.ndarray) -> None:
        del values
        found = pool_variances(block, self.plan, self.coefficient, self.X)
        self.pooled = found if self.pooled is None else self.pooled + found

    def table(self) -> np.ndarray:
        p = self.pooled
        if p is None:
            return np.zeros((1, self.COLUMNS))
        return np.array([[p.within, p.within_df, p.between, p.between_df, p.mean_ratio, p.complete]])


def plan_of(design: Mapping[str, Any]) -> VisitPlan:
    """Return the visit plan that a design file was made with."""
    time, rules = design["time"], design["visit_rules"]
    basis = build_time_basis(
        time["kind"], time["reference_days"], time["terms"], orthogonalise=time["orthogonalise"], knots=time["knots"]
    )
    return visit_plan(
        [i["participant_id"] for i in design["images"]],
        [i["day"] for i in design["images"]],
        basis,
        weights=design["weights"],
        **rules,
    )


def estimate(design: Mapping[str, Any], coefficient: str, tables: np.ndarray) -> Tree:
    """Estimate the covariance of a coefficient's participants from the blocks' tables (blocks, rows, columns)."""
    if design["weights"] == "precision":
        return _from_variances(design, coefficient, tables)
    return _from_covariances(design["coefficients"][coefficient], tables)


def _from_covariances(entry: Mapping[str, Any], tables: np.ndarray) -> Tree:
    n = len(entry["participants"])
    pooled = PooledCovariance(np.zeros((n, n)), 0)
    for table in tables:
        pooled += PooledCovariance(table[:n], int(table[n, 0]))
    names, components = group_components(entry["variance_groups"])
    found = estimate_covariance(pooled, np.asarray(entry["X"]), components)
    return {
        "V": found.v.tolist(),
        "W": found.whitener.tolist(),
        "h": [float(v) for v in found.hyperparameters],
        "erdf": float(found.erdf),
        "voxels": pooled.n_voxels,
        "groups": list(names),
    }


def _from_variances(design: Mapping[str, Any], coefficient: str, tables: np.ndarray) -> Tree:
    plan, entry = plan_of(design), design["coefficients"][coefficient]
    pooled: PooledVariance | None = None
    for (table,) in tables:
        if table[1] > 0:  # a block without voxels in the mask holds zeros
            within, within_df, between, between_df, ratio, complete = table
            share = PooledVariance(within, int(within_df), between, int(between_df), ratio, complete)
            pooled = share if pooled is None else pooled + share
    # An empty mask is reported by the step that estimates the smoothness.
    ratio = 1.0 if pooled is None else pooled.between_to_within
    weights = np.array(plan.precision_weights(coefficient, ratio))
    return {
        "V": np.diag(1.0 / weights).tolist(),
        "W": np.diag(np.sqrt(weights)).tolist(),
        "erdf": float(len(entry["participants"]) - entry["rank"]),
        "weights": dict(zip(entry["participants"], weights.tolist(), strict=True)),
        "between_to_within": float(ratio),
    }


def covariance_of(store: Store, design: Mapping[str, Any], blocks: int) -> Tree:
    """Return the covariance of every coefficient from what the blocks stored."""
    prefix = fit_prefix(design["model"], design["stack"])
    tree: Tree = {}
    for coefficient in design["coefficients"]:
        array = open_array(store, f"{prefix}/pooled_{coefficient}")
        tree[coefficient] = estimate(design, coefficient, np.stack([np.asarray(array[b]) for b in range(blocks)]))
    return tree


def covariance_path(design: Mapping[str, Any]) -> str:
    """Return where the covariance of a fit lies."""
    return f"{fit_folder(design['model'], design['stack'])}/covariance.json"


def read_covariance(store: Store, design: Mapping[str, Any]) -> Tree:
    """Return what ``fit-covariance`` wrote."""
    tree: Tree = json.loads(store.read_bytes(covariance_path(design)))
    return tree
