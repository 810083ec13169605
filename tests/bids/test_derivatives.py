"""The output folder as a BIDS derivatives data set."""

from __future__ import annotations

import re

import pytest

from voxcloud.bids.derivatives import BIDSIGNORE, dataset_description, statmap_name
from voxcloud.errors import StudyFileError


def test_dataset_description__says_what_made_it_and_from_what() -> None:
    tree = dataset_description(
        "sci",
        "0.1.0",
        sources=["doi:10.1/x", "https://example.org/ds", "/home/somebody/maps/"],
        container="voxcloud:0.1",
    )
    assert tree["DatasetType"] == "derivative"
    assert tree["GeneratedBy"] == [
        {"Name": "voxcloud", "Version": "0.1.0", "Container": {"Type": "docker", "Tag": "voxcloud:0.1"}}
    ]
    assert tree["SourceDatasets"] == [
        {"DOI": "doi:10.1/x"}, {"URL": "https://example.org/ds"}, {"URL": "bids:maps:"}
    ]  # fmt: skip


def test_dataset_description__leaves_out_what_is_not_known() -> None:
    assert set(dataset_description("sci", "0.1.0")) == {"Name", "BIDSVersion", "DatasetType", "GeneratedBy"}


def test_bidsignore__covers_the_output_folder() -> None:
    ignored = BIDSIGNORE.splitlines()
    assert all(re.fullmatch(r"(\*\*/\*_)?[a-z._]+/?", line) for line in ignored)
    assert {"stacks/", "fits/", "stats/", "results/", "tables/", "study.json", "report.html"} <= set(ignored)


def test_statmap_name__has_the_entities_in_order() -> None:
    name = statmap_name("linear_patients-gt untrained", "t", map_name="R1map", label="GM")
    assert name == "map-R1map_label-GM_contrast-linearPatientsGtUntrained_stat-t_statmap.nii.gz"
    assert statmap_name("age", "variance", extension=".json") == "contrast-age_stat-variance_statmap.json"


@pytest.mark.parametrize(("contrast", "stat"), [("--", "t"), ("age", "T")])
def test_statmap_name__refuses_what_is_no_name(contrast: str, stat: str) -> None:
    with pytest.raises(StudyFileError):
        statmap_name(contrast, stat)
