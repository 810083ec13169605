"""Simulated diffusion images with known tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scan:
    """Images without and with noise, and what they were made of."""

    truth: Float64
    noisy: npt.NDArray[np.float32]
    tensor: Float64
    bvals: Float64
    bvecs: Float64


def directions(n: int, seed: int = 5) -> Float64:
    """Return (3, n) random unit vectors."""
    drawn = np.random.default_rng(seed).normal(size=(3, n))
    return drawn / np.linalg.norm(drawn, axis=0)


def gradient_table(volumes: int, seed: int = 5) -> tuple[Float64, Float64]:
    """Return b-values (a tenth 0, the others 1000 and 2500 s/mm2) and b-vectors."""
    b = np.full(volumes, 1000.0)
    b[: max(1, volumes // 10)] = 0.0
    b[volumes // 2 :] = 2500.0
    g = directions(volumes, seed)
    g[:, b == 0] = 0.0
    return b, g


def attenuate(tensor: Float64, b: Float64, g: Float64) -> Float64:
    """Return exp(-b g' D g) as (volumes, voxels) for tensors (voxels, 3, 3) in mm2/s."""
    return np.exp(-b[:, None] * np.einsum("iv,nij,jv->vn", g, tensor, g))


def simulate(
    shape: tuple[int, int, int] = (9, 10, 8), volumes: int = 30, *, sigma: float = 20.0, seed: int = 1
) -> Scan:
    """Simulate smoothly varying tensors, one in each voxel, with Rician noise."""
    b, g = gradient_table(volumes)
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    theta, phi = (2 * x).ravel(), (3 * y + z).ravel()
    axis = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1)
    tensor = 0.4e-3 * np.eye(3) + (1.0e-3 + 0.3e-3 * z.ravel())[:, None, None] * axis[:, :, None] * axis[:, None, :]
    level = 800 + 200 * np.sin(6 * z.ravel())
    truth = (level * attenuate(tensor, b, g)).T.reshape(*shape, volumes)
    rng = np.random.default_rng(seed)
    noisy = np.hypot(truth + sigma * rng.standard_normal(truth.shape), sigma * rng.standard_normal(truth.shape))
    return Scan(truth, noisy.astype(np.float32), tensor, b, g)


@pytest.fixture(scope="session")
def simulated() -> Callable[..., Scan]:
    """Return ``simulate``."""
    return simulate
