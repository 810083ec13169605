"""Compare voxcloud's multi-parameter maps with the hMRI toolbox on its own reference numbers, file by file.

    python validation/hmri_report.py

Prints a table in Markdown: the largest difference of each quantity beside its tolerance. The exit status is 1 if one is
above. What the files hold and how they were made: tests/reference/hmri/PROVENANCE.md.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.b1 import b1_from_afi, b1_from_double_angle, b1_from_rf_map, b1_from_tfl
from voxcloud.qmri.estatics import fit_estatics
from voxcloud.qmri.maps import create_maps
from voxcloud.qmri.mtsat import Correction, estimate_mtsat, mtsat_error
from voxcloud.qmri.protocol import Contrast, Excitation
from voxcloud.qmri.relaxation import Angles, amplitude_error, estimate_amplitude, estimate_r1, r1_error
from voxcloud.qmri.seste import b1_from_seste
from voxcloud.qmri.spoiling import spoiling_coefficients
from voxcloud.space.smoothing import smooth, smooth_tissue_weighted

REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference" / "hmri"
TEXT = ("case", "method", "protocol")
ECHOES = {"mtw": 6, "pdw": 8, "t1w": 8}
FIRST_ECHO_S = 2.34e-3
Table = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table; n counts the numbers compared."""

    file: str
    quantity: str
    n: int
    difference: float
    tolerance: float
    unit: str = "relative"

    @property
    def holds(self) -> bool:
        return self.n > 0 and self.difference <= self.tolerance


def table(name: str) -> Table:
    """Return a CSV of the reference by column."""
    with (REFERENCE / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {k: np.array([r[k] if k in TEXT else float(r[k]) for r in rows]) for k in rows[0]}


def archive(name: str) -> Table:
    """Return an archive of the reference."""
    with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as found:
        return dict(found)


def row(file: str, quantity: str, pairs: Sequence[tuple[Any, Any]], tolerance: float, unit: str = "relative") -> Row:
    """Return the largest difference over pairs of (found, expected): relative, or absolute in the unit.

    NaN where NaN is expected is no difference, NaN elsewhere an infinite one.
    """
    worst, n = 0.0, 0
    for found, expected in pairs:
        a, b = (np.asarray(x, dtype=np.float64).ravel() for x in np.broadcast_arrays(found, expected))
        with np.errstate(all="ignore"):
            off = np.abs(a - b) / (np.abs(b) if unit == "relative" else 1.0)
        off = np.where(np.isnan(a) & np.isnan(b) | (a == b), 0.0, off)
        worst, n = max(worst, float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))), n + a.size
    return Row(file, quantity, n, worst, tolerance, unit)


def excitation(name: str, degrees: float, milliseconds: float) -> Excitation:
    return Excitation(name, float(np.deg2rad(degrees)), milliseconds / 1000)


def protocols(t: Table, contrasts: Sequence[str]) -> Iterator[tuple[Table, list[Excitation]]]:
    """Yield the rows of each protocol and its excitations."""
    columns = np.stack([t[f"{q}_{c}_{u}"] for c in contrasts for q, u in (("fa", "deg"), ("TR", "ms"))], axis=1)
    for own in np.unique(columns, axis=0):
        rows = (columns == own).all(axis=1)
        yield (
            {k: v[rows] for k, v in t.items()},
            [excitation(c, own[2 * i], own[2 * i + 1]) for i, c in enumerate(contrasts)],
        )


def compare_r1() -> Iterator[Row]:
    """R1 and A."""
    pairs: dict[str, list[tuple[Any, Any]]] = {"R1": [], "A": []}
    for t, (pdw, t1w) in protocols(table("r1_pd"), ("pdw", "t1w")):
        for angles, column in (("exact", "exact"), ("small-angle", "smallangle")):
            for b1, suffix in ((t["B1"], ""), (None, "_noB1")):
                args = (t["S_pdw"], t["S_t1w"], pdw, t1w, b1)
                kind: Angles = "exact" if angles == "exact" else "small-angle"
                pairs["R1"].append((estimate_r1(*args, angles=kind), t[f"R1_{column}{suffix}_per_s"]))
                pairs["A"].append((estimate_amplitude(*args, angles=kind), t[f"A_{column}{suffix}"]))
    for name, found in pairs.items():
        yield row("r1_pd.csv", f"{name}, exact and small-angle, with and without B1", found, 1e-12)
    t = table("edge_cases")
    args = (t["S_pdw"], t["S_t1w"], excitation("PDw", 6, 24.5), excitation("T1w", 21, 24.5), t["B1"])
    edges = [(estimate_r1(*args) / 1000, t["R1_exact_per_ms"]), (estimate_amplitude(*args), t["A_exact"])]
    yield row("edge_cases.csv", "R1 and A where a signal or B1 is zero", edges, 1e-12)


def compare_mtsat() -> Iterator[Row]:
    """MTsat by each correction."""
    wanted: dict[str, list[tuple[Angles, Correction, str]]] = {
        "uncorrected": [("exact", "none", "raw_exact"), ("small-angle", "none", "raw_small")],
        "Helms": [("exact", "helms", "helms_exact"), ("small-angle", "helms", "helms_small")],
        "Lipp": [("exact", "lipp", "lipp_exact")],
    }
    for name, cases in wanted.items():
        pairs = [
            (
                estimate_mtsat(
                    *(t[f"S_{c}"] for c in ("mtw", "pdw", "t1w")), *own, t["B1"], angles=a, correction=correction
                ),
                t[f"MTsat_{column}_pu"],
            )
            for t, own in protocols(table("mtsat"), ("mtw", "pdw", "t1w"))
            for a, correction, column in cases
        ]
        yield row("mtsat.csv", f"MTsat, {name}", pairs, 1e-10)


def compare_estatics() -> Iterator[Row]:
    """R2*, intercepts and residuals; residuals only where there is noise: else they are rounding."""
    t = table("r2s_estatics")
    noisy = t["sigma"] > 0
    for passes, method in enumerate(("OLS", "WLS1", "WLS2", "WLS3")):
        echoes = {c: [t[f"{c}_e{i + 1}"] for i in range(n)] for c, n in ECHOES.items()}
        times = {c: [FIRST_ECHO_S * (i + 1) for i in range(n)] for c, n in ECHOES.items()}
        found = fit_estatics(echoes, times, weighted_passes=passes)
        alone = fit_estatics({"pdw": echoes["pdw"]}, {"pdw": times["pdw"]}, weighted_passes=passes)
        rates = [
            (found.r2star / 1000, t[f"R2s_{method}_per_ms"]),
            (alone.r2star / 1000, t[f"R2s_pdwonly_{method}_per_ms"]),
        ]
        yield row("r2s_estatics.csv", f"R2*, {method}", rates, 1e-8)
        intercepts = [(found.intercept[c], t[f"S0{c}_{method}"]) for c in ECHOES]
        yield row("r2s_estatics.csv", f"signals at TE = 0, {method}", intercepts, 1e-8)
        residuals = [(found.residual[c][noisy], t[f"rms_{c}_{method}"][noisy]) for c in ECHOES]
        yield row("r2s_estatics.csv", f"residuals, {method}", residuals, 1e-8)


def compare_errors() -> Iterator[Row]:
    """Errors by propagation."""
    t = table("errormaps")
    mtw, pdw, t1w = (excitation(n, a, 24.5) for n, a in (("MTw", 6), ("PDw", 6), ("T1w", 21)))
    pairs: dict[str, list[tuple[Any, Any]]] = {"R1": [], "A": [], "MTsat": []}
    kinds: tuple[Angles, ...] = ("exact", "small-angle")
    for angles in kinds:
        column = angles.split("-")[0]
        args = (t["S_pdw"], t["S_t1w"], t["d_pdw"], t["d_t1w"], pdw, t1w, t["B1"])
        pairs["R1"].append((r1_error(*args, angles=angles) / 1000, t[f"dR1_{column}"]))
        pairs["A"].append((amplitude_error(*args, angles=angles), t[f"dPD_{column}"]))
        signals, errors = ((t[f"{q}_mtw"], t[f"{q}_pdw"], t[f"{q}_t1w"]) for q in ("S", "d"))
        mtsat = mtsat_error(signals, errors, mtw, pdw, t1w, t["B1"], angles=angles, correction="none")
        pairs["MTsat"].append((mtsat / 100, t[f"dMT_{column}_frac"]))
    for name, found in pairs.items():
        yield row("errormaps.csv", f"error of {name}", found, 1e-9)


def compare_b1() -> Iterator[Row]:
    """B1 by every method."""
    t = table("b1_other")
    for method in ("AFI", "DAM", "TFL", "RFMAP"):
        pairs = []
        for i in np.flatnonzero(t["method"] == method):
            one, two, angle, ratio = t["in1"][i], t["in2"][i], float(np.deg2rad(t["alphanom_deg"][i])), t["param"][i]
            if method == "AFI":
                found = b1_from_afi(one, two, angle, (0.03, 0.03 * float(ratio)))
            elif method == "DAM":
                found = b1_from_double_angle(one, two, angle)
            else:
                found = (b1_from_tfl if method == "TFL" else b1_from_rf_map)(one, angle)
            pairs.append((100 * found, t["B1_pu"][i]))
        yield row("b1_other.csv", f"B1, {method}", pairs, 1e-12)
    a = archive("seste_reference")
    seste = b1_from_seste(
        a["SE"].astype(np.float64),
        a["STE"].astype(np.float64),
        np.deg2rad(a["beta"]),
        float(a["TM"]) / 1000,
        t1_s=float(a["T1"]) / 1000,
    )
    yield row("seste_reference.npz", "B1", [(seste.b1, a[f"B1_nAmb{n}"]) for n in (2, 3)], 1e-6, "ratio")
    yield row("seste_reference.npz", "SD of B1", [(seste.sd, a[f"SD_nAmb{n}"]) for n in (2, 3)], 1e-6, "ratio")


def compare_maps() -> Iterator[Row]:
    """Whole sessions, from echoes to maps and errors in float32."""
    t = archive("mtprot_reference")

    def contrast(name: str, degrees: float) -> Contrast:
        echoes = np.moveaxis(t[f"in_{name}"], -1, 0)
        times = [FIRST_ECHO_S * (i + 1) for i in range(len(echoes))]
        return Contrast(name, echoes, times, float(np.deg2rad(degrees)), 0.0245)

    for preset, case in (("hmri-1.0", "default_B1"), ("hmri-0.x", "ols_small_B1")):
        b1 = t["in_B1_pu"].astype(np.float64) / 100
        found = create_maps(contrast("PDw", 6), contrast("T1w", 21), contrast("MTw", 6), b1=b1, preset=preset)
        for name, short, tolerance, unit in (
            ("R1map", "R1", 1e-6, "1/s"),
            ("R2starmap", "R2s", 5e-6, "1/s"),
            ("MTsat", "MTsat", 1e-6, "p.u."),
            ("A", "A", 1e-6, "relative"),
        ):
            pair = (found.maps[name], t[f"out_{case}_{short}"])
            yield row("mtprot_reference.npz", f"{name}, preset {preset}", [pair], tolerance, unit)
        errors = [
            (found.errors[name], t[f"err_{case}_{short}"])
            for name, short in (("R1map", "R1"), ("A", "A"), ("MTsat", "MTsat"))
        ]
        yield row("mtprot_reference.npz", f"errors, preset {preset}", errors, 1e-6)


def compare_spoiling() -> Iterator[Row]:
    """Coefficients, which are published with four decimals."""
    published = json.loads((REFERENCE / "epg_FIL_v3star.json").read_text())
    angles, times = published["Input"]["seq_params"]["FA_deg"], published["Input"]["seq_params"]["TR_ms"]
    pdw, t1w = (excitation(n, a, tr) for n, a, tr in zip(("PDw", "T1w"), angles, times, strict=True))
    found = spoiling_coefficients(pdw, t1w)
    pairs = [(found.p2_a, published["Output"]["P2_a"]), (found.p2_b, published["Output"]["P2_b"])]
    yield row("epg_FIL_v3star.json", "coefficients of imperfect spoiling", pairs, 5.001e-5, "ms and 1")


def compare_smoothing() -> Iterator[Row]:
    """Tissue-weighted smoothing as the toolbox has it; one voxel in three of its results is kept."""
    a, file = archive("smooth_reference"), "smooth_reference.npz"
    size = float(a["voxel_mm"])
    plain, weighted = [], []
    for label in ("1", "2"):
        tissue = a[f"in_mwc{label}sub01"]
        plain.append((smooth(tissue, 5.0, size, edges="spm").ravel()[::3], a[f"out_fwhm5_smwc{label}"]))
        maps = {"MTsat": a["in_wsub01_MTsat"]}
        inside = a[f"tpm{label}_above"]
        found = smooth_tissue_weighted(maps, tissue, inside, 5.0, size, edges="spm", prior_mask="numerator")
        # The toolbox writes 0 where the first tissue has no value, and NaN for the second.
        weighted.append((np.nan_to_num(found["MTsat"].ravel()[::3]), np.nan_to_num(a[f"out_fwhm5_wap{label}"])))
    yield row(file, "modulated tissue, smoothed", plain, 1e-6, "1")
    yield row(file, "MTsat, weighted by tissue", weighted, 1e-6, "p.u.")


def compare() -> list[Row]:
    """Return the whole table."""
    parts = (
        compare_r1,
        compare_mtsat,
        compare_estatics,
        compare_errors,
        compare_b1,
        compare_maps,
        compare_spoiling,
        compare_smoothing,
    )
    return [found for part in parts for found in part()]


def main() -> int:
    """Print the table."""
    rows = compare()
    print("| file | quantity | numbers | largest difference | tolerance | |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for r in rows:
        note = "" if r.holds else " ABOVE"
        print(f"| `{r.file}` | {r.quantity} | {r.n} | {r.difference:.1e} | {r.tolerance:.1g}{note} | {r.unit} |")
    above = sum(not r.holds for r in rows)
    print(f"\n{len(rows)} comparisons, {above} above their tolerance.")
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())
