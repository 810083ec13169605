"""Tables, descriptions, study file and truth of the simulated raw study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.schema import variable
from voxcloud.testing.anatomy import BOX_MM
from voxcloud.testing.cohort import Cohort
from voxcloud.testing.design import GROUPS, MODELS, GroupModel
from voxcloud.testing.fields import Float64, blurred_sphere, distance_mm
from voxcloud.testing.files import describe_columns, write_json, write_nifti, write_table
from voxcloud.testing.raw_changes import RawChange, planted_entries
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.raw_geometry import Grid
from voxcloud.testing.raw_head import HeadTissues
from voxcloud.testing.raw_people import Person
from voxcloud.testing.raw_sampling import sample_spline
from voxcloud.testing.raw_session import RawSettings, WrittenSession
from voxcloud.testing.raw_tables import truth_record
from voxcloud.testing.study_file import INFERENCE, write_study_file
from voxcloud.testing.tissue import MAPS as STUDY_MAPS

MAPS = STUDY_MAPS
"""Maps that the model of the study file may test."""

WARP_MM = 4.0
WARP_BOX_MM = ((-96.0, 96.0), (-132.0, 100.0), (-100.0, 108.0))
MASK_MM = 2.0
LEAST_SMOOTH_MM = 8.0
FEWEST_VOLUMES = 30  # in which noise can be told from signal by its eigenvalues
PUBLISHED_EXTENT, PUBLISHED_MM, LEAST_EXTENT = 20, 1.5, 5  # voxels, of which grid, and fewest on a coarser one
FEWEST_VISITS = 3  # that a quadratic course needs

README = """Simulated raw data of a longitudinal study: {people} people in two groups, {visits} visits.

Multi-parameter mapping{dwi}. No person stands behind these data. Every participant has the anatomy of the
MNI152 template in another size, shape and by a smooth displacement of their own, with a skull and scalp. Some changes
over time are planted in one group; `truth/truth.json` lists them: where in the template, in which map, how large, and
in which comparison they should show. Beside it are the true maps of each session, the volumes, movements and where
each head lay, and the displacement between each head and the template.

Run it: voxcloud run study.yaml
"""
IGNORED = "truth/\nstudy.yaml\n"
MEANING = {
    "from-head_to-template_warp": "(x, y, z, 3): add to a point of the head (mm, RAS+) for its place in the template",
    "from-template_to-head_warp": "(x, y, z, 3): add to a point of the template (mm, RAS+) for its place in the head",
    "volumeratio": "room that a piece of the template takes in the head on day 0: size and shape included",
    "head_to_scanner": "of a session: a point of the head (mm) to where it lies in the PDw images, (4, 4)",
    "excursion": "largest relative change since day 0 on the reference days, in the middle of the ball",
    "relative_amplitude": "relative change per unit of the term of the time basis",
    "volumes_ml": "sums of the true fractions over the PDw images",
    "tiv_ml": "mean of TIV over a person's visits",
}


def write_anatomy(folder: Path, people: Mapping[str, Person]) -> dict[str, dict[str, Any]]:
    """Write each person's displacement to and from the template, and their volume ratio; return what they are."""
    where = _grid(WARP_BOX_MM, WARP_MM)
    points = _points(where)
    found = {}
    for participant, person in people.items():
        there, back = person.template_points(points), person.head_points(points)
        images = {
            "from-head_to-template_warp": there - points,
            "from-template_to-head_warp": back - points,
            "volumeratio": person.volume_ratio(back),
        }
        files = {}
        for name, values in images.items():
            path = folder / "truth" / f"sub-{participant}_{name}.nii.gz"
            image = values.reshape(*where.shape, *values.shape[1:]).astype(np.float32)
            # Rounded to a micrometre in binary, a smooth field takes half the space.
            image = np.rint(image * 2.0**10) / np.float32(2.0**10)
            write_nifti(path, image.astype(np.float32), where.affine, description=name, in_mni="template_to" in name)
            files[name] = path.relative_to(folder).as_posix()
        found[participant] = {
            "participant_id": f"sub-{participant}",
            "head_to_template_affine": person.to_template.tolist(),
            "least_jacobian": round(person.least_jacobian, 4),
            **files,
        }
    return found


def write_study(
    folder: Path,
    settings: RawSettings,
    cohort: Cohort,
    changes: Sequence[RawChange],
    anatomy: Mapping[str, dict[str, Any]],
    written: Sequence[WrittenSession],
    maps: Sequence[str],
    template_mm: float,
) -> tuple[dict[str, Any], Path]:
    """Write tables, descriptions, truth and study file; return the content of the truth, and the study file."""
    tiv = _tiv(written)
    for participant, about in anatomy.items():
        about["tiv_ml"] = tiv[participant]
    model = next(model for model in MODELS if model.name == "training")
    sizes = cohort.participants["group"].value_counts().to_dict()
    days = cohort.sessions["nominal_day"].nunique()
    modelled = days >= FEWEST_VISITS and model.can_be_filled({str(k): int(v) for k, v in sizes.items()})
    smooth_mm = max(LEAST_SMOOTH_MM, 2.0 * template_mm)
    entries = planted_entries(changes, maps, cohort, tiv, smooth_mm, (model,) if modelled else ())
    truth = truth_record(settings, written) | {
        "meaning": MEANING,
        "voxel_mm": MASK_MM,
        "fwhm_mm": smooth_mm,
        "reference_days": list(cohort.reference_days),
        "maps": {name: variable(name).units for name in maps},
        "null_stacks": [
            {"map": name, "label": label}
            for name in maps
            for label in ("GM", "WM")
            if not any(entry["map"] == name and entry["label"] == label for entry in entries)
        ],
        "null_mask": "truth/null.nii.gz",
        "planted": entries,
        "participants": list(anatomy.values()),
    }
    _write_masks(folder, settings.head, changes, smooth_mm)
    write_json(folder / "truth" / "truth.json", truth)
    _write_tables(folder, cohort)
    _write_descriptions(folder, settings, cohort)
    tree = _study_tree(settings, cohort, maps, template_mm, model if modelled else None)
    write_study_file(folder / "study.yaml", tree)
    return truth, folder / "study.yaml"


def _tiv(written: Sequence[WrittenSession]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for session in written:
        values.setdefault(session.participant, []).append(session.record["volumes_ml"]["TIV"])
    return {participant: round(float(np.mean(found)), 2) for participant, found in values.items()}


def _study_tree(
    settings: RawSettings, cohort: Cohort, maps: Sequence[str], template_mm: float, model: GroupModel | None
) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "schema": 1,
        "name": "raw-study",
        "bids": ".",
        "output": "derivatives/voxcloud",
        "mpm": {"preset": "hmri-1.0"},
    }
    if settings.dwi is not None:
        tree["dwi"] = _diffusion_steps(settings.dwi.protocol)
    tree["space"] = {"resolution_mm": int(template_mm) if template_mm == int(template_mm) else template_mm}
    tree |= {"participants": "participants.tsv", "sessions": "."}
    if model is not None:
        tree["groups"] = {name: list(GROUPS[name]) for name in (model.plus, model.minus)}
        tree["time"] = {
            "basis": "polynomial",
            "reference_days": [int(day) if day == int(day) else day for day in cohort.reference_days],
            "terms": ["linear", "quadratic"],
            "orthogonalise": "quadratic",
        }
        extent = max(LEAST_EXTENT, round(PUBLISHED_EXTENT * (PUBLISHED_MM / template_mm) ** 3))
        tree |= {"models": [model.study_entry(maps, INFERENCE | {"min_extent": extent})], "family": "all"}
    return tree


def _diffusion_steps(protocol: DwiProtocol) -> dict[str, str]:
    """Return the settings that leave out what these images do not need: it would take most of the time."""
    left_out = {
        "denoise": protocol.volumes < FEWEST_VOLUMES,
        "unringing": not protocol.gibbs,
        "motion": protocol.movements is None and protocol.motion == 0 and protocol.eddy == 0,
        "eddy": protocol.eddy == 0,
    }
    return {step: "none" for step, without in left_out.items() if without}


def _write_tables(folder: Path, cohort: Cohort) -> None:
    write_table(folder / "participants.tsv", cohort.participants.drop(columns="tiv"))
    groups = "sci: chronic spinal cord injury; con: control. arm, leg: trained limb; none: not trained"
    columns = [("group", groups, ""), ("age", "Age at the first visit", "year"), ("sex", "Sex", "")]
    write_json(folder / "participants.json", describe_columns(columns))
    days = describe_columns([("day", "Days since the first day of training", "day")])
    for participant, visits in cohort.sessions.groupby("participant_id"):
        person = folder / f"sub-{participant}"
        table = visits[["session_id"]].assign(day=[f"{day:g}" for day in visits["day"]])
        write_table(person / f"sub-{participant}_sessions.tsv", table)
        write_json(person / f"sub-{participant}_sessions.json", days)


def _write_descriptions(folder: Path, settings: RawSettings, cohort: Cohort) -> None:
    description = {
        "Name": "Simulated longitudinal study, raw data",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "GeneratedBy": [{"Name": "voxcloud", "Description": f"simulate_raw_study, seed {settings.seed}"}],
    }
    write_json(folder / "dataset_description.json", description)
    dwi = "" if settings.dwi is None else " and diffusion"
    readme = README.format(people=len(cohort.participants), visits=len(cohort.sessions), dwi=dwi)
    (folder / "README").write_text(readme)
    (folder / ".bidsignore").write_text(IGNORED)


def _write_masks(folder: Path, head: HeadTissues, changes: Sequence[RawChange], smooth_mm: float) -> None:
    """Write the ball of each change on a grid of 2 mm in the frame of the template, and where nothing is planted."""
    where = _grid(BOX_MM, MASK_MM)
    brain = _brain(head, where)
    null = brain.copy()
    for change in changes:
        distance = distance_mm(where.shape, where.affine, change.centre_mm)
        null &= distance > change.radius_mm + smooth_mm
        region = brain & (distance <= change.radius_mm)
        path = folder / "truth" / f"{change.name}.nii.gz"
        write_nifti(path, region, where.affine, description=f"planted: {change.name}")
        soft = blurred_sphere(where.shape, where.affine, change.centre_mm, change.radius_mm, change.fwhm_mm)
        path = folder / "truth" / f"{change.name}_profile.nii.gz"
        write_nifti(path, soft, where.affine, description="part of the change, 0 to 1")
    write_nifti(folder / "truth" / "null.nii.gz", null, where.affine, description="nothing planted")


def _brain(head: HeadTissues, where: Grid) -> npt.NDArray[np.bool_]:
    fractions = sample_spline(head.coefficients, head.voxels(_points(where)))
    return np.asarray(fractions[:, :2].sum(axis=1).reshape(where.shape) > 0.05)


def _grid(box_mm: Sequence[tuple[float, float]], voxel_mm: float) -> Grid:
    """Return a grid whose voxels have their middles at multiples of the voxel size."""
    first = [int(np.ceil(low / voxel_mm)) for low, _ in box_mm]
    x, y, z = (int(np.floor(high / voxel_mm)) - f + 1 for f, (_, high) in zip(first, box_mm, strict=True))
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = [voxel_mm * f for f in first]
    return Grid((x, y, z), affine)


def _points(where: Grid) -> Float64:
    ijk = np.indices(where.shape).reshape(3, -1).T
    return np.asarray(ijk @ where.affine[:3, :3].T + where.affine[:3, 3])
