"""What the page, the methods and the tables say where permutation decides, and who is named as deciding."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxcloud.report.methods import write_methods
from voxcloud.report.overview import findings
from voxcloud.report.page import write_report
from voxcloud.report.results import read_results
from voxcloud.report.tables import write_tables

UNEVEN = "volume maps have uneven smoothness by construction"


def permuted(folder: Path, method: str = "permutation", **entry: Any) -> Path:
    """Rewrite results as permutation leaves them: 999 relabellings asked for, ``entry`` made where a cluster is."""
    made = {"relabellings": 19, "kind": "permutation", "exact": True, "smallest_p": 0.05} | entry
    for path in folder.glob("results/model-*/*__*.json"):
        tree = json.loads(path.read_text())
        tree["inference"] |= {"method": method, "permutations": 999, "seed": 3}
        tree["warnings"] = [UNEVEN]
        for search in tree["searches"]:
            search["permutation"] = made if search["clusters"] else None
            for cluster in search["clusters"]:
                cluster |= {"p_permutation": cluster["p_fwe"], "p_random_field": 0.0123}
        path.write_text(json.dumps(tree))
    return folder


@pytest.fixture
def folder(write_fake: Callable[..., Path], tmp_path: Path) -> Path:
    return permuted(write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=1))


@pytest.mark.parametrize(
    "entry, said, seed",
    [
        ({}, "all 19 possible permutations", False),
        ({"exact": False, "relabellings": 999}, "999 random permutations", True),
        ({"kind": "sign-flip", "relabellings": 63}, "all 63 possible sign flips", False),
        ({"kind": "sign-flip", "relabellings": 999, "exact": False}, "999 random sign flips", True),
    ],
)
def test_write_methods__tells_the_relabellings_that_were_made(
    folder: Path, entry: dict[str, Any], said: str, seed: bool
) -> None:
    text = write_methods(read_results(permuted(folder, **entry))).plain
    assert f"under {said} of residuals" in text
    assert ("seed 3" in text) == seed
    assert ("999" in text) == (entry.get("relabellings") == 999)
    assert ("symmetric" in text) == ("sign flips" in said)
    assert "permutations" in said or "permutations" not in text.split("References")[0]


def test_write_methods__permutation_says_nothing_of_random_fields(folder: Path) -> None:
    text = write_methods(read_results(folder)).plain
    for words in ("assume even smoothness", "False discovery", "Worsley", "Chumbley", "Hayasaka", "SPM12"):
        assert words not in text
    assert "both p values of this comparison are those of random field theory" in text
    beside = write_methods(read_results(permuted(folder, method="random-field"))).plain
    assert "assume even smoothness" in beside
    assert "under all 19 possible permutations of residuals (Freedman–Lane) stands beside" in beside
    assert "where permutation decides" not in beside


def test_write_methods__without_a_cluster_nothing_was_relabelled(
    write_fake: Callable[..., Path], tmp_path: Path
) -> None:
    folder = permuted(write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0))
    text = write_methods(read_results(folder)).plain
    assert "nothing was relabelled" in text
    assert "999" not in text


def test_write_report__permutation_shows_no_p_of_random_fields_but_those_of_leaving_out(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    table = page[page.index('<table class="clusters">') :]
    head = re.findall(r"<th[^>]*>([^<]*)</th>", table[: table.index("</thead>")])
    assert "p(FWE)" in head
    assert not {"q", "p uncorr.", "p(permuted)"} & set(head)
    for row in re.findall(r'<tr class="(?:head|sub)">.*?</tr>', table, re.DOTALL):
        spans = [int(n) for n in re.findall(r'colspan="(\d+)"', row)]
        assert row.count("<td") - len(spans) + sum(spans) == len(head)
    assert "one left out: p by random fields (nobody left out)" in page
    assert "(.012)" in page
    assert "random field p values are" not in page


def test_write_report__random_fields_keep_their_columns(results_folder: Path) -> None:
    page = write_report(results_folder).read_text(encoding="utf-8")
    assert '<th class="n">p uncorr.</th><th class="n">q</th>' in page
    assert '<th class="n">one left out: p(FWE)</th>' in page


def test_write_tables__say_which_p_are_of_random_fields(folder: Path) -> None:
    write_tables(folder)
    described = {
        name: json.loads((folder / "tables" / f"{name}.json").read_text()) for name in ("clusters", "peaks", "searches")
    }
    for column in ("p_random_field", "p_uncorrected", "q_fdr", "loo_p_max"):
        assert "random field" in described["clusters"][column]["Description"], column
    assert "p_random_field" in described["clusters"]["flagged"]["Description"]
    assert "p_random_field" in described["clusters"]["flagged_participants"]["Description"]
    assert "random field" in described["peaks"]["q_fdr"]["Description"]
    with (folder / "tables" / "clusters.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["p_random_field"] for row in rows] == ["0.0123"] * 3


def test_findings__name_the_person_who_decides_and_not_the_one_with_the_largest_share(results_folder: Path) -> None:
    results = read_results(results_folder)
    influence = [c["influence"] for comparison in results.comparisons for _, c in comparison.found]
    (flagged,) = [i for i in influence if i["flagged"]]
    assert flagged["largest_participant"] not in flagged["flagged_participants"]
    assert sorted(row["flag"] for row in findings(results)) == ["", "", *flagged["flagged_participants"]]
