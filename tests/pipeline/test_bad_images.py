"""What becomes of a study when what is done about a bad image changes: the last run counts, not the way to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxcloud.pipeline.study import plan_study

SHARD = "stack-shard/R1map_label-GM/shard-00000"
FIT = "fits/model-training/R1map_label-GM/fit.zarr/"


def spoil(study: Any) -> tuple[Path, bytes]:
    """Store one image in other units and return it as it was."""
    path: Path = study.folder / "sub-01/ses-day07/sub-01_ses-day07_space-phantom_label-GM_R1map.nii.gz"
    before, image = path.read_bytes(), nib.load(path)
    values = np.asarray(image.dataobj) * 1000
    path.unlink()
    nib.save(nib.Nifti1Image(values, image.affine), path)
    return path, before


def fits(study: Any) -> dict[str, str]:
    """Return path to digest of the fit's objects."""
    return {path: digest for path, digest in study.numbers().items() if path.startswith(FIT)}


def tables(study: Any) -> dict[str, bytes]:
    """Return the tables of results."""
    return {name: (study.output / "tables" / f"{name}.tsv").read_bytes() for name in ("clusters", "peaks", "searches")}


def test_run__with_stop_after_exclude_fits_nothing_over_the_missing_row_and_keeps_the_fits(
    fresh: Any, expected: dict[str, str], done: Any
) -> None:
    image, before = spoil(fresh)
    assert fresh.run(on_bad_image="exclude").failed == {}
    excluded, with_exclusion = fits(fresh), fresh.numbers()
    outcome = fresh.run()
    assert list(outcome.failed) == [SHARD]
    assert not [key for key in outcome.computed if key.startswith(("fit-", "smoothness", "inference"))]
    assert {key.split("/")[0] for key in outcome.unavailable} >= {
        "fit-template",
        "fit-block",
        "smoothness",
        "inference",
    }
    assert fits(fresh) == excluded
    states = plan_study(fresh.file).status
    assert {s.state for s in states.values() if s.unit.step in ("fit-block", "inference")} == {"unavailable"}

    # The opposite way: what the first run made holds again.
    assert fresh.run(on_bad_image="exclude").failed == {}
    assert with_exclusion.items() <= fresh.numbers().items()

    # Mended: everything is as if nothing had been wrong.
    fresh.run()
    image.write_bytes(before)
    assert fresh.run().failed == {}
    assert tables(fresh) == tables(done[0])
    for path, digest in fresh.numbers().items():
        if path.startswith("stats/") and path.endswith(".nii.gz"):
            assert digest == expected[path]


def test_run__with_a_bad_tissue_image_leaves_the_fits_alone(finished: Any) -> None:
    before = fits(finished)
    path = next((finished.folder / "sub-02").rglob("*probseg*"))
    path.write_bytes(b"no image")
    outcome = finished.run()
    assert len(outcome.failed) == 1
    assert next(iter(outcome.failed)).startswith("stack-shard/probseg")
    assert fits(finished) == before
