from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from voxcloud.errors import CorruptStoreError
from voxcloud.report.results import effect_units
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
    "loo_p_max",
    "flagged_participants",
    "effect",
    "effect_low",
    "effect_high",
    "effect_units",
    "held_out_t",
    "welch_t",
    "welch_p",
    "bf01",
    "bf01_max",
    "n",
    "df",
    "p_permutation",
    "p_random_field",
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
        ("", "n/a"),
        (True, "true"),
        (1.1e-5, "1.1e-05"),
    ],
)
def test_cell__text_is_no_formula_and_numbers_keep_their_digits(value: object, expected: str) -> None:
    assert cell(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_cell__refuses_what_is_no_number(value: float) -> None:
    with pytest.raises(CorruptStoreError, match="expected finite numbers, found"):
        cell(value)


def test_write_tables__a_result_file_with_nan_is_named(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=1, each=6)
    path = next(tmp_path.glob("results/model-training/R1map*linear*.json"))
    path.write_text(path.read_text().replace('"df": 8.0', '"df": NaN'))
    with pytest.raises(CorruptStoreError, match=re.escape(path.name) + ".*the value NaN, which is no number"):
        write_tables(tmp_path)


def test_write_tables__open_in_pandas_with_the_types_of_their_columns(results_folder: Path) -> None:
    write_tables(results_folder)
    frames = {p.stem: pd.read_csv(p, sep="\t") for p in (results_folder / "tables").glob("*.tsv")}
    clusters, peaks, people = frames["clusters"], frames["peaks"], frames["participants"]
    for frame, names, kind in (
        (clusters, ("p_fwe", "p_family", "size_mm3", "peak_t", "peak_z", "x", "y", "z", "share", "effect", "df"), "f"),
        (clusters, ("size_voxels", "n"), "i"),
        (clusters, ("flagged",), "b"),
        (peaks, ("t", "z_score", "p_fwe", "x"), "f"),
        (peaks, ("cluster", "peak"), "i"),
        (frames["searches"], ("n", "n_voxels", "min_extent", "clusters"), "i"),
        (frames["searches"], ("alpha", "p_fwe_min", "p_holm", "fwhm_x_mm"), "f"),
        (people, ("leverage", "largest_variance_ratio"), "f"),
    ):
        assert {frame[name].dtype.kind for name in names} == {kind}, names
    # A participant's label is text with its prefix: 05 stays 05 in every program.
    for column in (clusters["largest_participant"], people["participant_id"], frames["left_out"]["participant_id"]):
        assert column.str.fullmatch(r"sub-\d\d").all()


def test_write_tables__units_of_every_column_that_has_some(results_folder: Path) -> None:
    write_tables(results_folder)
    columns = json.loads((results_folder / "tables" / "clusters.json").read_text())
    units = {name: entry.get("Units") for name, entry in columns.items()}
    assert {units[k] for k in ("x", "y", "z")} == {"mm"}
    assert (units["size_mm3"], units["size_voxels"]) == ("mm3", "voxels")
    assert units["effect"] == "as in effect_units"
    assert {r["effect_units"] for r in read(results_folder / "tables" / "clusters.tsv")} == {"1/s per 84 days"}


def test_effect_units__a_regression_is_per_unit_of_its_score() -> None:
    tree = {"units": "1/s per 84 days", "test": "alpha", "participants": ["01"], "scores": {"alpha": [1.0]}}
    assert effect_units(tree) == "1/s per 84 days per unit of alpha"
    assert effect_units({**tree, "test": "group[a] - group[b]"}) == "1/s per 84 days"


def significant_of(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Read the significant clusters straight from the result files, without the code of the tables."""
    found = {}
    for path in folder.glob("results/model-*/*__*.json"):
        tree = json.loads(path.read_text())
        for search in tree["searches"]:
            for cluster in search["clusters"]:
                if cluster["significant"]:
                    peak = cluster["peaks"][0]
                    key = (tree["model"], tree["map"], tree["label"], tree["coefficient"], tree["contrast"])
                    found[(*key, search["direction"], search["volume"], peak["x"], peak["y"], peak["z_mm"])] = cluster
    return found


def equal_to_results(folder: Path) -> int:
    """Compare every number of clusters.tsv with the result files; return how many clusters there are."""
    expected = significant_of(folder)
    rows = read(folder / "tables" / "clusters.tsv")
    for row in rows:
        names = ("model", "map", "label", "coefficient", "contrast", "direction", "volume")
        place = tuple(float(row[k]) for k in ("x", "y", "z"))
        cluster = expected.pop((*(row[k].replace("n/a", "") for k in names), *place))
        for name in ("p_fwe", "p_family", "p_uncorrected", "q_fdr", "size_voxels", "size_mm3"):
            assert float(row[name]) == cluster[name], name
        peak, between, influence = cluster["peaks"][0], cluster["between"], cluster["influence"]
        assert (float(row["peak_t"]), float(row["peak_z"])) == (peak["t"], peak["z"])
        assert (float(row["between_t"]), float(row["between_p"])) == (between["t"], between["p"])
        assert [float(row[k]) for k in ("effect", "effect_low", "effect_high")] == [between["effect"], *between["ci"]]
        for name in ("share", "loo_t_min", "loo_t_max", "loo_p_max"):
            assert float(row[name]) == influence[name], name
        assert row["largest_participant"] == f"sub-{influence['largest_participant']}"
        assert row["flagged"] == str(influence["flagged"]).lower()
    assert not expected
    return len(rows)


def test_write_tables__clusters_equal_the_result_files(results_folder: Path) -> None:
    write_tables(results_folder)
    assert equal_to_results(results_folder) == 3


def test_write_tables__peaks_and_searches_equal_the_result_files(results_folder: Path) -> None:
    write_tables(results_folder)
    peaks = {
        (r["coefficient"], r["direction"], r["cluster"], r["peak"]): r
        for r in read(results_folder / "tables" / "peaks.tsv")
    }
    searches = {(r["coefficient"], r["direction"]): r for r in read(results_folder / "tables" / "searches.tsv")}
    for path in results_folder.glob("results/model-*/*__*.json"):
        tree = json.loads(path.read_text())
        for search in tree["searches"]:
            row = searches.pop((tree["coefficient"], search["direction"]))
            assert float(row["p_fwe_min"]) == search["p_fwe_min"]
            assert float(row["resels"]) == search["resels"][-1]
            assert (int(row["n"]), float(row["df"]), int(row["n_voxels"])) == (
                tree["n"],
                tree["df"],
                search["n_voxels"],
            )
            assert [float(row[f"fwhm_{a}_mm"]) for a in "xyz"] == tree["fwhm_mm"]
            for cluster in search["clusters"]:
                for number, peak in enumerate(cluster["peaks"], 1):
                    row = peaks.pop((tree["coefficient"], search["direction"], str(cluster["id"]), str(number)))
                    assert [float(row[k]) for k in ("t", "z_score", "x", "y", "z")] == [
                        peak[k] for k in ("t", "z", "x", "y", "z_mm")
                    ]
                    assert [float(row[k]) for k in ("p_fwe", "p_uncorrected", "q_fdr")] == [
                        peak[k] for k in ("p_fwe", "p_uncorrected", "q_fdr")
                    ]
    assert not peaks
    assert not searches


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
