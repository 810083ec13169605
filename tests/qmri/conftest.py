"""Reference numbers and simulated sessions for the tests of quantitative MRI."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.qmri.protocol import Contrast, Excitation
from voxcloud.qmri.relaxation import ernst_signal

Float64 = npt.NDArray[np.float64]
REFERENCE = Path(__file__).resolve().parent.parent / "reference" / "hmri"
TEXT = ("case", "method", "protocol")


@pytest.fixture(scope="session")
def table() -> Callable[[str], dict[str, npt.NDArray[np.generic]]]:
    """Return a function that reads a CSV of reference numbers by column."""

    def read(name: str) -> dict[str, npt.NDArray[np.generic]]:
        with (REFERENCE / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {k: np.array([r[k] if k in TEXT else float(r[k]) for r in rows]) for k in rows[0]}

    return read


@pytest.fixture(scope="session")
def arrays() -> Callable[[str], dict[str, npt.NDArray[np.generic]]]:
    """Return a function that reads an archive of reference arrays."""

    def read(name: str) -> dict[str, npt.NDArray[np.generic]]:
        with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as archive:
            return dict(archive)

    return read


@dataclass(frozen=True)
class Session:
    """A simulated session: three contrasts, its B1 and its truth."""

    pdw: Contrast
    t1w: Contrast
    mtw: Contrast
    b1: Float64
    truth: dict[str, Float64]


def excitation(name: str, degrees: float, milliseconds: float) -> Excitation:
    return Excitation(name, float(np.deg2rad(degrees)), milliseconds / 1000)


def simulate(
    shape: tuple[int, ...] = (6, 5, 4),
    *,
    noise: float = 0.0,
    seed: int = 3,
    dtype: type = np.float64,
    degrees: tuple[float, float, float] = (6, 21, 6),
    milliseconds: tuple[float, float, float] = (24.5, 24.5, 24.5),
    n_echoes: tuple[int, int, int] = (8, 8, 6),
    first_echo_ms: tuple[float, float, float] = (2.34, 2.34, 2.34),
) -> Session:
    """Simulate FLASH echoes (PDw, T1w, MTw) by the Ernst equation, with known R1, A, MTsat, R2* and B1."""
    rng = np.random.default_rng(seed)
    truth = {
        "R1map": rng.uniform(0.4, 1.6, shape),
        "A": rng.uniform(600, 1400, shape),
        "MTsat": rng.uniform(0.1, 2.2, shape),
        "R2starmap": rng.uniform(8, 45, shape),
    }
    b1 = rng.uniform(0.75, 1.25, shape)
    contrasts = []
    for name, angle, tr, n, first in zip(
        ("PDw", "T1w", "MTw"), degrees, milliseconds, n_echoes, first_echo_ms, strict=True
    ):
        saturation = truth["MTsat"] / 100 if name == "MTw" else 0.0
        at_zero = ernst_signal(truth["R1map"], truth["A"], excitation(name, angle, tr), b1, saturation)
        times = [(first + 2.3 * i) / 1000 for i in range(n)]
        echoes = [at_zero * np.exp(-t * truth["R2starmap"]) for t in times]
        noisy = [np.hypot(e + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape)) for e in echoes]
        contrasts.append(Contrast(name, [e.astype(dtype) for e in noisy], times, float(np.deg2rad(angle)), tr / 1000))
    return Session(*contrasts, b1, truth)


@pytest.fixture(scope="session")
def simulated() -> Callable[..., Session]:
    """Return ``simulate``."""
    return simulate


@pytest.fixture(scope="session")
def flash() -> Callable[[str, float, float], Excitation]:
    """Return a function that makes an excitation from degrees and milliseconds."""
    return excitation
