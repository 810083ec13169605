"""What an analysis found of the changes that were planted.

Rule: a planted change is *found* in a search when a significant cluster of the stated direction has a listed peak
within ``radius + tolerance`` of its centre. A significant cluster is *false* when no planted change of its stack that
enters this model, coefficient, contrast and direction has a peak of it within reach. Changes that a comparison shares
(patients against untrained and against trained controls) and those induced in AD and RD by FA and MD are in the
``shows_in`` lists of ``truth.json``, so they are never counted as false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FOUND = "found"
MISSED = "missed"
WRONG_SIGN = "wrong sign"
BELOW = "not expected"
FALSE = "false"
OPPOSITE = {"greater": "less", "less": "greater"}


@dataclass(frozen=True)
class TruthRow:
    """One planted change in one comparison, or one false cluster.

    Attributes
    ----------
    outcome
        ``found``; ``missed`` (the design lets one expect it); ``wrong sign``; ``not expected`` (planted, too weak for
        this comparison, and not found); ``false`` (a significant cluster where nothing is planted).
    expected_t
        t that the design lets one expect at the centre; None for a false cluster.
    distance_mm
        From the planted centre to the nearest peak of the cluster; None when there is no cluster.
    """

    outcome: str
    name: str
    map: str
    label: str
    model: str
    coefficient: str
    contrast: str
    direction: str
    expected: bool
    expected_t: float | None
    volume: str
    p_fwe: float | None
    size_voxels: int | None
    peak_t: float | None
    peak_z: float | None
    peak_mm: tuple[float, float, float] | None
    distance_mm: float | None


@dataclass(frozen=True)
class _Cluster:
    volume: str
    direction: str
    p_fwe: float
    size: int
    t: float
    z: float
    peaks: tuple[tuple[float, float, float], ...]

    def nearest(self, centre: Sequence[float]) -> tuple[float, tuple[float, float, float]]:
        """Return the distance (mm) and place of the peak nearest to a point."""
        distances = [float(np.sqrt(sum((a - b) ** 2 for a, b in zip(p, centre, strict=True)))) for p in self.peaks]
        k = int(np.argmin(distances))
        return distances[k], self.peaks[k]


def compare_with_truth(
    truth: Mapping[str, Any], search_results: Sequence[Mapping[str, Any]], *, tolerance_mm: float | None = None
) -> list[dict[str, Any]]:
    """Say of every planted change whether it was found, and list the clusters that nothing planted explains.

    Parameters
    ----------
    truth
        Content of ``truth/truth.json``.
    search_results
        Contents of the search result files (one per model, stack, coefficient and contrast). Planted changes whose
        comparison is not among them are left out.
    tolerance_mm
        How far outside the planted radius a peak may lie; default the smoothness of the fields (FWHM, mm).

    Returns
    -------
    list of dict
        Rows as :class:`TruthRow`, planted changes first.
    """
    tolerance = float(truth["fwhm_mm"]) if tolerance_mm is None else tolerance_mm
    files = {_key(f): f for f in search_results}
    rows = [
        _planted_row(entry, shown, files[key], tolerance)
        for entry in truth["planted"]
        for shown in entry["shows_in"]
        if (key := _key({**shown, "map": entry["map"], "label": entry["label"]})) in files
    ]
    for file in files.values():
        rows += _false_rows(file, truth["planted"], tolerance)
    return [asdict(row) for row in rows]


def summarise_truth(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the rows of :func:`compare_with_truth`, and say it in a sentence.

    The sum ``found_expected + missed + wrong_sign_expected`` is the number of planted changes that the designs let
    one expect.
    """
    planted = [r for r in rows if r["outcome"] != FALSE]
    expected = [r for r in planted if r["expected"]]
    counts = {
        "expected": len(expected),
        "found_expected": sum(r["outcome"] == FOUND for r in expected),
        "missed": sum(r["outcome"] == MISSED for r in expected),
        "wrong_sign_expected": sum(r["outcome"] == WRONG_SIGN for r in expected),
        "found_weak": sum(r["outcome"] == FOUND and not r["expected"] for r in planted),
        "weak": len(planted) - len(expected),
        "false_clusters": len(rows) - len(planted),
    }
    missed, wrong, false = (counts[k] for k in ("missed", "wrong_sign_expected", "false_clusters"))
    weaker = "one was" if counts["weak"] == 1 else "ones were"
    sentence = (
        (
            f"{counts['found_expected']} of {counts['expected']} planted changes that the designs can show were found, "
            f"{missed or 'none'} missed, {wrong or 'none'} with the wrong sign; "
            if counts["expected"]
            else "No planted change is so large that the designs should show it; "
        )
        + (f"{counts['found_weak']} of {counts['weak']} weaker {weaker} found; " if counts["weak"] else "")
        + (
            f"{false} significant cluster{'s lie' if false > 1 else ' lies'} where nothing is planted."
            if false
            else "no significant cluster lies where nothing is planted."
        )
    )
    return {**counts, "sentence": sentence}


def _key(item: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(item[k]) for k in ("model", "map", "label", "coefficient", "contrast"))


def _significant(file: Mapping[str, Any], direction: str = "") -> Iterator[_Cluster]:
    for search in file["searches"]:
        if direction and search["direction"] != direction:
            continue
        for cluster in search["clusters"]:
            if not cluster["significant"]:
                continue
            peaks = tuple((float(p["x"]), float(p["y"]), float(p["z_mm"])) for p in cluster["peaks"])
            top = cluster["peaks"][0]
            yield _Cluster(
                search["volume"], search["direction"], float(cluster["p_fwe"]), int(cluster["size_voxels"]),
                float(top["t"]), float(top["z"]), peaks,
            )  # fmt: skip


def _best(file: Mapping[str, Any], direction: str, centre: Sequence[float], reach: float) -> _Cluster | None:
    near = [c for c in _significant(file, direction) if c.nearest(centre)[0] <= reach]
    return min(near, key=lambda c: (c.p_fwe, c.volume), default=None)


def _planted_row(
    entry: Mapping[str, Any], shown: Mapping[str, Any], file: Mapping[str, Any], tolerance: float
) -> TruthRow:
    reach = float(entry["radius_mm"]) + tolerance
    cluster = _best(file, shown["direction"], entry["centre_mm"], reach)
    outcome = FOUND
    if cluster is None:
        cluster = _best(file, OPPOSITE[shown["direction"]], entry["centre_mm"], reach)
        outcome = WRONG_SIGN if cluster is not None else MISSED if shown["expected"] else BELOW
    distance, place = cluster.nearest(entry["centre_mm"]) if cluster is not None else (None, None)
    return TruthRow(
        outcome, entry["name"], entry["map"], entry["label"], shown["model"], shown["coefficient"], shown["contrast"],
        shown["direction"], bool(shown["expected"]), float(shown["expected_t"]),
        cluster.volume if cluster else "", cluster.p_fwe if cluster else None, cluster.size if cluster else None,
        cluster.t if cluster else None, cluster.z if cluster else None, place, distance,
    )  # fmt: skip


def _false_rows(file: Mapping[str, Any], planted: Sequence[Mapping[str, Any]], tolerance: float) -> list[TruthRow]:
    rows = []
    for cluster in _significant(file):
        if any(_explains(entry, file, cluster, tolerance) for entry in planted):
            continue
        rows.append(
            TruthRow(
                FALSE, "", file["map"], file["label"], file["model"], file["coefficient"], file["contrast"],
                cluster.direction, False, None, cluster.volume, cluster.p_fwe, cluster.size, cluster.t, cluster.z,
                cluster.peaks[0], None,
            )
        )  # fmt: skip
    return rows


def _explains(entry: Mapping[str, Any], file: Mapping[str, Any], cluster: _Cluster, tolerance: float) -> bool:
    """Tell whether a planted change of this stack enters this comparison in this direction, near this cluster."""
    if (entry["map"], entry["label"]) != (file["map"], file["label"]):
        return False
    enters = any(
        (s["model"], s["coefficient"], s["contrast"], s["direction"])
        == (file["model"], file["coefficient"], file["contrast"], cluster.direction)
        for s in entry["shows_in"]
    )
    return enters and cluster.nearest(entry["centre_mm"])[0] <= float(entry["radius_mm"]) + tolerance
