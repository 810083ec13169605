"""Extended phase graphs against isochromats, the Ernst equation and the b-value of a spin echo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from voxcloud.qmri import epg
from voxcloud.qmri.epg import GYROMAGNETIC_RATIO_RAD_PER_S_T, Spoiling, flash_epg
from voxcloud.qmri.protocol import Excitation, ProtocolError
from voxcloud.qmri.relaxation import ernst_signal

TR = 0.025
LOBE = (26e-3, 3.3876e-3)


def isochromats(angle: float, t1: float, pulses: int, spoiling: Spoiling, n: int = 512) -> np.ndarray:
    """Return |mean transverse magnetisation| after each pulse: n spins that a repetition turns by even steps."""
    turn = np.exp(2j * np.pi * np.arange(n) / n)
    m, z = np.zeros(n, complex), np.ones(n)
    e1, e2 = np.exp(-TR / t1), np.exp(-TR / spoiling.t2_s)
    signal = []
    for pulse in range(pulses):
        phase = np.exp(0.5j * spoiling.rf_increment_rad * pulse * (pulse + 1))
        x, y = (m * np.conj(phase)).real, (m * np.conj(phase)).imag
        y, z = np.cos(angle) * y - np.sin(angle) * z, np.sin(angle) * y + np.cos(angle) * z
        m = (x + 1j * y) * phase
        signal.append(abs(m.mean()))
        m, z = m * e2 * turn, 1 + (z - 1) * e1
    return np.array(signal)


@pytest.mark.parametrize("degrees, increment", [(6, 137), (21, 137), (21, 50), (40, 117)])
def test_flash_epg__equals_isochromats_without_diffusion(degrees: float, increment: float) -> None:
    spoiling = Spoiling(float(np.deg2rad(increment)), diffusion_m2_per_s=0.0)
    angle = float(np.deg2rad(degrees))
    pulses = np.arange(1, 101)
    found = flash_epg(np.full(100, angle), np.full(100, 0.9), pulses, TR, spoiling)
    np.testing.assert_allclose(found, isochromats(angle, 0.9, 100, spoiling), atol=1e-10)


def test_flash_epg__simulations_do_not_touch_each_other() -> None:
    angles, t1, pulses = np.array([0.1, 0.4, 0.2, 0.3]), np.array([0.8, 1.5, 2.0, 0.5]), np.array([50, 200, 120, 7])
    together = flash_epg(angles, t1, pulses, TR, Spoiling())
    alone = [float(flash_epg([a], [t], [n], TR, Spoiling())[0]) for a, t, n in zip(angles, t1, pulses, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("rephasing", ["exact", "as-dephasing"])
def test_flash_epg__tends_to_the_ernst_equation_as_diffusion_spoils_everything(rephasing: epg.Rephasing) -> None:
    spoiling = Spoiling(lobes=((0.5, 0.01),), diffusion_m2_per_s=3e-9, rephasing=rephasing)
    t1 = np.array([0.6, 1.0, 1.8])
    angle = float(np.deg2rad(21))
    found = flash_epg(np.full(3, angle), t1, np.full(3, 1500), TR, spoiling)
    np.testing.assert_allclose(found, ernst_signal(1 / t1, 1.0, Excitation("", angle, TR)), rtol=1e-9)


def test_flash_epg__imperfect_spoiling_is_visible() -> None:
    angle, n = float(np.deg2rad(21)), 800
    found = float(flash_epg([angle], [1.0], [n], TR, Spoiling())[0])
    ideal = float(ernst_signal(1.0, 1.0, Excitation("", angle, TR)))
    assert 1e-4 < abs(found / ideal - 1) < 0.05


def test_flash_epg__neglects_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    args = (np.deg2rad([6.0, 21, 27]), np.array([0.5, 1, 2]), np.array([100, 300, 400]), TR)
    usual = flash_epg(*args, Spoiling(diffusion_m2_per_s=0.0))
    monkeypatch.setattr(epg, "NEGLIGIBLE", 1e-60)
    np.testing.assert_allclose(usual, flash_epg(*args, Spoiling(diffusion_m2_per_s=0.0)), rtol=1e-12)


def test_flash_epg__where_the_spoiler_lies_does_not_matter_to_exact_diffusion() -> None:
    """Every echo has been dephased as long as it was rephased, wherever in the interval the lobe is."""
    idle = (0.0, TR - LOBE[1])
    late, early = ((idle, LOBE), (LOBE, idle))
    args = (np.deg2rad([6.0, 21]), np.array([1.0, 1.0]), np.array([300, 300]), TR)
    exact = [flash_epg(*args, Spoiling(lobes=lobes, rephasing="exact")) for lobes in (late, early)]
    rough = [flash_epg(*args, Spoiling(lobes=lobes)) for lobes in (late, early)]
    np.testing.assert_allclose(exact[0], exact[1], rtol=1e-12)
    assert np.abs(rough[0] / rough[1] - 1).max() > 1e-5


def test_attenuation__of_a_spin_echo_is_that_of_stejskal_and_tanner() -> None:
    spoiling = Spoiling(rephasing="exact")
    _, rising, falling = epg._attenuation(5, TR, spoiling)
    k, d = GYROMAGNETIC_RATIO_RAD_PER_S_T * LOBE[0] * LOBE[1], spoiling.diffusion_m2_per_s
    # F0 -> F1, inverted to F-1, -> F0: b = k^2 (Delta - delta / 3).
    assert rising[0] * falling[1] == pytest.approx(np.exp(-d * k * k * (TR - LOBE[1] / 3)), rel=1e-12)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rf_increment_rad": 137.0}, "RF increment .* found 137. It is in rad"),
        ({"t2_s": 70.0}, "T2 .* found 70. It is in s"),
        ({"diffusion_m2_per_s": 0.8}, "diffusion coefficient .* found 0.8. It is in m"),
        ({"lobes": ((26.0, 3.4e-3),)}, "gradient amplitude .* found 26. It is in T/m"),
        ({"lobes": ((26e-3, 3.4),)}, "gradient duration .* found 3.4. It is in s"),
        ({"rephasing": "other"}, "found 'other'"),
    ],
)
def test_spoiling__refuses_other_units(change: dict[str, object], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        replace(Spoiling(), **change)  # type: ignore[arg-type]


def test_flash_epg__refuses_a_spoiler_longer_than_the_repetition_time() -> None:
    with pytest.raises(ProtocolError, match="ends within the repetition time"):
        flash_epg([0.1], [1.0], [10], 0.003, Spoiling())
