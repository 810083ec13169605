"""The raw data set: its files, its units, its truth, and that the truth is what its images hold."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml

from voxcloud.errors import PlanError, StudyFileError
from voxcloud.qmri.maps import create_maps
from voxcloud.qmri.protocol import Contrast
from voxcloud.testing import SimulatedRaw, simulate_raw, tiny_raw
from voxcloud.testing.raw_geometry import Movement
from voxcloud.testing.raw_head import VisitChange
from voxcloud.testing.raw_protocol import DEFAULT_PROTOCOL, ContrastProtocol, echo_train
from voxcloud.testing.raw_tissue import VALUES

FIRST = ("01", "1")
GROUPS = {"MTw": (1, "on"), "PDw": (1, "off"), "T1w": (2, "off")}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRaw:
    return tiny_raw(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRaw:
    """Neither noise nor motion."""
    return tiny_raw(tmp_path_factory.mktemp("clean"), noise=0.0, motion=False, sessions=1)


def load(path: Path) -> npt.NDArray[np.float64]:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def echo(made: SimulatedRaw, contrast: str, number: int, session: str = "1") -> Path:
    flip, mt = GROUPS[contrast]
    name = f"sub-01_ses-{session}_echo-{number}_flip-{flip}_mt-{mt}_part-mag_MPM.nii.gz"
    return made.folder / "sub-01" / f"ses-{session}" / "anat" / name


def train(made: SimulatedRaw, contrast: str) -> Contrast:
    parameters = made.protocol[contrast]
    echoes = np.stack([load(echo(made, contrast, k + 1)) for k in range(len(parameters.echo_times_s))])
    return Contrast(
        contrast,
        echoes,
        parameters.echo_times_s,
        float(np.deg2rad(parameters.flip_angle_deg)),
        parameters.repetition_time_s,
    )


def truth(made: SimulatedRaw, name: str, key: tuple[str, str] = FIRST) -> npt.NDArray[np.float64]:
    return load(made.truth[key][name])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_tiny_raw__writes_the_same_bytes_for_the_same_arguments(noisy: SimulatedRaw, tmp_path: Path) -> None:
    again, other = tiny_raw(tmp_path / "again"), tiny_raw(tmp_path / "other", seed=1)
    assert digests(again.folder) == digests(noisy.folder)
    assert set(digests(other.folder)) == set(digests(noisy.folder))
    same = [name for name, digest in digests(other.folder).items() if digests(noisy.folder)[name] == digest]
    assert not [name for name in same if name.endswith(".nii.gz")]


def test_tiny_raw__more_people_and_visits_leave_the_first_as_they_are(noisy: SimulatedRaw, tmp_path: Path) -> None:
    more = digests(tiny_raw(tmp_path / "more", participants=2, sessions=3).folder)
    images = {name: digest for name, digest in digests(noisy.folder).items() if name.endswith(".nii.gz")}
    assert {name: more[name] for name in images} == images
    assert (
        more["sub-01/ses-1/anat/" + echo(noisy, "PDw", 1).name]
        != more["sub-01/ses-2/anat/" + echo(noisy, "PDw", 1, "2").name]
    )


def test_tiny_raw__files_are_named_as_bids_has_them(noisy: SimulatedRaw) -> None:
    files = set(digests(noisy.folder))
    mpm = r"sub-01/ses-[12]/anat/sub-01_ses-[12]_echo-[1-8]_flip-[12]_mt-(on|off)_part-mag_MPM\.(nii\.gz|json)"
    b1 = r"sub-01/ses-[12]/fmap/sub-01_ses-[12]_acq-tr[12]_TB1AFI\.(nii\.gz|json)"
    assert len([name for name in files if re.fullmatch(mpm, name)]) == 2 * 2 * 22
    assert len([name for name in files if re.fullmatch(b1, name)]) == 2 * 2 * 2
    others = {name for name in files if not re.fullmatch(f"{mpm}|{b1}|truth/.*", name)}
    assert others == {
        ".bidsignore",
        "README",
        "dataset_description.json",
        "participants.json",
        "participants.tsv",
        "study.yaml",
        "sub-01/sub-01_sessions.json",
        "sub-01/sub-01_sessions.tsv",
    }
    assert noisy.images == tuple(sorted(n for n in files if n.endswith(".nii.gz") and not n.startswith("truth")))
    assert "truth/" in (noisy.folder / ".bidsignore").read_text().splitlines()
    sessions = pd.read_csv(noisy.folder / "sub-01" / "sub-01_sessions.tsv", sep="\t")
    assert sessions.to_dict("list") == {"session_id": ["ses-1", "ses-2"], "day": [0, 7]}


def test_tiny_raw__sidecars_are_in_degrees_and_seconds(noisy: SimulatedRaw) -> None:
    for contrast, parameters in DEFAULT_PROTOCOL.items():
        for number, time_s in enumerate(parameters.echo_times_s, start=1):
            sidecar = json.loads(echo(noisy, contrast, number).with_suffix("").with_suffix(".json").read_text())
            assert sidecar["EchoTime"] == time_s == pytest.approx(0.0023 * number)
            assert sidecar["FlipAngle"] == (21.0 if contrast == "T1w" else 6.0)
            assert sidecar["RepetitionTimeExcitation"] == 0.0245
            assert sidecar["MTState"] is (contrast == "MTw")


def test_tiny_raw__stores_what_scanners_store(noisy: SimulatedRaw) -> None:
    image = nib.load(echo(noisy, "PDw", 1))
    assert image.get_data_dtype() == np.int16
    assert (image.header["scl_slope"], image.header["scl_inter"]) == (1.0, 0.0) or np.isnan(image.header["scl_slope"])
    values = load(echo(noisy, "PDw", 1))
    assert values.min() >= 0
    assert 400 < values.max() <= 4095
    np.testing.assert_allclose(image.header.get_zooms(), 8.0, rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-4)
    assert np.abs(image.affine[2, 1]) > 0.3  # oblique
    parts = {part.shape: part.affine[0, 3] for part in map(nib.load, (noisy.folder / n for n in noisy.images))}
    assert len(parts) == 2  # B1 has a grid of its own


def test_tiny_raw__air_is_rayleigh_noise(noisy: SimulatedRaw) -> None:
    values = load(echo(noisy, "PDw", 8))
    air = values[truth(noisy, "TB1map") == 0]
    assert air.size > 2000
    assert np.sqrt((air**2).mean() / 2) == pytest.approx(noisy.noise_sd, rel=0.05)


def test_tiny_raw__echoes_decay_with_the_true_r2star(clean: SimulatedRaw) -> None:
    first, last = load(echo(clean, "PDw", 1)), load(echo(clean, "PDw", 8))
    bright = (first > 150) & (last > 100)
    decay = np.log(first[bright] / last[bright]) / (0.0184 - 0.0023)
    error = decay - truth(clean, "R2starmap")[bright]
    assert np.abs(error).max() < 0.5  # 1/s; what rounding to integers makes
    assert np.abs(np.median(error)) < 0.02


def test_tiny_raw__maps_made_of_it_are_the_truth(clean: SimulatedRaw) -> None:
    b1 = truth(clean, "TB1map") / 100
    brain = (truth(clean, "label-GM_probseg") + truth(clean, "label-WM_probseg")) > 0.95
    made = create_maps(train(clean, "PDw"), train(clean, "T1w"), train(clean, "MTw"), b1=np.where(b1 > 0, b1, 1.0)).maps
    ratio = {name: made[name][brain] / truth(clean, name)[brain] for name in ("R1map", "R2starmap", "MTsat")}
    for name, tolerance in (("R1map", 0.002), ("R2starmap", 0.002)):
        assert np.median(ratio[name]) == pytest.approx(1.0, abs=tolerance)
        assert ratio[name].std() < 0.02
    # The equation for MTsat is of first order: a few per cent at 1 to 2 p.u.
    assert 1.0 < np.median(ratio["MTsat"]) < 1.04
    density = made["A"][brain] / truth(clean, "RB1map")[brain] / truth(clean, "PDmap")[brain]
    assert density.std() / density.mean() < 0.01


def test_tiny_raw__the_head_moves_and_the_coil_does_not(tmp_path: Path) -> None:
    moved = Movement((0.0, 0.0, 0.0), (4.0, -3.0, 2.0))
    made = tiny_raw(tmp_path / "moved", noise=0.0, sessions=1, voxel_mm=4.0, movements={"T1w": moved})
    still = tiny_raw(tmp_path / "still", noise=0.0, sessions=1, voxel_mm=4.0, movements={})
    np.testing.assert_allclose(
        centre(echo(made, "T1w", 1)) - centre(echo(still, "T1w", 1)), [4.0, -3.0, 2.0], atol=0.35
    )
    assert digests(made.folder)[relative(made, "MTw")] == digests(still.folder)[relative(still, "MTw")]
    assert made.movements[FIRST]["T1w"] == moved
    assert made.movements[FIRST]["B1"] == Movement()
    record = json.loads((made.folder / "truth" / "truth.json").read_text())
    assert record["sessions"][0]["movements_since_PDw"]["T1w"]["translation_mm"] == [4.0, -3.0, 2.0]


def relative(made: SimulatedRaw, contrast: str) -> str:
    return echo(made, contrast, 1).relative_to(made.folder).as_posix()


def centre(path: Path) -> npt.NDArray[np.float64]:
    """Middle of what gives signal, mm: not weighted with it, for the coil's sensitivity does not move."""
    middle = np.argwhere(load(path) > 40).mean(axis=0)
    return np.asarray((nib.load(path).affine @ [*middle, 1.0])[:3])


def test_tiny_raw__moves_by_chance_unless_told_not_to(noisy: SimulatedRaw, clean: SimulatedRaw) -> None:
    for key, movements in noisy.movements.items():
        assert set(movements) == {"MTw", "T1w", "B1"}
        sizes = [np.abs(m.translation_mm).max() for m in movements.values()]
        assert 0.05 < max(sizes) < 4.0, key
    assert all(m == Movement() for m in clean.movements[FIRST].values())


def test_tiny_raw__b1_scale_changes_angles_and_not_the_truth(clean: SimulatedRaw, tmp_path: Path) -> None:
    scaled = tiny_raw(tmp_path / "new", noise=0.0, motion=False, sessions=1, b1_scale=[1.1])
    np.testing.assert_array_equal(truth(scaled, "R1map"), truth(clean, "R1map"))
    inside = truth(clean, "TB1map") > 0
    np.testing.assert_allclose(truth(scaled, "TB1map")[inside] / truth(clean, "TB1map")[inside], 1.1, rtol=3e-4)
    assert (load(echo(scaled, "PDw", 1)) != load(echo(clean, "PDw", 1))).mean() > 0.2


def test_tiny_raw__changes_over_visits_are_in_truth_and_images(tmp_path: Path) -> None:
    change = VisitChange("R1map", (0.0, -28.0, -12.0), 24.0, 4.0, 0.05)
    made = tiny_raw(tmp_path / "new", noise=0.0, motion=False, changes=(change,))
    ratio = truth(made, "R1map", ("01", "2")) / np.maximum(truth(made, "R1map"), 1e-6)
    assert ratio.max() == pytest.approx(1.05, abs=1e-4)
    assert np.median(ratio[truth(made, "R1map") > 0]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(truth(made, "MTsat", ("01", "2")), truth(made, "MTsat"))
    record = json.loads((made.folder / "truth" / "truth.json").read_text())
    assert record["changes_per_visit"][0]["relative"] == 0.05


def test_tiny_raw__spoiling_multiplies_the_signal(clean: SimulatedRaw, tmp_path: Path) -> None:
    asked: list[str] = []

    def spoiling(contrast: str, r1: npt.NDArray[np.float32], b1: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        asked.append(contrast)
        assert r1.shape == b1.shape
        return np.full(r1.shape, 1.5 if contrast == "T1w" else 1.0, dtype=np.float32)

    made = tiny_raw(tmp_path / "new", noise=0.0, motion=False, sessions=1, spoiling=spoiling)
    assert sorted(asked) == ["MTw", "PDw", "T1w"]
    bright = load(echo(clean, "T1w", 1)) > 200
    ratio = load(echo(made, "T1w", 1))[bright] / load(echo(clean, "T1w", 1))[bright]
    assert np.median(ratio) == pytest.approx(1.5, abs=0.01)
    np.testing.assert_array_equal(load(echo(made, "PDw", 1)), load(echo(clean, "PDw", 1)))


def test_tiny_raw__takes_another_protocol(tmp_path: Path) -> None:
    protocol = {
        "PDw": ContrastProtocol(4.0, 0.018, echo_train(4, 0.002, 0.003)),
        "T1w": ContrastProtocol(25.0, 0.03, echo_train(3)),
    }
    made = tiny_raw(tmp_path / "new", sessions=1, protocol=protocol, b1="none")
    assert len(made.images) == 7
    assert not (made.folder / "sub-01" / "ses-1" / "fmap").exists()
    sidecar = json.loads(echo(made, "PDw", 4).with_suffix("").with_suffix(".json").read_text())
    assert (sidecar["FlipAngle"], sidecar["EchoTime"], sidecar["RepetitionTimeExcitation"]) == (4.0, 0.011, 0.018)
    assert yaml.safe_load(made.study_file.read_text())["mpm"]["missing_b1"] == "semi-quantitative"


def test_tiny_raw__truth_says_where_the_values_come_from(noisy: SimulatedRaw) -> None:
    record = json.loads((noisy.folder / "truth" / "truth.json").read_text())
    assert record["tissue_values"] == VALUES
    assert "doi:" in record["sources"]["WM"]
    assert record["noise_sd"] == noisy.noise_sd
    assert len(record["sessions"]) == 2
    for session in record["sessions"]:
        for path in session["truth"].values():
            assert (noisy.folder / path).is_file()


def test_tiny_raw__study_file_names_the_data(noisy: SimulatedRaw) -> None:
    tree = yaml.safe_load(noisy.study_file.read_text())
    assert tree == {
        "schema": 1,
        "name": "tiny-raw",
        "bids": ".",
        "output": "derivatives/voxcloud",
        "mpm": {"preset": "hmri-1.0"},
    }


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"b1": "AFl"}, "b1 is expected to be one of AFI"),
        ({"b0": "epi"}, "b0=epi is expected with b1=SESTE"),
        ({"noise": -0.1}, "noise is expected to be 0 to 1 times the signal of white matter, found -0.1"),
        ({"participants": 0}, "participants is expected to be 1 to 99 people, found 0"),
        ({"b1_scale": [1.0]}, "one per session"),
        ({"voxel_mm": 2.0}, "voxel_mm is expected to be 4 to 12 mm"),
        ({"movements": {"PDw": Movement()}}, "movements is expected to be one of MTw, T1w, B1, found PDw"),
        ({"changes": (VisitChange("R1", (0, 0, 0), 1, 1, 1),)}, "changes is expected to be one of R1map"),
        ({"protocol": {"PDw": DEFAULT_PROTOCOL["PDw"]}}, "expected to have PDw and T1w"),
        (
            {"protocol": {**DEFAULT_PROTOCOL, "T1w": ContrastProtocol(21.0, 24.5, (2.3, 4.6))}},
            "at most 10, found 24.5. Divide ms",
        ),
        (
            {"protocol": {**DEFAULT_PROTOCOL, "T1w": ContrastProtocol(0.366, 0.0245, (0.0023, 0.0046))}},
            "1 to 90 degrees, found 0.366",
        ),
        ({"protocol": {**DEFAULT_PROTOCOL, "T1w": ContrastProtocol(21.0, 0.0245, (0.004, 0.002))}}, "rising echo"),
        ({"protocol": {**DEFAULT_PROTOCOL, "PDw": DEFAULT_PROTOCOL["MTw"]}}, "mt=False"),
    ],
)
def test_tiny_raw__refuses_what_cannot_be(wrong: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=re.escape(sentence)):
        tiny_raw(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_simulate_raw__refuses_a_folder_with_files_and_a_resolution_out_of_range(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyFileError, match="found files in it"):
        tiny_raw(tmp_path)
    with pytest.raises(PlanError, match=r"resolution_mm is expected to be 0\.8 to 12 mm, found 0\.5"):
        simulate_raw(tmp_path / "new", resolution_mm=0.5)


def test_simulate_raw__is_a_brain_in_a_skull_in_a_scalp(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    made = simulate_raw(
        tmp_path / "new", resolution_mm=8.0, participants=1, sessions=1, progress=lambda n, of: counted.append((n, of))
    )
    assert counted == [(n, 24) for n in range(1, 25)]
    fractions = {t: truth(made, f"label-{t}_probseg") for t in ("GM", "WM", "CSF", "scalp")}
    litres = {tissue: values.sum() * 8.0**3 / 1e6 for tissue, values in fractions.items()}
    assert 0.6 < litres["GM"] < 1.1
    assert 0.4 < litres["WM"] < 0.8
    assert 0.2 < litres["CSF"] < 0.7
    assert 0.4 < litres["scalp"] < 1.5
    total = sum(fractions.values())
    assert total.max() < 1 + 1e-5
    # Along a line from left to right: scalp, bone without signal, brain.
    x, y, z = (n // 2 for n in total.shape)
    line = fractions["scalp"][:x, y, z + 2]
    outermost = int(line.argmax())
    assert line[outermost] > 0.3
    assert total[outermost : outermost + 4, y, z + 2].min() < 0.8 * line[outermost] + 0.2
    white = fractions["WM"] > 0.8
    assert np.median(truth(made, "R1map")[white]) == pytest.approx(VALUES["WM"]["R1map"], rel=0.12)
    brain = fractions["GM"] + fractions["WM"] > 0.5
    assert 102 < np.percentile(truth(made, "TB1map")[brain], 90) < 125
