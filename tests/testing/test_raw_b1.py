"""Each B1+ acquisition gives back the field that went in, by the methods that maps are made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.bids.mpm import read_mpm
from voxcloud.bids.sidecars import Metadata
from voxcloud.qmri.b1 import b1_from_afi, b1_from_double_angle, b1_from_percent, b1_from_rf_map, b1_from_tfl
from voxcloud.qmri.fieldmap import field_from_phasediff
from voxcloud.qmri.seste import b1_from_seste
from voxcloud.space.unwarp import unwarp_epi
from voxcloud.testing import SimulatedRaw, tiny_raw
from voxcloud.testing.raw_fields import coil_fields
from voxcloud.testing.raw_geometry import Movement

Floats = npt.NDArray[np.float64]
Make = Callable[..., SimulatedRaw]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(b1: str, **options: Any) -> SimulatedRaw:
        return tiny_raw(tmp_path / b1, b1=b1, sessions=1, noise=0.002, movements={}, **options)

    return write


def field_maps(made: SimulatedRaw) -> Path:
    return made.folder / "sub-01" / "ses-1" / "fmap"


def load(made: SimulatedRaw, name: str) -> Floats:
    return np.asarray(nib.load(field_maps(made) / f"sub-01_ses-1_{name}.nii.gz").dataobj, dtype=np.float64)


def sidecar(made: SimulatedRaw, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((field_maps(made) / f"sub-01_ses-1_{name}.json").read_text())
    return found


def true_field(made: SimulatedRaw, name: str) -> Floats:
    """B1+ over nominal on the grid of an image, from the fields themselves."""
    image = nib.load(field_maps(made) / f"sub-01_ses-1_{name}.nii.gz")
    voxels = np.argwhere(np.ones(image.shape, dtype=bool))
    world = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
    pose = json.loads((made.folder / "truth" / "truth.json").read_text())["sessions"][0]["pose"]
    back = np.linalg.inv(Movement(tuple(pose["rotation_deg"]), tuple(pose["translation_mm"])).matrix())
    return (
        coil_fields(0, "01", "1").transmit(world @ back[:3, :3].T + back[:3, 3]).reshape(image.shape).astype(np.float64)
    )


def test_write_afi__gives_back_the_field(make: Make) -> None:
    made = make("AFI")
    short, long = load(made, "acq-tr1_TB1AFI"), load(made, "acq-tr2_TB1AFI")
    first, second = sidecar(made, "acq-tr1_TB1AFI"), sidecar(made, "acq-tr2_TB1AFI")
    times = (first["RepetitionTimeExcitation"], second["RepetitionTimeExcitation"])
    assert times == (0.05, 0.15)
    assert first["FlipAngle"] == 60.0
    bright = short > 300
    found = b1_from_afi(short, long, np.deg2rad(first["FlipAngle"]), times)
    ratio = (found / true_field(made, "acq-tr1_TB1AFI"))[bright]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.015)  # first order in TR / T1
    assert ratio.std() < 0.03


def test_write_dam__gives_back_the_field(make: Make) -> None:
    made = make("DAM")
    single, double = load(made, "flip-1_TB1DAM"), load(made, "flip-2_TB1DAM")
    assert [sidecar(made, f"flip-{k}_TB1DAM")["FlipAngle"] for k in (1, 2)] == [60.0, 120.0]
    bright = single > 300
    ratio = (b1_from_double_angle(single, double, np.deg2rad(60.0)) / true_field(made, "flip-1_TB1DAM"))[bright]
    # Where 120 degrees times B1 is beyond 180 a magnitude has lost its sign: nowhere in a head at 3 T.
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.01)
    assert np.nanstd(ratio) < 0.02


@pytest.mark.parametrize(
    ("method", "invert"), [("TFL", b1_from_tfl), ("RFM", b1_from_rf_map)], ids=("tenths of a degree", "0 to 4095")
)
def test_write_scanner_maps__give_back_the_field(make: Make, method: str, invert: Callable[..., Any]) -> None:
    made = make(method)
    anatomy, values = load(made, f"acq-anat_TB1{method}"), load(made, f"acq-famp_TB1{method}")
    angle = sidecar(made, f"acq-famp_TB1{method}")["FlipAngle"]
    bright = anatomy > 150
    assert bright.sum() > 500
    ratio = (np.asarray(invert(values[bright], np.deg2rad(angle)))) / true_field(made, f"acq-famp_TB1{method}")[bright]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.002)
    assert ratio.std() == pytest.approx(0.01, rel=0.2)


def test_write_ready_map__is_in_percent(make: Make) -> None:
    made = make("TB1map")
    assert sidecar(made, "TB1map")["Units"] == "percent"
    values, truth = load(made, "TB1map"), true_field(made, "TB1map")
    middle = tuple(slice(n // 2 - 4, n // 2 + 4) for n in values.shape)
    ratio = b1_from_percent(values[middle]) / truth[middle]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.004)


def echoes(made: SimulatedRaw) -> tuple[Floats, Floats, list[float]]:
    angles = [sidecar(made, f"echo-1_flip-{k}_TB1EPI")["FlipAngle"] for k in range(1, 12)]
    spin, stimulated = (
        np.stack([load(made, f"echo-{e}_flip-{k}_TB1EPI") for k in range(1, 12)], axis=-1) for e in (1, 2)
    )
    return spin, stimulated, angles


def test_write_seste__gives_back_the_field(make: Make) -> None:
    made = make("SESTE")
    spin, stimulated, angles = echoes(made)
    assert angles == [115.0 - 5 * k for k in range(11)]
    parameters = sidecar(made, "echo-2_flip-4_TB1EPI")
    assert (parameters["MixingTime"], parameters["TotalReadoutTime"]) == (0.0338, 0.0243)
    assert parameters["PhaseEncodingDirection"] == "j"
    assert "B0FieldSource" not in parameters
    assert parameters["EchoTime"] > sidecar(made, "echo-1_flip-4_TB1EPI")["EchoTime"]
    found = b1_from_seste(spin, stimulated, np.deg2rad(angles), 0.0338)
    brain = found.magnitude > 600
    ratio = (found.b1 / true_field(made, "echo-1_flip-1_TB1EPI"))[brain]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("b0", ["phasediff", "epi"])
def test_write_seste__is_distorted_by_the_field_that_is_mapped(make: Make, tmp_path: Path, b0: str) -> None:
    made = make("SESTE", b0=b0)
    flat = tiny_raw(tmp_path / "flat", b1="SESTE", sessions=1, noise=0.002, movements={})
    assert sidecar(made, "echo-1_flip-1_TB1EPI")["B0FieldSource"] == "b0field"
    field = np.asarray(nib.load(made.truth["01", "1"]["fieldmap"]).dataobj, dtype=np.float64)
    warped, right = load(made, "echo-1_flip-6_TB1EPI"), load(flat, "echo-1_flip-6_TB1EPI")
    back = unwarp_epi(warped, field, 0.0243, "j", modulate=True)
    assert np.abs(back - right).sum() < 0.6 * np.abs(warped - right).sum()
    assert warped.sum() == pytest.approx(right.sum(), rel=0.01)


def test_write_phasediff__gives_back_the_static_field(make: Make) -> None:
    made = make("SESTE", b0="phasediff")
    phase, magnitude = load(made, "phasediff"), load(made, "magnitude1")
    parameters = sidecar(made, "phasediff")
    assert (phase.min(), phase.max()) == pytest.approx((0, 4095), abs=5)
    times = (parameters["EchoTime1"], parameters["EchoTime2"])
    assert parameters["B0FieldIdentifier"] == "b0field"
    bright = magnitude > 60
    field = field_from_phasediff(phase, times, mask=bright)
    truth = np.asarray(nib.load(made.truth["01", "1"]["fieldmap"]).dataobj, dtype=np.float64)
    error = (field.hz - truth)[bright]
    assert np.abs(np.median(error)) < 1.0
    assert np.percentile(np.abs(error), 95) < 5.0


def test_write_epi_pair__is_pushed_both_ways(make: Make) -> None:
    made = make("SESTE", b0="epi")
    truth = np.asarray(nib.load(made.truth["01", "1"]["fieldmap"]).dataobj, dtype=np.float64)
    forth, back = (load(made, f"dir-{direction}_epi") for direction in ("PA", "AP"))
    assert [sidecar(made, f"dir-{d}_epi")["PhaseEncodingDirection"] for d in ("PA", "AP")] == ["j", "j-"]
    apart = np.abs(forth - back).sum()
    unwarped = [
        unwarp_epi(image, truth, sidecar(made, "dir-PA_epi")["TotalReadoutTime"], direction, modulate=True)
        for image, direction in ((forth, "j"), (back, "j-"))
    ]
    assert np.abs(unwarped[0] - unwarped[1]).sum() < 0.6 * apart


def test_write_receive_pair__has_the_sensitivity_of_the_array(make: Make) -> None:
    made = make("AFI", receive_pairs=True)
    for contrast in ("MTw", "PDw", "T1w"):
        array, body = load(made, f"acq-head{contrast}_RB1COR"), load(made, f"acq-body{contrast}_RB1COR")
        bright = body > 200
        assert bright.sum() > 500
        image = nib.load(field_maps(made) / f"sub-01_ses-1_acq-head{contrast}_RB1COR.nii.gz")
        world = np.argwhere(bright) @ image.affine[:3, :3].T + image.affine[:3, 3]
        ratio = array[bright] / body[bright]
        np.testing.assert_allclose(ratio / coil_fields(0, "01", "1").receive(world), 1.0, atol=0.03)


@pytest.mark.parametrize(
    ("b1", "b0", "images"),
    [
        ("AFI", None, 2),
        ("SESTE", "phasediff", 22),
        ("SESTE", "epi", 22),
        ("DAM", None, 2),
        ("TFL", None, 2),
        ("RFM", None, 2),
        ("TB1map", None, 1),
    ],
)
def test_tiny_raw__is_read_without_a_warning(make: Make, b1: str, b0: str | None, images: int) -> None:
    made = make(b1, b0=b0, receive_pairs=True)
    session = read_mpm(Metadata(made.folder), "01", "1")
    assert session.warnings == ()
    assert {name: len(series.echoes) for name, series in session.series.items()} == {"MTw": 6, "PDw": 8, "T1w": 8}
    assert session.b1 is not None
    assert (session.b1.method, len(session.b1.images)) == (b1, images)
    assert (session.b1.b0 is None) == (b0 is None)
    assert session.b1.b0 is None or session.b1.b0.method == b0
    assert {name: sorted(coils) for name, coils in session.receive.items()} == {
        key: ["body", "head"] for key in ("MTw", "PDw", "T1w")
    }
