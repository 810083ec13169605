"""Which series is MTw, PDw and T1w: by MT pulse and flip angle, never by the order of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from voxcloud.bids.acquisitions import ContrastName, Series
from voxcloud.bids.protocol import SAME_VALUE, Findings, Scan
from voxcloud.bids.runs import choose_runs
from voxcloud.bids.series import ADVISED_ECHOES, FoundSeries, ReadSeries, group_series, read_series


def read_contrasts(scans: Sequence[Scan], run: str | None, findings: Findings) -> dict[ContrastName, Series]:
    """Return the series of each contrast; what is wrong is told, and then some may lack.

    PDw is the series without MT pulse and with the smaller flip angle, T1w that with the larger one.
    """
    found = choose_runs(
        group_series(scans),
        run,
        findings,
        family_of=lambda series: series.family,
        run_of=lambda series: series.run,
        name_of=lambda series: series.name,
    )
    strays = [series for series in found if _says_nothing(series)]
    read = [read_series(series, findings) for series in found if series not in strays]
    complete = [series for series in read if series is not None]
    # What a series is that cannot be read is not known: then no word about missing contrasts.
    contrasts = _assign(complete, findings, strays) if len(complete) == len(read) else {}
    _set_strays_aside(strays, contrasts, findings)
    _compare_trains(contrasts, findings)
    return {
        name: Series(name, one.echoes, one.flip_angle_deg, one.repetition_time_s, one.found.run)
        for name, one in sorted(contrasts.items())
    }


def _says_nothing(series: FoundSeries) -> bool:
    """Say whether neither name nor sidecar tells anything about a series."""
    named = series.scans[0].entity("flip") or series.scans[0].entity("mt") or series.contrast_in_name
    return series.bare and not named


def _set_strays_aside(
    strays: Sequence[FoundSeries], contrasts: Mapping[ContrastName, ReadSeries], findings: Findings
) -> None:
    for series in strays:
        if {"PDw", "T1w"} <= set(contrasts):
            count = len(series.scans)
            findings.warn(
                f"{series.scans[0].name}{f' and {count - 1} more' if count > 1 else ''} "
                f"{'are' if count > 1 else 'is'} not used: no sidecar tells what was acquired."
            )
        else:
            read_series(series, findings)  # says which keys lack


def _assign(
    series: Sequence[ReadSeries], findings: Findings, strays: Sequence[FoundSeries]
) -> dict[ContrastName, ReadSeries]:
    with_mt = [one for one in series if one.mt]
    without = sorted((one for one in series if not one.mt), key=lambda one: one.flip_angle_deg)
    found: dict[ContrastName, ReadSeries] = {}
    if len(with_mt) > 1:
        findings.refuse(
            f"expected one series with MT pulse, found {len(with_mt)}: {_list(with_mt)}. Move those that are not meant "
            "out of the data set."
        )
    elif with_mt:
        found["MTw"] = with_mt[0]
    elif not strays:
        findings.warn("there is no MTw series (MT pulse on): maps are made without MTsat.")
    if len(without) == 2 and not _same_angle(*without):
        found["PDw"], found["T1w"] = without
    elif len(without) > 2:
        findings.refuse(
            f"expected two series without MT pulse, PDw (smaller flip angle) and T1w (larger), found {len(without)}: "
            f"{_list(without)}. Move those that are not meant out of the data set."
        )
    elif len(without) == 2:
        findings.refuse(
            f"expected two flip angles without MT pulse, the smaller for PDw and the larger for T1w, found one: "
            f"{_list(without)}. Correct the sidecars."
        )
    elif not strays:
        _refuse_missing(without, findings)
    for name, one in found.items():
        _check_name(name, one, findings)
    return found


def _refuse_missing(without: Sequence[ReadSeries], findings: Findings) -> None:
    if not without:
        findings.refuse(
            "expected series without MT pulse at two flip angles (PDw and T1w), found none. Check MTState in the "
            "sidecars, and that the series were converted."
        )
        return
    stated = without[0].found.contrast_in_name
    lacking = {"PDw": "T1w is missing", "T1w": "PDw is missing"}.get(stated or "", "PDw or T1w is missing")
    findings.refuse(
        f"{lacking}: expected two series without MT pulse, PDw (smaller flip angle) and T1w (larger), found one: "
        f"{_list(without)}. R1 needs both: restore the series, or leave the session out."
    )


def _same_angle(one: ReadSeries, other: ReadSeries) -> bool:
    return abs(one.flip_angle_deg - other.flip_angle_deg) <= SAME_VALUE * other.flip_angle_deg


def _check_name(name: ContrastName, series: ReadSeries, findings: Findings) -> None:
    stated = series.found.contrast_in_name
    if stated is not None and stated != name:
        findings.refuse(
            f"{series.found.name}: expected {stated} by its name, found {name} by its sidecars (MT pulse "
            f"{'on' if series.mt else 'off'}, {series.flip_angle_deg:g} degrees). Correct the name or the sidecars."
        )


def _list(series: Sequence[ReadSeries]) -> str:
    return ", ".join(f"{one.found.label or 'without entities'} ({one.flip_angle_deg:g} degrees)" for one in series)


def _compare_trains(contrasts: Mapping[ContrastName, ReadSeries], findings: Findings) -> None:
    """Warn of an echo train that is shorter than the others'.

    The MT pulse takes time, so that MTw often has fewer echoes by design: with enough of them nothing is said.
    """
    longest = max((len(one.echoes) for one in contrasts.values()), default=0)
    for name, one in contrasts.items():
        count = len(one.echoes)
        if count < longest and not (name == "MTw" and count >= ADVISED_ECHOES):
            findings.warn(
                f"{name} ({one.found.name}) has {count} echoes, others up to {longest}. If that is not the protocol, "
                "an echo is missing: restore it."
            )
