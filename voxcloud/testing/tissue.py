"""What the simulated maps contain: tissue values, variation between people, change and noise.

Everything but the tissue value is relative to it (0.01 is 1 % of the map's value in that tissue). Rounded, typical
values at 3 T:

=========  =====  =======  =======  ==================================================
map        units  GM       WM       typical of
=========  =====  =======  =======  ==================================================
R1map      1/s    0.61     1.04     multi-parameter mapping [1]_ [3]_
MTsat      p.u.   0.85     1.70     multi-parameter mapping [1]_ [2]_ [3]_
R2starmap  1/s    15.8     21.0     multi-parameter mapping [1]_ [3]_
FA         1      0.15     0.45     parenchyma, smoothed maps [4]_
MD         mm2/s  0.85e-3  0.75e-3  parenchyma [4]_
volume     1      tissue   tissue   probability times Jacobian determinant
=========  =====  =======  =======  ==================================================

AD and RD follow from FA and MD by an axially symmetric tensor, so that the four diffusion maps of an image describe
one tensor: with k = AD / RD, FA = (k - 1) / sqrt(k^2 + 2) and MD = (AD + 2 RD) / 3.

The variances are chosen, not measured: about 1 % between the scans of a person after smoothing and 4 to 5 % between
people, below the coefficients of variation between sites in [1]_ (under 8 %; R2* under 20 %). The signs of the age
slopes are those of [2]_.

References
----------
.. [1] Weiskopf N et al. (2013) Quantitative multi-parameter mapping of R1, PD*, MT, and R2* at 3T: a multi-center
   validation. Front Neurosci 7:95. doi:10.3389/fnins.2013.00095
.. [2] Callaghan MF et al. (2014) Widespread age-related differences in the human brain microstructure revealed by
   quantitative magnetic resonance imaging. Neurobiol Aging 35:1862-1872. doi:10.1016/j.neurobiolaging.2014.02.008
.. [3] Tabelow K et al. (2019) hMRI - A toolbox for quantitative MRI in neuroscience and clinical research.
   NeuroImage 194:191-210. doi:10.1016/j.neuroimage.2019.01.029
.. [4] Alexander AL et al. (2007) Diffusion tensor imaging of the brain. Neurotherapeutics 4:316-329.
   doi:10.1016/j.nurt.2007.05.011
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxcloud.testing.anatomy import Anatomy
from voxcloud.testing.fields import Float32

MAPS = ("R1map", "MTsat", "R2starmap", "FA", "MD", "AD", "RD", "volume")
"""The eight maps of the model study."""

DERIVED = ("AD", "RD")
"""Maps that follow from FA and MD."""


@dataclass(frozen=True)
class MapModel:
    """How one map varies.

    Attributes
    ----------
    gm, wm
        Mean value in the units of the map.
    between
        SD between participants, relative.
    linear, quadratic
        SD of the participants' linear and quadratic coefficients, relative.
    noise
        SD of a single image about the participant's course, relative.
    age
        Change per year of age, relative.
    tiv
        Change per litre of total intracranial volume, relative.
    """

    gm: float
    wm: float
    between: float
    linear: float
    quadratic: float
    noise: float
    age: float = 0.0
    tiv: float = 0.0

    def level(self, label: str) -> float:
        """Return the mean value in a tissue; without a label, the mean of both."""
        return {"GM": self.gm, "WM": self.wm, "": 0.5 * (self.gm + self.wm)}[label]

    def coefficient_sd(self, term: str, unit_variance: float) -> float:
        """Return the SD (relative) of a participant's estimated coefficient.

        sd^2 = slope^2 + noise^2 c'(X'X)^-1 c, the second factor given as ``unit_variance``.
        """
        slope = {"intercept": self.between, "linear": self.linear, "quadratic": self.quadratic}[term]
        return float(np.sqrt(slope**2 + self.noise**2 * unit_variance))


def _model(gm: float, wm: float, noise: float, between: float = 0.04, age: float = 0.0, tiv: float = 0.0) -> MapModel:
    return MapModel(gm, wm, between, linear=0.6 * noise, quadratic=1.5 * noise, noise=noise, age=age, tiv=tiv)


MAP_MODELS: dict[str, MapModel] = {
    "R1map": _model(0.61, 1.04, noise=0.010, age=-0.0006),
    "MTsat": _model(0.85, 1.70, noise=0.012, age=-0.0015),
    "R2starmap": _model(15.8, 21.0, noise=0.015, between=0.05, age=0.0015),
    "FA": _model(0.15, 0.45, noise=0.012, age=-0.0010),
    "MD": _model(0.85e-3, 0.75e-3, noise=0.008, age=0.0010),
    "volume": _model(1.0, 1.0, noise=0.008, between=0.05, age=-0.0020, tiv=0.25),
}
"""Models of the maps that are drawn; AD and RD are computed from FA and MD."""


def base_image(anatomy: Anatomy, map_name: str, label: str) -> Float32:
    """Return the mean image (x, y, z) of a map, in its units.

    Inside a tissue the T1-weighted contrast of the template modulates the mean by up to 20 %, so that the maps show
    anatomy; ``volume`` is the tissue probability itself.
    """
    if map_name == "volume":
        return np.asarray(anatomy.tissue(label), dtype=np.float32)
    inside = anatomy.mask & (anatomy.tissue(label) > 0.5)
    middle = float(np.median(anatomy.t1[inside])) if inside.any() else 1.0
    texture = np.clip(1.0 + 0.5 * (anatomy.t1 - middle), 0.8, 1.2)
    return np.asarray(MAP_MODELS[map_name].level(label) * texture, dtype=np.float32)


def axial_radial(fa: Float32, md: Float32) -> tuple[Float32, Float32]:
    """Return AD and RD of the axially symmetric tensor with this FA and MD.

    k = (1 + FA sqrt(3 - 2 FA^2)) / (1 - FA^2), RD = 3 MD / (k + 2), AD = k RD.
    """
    f = np.asarray(fa, dtype=np.float64)
    k = (1.0 + f * np.sqrt(3.0 - 2.0 * f**2)) / (1.0 - f**2)
    rd = 3.0 * np.asarray(md, dtype=np.float64) / (k + 2.0)
    return (k * rd).astype(np.float32), rd.astype(np.float32)
