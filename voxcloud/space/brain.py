"""The brain among what a segmentation found: its largest part, without holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Bool = npt.NDArray[np.bool_]


def largest_part(mask: Bool) -> Bool:
    """Return the largest connected part (through faces); an empty mask comes back as it is."""
    labels, n = ndimage.label(mask)
    return mask if n == 0 else np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:])))


def inner_brain(fractions: npt.NDArray[Any]) -> tuple[Bool, Bool]:
    """Return the brain, and the brain with one voxel around it in which its surface has fractions of tissue.

    Parameters
    ----------
    fractions : (tissue, x, y, z), 0 to 1.
    """
    brain = np.asarray(ndimage.binary_fill_holes(largest_part(fractions.sum(axis=0) >= 0.5)))
    return brain, np.asarray(ndimage.binary_dilation(brain))
