"""Diffusion images of the raw data set: files, truth, and that what was done to a volume is what is written down."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from scipy import ndimage

from voxcloud.dwi.fibre_continuity import Verdict, check_frame
from voxcloud.dwi.gradients import bvecs_to_world, check_gradients
from voxcloud.dwi.tensor import TensorFit, fit_tensor
from voxcloud.errors import PlanError
from voxcloud.space.unwarp import displacement
from voxcloud.testing import SimulatedRaw, simulate_raw, tiny_raw
from voxcloud.testing.raw_dwi import REFERENCE, DwiSeries, slice_times
from voxcloud.testing.raw_dwi_protocol import TINY_DWI, DwiProtocol
from voxcloud.testing.raw_epi import EDDY_TERMS
from voxcloud.testing.raw_fields import coil_fields
from voxcloud.testing.raw_geometry import Movement
from voxcloud.testing.raw_head import VisitChange
from voxcloud.testing.raw_protocol import DEFAULT_PROTOCOL

Float64 = npt.NDArray[np.float64]
FIRST = ("01", "1")
QUIET = replace(TINY_DWI, noise=0.0, motion=0.0, eddy=0.0, field=0.0, dropped=0.0, gibbs=False)
Make = Callable[..., SimulatedRaw]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """One session of diffusion images of somebody who lies straight; each protocol is made once."""
    made: dict[tuple[DwiProtocol, bool], SimulatedRaw] = {}

    def write(protocol: DwiProtocol, *, motion: bool = False) -> SimulatedRaw:
        key = (protocol, motion)
        if key not in made:
            folder = tmp_path_factory.mktemp("dwi")
            made[key] = tiny_raw(folder, sessions=1, motion=motion, mpm=False, dwi=protocol)
        return made[key]

    return write


def load(path: Path) -> Float64:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def series(made: SimulatedRaw, direction: str = "AP") -> DwiSeries:
    return made.dwi[FIRST][direction]


def truth(made: SimulatedRaw, name: str) -> Float64:
    return load(made.truth[FIRST][name])


def epi(made: SimulatedRaw, direction: str) -> Float64:
    return load(made.folder / "sub-01" / "ses-1" / "fmap" / f"sub-01_ses-1_dir-{direction}_epi.nii.gz")


def sidecar(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    return found


def table(path: Path) -> tuple[Float64, Float64]:
    stem = str(path).removesuffix(".nii.gz")
    return np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec")


def fitted(made: SimulatedRaw) -> TensorFit:
    path = series(made).path
    bvals, bvecs = table(path)
    image = nib.load(path)
    return fit_tensor(load(path), bvals, bvecs_to_world(bvecs, image.affine))


def scanner_mm(affine: Float64, shape: tuple[int, ...]) -> Float64:
    """(x, y, z, 3)."""
    return np.moveaxis(np.indices(shape[:3]), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_tiny_raw__fits_of_images_without_artefacts_are_the_truth(make: Make) -> None:
    made = make(QUIET)
    fit = fitted(made)
    brain = sum(truth(made, f"space-dwi_label-{t}_probseg") for t in ("GM", "WM")) > 0.95
    assert brain.sum() > 800
    # What rounding to whole numbers makes of signals of 60 to 300.
    for name, found in (("FA", fit.fa), ("MD", fit.md), ("AD", fit.ad), ("RD", fit.rd)):
        error = found[brain] - truth(made, name)[brain]
        scale = 1.0 if name == "FA" else 0.75e-3
        assert np.abs(np.median(error)) < 0.002 * scale, name
        assert np.abs(error).max() < 0.02 * scale, name
    along = np.abs((np.moveaxis(fit.direction, 0, -1) * truth(made, "fibres")).sum(axis=-1))
    angles = np.rad2deg(np.arccos(along[brain & (truth(made, "FA") > 0.4)].clip(0, 1)))
    assert np.median(angles) < 0.5
    assert angles.max() < 4.0


def test_tiny_raw__signals_are_those_of_the_true_tensor(make: Make) -> None:
    made = make(QUIET)
    one = series(made)
    images, affine = load(one.path), nib.load(one.path).affine
    receive = (
        coil_fields(0, "01", "1").receive(scanner_mm(affine, images.shape).reshape(-1, 3)).reshape(images.shape[:3])
    )
    # PD (1 - exp(-TR R1)) exp(-TE / T2) of each tissue over that of white matter.
    values = {"GM": (82.0, 0.61, 0.099), "WM": (69.0, 1.04, 0.069), "CSF": (100.0, 0.25, 1.5)}
    s0 = {tissue: pd * (1 - np.exp(-6.0 * r1)) * np.exp(-0.08 / t2) for tissue, (pd, r1, t2) in values.items()}
    expected = sum(truth(made, f"space-dwi_label-{tissue}_probseg") * s0[tissue] / s0["WM"] for tissue in values)
    brain = truth(made, "space-dwi_label-scalp_probseg") < 1e-6
    np.testing.assert_allclose(images[brain, 0], (REFERENCE * expected * receive)[brain], atol=0.6)
    white = truth(made, "space-dwi_label-WM_probseg") > 0.995
    # Axially symmetric tensors are known from AD, RD and direction; those of fibres that spread are not.
    ad, rd, v = (truth(made, name)[white] for name in ("AD", "RD", "fibres"))
    coherent = truth(made, "FA")[white] > 0.7
    assert coherent.sum() > 5
    cosine = v @ one.directions
    expected = images[white, :1] * np.exp(-one.bvals * (rd[:, None] + (ad - rd)[:, None] * cosine**2))
    error = np.abs(images[white] - expected)[coherent]
    assert np.ptp(expected[coherent]) > 150
    assert np.median(error) < 3.0
    assert error.max() < 30.0


def test_tiny_raw__the_table_is_in_the_frame_of_bids(make: Make) -> None:
    made = make(QUIET)
    one = series(made)
    bvals, bvecs = table(one.path)
    affine = nib.load(one.path).affine
    assert np.abs(affine[1, 2]) > 0.5  # oblique
    np.testing.assert_allclose(bvecs_to_world(bvecs, affine), one.directions, atol=2e-6)
    assert np.array_equal(bvals, one.bvals)
    checked = check_gradients(bvals, bvecs, 14)
    assert [len(shell.volumes) for shell in checked.shells] == [12]
    assert checked.shells[0].directions == 12
    assert checked.b0.sum() == 2
    straight = make(replace(QUIET, oblique=False))
    np.testing.assert_allclose(nib.load(series(straight).path).affine[:3, :3], 8.0 * np.eye(3))


@pytest.mark.parametrize("sign", [-1, 1])
def test_tiny_raw__distortion_moves_signal_as_the_field_says(make: Make, sign: int) -> None:
    direction = {-1: "AP", 1: "PA"}[sign]
    still, made = make(QUIET), make(replace(QUIET, field=1.0))
    before, after = epi(still, direction), epi(made, direction)
    about = sidecar(made.folder / "sub-01" / "ses-1" / "fmap" / f"sub-01_ses-1_dir-{direction}_epi.nii.gz")
    assert about["PhaseEncodingDirection"] == {-1: "j-", 1: "j"}[sign]
    shift = displacement(truth(made, "space-dwi_fieldmap"), about["TotalReadoutTime"], about["PhaseEncodingDirection"])
    assert np.abs(shift[before > 20]).max() > 1.0
    # Signal is kept, line by line, and its middle moves by the mean displacement of signal.
    lines = before.sum(axis=1)
    np.testing.assert_allclose(after.sum(axis=1), lines, atol=0.01 * lines.max())
    bright = lines > 0.1 * lines.max()
    at = np.arange(before.shape[1])[None, :, None]
    middle = [(image * at).sum(axis=1)[bright] / image.sum(axis=1)[bright] for image in (before, after)]
    expected = (before * shift).sum(axis=1)[bright] / lines[bright]
    np.testing.assert_allclose(middle[1] - middle[0], expected, atol=0.06)
    assert np.abs(expected).max() > 0.5


def test_tiny_raw__eddy_fields_move_volumes_as_their_coefficients_say(make: Make) -> None:
    still, made = make(QUIET), make(replace(QUIET, eddy=3.0))
    one = series(made)
    before, after = load(series(still).path), load(one.path)
    assert np.array_equal(before[..., 0], after[..., 0])
    assert not one.eddy_hz[one.bvals == 0].any()
    x, y, z = np.moveaxis(scanner_mm(nib.load(one.path).affine, before.shape), -1, 0)
    columns = [np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z]
    assert len(columns) == len(EDDY_TERMS)
    field = sum(
        c * column for c, column in zip(one.eddy_hz[:, :, None, None, None].swapaxes(0, 1), columns, strict=True)
    )
    shift = -one.readout_s * np.moveaxis(field, 0, -1)
    at = np.arange(before.shape[1])[None, :, None, None]
    middle = [(image * at).sum(axis=(0, 1, 2)) / image.sum(axis=(0, 1, 2)) for image in (before, after)]
    expected = (before * shift).sum(axis=(0, 1, 2)) / before.sum(axis=(0, 1, 2))
    np.testing.assert_allclose(middle[1] - middle[0], expected, atol=0.005)
    assert np.abs(expected).max() > 0.1


MOVES = tuple(Movement() if k < 7 else Movement((6.0, -4.0, 5.0), (4.0, -6.0, 3.0)) for k in range(TINY_DWI.volumes))


def moved_back(image: Float64, affine: Float64, matrix: Float64) -> Float64:
    """Read at x what the head has at x in the first volume."""
    voxels = np.linalg.inv(affine) @ matrix @ affine
    return np.asarray(ndimage.affine_transform(image, voxels[:3, :3], voxels[:3, 3], order=3))


def test_tiny_raw__movements_bring_volumes_back(make: Make) -> None:
    made = make(replace(QUIET, voxel_mm=4.0, movements=MOVES))
    one = series(made)
    images, affine = load(one.path), nib.load(one.path).affine
    assert one.bvals[0] == one.bvals[7] == 0
    first, moved = images[..., 0], images[..., 7]
    bright = first > 100
    errors = {
        name: np.abs(moved_back(moved, affine, matrix) - first)[bright].mean() / first[bright].mean()
        for name, matrix in (
            ("right", one.movements[7]),
            ("none", np.eye(4)),
            ("wrong way", np.linalg.inv(one.movements[7])),
        )
    }
    assert errors["right"] < 0.05 < 3 * errors["right"] < errors["none"] < errors["wrong way"], errors
    assert np.array_equal(one.movements[7], MOVES[7].matrix())


def test_tiny_raw__fibres_turn_with_the_head_and_gradients_do_not(make: Make) -> None:
    turned = Movement((0.0, 0.0, 35.0))
    moves = (Movement(), *[turned] * (TINY_DWI.volumes - 1))
    made = make(replace(QUIET, voxel_mm=4.0, movements=moves))
    path = series(made).path
    bvals, bvecs = table(path)
    affine = nib.load(path).affine
    fit = fit_tensor(load(path)[..., 1:], bvals[1:], bvecs_to_world(bvecs[:, 1:], affine))
    matrix = turned.matrix()
    nearest = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    was = np.rint(np.moveaxis(np.indices(fit.fa.shape), 0, -1) @ nearest[:3, :3].T + nearest[:3, 3]).astype(int)
    inside = ((was >= 0) & (was < fit.fa.shape)).all(axis=-1)
    was = np.where(inside[..., None], was, 0)
    i, j, k = was[..., 0], was[..., 1], was[..., 2]
    sure = inside & (truth(made, "FA")[i, j, k] > 0.5) & (truth(made, "space-dwi_label-WM_probseg")[i, j, k] > 0.9)
    assert sure.sum() > 300
    true = truth(made, "fibres")[i, j, k]
    for expected, least, most in ((true @ matrix[:3, :3].T, 0.0, 8.0), (true, 15.0, 90.0)):
        cosine = np.abs((np.moveaxis(fit.direction, 0, -1) * expected).sum(axis=-1))[sure]
        assert least <= np.median(np.rad2deg(np.arccos(cosine.clip(0, 1)))) < most


def test_tiny_raw__the_head_may_lie_elsewhere_than_in_the_maps(tmp_path: Path) -> None:
    moved = Movement((0.0, 0.0, 0.0), (0.0, 8.0, 0.0))
    few = replace(QUIET, shells=((1000.0, 1),), b0_volumes=1, oblique=False)
    first, second = (
        tiny_raw(tmp_path / name, sessions=1, mpm=False, dwi=few, movements=movements)
        for name, movements in (("still", {}), ("moved", {"DWI": moved}))
    )
    assert second.movements[FIRST] == {"DWI": moved}
    np.testing.assert_allclose(truth(second, "MD")[:, 1:], truth(first, "MD")[:, :-1], atol=1e-9)
    assert np.array_equal(series(second).movements[0], np.eye(4))


def test_tiny_raw__moves_a_little_from_volume_to_volume(make: Make) -> None:
    one = series(make(TINY_DWI, motion=True))
    assert np.array_equal(one.movements[0], np.eye(4))
    steps = np.diff(one.movements[:, :3, 3], axis=0)
    assert 0.04 < steps.std() < 0.14
    np.testing.assert_allclose(
        one.movements[:, :3, :3] @ one.movements[:, :3, :3].swapaxes(1, 2), [np.eye(3)] * 14, atol=1e-12
    )
    assert all(np.array_equal(m, np.eye(4)) for m in series(make(QUIET)).movements)


def test_tiny_raw__air_is_rayleigh_noise(make: Make) -> None:
    still, made = make(QUIET), make(replace(QUIET, noise=0.05))
    images, air = load(series(made).path), load(series(still).path).max(axis=-1) == 0
    assert air.sum() > 3000
    values = images[air]
    assert series(made).noise_sd == pytest.approx(0.05 * REFERENCE)
    assert np.sqrt((values**2).mean() / 2) == pytest.approx(15.0, rel=0.01)
    assert values.mean() == pytest.approx(15.0 * np.sqrt(np.pi / 2), rel=0.01)
    noise = (images - load(series(still).path))[load(series(still).path) > 200]
    assert noise.std() == pytest.approx(15.0, rel=0.05)
    assert np.corrcoef(images[air].T)[0, 1] < 0.05  # each volume has its own


def test_tiny_raw__rings_where_k_space_is_cut(make: Make) -> None:
    ringing, smooth = (load(series(make(replace(QUIET, gibbs=gibbs))).path)[..., 0] for gibbs in (True, False))
    air = ndimage.binary_erosion(smooth == 0, iterations=1)
    assert air.sum() > 1000
    assert 3.0 < ringing[air].max() < 0.2 * smooth.max()
    np.testing.assert_allclose(ringing.sum(), smooth.sum(), rtol=0.03)
    partial = load(series(make(replace(QUIET, gibbs=True, partial_fourier=0.75))).path)[..., 0]
    assert np.abs(partial - ringing).max() > 5.0


def test_tiny_raw__dropped_slices_are_written_down(make: Make) -> None:
    still, made = make(QUIET), make(replace(QUIET, dropped=0.2))
    before, after, one = load(series(still).path), load(series(made).path), series(made)
    parts = np.ones((14, before.shape[2]))
    for volume, at, part in one.dropped:
        parts[volume, at] = part
    assert 20 < len(one.dropped) < 100
    assert (parts[one.bvals == 0] == 1).all()
    np.testing.assert_allclose(after, np.rint(before * parts.T), atol=1.0)


def test_tiny_raw__reversed_series_leaves_the_other_as_it_is(make: Make) -> None:
    once, twice = make(TINY_DWI, motion=True), make(replace(TINY_DWI, reversed_series=True), motion=True)
    one, two = digests(once.folder / "sub-01"), digests(twice.folder / "sub-01")
    assert {name: two[name] for name in one} == one
    new = sorted(set(two) - set(one))
    assert new == [f"ses-1/dwi/sub-01_ses-1_dir-PA_dwi.{end}" for end in ("bval", "bvec", "json", "nii.gz")]
    assert sidecar(series(twice, "PA").path)["PhaseEncodingDirection"] == "j"
    assert not np.array_equal(series(twice, "PA").movements, series(twice).movements)


def test_tiny_raw__sidecars_say_how_it_was_acquired(make: Make) -> None:
    made = make(TINY_DWI, motion=True)
    about = sidecar(series(made).path)
    lines = load(series(made).path).shape[1]
    assert about["TotalReadoutTime"] == pytest.approx(about["EffectiveEchoSpacing"] * (lines - 1), abs=1e-6)
    assert (about["EchoTime"], about["RepetitionTime"], about["PartialFourier"]) == (0.08, 6.0, 1.0)
    assert (about["MagneticFieldStrength"], about["MultibandAccelerationFactor"]) == (3, 2)
    assert about["PhaseEncodingDirection"] == "j-"
    assert len(about["SliceTiming"]) == load(series(made).path).shape[2]
    for direction in ("AP", "PA"):
        path = made.folder / "sub-01" / "ses-1" / "fmap" / f"sub-01_ses-1_dir-{direction}_epi.nii.gz"
        assert sidecar(path)["B0FieldIdentifier"] == about["B0FieldSource"]
        assert nib.load(path).shape == nib.load(series(made).path).shape[:3]


def test_slice_times__excites_every_other_slice_first() -> None:
    assert slice_times(8, 2, 4.0) == [0.0, 2.0, 1.0, 3.0, 0.0, 2.0, 1.0, 3.0]
    assert slice_times(5, 1, 5.0) == [0.0, 3.0, 1.0, 4.0, 2.0]


def test_tiny_raw__the_record_holds_the_truth(make: Make) -> None:
    made = make(TINY_DWI, motion=True)
    record = json.loads((made.folder / "truth" / "truth.json").read_text())
    assert record["dwi"]["protocol"]["shells"] == [[1000.0, 12]]
    volumes = json.loads((made.folder / record["sessions"][0]["dwi"]["volumes"]).read_text())
    one, written = series(made), volumes["series"]["AP"]
    assert np.array_equal(np.array(written["movements"]), one.movements)
    assert np.array_equal(np.array(written["eddy_hz"]), one.eddy_hz)
    assert np.array_equal(np.array(written["directions"]).T, one.directions)
    assert [tuple(entry) for entry in written["dropped"]] == list(one.dropped)
    assert (made.folder / written["path"]) == one.path
    assert set(volumes["meaning"]) >= {"movements", "eddy_hz", "displacement", "dropped"}
    assert yaml.safe_load(made.study_file.read_text()) == {
        "schema": 1,
        "name": "tiny-raw",
        "bids": ".",
        "output": "derivatives/voxcloud",
        "dwi": {},
    }
    assert made.images == tuple(
        f"sub-01/ses-1/{name}.nii.gz"
        for name in ("dwi/sub-01_ses-1_dir-AP_dwi", "fmap/sub-01_ses-1_dir-AP_epi", "fmap/sub-01_ses-1_dir-PA_epi")
    )


def test_tiny_raw__the_same_arguments_give_the_same_bytes_beside_other_images(tmp_path: Path) -> None:
    plain = digests(tiny_raw(tmp_path / "plain", sessions=1).folder)
    few = replace(TINY_DWI, shells=((1000.0, 4),), b0_volumes=1)
    both = digests(tiny_raw(tmp_path / "both", sessions=2, dwi=few).folder)
    alone = digests(tiny_raw(tmp_path / "alone", sessions=1, dwi=few, mpm=False).folder)
    told = {"README", "dataset_description.json", "study.yaml", "truth/truth.json", "sub-01/sub-01_sessions.tsv"}
    assert {name: both[name] for name in plain if name not in told} == {n: plain[n] for n in plain if n not in told}
    assert {name: both[name] for name in alone if name not in told} == {n: alone[n] for n in alone if n not in told}
    assert len(set(alone) - set(plain)) > 15
    other = digests(tiny_raw(tmp_path / "other", sessions=1, dwi=few, mpm=False, seed=1).folder)
    assert all(other[name] != alone[name] for name in other if name.endswith(".nii.gz") and "fieldmap" not in name)


def test_tiny_raw__changes_of_anisotropy_reach_the_truth_of_later_visits(tmp_path: Path) -> None:
    change = VisitChange("FA", (0.0, -28.0, -12.0), 24.0, 4.0, 0.15)
    made = tiny_raw(
        tmp_path / "new", dwi=replace(QUIET, shells=((1000.0, 6),)), mpm=False, motion=False, changes=(change,)
    )
    first, second = (load(made.truth["01", session]["FA"]) for session in ("1", "2"))
    ratio = second[first > 0.2] / first[first > 0.2]
    assert np.median(ratio[ratio > 1.1]) == pytest.approx(1.15, abs=0.01)
    assert ratio.max() < 1.2
    assert np.median(ratio) == pytest.approx(1.0, abs=0.002)
    record = json.loads((made.folder / "truth" / "truth.json").read_text())
    assert record["dwi"]["changes_per_visit"][0]["parameter"] == "FA"
    assert record["changes_per_visit"] == []


def test_tiny_raw__a_pair_of_its_own_stands_beside_that_of_b1(tmp_path: Path) -> None:
    protocol = {name: replace(c, echo_times_s=c.echo_times_s[:2]) for name, c in DEFAULT_PROTOCOL.items()}
    few = replace(TINY_DWI, shells=((1000.0, 6),), b0_volumes=1)
    made = tiny_raw(tmp_path / "new", sessions=1, b1="SESTE", b0="epi", protocol=protocol, dwi=few)
    pairs = [name for name in made.images if name.endswith("_epi.nii.gz")]
    assert [re.sub(r".*ses-1_", "", name) for name in pairs] == [
        "acq-dwi_dir-AP_epi.nii.gz",
        "acq-dwi_dir-PA_epi.nii.gz",
        "dir-AP_epi.nii.gz",
        "dir-PA_epi.nii.gz",
    ]
    assert len({sidecar(made.folder / name)["B0FieldIdentifier"] for name in pairs}) == 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"echo_time_s": 80.0}, "dwi echo_time_s is expected to be 0.01 to 0.3 s, found 80"),
        ({"voxel_mm": 0.5}, "dwi voxel_mm is expected to be 1 to 12 mm, found 0.5"),
        ({"shells": ()}, "expected to have a shell"),
        ({"shells": ((1.0, 30),)}, "b-values of 100 to 20000 s/mm2"),
        ({"shells": ((1000.0, 0),)}, "1 to 600 directions, found b = 1000 with 0"),
        ({"b0_volumes": 0}, "dwi b0_volumes is expected to be 1 to 600, found 0"),
        ({"partial_fourier": 0.75, "gibbs": False}, "partial_fourier=0.75 is expected with gibbs=True"),
        ({"dropped": 1.5}, "dwi dropped is expected to be 0 to 1, found 1.5"),
        ({"movements": (Movement(),)}, "dwi movements are expected to be 14"),
        ({"movements": (MOVES[8],) * 14}, "whose own is none"),
    ],
)
def test_tiny_raw__refuses_diffusion_that_cannot_be(wrong: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=re.escape(sentence)):
        tiny_raw(tmp_path / "new", dwi=replace(TINY_DWI, **wrong))
    assert not (tmp_path / "new").exists()


def test_tiny_raw__refuses_a_data_set_of_nothing_and_changes_that_nobody_sees(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="mpm=False is expected with diffusion images"):
        tiny_raw(tmp_path / "new", mpm=False)
    with pytest.raises(PlanError, match="movements is expected to be one of MTw, T1w, B1, found DWI"):
        tiny_raw(tmp_path / "new", movements={"DWI": Movement()})
    with pytest.raises(PlanError, match="changes is expected to be one of R1map"):
        tiny_raw(tmp_path / "new", changes=(VisitChange("FA", (0.0, 0.0, 0.0), 10.0, 4.0, 0.1),))


def test_tiny_raw__the_frame_of_the_table_shows_in_the_images(make: Make) -> None:
    made = make(replace(QUIET, voxel_mm=4.0))
    fit = fitted(made)
    brain = sum(truth(made, f"space-dwi_label-{t}_probseg") for t in ("GM", "WM", "CSF")) > 0.5
    assert check_frame(fit.direction, fit.fa, nib.load(series(made).path).affine, brain).verdict is Verdict.RIGHT


@pytest.mark.slow
def test_simulate_raw__the_frame_of_the_table_shows_in_a_brain_with_all_artefacts(tmp_path: Path) -> None:
    protocol = DwiProtocol(voxel_mm=4.0, shells=((1000.0, 16),), b0_volumes=2)
    made = simulate_raw(
        tmp_path / "new", resolution_mm=4.0, participants=1, sessions=1, seed=3, mpm=False, dwi=protocol
    )
    path = series(made).path
    bvals, bvecs = table(path)
    affine = nib.load(path).affine
    brain = sum(truth(made, f"space-dwi_label-{t}_probseg") for t in ("GM", "WM", "CSF")) > 0.5
    images = load(path)
    for rows, verdict in (([0, 1, 2], Verdict.RIGHT), ([1, 0, 2], Verdict.WRONG)):
        fit = fit_tensor(images, bvals, bvecs_to_world(bvecs[rows], affine))
        found = check_frame(fit.direction, fit.fa, affine, brain)
        assert found.verdict is verdict, found.message
    assert found.lead > 4.0
