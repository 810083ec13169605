"""Smooth Gaussian noise and blurred spheres: the spatial building blocks of the simulated studies."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import erf

FWHM_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
TRUNCATE = 3.0
REACH = 1.25  # a blurred sphere ends, exactly zero, this many FWHM outside its radius

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """Return a random generator that depends on the seed and the names only.

    Every image draws from a generator of its own, so that a study of fewer maps or participants holds the same
    images as the full one.
    """
    words = [zlib.crc32(str(key).encode()) for key in keys]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


class SmoothNoise:
    """Stationary Gaussian fields with unit variance and a given smoothness.

    White noise is convolved with a Gaussian (standard deviation = FWHM / 2.355). The grid wraps round, so that the
    variance is one in every voxel, edges included. No matrix product is involved: the values do not depend on the
    number of threads.

    Parameters
    ----------
    shape
        Grid, (x, y, z).
    fwhm_voxels
        Full width at half maximum of the kernel per axis, in voxels.
    """

    def __init__(self, shape: Sequence[int], fwhm_voxels: Sequence[float]) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.sigmas = tuple(float(f) * FWHM_TO_SIGMA for f in fwhm_voxels)
        power = 1.0
        for n, sigma in zip(self.shape, self.sigmas, strict=True):
            impulse = np.zeros(n)
            impulse[0] = 1.0
            response = (
                ndimage.gaussian_filter1d(impulse, sigma, mode="wrap", truncate=TRUNCATE) if sigma > 0 else impulse
            )
            power *= float((response**2).sum())
        self._scale = np.float32(1.0 / np.sqrt(power))

    def sample(self, rng: np.random.Generator) -> Float32:
        """Draw one field of shape ``shape``."""
        field = rng.standard_normal(self.shape, dtype=np.float32)
        for axis, sigma in enumerate(self.sigmas):
            if sigma > 0:
                field = ndimage.gaussian_filter1d(field, sigma, axis=axis, mode="wrap", truncate=TRUNCATE)
        return np.asarray(field * self._scale, dtype=np.float32)


def grid_mm(shape: Sequence[int], affine: Float64) -> tuple[Float64, Float64, Float64]:
    """Return world coordinates (mm) along x, y and z, ready to broadcast; the affine must have no rotation."""
    x, y, z = (affine[a, a] * np.arange(shape[a]) + affine[a, 3] for a in range(3))
    return x[:, None, None], y[None, :, None], z[None, None, :]


def distance_mm(shape: Sequence[int], affine: Float64, centre_mm: Sequence[float]) -> Float64:
    """Return the distance (mm) of every voxel centre from a point."""
    x, y, z = grid_mm(shape, affine)
    distance = np.sqrt((x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2)
    return np.asarray(distance, dtype=np.float64)


def blurred_sphere(
    shape: Sequence[int], affine: Float64, centre_mm: Sequence[float], radius_mm: float, fwhm_mm: float
) -> Float32:
    """Return a sphere with a soft edge, as smoothing leaves it: 1 inside, 1/2 at the radius, exactly 0 beyond reach.

    The edge is the blurred plane 0.5 (1 - erf((d - radius) / (sqrt(2) sigma))), divided by its value at the centre.
    """
    sigma = fwhm_mm * FWHM_TO_SIGMA
    d = distance_mm(shape, affine, centre_mm)
    profile = 0.5 * (1.0 - erf((d - radius_mm) / (np.sqrt(2.0) * sigma)))
    profile /= 0.5 * (1.0 + erf(radius_mm / (np.sqrt(2.0) * sigma)))
    profile[d > radius_mm + REACH * fwhm_mm] = 0.0
    return np.asarray(profile, dtype=np.float32)
