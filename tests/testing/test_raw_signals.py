"""Signals against closed forms and against magnetisation that is turned, relaxed and dephased step by step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.qmri.protocol import Excitation
from voxcloud.qmri.relaxation import ernst_signal
from voxcloud.testing.raw_signals import (
    afi_signals,
    flash_signal,
    mt_saturation,
    rician,
    seste_signals,
)

R1 = np.array([0.25, 0.61, 1.04, 2.6])
PD = np.array([100.0, 82.0, 69.0, 70.0])
CYCLES = 3000  # of 15 ms and more: over ten times the longest T1


@pytest.mark.parametrize(("degrees", "saturation"), [(6.0, 0.0), (21.0, 0.0), (6.0, 0.017), (60.0, 0.3)])
def test_flash_signal__is_where_magnetisation_settles(degrees: float, saturation: float) -> None:
    angle, tr = np.deg2rad(degrees), 0.0245
    z = PD.copy()
    for _ in range(CYCLES):
        excited = z * (1 - saturation)
        signal = excited * np.sin(angle)
        z = PD + (excited * np.cos(angle) - PD) * np.exp(-R1 * tr)
    np.testing.assert_allclose(flash_signal(R1, PD, angle, tr, saturation), signal, rtol=1e-9)


def test_flash_signal__is_largest_at_the_ernst_angle() -> None:
    angles = np.linspace(0.01, 0.6, 2000)
    best = angles[np.argmax(flash_signal(np.array([1.04]), np.array([69.0]), angles, 0.0245))]
    assert best == pytest.approx(np.arccos(np.exp(-1.04 * 0.0245)), abs=3e-4)


def test_flash_signal__agrees_with_the_equation_that_maps_are_tested_with() -> None:
    b1 = np.array([0.7, 0.9, 1.1, 1.3])
    mine = flash_signal(R1, PD, b1 * np.deg2rad(21.0), 0.0245, 0.01)
    np.testing.assert_allclose(mine, ernst_signal(R1, PD, Excitation("T1w", float(np.deg2rad(21.0)), 0.0245), b1, 0.01))


def test_afi_signals__are_where_magnetisation_settles() -> None:
    angle, times = np.deg2rad(np.array([45.0, 60.0, 66.0, 75.0])), (0.05, 0.15)
    z = PD.copy()
    for _ in range(CYCLES):
        seen = []
        for tr in times:
            seen.append(z * np.sin(angle))
            z = PD + (z * np.cos(angle) - PD) * np.exp(-R1 * tr)
    # The first image is read at the start of TR1, the second at the start of TR2.
    for mine, settled in zip(afi_signals(R1, PD, angle, times), seen, strict=True):
        np.testing.assert_allclose(mine, settled, rtol=1e-9)


@pytest.mark.parametrize("degrees", [35.0, 65.0, 90.0, 115.0])
def test_seste_signals__are_the_echoes_of_dephased_spins(degrees: float) -> None:
    angle, mixing_s, r1 = np.deg2rad(degrees), 0.0338, 1.04
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    spins = np.zeros((3, turns.size))
    spins[2] = 1.0
    spins = _dephased(_tipped(spins, angle), turns)
    spins = _tipped(spins, 2 * angle)
    spin_echo = np.abs(np.mean(_transverse(_dephased(spins, turns))))
    spins[:2] = 0.0  # a crusher during the mixing time
    spins[2] = 1.0 + (spins[2] - 1.0) * np.exp(-r1 * mixing_s)
    spins = _tipped(spins, angle)
    stimulated = np.abs(np.mean(_transverse(_dephased(spins, turns))))
    mine = seste_signals(np.array([r1]), np.array([1.0]), np.array([angle]), mixing_s)
    np.testing.assert_allclose([mine[0][0], mine[1][0]], [spin_echo, stimulated], atol=1e-9)


def _tipped(spins: npt.NDArray[np.float64], angle: float) -> npt.NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ spins


def _dephased(spins: npt.NDArray[np.float64], turns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    turned = _transverse(spins) * np.exp(1j * turns)
    return np.stack([turned.real, turned.imag, spins[2]])


def _transverse(spins: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    return np.asarray(spins[0] + 1j * spins[1])


def test_mt_saturation__is_the_truth_at_nominal_power_and_its_square_law_for_weak_pulses() -> None:
    mtsat, b1 = np.full(5, 1.7), np.array([0.7, 0.85, 1.0, 1.15, 1.3])
    assert mt_saturation(mtsat, b1)[2] == pytest.approx(0.017, rel=1e-12)
    np.testing.assert_allclose(mt_saturation(mtsat, b1, 0.0), 0.017 * b1**2)
    np.testing.assert_allclose(mt_saturation(mtsat, b1, 1e-6), 0.017 * b1**2, rtol=1e-5)
    assert (mt_saturation(mtsat, b1)[3:] < 0.017 * b1[3:] ** 2).all()


def test_mt_saturation__is_what_the_correction_assumes_within_one_percent() -> None:
    b1 = np.linspace(0.7, 1.3, 25)
    left_over = mt_saturation(np.ones(25), b1) / (0.01 * b1**2)
    corrected = left_over * (1 - 0.4) / (1 - 0.4 * b1)
    np.testing.assert_allclose(corrected, 1.0, atol=0.01)
    slope = (mt_saturation(np.ones(1), np.array([1.0 + 1e-6])) / (1 + 1e-6) ** 2 - 0.01) / 0.01 / 1e-6
    assert slope[0] == pytest.approx(-0.4 / 0.6, abs=0.002)


def test_rician__has_the_moments_of_rice() -> None:
    rng = np.random.default_rng(1)
    n, sd = 400_000, 3.0
    air = rician(np.zeros(n, np.float32), sd, rng)
    assert air.mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.005)
    for signal in (2.0, 10.0, 100.0):
        noisy = rician(np.full(n, signal, np.float32), sd, rng).astype(np.float64)
        assert (noisy**2).mean() == pytest.approx(signal**2 + 2 * sd**2, rel=0.006)
    assert noisy.std() == pytest.approx(sd, rel=0.01)
    assert noisy.mean() == pytest.approx(np.sqrt(100.0**2 + sd**2), rel=2e-4)


def test_rician__without_noise_is_the_magnitude() -> None:
    signal = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    np.testing.assert_array_equal(rician(signal, 0.0, np.random.default_rng(0)), [2.0, 0.0, 3.0])
