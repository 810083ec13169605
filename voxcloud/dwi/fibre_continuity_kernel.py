"""Sums over pairs of neighbouring voxels, compiled."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def add_up(vectors, weight, offsets, turned, side, counts, met, sent):  # type: ignore[no-untyped-def]
    """Add up, per block and candidate, what leaves voxels along their fibres and what of it meets the same fibre.

    Parameters
    ----------
    vectors : (x, y, z, 3) principal directions.
    weight : (x, y, z), 0 where a voxel has no part in it.
    offsets : (k, 3) steps to neighbours, in voxels.
    turned : (k, candidate, 3) unit vectors of the steps, turned back for each candidate.
    side, counts : (3,) voxels along the edges of a block, blocks along the axes.
    met, sent : (block, candidate), added to. Neighbours outside the image count in neither.
    """
    nx, ny, nz = weight.shape
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                w = weight[x, y, z]
                if w == 0.0:
                    continue
                block = ((x // side[0]) * counts[1] + y // side[1]) * counts[2] + z // side[2]
                v = vectors[x, y, z]
                for k in range(offsets.shape[0]):
                    i, j, m = x + offsets[k, 0], y + offsets[k, 1], z + offsets[k, 2]
                    if i < 0 or j < 0 or m < 0 or i >= nx or j >= ny or m >= nz:
                        continue
                    other, u = weight[i, j, m], vectors[i, j, m]
                    for c in range(turned.shape[1]):
                        r = turned[k, c]
                        one = (r[0] * v[0] + r[1] * v[1] + r[2] * v[2]) ** 2
                        one *= one * w
                        sent[block, c] += one * one
                        if other > 0.0:
                            two = (r[0] * u[0] + r[1] * u[1] + r[2] * u[2]) ** 2
                            met[block, c] += one * two * two * other
