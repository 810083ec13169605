"""Simulated studies with known truth: the model study on the MNI152 template, and a tiny one for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voxcloud.errors import PlanError, StudyFileError
from voxcloud.schema import variable
from voxcloud.testing.anatomy import Anatomy, mni_anatomy, phantom_anatomy, region_atlas, search_volumes
from voxcloud.testing.cohort import (
    GROUP_SIZES,
    MISSING_DIFFUSION,
    MISSING_VISITS,
    REFERENCE_DAYS,
    Cohort,
    make_cohort,
)
from voxcloud.testing.design import MODELS, GroupModel
from voxcloud.testing.effects import MODEL_STUDY_EFFECTS, PATIENTS, PlantedEffect, truth_entries
from voxcloud.testing.fields import distance_mm
from voxcloud.testing.files import write_json, write_nifti, write_table
from voxcloud.testing.images import FOUR_D, PROBSEG, Field, Progress, write_images
from voxcloud.testing.study_file import ATLAS, study_tree, write_atlas_labels, write_descriptions, write_study_file
from voxcloud.testing.tissue import MAP_MODELS, MAPS

THRESHOLDS = {"GM": 0.2, "WM": 0.6}


@dataclass(frozen=True)
class SimulatedStudy:
    """A simulated study on disk.

    Attributes
    ----------
    folder
        Where everything is.
    study_file
        Ready for ``voxcloud run``.
    anatomy, cohort
        What the study was drawn from; identifiers are bare ("01", "day00").
    images
        The images table with bare identifiers; ``path`` relative to ``folder``.
    truth
        Content of ``truth/truth.json``: see :func:`voxcloud.testing.truth.compare_with_truth`.
    """

    folder: Path
    study_file: Path
    anatomy: Anatomy
    cohort: Cohort
    images: pd.DataFrame
    truth: dict[str, Any]

    @property
    def participants(self) -> pd.DataFrame:
        """participant_id, group, age, sex, tiv."""
        return self.cohort.participants

    @property
    def sessions(self) -> pd.DataFrame:
        """participant_id, session_id, day, nominal_day."""
        return self.cohort.sessions

    def image_paths(self, map_name: str, label: str) -> list[tuple[str, str, Path, int | None]]:
        """Return (participant, session, file, volume or None) of a stack, sorted."""
        rows = self.images[(self.images["map"] == map_name) & (self.images["label"] == label)]
        return [
            (
                r["participant_id"],
                r["session_id"],
                self.folder / r["path"],
                None if r["volume"] == "" else int(r["volume"]),
            )
            for r in rows.to_dict("records")
        ]


def simulate_study(
    out: str | Path,
    *,
    resolution_mm: float = 4.0,
    seed: int = 0,
    maps: Sequence[str] | None = None,
    group_sizes: Mapping[str, int] | None = None,
    missing: bool = True,
    fwhm_mm: float | None = None,
    progress: Progress | None = None,
) -> SimulatedStudy:
    """Write the model study on the MNI152 template: 49 people, five groups, five visits, eight maps, two tissues.

    y = base (1 + age + tiv + b0 + b1 linear(day) + b2 quadratic(day) + planted(day) + noise): every random term is a
    smooth Gaussian field; the planted changes are blurred spheres listed in ``truth/truth.json``. The same arguments
    give the same bytes.

    Parameters
    ----------
    out
        New or empty folder.
    resolution_mm
        Voxel size in mm; 4 for the demo, 1.5 as in a published study.
    seed
        Seed of every draw.
    maps
        Some of R1map, MTsat, R2starmap, FA, MD, AD, RD, volume; default all. A map's values do not depend on the
        others.
    group_sizes
        People per group (sci_arm, sci_leg, con_arm, con_leg, con_none); default 9, 8, 9, 9, 14. Models whose groups
        have no people are left out of the study file.
    missing
        Leave out some visits, as in every real study.
    fwhm_mm
        Smoothness of all fields, mm; default the larger of 8 mm and three voxels.
    progress
        Called with (images written, images in all).

    Raises
    ------
    StudyFileError
        If the folder holds something already, a map is not one of the model study, or no group model can be filled.
    PlanError
        If the resolution is outside 1 to 12 mm, or the smoothness outside 0 to 60 mm.
    """
    chosen = _check_maps(MAPS if maps is None else maps)
    sizes = GROUP_SIZES if group_sizes is None else group_sizes
    models = tuple(m for m in MODELS if m.can_be_filled(sizes))
    if not models:
        raise StudyFileError(
            f"simulation: group_sizes are expected to fill at least one group model, found {dict(sizes)}. "
            "Ask for more people, e.g. three sci_arm and three con_none."
        )
    cohort = make_cohort(
        seed=seed,
        group_sizes=sizes,
        missing_visits=MISSING_VISITS if missing else {},
        missing_diffusion=MISSING_DIFFUSION if missing else (),
    )
    if fwhm_mm is not None and not 0.0 < fwhm_mm <= 60.0:
        raise PlanError(
            f"simulation: fwhm_mm is expected above 0 and at most 60 mm, found {fwhm_mm:g}. Use 8 to 12 mm."
        )
    smooth = max(8.0, 3.0 * resolution_mm) if fwhm_mm is None else fwhm_mm
    anatomy = mni_anatomy(resolution_mm)
    folder = _new_folder(out)
    study = Field(anatomy, cohort, MODEL_STUDY_EFFECTS, smooth, seed)
    return _write_study(folder, study, chosen, ("GM", "WM"), "sci-training", models, progress)


TINY_MODELS = (GroupModel("training", "patients_minus_untrained", "sci_arm", "con_none", nuisance=("age",)),)
TINY_EFFECTS = tuple(
    PlantedEffect(f"sustained_{label or 'all'}", tuple(MAP_MODELS), label, "linear", centre, 9.0, 6.0, PATIENTS)
    for label, centre in (("GM", (14.0, 0.0, 8.0)), ("WM", (0.0, 0.0, 4.0)), ("", (8.0, 0.0, 0.0)))
)


def tiny_study(
    out: str | Path,
    *,
    seed: int = 0,
    maps: Sequence[str] = ("R1map",),
    labels: Sequence[str] = ("GM",),
    group_sizes: Mapping[str, int] | None = None,
    reference_days: Sequence[float] = REFERENCE_DAYS,
    missing_visits: Mapping[tuple[str, int], Sequence[float]] | None = None,
    shape: Sequence[int] = (12, 14, 12),
    voxel_mm: float = 4.0,
    fwhm_mm: float = 8.0,
    jitter_days: bool = False,
    four_d: Sequence[str] = FOUR_D,
    effects: Sequence[PlantedEffect] = TINY_EFFECTS,
    changes: Mapping[str, Any] | None = None,
) -> SimulatedStudy:
    """Write a study that runs in a second: ten people on an ellipsoid, one map, one model, one planted change.

    Parameters
    ----------
    out
        New or empty folder.
    maps, labels
        Maps, and tissues among "GM", "WM" and "" (no tissue; then no tissue masks are asked for).
    group_sizes
        People per group; default 5 sci_arm and 5 con_none.
    missing_visits
        (group, number within the group from 1) -> planned days without a visit.
    shape, voxel_mm
        Grid.
    four_d
        Maps written as one 4D .nii per participant and tissue instead of 3D .nii.gz.
    effects
        Planted changes; default one large linear increase in sci_arm per tissue, () for none.
    changes
        Keys of the study file to replace, top level only, e.g. ``{"models": [...]}``.

    Raises
    ------
    StudyFileError
        If the folder holds something already, or a map is not one of the model study.
    """
    chosen = _check_maps(maps)
    folder = _new_folder(out)
    cohort = make_cohort(
        seed=seed,
        group_sizes={"sci_arm": 5, "con_none": 5} if group_sizes is None else group_sizes,
        reference_days=reference_days,
        missing_visits=missing_visits,
        jitter_days=jitter_days,
    )
    study = Field(phantom_anatomy(shape, voxel_mm), cohort, tuple(effects), fwhm_mm, seed, tuple(four_d))
    return _write_study(folder, study, chosen, tuple(labels), "tiny", TINY_MODELS, None, changes)


def _write_study(
    folder: Path,
    study: Field,
    maps: Sequence[str],
    labels: Sequence[str],
    name: str,
    models: Sequence[GroupModel],
    progress: Progress | None,
    changes: Mapping[str, Any] | None = None,
) -> SimulatedStudy:
    anatomy, cohort = study.anatomy, study.cohort
    thresholds = {label: THRESHOLDS[label] for label in labels if label}
    in_mni = anatomy.space.startswith("MNI")
    write_nifti(folder / "mask.nii.gz", anatomy.mask, anatomy.affine, description="template brain", in_mni=in_mni)
    volumes = search_volumes(anatomy, thresholds) if in_mni else {}
    for roi, inside in volumes.items():
        write_nifti(
            folder / "rois" / f"{roi}.nii.gz", inside, anatomy.affine, description="simulated region", in_mni=in_mni
        )
    if in_mni:
        regions, names = region_atlas(anatomy)
        write_nifti(folder / ATLAS["image"], regions, anatomy.affine, description="simulated regions", in_mni=True)
        write_atlas_labels(folder / ATLAS["labels"], names)
    images = write_images(folder, study, maps, labels, progress)
    write_table(folder / "images.tsv", images)
    write_table(folder / "participants.tsv", cohort.participants)
    days = [f"{day:g}" for day in cohort.sessions["day"]]
    write_table(folder / "sessions.tsv", cohort.sessions[["participant_id", "session_id"]].assign(day=days))
    if in_mni:
        write_table(folder / "behaviour.tsv", cohort.behaviour)
    truth = _write_truth(folder, study, maps, labels, models)
    tree = study_tree(name, cohort, maps, thresholds, list(volumes), models, on_template=in_mni)
    tree.update(changes or {})
    write_study_file(folder / "study.yaml", tree)
    write_descriptions(folder, study, [*maps, *([PROBSEG] if thresholds else [])], behaviour=in_mni)
    return SimulatedStudy(folder, folder / "study.yaml", anatomy, cohort, images, truth)


def _write_truth(
    folder: Path, study: Field, maps: Sequence[str], labels: Sequence[str], models: Sequence[GroupModel]
) -> dict[str, Any]:
    anatomy, cohort = study.anatomy, study.cohort
    entries = [e for e in truth_entries(study.effects, maps, cohort, study.fwhm_mm, models) if e["label"] in labels]
    in_mni = anatomy.space.startswith("MNI")
    null = anatomy.mask.copy()
    for effect in study.effects:
        name = f"truth/{effect.name}.nii.gz"
        reach = [float(str(e["reach_mm"])) for e in entries if e["mask"] == name]
        if not reach:
            continue
        distance = distance_mm(anatomy.shape, anatomy.affine, effect.centre_mm)
        null &= distance > max(reach)
        region = anatomy.mask & (distance <= effect.radius_mm)
        write_nifti(folder / name, region, anatomy.affine, description=f"planted: {effect.name}", in_mni=in_mni)
    write_nifti(folder / "truth" / "null.nii.gz", null, anatomy.affine, description="nothing planted", in_mni=in_mni)
    truth = {
        "schema": 1,
        "seed": study.seed,
        "voxel_mm": anatomy.voxel_mm,
        "fwhm_mm": study.fwhm_mm,
        "reference_days": list(cohort.reference_days),
        "maps": {m: variable(m).units for m in maps},
        "null_stacks": [
            {"map": m, "label": label}
            for m in maps
            for label in labels
            if not any(e["map"] == m and e["label"] == label for e in entries)
        ],
        "null_mask": "truth/null.nii.gz",
        "planted": entries,
        "learning": cohort.learning.round(6).to_dict("records"),
    }
    write_json(folder / "truth" / "truth.json", truth)
    return truth


def _check_maps(maps: Sequence[str]) -> tuple[str, ...]:
    unknown = [m for m in maps if m not in MAPS]
    if unknown or not maps:
        raise StudyFileError(
            f"simulation: maps are expected among {', '.join(MAPS)}, found {', '.join(unknown) or 'none'}. "
            "Change the list of maps."
        )
    return tuple(m for m in MAPS if m in maps)


def _new_folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyFileError(
            f"simulation: {folder} is expected to be a new or empty folder, found files in it. Name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
