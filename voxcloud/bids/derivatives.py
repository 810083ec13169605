"""What makes an output folder a BIDS derivatives data set: its description, and names that BIDS does not know yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.bids.statmaps import INTENTS
from voxcloud.errors import StudyFileError, nearest

BIDS_VERSION = "1.10.0"

BIDSIGNORE = (
    "fits/\nstacks/\nstats/\nresults/\nmasks/\nrois/\ntables/\nstudy.json\nreport.html\nqc.html\nqc_dwi.html\n"
    "qc_space.html\n**/*_qc.json\n**/*_qc.html\n**/*_xfm.nii.gz\n**/*_xfm.json\n"
    "**/*_jacobian.nii.gz\n**/*_jacobian.json\n**/*_volume.nii.gz\n**/*_volume.json\n"
)
"""Group results have no place in a published BIDS release; everything that voxcloud writes is listed here."""

_URI = re.compile(r"^(https?|s3|bids|doi):", re.IGNORECASE)


def dataset_description(
    name: str,
    version: str,
    *,
    content: str = "longitudinal group statistics",
    sources: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
    code_url: str | None = None,
    container: str | None = None,
) -> dict[str, Any]:
    """Return dataset_description.json of a study's output.

    Parameters
    ----------
    name
        Name of the study.
    version
        Version of voxcloud.
    content
        What the folder holds, in a few words.
    sources
        Where the maps came from: URLs, DOIs (``doi:10...``) or folders. Of a folder only its name is written: paths
        name people and machines.
    links
        Name of a data set in BIDS URIs (``bids:<name>:sub-01/...``) to where it lies, relative to this one.
    code_url, container
        Where the code is, and the tag of the container that ran it, where known.
    """
    made_by: dict[str, Any] = {"Name": "voxcloud", "Version": version}
    if code_url:
        made_by["CodeURL"] = code_url
    if container:
        made_by["Container"] = {"Type": "docker", "Tag": container}
    tree: dict[str, Any] = {
        "Name": f"{name}: {content}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [made_by],
    }
    if links:
        tree["DatasetLinks"] = dict(links)
    if sources:
        tree["SourceDatasets"] = [_source(source) for source in sources]
    return tree


def _source(source: str) -> dict[str, str]:
    if source.lower().startswith("doi:"):
        return {"DOI": source}
    if _URI.match(source):
        return {"URL": source}
    return {"URL": f"bids:{Path(source).name}:"}


def statmap_name(contrast: str, stat: str, *, map_name: str = "", label: str = "", extension: str = ".nii.gz") -> str:
    """Return the file name of a statistical map.

    ``[map-<map>_][label-<label>_]contrast-<contrast>_stat-<stat>_statmap.nii.gz``; a contrast's words are joined in
    camel case, because BIDS labels hold letters and digits only (``linear_patients-gt`` is ``linearPatientsGt``).

    Raises
    ------
    StudyFileError
        If the contrast holds no letter or digit, or no such statistic is written.
    """
    if stat not in INTENTS:
        raise StudyFileError(
            f"stat '{stat}' is not known.{nearest(stat, INTENTS)} Expected one of: {', '.join(INTENTS)}."
        )
    words = re.findall(r"[A-Za-z0-9]+", contrast)
    if not words:
        raise StudyFileError(f"contrast '{contrast}': expected letters or digits, found none. Rename the contrast.")
    joined = words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])
    entities = [f"map-{map_name}"] if map_name else []
    entities += [f"label-{label}"] if label else []
    return "_".join([*entities, f"contrast-{joined}", f"stat-{stat}", f"statmap{extension}"])
