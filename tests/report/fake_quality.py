"""Quality control of sessions that never were, in the form that the step mpm-maps writes."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np

from voxcloud.qmri.quality import summarise_b1, summarise_map
from voxcloud.report.mosaic import WINDOWS, thumbnail_png

LEVELS = {"R1map": (1.0, 0.62), "MTsat": (1.65, 0.88), "R2starmap": (21.0, 16.5), "M0map": (690.0, 820.0)}
UNITS = {"R1map": "1/s", "MTsat": "p.u.", "R2starmap": "1/s", "M0map": "arbitrary"}
VOXELS = 4000


def fake_maps(rng: np.random.Generator, factor: float = 1.0, noise: float = 0.07) -> dict[str, Any]:
    """Numbers of every map: half of the voxels white, half grey matter; R1 is off by a factor."""
    wm = np.arange(2 * VOXELS) < VOXELS
    found = {}
    for name, (white, grey) in LEVELS.items():
        level = np.where(wm, white, grey) * (factor if name == "R1map" else 1.0)
        values = level * (1.0 + noise * rng.standard_normal(level.size))
        low, high = WINDOWS[name][:2] if name in WINDOWS and name != "M0map" else (0.0, 1200.0)
        numbers = summarise_map(values, wm, ~wm, limits=(low, high), error=0.03 * level)
        found[name] = {"units": UNITS[name], **numbers, "clipped": 3}
    return found


@cache
def fake_thumbnail(seed: int) -> str:
    """A smooth blob with noise, as base64 PNG."""
    rng = np.random.default_rng(seed)
    x, y, z = np.mgrid[-1:1:24j, -1:1:24j, -1:1:24j]
    radius = np.sqrt(x**2 + y**2 + z**2)
    volume = np.where(radius < 0.9, 1.2 - 0.6 * radius + 0.05 * rng.standard_normal(x.shape), np.nan)
    png = thumbnail_png(volume.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0]), low=0.0, high=1.6)
    return base64.b64encode(png).decode()


def fake_session(participant: str = "01", session: str = "1", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a session's quality control; ``factor`` and ``noise`` are of its maps, other changes replace entries."""
    rng = np.random.default_rng(seed)
    maps = fake_maps(rng, changes.pop("factor", 1.0 + 0.006 * rng.standard_normal()), changes.pop("noise", 0.07))
    who = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    folder = f"sub-{participant}" + (f"/ses-{session}" if session else "")
    moves = {name: np.abs(rng.normal(0.4, 0.15, 2)) for name in ("MTw to PDw", "T1w to PDw", "B1 by AFI to PDw")}
    times = [0.00234 * (k + 1) for k in range(8)]
    qc: dict[str, Any] = {
        "schema": 1,
        "participant_id": participant,
        "session_id": session,
        "made": {"Preset": "hmri-1.0", "B1Method": "AFI", "SpoilingCorrection": True},
        "field_strength_t": 3.0,
        "maps": maps,
        "motion_degradation": {name: float(rng.normal(3.2, 0.2)) for name in ("PDw", "T1w", "MTw")},
        "registration": [
            {
                "name": f"{who}, {name}",
                "method": "picsl-greedy 1.3",
                "translation_mm": [float(v) for v in rng.normal(0, 0.3, 3)],
                "rotation_deg": [float(v) for v in rng.normal(0, 0.2, 3)],
                "displacement_mm": float(moved[0]),
                "displacement_max_mm": float(moved[0] + moved[1]),
                "edge_agreement": 0.9,
            }
            for name, moved in moves.items()
        ],
        "b1": {"method": "AFI", "smoothing_fwhm_mm": 8.0}
        | summarise_b1(rng.normal(1.0, 0.1, 3000), np.ones(3000, dtype=bool)),
        "signal": {name: {"saturated_share": 0.0, "zero_share": 1e-4} for name in ("PDw", "T1w", "MTw")},
        "volume_ml": {"head": 3810.0, "brain": 1402.0, "WM": 391.0, "GM": 402.0},
        "protocol": {
            name: {
                "flip_angle_rad": float(np.deg2rad(angle)),
                "repetition_time_s": 0.0245,
                "echo_time_s": times[:count],
                "receive_sensitivity": False,
            }
            for name, angle, count in (("PDw", 6, 8), ("T1w", 21, 8), ("MTw", 6, 6))
        },
        "corrections": [
            "R1 and A corrected for the transmit field with a B1 map.",
            "No correction for the receive field.",
        ],
        "warnings": [],
        "page": f"{folder}/{who}_desc-mpm_qc.html",
        "thumbnails": {
            name: fake_thumbnail(k) for k, name in enumerate(("R1map", "R2starmap", "MTsat", "M0map", "TB1map"))
        },
    }
    return qc | changes


def fake_cohort(people: int, visits: int) -> list[dict[str, Any]]:
    """Return the sessions of some people, in order."""
    return [
        fake_session(f"{person + 1:02d}", str(visit + 1), seed=100 * person + visit)
        for person in range(people)
        for visit in range(visits)
    ]
