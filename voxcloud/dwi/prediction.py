"""A prediction of each diffusion-weighted volume from all others: a Gaussian process over b-values and directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from voxcloud.dwi.gradients import count_directions, find_shells
from voxcloud.dwi.tensor_design import LARGEST_B0, GradientError

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# Orders of the spherical harmonics that signals are made of, and how many directions a shell needs for each: as many as
# there are harmonics up to that order, and some for what else is unknown.
ORDERS = (2, 4, 6)
LEAST_FOR_ORDER = (10, 25, 45)
# A shell of fewer volumes is no shell by itself: its mean is not known without the volume that is predicted.
FEWEST_OF_SHELL = 4
# Variance of what is unknown beforehand (means of shells), of a signal whose noise has variance 1.
FLAT = 1e6
# Bounds of the logarithm of signal variance over noise variance.
LOG_RATIO = (-9.0, 9.0)
MOST_COUPLED = 3.0
STEPS, FEW_STEPS = 40, 6


@dataclass(frozen=True)
class Group:
    """Volumes predicted from each other.

    Attributes
    ----------
    volumes : their indices.
    bval : mean, s/mm2.
    orders : of the harmonics in its covariance; none: its mean alone.
    degrees : of the polynomial in b that is unknown beforehand; 0: a constant.
    """

    volumes: tuple[int, ...]
    bval: float
    orders: tuple[int, ...]
    degrees: int = 0


@dataclass(frozen=True)
class Process:
    """A Gaussian process whose noise has variance 1.

    Attributes
    ----------
    groups : volumes by b-value; volumes that are in none are not predicted and predict nothing.
    ratios : (groups, orders), signal variance per harmonic order over that of the noise.
    coupling : correlation of the harmonics of different groups, 0 to 1.
    """

    groups: tuple[Group, ...]
    ratios: Float64
    coupling: float


def group_volumes(bvals: npt.ArrayLike, bvecs: npt.ArrayLike) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Return which volumes predict each other by which model, and what had to be simplified.

    Volumes with b <= 50 s/mm2 are predicted by the mean of the others. A shell has a mean of its own and a covariance
    over directions, of harmonics of order 2 (from 10 directions), 4 (from 25) and 6 (from 45); a shell of fewer than 10
    directions has its mean alone. b-values that do not form shells of at least 4 volumes are one group, whose mean is a
    polynomial in b.

    Parameters
    ----------
    bvals : (v,), s/mm2.
    bvecs : (3, v), unit vectors.

    Raises
    ------
    GradientError
        If shapes differ.
    """
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    if b.ndim != 1 or g.shape != (3, b.size):
        raise GradientError(
            f"prediction: expected b-values (volume,) and b-vectors (3, volume), found {b.shape} and {g.shape}. "
            "Give one vector per volume."
        )
    shells = find_shells(b)
    groups, told = [], []
    unweighted = np.flatnonzero(b <= LARGEST_B0)
    if unweighted.size:
        groups.append(Group(tuple(map(int, unweighted)), 0.0, ()))
    small = [part for part in shells if part.size < FEWEST_OF_SHELL]
    large = [part for part in shells if part.size >= FEWEST_OF_SHELL]
    if small:
        loose = np.sort(np.concatenate(small))
        if sum(part.size for part in large) <= loose.size or not large:
            large, loose = [], np.flatnonzero(b > LARGEST_B0)
        names = ", ".join(str(int(v)) for v in loose[:6])
        if loose.size >= FEWEST_OF_SHELL:
            groups.append(_group(loose, b, g, min(2, np.unique(np.round(b[loose], -1)).size - 1)))
            told.append(
                f"expected shells of at least {FEWEST_OF_SHELL} volumes, found {loose.size} volumes of other b-values "
                f"(volumes {names}, ...): they are predicted from each other, with a mean that depends on b."
            )
        else:
            told.append(
                f"expected shells of at least {FEWEST_OF_SHELL} volumes, found {loose.size} of another b-value "
                f"(volumes {names}): they are moved like their neighbours in time and not checked for outlier slices."
            )
    for part in large:
        group = _group(part, b, g, 0)
        if not group.orders:
            told.append(
                f"expected at least {LEAST_FOR_ORDER[0]} directions at b = {group.bval:.0f} s/mm2 for a Gaussian "
                f"process, found {count_directions(g[:, part])}: each volume is predicted by the mean of the others, "
                "and quadratic terms of eddy currents are left out."
            )
        groups.append(group)
    return tuple(groups), tuple(told)


def _group(part: Indices, b: Float64, g: Float64, degrees: int) -> Group:
    directions = count_directions(g[:, part])
    orders = tuple(o for o, least in zip(ORDERS, LEAST_FOR_ORDER, strict=True) if directions >= least)
    return Group(tuple(map(int, part)), float(b[part].mean()), orders, degrees)


def mean_process(groups: Sequence[Group]) -> Process:
    """Return the process that predicts each volume by the mean of the others of its group."""
    return Process(tuple(groups), np.zeros((len(groups), len(ORDERS))), 0.0)


def covariance(process: Process, bvals: npt.ArrayLike, bvecs: npt.ArrayLike, *, flat: float = FLAT) -> Float64:
    """Return the covariance of all volumes, (v, v), noise of variance 1 included.

    ``C_ij = delta_ij + flat m_ij + sum_l sqrt(c_sl c_tl) r_st P_l(g_i' g_j)`` for volumes i, j of groups s, t: P_l is
    the Legendre polynomial of even order l, so that C is positive definite for any c >= 0 (Schoenberg 1942) and the
    same for g and -g; r is 1 within a group and the coupling between two; m is 1 within a group (or the products of
    powers of b) and 0 between two. Covariances are scaled by (b / mean b) where a group has several b-values.

    Volumes in no group have a covariance of ``flat`` with nothing.
    """
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    n = b.size
    signal, mean = np.zeros((n, n)), np.zeros((n, n))
    cosines = np.clip(g.T @ g, -1.0, 1.0)
    of = np.full(n, -1)
    amplitude = np.zeros((len(ORDERS), n))
    for s, group in enumerate(process.groups):
        part = np.array(group.volumes)
        of[part] = s
        scale = b[part] / group.bval if group.degrees else np.ones(part.size)
        amplitude[:, part] = np.sqrt(process.ratios[s])[:, None] * scale
        powers = np.stack([scale**degree for degree in range(group.degrees + 1)], axis=1)
        mean[np.ix_(part, part)] = powers @ powers.T
    for o, order in enumerate(ORDERS):
        signal += np.outer(amplitude[o], amplitude[o]) * legendre(order, cosines)
    same = of[:, None] == of[None, :]
    signal *= np.where(same, 1.0, process.coupling)
    found: Float64 = np.eye(n) + flat * mean + signal
    alone = of < 0
    found[alone], found[:, alone] = 0.0, 0.0
    found[alone, alone] = flat
    return found


def legendre(order: int, x: Float64) -> Float64:
    """Return the Legendre polynomial of order 2, 4 or 6."""
    y = x * x
    if order == 2:
        return 1.5 * y - 0.5
    if order == 4:
        return (4.375 * y - 3.75) * y + 0.375
    assert order == 6
    return ((14.4375 * y - 19.6875) * y + 6.5625) * y - 0.3125


def even_basis(bvecs: Float64) -> Float64:
    """Return the five functions of directions (3, n) that are even and of order 2, (n, 5)."""
    x, y, z = bvecs
    return np.stack([x * x - z * z, y * y - z * z, x * y, x * z, y * z], axis=1)


def leave_one_out(matrix: Float64) -> Float64:
    """Return the matrix W, of zero diagonal, with which ``W y`` predicts each element of y from all the others.

    ``W = I - diag(1 / P_ii) P`` with the precision ``P = C^-1``: the conditional mean of y_i given the others, for
    y ~ N(0, C). Rows of elements that depend on no other are 0.

    References
    ----------
    1. Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, section 5.4.2.
    """
    precision = np.linalg.inv(matrix)
    found = -precision / np.diag(precision)[:, None]
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def fit_process(
    moments: npt.ArrayLike,
    groups: Sequence[Group],
    bvals: npt.ArrayLike,
    bvecs: npt.ArrayLike,
    *,
    like: Process | None = None,
) -> Process:
    """Choose variances and coupling with which volumes are best predicted from each other.

    Minimises ``sum_s n_s ln sum_{i in s} (e_i^2)``, e the error of predicting volume i without itself, over voxels;
    with moments ``S = Y Y' / n`` of signals Y (v, n) it is ``e_i^2 = (P S P)_ii / P_ii^2``, so that no voxel is read
    again.

    Parameters
    ----------
    moments : (v, v), of signals of a sample of voxels.
    groups, bvals, bvecs : as ``group_volumes`` has them.
    like : where to start; a few steps are then enough.

    References
    ----------
    1. Andersson and Sotiropoulos (2015), doi:10.1016/j.neuroimage.2015.07.067 (process over shells and directions).
    2. Rasmussen and Williams (2006), section 5.4.2 (leave-one-out).
    """
    s = np.asarray(moments, np.float64)
    b, g = np.asarray(bvals, np.float64), np.asarray(bvecs, np.float64)
    places = [(k, o) for k, group in enumerate(groups) for o, order in enumerate(ORDERS) if order in group.orders]
    parts = [np.array(group.volumes) for group in groups if group.orders]
    if not places:
        return mean_process(groups)
    several = len(parts) > 1

    def process(x: Float64) -> Process:
        ratios = np.zeros((len(groups), len(ORDERS)))
        for (k, o), value in zip(places, x, strict=False):
            ratios[k, o] = np.exp(value)
        return Process(tuple(groups), ratios, float(1.0 / (1.0 + np.exp(-x[-1]))) if several else 0.0)

    def error(x: Float64) -> float:
        precision = np.linalg.inv(covariance(process(x), b, g))
        squares = np.einsum("ij,ji->i", precision @ s, precision) / np.diag(precision) ** 2
        return float(sum(part.size * np.log(max(squares[part].sum(), 1e-300)) for part in parts))

    start = np.array([{2: 1.0, 4: -1.0, 6: -3.0}[ORDERS[o]] for _, o in places] + ([1.0] if several else []))
    if like is not None:
        ratios = np.log(np.maximum([like.ratios[k, o] for k, o in places], np.exp(LOG_RATIO[0])))
        coupling = np.clip(like.coupling, 0.05, 0.95)
        start = np.concatenate([ratios, [np.log(coupling / (1.0 - coupling))] if several else []])
    bounds = [LOG_RATIO] * len(places) + ([(-MOST_COUPLED, MOST_COUPLED)] if several else [])
    found = optimize.minimize(
        error,
        start,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": STEPS if like is None else FEW_STEPS, "ftol": 1e-6},
    )
    return process(np.asarray(found.x))


def describe(process: Process) -> str:
    """Say what predicts what, in one line."""
    words = []
    for group, ratios in zip(process.groups, process.ratios, strict=True):
        name = "b = 0" if group.bval == 0 else f"b = {group.bval:.0f} s/mm2"
        if group.orders:
            used = ", ".join(
                f"{order}: {r:.3g}" for order, r in zip(ORDERS, ratios, strict=True) if order in group.orders
            )
            words.append(f"{name}: Gaussian process (signal over noise variance of orders {used})")
        else:
            words.append(f"{name}: mean of the others" if len(group.volumes) > 1 else f"{name}: a single volume")
    coupled = sum(bool(group.orders) for group in process.groups) > 1
    return "; ".join(words) + (f"; coupling of shells {process.coupling:.2f}" if coupled else "")
