"""Diffusion in the simulated head at 3 T: a tensor and a signal at any point, in any pose.

========  ======  ======  ======  ======  ======================================================================
value     GM      WM      CSF     scalp   typical of
========  ======  ======  ======  ======  ======================================================================
MD        0.80    0.75    3.0     0.2     1e-3 mm2/s: brain [1]_; water at 37 degrees [2]_; fat hardly diffuses
FA        0.10    0.80    0.0     0.0     of fibres that all run one way: where they spread FA is lower, .5 in
                                          the median of white matter
T2        99      69      1500    40      ms; GM, WM: [3]_; CSF and scalp are chosen
visible   1       1       1       0.03    of the signal: fat is suppressed
========  ======  ======  ======  ======  ======================================================================

Parameters are mixed, not signals, as in the other simulated images (:mod:`voxcloud.testing.raw_head`). With fractions
p_t, and M how fibres are spread (:mod:`voxcloud.testing.raw_fibres`),

    D = sum_t p_t MD_t (1 + d_t (3 M - 1)) / sum_t p_t,     d_t = FA_t / sqrt(3 - 2 FA_t^2)
    S(b, g) = S0 exp(-b g' D g),     S0 = sum_t p_t PD_t (1 - exp(-TR R1_t)) exp(-TE / T2_t) visible_t

so that one tensor describes a voxel exactly. Where M = v v' the tensor of a tissue is a cylinder with FA_t along v.
People and regions differ by factors on MD and on the FA of the mixture: FA becomes FA' if its anisotropic part is
multiplied by ``FA' / FA sqrt((3/2 - FA^2) / (3/2 - FA'^2))``.

References
----------
.. [1] Pierpaoli C et al. (1996) Radiology 201:637-648. doi:10.1148/radiology.201.3.8939209
.. [2] Holz M, Heil SR, Sacco A (2000) Phys Chem Chem Phys 2:4740-4742. doi:10.1039/b005319h
.. [3] Stanisz GJ et al. (2005) MRM 54:507-512. doi:10.1002/mrm.20605
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from voxcloud.testing.fields import Float32, Float64, generator
from voxcloud.testing.raw_fibres import PAIRS, FibreField
from voxcloud.testing.raw_head import FIELD_ORIGIN_MM, FIELD_SHAPE, FIELD_SPACING_MM, SPLINE_SD, Head, VisitChange
from voxcloud.testing.raw_sampling import sample_spline
from voxcloud.testing.raw_tissue import TISSUES, VALUES

MEAN_DIFFUSIVITY = {"GM": 0.80e-3, "WM": 0.75e-3, "CSF": 3.0e-3, "scalp": 0.2e-3}
ANISOTROPY = {"GM": 0.10, "WM": 0.80, "CSF": 0.0, "scalp": 0.0}
T2_S = {"GM": 0.099, "WM": 0.069, "CSF": 1.5, "scalp": 0.040}
VISIBLE = {"GM": 1.0, "WM": 1.0, "CSF": 1.0, "scalp": 0.03}
DIFFUSION_SOURCES = {
    "MD, FA of GM and WM": "doi:10.1148/radiology.201.3.8939209",
    "MD of CSF": "doi:10.1039/b005319h",
    "T2 of GM and WM": "doi:10.1002/mrm.20605",
    "note": "rounded, typical values; FA is of fibres that all run one way; T2 of CSF and scalp are chosen",
}
DIFFUSION_PARAMETERS = ("FA", "MD")
"""What may change from visit to visit, within GM and WM."""

REGIONAL_SD, PERSONAL_SD = {"FA": 0.04, "MD": 0.03}, {"FA": 0.03, "MD": 0.02}
HIGHEST_FA = 0.95
NOTHING = 1e-3  # sum of fractions below which there is no tissue
CHUNK_POINTS = 16_384


def tissue_signal(echo_time_s: float, repetition_time_s: float) -> Float32:
    """Return S0 per tissue, (tissue,): spin echo, per unit of PD."""
    return np.array(
        [
            VALUES[t]["PDmap"]
            * -np.expm1(-repetition_time_s * VALUES[t]["R1map"])
            * np.exp(-echo_time_s / T2_S[t])
            * VISIBLE[t]
            for t in TISSUES
        ],
        dtype=np.float32,
    )


def elongation(fa: float) -> float:
    """Return d of the cylinder ``MD (1 + 2 d), MD (1 - d), MD (1 - d)`` with this FA: ``FA / sqrt(3 - 2 FA^2)``."""
    return float(fa / np.sqrt(3.0 - 2.0 * fa * fa))


ELONGATION = {tissue: np.float32(elongation(fa)) for tissue, fa in ANISOTROPY.items()}


@dataclass(frozen=True)
class Mixture:
    """Tissue at points where there is any.

    Attributes
    ----------
    template_mm
        (point, 3).
    fractions
        (point, tissue).
    s0
        (point,).
    """

    template_mm: Float64
    fractions: Float32
    s0: Float32


@dataclass(frozen=True)
class DiffusionHead:
    """One person's head at one visit as diffusion images see it.

    Attributes
    ----------
    head
        Its tissue.
    fibres
        Everybody's, in the template's frame; a person's shape moves them but does not turn them.
    relative
        Relative deviation of FA, and of MD within GM and WM, of this person at this visit, as coefficients on the knots
        of the fibres, (x, y, z, 2).
    s0
        (tissue,), see ``tissue_signal``.
    """

    head: Head
    fibres: FibreField
    relative: Float32
    s0: Float32

    def mixture(self, points_mm: Float64) -> Mixture:
        """Return what tissue is at points (point, 3) of the head's frame, mm."""
        template = self.head.template_points(points_mm)
        fractions = sample_spline(self.head.tissues.coefficients, self.head.tissues.voxels(template))
        return Mixture(template, fractions, fractions @ self.s0)

    def signal(self, mixture: Mixture, bval: float, direction: Float64) -> Float32:
        """Return the signal (point,) with diffusion weighting along a unit vector (3,) of the head's frame.

        Parameters
        ----------
        bval
            s/mm2.
        """
        if bval == 0.0:
            return mixture.s0
        one = np.zeros((*self.relative.shape[:3], 4), dtype=np.float32)
        one[..., 0], one[..., 1:3], one[..., 3] = self.fibres.along(direction), self.relative, self.fibres.order()
        out = np.empty_like(mixture.s0)
        for part in chunks(len(out)):
            brain = np.flatnonzero(mixture.fractions[part, :2].max(axis=1) > 0)  # nothing else has fibres
            seen = np.zeros((part.stop - part.start, 4), dtype=np.float32)
            seen[brain] = sample_spline(one, self._knots(mixture.template_mm[part][brain]))
            diffusivity, stretch = mixed_diffusion(mixture.fractions[part], seen[:, 1:3], seen[:, 3])
            decay = diffusivity + stretch * (3.0 * seen[:, 0] - 1.0)
            out[part] = mixture.s0[part] * np.exp(np.float32(-bval) * decay)
        return out

    def tensors(self, mixture: Mixture) -> Float64:
        """Return D at points, (point, 3, 3) in mm2/s along the axes of the head's frame; 0 where there is no tissue."""
        knots = self._knots(mixture.template_mm)
        order = sample_spline(self.fibres.order()[..., None], knots)[:, 0]
        diffusivity, stretch = mixed_diffusion(mixture.fractions, sample_spline(self.relative, knots), order)
        out = np.zeros((len(knots), 3, 3))
        for k, (a, b) in enumerate(PAIRS):
            element = sample_spline(self.fibres.coefficients[..., k : k + 1], knots)[:, 0].astype(np.float64)
            out[:, a, b] = out[:, b, a] = 3.0 * stretch * element
        for a in range(3):
            out[:, a, a] += diffusivity - stretch
        out[mixture.fractions.sum(axis=1) < NOTHING] = 0.0
        return out

    def _knots(self, template_mm: Float64) -> Float64:
        return self.fibres.knots(template_mm - np.asarray(self.head.tissues.centre_mm))


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of points that fit into a processor's cache."""
    for start in range(0, count, CHUNK_POINTS):
        yield slice(start, min(start + CHUNK_POINTS, count))


def mixed_diffusion(fractions: Float32, relative: Float32, order: Float32) -> tuple[Float32, Float32]:
    """Return D as ``diffusivity`` and ``stretch`` of ``diffusivity + stretch (3 M - 1)``, (point,) in mm2/s.

    They are the sums of ``p MD`` and of ``p MD d`` over the sum of p, and then what the module says of FA.

    Parameters
    ----------
    fractions
        (point, tissue).
    relative
        (point, 2): deviation of FA, and of MD within GM and WM.
    order
        (point,): sum of the squares of the elements of M, 1/3 to 1.
    """
    diffusivity, stretch = np.zeros((2, len(fractions)), dtype=np.float32)
    total = np.full(len(fractions), NOTHING, dtype=np.float32)
    for at in range(len(TISSUES)):
        total += fractions[:, at]
    for at, tissue in enumerate(TISSUES):
        part = fractions[:, at] * np.float32(MEAN_DIFFUSIVITY[tissue])
        if tissue in ("GM", "WM"):
            part *= 1.0 + relative[:, 1]
            stretch += part * ELONGATION[tissue]
        diffusivity += part
    square = stretch * stretch * np.maximum(9.0 * order - 3.0, 0.0)
    fa = np.sqrt(1.5 * square / np.maximum(3.0 * diffusivity * diffusivity + square, np.float32(1e-30)))
    factor = np.minimum(1.0 + relative[:, 0], HIGHEST_FA / np.maximum(fa, np.float32(0.01)))
    stretch *= factor * np.sqrt((1.5 - fa * fa) / (1.5 - (factor * fa) ** 2))
    return diffusivity / total, stretch / total


def diffusion_head(
    head: Head,
    fibres: FibreField,
    seed: int,
    participant: str,
    visit: int,
    *,
    echo_time_s: float,
    repetition_time_s: float,
    changes: Sequence[VisitChange] = (),
    drift: Float32 | None = None,
) -> DiffusionHead:
    """Draw how a person's FA and MD deviate; regional variation is everybody's.

    Parameters
    ----------
    visit
        0 is the first; changes have gone on for so many visits.
    changes
        Of FA or MD.
    drift
        By how much more they deviate on the knots of the smooth fields, (x, y, z, 2).
    """
    rng = generator(seed, "diffusion", participant)
    variation = np.zeros((*FIELD_SHAPE, 2), dtype=np.float32)
    for drawn, sd in ((generator(seed, "diffusion-regions"), REGIONAL_SD), (rng, PERSONAL_SD)):
        scale = np.array([sd[name] for name in DIFFUSION_PARAMETERS], dtype=np.float32) / np.float32(SPLINE_SD)
        variation += drawn.standard_normal(variation.shape, dtype=np.float32) * scale
    for at, name in enumerate(DIFFUSION_PARAMETERS):
        variation[..., at] += np.float32(PERSONAL_SD[name] * rng.standard_normal())
    if drift is not None:
        variation += drift
    points = fibres.points_mm() + np.asarray(head.tissues.centre_mm)
    relative = sample_spline(variation, (points - np.asarray(FIELD_ORIGIN_MM)) / FIELD_SPACING_MM)
    for change in changes:
        at = DIFFUSION_PARAMETERS.index(change.parameter)
        relative[:, at] += (1.0 + relative[:, at]) * (change.relative * visit * change.profile(points))
    lattice = np.ascontiguousarray(relative.reshape(*fibres.coefficients.shape[:3], 2))
    return DiffusionHead(head, fibres, lattice, tissue_signal(echo_time_s, repetition_time_s))


def scalars(tensors: Float64) -> dict[str, Float64]:
    """Return FA, MD, AD, RD and the principal direction of tensors (point, 3, 3), as ``(point,)`` and ``(point, 3)``.

    ``FA = sqrt(3/2 sum (l - MD)^2 / sum l^2)``, 0 where the tensor is; AD is the largest eigenvalue, RD the mean of the
    other two.
    """
    values, vectors = np.linalg.eigh(tensors)
    mean = values.mean(axis=1)
    size = np.maximum((values**2).sum(axis=1), 1e-30)
    fa = np.sqrt(1.5 * ((values - mean[:, None]) ** 2).sum(axis=1) / size)
    radial = values[:, :2].mean(axis=1)
    return {"FA": fa, "MD": mean, "AD": values[:, 2], "RD": radial, "fibres": vectors[:, :, 2] * (mean > 0)[:, None]}
