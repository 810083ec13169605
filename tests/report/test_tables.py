from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from voxcloud.report.tables import cell, write_tables

COLUMNS = [
    "region",
    "map",
    "label",
    "coefficient",
    "contrast",
    "direction",
    "volume",
    "p_fwe",
    "p_family",
    "p_uncorrected",
    "q_fdr",
    "size_voxels",
    "size_mm3",
    "peak_t",
    "peak_z",
    "x",
    "y",
    "z",
    "largest_participant",
    "share",
    "loo_t_min",
    "loo_t_max",
    "flagged",
    "between_t",
    "between_p",
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize(
    "value, expected",
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-patients", "'-patients"),
        ("-3.5", "-3.5"),
        (-3.5, "-3.5"),
        ("+1e-5", "+1e-5"),
        ("two\twords\nhere", "two words here"),
        ("\t=1", "'=1"),
        (None, "n/a"),
        (True, "true"),
        (1.1e-5, "1.1e-05"),
    ],
)
def test_cell__text_is_no_formula_and_numbers_keep_their_digits(value: object, expected: str) -> None:
    assert cell(value) == expected


def test_write_tables__clusters_have_the_published_columns(results_folder: Path) -> None:
    write_tables(results_folder)
    rows = read(results_folder / "tables" / "clusters.tsv")
    assert [c for c in rows[0] if c != "model"] == COLUMNS
    assert len(rows) == 3
    assert sorted(float(r["p_fwe"]) for r in rows)[-1] == 3.2e-2
    assert {r["flagged"] for r in rows} == {"true", "false"}


def test_write_tables__every_column_is_explained(results_folder: Path) -> None:
    for path in write_tables(results_folder):
        dictionary = json.loads(path.with_suffix(".json").read_text())
        header = path.read_text(encoding="utf-8").splitlines()[0].split("\t")
        assert header == list(dictionary)
        assert all(entry["Description"] for entry in dictionary.values())


def test_write_tables__every_search_and_peak_has_a_row(results_folder: Path) -> None:
    write_tables(results_folder)
    assert len(read(results_folder / "tables" / "searches.tsv")) == 4
    assert len(read(results_folder / "tables" / "peaks.tsv")) == 9
    assert len(read(results_folder / "tables" / "participants.tsv")) == 24
    assert len(read(results_folder / "tables" / "left_out.tsv")) == 3


def test_write_tables__a_group_name_cannot_start_a_formula(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, groups=["untrained", "=HYPERLINK(1)"], maps=["R1map"], labels=["GM"], significant=0, each=4)
    write_tables(tmp_path)
    assert {r["group"] for r in read(tmp_path / "tables" / "participants.tsv")} == {"untrained", "'=HYPERLINK(1)"}
