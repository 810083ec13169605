"""A results folder as a run leaves it, made of numbers from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

SHAPE = (40, 48, 42)
AFFINE = np.array([[4.0, 0, 0, -78], [0, 4, 0, -112], [0, 0, 4, -70], [0, 0, 0, 1]])
DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
HEIGHT = 3.42
UNITS = {"R1map": "1/s", "MTsat": "p.u.", "FA": "1", "MD": "mm2/s"}
TERMS = ("linear", "quadratic")


def people_of(groups: Sequence[str], each: int = 12) -> dict[str, str]:
    """Return participants by label with their group."""
    return {f"{k:02d}": groups[k // each] for k in range(each * len(groups))}


def _basis() -> np.ndarray:
    t = np.asarray(DAYS) / DAYS[-1]
    base = np.column_stack([np.ones(5), t])
    quadratic = t**2 - base @ np.linalg.lstsq(base, t**2, rcond=None)[0]
    return np.column_stack([np.ones(5), t, quadratic])


def time_tree() -> dict[str, Any]:
    """Return the time basis as the design file describes it."""
    return {
        "kind": "polynomial",
        "reference_days": list(DAYS),
        "terms": list(TERMS),
        "scale_days": 84.0,
        "knots": [],
        "orthogonalise": "quadratic",
        "units": dict.fromkeys(TERMS, "per 84 days"),
        "matrix": _basis().tolist(),
        "correlation": [[1.0, 0.977], [0.977, 1.0]],
        "vif": {"linear": 21.9, "quadratic": 21.9},
        "vif_used": dict.fromkeys(TERMS, 1.0),
        "sentences": [
            "Time is day / 84; its terms are linear, quadratic. The basis was built once from the reference days 0, "
            "7, 14, 28, 84 "
            "and evaluated at the actual days; nothing was centred or orthogonalised within a participant.",
            "quadratic is residualised on the intercept and linear: its own t map is that of the plain model, and "
            "linear absorbs the "
            "variance that both share.",
        ],
    }


def design_tree(model: str, people: dict[str, str], seed: int = 0) -> dict[str, Any]:
    """Return a design of groups and two covariates, with three participants who lack the last visit."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(people.values()))
    dummies = np.array([[float(g == n) for n in names[1:]] for g in people.values()]).reshape(len(people), -1)
    age, tiv = rng.normal(0, 12, len(people)), rng.normal(0, 90, len(people))
    matrix = np.column_stack([np.ones(len(people)), dummies, age, tiv])
    columns = ["intercept", *(f"group[{n}]" for n in names[1:]), "age", "tiv"]
    hat = np.diag(matrix @ np.linalg.pinv(matrix))
    correlation = np.corrcoef(matrix[:, 1:], rowvar=False)
    full = [[None] * len(columns), *([None, *row] for row in np.round(correlation, 3).tolist())]
    short = list(people)[:3]
    visits = [
        {
            "participant_id": p,
            "n_visits": 4 if p in short else 5,
            "days": [float(d + (0 if d == 0 else rng.integers(-1, 2))) for d in DAYS[: 4 if p in short else 5]],
            "variance_factor": {"linear": 720.0 if p in short else 1.34, "quadratic": 300.0 if p in short else 9.1},
            "ratio": {"linear": 538.0 if p in short else 1.0, "quadratic": 33.0 if p in short else 1.02},
            "left_out_of": dict.fromkeys(
                TERMS, "visit at day 84 is missing: variance 538 times that of the complete design"
            )
            if p in short
            else {},
        }
        for p in people
    ]
    return {
        "schema": 1,
        "model": model,
        "estimator": "two-stage",
        "formula": "group + age + tiv",
        "variance": "equal",
        "weights": "equal",
        "coefficient": "linear",
        "columns": columns,
        "matrix": matrix.tolist(),
        "participants": list(people),
        "groups": people,
        "rank": len(columns),
        "vif": {c: float(1 + 0.1 * k) for k, c in enumerate(columns[1:])},
        "leverage": dict(zip(people, hat.tolist(), strict=True)),
        "correlation": full,
        "time": time_tree(),
        "visits": visits,
        "contrasts": {
            "patients_gt_untrained": {
                "test": f"group[{names[-1]}] - group[{names[0]}]",
                "kind": "t",
                "weights": [[0.0, 1.0, *[0.0] * (len(columns) - 2)]],
            }
        },
        "accepted_unequal_variance": False,
        "stacks": {"R1map_label-GM": {"linear": len(people), "quadratic": len(people)}},
        "sentences": [],
    }


def statistic_image(rng: np.random.Generator, blobs: Sequence[tuple[tuple[int, int, int], float, float]]) -> np.ndarray:
    """Return a smooth t map on a coarse brain with round blobs (voxel, radius in voxels, height)."""
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.3)
    t = noise / noise.std()
    t = np.clip(t, -3.0, 3.0)
    grid = np.indices(SHAPE)
    for centre, radius, height in blobs:
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
        t = np.where(distance <= 2.5 * radius, height * np.exp(-((distance / radius) ** 2) / 2), t)
    centre = (np.array(SHAPE) - 1) / 2
    inside = sum(((g - c) / (0.48 * s)) ** 2 for g, c, s in zip(grid, centre, SHAPE, strict=True)) < 1
    return np.where(inside, t, 0.0)


def cluster_tree(
    number: int,
    statistic: np.ndarray,
    centre: tuple[int, int, int],
    people: dict[str, str],
    rng: np.random.Generator,
    family: int,
    *,
    flagged: bool = False,
) -> dict[str, Any]:
    """Return one significant cluster with people, trajectories and influence."""
    sign = float(np.sign(statistic[centre]))
    labels, _ = ndimage.label(statistic * sign > HEIGHT, ndimage.generate_binary_structure(3, 2))
    size = int((labels == labels[centre]).sum())
    mm = (AFFINE @ [*centre, 1])[:3]
    last = list(dict.fromkeys(people.values()))[-1]
    values = {p: float(rng.normal(0.03 * sign * (g == last), 0.02)) for p, g in people.items()}
    if flagged:
        values[next(p for p in people if people[p] == last)] = 0.4 * sign
    basis = _basis()
    trajectories = {}
    for p, value in values.items():
        start = rng.normal(0.62, 0.03)
        n = 4 if p in list(people)[:3] else 5
        trajectories[p] = [
            [float(d), float(start + value * basis[k, 1] + rng.normal(0, 0.004))] for k, d in enumerate(DAYS[:n])
        ]
    t = float(statistic[centre])
    p_fwe = 3.2e-2 if flagged else float(10.0 ** -(abs(t) - 2))
    peaks = [
        {
            "t": t - sign * k,
            "z": sign * (abs(t) * 0.8 - k),
            "p_fwe": 1e-4,
            "p_uncorrected": 1e-8,
            "q_fdr": 1e-3,
            "x": float(mm[0] + 8 * k),
            "y": float(mm[1]),
            "z_mm": float(mm[2]),
        }
        for k in range(3)
    ]
    return {
        "id": number,
        "region": "Precentral gyrus" if number == 1 else "",
        "size_voxels": size,
        "size_mm3": size * 64.0,
        "p_fwe": p_fwe,
        "p_uncorrected": p_fwe / 50,
        "q_fdr": p_fwe * 2,
        "p_family": min(1.0, p_fwe * family),
        "significant": True,
        "touches_edge": number == 2,
        "cut": False,
        "peaks": peaks,
        "between": {
            "t": 4.1 * sign,
            "df": 31.0,
            "p": 2.7e-4,
            "effect": 0.031 * sign,
            "ci": sorted([0.016 * sign, 0.046 * sign]),
            "cohens_d": 1.4 * sign,
            "descriptive": True,
            "cross_validated_t": 2.9 * sign,
            "cross_validated_n": len(people) - 2,
        },
        "comparison": {"t": 4.0 * sign, "df": 29.1, "p": 4e-4, "bf01": 0.0123, "bf01_max": 3.08},
        "influence": {
            "largest_participant": next(p for p in people if people[p] == last),
            "share": 0.71 if flagged else 0.12,
            "t_full": 4.1,
            "loo_t_min": 1.2 if flagged else 3.6,
            "loo_t_min_participant": list(people)[-1],
            "loo_t_max": 4.6,
            "loo_p_min": 1e-5,
            "loo_p_max": 0.31 if flagged else 0.002,
            "flagged": flagged,
            "flagged_participants": [list(people)[-1]] if flagged else [],
        },
        "values": values,
        "trajectories": trajectories,
        "groups": people,
    }


def result_tree(
    output: Path,
    people: dict[str, str],
    *,
    model: str,
    map_name: str,
    label: str,
    coefficient: str,
    contrast: str,
    family: int,
    significant: bool,
    seed: int,
) -> dict[str, Any]:
    """Write the statistic map of one comparison and return its result file."""
    rng = np.random.default_rng(seed)
    centres: list[tuple[tuple[int, int, int], float, float]] = (
        [((27, 24, 31), 3.0, 7.9), ((13, 24, 30), 2.2, 6.1), ((26, 15, 12), 2.5, -6.4)] if significant else []
    )
    statistic = statistic_image(rng, centres)
    names = list(dict.fromkeys(people.values()))
    relative = f"stats/model-{model}/{map_name}_label-{label}/{coefficient}{contrast}_stat-t_statmap.nii.gz"
    (output / relative).parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(statistic.astype(np.float32), AFFINE).to_filename(output / relative)
    searches = []
    for direction in ("greater", "less"):
        clusters = [
            cluster_tree(k, statistic, centre, people, rng, family, flagged=k == 2)
            for k, (centre, _, height) in enumerate(centres, 1)
            if (height > 0) == (direction == "greater")
        ]
        smallest = min((c["p_fwe"] for c in clusters), default=1.0)
        searches.append(
            {
                "direction": direction,
                "volume": "whole mask",
                "n_voxels": 29394,
                "resels": [1.0, 28.9, 259.0, 812.4],
                "height_threshold_t": HEIGHT,
                "cluster_forming_p": 0.001,
                "min_extent": 20,
                "alpha": 0.05,
                "p_fwe_min": smallest,
                "p_family_min": min(1.0, smallest * family),
                "clusters": clusters,
            }
        )
    return {
        "schema": 1,
        "model": model,
        "map": map_name,
        "label": label,
        "coefficient": coefficient,
        "contrast": contrast,
        "test": f"group[{names[-1]}] - group[{names[0]}]",
        "kind": "t",
        "alternative": "two-sided",
        "estimator": "two-stage",
        "formula": "group + age + tiv",
        "n": len(people),
        "participants": list(people),
        "df": float(len(people) - 4),
        "units": f"{UNITS.get(map_name, '1')} per 84 days",
        "fwhm_voxels": [3.1, 3.2, 2.9],
        "fwhm_mm": [12.4, 12.8, 11.6],
        "mask_voxels": 29394,
        "voxel_mm": [4.0, 4.0, 4.0],
        "family_size": family,
        "scores": {},
        "warnings": ["The mask is coarse."] if significant else [],
        "inference": {"method": "random-field", "cluster_forming_p": 0.001, "min_extent": 20, "alpha": 0.05},
        "maps": {"t": relative},
        "searches": searches,
    }


def holm_of(output: Path, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return the p of each search adjusted by Holm's method."""
    rows = []
    for path in paths:
        tree = json.loads((output / path).read_text())
        keys = {k: tree[k] for k in ("model", "map", "label", "coefficient", "contrast")}
        rows += [
            {**keys, "direction": s["direction"], "volume": s["volume"], "p_fwe_min": s["p_fwe_min"]}
            for s in tree["searches"]
        ]
    rows.sort(key=lambda row: row["p_fwe_min"])
    largest = 0.0
    for k, row in enumerate(rows):
        largest = max(largest, min(1.0, (len(rows) - k) * row["p_fwe_min"]))
        row["p_holm"] = largest
    return rows


def behaviour_tree(people: dict[str, str], seed: int = 5) -> dict[str, Any]:
    """Return learning curves of one score, one of them flagged."""
    rng = np.random.default_rng(seed)
    days = np.asarray(DAYS[:4])
    entries = {}
    for k, p in enumerate(people):
        alpha, delta, gamma = rng.normal(80, 4), rng.normal(30, 5), abs(rng.normal(0.12, 0.03))
        values = alpha - delta * np.exp(-gamma * days) + rng.normal(0, 1.5, days.size)
        flags = ["gamma: 3 / gamma is 4,000 days, longer than the study"] if k == 4 else []
        entries[p] = {
            "alpha": float(alpha),
            "delta": float(delta),
            "gamma": float(gamma),
            "improvement": float(delta),
            "flags": flags,
            "days": days.tolist(),
            "values": values.tolist(),
        }
    test = {
        "name": "percent_correct: improvement differs from 0 (one-sample Wilcoxon)",
        "statistic": 3.621,
        "p": 1.5e-5,
        "n": 17,
        "words": "z and exact p",
    }
    return {"schema": 1, "scores": {"percent_correct": {"better": "higher", "participants": entries}}, "tests": [test]}


def write_fake_results(
    output: Path,
    *,
    groups: Sequence[str] = ("untrained", "patients"),
    maps: Sequence[str] = ("R1map", "MTsat"),
    labels: Sequence[str] = ("GM", "WM"),
    contrasts: Sequence[str] = ("patients_gt_untrained",),
    significant: int = 2,
    failed: bool = False,
    analysis: str = "interim",
    each: int = 12,
) -> Path:
    """Write a whole results folder; the first ``significant`` comparisons hold three clusters each."""
    people = people_of(groups, each)
    model = "training"
    keys = [(m, lab, c, k) for m in maps for lab in labels for c in TERMS for k in contrasts]
    family = 2 * len(keys)
    paths = []
    folder = output / "results" / f"model-{model}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (map_name, label, coefficient, contrast) in enumerate(keys):
        tree = result_tree(
            output,
            people,
            model=model,
            map_name=map_name,
            label=label,
            coefficient=coefficient,
            contrast=contrast,
            family=family,
            significant=number < significant,
            seed=number,
        )
        path = folder / f"{map_name}_label-{label}__{coefficient}__{contrast}.json"
        path.write_text(json.dumps(tree))
        paths.append(str(path.relative_to(output)))
    write = {
        "study.json": {
            "schema": 1,
            "name": "sci-training",
            "analysis": analysis,
            "models": [{"name": model, "min_visits": 3, "max_variance_ratio": 4.0}],
        },
        "results/model-training/design.json": design_tree(model, people),
        "results/cohort.json": {
            "schema": 1,
            "participants_n": len(people),
            "images_n": len(people) * 5 - 3,
            "warnings": [],
            "left_out": [
                {
                    "participant_id": p,
                    "session_id": None,
                    "what": "model training, R1map_label-GM, linear",
                    "reason": "visit at day 84 is missing: variance 538 times that of the complete design",
                }
                for p in list(people)[:3]
            ],
            "stacks": [
                {
                    "map": m,
                    "label": lab,
                    "images": len(people) * 5,
                    "units": UNITS.get(m, "1"),
                    "n_voxels": 29394,
                    "median_per_image": {},
                }
                for m in maps
                for lab in labels
            ],
        },
        "results/summary.json": {
            "schema": 1,
            "study": "sci-training",
            "analysis": analysis,
            "look": 2,
            "family": "all",
            "searches_planned": family,
            "searches_run": family,
            "alpha": 0.05,
            "expected_false_positives": 0.05 * family,
            "significant_clusters": 3 * significant,
            "holm": holm_of(output, paths),
            "results": paths,
            "failed": [
                {
                    "unit": "fit-block/training/R1map_label-GM/00003",
                    "message": "sub-03: the image is truncated",
                    "rerun": "voxcloud unit run fit-block/training/R1map_label-GM/00003 --output out",
                }
            ]
            if failed
            else [],
            "run": {
                "date": "2026-01-01",
                "engine": "local",
                "cores": 2,
                "seconds": 212.0,
                "cpu_s": 380.0,
                "units": 120,
                "computed": 120,
            },
            "versions": {"voxcloud": "0.1.0", "python": "3.11", "numpy": "2.4"},
            "problems": [],
        },
        "results/behaviour.json": behaviour_tree(people),
    }
    for name, tree in write.items():
        (output / name).write_text(json.dumps(tree))
    return output
