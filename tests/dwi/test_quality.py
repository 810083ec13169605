"""Numbers on the quality of diffusion, against closed forms and known noise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from voxcloud.dwi.quality import WHITE_FA, dwi_quality_numbers, residual_map
from voxcloud.dwi.tensor import TensorFit, fit_tensor
from voxcloud.errors import ImageError

SHAPE = (12, 11, 10)


def directions(n: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(3, n))
    return drawn / np.linalg.norm(drawn, axis=0)


def table(b0: int = 6, shells: tuple[float, ...] = (1000.0,), each: int = 30) -> tuple[np.ndarray, np.ndarray]:
    b = np.concatenate([np.zeros(b0), *(np.full(each, s) for s in shells)])
    g = np.concatenate([np.zeros((3, b0)), *(directions(each, k) for k in range(len(shells)))], axis=1)
    return b, g


def fibres(values: tuple[float, float] = (1.5e-3, 0.4e-3), seed: int = 3) -> np.ndarray:
    """(x, y, z, 3, 3): along and across one random direction in each voxel."""
    v = directions(int(np.prod(SHAPE)), seed).T.reshape(*SHAPE, 3)
    return values[1] * np.eye(3) + (values[0] - values[1]) * v[..., :, None] * v[..., None, :]


def pure_signals(tensor: np.ndarray, s0: Any, b: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.asarray(s0)[..., None] * np.exp(-b * np.einsum("iv,...ij,jv->...v", g, tensor, g))


@pytest.fixture(scope="module")
def scan() -> dict[str, Any]:
    """Two shells, Gaussian noise of 5 on an S0 of 500, a brain that is not the whole image."""
    b, g = table(shells=(1000.0, 2000.0))
    pure = pure_signals(fibres(), np.full(SHAPE, 500.0), b, g)
    noisy = pure + 5.0 * np.random.default_rng(1).standard_normal(pure.shape)
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    fit = fit_tensor(noisy, b, g)
    return {"b": b, "g": g, "pure": pure, "noisy": noisy, "brain": brain, "fit": fit}


@pytest.fixture(scope="module")
def numbers(scan: dict[str, Any]) -> dict[str, Any]:
    """Its numbers."""
    noise = np.full(SHAPE, 5.0)
    return dwi_quality_numbers(
        scan["noisy"], scan["fit"], scan["b"], scan["g"], scan["brain"], voxel_ml=0.008, noise=noise
    )


def test_dwi_quality_numbers__snr_of_b0_is_signal_over_the_noise_that_was_added(numbers: dict[str, Any]) -> None:
    assert numbers["snr_b0"] == pytest.approx(100.0, rel=0.03)
    assert numbers["snr_noise"] == pytest.approx(100.0, rel=0.01)
    assert numbers["noise"]["median"] == 5.0
    assert numbers["noise"]["percent"] == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_dwi_quality_numbers__snr_of_b0_has_no_bias_with_few_volumes(n: int) -> None:
    b, g = table(b0=n)
    pure = pure_signals(fibres(), np.full(SHAPE, 500.0), b, g)
    found = []
    for seed in range(6):
        noisy = pure + 5.0 * np.random.default_rng(seed).standard_normal(pure.shape)
        fit = fit_tensor(noisy, b, g)
        found.append(dwi_quality_numbers(noisy, fit, b, g, np.ones(SHAPE), voxel_ml=1.0)["snr_b0"])
    # The mean over standard deviation of each voxel would be 48 % too large at two volumes. 7,920 voxels in all leave a
    # standard error of 1.3 % there.
    assert np.mean(found) == pytest.approx(100.0, rel=0.035)


def test_dwi_quality_numbers__few_voxels_that_vary_do_not_move_the_snr(scan: dict[str, Any]) -> None:
    wild = scan["noisy"].copy()
    wild[2:4, 2:9, 2:9] += 200.0 * np.random.default_rng(5).standard_normal((2, 7, 7, wild.shape[3]))
    found = dwi_quality_numbers(
        wild, fit_tensor(wild, scan["b"], scan["g"]), scan["b"], scan["g"], scan["brain"], voxel_ml=1.0
    )
    assert found["snr_b0"] == pytest.approx(100.0, rel=0.15)  # of 720 voxels 98 have forty times the noise


def test_dwi_quality_numbers__one_b0_has_no_temporal_snr() -> None:
    b, g = table(b0=1)
    signals = pure_signals(fibres(), np.full(SHAPE, 500.0), b, g)
    found = dwi_quality_numbers(signals, fit_tensor(signals, b, g), b, g, np.ones(SHAPE), voxel_ml=1.0)
    assert found["snr_b0"] is None
    assert found["snr_noise"] is None
    assert found["noise"] is None


def test_dwi_quality_numbers__cnr_is_spread_of_the_truth_over_the_noise(
    scan: dict[str, Any], numbers: dict[str, Any]
) -> None:
    for shell, entry in zip((1000.0, 2000.0), numbers["cnr"], strict=True):
        own = scan["pure"][scan["brain"]][:, scan["b"] == shell]
        assert entry["b"] == shell
        assert entry["cnr"] == pytest.approx(np.median(own.std(axis=1)) / 5.0, rel=0.04)


def test_dwi_quality_numbers__residuals_are_what_was_added(scan: dict[str, Any], numbers: dict[str, Any]) -> None:
    volumes = scan["b"].size
    left = np.sqrt((volumes - 7) / volumes)  # seven parameters take up their share
    assert numbers["residual"]["brain_percent"] == pytest.approx(left, rel=0.03)
    assert numbers["residual"]["median_percent"] == pytest.approx(left, rel=0.03)
    assert len(numbers["residual"]["per_volume_percent"]) == volumes


def test_dwi_quality_numbers__one_bad_volume_is_seen_in_its_residual(scan: dict[str, Any]) -> None:
    bad = scan["noisy"].copy()
    bad[..., 20] *= 0.8
    fit = fit_tensor(bad, scan["b"], scan["g"])
    found = dwi_quality_numbers(bad, fit, scan["b"], scan["g"], scan["brain"], voxel_ml=1.0)
    per_volume = np.array(found["residual"]["per_volume_percent"])
    assert int(per_volume.argmax()) == 20
    assert per_volume[20] > 3 * np.median(per_volume)


def test_dwi_quality_numbers__sums_by_volume_agree_with_arrays_at_once(
    scan: dict[str, Any], numbers: dict[str, Any]
) -> None:
    fit, inside = scan["fit"], scan["brain"]
    xx, yy, zz, xy, xz, yz = fit.tensor
    matrix = np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), (0, 1), (3, 4))
    fitted = pure_signals(matrix, fit.s0, scan["b"], scan["g"])[inside]
    residual = scan["noisy"][inside] - fitted
    s0 = fit.s0[inside]
    per_volume = 100 * np.sqrt((residual**2).sum(axis=0) / (s0**2).sum())
    assert numbers["residual"]["per_volume_percent"] == pytest.approx(per_volume, rel=1e-9)
    shell = scan["b"] == 1000.0
    ratio = fitted[:, shell].std(axis=1) / residual[:, shell].std(axis=1)
    expected = np.median(ratio) * np.sqrt((scan["b"].size - 7) / scan["b"].size)
    assert numbers["cnr"][0]["cnr"] == pytest.approx(expected, rel=1e-9)


def test_dwi_quality_numbers__without_noise_nothing_is_left() -> None:
    b, g = table(b0=1, each=6)
    signals = pure_signals(fibres(), np.full(SHAPE, 500.0), b, g)
    found = dwi_quality_numbers(signals, fit_tensor(signals, b, g), b, g, np.ones(SHAPE), voxel_ml=1.0)
    assert found["residual"]["brain_percent"] < 1e-9
    assert found["cnr"] == [{"b": 1000.0, "cnr": None}]  # seven volumes leave no residual to compare with


def test_dwi_quality_numbers__shells_count_volumes_and_directions(numbers: dict[str, Any]) -> None:
    assert (numbers["n_volumes"], numbers["n_b0"]) == (66, 6)
    assert numbers["shells"] == [{"b": 1000.0, "n": 30, "directions": 30}, {"b": 2000.0, "n": 30, "directions": 30}]


def test_dwi_quality_numbers__maps_have_the_tensors_values() -> None:
    b, g = table()
    half = fibres()
    half[6:] = 0.9e-3 * np.eye(3)  # isotropic: not white matter
    signals = pure_signals(half, np.full(SHAPE, 500.0), b, g)
    brain = np.zeros(SHAPE, bool)
    brain[4:] = True
    found = dwi_quality_numbers(signals, fit_tensor(signals, b, g), b, g, brain, voxel_ml=0.01)
    values = np.array([1.5, 0.4, 0.4]) * 1e-3
    fa = np.sqrt(1.5 * ((values - values.mean()) ** 2).sum() / (values**2).sum())
    assert found["maps"]["fa"]["WM"]["median"] == pytest.approx(fa, rel=1e-6)
    assert found["maps"]["md"]["WM"]["median"] == pytest.approx(2.3e-3 / 3, rel=1e-6)
    assert found["maps"]["ad"]["WM"]["p05"] == pytest.approx(1.5e-3, rel=1e-6)
    assert found["maps"]["rd"]["WM"]["p95"] == pytest.approx(0.4e-3, rel=1e-6)
    assert found["maps"]["md"]["brain"]["median"] == pytest.approx(0.9e-3, rel=1e-6)
    assert found["maps"]["md"]["WM"]["n"] == 2 * 11 * 10
    assert found["volume_ml"] == pytest.approx({"brain": 8 * 11 * 10 * 0.01, "WM": 2 * 11 * 10 * 0.01})
    assert sum(found["maps"]["fa"]["histogram"]["brain"]) == 8 * 11 * 10
    assert fa > WHITE_FA


def test_dwi_quality_numbers__negative_eigenvalues_are_counted(scan: dict[str, Any], numbers: dict[str, Any]) -> None:
    assert numbers["negatives_percent"] == 0.0
    tensor = fibres()
    tensor[:3] = np.diag([2e-3, 0.3e-3, -0.2e-3])
    signals = pure_signals(tensor, np.full(SHAPE, 500.0), scan["b"], scan["g"])
    fit = fit_tensor(signals, scan["b"], scan["g"])
    found = dwi_quality_numbers(signals, fit, scan["b"], scan["g"], np.ones(SHAPE), voxel_ml=1.0)
    assert found["negatives_percent"] == pytest.approx(25.0)


def test_dwi_quality_numbers__what_was_not_fitted_is_missing_and_moves_nothing(
    scan: dict[str, Any], numbers: dict[str, Any]
) -> None:
    holed = scan["noisy"].copy()
    holed[1, 1, 1, 3] = np.nan
    fit = fit_tensor(holed, scan["b"], scan["g"])
    found = dwi_quality_numbers(holed, fit, scan["b"], scan["g"], scan["brain"], voxel_ml=0.008)
    inside = int(scan["brain"].sum())
    assert found["maps"]["md"]["brain"]["missing"] == pytest.approx(1 / inside)
    assert found["residual"]["brain_percent"] == pytest.approx(numbers["residual"]["brain_percent"], rel=0.01)
    json.dumps(found, allow_nan=False)


def test_dwi_quality_numbers__an_empty_brain_has_no_numbers(scan: dict[str, Any]) -> None:
    found = dwi_quality_numbers(scan["noisy"], scan["fit"], scan["b"], scan["g"], np.zeros(SHAPE), voxel_ml=1.0)
    json.dumps(found, allow_nan=False)
    assert found["snr_b0"] is None
    assert found["negatives_percent"] is None
    assert found["residual"] == {"per_volume_percent": [], "brain_percent": None, "median_percent": None}
    assert found["cnr"][0]["cnr"] is None
    assert found["maps"]["fa"]["WM"]["median"] is None


def test_dwi_quality_numbers__order_in_memory_changes_nothing(scan: dict[str, Any]) -> None:
    arguments = (scan["b"], scan["g"], scan["brain"])
    one = dwi_quality_numbers(scan["noisy"], scan["fit"], *arguments, voxel_ml=1.0)
    other = dwi_quality_numbers(np.asfortranarray(scan["noisy"]), scan["fit"], *arguments, voxel_ml=1.0)
    assert one == other


def test_residual_map__is_percent_of_s0_inside_the_brain(scan: dict[str, Any], numbers: dict[str, Any]) -> None:
    found = residual_map(scan["noisy"], scan["fit"], scan["b"], scan["g"], scan["brain"])
    assert np.isnan(found[~scan["brain"]]).all()
    assert np.median(found[scan["brain"]]) == pytest.approx(numbers["residual"]["median_percent"], rel=1e-6)


def _other(fit: TensorFit) -> TensorFit:
    return replace(fit, s0=fit.s0[1:])


@pytest.mark.parametrize("what", ["mask", "fit", "bvals", "bvecs", "volumes", "noise"])
def test_dwi_quality_numbers__other_shapes_are_refused(scan: dict[str, Any], what: str) -> None:
    arguments = [scan["noisy"], scan["fit"], scan["b"], scan["g"], scan["brain"]]
    noise = None
    if what == "mask":
        arguments[4] = scan["brain"][1:]
    elif what == "fit":
        arguments[1] = _other(scan["fit"])
    elif what == "bvals":
        arguments[2] = scan["b"][1:]
    elif what == "bvecs":
        arguments[3] = scan["g"].T
    elif what == "volumes":
        arguments[0] = scan["noisy"][..., 0]
    else:
        noise = np.ones((3, 3, 3))
    with pytest.raises(ImageError, match="expected"):
        dwi_quality_numbers(*arguments, voxel_ml=1.0, noise=noise)
