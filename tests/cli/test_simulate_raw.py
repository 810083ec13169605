"""``voxcloud simulate --raw``: what it writes and says, and which options it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from voxcloud.cli import app as cli


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the command line as a user does; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["voxcloud", *(str(word) for word in words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--raw", "--map", "R1map"), "--map is for maps, not for --raw"),
        (("--participants", 3), "--participants is for raw data. Add --raw"),
        (("--visits", 3), "--visits is for raw data. Add --raw"),
        (("--b1", "AFI"), "--b1 is for raw data. Add --raw"),
        (("--modality", "dwi"), "--modality is for raw data. Add --raw"),
        (("--raw", "--modality", "dti"), "--modality is expected to be mpm or dwi, found dti. Did you mean 'dwi'?"),
        (("--raw", "--modality", "dwi", "--b1", "AFI"), "--b1 is for mpm, found --modality dwi"),
        (("--raw", "--b1", "AFl"), "b1 is expected to be one of AFI, SESTE"),
        (("--study",), "--study is for raw data. Add --raw"),
        (
            ("--raw", "--study", "--modality", "dwi"),
            "a study needs mpm, found --modality dwi alone",
        ),
        (("--raw", "--study", "--visits", 6), "--visits is expected to be 1 to 5 with --study, found 6"),
        (("--raw", "--study", "--map", "R1map"), "--map is for maps, not for --raw"),
        (("--resolution", 0.9), "resolution_mm is expected between 1 and 12 mm, found 0.9"),
    ],
)
def test_simulate__refuses_options_of_the_other_kind(
    options: tuple[object, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "simulate", tmp_path / "new", *options) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_simulate__raw_shows_progress_and_says_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    options = ("--raw", "--resolution", 8, "--participants", 1, "--visits", 2, "--b1", "TB1map", "--seed", 3)
    assert run(monkeypatch, "simulate", out, *options) == 0
    said = capsys.readouterr().out
    assert "Images  46 of 46" in said
    assert "46 images of 1 participant at 2 visits, B1+ by TB1map" in said
    assert f"Run it with: voxcloud run {out / 'study.yaml'}" in said
    assert (out / "study.yaml").is_file()
    assert (out / "sub-01" / "ses-2" / "fmap" / "sub-01_ses-2_TB1map.nii.gz").is_file()
    assert (out / "truth" / "sub-01_ses-2_MTsat.nii.gz").is_file()


def test_simulate__raw_makes_diffusion_images_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    options = ("--raw", "--modality", "dwi", "--resolution", 12, "--participants", 1, "--visits", 1)
    assert run(monkeypatch, "simulate", out, *options) == 0
    said = capsys.readouterr().out
    assert "3 images of 1 participant at 1 visit, " in said
    assert "Truth   FA, MD, AD and RD of each session" in said
    assert sorted(path.name for path in (out / "sub-01" / "ses-1").rglob("*.nii.gz")) == [
        "sub-01_ses-1_dir-AP_dwi.nii.gz",
        "sub-01_ses-1_dir-AP_epi.nii.gz",
        "sub-01_ses-1_dir-PA_epi.nii.gz",
    ]
    study = (out / "study.yaml").read_text()
    assert "dwi: {}" in study
    assert "mpm" not in study


def test_simulate__raw_study_says_what_it_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    options = ("--raw", "--study", "--resolution", 12, "--participants", 2, "--visits", 1, "--modality", "mpm")
    assert run(monkeypatch, "simulate", out, *options) == 0
    said = capsys.readouterr().out
    assert "26 images of 2 participants at 2 visits, " in said
    assert f"Planted 6 changes, listed in {out / 'truth' / 'truth.json'}" in said
    assert f"Run it with: voxcloud run {out / 'study.yaml'}" in said
    assert "space: {resolution_mm: 8}" in (out / "study.yaml").read_text()
    assert (out / "sub-02" / "ses-day00" / "fmap" / "sub-02_ses-day00_TB1map.nii.gz").is_file()
