"""The page on one diffusion session: what stands out, numbers, directions in colour, distortion, movement, outliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxcloud.report.qc_dwi_figures import histograms, volume_figures
from voxcloud.report.qc_dwi_measures import DIFFUSIVITY, MAPS, find_dwi_outliers, scaled, unit_of
from voxcloud.report.qc_outliers import who_of
from voxcloud.report.qc_page import data_url, render, without_name
from voxcloud.report.words import count, fixed, number

Quality = Mapping[str, Any]

QC_DWI_PAGE = "qc_dwi.html"
# So many outlier slices are listed; of more, the picture tells where they are.
MOST_LISTED = 12
CAPTIONS = {
    "direction": "Fibre direction in colour, FA as brightness (full from .7). The corpus callosum should be red where "
    "it crosses, the cingulum and the optic radiation green, the pyramidal tracts blue; other colours there mean wrong "
    "axes or signs of b-vectors. The map of FA below shows the same tracts without colour.",
    "b0": "Images without diffusion weighting. Before correction, signal that was pushed along phase encoding runs "
    "over the outline or does not fill it, most in front and beside the ears; below it should follow the outline.",
    "fa": "FA. Look for tracts with sharp edges, and for a bright rim around the brain, which is movement or eddy "
    "currents that were not corrected.",
    "md": "MD. Even in grey and white matter, white in fluid. Stripes are slices without signal.",
    "residual": "What the tensor leaves of the signals (root of its mean square), in percent of the signal at b = 0. "
    "Rims are movement or distortion, stripes are slices, arteries and fluid pulsate.",
    "noise": "Noise level found by denoising: smooth, highest where coils are far or acceleration is worst. Anatomy in "
    "it is signal that was taken for noise.",
    "removed": "What denoising took out of the signals (root of its mean square over volumes), over the noise level: "
    "even and near 1. Anatomy in it is signal that was taken out.",
    "outliers": "Residual of each slice in every volume, in SD of what is usual. Framed: named as an outlier. Grey: "
    "not judged. The stripe below shows b-values, dark for high ones.",
}
ALTS = {
    "direction": "fibre directions in colour, axial slices",
    "b0": "mean of b = 0 before and after correction, with the outline of the brain",
    "fa": "FA, axial slices",
    "md": "MD, axial slices",
    "residual": "residual of the tensor, axial slices",
    "noise": "noise level, axial slices",
    "removed": "what denoising took out over the noise level, axial slices",
    "outliers": "z of every slice of every volume",
}
VERDICTS = {
    "right": ("ok", "as the table says"),
    "wrong": ("bad", "not as the table says"),
    "unclear": ("open", "unclear"),
}
TISSUES = {"WM": "FA ≥ .4", "brain": "brain"}


def session_page(qc: Quality, figures: Mapping[str, bytes]) -> str:
    """Return the page of a session, complete in itself.

    Parameters
    ----------
    qc
        The session's quality control (``qc_dwi_measures`` tells what it holds).
    figures
        Pictures by name (``qc_dwi_pictures.dwi_figures``); PNG.
    """
    who = who_of(qc)
    pictures = {name: _picture(name, png) for name, png in figures.items()}
    carpet = pictures.pop("outliers", None)
    return render(
        "qc_dwi_session.html.j2",
        who=who,
        qc=qc,
        cohort=QC_DWI_PAGE,
        notes=find_dwi_outliers([qc]),
        warnings=[without_name(text, who) for text in qc["warnings"]],
        scan=_scan(qc),
        facts=_facts(qc),
        rows=_rows(qc),
        histograms=histograms([qc], 1.0),
        pictures=list(pictures.values()),
        carpet=carpet,
        volumes=volume_figures(qc),
        checks=_checks(qc, who),
        outliers=_outliers(qc),
    )


def _picture(name: str, png: bytes) -> dict[str, str]:
    return {"alt": ALTS.get(name, name), "src": data_url(png), "caption": CAPTIONS.get(name, "")}


def _scan(qc: Quality) -> str:
    """Return in one line what was scanned."""
    found = [count(qc["n_volumes"], "volume")]
    found += [f"{qc['n_b0']} with b = 0"]
    found += [f"{s['n']} with b = {s['b']:.0f} s/mm² ({count(s['directions'], 'direction')})" for s in qc["shells"]]
    if qc.get("voxel_mm"):
        found.append(" × ".join(f"{float(size):.3g}" for size in qc["voxel_mm"]) + " mm")
    if qc["field_strength_t"]:
        found.append(f"{float(qc['field_strength_t']):g} T")
    return "; ".join(found)


def _facts(qc: Quality) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first, each with its words."""
    found = []
    fd = (qc["motion"] or {}).get("fd_mm")
    if fd:
        found.append(
            (f"{fixed(fd['mean'])} mm", f"movement from volume to volume (FD), mean; {fixed(fd['max'])} largest")
        )
    outliers = qc["outliers"]
    if outliers:
        what = "replaced by their prediction" if outliers["replaced"] else "not replaced"
        slices = count(len(outliers["slices"]), "slice")
        named = f": {slices}, {what}" if outliers["slices"] else ""
        found.append((f"{fixed(outliers['percent'], 1)} %", f"of slices are outliers{named}"))
    if qc["snr_b0"] is not None:
        found.append((f"{qc['snr_b0']:.0f}", "SNR of b = 0: mean over its noise between volumes, in the brain"))
    if qc["snr_noise"] is not None:
        found.append((f"{qc['snr_noise']:.0f}", "SNR of b = 0 before denoising: mean over the noise map"))
    for entry in qc["cnr"]:
        if entry["cnr"] is not None:
            found.append((fixed(entry["cnr"]), f"CNR at b = {entry['b']:.0f}: spread by direction over residual"))
    if qc["residual"]["median_percent"] is not None:
        found.append((f"{fixed(qc['residual']['median_percent'], 1)} %", "of S0 is what the tensor leaves, median"))
    median = scaled("md", qc["maps"].get("md", {}).get("WM", {}).get("median"))
    if median is not None:
        found.append((number(median), f"MD in {DIFFUSIVITY} where FA is at least .4, median"))
    if qc["negatives_percent"] is not None:
        found.append((f"{fixed(qc['negatives_percent'], 1)} %", "of the brain has a negative eigenvalue"))
    if qc["volume_ml"]["brain"]:
        white = f"{qc['volume_ml']['WM']:.0f} ml with FA of at least .4"
        found.append((f"{qc['volume_ml']['brain']:.0f} ml", f"brain mask; {white}"))
    return found


def _rows(qc: Quality) -> list[dict[str, Any]]:
    found = []
    for name, title in MAPS.items():
        for tissue, words in TISSUES.items():
            own = qc["maps"].get(name, {}).get(tissue)
            if own is None:
                continue
            shown = {key: scaled(name, own[key]) for key in ("p05", "p25", "median", "p75", "p95")}
            missing = "—" if own["missing"] is None else f"{100 * own['missing']:.1f} %"
            row = {"map": title, "tissue": words, "units": unit_of(name), "n": own["n"], "missing": missing}
            found.append(row | shown)
    return found


def _checks(qc: Quality, who: str) -> list[tuple[str, str, str, str]]:
    """Return name, class and word of the verdict, and what is to be said of each step that can go wrong."""
    found = []
    frame = qc["frame"]
    if frame:
        kind, word = VERDICTS.get(frame["verdict"], ("open", str(frame["verdict"])))
        lead = f" The best frame is ahead of the next by {number(float(frame['lead']))} standard errors."
        found.append(("Frame of the b-vectors", kind, word, without_name(frame["message"], who) + lead))
    gibbs = qc["gibbs"]
    if gibbs:
        reason = str(gibbs.get("reason") or "")
        found.append(
            ("Gibbs ringing", "ok" if gibbs["done"] else "open", "removed" if gibbs["done"] else "left", reason)
        )
    found.append(("Distortion by the static field", *_susceptibility(qc["susceptibility"])))
    motion = qc["motion"]
    if motion:
        eddy = motion.get("eddy_rms_mm")
        moved = (
            f"Eddy currents distort by {fixed(eddy['mean'])} mm on average, {fixed(eddy['max'])} at most."
            if eddy
            else ""
        )
        found.append(
            (
                "Movement and eddy currents",
                "ok",
                "corrected",
                f"Each volume was registered to what the others predict ({motion['model']}). {moved}".strip(),
            )
        )
    else:
        found.append(("Movement and eddy currents", "open", "not corrected", ""))
    return found


def _susceptibility(told: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if not told:
        return (
            "open",
            "not corrected",
            "No images with opposite phase encoding and no field map were found or asked for.",
        )
    sentences = [f"By {told['method']}."]
    before, after = told.get("correlation_before"), told.get("correlation_after")
    better = before is None or after is None or after > before
    if before is not None and after is not None:
        sentences.append(
            f"Images with opposite phase encoding correlate by {fixed(after, 3)} after and {fixed(before, 3)} before."
        )
    moved = told.get("displacement_mm")
    if moved:
        sentences.append(
            f"Signal was moved by {fixed(moved['p01'], 1)} to {fixed(moved['p99'], 1)} mm (1st and 99th percentile)."
        )
    return ("ok", "corrected", " ".join(sentences)) if better else ("bad", "not better", " ".join(sentences))


def _outliers(qc: Quality) -> dict[str, Any]:
    slices = list((qc["outliers"] or {}).get("slices", ()))
    worst = sorted(slices, key=lambda s: (-abs(float(s["z"])), s["volume"], s["slice"]))
    return {
        "judged": qc["outliers"] is not None,
        "n": len(slices),
        "rows": [(s["volume"], s["slice"], fixed(float(s["z"]), 1)) for s in worst[:MOST_LISTED]],
        "more": max(0, len(slices) - MOST_LISTED),
        "replaced": bool((qc["outliers"] or {}).get("replaced")),
    }
