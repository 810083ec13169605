"""How long it takes to plan a study of 10,000 work units and to derive their states.

    python benchmarks/bench_planning.py [--folder /tmp]

Sixteen stacks, nine models, a mask of 1.3 million voxels; the images only have names, because planning reads digests.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from measuring import cpu_seconds, peak_mb

from voxcloud.pipeline.study import load, open_output
from voxcloud.plan.build import StudyPlan, build_plan
from voxcloud.plan.status import count_states, derive_status

PEOPLE, SIDE = 40, 110
MAPS = ("R1map", "MTsat", "R2starmap", "FA", "MD", "AD", "RD", "volume")
LABELS = ("GM", "WM")
MODELS = 9


def write_study(folder: Path) -> Path:
    """Write the study and return its file."""
    (folder / "images").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ones((SIDE, SIDE, SIDE), dtype=np.uint8), np.eye(4)), folder / "mask.nii.gz")
    lines = ["participant_id\tmap\tlabel\tpath"]
    for person in range(PEOPLE):
        for name in MAPS:
            for label in LABELS:
                path = folder / "images" / f"{person:02d}_{name}_{label}.nii.gz"
                path.write_bytes(gzip.compress(path.name.encode(), mtime=0))
                lines.append(f"{person:02d}\t{name}\t{label}\timages/{path.name}")
    (folder / "images.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ages = np.random.default_rng(0).uniform(20, 60, PEOPLE)
    people = [f"{p:02d}\t{'ab'[p % 2]}\t{age!r}" for p, age in enumerate(ages.tolist())]
    table = "\n".join(["participant_id\tgroup\tage", *people]) + "\n"
    (folder / "participants.tsv").write_text(table, encoding="utf-8")
    contrast = {"test": "group[a] - group[b]", "alternative": "two-sided"}
    model = {"maps": list(MAPS), "estimator": "ols", "formula": "group + age", "contrasts": {"groups": contrast}}
    study = {
        "schema": 1,
        "name": "planning",
        "output": "derivatives/voxcloud",
        "images": "images.tsv",
        "participants": "participants.tsv",
        "mask": "mask.nii.gz",
        "models": [{"name": f"model{i}", **model} for i in range(MODELS)],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return folder / "study.yaml"


def timed_plan(file: Path) -> StudyPlan:
    """Plan once and print what it took."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    loaded = load(file)
    store = open_output(loaded)
    plan = build_plan(loaded, store, {})
    planned = cpu_seconds() - cpu
    states = count_states(derive_status(plan.units, store))["all"]
    assert sum(states.values()) == len(plan.units)
    both, seconds = cpu_seconds() - cpu, time.perf_counter() - wall
    print(f"  {planned:6.2f} CPU-s to plan, {both - planned:6.2f} CPU-s for the states, {seconds:6.2f} s in all")
    return plan


def main() -> None:
    """Plan twice: the second time the images' digests are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    folder = Path(tempfile.mkdtemp(dir=parser.parse_args().folder))
    try:
        file = write_study(folder / "study")
        print("\nplanning, first time and again")
        timed_plan(file)
        plan = timed_plan(file)
        print(f"  {len(plan.units):,} units; peak memory {peak_mb():.0f} MB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
