"""Quality control of diffusion sessions that never were, in the form that the step writes."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np

from voxcloud.dwi.quality import BINS, LIMITS, UNITS
from voxcloud.report.mosaic import thumbnail_png
from voxcloud.report.mosaic_dwi import direction_thumbnail_png
from voxcloud.report.qc_dwi_pictures import DwiImages

LEVELS = {"fa": (0.52, 0.24), "md": (0.72e-3, 0.82e-3), "ad": (1.15e-3, 1.02e-3), "rd": (0.50e-3, 0.72e-3)}
AFFINE = np.diag([-4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = (80.0, -96.0, -60.0)
SHAPE = (41, 49, 36)


def fake_volumes() -> dict[str, np.ndarray]:
    """A head with three bundles: left to right in the middle, front to back left and right of it, up through both."""
    x, y, z = np.einsum("ij,j...->i...", AFFINE[:3, :3], np.indices(SHAPE)) + AFFINE[:3, 3, None, None, None]
    inside = (x / 66) ** 2 + (y / 84) ** 2 + ((z - 5) / 58) ** 2 < 1
    fa = np.full(SHAPE, 0.12)
    direction = np.zeros((3, *SHAPE))
    direction[2] = 1.0
    bundles = (
        (0, (np.abs(y) < 30) & (np.abs(z - 18) < 9) & (np.abs(x) < 40)),
        (1, (np.abs(np.abs(x) - 26) < 9) & (np.abs(y) < 62)),
        (2, (np.abs(np.abs(x) - 14) < 7) & (np.abs(y) < 12)),
    )
    for axis, where in bundles:
        fa[where], direction[:, where] = 0.65, 0.0
        direction[axis][where] = 1.0
    md = np.where((np.abs(x) < 9) & (np.abs(y) < 22) & (np.abs(z - 2) < 10), 2.8e-3, 0.75e-3)
    b0 = np.where(inside, 300.0 + 2e5 * md + 80.0 * np.cos(x / 9) * np.cos(y / 11), 15.0)
    return {"inside": inside, "fa": fa, "md": md, "direction": direction, "b0": b0}


def fake_images(seed: int = 0, volumes: int = 33) -> DwiImages:
    """Arrays for every picture of a session: distorted along y before, two slices without signal."""
    rng = np.random.default_rng(seed)
    v = fake_volumes()
    pushed = np.where(np.indices(SHAPE)[2] < 14, np.roll(v["b0"], 3, axis=1), v["b0"])
    z = rng.standard_normal((SHAPE[2], volumes))
    z[:3], z[:, :3] = np.nan, np.nan
    z[12, 9], z[20, 25] = -8.0, -6.0
    return DwiImages(
        affine=AFFINE,
        brain=v["inside"],
        fa=v["fa"] + 0.02 * rng.standard_normal(SHAPE),
        md=v["md"],
        direction=v["direction"],
        b0_before=pushed,
        b0_after=v["b0"],
        residual_percent=np.abs(3.0 + rng.standard_normal(SHAPE)),
        noise=np.full(SHAPE, 9.0) + rng.standard_normal(SHAPE),
        removed=np.full(SHAPE, 0.9) + 0.05 * rng.standard_normal(SHAPE),
        slice_z=z,
        bvals=np.concatenate([np.zeros(3), np.full(volumes - 3, 1000.0)]),
        outliers=[(12, 9), (20, 25)],
    )


@cache
def fake_thumbnails() -> dict[str, str]:
    """Small pictures of the same head, as base64 PNG."""
    v = fake_volumes()
    fa, md = (np.where(v["inside"], v[name], np.nan) for name in ("fa", "md"))
    drawn = {
        "direction": direction_thumbnail_png(v["direction"], fa, AFFINE),
        "fa": thumbnail_png(fa, AFFINE, low=0.0, high=1.0),
        "md": thumbnail_png(1e3 * md, AFFINE, low=0.0, high=1.6),
    }
    return {name: base64.b64encode(png).decode() for name, png in drawn.items()}


def _summary(values: np.ndarray) -> dict[str, Any]:
    places = np.percentile(values, (5, 25, 50, 75, 95))
    found = dict(zip(("p05", "p25", "median", "p75", "p95"), map(float, places), strict=True))
    return found | {"n": int(values.size), "missing": 0.0}


def fake_maps(rng: np.random.Generator, fa: float, md: float) -> dict[str, Any]:
    """Numbers of every map, FA and diffusivities off by a factor."""
    found = {}
    for name, (white, brain) in LEVELS.items():
        low, high = LIMITS[name]
        factor = fa if name == "fa" else md
        own = {
            "WM": white * factor * (1 + 0.12 * rng.standard_normal(3000)),
            "brain": brain * factor * np.exp(0.35 * rng.standard_normal(6000)),
        }
        counts = {t: np.histogram(np.clip(v, low, high), BINS, (low, high))[0].tolist() for t, v in own.items()}
        found[name] = {"units": UNITS[name], "histogram": {"low": low, "high": high} | counts}
        found[name] |= {tissue: _summary(values) for tissue, values in own.items()}
    return found


def fake_motion(rng: np.random.Generator, volumes: int, size: float) -> dict[str, Any]:
    """Movement as a random walk with steps of about ``size`` mm."""
    translation = np.cumsum(0.3 * size * rng.standard_normal((volumes, 3)), axis=0)
    rotation = np.cumsum(0.2 * size * rng.standard_normal((volumes, 3)), axis=0)
    translation[0], rotation[0] = 0.0, 0.0
    fd = np.abs(size * (1 + 0.4 * rng.standard_normal(volumes)))
    fd[0] = 0.0
    eddy = np.abs(0.4 + 0.1 * rng.standard_normal(volumes))

    def told(values: np.ndarray) -> dict[str, Any]:
        return {"mean": float(values.mean()), "max": float(values.max()), "per_volume": values.tolist()}

    return {
        "model": "b = 0: mean of the others; b = 1000 s/mm2: Gaussian process",
        "translation_mm": translation.tolist(),
        "rotation_deg": rotation.tolist(),
        "fd_mm": told(fd),
        "eddy_rms_mm": told(eddy),
    }


def fake_session(participant: str = "01", session: str = "1", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a session's quality control; ``fa``, ``md``, ``moved`` and ``outliers`` make it worse, others replace."""
    rng = np.random.default_rng(seed)
    fa = changes.pop("fa", 1.0 + 0.004 * rng.standard_normal())
    md = changes.pop("md", 1.0 + 0.004 * rng.standard_normal())
    moved = changes.pop("moved", float(0.35 * np.exp(0.15 * rng.standard_normal())))
    number = changes.pop("outliers", int(rng.poisson(2)))
    who = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    folder = f"sub-{participant}" + (f"/ses-{session}" if session else "")
    volumes, slices = 33, 36
    qc: dict[str, Any] = {
        "schema": 1,
        "participant_id": participant,
        "session_id": session,
        "made": {"Denoising": "MP-PCA", "Unringing": True, "Distortion": "reversed phase encoding"},
        "field_strength_t": 3.0,
        "voxel_mm": [2.0, 2.0, 2.0],
        "warnings": [],
        "n_volumes": volumes,
        "n_b0": 3,
        "shells": [{"b": 1000.0, "n": 30, "directions": 30}],
        "frame": {"verdict": "right", "message": f"{who}: the b-vectors are as the table says.", "lead": 21.4},
        "gibbs": {"done": True, "reason": ""},
        "susceptibility": {
            "method": "two images of opposite phase encoding",
            "correlation_before": 0.71 + 0.01 * rng.standard_normal(),
            "correlation_after": 0.965 + 0.003 * rng.standard_normal(),
            "displacement_mm": {"p01": -4.2, "p50": 0.7, "p99": 6.1},
        },
        "motion": fake_motion(rng, volumes, moved),
        "outliers": {
            "slices": [
                {
                    "volume": int(3 + rng.integers(30)),
                    "slice": int(rng.integers(slices)),
                    "z": float(-4 - rng.exponential()),
                }
                for _ in range(number)
            ],
            "percent": 100.0 * number / (30 * slices),
            "replaced": True,
        },
        "snr_b0": 38.0 + rng.standard_normal(),
        "snr_noise": 21.0 + 0.5 * rng.standard_normal(),
        "cnr": [{"b": 1000.0, "cnr": 1.9 + 0.05 * rng.standard_normal()}],
        "residual": {
            "per_volume_percent": (3.0 + 0.2 * rng.standard_normal(volumes)).tolist(),
            "brain_percent": 3.0,
            "median_percent": 2.8 + 0.08 * rng.standard_normal(),
        },
        "noise": {"median": 14.0, "percent": 4.8},
        "maps": fake_maps(rng, fa, md),
        "negatives_percent": 0.8 + 0.1 * rng.standard_normal(),
        "volume_ml": {"brain": 1450.0 + 25 * rng.standard_normal(), "WM": 440.0 + 8 * rng.standard_normal()},
        "corrections": [
            "Denoised by MP-PCA with patches of 5 x 5 x 5 voxels.",
            "Gibbs ringing removed by subvoxel shifts.",
            "Susceptibility distortion, movement and eddy currents corrected in one interpolation.",
        ],
        "page": f"{folder}/{who}_desc-dwi_qc.html",
        "thumbnails": fake_thumbnails(),
    }
    return qc | changes


def fake_cohort(people: int, visits: int) -> list[dict[str, Any]]:
    """Return the sessions of some people, in order."""
    return [
        fake_session(f"{person + 1:02d}", str(visit + 1), seed=100 * person + visit)
        for person in range(people)
        for visit in range(visits)
    ]
