"""The mixture behind ``segmentation``: its parameters, and how a pass over the voxels makes the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import MaskError
from voxcloud.space import segmentation_kernels as kernels

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

KINDS = ("GM", "WM", "CSF", "GM/WM", "GM/CSF", "WM/CSF", "other")
# Registration leaves a few mm: priors are blurred with this SD, and every tissue has this share of them anywhere.
PRIOR_BLUR_MM = 1.0
PRIOR_FLOOR = 0.01
# What six neighbours of one tissue add to the logarithm of its prior.
NEIGHBOURS = 2.0
# Grid on which local means and receive field live. Means follow regional differences of grey and white matter (motor
# cortex, thalamus, what the study looks for) as far as they are wider than this; the receive field is smoother.
BLOCK_MM = 6.0
LOCAL_FWHM_MM = 12.0
GAIN_FWHM_MM = 40.0
# Of a block's voxels, how many say that a local mean is the global one.
TO_GLOBAL = 0.05
TO_FLAT = 0.02
LOCAL_MOST = 0.25  # of white matter's mean
GAIN_MOST = 0.2  # per pass
# Passes before local means are let loose, and passes in which a receive field is fitted instead.
FIRST_LOCAL, GAIN_PASSES = 3, 60
# Fluid is one substance: its variance is at most so many times that of grey or white matter. Else it swallows meninges.
FLUID_VARIANCE = 2.0
LEAST_VARIANCE = 1e-6
BINS = 128
BIN_BLUR = 2.0
# Of the histogram of what is no brain, so that no value is impossible.
UNIFORM = 0.02
# For the first means: voxels with at least this prior, or the likeliest 3 %.
SURE = (0.7, 0.9, 0.8)
LIKELIEST = 0.97
FEWEST_SURE = 50
FWHM_TO_SD = 1.0 / np.sqrt(8.0 * np.log(2.0))


class Mixture:
    """The state of expectation maximisation.

    Parameters
    ----------
    values : (x, y, z) float64, finite where ``known``.
    known : (x, y, z) where there is a value.
    priors : (x, y, z, 3) GM, WM, CSF.
    inside : (x, y, z) voxels that may be brain.
    sizes : (3,) mm.
    receive : fit a receive field.
    neighbours : see ``NEIGHBOURS``.
    name : what messages call the image.

    Attributes
    ----------
    centre, variance : (3,) of GM, WM, CSF, in units of ``unit``.
    weights : (7,) of the kinds, relative to white matter.
    """

    def __init__(
        self,
        values: Float64,
        known: Bool,
        priors: Float32,
        inside: Bool,
        sizes: Float64,
        *,
        receive: bool,
        neighbours: float = NEIGHBOURS,
        name: str = "image",
    ) -> None:
        self.shape, self.receive = values.shape, receive
        self._places = np.argwhere(inside)
        low = self._places.min(axis=0)
        near = self._places - low + 1
        size = near.max(axis=0)
        padded = tuple(int(n) + 2 for n in size)
        self._at = np.ravel_multi_index(tuple(near.T), padded).astype(np.int64)
        self._reach = np.array([padded[1] * padded[2], padded[2], 1], np.int64)
        self._known = known[inside]
        expected = _expected(priors, inside, sizes)
        self._log_priors = np.log((1.0 - 4.0 * PRIOR_FLOOR) * expected + PRIOR_FLOOR).astype(np.float32)
        self._q = np.zeros((kernels.TISSUES, int(np.prod(padded))), np.float32)
        self._q[:, self._at] = expected[:, :3].T
        self._new = np.zeros_like(self._q)
        self._place_blocks(near - 1, size, sizes)
        seen = values[inside]
        if receive:
            self._gain = self._first_gain(seen, expected[:, 1])
            seen = seen / self._gain
        self._start(seen, expected, name)
        strength = neighbours / sizes / (2.0 * (1.0 / sizes).sum())
        self._steps = np.array([*strength, self._width])
        self._fractions, self._kinds = kernels.states()
        self.weights = np.ones(len(KINDS))

    def _start(self, values: Float64, expected: Float64, name: str) -> None:
        """Set unit, means, variances and the histogram of what is no brain, by the priors alone."""
        seen, p = values[self._known], expected[self._known]
        sure = [seen[p[:, k] >= min(at, np.quantile(p[:, k], LIKELIEST))] for k, at in enumerate(SURE)]
        if min(s.size for s in sure) < FEWEST_SURE:
            raise MaskError(
                f"{name}: expected at least {FEWEST_SURE} voxels with a value where priors are high, found "
                f"{[s.size for s in sure]} (GM, WM, CSF). Look at the image, the mask and the registration."
            )
        # Fluid is the darkest; where it is expected there is also cortex.
        grey, white, fluid = float(np.median(sure[0])), float(np.median(sure[1])), float(np.percentile(sure[2], 25))
        if not white > grey:
            raise MaskError(
                f"{name}: expected white matter brighter than grey matter (MTsat, R1, T1w), found medians of "
                f"{white:.4g} and {grey:.4g} where priors expect them. Look at the contrast and the registration."
            )
        self.unit = white
        self.values = np.where(self._known, values, 0.0) / white
        self.centre = np.array([grey, white, fluid]) / white
        self.variance = np.full(kernels.TISSUES, ((white - grey) / white / 5.0) ** 2)
        low, high = (float(v) for v in np.percentile(seen / white, (0.1, 99.9)))
        self._least, self._width = low, (high - low) / (BINS - 1)
        beside = np.histogram(np.clip(seen / white, low, high), BINS, (low, high), weights=p[:, 3] + 1e-3)[0]
        self._other = self._histogram(beside)

    def _histogram(self, counts: npt.NDArray[Any]) -> Float64:
        blurred = ndimage.gaussian_filter1d(counts.astype(np.float64), BIN_BLUR, mode="nearest")
        span = self._width * (BINS - 1)
        return np.asarray((1.0 - UNIFORM) * blurred / (blurred.sum() * self._width) + UNIFORM / span)

    def _place_blocks(self, near: npt.NDArray[np.int_], size: npt.NDArray[np.int_], sizes: Float64) -> None:
        per_block = np.maximum(np.rint(BLOCK_MM / sizes), 1.0)
        self._block_mm, self._block_voxels = sizes * per_block, float(np.prod(per_block))
        self._grid = tuple(int(n) for n in np.ceil(size / per_block))
        index = (near // per_block).astype(np.int64)
        self._blocks = np.ravel_multi_index(tuple(index.T), self._grid).astype(np.int64)
        self._in_blocks = ((near - (per_block - 1.0) / 2.0) / per_block).astype(np.float32)
        self._local = np.zeros((*self._grid, 2))
        self._means = np.zeros((self._at.size, 2), np.float32)
        self._gain = np.ones(self._at.size, np.float32)

    def _first_gain(self, values: Float64, white: Float64) -> Float32:
        """Return the receive field by the brightness of what is expected to be white matter, geometric mean 1 in it."""
        weight = np.where(self._known & (values > 0), white**2, 0.0)
        logarithm = np.log(np.where(weight > 0, values, 1.0))
        logarithm -= (weight * logarithm).sum() / max(weight.sum(), 1.0)
        n = int(np.prod(self._grid))
        sums = [np.bincount(self._blocks, w, n).astype(np.float64) for w in (weight * logarithm, weight)]
        up, down = (self._smooth(s, GAIN_FWHM_MM) for s in sums)
        field = np.exp(up / (down + 1e-3 * down.max()))
        found = np.zeros((self._at.size, 2), np.float32)
        kernels.spread(np.stack([field, field], axis=-1), self._in_blocks, found)
        return np.ascontiguousarray(found[:, 0])

    def step(self, turn: int) -> float:
        """Make one pass; return the mean log likelihood of a voxel before it."""
        sums, totals = np.zeros((int(np.prod(self._grid)), kernels.SUMS)), np.zeros((kernels.KINDS, 3))
        counts = np.zeros(BINS)
        weights = self.weights.copy()
        weights[3:6] /= kernels.STEPS
        kernels.pass_over(
            self.values,
            self._known,
            self._at,
            self._log_priors,
            self._means,
            self._fractions,
            self._kinds,
            weights,
            self._state_variances(),
            np.concatenate([self.centre, [self._least], self._other]),
            self._q,
            self._steps,
            self._reach,
            self._new,
            self._blocks,
            sums,
            totals,
            counts,
        )
        self._q, self._new = self._new, self._q
        self._update_shares(totals, counts)
        self._update_means(sums, totals, turn)
        return float(totals[3, 2] / max(int(self._known.sum()), 1))

    def _state_variances(self) -> Float64:
        found = self._fractions @ self.variance
        for pair, (a, b) in enumerate(kernels.PAIRS):
            at = kernels.TISSUES + pair * kernels.STEPS
            # Fractions within a step are even, so that steps leave no gaps between them.
            found[at : at + kernels.STEPS] += ((self.centre[a] - self.centre[b]) / kernels.STEPS) ** 2 / 12.0
        return np.asarray(found)

    def _update_shares(self, totals: Float64, counts: Float64) -> None:
        self.weights = self.weights * np.maximum(totals[:, 0], 1.0) / np.maximum(totals[:, 1], 1.0)
        self.weights[:6] /= self.weights[1]
        # Bone without signal and fluid look alike: the brain may become smaller than its priors say, but not larger.
        self.weights[6] = max(self.weights[6], 1.0)
        self.variance = np.maximum(totals[:3, 2] / np.maximum(totals[:3, 0], 1.0), LEAST_VARIANCE)
        self.variance[2] = min(self.variance[2], FLUID_VARIANCE * self.variance[:2].max())
        self._other = self._histogram(counts)

    def _update_means(self, sums: Float64, totals: Float64, turn: int) -> None:
        """Move global means by the weighted least squares of all states, then the field or the local means."""
        gg, gw, ww, g, w = sums.T
        moved = np.linalg.solve([[gg.sum(), gw.sum()], [gw.sum(), ww.sum()]], [g.sum(), w.sum()])
        self.centre[:2] += moved
        self.centre[2] += totals[5, 2] / max(totals[4, 2], 1e-12)
        left = np.stack([g - gg * moved[0] - gw * moved[1], w - gw * moved[0] - ww * moved[1]])
        if self.receive and turn < GAIN_PASSES:
            self._update_gain(gg, gw, ww, left)
        elif turn >= FIRST_LOCAL:
            self._update_local(gg, gw, ww, left)

    def _update_gain(self, gg: Float64, gw: Float64, ww: Float64, left: Float64) -> None:
        grey, white = self.centre[:2]
        up = self._smooth(grey * left[0] + white * left[1], GAIN_FWHM_MM)
        down = self._smooth(grey**2 * gg + 2.0 * grey * white * gw + white**2 * ww, GAIN_FWHM_MM)
        change = up / (down + TO_FLAT * self._block_voxels * white**2 / self.variance[1])
        change = np.clip(change, -GAIN_MOST, GAIN_MOST)
        factor = np.zeros((self._at.size, 2), np.float32)
        kernels.spread(np.stack([change, change], axis=-1), self._in_blocks, factor)
        factor += 1.0
        self.values = self.values / factor[:, 0]
        self._gain *= factor[:, 0]

    def _update_local(self, gg: Float64, gw: Float64, ww: Float64, left: Float64) -> None:
        """Solve, in every block, for both means with its surroundings' sums and a pull to the global means."""
        # Right sides as if local means were still zero.
        d = self._local.reshape(-1, 2)
        right = (left[0] + gg * d[:, 0] + gw * d[:, 1], left[1] + gw * d[:, 0] + ww * d[:, 1])
        a, b, c, g, w = (self._smooth(s, LOCAL_FWHM_MM) for s in (gg, gw, ww, *right))
        a = a + TO_GLOBAL * self._block_voxels / self.variance[0]
        c = c + TO_GLOBAL * self._block_voxels / self.variance[1]
        determinant = a * c - b * b
        local = np.stack([(c * g - b * w) / determinant, (a * w - b * g) / determinant], axis=-1)
        self._local = np.clip(local, -LOCAL_MOST, LOCAL_MOST)
        kernels.spread(self._local, self._in_blocks, self._means)

    def _smooth(self, sums: Float64, fwhm_mm: float) -> Float64:
        sigma = fwhm_mm * FWHM_TO_SD / self._block_mm
        blurred = ndimage.gaussian_filter(sums.reshape(self._grid), sigma, mode="constant", truncate=3.0)
        return np.asarray(blurred)

    def fractions(self) -> Float32:
        """Return (3, x, y, z), GM, WM and CSF after the last pass; 0 outside."""
        return self._volume(np.clip(self._q[:, self._at], 0.0, 1.0), 0.0)

    def gain(self) -> Float32:
        """Return the receive field (x, y, z); outside, that of the nearest voxel inside."""
        found = self._volume(self._gain[None], np.nan)[0]
        nearest = ndimage.distance_transform_edt(np.isnan(found), return_distances=False, return_indices=True)
        return np.asarray(found[tuple(nearest)])

    def local_means(self) -> Float32:
        """Return (n, 2), mean of GM and WM at every voxel inside, in units of ``unit``."""
        return np.asarray(self._means + self.centre[:2].astype(np.float32))

    def _volume(self, values: npt.NDArray[np.float32], outside: float) -> Float32:
        found = np.full((values.shape[0], *self.shape), outside, np.float32)
        found[(slice(None), *self._places.T)] = values
        return found


def _expected(priors: Float32, inside: Bool, sizes: Float64 | Sequence[float]) -> Float64:
    """Return blurred priors of GM, WM, CSF and other of the voxels inside, (n, 4), adding up to 1."""
    sigma = PRIOR_BLUR_MM / np.asarray(sizes)
    blurred = [ndimage.gaussian_filter(priors[..., k], sigma, truncate=3.0)[inside] for k in range(kernels.TISSUES)]
    found = np.clip(np.stack(blurred, axis=1).astype(np.float64), 0.0, 1.0)
    found /= np.maximum(found.sum(axis=1, keepdims=True), 1.0)
    return np.concatenate([found, np.maximum(1.0 - found.sum(axis=1, keepdims=True), 0.0)], axis=1)
