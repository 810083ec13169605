"""Tissue values of the simulated raw data at 3 T.

========  ======  ======  ======  ======  =====================================================================
map       GM      WM      CSF     scalp   typical of
========  ======  ======  ======  ======  =====================================================================
R1map     0.61    1.04    0.25    2.6     GM, WM: multi-parameter mapping [1]_ [2]_ [3]_; CSF: T1 3.7 s
                                          (SD 0.5) [4]_; scalp: fat, T1 382 ms (SD 13) [5]_
PDmap     82      69      100     70      WM is 69 by definition of the scale [1]_ [3]_; CSF is water
R2starmap 15.8    21.0    2.0     35.0    GM, WM: [1]_ [3]_; fat has T2 68 ms (SD 4) [5]_, and air is near
MTsat     0.85    1.70    0.0     0.2     GM, WM: [1]_ [2]_ [3]_; fluid has no macromolecules
========  ======  ======  ======  ======  =====================================================================

R1 and R2* in 1/s, PD and MTsat in percent units. The values of GM and WM are those of the simulated maps
(:mod:`voxcloud.testing.tissue`): rounded and typical, not the mean of one sample in one of the papers. Those of R2* in
fluid and scalp, and of MTsat in scalp, are chosen.

References
----------
.. [1] Weiskopf N et al. (2013) Front Neurosci 7:95. doi:10.3389/fnins.2013.00095
.. [2] Callaghan MF et al. (2014) Neurobiol Aging 35:1862-1872. doi:10.1016/j.neurobiolaging.2014.02.008
.. [3] Tabelow K et al. (2019) NeuroImage 194:191-210. doi:10.1016/j.neuroimage.2019.01.029
.. [4] Clare S, Jezzard P (2001) MRM 45:630-634. doi:10.1002/mrm.1085
.. [5] de Bazelaire CMJ et al. (2004) Radiology 230:652-659. doi:10.1148/radiol.2303021331
"""

from __future__ import annotations

import numpy as np

from voxcloud.testing.fields import Float32
from voxcloud.testing.tissue import MAP_MODELS

TISSUES = ("GM", "WM", "CSF", "scalp")
PARAMETERS = ("R1map", "PDmap", "R2starmap", "MTsat")
UNITS = {"R1map": "1/s", "PDmap": "p.u.", "R2starmap": "1/s", "MTsat": "p.u."}


def _brain(label: str, pd: float) -> dict[str, float]:
    """Return the values that the simulated maps have too, and PD."""
    shared = {name: MAP_MODELS[name].level(label) for name in PARAMETERS if name != "PDmap"}
    return {name: pd if name == "PDmap" else shared[name] for name in PARAMETERS}


VALUES: dict[str, dict[str, float]] = {
    "GM": _brain("GM", 82.0),
    "WM": _brain("WM", 69.0),
    "CSF": {"R1map": 0.25, "PDmap": 100.0, "R2starmap": 2.0, "MTsat": 0.0},
    "scalp": {"R1map": 2.6, "PDmap": 70.0, "R2starmap": 35.0, "MTsat": 0.2},
}
"""Value per tissue and map."""

TISSUE_VALUES: Float32 = np.array([[VALUES[t][p] for p in PARAMETERS] for t in TISSUES], dtype=np.float32)
"""(tissue, parameter)."""

SOURCES: dict[str, str] = {
    "GM": "doi:10.3389/fnins.2013.00095 doi:10.1016/j.neurobiolaging.2014.02.008 doi:10.1016/j.neuroimage.2019.01.029",
    "WM": "doi:10.3389/fnins.2013.00095 doi:10.1016/j.neurobiolaging.2014.02.008 doi:10.1016/j.neuroimage.2019.01.029",
    "CSF": "doi:10.1002/mrm.1085",
    "scalp": "doi:10.1148/radiol.2303021331",
    "note": "rounded, typical values; R2* of CSF and scalp and MTsat of scalp are chosen",
}
"""Where the values come from."""
