"""Drawing and writing the maps of a simulated study, one participant at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.schema import variable
from voxcloud.testing.anatomy import Anatomy
from voxcloud.testing.cohort import Cohort
from voxcloud.testing.design import PolynomialTime
from voxcloud.testing.effects import PlantedEffect, planted_in
from voxcloud.testing.fields import Float32, SmoothNoise, blurred_sphere, generator
from voxcloud.testing.files import write_nifti
from voxcloud.testing.tissue import DERIVED, MAP_MODELS, axial_radial, base_image

PROBSEG = "probseg"
DIFFUSION = ("FA", "MD", "AD", "RD")
FOUR_D = ("RD", "volume")
"""Maps written as one 4D file per participant and tissue; the others are one 3D file per visit."""

INT16_SLOPE = {"volume": 2.0 / 32767}
AGE_CENTRE = 46.0
TIV_CENTRE_ML = 1520.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Field:
    """Everything that the drawing of images needs, fixed for a study."""

    anatomy: Anatomy
    cohort: Cohort
    effects: tuple[PlantedEffect, ...]
    fwhm_mm: float
    seed: int
    four_d: tuple[str, ...] = FOUR_D
    noise: SmoothNoise = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Build the noise generator."""
        width = [self.fwhm_mm / self.anatomy.voxel_mm] * 3
        object.__setattr__(self, "noise", SmoothNoise(self.anatomy.shape, width))


@dataclass(frozen=True)
class _Source:
    """One drawn map of one tissue: its mean image and its planted changes, (amplitude x profile, multipliers)."""

    name: str
    label: str
    base: Float32
    planted: tuple[tuple[str, Float32, dict[str, float]], ...]


def write_images(
    out: Path, study: Field, maps: Sequence[str], labels: Sequence[str], progress: Progress | None = None
) -> pd.DataFrame:
    """Draw and write every image; return the images table (paths relative to ``out``).

    Only a few images are in memory at a time: those of one participant, one map family and one tissue.
    """
    families = [f for f in (tuple(m for m in maps if m in DIFFUSION), *((m,) for m in maps if m not in DIFFUSION)) if f]
    people = study.cohort.participants.to_dict("records")
    tissues = [label for label in labels if label]
    every, diffusion = len(study.cohort.sessions), _diffusion_visits(study)
    per_label = sum(len(f) * (diffusion if set(f) & set(DIFFUSION) else every) for f in families)
    total = per_label * len(labels) + every * len(tissues)
    rows: list[dict[str, object]] = []

    def add(written: list[dict[str, object]]) -> None:
        rows.extend(written)
        if progress is not None:
            progress(len(rows), total)

    for label in labels:
        for family in families:
            sources = [_source(study, name, label) for name in _drawn(family)]
            for participant in people:
                add(_write_participant(out, study, sources, family, label, participant))
    for label in tissues:
        for participant in people:
            add(_write_probseg(out, study, label, str(participant["participant_id"])))
    table = pd.DataFrame(rows, columns=["participant_id", "session_id", "map", "label", "path", "volume"])
    return table.sort_values(["participant_id", "session_id", "map", "label"], ignore_index=True)


def _diffusion_visits(study: Field) -> int:
    visits = study.cohort.sessions[["participant_id", "session_id"]].itertuples(index=False)
    return sum((pid, session) not in study.cohort.without_diffusion for pid, session in visits)


def _drawn(family: Sequence[str]) -> tuple[str, ...]:
    """Return the maps to draw for a family: FA and MD stand behind AD and RD."""
    return ("FA", "MD") if set(family) & set(DERIVED) else tuple(family)


def _source(study: Field, name: str, label: str) -> _Source:
    time = PolynomialTime(study.cohort.reference_days)
    planted = []
    for effect in planted_in(study.effects, name, label):
        profile = blurred_sphere(
            study.anatomy.shape, study.anatomy.affine, effect.centre_mm, effect.radius_mm, study.fwhm_mm
        )
        amplitude = np.float32(effect.relative_amplitude(name, time))
        planted.append((effect.term, amplitude * profile, effect.multipliers(study.cohort)))
    return _Source(name, label, base_image(study.anatomy, name, label), tuple(planted))


def draw_participant(
    study: Field, source: _Source, participant: Mapping[Hashable, Any], visits: pd.DataFrame
) -> Iterator[Float32]:
    """Yield the participant's images in the order of the visits, in the map's units.

    y = base (1 + age + tiv + b0 + b1 lin(day) + b2 quad(day) + planted(day) + noise), b0, b1, b2 and noise smooth.
    """
    model, pid = MAP_MODELS[source.name], str(participant["participant_id"])
    time = PolynomialTime(study.cohort.reference_days)
    rng = generator(study.seed, "people", source.name, source.label, pid)
    covariates = model.age * (float(participant["age"]) - AGE_CENTRE)
    covariates += model.tiv * (float(participant["tiv"]) - TIV_CENTRE_ML) / 1000.0
    person = study.noise.sample(rng) * np.float32(model.between) + np.float32(covariates)
    slopes = {term: study.noise.sample(rng) * np.float32(getattr(model, term)) for term in ("linear", "quadratic")}
    for term, change, multipliers in source.planted:
        weight = np.float32(multipliers[pid])
        if term == "intercept":
            person += weight * change
        elif weight:
            slopes[term] += weight * change
    days = visits["day"].to_numpy(dtype=float)
    course = {term: time.course(term, days).astype(np.float32) for term in slopes}
    for k, session in enumerate(visits["session_id"]):
        noise = study.noise.sample(generator(study.seed, "visit", source.name, source.label, pid, session))
        relative = person + course["linear"][k] * slopes["linear"] + course["quadratic"][k] * slopes["quadratic"]
        yield source.base * (np.float32(1.0) + relative + np.float32(model.noise) * noise)


def _write_participant(
    out: Path,
    study: Field,
    sources: Sequence[_Source],
    family: Sequence[str],
    label: str,
    participant: Mapping[Hashable, Any],
) -> list[dict[str, object]]:
    pid = str(participant["participant_id"])
    visits = _visits(study, pid, family)
    outside = ~study.anatomy.support(label)
    kept: dict[str, list[Float32]] = {m: [] for m in family if m in study.four_d}
    rows = []
    for session, *drawn in zip(
        visits["session_id"], *(draw_participant(study, s, participant, visits) for s in sources), strict=True
    ):
        images = _family_images([s.name for s in sources], drawn, family)
        for name, image in images.items():
            image[outside] = 0.0 if name == "volume" else np.nan
            if name in kept:
                kept[name].append(image)
                continue
            path = f"sub-{pid}/ses-{session}/sub-{pid}_ses-{session}_{_entities(study, name, label)}.nii.gz"
            _save(out / path, image, study, name)
            rows.append(_row(pid, session, name, label, path, None))
    for name, volumes in kept.items():
        path = f"sub-{pid}/sub-{pid}_{_entities(study, name, label)}.nii"
        _save(out / path, np.stack(volumes, axis=3), study, name)
        rows += [_row(pid, s, name, label, path, k) for k, s in enumerate(visits["session_id"])]
    return rows


def _visits(study: Field, pid: str, family: Sequence[str]) -> pd.DataFrame:
    visits = study.cohort.sessions[study.cohort.sessions["participant_id"] == pid]
    if not set(family) & set(DIFFUSION):
        return visits
    return visits[[(pid, s) not in study.cohort.without_diffusion for s in visits["session_id"]]]


def _family_images(names: Sequence[str], drawn: Sequence[Float32], family: Sequence[str]) -> dict[str, Float32]:
    images = dict(zip(names, drawn, strict=True))
    if "FA" in images:
        images["FA"] = np.clip(images["FA"], 0.0, 0.95)
    if set(family) & set(DERIVED):
        images["AD"], images["RD"] = axial_radial(images["FA"], images["MD"])
    return {m: images[m] for m in family}


def _write_probseg(out: Path, study: Field, label: str, pid: str) -> list[dict[str, object]]:
    """Write the tissue probabilities of a participant: one segmentation, shared by the visits up to 0.5 %."""
    rng = generator(study.seed, "tissue", label, pid)
    person = study.anatomy.tissue(label) * (np.float32(1.0) + np.float32(0.04) * study.noise.sample(rng))
    person[~study.anatomy.mask] = 0.0
    visits = study.cohort.sessions[study.cohort.sessions["participant_id"] == pid]
    rows = []
    for session in visits["session_id"]:
        image = np.clip(person * np.float32(1.0 + 0.005 * rng.standard_normal()), 0.0, 1.0).astype(np.float32)
        path = f"sub-{pid}/ses-{session}/sub-{pid}_ses-{session}_{_entities(study, PROBSEG, label)}.nii.gz"
        _save(out / path, image, study, PROBSEG)
        rows.append(_row(pid, session, PROBSEG, label, path, None))
    return rows


def _entities(study: Field, name: str, label: str) -> str:
    parts = [f"space-{study.anatomy.space}", f"label-{label}" if label else "", variable(name).suffix]
    return "_".join(p for p in parts if p)


def _save(path: Path, image: Float32, study: Field, name: str) -> None:
    in_mni = study.anatomy.space.startswith("MNI")
    text = f"voxcloud simulated {name}"
    write_nifti(path, image, study.anatomy.affine, description=text, slope=INT16_SLOPE.get(name), in_mni=in_mni)


def _row(pid: str, session: str, name: str, label: str, path: str, volume: int | None) -> dict[str, object]:
    return {
        "participant_id": pid,
        "session_id": session,
        "map": name,
        "label": label,
        "path": path,
        "volume": "" if volume is None else volume,
    }
