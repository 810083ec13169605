"""Participants in template space that never were: the template, deformed, and what the steps tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import ndimage

from voxcloud.bids.templates import Template, load_template
from voxcloud.pipeline.spatial.quality import anatomy_quality, session_quality
from voxcloud.plan.unit import WorkUnit

RESOLUTION_MM = 4.0
# White and grey matter and fluid; those of MPM are published medians at 3 T.
LEVELS = {
    "R1map": (0.95, 0.62, 0.25),
    "MTsat": (1.70, 0.88, 0.05),
    "R2starmap": (20.5, 16.5, 2.0),
    "PDmap": (69.0, 81.0, 100.0),
    "FA": (0.48, 0.15, 0.05),
    "MD": (0.72e-3, 0.83e-3, 2.9e-3),
    "AD": (1.10e-3, 0.98e-3, 2.9e-3),
    "RD": (0.52e-3, 0.74e-3, 2.9e-3),
}
MODALITIES = {"mpm": ("R1map", "MTsat", "R2starmap", "PDmap"), "dwi": ("FA", "MD", "AD", "RD")}


@dataclass(frozen=True, eq=False)
class FakeBody:
    """Images of a participant on the template's grid."""

    template: Template
    probability: dict[str, np.ndarray]
    image: np.ndarray
    jacobian: np.ndarray


@cache
def fake_body(seed: int = 0, shift_mm: float = 0.0, spread_mm: float = 1.2) -> FakeBody:
    """Return the template deformed at random by ``spread_mm`` (SD), and shifted to the front by what went wrong."""
    template = load_template(RESOLUTION_MM)
    rng = np.random.default_rng(seed)
    shape = template.t1.shape
    moves = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(shape), 22 / 2.355 / RESOLUTION_MM) for _ in range(3)]
    )
    moves *= spread_mm / moves[:, template.brain].std()
    gradient = np.stack([np.stack(np.gradient(move, RESOLUTION_MM)) for move in moves])
    jacobian = 0.86 * np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3))
    places = np.indices(shape) + moves / RESOLUTION_MM
    places[1] -= shift_mm / RESOLUTION_MM
    moved = {label: ndimage.map_coordinates(template.priors[label], places, order=1) for label in ("GM", "WM", "CSF")}
    crisp = {label: values**1.6 for label, values in moved.items()}
    total = np.maximum(sum(crisp.values()), 1e-6)
    inside = np.minimum(sum(moved.values()), 1.0)
    probability = {label: (inside * values / total).astype(np.float32) for label, values in crisp.items()}
    image = mixed(probability, "MTsat", rng)
    return FakeBody(template, probability, image, jacobian.astype(np.float32))


def mixed(probability: dict[str, np.ndarray], name: str, rng: np.random.Generator, factor: float = 1.0) -> np.ndarray:
    """Return a map of a head with these tissues; 0 outside."""
    levels = dict(zip(("WM", "GM", "CSF"), LEVELS[name], strict=True))
    values = sum(levels[label] * share for label, share in probability.items())
    noise = 0.04 * levels["WM"] * rng.standard_normal(values.shape)
    inside = sum(probability.values()) > 0.05
    return np.where(inside, factor * values + noise, 0.0).astype(np.float32)


def fake_anatomy(
    participant: str = "01", sessions: tuple[str, ...] = ("1", "2", "3"), seed: int = 0, **changes: Any
) -> tuple[dict[str, Any], str]:
    """Return quality control and page of a participant; ``shift_mm``, ``tiv``, ``agreement``, ``change`` go wrong."""
    rng = np.random.default_rng(1000 + seed)
    body = fake_body(seed % 4, changes.pop("shift_mm", 0.0))
    tiv = changes.pop("tiv", 1480.0 + 90.0 * rng.standard_normal())
    agreement = changes.pop("agreement", {})
    change = changes.pop("change", {})
    one = len(sessions) == 1
    midpoint = {
        "visits": [
            {
                "translation_mm": np.round(2.0 * rng.standard_normal(3), 4).tolist(),
                "rotation_deg": np.round(1.5 * rng.standard_normal(3), 4).tolist(),
                "agreement": None if one else agreement.get(s, round(0.985 + 0.002 * rng.standard_normal(), 4)),
            }
            for s in sessions
        ],
        "iterations": 6,
        "last_step_mm": 0.0012,
        "cpu_s": 61.2,
    }
    correlation = {"before": 0.41, "affine": 0.86, "warp": float(0.945 + 0.004 * rng.standard_normal())}
    report = {
        "volumes_ml": {"GM": 0.46 * tiv, "WM": 0.36 * tiv, "CSF": 0.18 * tiv, "TIV": tiv},
        "means": [0.87, 1.69, 0.06],
        "passes": 22,
        "weights": {"GM": 0.9, "GM/WM": np.float64(0.4)},
    }
    found = SimpleNamespace(
        midpoint=SimpleNamespace(report=midpoint),
        agreement=np.array([np.nan if v["agreement"] is None else v["agreement"] for v in midpoint["visits"]]),
        tissues=SimpleNamespace(report=report, flagged=changes.pop("flagged", "")),
        way=SimpleNamespace(
            jacobian=body.jacobian, report={"engine": "greedy", "correlation": correlation, "folded": 0.0}
        ),
        probability={label: body.probability[label] for label in ("GM", "WM")},
        image=body.image,
        changes={
            s: SimpleNamespace(
                ratio=np.full(body.image.shape, 1.0 + change.get(s, 0.3 * rng.standard_normal()) / 100, np.float32)
            )
            for s in sessions
        },
    )
    unit = WorkUnit(
        step="anatomy",
        name=f"sub-{participant}",
        params={"participant_id": participant, "sessions": list(sessions), "contrast": "MTsat"},
        inputs={},
        places={},
        outputs=(),
    )
    tree, page = anatomy_quality(unit, body.template, found)
    return tree | changes, page


def fake_maps(
    participant: str = "01", session: str = "1", modality: str = "mpm", seed: int = 0, **changes: Any
) -> tuple[dict[str, Any], str]:
    """Return quality control and page of a session's maps; ``beside_mm``, ``factor`` and ``cut`` make them worse."""
    rng = np.random.default_rng(2000 + seed)
    body = fake_body(changes.pop("body", seed) % 4)
    beside, factor, cut = changes.pop("beside_mm", 0.0), changes.pop("factor", 1.0), changes.pop("cut", 0)
    maps = {}
    for name in MODALITIES[modality]:
        values = mixed(body.probability, name, rng, factor * (1.0 + 0.004 * rng.standard_normal()))
        values[sum(body.probability.values()) <= 0.05] = np.nan
        if beside:
            values = np.roll(values, round(beside / RESOLUTION_MM), axis=1)
        if cut:
            values[:, :, :cut] = np.nan
        maps[name] = values
    moved = SimpleNamespace(
        translation_mm=rng.normal(0, 1.0, 3),
        rotation_deg=rng.normal(0, 0.8, 3),
        displacement_mm=float(2.0 + 0.4 * rng.standard_normal()),
        displacement_max_mm=4.5,
        agreement=float(0.42 + 0.01 * rng.standard_normal()),
    )
    diffusion = modality == "dwi"
    found = SimpleNamespace(
        maps=maps,
        calibration=None if diffusion else SimpleNamespace(report={"factor": 0.093, "voxels": 40121}, flagged=""),
        registration=moved if diffusion else None,
    )
    params = {"participant_id": participant, "session_id": session, "modality": modality, "contrast": "MTsat"}
    unit = WorkUnit(
        step="template-maps",
        name=f"sub-{participant}_ses-{session}_{modality}",
        params=params | ({} if diffusion else {"field_strength_t": 3.0}),
        inputs={},
        places={},
        outputs=(),
    )
    tree, page = session_quality(unit, body.template, SimpleNamespace(probability=body.probability), found)
    return tree | changes, page


@cache
def fake_cohort(people: int = 13, visits: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return quality control of participants and of their sessions' maps, all of them good.

    Pages and pictures of a few are those of all: only numbers differ.
    """
    sessions = tuple(str(v + 1) for v in range(visits))
    models = [_anatomy_model(k, sessions) for k in range(2)]
    maps = {kind: [_maps_model(k, kind) for k in range(2)] for kind in MODALITIES}
    rng = np.random.default_rng(7)
    bodies, found = [], []
    for k in range(people):
        label = f"{k + 1:02d}"
        fresh = _noisy(models[k % 2], rng)
        bodies.append(fresh | {"participant_id": label, "page": f"sub-{label}/sub-{label}_desc-space_qc.html"})
        for session in sessions:
            for kind, own in maps.items():
                page = f"sub-{label}/ses-{session}/sub-{label}_ses-{session}_desc-space{kind}_qc.html"
                whose = {"participant_id": label, "session_id": session, "page": page}
                found.append(_noisy(own[k % 2], rng) | whose)
    return bodies, found


@cache
def _anatomy_model(seed: int, sessions: tuple[str, ...]) -> dict[str, Any]:
    return fake_anatomy("01", sessions, seed=seed)[0]


@cache
def _maps_model(seed: int, modality: str) -> dict[str, Any]:
    return fake_maps("01", "1", modality, seed=seed)[0]


def _noisy(tree: Any, rng: np.random.Generator, size: float = 0.005) -> Any:
    """Return a tree whose numbers are a little different; shares and counts stay."""
    if isinstance(tree, dict):
        return {key: value if key in KEPT else _noisy(value, rng, SIZES.get(key, size)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_noisy(value, rng, size) for value in tree]
    return tree * (1.0 + size * float(rng.standard_normal())) if isinstance(tree, float) else tree


KEPT = ("missing", "field_strength_t", "weights")
# Relative; heads and how they lie differ by more than maps do.
SIZES = {"volumes_ml": 0.06, "translation_mm": 0.3, "rotation_deg": 0.3, "change_percent": 0.5, "agreement": 0.002}
