"""The record of how maps were made: plain values and sentences, for a sidecar and a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxcloud.qmri.presets import Preset
from voxcloud.qmri.protocol import SeriesProtocol
from voxcloud.qmri.spoiling import SpoilingCoefficients
from voxcloud.version import __version__

REFERENCES = {
    "hMRI": "doi:10.1016/j.neuroimage.2019.01.029",
    "R1 and A": "doi:10.1002/mrm.21542",
    "MTsat": "doi:10.1002/mrm.21732",
    "ESTATICS": "doi:10.3389/fnins.2014.00278",
    "errors": "doi:10.1016/j.neuroimage.2022.119529",
    "spoiling": "doi:10.1002/mrm.21776",
}


def describe_maps(
    preset: Preset,
    contrasts: Mapping[str, SeriesProtocol],
    with_b1: bool,
    spoiling: SpoilingCoefficients | None,
    with_sensitivities: bool,
    with_receive_field: bool,
    pd_factor: float | None,
) -> dict[str, Any]:
    """Return what was used (JSON): preset and what was changed in it, protocol, corrections in words, references."""
    used = [
        key
        for key in REFERENCES
        if (key != "spoiling" or spoiling is not None) and (key != "MTsat" or "MTw" in contrasts)
    ]
    return {
        "software": {"name": "voxcloud", "version": __version__},
        "preset": preset.name,
        "changed_from_preset": preset.changed(),
        "settings": preset.describe(),
        "contrasts": {
            key: series.describe() | {"receive_sensitivity": with_sensitivities} for key, series in contrasts.items()
        },
        "b1": "map" if with_b1 else "none",
        "spoiling": None if spoiling is None else spoiling.describe(),
        "pd_factor": pd_factor,
        "corrections": _sentences(
            preset, contrasts, with_b1, spoiling, with_sensitivities, with_receive_field, pd_factor
        ),
        "references": {key: REFERENCES[key] for key in used},
    }


def _sentences(
    preset: Preset,
    contrasts: Mapping[str, SeriesProtocol],
    with_b1: bool,
    spoiling: SpoilingCoefficients | None,
    with_sensitivities: bool,
    with_receive_field: bool,
    pd_factor: float | None,
) -> list[str]:
    passes = preset.weighted_passes
    fit = f"{passes} weighted pass{'es' if passes > 1 else ''} after" if passes else "no weights:"
    words = [f"R2* and signals at TE = 0 by ESTATICS over {', '.join(contrasts)}, {fit} ordinary least squares."]
    if "T1w" not in contrasts:
        return words
    if preset.signal == "mean-echoes":
        words.append("R1, A and MTsat from means of echoes; A corrected for R2*.")
    if with_b1:
        words.append("R1 and A corrected for the transmit field with a B1 map.")
    else:
        words.append("No B1 map: R1, A and MTsat are not corrected for the transmit field and semi-quantitative.")
    if "MTw" in contrasts and with_b1:
        words.append(
            "MTsat is not corrected for the transmit field."
            if preset.mtsat_correction == "none"
            else f"MTsat corrected for the transmit field by {preset.mtsat_correction} with C = {preset.constant:g}."
        )
    words.append("R1 corrected for imperfect spoiling." if spoiling else "R1 not corrected for imperfect spoiling.")
    if with_sensitivities:
        words.append("Signals of each contrast corrected for the measured receive sensitivity.")
    elif with_receive_field:
        words.append("A corrected for the receive field.")
    else:
        words.append("No correction for the receive field.")
    if pd_factor is not None:
        words.append(f"PD is A scaled so that white matter averages {preset.white_matter_pd:g} p.u.")
    return words
