"""The simulated raw model study through one ``voxcloud run``: what was planted, what was found, what it cost.

    python validation/raw_study.py [FOLDER] [--people 12] [--resolution 4] [--seed 0]

A raw BIDS data set of people of unlike anatomy with five visits is written to FOLDER (default: a temporary one) unless
it is there already, and run from raw images to the report. Printed: of each planted change whether it was found, with
its sign and how far its peak lies; significant clusters where nothing is planted, apart for the maps in which nothing
changes; and CPU seconds by step. About 15 CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxcloud.cli.text import seconds as in_words
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.testing import compare_with_truth, simulate_raw_study, summarise_truth

# Nothing changes in these maps (voxcloud.testing.raw_changes).
QUIET = ("R2starmap", "MD")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--resolution", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voxcloud-") as name:
        folder = asked.folder or Path(name) / "study"
        if not (folder / "study.yaml").exists():
            simulate_raw_study(folder, people=asked.people, resolution_mm=asked.resolution, seed=asked.seed)
        outcome = run_study(folder / "study.yaml", RunOptions())
        print(f"{len(outcome.computed)} units computed in {in_words(outcome.seconds)}, {len(outcome.failed)} failed")
        output = Path(outcome.output)
        _print_truth(folder, output)
        _print_cost(output)


def _print_truth(folder: Path, output: Path) -> None:
    truth = json.loads((folder / "truth" / "truth.json").read_text())
    found = [json.loads(path.read_text()) for path in sorted((output / "results").glob("model-*/*__*__*.json"))]
    rows = compare_with_truth(truth, found)
    print(f"\n{summarise_truth(rows)['sentence']}\n")
    print(
        f"{'planted':34} {'in':14} {'coefficient':12} {'outcome':12} {'expected t':>10} {'t':>7} {'mm off':>7} "
        f"{'p FWE':>8}"
    )
    for row in rows:
        if row["outcome"] == "false":
            continue
        place = f"{row['map']} {row['label']}"
        print(
            f"{row['name']:34} {place:14} {row['coefficient']:12} {row['outcome']:12} "
            f"{_number(row, 'expected_t', 1):>10} {_number(row, 'peak_t', 1):>7} "
            f"{_number(row, 'distance_mm', 1):>7} {_number(row, 'p_fwe', 4):>8}"
        )
    false = Counter(f"{row['map']} {row['label']}" for row in rows if row["outcome"] == "false")
    quiet = sum(n for place, n in false.items() if place.split()[0] in QUIET)
    print(f"\nclusters where nothing is planted: {sum(false.values())}, of these {quiet} in {' and '.join(QUIET)}")
    print(", ".join(f"{place}: {n}" for place, n in sorted(false.items())) or "none")


def _number(row: dict[str, Any], key: str, digits: int) -> str:
    value = row.get(key)
    return "-" if value is None else f"{value:.{digits}f}"


def _records(output: Path) -> Iterator[dict[str, Any]]:
    for path in (output / ".voxcloud" / "records").rglob("*.done.json"):
        yield json.loads(path.read_text())


def _print_cost(output: Path) -> None:
    seconds: dict[str, list[float]] = {}
    for record in _records(output):
        seconds.setdefault(record["step"], []).append(float(record["cpu_s"]))
    print(f"\n{'step':16} {'units':>6} {'CPU-s':>9} {'a unit':>8}")
    for step, own in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        print(f"{step:16} {len(own):6} {sum(own):9.1f} {sum(own) / len(own):8.2f}")
    print(f"{'all':16} {sum(map(len, seconds.values())):6} {sum(map(sum, seconds.values())):9.1f}")


if __name__ == "__main__":
    main()
