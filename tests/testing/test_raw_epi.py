"""What EPI does to the simulated head: k-space cut, eddy fields, dropped slices."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.testing.raw_diffusion import diffusion_head
from voxcloud.testing.raw_epi import (
    EDDY_SD,
    EDDY_TERMS,
    EpiScanner,
    cut_k_space,
    drop_slices,
    eddy_coefficients,
    eddy_field_hz,
    eddy_matrix,
    finer_grid,
)
from voxcloud.testing.raw_fibres import fibre_field
from voxcloud.testing.raw_fields import coil_fields
from voxcloud.testing.raw_geometry import Movement, grid
from voxcloud.testing.raw_head import person_head, phantom_head


def test_finer_grid__has_every_voxel_of_the_coarse_one() -> None:
    coarse = grid((64.0, 80.0, 48.0), 8.0, Movement((5.0, 2.0, 1.0), (1.0, 2.0, 3.0)))
    fine = finer_grid(coarse, 2)
    assert fine.shape == (16, 20, 6)
    np.testing.assert_allclose(fine.affine @ [6.0, 10.0, 4.0, 1.0], coarse.affine @ [3.0, 5.0, 4.0, 1.0], atol=1e-12)


def test_cut_k_space__is_the_sum_of_the_frequencies_that_were_read() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(1.0, 2.0, (24, 32, 2)).astype(np.float32)
    fine_x, fine_y = np.arange(24) / 24, np.arange(32) / 32
    expected = np.zeros((12, 16, 2), dtype=complex)
    for p in range(-6, 6):
        for q in range(-8, 8):
            wave = np.exp(-2j * np.pi * (p * fine_x[:, None] + q * fine_y[None, :]))
            amount = np.einsum("xy,xyz->z", wave, image) / (24 * 32)
            back = np.exp(2j * np.pi * (p * np.arange(12)[:, None] / 12 + q * np.arange(16)[None, :] / 16))
            expected += back[..., None] * amount
    found = cut_k_space(image, 1.0)
    np.testing.assert_allclose(found, np.abs(expected), rtol=1e-5)
    np.testing.assert_allclose(found.mean(), image.mean(), rtol=0.02)


def test_cut_k_space__edges_ring_and_smooth_images_do_not() -> None:
    x = np.arange(128)
    edge = np.where((x >= 32) & (x < 96), 1.0, 0.0)
    smooth = 1.0 + 0.5 * np.cos(2 * np.pi * x / 128 * 3)
    ringing, faithful = (
        cut_k_space(np.broadcast_to(line[:, None, None], (128, 8, 1)).astype(np.float32), 1.0)[:, 0, 0]
        for line in (edge, smooth)
    )
    # A cut overshoots by 9 % of the jump, beside it, and the ringing dies away.
    assert 1.05 < ringing.max() < 1.12
    assert 0.001 < np.abs(ringing[28:36] - 1.0).max() < 0.02
    np.testing.assert_allclose(faithful, smooth[::2], atol=1e-5)


def test_cut_k_space__partial_fourier_blurs_along_phase_encoding_only() -> None:
    line = np.where((np.arange(64) >= 16) & (np.arange(64) < 48), 1.0, 0.0)
    along_x = np.broadcast_to(line[:, None, None], (64, 64, 1)).astype(np.float32)
    along_y = np.ascontiguousarray(along_x.transpose(1, 0, 2))
    np.testing.assert_allclose(cut_k_space(along_x, 0.75), cut_k_space(along_x, 1.0), atol=1e-6)
    slope = [np.abs(np.diff(cut_k_space(along_y, part)[10, :, 0])).max() for part in (1.0, 0.75)]
    assert slope[1] < 0.9 * slope[0]
    # Of 32 lines the first 8, frequencies -16 to -9, are not there: a wave of 5 is still whole.
    wave = 2.0 + np.cos(2 * np.pi * np.arange(64) / 64 * 5)
    smooth = np.broadcast_to(wave[None, :, None], (64, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(cut_k_space(smooth, 0.75), smooth[::2, ::2], atol=1e-5)


def test_eddy_field__is_the_polynomial_that_its_terms_name() -> None:
    points = np.random.default_rng(1).uniform(-80, 80, (50, 3))
    values = np.random.default_rng(2).standard_normal(10) * EDDY_SD
    columns = []
    for term in EDDY_TERMS:
        column = np.ones(50)
        for factor in term.split():
            name, _, power = factor.partition("^")
            column = column if name == "1" else column * points[:, "xyz".index(name)] ** int(power or 1)
        columns.append(column)
    np.testing.assert_allclose(eddy_field_hz(values, points), np.stack(columns, axis=1) @ values, rtol=1e-12)


def test_eddy_coefficients__follow_the_gradient() -> None:
    matrix = eddy_matrix(0, "01", "1")
    g = np.array([0.6, 0.0, 0.8])
    rng = np.random.default_rng(0)
    drawn = np.stack([eddy_coefficients(matrix, 4000.0, g, rng) for _ in range(2000)])
    expected = 2.0 * (0.6 * matrix[0] + 0.8 * matrix[2])
    scatter = 2.0 * 0.03 * np.array(EDDY_SD)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - expected), 5 * scatter / np.sqrt(2000))
    np.testing.assert_allclose(drawn.std(axis=0), scatter, rtol=0.08)
    assert not eddy_coefficients(matrix, 0.0, np.zeros(3), rng).any()
    assert not np.array_equal(matrix, eddy_matrix(0, "01", "2"))


def test_drop_slices__weakens_all_slices_of_an_excitation() -> None:
    image = np.ones((4, 4, 24), dtype=np.float32)
    dropped = dict(drop_slices(image, 0.3, 2, np.random.default_rng(4)))
    assert 2 <= len(dropped) < 24
    for at in range(24):
        np.testing.assert_allclose(image[:, :, at], dropped.get(at, 1.0), rtol=1e-6)
        assert dropped.get(at) == dropped.get((at + 12) % 24)
    assert all(0.1 <= part <= 0.5 for part in dropped.values())


@pytest.mark.parametrize("probability", [0.0, 0.02, 1.0])
def test_drop_slices__keeps_to_the_probability(probability: float) -> None:
    rng = np.random.default_rng(5)
    lost = sum(len(drop_slices(np.ones((1, 1, 40), np.float32), probability, 1, rng)) for _ in range(500))
    sd = np.sqrt(20000 * probability * (1 - probability))
    assert abs(lost - 20000 * probability) <= 4 * sd


@pytest.mark.parametrize("gibbs", [True, False])
def test_epi_scanner__volumes_do_not_depend_on_those_before(gibbs: bool) -> None:
    tissues = phantom_head(8.0)
    person = diffusion_head(
        person_head(tissues, 0, "01"), fibre_field(tissues, 8.0), 0, "01", 0, echo_time_s=0.08, repetition_time_s=6.0
    )
    where = grid((220.0, 220.0, 160.0), 8.0, Movement((4.0, 0.0, 1.0)))
    first, second = np.eye(4), Movement((5.0, -3.0, 8.0), (6.0, -4.0, 9.0)).matrix()
    eddy = np.array([5.0, 0.1, -0.1, 0.05, *[5e-4] * 6])

    def scanner() -> EpiScanner:
        return EpiScanner(person, coil_fields(0, "01", "1"), where, 0.0124, 1.0, gibbs, 1.0)

    used = scanner()
    used.volume(first, 0.0, np.zeros(3), np.zeros(10), -1)
    g = np.array([0.0, 0.6, 0.8])
    again = used.volume(second, 1000.0, g, eddy, -1)
    fresh = scanner().volume(second, 1000.0, g, eddy, -1)
    np.testing.assert_allclose(again, fresh, atol=1e-6 * fresh.max())
