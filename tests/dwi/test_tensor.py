"""The tensor fit in closed form, against dipy, and what must never change a result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from voxcloud.dwi.lanes import LANES
from voxcloud.dwi.tensor import TensorFit, fit_tensor
from voxcloud.dwi.tensor_design import GradientError
from voxcloud.dwi.tensor_kernel import eigen
from voxcloud.errors import ImageError

ELEMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
FIELDS = ("tensor", "s0", "eigenvalues", "direction", "fa", "md", "ad", "rd", "negatives")


def elements(tensor: np.ndarray) -> np.ndarray:
    """Return (6, voxels) of (voxels, 3, 3)."""
    return np.array([tensor[:, i, j] for i, j in ELEMENTS])


def rotations(n: int, seed: int = 0) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return q * np.linalg.det(q)[:, None, None]


def table(volumes: int = 30, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return b-values (0, 1000 and 2500 s/mm2) and unit b-vectors, zero where b is."""
    b = np.full(volumes, 1000.0)
    b[:3], b[volumes // 2 :] = 0.0, 2500.0
    g = np.random.default_rng(seed).normal(size=(3, volumes))
    g /= np.linalg.norm(g, axis=0)
    return b, np.where(b > 0, g, 0.0)


def signals_of(tensor: np.ndarray, s0: Any, b: np.ndarray, g: np.ndarray) -> np.ndarray:
    return s0 * np.exp(-b[:, None] * np.einsum("iv,nij,jv->vn", g, tensor, g))


def random_tensors(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tensors, their eigenvalues (largest first) and their axes in columns."""
    values = np.sort(np.random.default_rng(seed).uniform(0.1e-3, 2.5e-3, (n, 3)))[:, ::-1]
    axes = rotations(n, seed + 1)
    return np.einsum("nij,nj,nkj->nik", axes, values, axes), values, axes


def noisy_signals(n: int, sigma: float = 30.0, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    b, g = table()
    pure = signals_of(random_tensors(n, seed)[0], 1000.0, b, g)
    rng = np.random.default_rng(seed)
    return np.hypot(pure + sigma * rng.standard_normal(pure.shape), sigma * rng.standard_normal(pure.shape)), b, g


def assert_same_bits(one: TensorFit, other: TensorFit, where: Any = slice(None)) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name)[..., where], getattr(other, name)[..., where], err_msg=name)


def test_fit_tensor__recovers_tensors_without_noise() -> None:
    b, g = table()
    tensor, values, axes = random_tensors(500)
    s0 = np.random.default_rng(1).uniform(10, 5000, 500)
    found = fit_tensor(signals_of(tensor, s0, b, g), b, g)
    np.testing.assert_allclose(found.tensor, elements(tensor), atol=1e-14)
    np.testing.assert_allclose(found.s0, s0, rtol=1e-11)
    np.testing.assert_allclose(found.eigenvalues, values.T, atol=1e-14)
    np.testing.assert_allclose(found.md, values.mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.ad, values[:, 0], rtol=1e-10)
    np.testing.assert_allclose(found.rd, values[:, 1:].mean(axis=1), rtol=1e-10)
    apart = values - values.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.fa, np.sqrt(1.5 * (apart**2).sum(axis=1) / (values**2).sum(axis=1)), rtol=1e-9)
    clear = values[:, 0] - values[:, 1] > 1e-4
    np.testing.assert_allclose(np.abs((found.direction * axes[:, :, 0].T).sum(axis=0))[clear], 1.0, atol=1e-12)
    assert found.negative_voxels == 0


@pytest.mark.parametrize(
    "values, fa", [((1.0, 1.0, 1.0), 0.0), ((1.0, 0.0, 0.0), 1.0), ((1.0, 1.0, 0.0), np.sqrt(0.5))]
)
def test_fit_tensor__anisotropy_of_spheres_sticks_and_discs(values: tuple[float, float, float], fa: float) -> None:
    b, g = table()
    axes = rotations(64)
    tensor = np.einsum("nij,j,nkj->nik", axes, 1e-3 * np.array(values), axes)
    found = fit_tensor(signals_of(tensor, 100.0, b, g), b, g)
    np.testing.assert_allclose(found.fa, fa, atol=1e-10)
    assert found.fa.max() <= 1.0
    assert found.eigenvalues.min() >= 0.0


def test_fit_tensor__turning_the_person_turns_the_direction_and_nothing_else() -> None:
    """The same signals, with b-vectors turned: scalars stay, the direction turns along."""
    signals, b, g = noisy_signals(200)
    turn = rotations(1, 8)[0]
    one, other = fit_tensor(signals, b, g), fit_tensor(signals, b, turn @ g)
    for name in ("fa", "md", "ad", "rd", "s0", "eigenvalues"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-8, atol=1e-12, err_msg=name)
    clear = one.eigenvalues[0] - one.eigenvalues[1] > 1e-4
    cosine = np.abs(((turn @ one.direction) * other.direction).sum(axis=0))
    np.testing.assert_allclose(cosine[clear], 1.0, atol=1e-9)


def test_fit_tensor__is_weighted_least_squares_of_dense_algebra() -> None:
    signals, b, g = noisy_signals(40)
    found = fit_tensor(signals, b, g)
    x = np.column_stack([np.ones(len(b)), *(-b * g[i] * g[j] * (1 if i == j else 2) for i, j in ELEMENTS)])
    for voxel in range(signals.shape[1]):
        y = np.log(signals[:, voxel])
        root = np.exp(x @ np.linalg.lstsq(x, y, rcond=None)[0])[:, None]
        expected = np.linalg.lstsq(root * x, root[:, 0] * y, rcond=None)[0]
        np.testing.assert_allclose(found.tensor[:, voxel], expected[1:], atol=1e-12)
        np.testing.assert_allclose(found.s0[voxel], np.exp(expected[0]), rtol=1e-9)


def test_fit_tensor__agrees_with_dipy() -> None:
    signals, b, g = noisy_signals(1000, sigma=60.0)
    signals[10:, 0], signals[4, 1] = 0.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dipy's own, at import
        dti = pytest.importorskip("dipy.reconst.dti", reason="needs dipy (pip install voxcloud[dwi])")
        gradients = pytest.importorskip("dipy.core.gradients").gradient_table(b, bvecs=g.T)
        theirs = dti.TensorModel(gradients, fit_method="WLS", min_signal=1e-4).fit(signals.T)
    found = fit_tensor(signals, b, g)
    # dipy raises eigenvalues to a small positive number, and makes its tensor of them.
    plain = found.negatives == 0
    assert 0 < found.negative_voxels < 100
    expected = elements(theirs.quadratic_form)
    largest = np.abs(expected).max(axis=0)
    assert (np.abs(found.tensor - expected) / largest)[:, plain].max() < 1e-9
    np.testing.assert_allclose(found.fa, theirs.fa, atol=1e-3)
    np.testing.assert_allclose(found.fa[plain], theirs.fa[plain], atol=1e-9)
    np.testing.assert_allclose(found.md[plain], theirs.md[plain], rtol=1e-9)
    np.testing.assert_allclose(found.ad[plain], theirs.ad[plain], rtol=1e-9)
    np.testing.assert_allclose(found.rd[plain], theirs.rd[plain], rtol=1e-8)


def test_fit_tensor__counts_negative_eigenvalues_and_raises_them() -> None:
    b, g = table()
    tensor = np.array([np.diag([1.0e-3, 0.5e-3, -0.1e-3]), np.diag([-1e-4, -2e-4, -3e-4]), np.diag([3e-3, 1e-4, 1e-4])])
    found = fit_tensor(signals_of(tensor, 100.0, b, g), b, g)
    np.testing.assert_array_equal(found.negatives, [1, 3, 0])
    assert found.negative_voxels == 2
    np.testing.assert_allclose(found.tensor, elements(tensor), atol=1e-14)
    np.testing.assert_allclose(found.eigenvalues[:, 0], [1.0e-3, 0.5e-3, 0.0], atol=1e-14)
    np.testing.assert_allclose(found.md, [0.5e-3, 0.0, 3.2e-3 / 3], atol=1e-14)
    assert found.fa[1] == 0.0
    assert ((found.fa >= 0) & (found.fa <= 1)).all()


def test_fit_tensor__weights_beat_no_weights() -> None:
    b, g = table(60)
    tensor, values, _ = random_tensors(2000, 9)
    pure, rng = signals_of(tensor, 1000.0, b, g), np.random.default_rng(4)
    noisy = pure + 20 * rng.standard_normal(pure.shape)
    found = fit_tensor(noisy, b, g)
    x = np.column_stack([np.ones(len(b)), *(-b * g[i] * g[j] * (1 if i == j else 2) for i, j in ELEMENTS)])
    plain = np.linalg.pinv(x) @ np.log(np.maximum(noisy, 1e-4))
    md = values.mean(axis=1)
    error = np.sqrt(np.mean((found.md - md) ** 2))
    assert error < 0.5 * np.sqrt(np.mean((plain[1:4].mean(axis=0) - md) ** 2))


@pytest.mark.parametrize("block_voxels", [1, 7, 64, 100, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_tensor__blocks_change_no_bit(block_voxels: int, dtype: type) -> None:
    signals, b, g = noisy_signals(333)
    signals = signals.astype(dtype)
    whole = fit_tensor(signals, b, g)
    assert whole.fa.dtype == dtype
    assert_same_bits(fit_tensor(signals, b, g, block_voxels=block_voxels), whole)
    part = fit_tensor(signals[:, 41:200], b, g)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[..., 41:200], err_msg=name)


@pytest.mark.parametrize("order", ["C", "F"])
def test_fit_tensor__images_give_the_same_bits_as_rows(order: Any) -> None:
    signals, b, g = noisy_signals(4 * 5 * 6)
    images = np.array(signals.T.reshape(4, 5, 6, -1), order=order)
    found, rows = fit_tensor(images, b, g), fit_tensor(signals, b, g)
    assert found.fa.shape == (4, 5, 6)
    assert found.tensor.shape == (6, 4, 5, 6)
    for name in FIELDS:
        value = getattr(found, name)
        np.testing.assert_array_equal(value.reshape(*value.shape[:-3], -1), getattr(rows, name), err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fit_tensor__nan_stays_in_its_voxel(bad: float) -> None:
    signals, b, g = noisy_signals(100)
    whole = fit_tensor(signals, b, g)
    signals[5, 17] = bad
    found = fit_tensor(signals, b, g)
    for name in FIELDS[:-1]:
        assert np.isnan(getattr(found, name)[..., 17]).all(), name
    assert found.negatives[17] == 0
    assert_same_bits(found, whole, np.arange(100) != 17)


def test_fit_tensor__empty_signals_have_no_diffusion() -> None:
    b, g = table()
    found = fit_tensor(np.zeros((len(b), 3)), b, g)
    assert not found.fa.any()
    np.testing.assert_allclose(found.md, 0.0, atol=1e-15)
    np.testing.assert_allclose(found.s0, 1e-4, rtol=1e-12)


def refused(change: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]], message: str) -> None:
    b, g = change(*table())
    with pytest.raises(GradientError, match=message):
        fit_tensor(np.ones((30, 2)), b, g)


def test_fit_tensor__refuses_b0_alone() -> None:
    refused(lambda b, g: (0 * b, 0 * g), "30 with b = 0")


def test_fit_tensor__refuses_five_directions() -> None:
    """Five directions, measured again and again and backwards."""
    refused(lambda b, g: (b, np.where(b > 0, g[:, 3 + np.arange(30) % 5] * (-1) ** np.arange(30), 0.0)), "found 5")


def test_fit_tensor__refuses_one_shell_without_b0() -> None:
    refused(lambda b, g: (np.full(30, 1000.0), np.roll(table(33)[1], -3, axis=1)[:, :30]), "Add a volume with b = 0")


def test_fit_tensor__refuses_directions_in_a_plane() -> None:
    angle = np.arange(30)
    flat = np.stack([np.cos(angle), np.sin(angle), 0 * angle])
    refused(lambda b, g: (b, flat), "independent columns")


def test_fit_tensor__refuses_a_table_of_another_length() -> None:
    refused(lambda b, g: (b[1:], g[:, 1:]), "30 b-values")
    refused(lambda b, g: (b, g.T), "transposed")


@pytest.mark.parametrize("factor, hint", [(1e-3, "multiply them by 1000"), (1e6, "s/m2")])
def test_fit_tensor__refuses_b_values_in_other_units(factor: float, hint: str) -> None:
    refused(lambda b, g: (factor * b, g), hint)


def test_fit_tensor__refuses_vectors_of_another_length() -> None:
    refused(lambda b, g: (b, g * np.where(np.arange(30) == 7, 0.7, 1.0)), "0.7 at volume 7")
    refused(lambda b, g: (b, g * np.where(np.arange(30) == 7, np.nan, 1.0)), "finite")


@pytest.mark.parametrize("shape", [(30,), (30, 2, 2)])
def test_fit_tensor__refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="volumes, voxels"):
        fit_tensor(np.ones(shape), *table())


def test_fit_tensor__refuses_settings_that_cannot_be() -> None:
    with pytest.raises(ImageError, match="smallest_signal"):
        fit_tensor(np.ones((30, 2)), *table(), smallest_signal=0.0)


def test_fit_tensor__a_measured_brain_has_plausible_diffusion(shared_data: Callable[[str], Path]) -> None:
    image = nibabel.load(shared_data("dwi/small_64D.nii"))
    b, g = (np.loadtxt(shared_data(f"dwi/small_64D.{name}")) for name in ("bval", "bvec"))
    g = np.nan_to_num(g if g.shape[0] == 3 else g.T)
    found = fit_tensor(np.asarray(image.dataobj, np.float32), b, g)
    assert 0.6e-3 < np.median(found.md) < 1.1e-3
    assert 0.15 < np.median(found.fa) < 0.7
    assert found.negative_voxels < 0.05 * found.fa.size


def spectra(kind: str) -> np.ndarray:
    """Return (LANES, 3, 3) symmetric matrices."""
    rng = np.random.default_rng(11)
    turned = rotations(LANES, 12)
    values = {
        "spread": rng.uniform(-1, 1, (LANES, 3)),
        "nearly equal": 1.0 + 1e-9 * rng.uniform(-1, 1, (LANES, 3)),
        "two nearly equal": np.array([2.0, 1.0, 1.0]) + 1e-12 * rng.uniform(-1, 1, (LANES, 3)),
        "two equal": np.tile([3.0, 3.0, 0.5], (LANES, 1)),
        "far apart": np.tile([1.0, 1e-7, 1e-13], (LANES, 1)),
        "zero": np.zeros((LANES, 3)),
    }.get(kind)
    if values is None:
        return np.array([np.diag(rng.permutation([3.0, 1.0, 2.0])) for _ in range(LANES)])
    return np.einsum("nij,nj,nkj->nik", turned, values, turned)


@pytest.mark.parametrize(
    "kind", ["spread", "nearly equal", "two nearly equal", "two equal", "far apart", "zero", "diagonal"]
)
def test_eigen__agrees_with_lapack(kind: str) -> None:
    matrices = spectra(kind)
    work = np.zeros((15, LANES))
    work[:6] = elements(matrices)
    eigen(work)
    expected = np.linalg.eigvalsh(matrices)[:, ::-1].T
    scale = max(np.abs(expected).max(), 1e-300)
    np.testing.assert_allclose(work[:3], expected, atol=4e-15 * scale)
    vectors = work[6:].reshape(3, 3, LANES)
    np.testing.assert_allclose(
        np.einsum("ain,bin->nab", vectors, vectors), np.tile(np.eye(3), (LANES, 1, 1)), atol=1e-14
    )
    back = np.einsum("an,ain,ajn->nij", work[:3], vectors, vectors)
    np.testing.assert_allclose(back, matrices, atol=1e-14 * scale)
