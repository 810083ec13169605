"""What changes between visits are expected to look like, and the best prediction of them from differences of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from voxcloud.space import volume_change_kernels as kernels

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complexfloating[Any, Any]]

KNOT_MM = 5.0
# SD (mm) of the Gaussian covariance of the log-Jacobian: about the smallest region whose change can be told.
CHANGE_MM = 6.0
# Displacements that change no volume have this part of the variance per direction of those that do.
TURNING = 0.25
# Displacements further apart than this (mm) know nothing of each other.
REACH_MM = 40.0
# SD of the change of a tissue's intensity, as a share of the contrast between white matter and fluid, and its width.
INTENSITY_SD = 0.035
INTENSITY_MM = 8.0
# Of the mean information per knot, used by the preconditioner: less than 1, because most knots lie outside the brain.
PRECONDITION = 0.3


class ChangePrior:
    """Gaussian priors of displacement and of intensity, as square roots of spectra over a grid of knots.

    The displacement u has the spectrum

        S(k) = S_J(k) [ k k' / (k^2 + k0^2)^2 + t (1 - k k' / k^2) / (k^2 + k0^2) ],

    so that its divergence, which is the log-Jacobian of a small change, has about S_J, a Gaussian of width CHANGE_MM
    and SD ``change_sd``: volume changes are smooth and small, and one place grows without its surroundings shrinking.
    Three fields of intensity, one per tissue, have Gaussian covariances.

    Parameters
    ----------
    knots
        Number per axis, ``KNOT_MM`` apart; the spectra wrap round.
    change_sd
        SD of the log-Jacobian.
    """

    def __init__(self, knots: tuple[int, int, int], change_sd: float) -> None:
        self.knots = knots
        half = [2 * np.pi * fft.fftfreq(n, KNOT_MM) for n in knots[:2]]
        half.append(2 * np.pi * fft.rfftfreq(knots[2], KNOT_MM))
        k = np.stack(np.meshgrid(*half, indexing="ij"))
        square = (k**2).sum(axis=0)
        # A spline with these coefficients has the wanted spectrum at the knots.
        spline = np.prod([(2.0 + np.cos(KNOT_MM * axis)) / 3.0 for axis in k], axis=0)
        change = self._gaussian(square, CHANGE_MM) * change_sd**2
        damped = square + REACH_MM**-2.0
        self._growing: Float32 = (np.sqrt(change * square) / damped / spline).astype(np.float32)
        self._turning: Float32 = (np.sqrt(TURNING * change / damped) / spline).astype(np.float32)
        self._intensity: Float32 = (np.sqrt(self._gaussian(square, INTENSITY_MM)) * INTENSITY_SD / spline).astype(
            np.float32
        )
        self._direction: Float32 = (k / np.sqrt(np.maximum(square, 1e-12))).astype(np.float32)
        # Half a spectrum is stored: the other half counts too.
        self._twice = np.full(knots[2] // 2 + 1, 2.0)
        self._twice[0] = 1.0
        if knots[2] % 2 == 0:
            self._twice[-1] = 1.0

    @staticmethod
    def good_length(least: float) -> int:
        """Return a number of knots, at least so many, whose Fourier transform is fast."""
        return int(fft.next_fast_len(int(np.ceil(least)), real=True))

    def _gaussian(self, square: Float64, width_mm: float) -> Float64:
        spectrum = np.exp(-square * width_mm**2 / 2.0)
        return np.asarray(spectrum / fft.irfftn(spectrum, self.knots)[0, 0, 0])

    def root(self, z: Spectrum) -> Spectrum:
        """Return the square root of the covariance times z, (FIELDS, X, Y, Z/2 + 1)."""
        return self._apply(z, self._growing, self._turning, [self._intensity] * 3)

    def conditioned(self, z: Spectrum, information: Float64) -> Spectrum:
        """Return z divided by 1 + information times covariance, field by field; information (FIELDS,)."""
        displacement = float(information[:3].mean())
        growing, turning = (1.0 / (1.0 + np.float32(displacement) * s**2) for s in (self._growing, self._turning))
        intensity = [1.0 / (1.0 + np.float32(i) * self._intensity**2) for i in information[3:]]
        return self._apply(z, growing, turning, intensity)

    def _apply(self, z: Spectrum, growing: Float32, turning: Float32, intensity: list[Float32]) -> Spectrum:
        out = np.empty_like(z)
        along = (growing - turning) * (self._direction * z[:3]).sum(axis=0)
        for e in range(3):
            out[e] = turning * z[e] + self._direction[e] * along
            out[3 + e] = intensity[e] * z[3 + e]
        return out

    def inner(self, a: Spectrum, b: Spectrum) -> float:
        """Return the scalar product of two fields given by their spectra."""
        rows = (a.real * b.real + a.imag * b.imag).sum(axis=(0, 1, 2), dtype=np.float64)
        return float((rows * self._twice).sum()) / float(np.prod(self.knots))


class Fields:
    """Displacement and intensities of one visit, seen through the image at its voxels: y = A f + noise.

    Parameters
    ----------
    prior : of f.
    voxels, step, first, factors : see ``volume_change_kernels.apply_fields``; A is the factors times the splines.
    noise : SD of the noise.
    """

    def __init__(
        self,
        prior: ChangePrior,
        voxels: npt.NDArray[np.int32],
        step: float,
        first: float,
        factors: Float32,
        noise: float,
    ) -> None:
        self._prior, self._voxels, self._step, self._first, self._factors = prior, voxels, step, first, factors
        self._inverse = np.float32(noise**-2.0)
        self._information = PRECONDITION * step**3 * (factors.astype(np.float64) ** 2).mean(axis=0) / noise**2

    def _knots(self, z: Spectrum) -> Float32:
        spectra = self._prior.root(z)
        out = np.empty((*self._prior.knots, kernels.FIELDS), np.float32)
        for e, spectrum in enumerate(spectra):
            out[..., e] = fft.irfftn(spectrum, self._prior.knots, workers=1)
        return out

    def _apply(self, fields: Float32) -> Float32:
        out = np.empty(len(self._voxels), np.float32)
        kernels.apply_fields(fields, self._voxels, self._step, self._first, self._factors, out)
        return out

    def _adjoint(self, values: Float32) -> Spectrum:
        knots = np.zeros((*self._prior.knots, kernels.FIELDS), np.float32)
        kernels.gather_fields(values, self._voxels, self._step, self._first, self._factors, knots)
        spectra = [fft.rfftn(np.ascontiguousarray(knots[..., e]), workers=1) for e in range(kernels.FIELDS)]
        return self._prior.root(np.stack(spectra))

    def along(self, u: Float32) -> Float32:
        """Return what a displacement (X, Y, Z, 3) of knots adds to the image, (n,)."""
        fields = np.concatenate([u, np.zeros_like(u)], axis=-1)
        return self._apply(fields)

    def seen(self, z: Spectrum) -> Float32:
        """Return what a solution predicts, (n,)."""
        return self._apply(self._knots(z))

    def displacement(self, z: Spectrum) -> Float32:
        """Return the displacement of a solution, (X, Y, Z, 3) coefficients in mm."""
        return np.ascontiguousarray(self._knots(z)[..., :3])

    def solve(self, values: Float32, start: Spectrum | None, tolerance: float, most: int) -> tuple[Spectrum, int]:
        """Return the best linear prediction of the fields from values (n,), whitened, and the steps it took.

        Conjugate gradients on ``(1 + R A' A R / s^2) z = R A' y / s^2`` with R the root of the prior's covariance, from
        a start, until the residual is ``tolerance`` of that of zero.
        """
        prior = self._prior
        rest = self._adjoint(values.astype(np.float32)) * self._inverse
        nearer = prior.conditioned(rest, self._information)
        goal = tolerance**2 * prior.inner(rest, nearer)
        found = np.zeros_like(rest)
        if start is not None:
            found += start
            rest -= self._adjoint(self.seen(start)) * self._inverse + start
            nearer = prior.conditioned(rest, self._information)
        way, size = nearer.copy(), prior.inner(rest, nearer)
        for n in range(most):
            if size <= goal:
                return found, n
            ahead = self._adjoint(self.seen(way)) * self._inverse + way
            length = np.float32(size / prior.inner(way, ahead))
            found += length * way
            rest -= length * ahead
            nearer = prior.conditioned(rest, self._information)
            new = prior.inner(rest, nearer)
            way = nearer + np.float32(new / size) * way
            size = new
        return found, most
