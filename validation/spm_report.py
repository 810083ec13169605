"""Compare voxcloud's random field inference with SPM12 on a synthetic cohort, quantity by quantity.

    python validation/spm_report.py

Six models of the same 31 participants, from the images through both stages by voxcloud's own functions: two groups
with equal and unequal variances, and a regression on a score, each of the linear and the quadratic coefficient. The
exit status is 1 if a difference is above its tolerance. The data and how they were made:
tests/reference/spm/PROVENANCE.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from voxcloud.inference.random_field import resels
from voxcloud.inference.reml import Covariance, estimate_covariance, group_components, pool_covariance
from voxcloud.inference.search import SearchResult, random_field_search
from voxcloud.inference.smoothness import Smoothness, smoothness_of_array
from voxcloud.models.contrasts import contrast_matrix
from voxcloud.models.formula import design_matrix
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.time_basis import build_time_basis
from voxcloud.models.two_stage import participant_coefficients, visit_plan

REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference" / "spm"
MODELS = (
    "t2_lin_equalvar",
    "t2_lin_unequalvar",
    "t2_quad_equalvar",
    "t2_quad_unequalvar",
    "mreg_lin",
    "mreg_quad",
)
Kind = Literal["equal", "unequal"]

# (equal variances, unequal variances). The distribution function of t in the Octave that ran SPM is off by up to 5e-7
# in p, and so are its thresholds and, times the slope of the normal quantile, its z-values.
TOLERANCE: dict[str, tuple[float, float]] = {
    "T, every voxel": (1e-5, 1e-3),
    "error degrees of freedom": (1e-9, 1e-9),
    "height threshold u": (1e-6, 1e-6),
    "FWHM, relative": (1e-8, 1e-6),
    "resels, relative": (1e-8, 1e-6),
    "number of clusters": (0, 0),
    "cluster sizes": (0, 0),
    "cluster p FWE": (1e-6, 1e-5),
    "cluster p uncorrected": (1e-6, 1e-5),
    "cluster q FDR": (1e-6, 1e-5),
    "set-level p": (1e-6, 1e-5),
    "peak statistic": (1e-5, 1e-3),
    "peak p FWE": (1e-5, 1e-4),
    "peak p uncorrected": (1e-5, 1e-4),
    "peak z": (2e-4, 1e-3),
    "peak q FDR, topological": (1e-5, 1e-4),
    "peak q FDR, voxel-wise": (1e-5, 1e-4),
    "peak positions, mm": (0, 0),
    "height at p FWE 0.05": (1e-6, 1e-6),
    "height at q FDR 0.05": (1e-5, 1e-3),
    "smallest cluster at p FWE 0.05": (0, 0),
    "variances h, relative": (np.nan, 1e-9),
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    quantity: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Fit:
    """A second-level model of the cohort, fitted here."""

    t: npt.NDArray[np.float64]
    smoothness: Smoothness
    covariance: Covariance | None
    df: float


@cache
def cohort() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.float64], dict[str, Any]]:
    """Return mask, voxel index, affine and the participants' coefficients {linear, quadratic} (participant, voxel)."""
    mask_image = nib.load(REFERENCE / "mask.nii.gz")
    mask = np.asarray(mask_image.dataobj) > 0
    image = nib.load(REFERENCE / "cohort_int16.nii.gz")
    scans = pd.read_csv(REFERENCE / "scans.tsv", sep="\t")
    data = np.asarray(image.dataobj.get_unscaled())[mask][:, scans["volume"]].T * float(image.dataobj.slope)
    basis = build_time_basis("polynomial", sorted(scans["day"].unique()), ("linear", "quadratic"), "quadratic")
    found = participant_coefficients(data, visit_plan(scans["subject"].tolist(), scans["day"].tolist(), basis))
    # SPM read them as float32 images.
    stored = {name: found[name].astype(np.float32).astype(np.float64) for name in ("linear", "quadratic")}
    index = np.flatnonzero(mask.ravel()).astype(np.int64)
    return mask, index, np.asarray(mask_image.affine), stored


@cache
def reference(name: str) -> dict[str, Any]:
    """Return SPM's numbers: models or tables."""
    loaded: dict[str, Any] = json.loads((REFERENCE / f"{name}.json").read_text())
    return loaded


@cache
def fit(model: str) -> Fit:
    """Fit a model by ordinary least squares, after whitening if variances are unequal."""
    mask, index, _, coefficients = cohort()
    people = pd.read_csv(REFERENCE / "participants.tsv", sep="\t").rename(columns={"subject": "participant_id"})
    y = coefficients["linear" if "_lin" in model else "quadratic"]
    formula, test = "group + age + tiv", "group[patient] - group[control]"
    if model.startswith("mreg"):
        own = (people["group"] == "patient").to_numpy()
        y, people, formula, test = y[own], people[own], "behaviour + age + tiv", "behaviour"
    design = design_matrix(formula, people)
    x, covariance = design.matrix, None
    if model.endswith("_unequalvar"):
        components = group_components(people["group"].tolist())[1]
        covariance = estimate_covariance(pool_covariance(y, x), x, components)
        x, y = covariance.whitener @ x, covariance.whitener @ y
    fitted = fit_ols(y, x, df=None if covariance is None else covariance.erdf)
    t = t_contrast(fitted, contrast_matrix(test, design).weights[0])[2]
    smooth = smoothness_of_array(fitted.standardised_residuals(y), index, mask.shape, fitted.df)
    return Fit(t, smooth, covariance, fitted.df)


def search(model: str, contrast: str) -> SearchResult:
    """Search without an extent threshold and list every peak, as the tables of the reference do."""
    mask, index, affine, _ = cohort()
    fitted = fit(model)
    stat, df, kind = fitted.t, fitted.df, "T"
    if contrast == "con3":
        stat, df, kind = stat**2, (1.0, fitted.df), "F"
    elif contrast == "con2":
        stat = -stat
    return random_field_search(
        stat,
        df,
        mask,
        index,
        affine,
        fitted.smoothness,
        min_extent=0,
        statistic=kind,
        peaks_per_cluster=99,
        peak_distance_mm=0.0,
    )


def largest(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Return the largest absolute difference; infinite where the number of entries differs."""
    a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.max(np.abs(a - b), initial=0.0)) if a.shape == b.shape else np.inf


def differences(model: str, contrast: str) -> dict[str, float]:
    """Return the difference from SPM by quantity for one contrast."""
    table = reference("tables")[model][contrast]
    found = search(model, contrast)
    topo, voxel = table["table_topoFDR"], table["table_voxelFDR"]
    first = [row for row in topo if row["clus_k"] != []]
    clusters = found.clusters
    peaks = [peak for c in clusters for peak in c.peaks]
    by_mm = {(r["x"], r["y"], r["z"]): (r, v) for r, v in zip(topo, voxel, strict=True)}
    pairs = [(p, *by_mm[p.mm]) for p in peaks if p.mm in by_mm]
    uc = [np.inf if value is None else value for value in table["uc"]]
    smallest = min((c.size_voxels for c in clusters if c.p_fwe <= 0.05), default=np.inf)
    return {
        "height threshold u": abs(found.height_threshold - table["u"]),
        "number of clusters": abs(found.n_clusters_all - topo[0]["set_c"]),
        "cluster sizes": largest([c.size_voxels for c in clusters], [r["clus_k"] for r in first]),
        "cluster p FWE": largest([c.p_fwe for c in clusters], [r["clus_pFWE"] for r in first]),
        "cluster p uncorrected": largest([c.p_uncorrected for c in clusters], [r["clus_punc"] for r in first]),
        "cluster q FDR": largest([c.q_fdr for c in clusters], [r["clus_qFDR"] for r in first]),
        "set-level p": abs(found.set_p - topo[0]["set_p"]),
        "peak statistic": largest([p.value for p, _, _ in pairs], [r["peak_stat"] for _, r, _ in pairs]),
        "peak p FWE": largest([p.p_fwe for p, _, _ in pairs], [r["peak_pFWE"] for _, r, _ in pairs]),
        "peak p uncorrected": largest([p.p_uncorrected for p, _, _ in pairs], [r["peak_punc"] for _, r, _ in pairs]),
        "peak z": largest([p.z for p, _, _ in pairs], [r["peak_Z"] for _, r, _ in pairs]),
        "peak q FDR, topological": largest([p.q_fdr for p, _, _ in pairs], [r["peak_qFDR"] for _, r, _ in pairs]),
        "peak q FDR, voxel-wise": largest([p.q_voxel for p, _, _ in pairs], [r["peak_qFDR"] for _, _, r in pairs]),
        "peak positions, mm": largest([p.mm for p in peaks], [(r["x"], r["y"], r["z"]) for r in topo]),
        "height at p FWE 0.05": abs(found.height_fwe - uc[0]),
        "height at q FDR 0.05": 0.0 if found.height_fdr == uc[1] else abs(found.height_fdr - uc[1]),
        "smallest cluster at p FWE 0.05": 0.0 if smallest == uc[2] else abs(smallest - uc[2]),
    }


def compare(model: str) -> Iterator[Row]:
    """Yield the largest difference over the model's contrasts, quantity by quantity."""
    unequal = int(model.endswith("_unequalvar"))
    fitted, theirs = fit(model), reference("models")[model]
    mask = cohort()[0]
    with np.load(REFERENCE / "t_maps.npz") as maps:
        worst = {"T, every voxel": largest(fitted.t, maps[model])}
    worst["error degrees of freedom"] = abs(fitted.df - theirs["erdf"])
    width = np.array(fitted.smoothness.fwhm_voxels)
    counts = resels(mask, width)
    worst["FWHM, relative"] = largest(width / np.array(theirs["FWHM_vox"]), np.ones(3))
    worst["resels, relative"] = largest(counts / np.array(theirs["RESELS"]), np.ones(4))
    if fitted.covariance is not None:
        worst["variances h, relative"] = largest(
            np.array(fitted.covariance.hyperparameters) / np.array(theirs["h"]), np.ones(2)
        )
    for contrast in reference("tables")[model]:
        for quantity, difference in differences(model, contrast).items():
            worst[quantity] = max(worst.get(quantity, 0.0), difference)
    for quantity, tolerance in TOLERANCE.items():
        if quantity in worst:
            yield Row(model, quantity, worst[quantity], tolerance[unequal])


def main() -> int:
    """Print the table of all models."""
    rows = [row for model in MODELS for row in compare(model)]
    print(f"{'model':20} {'quantity':32} {'difference':>12} {'tolerance':>10}")
    for row in rows:
        note = "" if row.holds else "  ABOVE"
        print(f"{row.model:20} {row.quantity:32} {row.difference:12.2e} {row.tolerance:10.0e}{note}")
    above = sum(not row.holds for row in rows)
    print(f"{len(rows)} comparisons, {above} above their tolerance")
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())
