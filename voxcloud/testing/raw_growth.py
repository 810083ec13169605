"""Local growth of a simulated head: a soft ball in which every volume is larger by a known factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from voxcloud.testing.fields import FWHM_TO_SIGMA, Float64

TABLE_STEP_MM = 0.05
EDGE_FWHM = 3.0  # beyond the radius by so many FWHM nothing grows any more


def soft_ball(distance_mm: Float64, radius_mm: float, fwhm_mm: float) -> Float64:
    """Return 1 deep inside a ball, 1/2 at its radius, 0 outside, for distances from its centre."""
    edge = (distance_mm - radius_mm) / (np.sqrt(2.0) * fwhm_mm * FWHM_TO_SIGMA)
    return np.asarray(0.5 * (1.0 - erf(edge)))


@dataclass(frozen=True)
class Growth:
    """Tissue in a soft ball takes more room, or less, and moves what lies around it aside without squeezing it.

    What is at x came from ``c + g(r) (x - c) / r`` r = abs(x - c), with centre c, ball p and log-Jacobian L:

        g(r)^3 = 3 int_0^r s^2 exp(-L p(s)) ds

    so that an element of volume at x was ``exp(-L p(r))`` of what it is, everywhere: in the ball it has grown by
    exp(L), and far away nothing but moved, by the ball's gain in volume over 4 pi r^2. That is 10 micrometres at the
    skull for 5 % of a ball of 12 mm in the middle of the head. A map of this kind cannot fold.

    Attributes
    ----------
    centre_mm, radius_mm, fwhm_mm
        Ball in the frame of the template, and the blur of its edge.
    log_jacobian
        L: log of the volume over what it was, in the middle of the ball.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    fwhm_mm: float
    log_jacobian: float

    def profile(self, points_mm: Float64) -> Float64:
        """Return p at points (point, 3)."""
        distance = np.linalg.norm(points_mm - np.asarray(self.centre_mm), axis=1)
        return soft_ball(distance, self.radius_mm, self.fwhm_mm)

    def origin(self, points_mm: Float64) -> Float64:
        """Return where what is at points (point, 3) was before it grew, (point, 3)."""
        radii, moved = self._table()
        centre = np.asarray(self.centre_mm)
        away = points_mm - centre
        distance = np.maximum(np.linalg.norm(away, axis=1), radii[0])
        lost = np.interp(distance, radii, moved) * (radii[-1] / np.maximum(distance, radii[-1])) ** 3
        return np.asarray(centre + away * np.cbrt(1.0 - lost)[:, None])

    def _table(self) -> tuple[Float64, Float64]:
        """Return radii (mm), and 1 - (g(r) / r)^3 there."""
        count = int(np.ceil((self.radius_mm + EDGE_FWHM * self.fwhm_mm) / TABLE_STEP_MM))
        outer = np.asarray(TABLE_STEP_MM * np.arange(1, count + 1), dtype=np.float64)
        # Thin shells, each with the density of its middle: their volumes add up exactly.
        middle = np.asarray(outer - TABLE_STEP_MM / 2, dtype=np.float64)
        density = -np.expm1(-self.log_jacobian * soft_ball(middle, self.radius_mm, self.fwhm_mm))
        shells = outer**3 - (outer - TABLE_STEP_MM) ** 3
        return outer, np.asarray(np.cumsum(density * shells) / outer**3)


def origin_of(points_mm: Float64, growth: Sequence[Growth]) -> Float64:
    """Return where what is at points (point, 3) was before anything grew; balls do not overlap."""
    for one in growth:
        points_mm = one.origin(points_mm)
    return points_mm
