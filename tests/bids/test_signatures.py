"""Processing signatures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from voxcloud.bids.signatures import Sidecars, compare_signatures, differences_within, processing_signature
from voxcloud.errors import ImageError


def put(path: Path, tree: Any) -> Path:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


IMAGE = "sub-01/ses-1/anat/sub-01_ses-1_space-MNI_label-GM_R1map"


def test_processing_signature__takes_what_changes_numbers(tmp_path: Path) -> None:
    put(tmp_path / "a.json", {"Preset": "hmri-1.0", "EchoTime": 0.002, "MagneticFieldStrength": 3})
    assert processing_signature(tmp_path / "a.nii.gz") == {"Preset": "hmri-1.0", "MagneticFieldStrength": 3}


def test_processing_signature__is_none_without_a_sidecar(tmp_path: Path) -> None:
    assert processing_signature(tmp_path / "a.nii") is None


def test_processing_signature__inherits_from_the_folders_above_the_nearest_wins(tmp_path: Path) -> None:
    put(tmp_path / "dataset_description.json", {"GeneratedBy": [{"Name": "hMRI", "Version": "1.0.2"}]})
    put(tmp_path / "R1map.json", {"Preset": "hmri-0.x", "Manufacturer": "Siemens"})
    put(tmp_path / "MTsat.json", {"B1Method": "of another map"})
    put(tmp_path / "sub-01" / "sub-01_R1map.json", {"Preset": "hmri-1.0"})
    put(tmp_path / "sub-01" / "sub-01_label-WM_R1map.json", {"SpoilingCorrection": "of the other tissue"})
    put(tmp_path / f"{IMAGE}.json", {"B1Method": "EPI"})
    assert processing_signature(tmp_path / f"{IMAGE}.nii.gz") == {
        "B1Method": "EPI",
        "Preset": "hmri-1.0",
        "Manufacturer": "Siemens",
        "GeneratedBy": "hMRI 1",
    }


def test_processing_signature__looks_no_further_than_the_data_set(tmp_path: Path) -> None:
    put(tmp_path / "R1map.json", {"Preset": "of another data set"})
    put(tmp_path / "ds" / "dataset_description.json", {"Name": "x"})
    assert processing_signature(tmp_path / "ds" / f"{IMAGE}.nii.gz") is None


def test_processing_signature__names_a_damaged_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"Preset": ')
    with pytest.raises(ImageError, match=r"a\.json: expected a JSON sidecar"):
        processing_signature(tmp_path / "a.nii")


def test_compare_signatures__a_difference_within_a_participant_is_refused_by_name() -> None:
    images = [("01", "2", {"B1Method": "AFI"}), ("02", "1", {"B1Method": "EPI"}), ("01", "1", {"B1Method": "EPI"})]
    with pytest.raises(ImageError, match=r"sub-01, R1map GM: .*B1Method 'EPI' in ses-1 and 'AFI' in ses-2"):
        compare_signatures(images, "R1map GM")


def test_compare_signatures__a_difference_between_participants_is_a_warning() -> None:
    images = [(p, s, {"Manufacturer": m}) for p, m in (("01", "Siemens"), ("02", "GE"), ("03", "GE")) for s in "12"]
    warnings = compare_signatures(images, "R1map GM")
    assert len(warnings) == 1
    assert "R1map GM: Manufacturer differs between" in warnings[0]
    assert "ge (2 participants: 02, 03); siemens (1 participants: 01)" in warnings[0]


def test_compare_signatures__spelling_and_silence_are_no_differences() -> None:
    images = [
        ("01", "1", {"Manufacturer": "SIEMENS", "MagneticFieldStrength": 3}),
        ("01", "2", {"Manufacturer": "Siemens ", "MagneticFieldStrength": 3.0, "Preset": "hmri-1.0"}),
        ("01", "3", None),
        ("02", "1", {"Manufacturer": "Siemens"}),
    ]
    assert compare_signatures(images, "R1map") == []


def test_compare_signatures__another_major_version_is_a_difference() -> None:
    images = [("01", "1", {"GeneratedBy": "voxcloud 1"}), ("01", "2", {"GeneratedBy": "voxcloud 2"})]
    with pytest.raises(ImageError, match="GeneratedBy"):
        compare_signatures(images, "R1map")


def test_sidecars__read_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "dataset_description.json", {"GeneratedBy": [{"Name": "hMRI", "Version": "1.0.2"}]})
    put(tmp_path / "R1map.json", {"Preset": "hmri-1.0"})
    read: list[str] = []
    plain = Path.read_text

    def counted(self: Path, *args: Any, **kwargs: Any) -> str:
        read.append(self.name)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", counted)
    sidecars = Sidecars()
    for k in range(20):
        image = tmp_path / f"sub-{k:02d}" / "anat" / f"sub-{k:02d}_space-MNI_R1map.nii"
        assert sidecars.signature(image) == {"Preset": "hmri-1.0", "GeneratedBy": "hMRI 1"}
    assert sorted(read) == ["R1map.json", "dataset_description.json"]


def test_differences_within__names_each_entry_of_each_participant_once() -> None:
    a, b = {"Preset": "x", "B1Method": "EPI"}, {"Preset": "y", "B1Method": "AFI"}
    images = [
        ("01", "1", a),
        ("01", "2", b),
        ("01", "3", b),
        ("02", "1", a),
        ("02", "2", {"Preset": "y"}),
        ("03", "1", b),
    ]
    found = differences_within(images, "R1map GM")
    assert [(text[:6], key) for text in found for key in ("Preset", "B1Method") if f"found {key} " in text] == [
        ("sub-01", "Preset"),
        ("sub-01", "B1Method"),
        ("sub-02", "Preset"),
    ]
