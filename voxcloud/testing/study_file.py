"""The study file of a simulated study, and the files that describe it to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml

from voxcloud.schema import variable
from voxcloud.testing.cohort import SCORES, Cohort
from voxcloud.testing.design import GROUPS, GroupModel
from voxcloud.testing.files import describe_columns, write_json
from voxcloud.testing.images import Field
from voxcloud.testing.tissue import MAP_MODELS

COMMENTS = {
    "output": "written by voxcloud; one study per folder",
    "images": "participant_id session_id map label path volume (0 is the first volume of a 4D file)",
    "mask": "fixed template brain",
    "masks": "analysis masks per tissue: mean tissue probability at least the threshold",
    "search_volumes": "clusters are looked for here: simulated regions, per tissue and hemisphere",
    "atlas": "names of regions for the tables, in FSL's layout",
    "groups": "unions of levels of the group column",
    "time": "built once from the reference days, evaluated at the actual days",
    "behaviour": "learning curves: every score gives columns <score>_alpha, _delta, _gamma, _improvement",
    "family": "multiplicity is counted over the whole study",
}
RETENTION = (28, 84)
ATLAS = {"image": "rois/regions.nii.gz", "labels": "rois/regions.xml"}
INFERENCE = {"method": "random-field", "cluster_forming_p": 0.001, "min_extent": 20, "alpha": 0.05}

README = """\
# {name}: a simulated study

Made by `voxcloud simulate`: {people} people, {visits} visits, {maps} maps. No person stands behind these data.

The brain is the MNI152 template (ICBM 2009a) that nilearn ships, at {voxel:g} mm. Every image is the typical value of
the tissue times 1 + age + TIV + the participant's smooth intercept, slope and curvature + the planted changes + smooth
noise (FWHM {fwhm:g} mm). `truth/truth.json` lists the planted changes: where, in which map, how large, and in which
comparison they should show. The regions in `rois/` are spheres cut by tissue and hemisphere, not an atlas.

Run it: `voxcloud run study.yaml`
"""


def study_tree(
    name: str,
    cohort: Cohort,
    maps: Sequence[str],
    thresholds: Mapping[str, float],
    volumes: Sequence[str],
    models: Sequence[GroupModel],
    *,
    on_template: bool,
) -> dict[str, Any]:
    """Return the study file as a tree of plain values, in the order in which people read it.

    A study on the template has behaviour and an atlas of the simulated regions beside the search volumes.
    """
    named = {n for m in models for n in (m.plus, m.minus)}
    tree: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "output": "derivatives/voxcloud",
        "images": "images.tsv",
        "participants": "participants.tsv",
        "sessions": "sessions.tsv",
        "mask": "mask.nii.gz",
        "masks": {label: {"map": "probseg", "threshold": t} for label, t in thresholds.items()},
        "search_volumes": {v: {"label": v.split("_")[0], "path": f"rois/{v}.nii.gz"} for v in volumes},
        "atlas": dict(ATLAS) if on_template else {},
        "groups": {g: list(levels) for g, levels in GROUPS.items() if g in named},
        "time": {
            "basis": "polynomial",
            "reference_days": [int(d) if d == int(d) else d for d in cohort.reference_days],
            "terms": ["linear", "quadratic"],
            "orthogonalise": "quadratic",
        },
    }
    if on_template:
        scores = {score: {"better": spec.better} for score, spec in SCORES.items()}
        tree["behaviour"] = {"table": "behaviour.tsv", "scores": scores, "retention": list(RETENTION)}
    tree["models"] = [m.study_entry(maps, INFERENCE) for m in models]
    tree |= {"family": "all", "on_bad_image": "stop"}
    return {key: value for key, value in tree.items() if value != {}}


def write_atlas_labels(path: Path, names: Sequence[str]) -> None:
    """Write the names of the regions as a label XML in FSL's layout; label k of the image is the k-th name."""
    labels = "".join(f'<label index="{k}">{escape(name)}</label>\n' for k, name in enumerate(names, 1))
    path.write_text(
        "<atlas>\n<header><name>simulated regions</name><type>Label</type></header>\n"
        f"<data>\n{labels}</data>\n</atlas>\n"
    )


def write_study_file(path: Path, tree: Mapping[str, Any]) -> None:
    """Write the study file with a comment above each section that needs one."""
    lines = ["# A simulated study: `voxcloud run study.yaml`"]
    for key, value in tree.items():
        if key in COMMENTS:
            lines.append(f"# {COMMENTS[key]}")
        flow = None if isinstance(value, dict | list) else False
        lines.append(
            yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=140).rstrip()
        )
    path.write_text("\n".join(lines) + "\n")


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors: a value used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_descriptions(folder: Path, study: Field, maps: Sequence[str], *, behaviour: bool) -> None:
    """Write dataset_description.json, README, the data dictionaries and a sidecar per map."""
    cohort, anatomy = study.cohort, study.anatomy
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "voxcloud simulated study",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": [
                {"Name": "voxcloud simulate", "Description": f"seed {study.seed}, {anatomy.voxel_mm:g} mm"}
            ],
        },
    )
    text = README.format(
        name=folder.name,
        people=len(cohort.participants),
        visits=len(cohort.sessions),
        maps=len(maps),
        voxel=anatomy.voxel_mm,
        fwhm=study.fwhm_mm,
    )
    (folder / "README.md").write_text(text)
    write_json(
        folder / "participants.json",
        describe_columns(
            [
                (
                    "group",
                    "sci: chronic spinal cord injury; con: control. arm, leg: trained limb; none: not trained",
                    "",
                ),
                ("age", "Age at the first visit", "year"),
                ("sex", "Sex", ""),
                ("tiv", "Total intracranial volume, mean over visits", "ml"),
            ]
        ),
    )
    write_json(
        folder / "images.json",
        describe_columns(
            [
                ("map", "Name of the map", ""),
                ("label", "Tissue: GM or WM; empty: none", ""),
                ("path", "File, relative to this table", ""),
                ("volume", "Volume of a 4D file, counted from 0; empty: the file is one 3D image", ""),
            ]
        ),
    )
    write_json(folder / "sessions.json", describe_columns([("day", "Day since the first day of training", "day")]))
    if behaviour:
        entries = [
            ("day", "Day since the first day of training", "day"),
            ("percent_correct", "Responses within 90 ms of the cue; larger is better", "percent"),
            ("response_time", "Mean absolute deviation from the cue; smaller is better", "ms"),
        ]
        write_json(folder / "behaviour.json", describe_columns(entries))
    for name in maps:
        drawn = name in MAP_MODELS or name in ("AD", "RD")
        write_json(
            folder / f"{variable(name).suffix}.json",
            {
                "Description": variable(name).prose,
                "Units": variable(name).units,
                "SpatialReference": anatomy.space,
                **({"SmoothingFWHM": [study.fwhm_mm] * 3} if drawn else {}),
                "Simulated": True,
            },
        )
