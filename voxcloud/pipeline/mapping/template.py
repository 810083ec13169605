"""The template by which tissue is found in a session: ICBM 2009a symmetric, as nilearn ships it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESOLUTION_MM = 2


@dataclass(frozen=True, eq=False)
class Template:
    """A T1-weighted brain with tissue probabilities on one grid."""

    t1: npt.NDArray[np.float32]
    priors: dict[str, npt.NDArray[np.float32]]
    affine: npt.NDArray[np.float64]


@functools.cache
def load_template() -> Template:
    """Read the template once in each process."""
    from nilearn import datasets

    def values(image: Any) -> npt.NDArray[np.float32]:
        return np.asarray(image.get_fdata(dtype=np.float32))

    t1 = datasets.load_mni152_template(resolution=RESOLUTION_MM)
    priors = {
        "GM": values(datasets.load_mni152_gm_template(resolution=RESOLUTION_MM)),
        "WM": values(datasets.load_mni152_wm_template(resolution=RESOLUTION_MM)),
    }
    return Template(values(t1), priors, np.asarray(t1.affine, dtype=np.float64))
