"""People of the simulated raw study: each with an anatomy of their own, and what happens to it between their visits.

A point h of a person's head lies at ``t = u + w(u)``, ``u = A h``, in the template: A is size and shape, w a smooth
displacement. w is where a velocity field carries points within one unit of time, so that it cannot fold; its
displacement is kept on knots 16 mm apart, between which it is a cubic B-spline. That no element of volume is turned
inside out or is smaller than a quarter of what it was is checked, and the velocity is lowered until it is so.

Between visits a person's tissue drifts: smooth random fields, times the linear and the quadratic course of the study's
time basis, on R1, PD, R2*, MTsat, FA, MD, and on w, which makes volumes grow and shrink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from voxcloud.testing.fields import Float32, Float64, generator
from voxcloud.testing.raw_diffusion import DIFFUSION_PARAMETERS
from voxcloud.testing.raw_growth import Growth
from voxcloud.testing.raw_head import (
    FIELD_ORIGIN_MM,
    FIELD_SHAPE,
    FIELD_SPACING_MM,
    PERSONAL_SD,
    REGIONAL_SD,
    SPLINE_SD,
    Head,
    HeadTissues,
    VisitChange,
    field_knots,
    per_parameter,
    tissue_variation,
)
from voxcloud.testing.raw_sampling import sample_spline

SIZE_MEAN, SIZE_SD, SIZE_MOST = 0.93, 0.025, 0.05
"""Of a person's length over that of the template, which is a large head; at most this far from the mean."""
ASPECT_SD, SHEAR_SD = 0.012, 0.006
VELOCITY = ((40.0, 3.4), (20.0, 2.0))
"""Distance of the knots of a velocity field, and its SD per axis, both in mm."""
FLOW_STEPS = 8
LEAST_JACOBIAN = 0.25
LESS = 0.9
MOST_ROUNDS, SETTLED_MM = 60, 1e-4
TERMS = ("linear", "quadratic")
SLOPE_SD: Mapping[str, float] = {
    "R1map": 0.003,
    "PDmap": 0.0,
    "R2starmap": 0.004,
    "MTsat": 0.003,
    "FA": 0.003,
    "MD": 0.002,
    "volume": 0.003,
}
"""Relative SD of the linear coefficient between people; that of the quadratic one is larger by the next number."""
QUADRATIC_OVER_LINEAR = 2.5
# Divergence of a displacement of SD 1 mm per axis on these knots, 1/mm: sqrt(3) times the slope of a cubic B-spline.
DIVERGENCE = float(np.sqrt(3.0 * (2.0 / 3.0) / (151.0 / 315.0))) / FIELD_SPACING_MM


@dataclass(frozen=True, eq=False)
class Drift:
    """What one term of the time basis does to a person, per unit of its course, as coefficients on the knots.

    Attributes
    ----------
    tissue
        Relative, (x, y, z, parameter).
    diffusion
        Relative, (x, y, z, 2): FA and MD.
    displacement
        mm, (x, y, z, 3).
    """

    tissue: Float32
    diffusion: Float32
    displacement: Float32


@dataclass(frozen=True, eq=False)
class Person:
    """One person's anatomy at day 0, and their drift.

    Attributes
    ----------
    to_template
        A: head mm to template mm, (4, 4).
    warp
        Coefficients of w in mm on the knots, (x, y, z, 3).
    variation
        Relative deviation of R1, PD, R2* and MTsat in GM and WM on the knots, (x, y, z, parameter).
    drift
        Term (linear, quadratic) to drift.
    least_jacobian
        Smallest volume of an element in the template over what it was in the head as A leaves it.
    """

    to_template: Float64
    warp: Float32
    variation: Float32
    drift: Mapping[str, Drift]
    least_jacobian: float

    def head(
        self,
        tissues: HeadTissues,
        course: Mapping[str, float],
        changes: tuple[tuple[VisitChange, float], ...] = (),
        growth: tuple[Growth, ...] = (),
    ) -> Head:
        """Return the head on a day, with the value of each term's course on that day."""
        warp, variation = self.warp, self.variation
        for term, value in course.items():
            warp = warp + np.float32(value) * self.drift[term].displacement
            variation = variation + np.float32(value) * self.drift[term].tissue
        return Head(tissues, self.to_template, warp, variation, changes, growth)

    def diffusion_variation(self, course: Mapping[str, float]) -> Float32:
        """Return how far FA and MD have drifted, relative, on the knots, (x, y, z, 2)."""
        out = np.zeros((*FIELD_SHAPE, len(DIFFUSION_PARAMETERS)), dtype=np.float32)
        for term, value in course.items():
            out += np.float32(value) * self.drift[term].diffusion
        return out

    def template_points(self, head_mm: Float64) -> Float64:
        """Return where points (point, 3) of the head lie in the template on day 0, mm."""
        u = head_mm @ self.to_template[:3, :3].T + self.to_template[:3, 3]
        return np.asarray(u + sample_spline(self.warp, field_knots(u)))

    def head_points(self, template_mm: Float64) -> Float64:
        """Return where points (point, 3) of the template lie in the head on day 0, mm.

        u <- t - w(u) until no point moves by more than a tenth of a micrometre, then back by A. It settles, as w
        changes by less than its argument.
        """
        u = template_mm
        for _ in range(MOST_ROUNDS):
            before, u = u, template_mm - sample_spline(self.warp, field_knots(u))
            if np.abs(u - before).max() < SETTLED_MM:
                break
        back = np.linalg.inv(self.to_template)
        return np.asarray(u @ back[:3, :3].T + back[:3, 3])

    def volume_ratio(self, head_mm: Float64) -> Float64:
        """Return how much room a piece of the template takes where it is, at points (point, 3) of the head on day 0."""
        u = head_mm @ self.to_template[:3, :3].T + self.to_template[:3, 3]
        return np.asarray(1.0 / (np.linalg.det(self.to_template[:3, :3]) * warp_jacobian(self.warp, u)))


def warp_jacobian(warp: Float32, points_mm: Float64, step_mm: float = 0.5) -> Float64:
    """Return the determinant of the derivative of ``u + w(u)`` at points (point, 3), by differences."""
    matrix = np.empty((len(points_mm), 3, 3))
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = step_mm
        ahead, behind = (sample_spline(warp, field_knots(points_mm + s * step)).astype(np.float64) for s in (1, -1))
        matrix[:, :, axis] = (ahead - behind) / (2.0 * step_mm)
    matrix += np.eye(3)
    return np.asarray(np.linalg.det(matrix))


def draw_person(
    tissues: HeadTissues, seed: int, participant: str, *, spread: float = 1.0, slopes: float = 1.0
) -> Person:
    """Draw a person.

    Parameters
    ----------
    tissues
        What everybody shares; only its centre and where it is matter here.
    spread
        Factor on how much people differ in size, shape and warp.
    slopes
        Factor on how much they drift between visits.
    """
    rng = generator(seed, "anatomy", participant)
    to_template = _affine(rng, np.asarray(tissues.centre_mm), spread)
    warp, least = _warp(rng, spread, _inside(tissues))
    variation = tissue_variation(generator(seed, "regions"), REGIONAL_SD) + tissue_variation(rng, PERSONAL_SD)
    variation += per_parameter(PERSONAL_SD) * rng.standard_normal(variation.shape[3], dtype=np.float32)
    drift = {term: _drift(generator(seed, "drift", participant, term), term, slopes) for term in TERMS}
    return Person(to_template, warp, variation, drift, least)


def _affine(rng: np.random.Generator, centre_mm: Float64, spread: float) -> Float64:
    size = SIZE_MEAN + spread * float(np.clip(SIZE_SD * rng.standard_normal(), -SIZE_MOST, SIZE_MOST))
    shape = np.eye(3) + spread * np.diag(ASPECT_SD * rng.standard_normal(3))
    shape += spread * SHEAR_SD * rng.standard_normal((3, 3))
    out = np.eye(4)
    out[:3, :3] = np.linalg.inv(size * shape)
    out[:3, 3] = centre_mm - out[:3, :3] @ centre_mm
    return out


def _knot_points() -> Float64:
    """Return where the knots of the smooth fields lie in the template, (point, 3)."""
    return np.asarray(np.indices(FIELD_SHAPE).reshape(3, -1).T * FIELD_SPACING_MM + np.asarray(FIELD_ORIGIN_MM))


def _inside(tissues: HeadTissues) -> Float64:
    """Return points of the template every 6 mm or so at which there is a head, (point, 3)."""
    step = max(1, round(6.0 / tissues.affine[0, 0]))
    filled = tissues.coefficients[::step, ::step, ::step].max(axis=3) > 0
    return np.asarray(np.argwhere(filled) * step * np.diag(tissues.affine)[:3] + tissues.affine[:3, 3])


def _warp(rng: np.random.Generator, spread: float, inside_mm: Float64) -> tuple[Float32, float]:
    """Return w on the knots, and the smallest determinant of the derivative of u + w(u) at points of the template."""
    knots = _knot_points()
    velocity = np.zeros((len(knots), 3))
    for spacing, sd in VELOCITY:
        shape = [int(np.ceil(n * FIELD_SPACING_MM / spacing)) + 3 for n in FIELD_SHAPE]
        coarse = rng.standard_normal((*shape, 3), dtype=np.float32) * np.float32(sd / SPLINE_SD)
        velocity += sample_spline(coarse, (knots - np.asarray(FIELD_ORIGIN_MM)) / spacing + 1.0)
    velocity *= spread
    while True:
        warp = _carried(velocity)
        least = float(warp_jacobian(warp, inside_mm).min())
        if least >= LEAST_JACOBIAN:
            return warp, least
        velocity *= LESS


def _carried(velocity: Float64) -> Float32:
    """Return the displacement of the knots after one unit of time in a velocity field, (x, y, z, 3)."""
    start = _knot_points()
    field = np.ascontiguousarray(velocity.reshape(*FIELD_SHAPE, 3), dtype=np.float32)
    at = start
    for _ in range(FLOW_STEPS):
        middle = at + sample_spline(field, field_knots(at)) * (0.5 / FLOW_STEPS)
        at = at + sample_spline(field, field_knots(middle)) / FLOW_STEPS
    return np.ascontiguousarray((at - start).reshape(*FIELD_SHAPE, 3), dtype=np.float32)


def _drift(rng: np.random.Generator, term: str, slopes: float) -> Drift:
    factor = slopes * (QUADRATIC_OVER_LINEAR if term == "quadratic" else 1.0)
    tissue = tissue_variation(rng, SLOPE_SD)
    sd = np.array([SLOPE_SD[name] for name in DIFFUSION_PARAMETERS]) / SPLINE_SD
    diffusion = rng.standard_normal((*FIELD_SHAPE, len(sd)), dtype=np.float32) * sd.astype(np.float32)
    sd_mm = SLOPE_SD["volume"] / DIVERGENCE / SPLINE_SD
    displacement = rng.standard_normal((*FIELD_SHAPE, 3), dtype=np.float32) * np.float32(sd_mm)
    scaled = (np.asarray(np.float32(factor) * part, dtype=np.float32) for part in (tissue, diffusion, displacement))
    return Drift(*scaled)


def roomier(tissues: HeadTissues) -> HeadTissues:
    """Return the same head with one block more around it, for warps of up to two blocks."""
    return replace(tissues, occupied=ndimage.binary_dilation(tissues.occupied, np.ones((3, 3, 3))))
