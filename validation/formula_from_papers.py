"""The whole group analysis once more, written from the publications alone: no line of it calls voxcloud.

Used beside voxcloud by ``false_positives.py`` and by the tests. It is meant to be read next to the papers, one block
per formula, and takes a few simple ways that voxcloud does not take (normal equations per person, matrix exponentials,
elementary cubes counted one by one), so that a mistake would have to be made twice.

References
----------
1. Holmes and Friston, NeuroImage 7:S754 (1998): two stages.
2. Friston et al., NeuroImage 16:484 (2002), doi:10.1006/nimg.2002.1091: one covariance, restricted maximum likelihood.
3. Kiebel et al., NeuroImage 10:756 (1999), doi:10.1006/nimg.1999.0508: smoothness of residuals.
4. Worsley et al., Hum Brain Mapp 4:58 (1996), doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O: resels
   and Euler characteristic densities.
5. Friston et al., Hum Brain Mapp 1:210 (1994), doi:10.1002/hbm.460010306: size of clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import exp, expm1, gamma, lgamma, log, pi, sqrt

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage, stats

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
CORNERS = tuple(product((0, 1), repeat=3))


@dataclass(frozen=True)
class Found:
    """Every cluster above the threshold, largest first, and what its p-value was made of."""

    sizes: tuple[int, ...]
    p_fwe: tuple[float, ...]
    fwhm: Floats
    resels: Floats


def linear_coefficients(images: Floats, person: npt.NDArray[np.int64], days: Floats, last_day: float) -> Floats:
    """Return each person's linear coefficient (person, v): least squares on 1, t and t^2 residualised on 1 and t.

    Time is in units of ``last_day``. The residualisation is over the unique days of the whole study.
    """
    t = np.unique(days) / last_day
    line = np.column_stack([np.ones_like(t), t])
    takes = np.linalg.solve(line.T @ line, line.T @ t**2)
    rows = []
    for who in np.unique(person):
        own = days[person == who] / last_day
        x = np.column_stack([np.ones_like(own), own, own**2 - takes[0] - takes[1] * own])
        rows.append(np.linalg.solve(x.T @ x, x.T @ images[person == who])[1])
    return np.array(rows)


def restricted_likelihood_whitener(y: Floats, x: Floats, groups: list[str]) -> Floats:
    """Return the whitening weights (n,) of rows whose groups differ in variance, in the steps that SPM12 takes.

    Voxels whose whole design passes F at p < 0.001 give the second moment C of their standardised data. h maximises
    the restricted likelihood of C with a prior precision of exp(-8) on h, by Fisher scoring with steps
    (exp(t J) - 1) J^-1 g that stop when the predicted gain is under 0.1.
    """
    n, p = x.shape
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    rest, fit = y - hat @ y, hat @ y
    variance = (rest**2).sum(axis=0) / (n - p)
    passes = stats.f.sf((fit**2).sum(axis=0) / p / variance, p, n - p) < 0.001
    scaled = y[:, passes] / np.sqrt(variance[passes])
    c = scaled @ scaled.T / passes.sum()
    components = [np.diag([float(g == name) for g in groups]) for name in dict.fromkeys(groups)]
    h, rate, before = np.ones(len(components)), 4.0, np.inf
    for _ in range(128):
        inverse = np.linalg.inv(sum(a * q for a, q in zip(h, components, strict=True)))
        project = inverse - inverse @ x @ np.linalg.inv(x.T @ inverse @ x) @ x.T @ inverse
        slope = np.array([-0.5 * np.trace(project @ q @ (np.eye(n) - project @ c)) for q in components])
        bend = -0.5 * np.array([[np.trace(project @ a @ project @ b) for b in components] for a in components])
        slope, bend = slope - exp(-8) * h, bend - exp(-8) * np.eye(len(h))
        time = exp(rate - np.linalg.slogdet(bend)[1] / len(h))
        step = (linalg.expm(time * bend) - np.eye(len(h))) @ np.linalg.solve(bend, slope)
        h, gain = h + step, float(slope @ step)
        rate, before = rate + (-1.0 if gain > before else 0.25), gain
        if gain < 0.1:
            break
    v = sum(a * q for a, q in zip(h, components, strict=True)).diagonal()
    return np.asarray(1 / np.sqrt(v * n / v.sum()))


def group_t(y: Floats, x: Floats, contrast: Floats) -> tuple[Floats, Floats, float]:
    """Return t (v,), standardised residuals (n, v) and degrees of freedom of the group model (full rank)."""
    df = float(x.shape[0] - x.shape[1])
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ y)
    rest = y - x @ beta
    spread = np.sqrt((rest**2).sum(axis=0) / df)
    return contrast @ beta / (spread * sqrt(contrast @ inverse @ contrast)), rest / spread, df


def whole_cell(volume: Bools, size: tuple[int, int, int]) -> Bools:
    """Return where the cell that reaches ``size`` forward from a voxel has all its corners in the volume."""
    padded = np.pad(volume, ((0, 1),) * 3)
    out = volume.copy()
    for step in product(*(range(s + 1) for s in size)):
        out &= padded[tuple(slice(s, s + n) for s, n in zip(step, volume.shape, strict=True))]
    return out


def smoothness(residual: Floats, mask: Bools, df: float) -> Floats:
    """Return FWHM per axis in voxels [3]. ``residual`` (n, v) are standardised residuals of the voxels of the mask."""
    place = np.full(mask.shape, -1)
    place[mask] = np.arange(int(mask.sum()))
    cell = whole_cell(mask, (1, 1, 1))
    here = place[cell]
    slopes = [residual[:, np.roll(place, -1, axis)[cell]] - residual[:, here] for axis in range(3)]
    roughness = np.array([[(a * b).sum(axis=0) for b in slopes] for a in slopes]) / df / (4 * log(2))
    resels_per_voxel = np.sqrt(np.maximum(np.linalg.det(np.moveaxis(roughness, -1, 0)), 0)).mean()
    axes = np.array([np.sqrt(roughness[a, a]).mean() for a in range(3)])
    return np.asarray((axes.prod() / resels_per_voxel) ** (1 / 3) / axes)


def resel_counts(volume: Bools, fwhm: Floats) -> Floats:
    """Return resels in 0 to 3 dimensions [4]: every point, edge, face and cube is a small box.

    An open box of sides s has the intrinsic volumes of its faces with alternating sign; adding them up over all boxes
    of the volume gives the volume's own.
    """
    counts = np.zeros(4)
    for shape in CORNERS:
        n = int(whole_cell(volume, shape).sum())
        for side in CORNERS:
            if all(b <= a for a, b in zip(shape, side, strict=True)):
                lengths = [1 / f for f, b in zip(fwhm, side, strict=True) if b]
                counts[sum(side)] += (-1) ** (sum(shape) - sum(side)) * n * np.prod(lengths)
    return counts


def densities(u: float, df: float) -> list[float]:
    """Return Euler characteristic densities of a t field per resel in 0 to 3 dimensions [4, table II]."""
    b, core = 4 * log(2), (1 + u * u / df) ** (-(df - 1) / 2)
    return [
        float(stats.t.sf(u, df)),
        sqrt(b) / (2 * pi) * core,
        b / (2 * pi) ** 1.5 * exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(df / 2) * u * core,
        b**1.5 / (2 * pi) ** 2 * ((df - 1) / df * u * u - 1) * core,
    ]


def clusters(t: Floats, residual: Floats, mask: Bools, volume: Bools, df: float, forming_p: float = 0.001) -> Found:
    """Return the familywise p of every cluster of ``volume``, 1 - exp(-E[c] P(size >= k)) [4, 5].

    Parameters
    ----------
    t
        (v,), of the voxels of ``mask``.
    residual
        (n, v), standardised.
    volume
        (x, y, z), search volume, within the mask, with whole cells of 2 x 2 x 2 voxels.
    """
    fwhm = smoothness(residual, mask, df)
    u = float(stats.t.isf(forming_p, df))
    counts, density = resel_counts(volume, fwhm), densities(u, df)
    expected = float(counts @ np.array(density))
    field = np.full(mask.shape, -np.inf)
    field[mask] = t
    labels, _ = ndimage.label((field > u) & volume, structure=ndimage.generate_binary_structure(3, 2))
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    p = [-expm1(-expected * exp(-((gamma(2.5) * k / fwhm.prod() * density[3] / density[0]) ** (2 / 3)))) for k in sizes]
    return Found(tuple(int(k) for k in sizes), tuple(p), fwhm, counts)
