"""The step ``space-qc``: what it reads and writes, and that it tells of what the run told it."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from voxcloud.errors import CorruptStoreError
from voxcloud.pipeline.steps import space_qc
from voxcloud.plan.modality import TOLD
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.store import Store, open_store

OUTPUTS = ("qc_space.html", "tables/qc_space.tsv", "tables/qc_space.json")
FAILED = {"sub-03": "expected a visit that agrees with the others by at least 0.9, found 0.612."}


@pytest.fixture(scope="module")
def fake_space() -> ModuleType:
    """Give the maker of quality control that the pages' tests use."""
    path = Path(__file__).parents[1] / "report" / "fake_space.py"
    spec = importlib.util.spec_from_file_location("fake_space_of_step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def unit(fake_space: ModuleType, tmp_path: Path) -> tuple[WorkUnit, Store]:
    """Two people with two visits in a folder, and the unit that looks at them."""
    store = open_store(str(tmp_path))
    places: dict[str, list[str]] = {}
    for kind, trees in zip(("anatomies", "sessions"), fake_space.fake_cohort(2, 2), strict=True):
        for tree in trees:
            path = tree["page"].removesuffix("html") + "json"
            store.write_bytes(path, json.dumps(tree, allow_nan=False).encode())
            places.setdefault(kind, []).append(path)
    told = {"failed": FAILED, "warnings": ["sub-04: expected a session with MTsat, found none."]}
    made = WorkUnit(
        step="space-qc",
        name="cohort",
        params={"study": "demo", "other_page": "qc.html"},
        inputs={TOLD: digest_json(told)},
        outputs=OUTPUTS,
        places={"output": str(tmp_path), "told": told, **places},
    )
    return made, store


def test_space_qc__writes_page_and_table(unit: tuple[WorkUnit, Store]) -> None:
    made, store = unit
    result = space_qc(made, store)
    assert (result["participants"], result["sessions"], result["failed"]) == (2, 8, 1)
    page = store.read_bytes("qc_space.html").decode()
    assert "found 0.612" in page
    assert "sub-04: expected a session" in page
    assert 'href="qc.html"' in page
    rows = list(csv.DictReader(io.StringIO(store.read_bytes(OUTPUTS[1]).decode()), delimiter="\t"))
    assert [(row["participant_id"], row["session_id"]) for row in rows] == [
        (f"sub-0{p}", f"ses-{s}") for p in (1, 2) for s in (1, 2)
    ]
    assert float(rows[0]["dice_GM"]) > 0.8
    assert list(json.loads(store.read_bytes(OUTPUTS[2]))) == list(rows[0])


def test_space_qc__of_nobody(unit: tuple[WorkUnit, Store]) -> None:
    made, store = unit
    nobody = replace(made, places={**made.places, "anatomies": [], "sessions": []})
    assert space_qc(nobody, store)["participants"] == 0
    assert "Nobody is in template space yet." in store.read_bytes("qc_space.html").decode()


def test_space_qc__what_was_told_must_be_what_was_planned(unit: tuple[WorkUnit, Store]) -> None:
    made, store = unit
    other = replace(made, places={**made.places, "told": {"failed": {}, "warnings": []}})
    with pytest.raises(CorruptStoreError, match="what the run told of failures was changed since"):
        space_qc(other, store)
