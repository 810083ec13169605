from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voxcloud.report.results import read_results
from voxcloud.report.searches import cluster_searches, search_tables


def test_search_tables__hold_every_search_once(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map", "MTsat"], labels=["GM", "WM"], significant=2)
    results = read_results(tmp_path)
    tables = search_tables(results)
    assert [(t["model"], t["tissue"]) for t in tables] == [("training", "grey matter"), ("training", "white matter")]
    cells = [
        (t["tissue"], name, volume, cell)
        for t in tables
        for name, row in t["rows"]
        for volume, cell in zip(t["volumes"], row, strict=True)
    ]
    assert len(cells) == len(results.comparisons) == 8
    assert [name for name, _ in tables[0]["rows"]] == ["R1", "MTsat"]
    assert tables[0]["coefficients"] == [("linear change", 1), ("quadratic change", 1)]


def test_search_tables__the_smaller_p_of_both_directions_stands(results_folder: Path) -> None:
    results = read_results(results_folder)
    hits = [cell for t in search_tables(results) for _, row in t["rows"] for cell in row if cell and cell["hit"]]
    assert len(hits) == 1
    smallest = min(s["p_fwe_min"] for _, s in results.searches())
    direction = min((s for _, s in results.searches()), key=lambda s: s["p_fwe_min"])["direction"]
    assert f"p(FWE) {smallest!r}" in hits[0]["title"]
    assert hits[0]["text"].startswith({"greater": "+", "less": "\u2212"}[direction])


def test_cluster_searches__are_those_with_a_cluster(results_folder: Path) -> None:
    results = read_results(results_folder)
    rows = cluster_searches(results)
    assert len(rows) == sum(bool(s["clusters"]) for _, s in results.searches()) == 2
    assert [r["p_fwe_min"] for r in rows] == sorted(r["p_fwe_min"] for r in rows)
