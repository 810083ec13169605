"""Shifts of whole volumes along phase encoding: which are the head's, and which the eddy currents'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
# Of differences from volume to volume; fewer do not tell three coefficients from a head's own movement.
FEWEST_DIFFERENCES = 12


def separate_offsets(
    movement: npt.ArrayLike,
    b: npt.ArrayLike,
    bvecs_world: npt.ArrayLike,
    along_mm: npt.ArrayLike,
    hz_to_mm: Sequence[float],
    centre_mm: npt.ArrayLike,
) -> tuple[Float64, Float64]:
    """Tell a constant field of eddy currents from movement of the head along phase encoding.

    Both shift a volume as a whole, so that registration finds only their sum ``t_v``, in mm at the head's centre along
    phase encoding. A head drifts from volume to volume; eddy currents follow the gradients. With
    ``x_v = h_v (b_v / 1000) g_v``, h_v mm per Hz with the sign of the encoding, and the movement m a random walk,

    ``t_v = m_v + x_v . beta``, so ``t_v - t_(v-1) = (x_v - x_(v-1)) . beta + white noise``,

    whose least squares give beta. What is returned describes the same distortion of every volume in other words.

    Parameters
    ----------
    movement : (v, 4, 4), RAS+ mm, reference to the head's place at the volume.
    b : (v,), s/mm2.
    bvecs_world : (3, v), unit vectors in RAS+, as the scanner applied them.
    along_mm : (v, 3), unit vectors in RAS+ along the phase-encode axis, towards higher indices.
    hz_to_mm : (v,), shift along it by a field of 1 Hz.
    centre_mm : (3,), of the head, RAS+.

    Returns
    -------
    movement : (v, 4, 4), without the shift by eddy currents.
    offset_hz : (v,), constant of the eddy field; 0 where b is 0, and everywhere if fewer than 12 differences involve a
        weighted volume or the directions do not determine beta.

    References
    ----------
    1. Andersson and Sotiropoulos (2016), the same ambiguity, doi:10.1016/j.neuroimage.2015.10.019.
    """
    matrices, weights = np.asarray(movement, np.float64), np.asarray(b, np.float64) / 1000.0
    directions, along = np.asarray(bvecs_world, np.float64).T, np.asarray(along_mm, np.float64)
    centre, scale = np.asarray(centre_mm, np.float64), np.asarray(hz_to_mm, np.float64)
    directions = np.where(weights[:, None] > 0, directions, 0.0)
    moved = np.einsum("vij,j->vi", matrices[:, :3, :3], centre) + matrices[:, :3, 3] - centre
    total = np.sum(moved * along, axis=1)
    gradients = weights[:, None] * directions
    # Between volumes of other axes or signs the shift's meaning changes: the difference tells nothing.
    alike = np.sum(along[1:] * along[:-1], axis=1) > 1 - 1e-6
    rows = np.diff(scale[:, None] * gradients, axis=0)[alike]
    told = np.abs(rows).max(axis=1, initial=0.0) > 0 if rows.size else np.zeros(0, bool)
    nothing = matrices.copy(), np.zeros(weights.size)
    if np.count_nonzero(told) < FEWEST_DIFFERENCES:
        return nothing
    beta, _, rank, _ = np.linalg.lstsq(rows[told], np.diff(total)[alike][told], rcond=1e-6)
    if rank < 3:
        return nothing
    offset_hz = gradients @ beta
    own = matrices.copy()
    own[:, :3, 3] -= (scale * offset_hz)[:, None] * along
    return own, np.asarray(offset_hz, np.float64)
