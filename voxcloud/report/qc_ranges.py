"""What medians of white and grey matter are published to be at 3 T."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELD_STRENGTH_T = 3.0
SOURCE = "doi:10.3389/fnins.2013.00095"


@dataclass(frozen=True)
class PublishedRange:
    """Values in which a session's median is expected.

    Attributes
    ----------
    low, high
        In the map's unit.
    source
        DOI.
    """

    low: float
    high: float
    source: str = SOURCE


def _around(value: float, variation: float) -> PublishedRange:
    """Return a typical value with twice the variation between sites."""
    return PublishedRange(round(value * (1 - 2 * variation), 3), round(value * (1 + 2 * variation), 3))


# Typical values (rounded) of multi-parameter mapping in healthy adults at 3 T, with twice the coefficient of variation
# that five people at three sites showed: 8 %, for R2* 20 % (Weiskopf et al. 2013). Age, disease and another MT pulse
# move medians too: a value outside is something to look at and not an error.
RANGES: Mapping[tuple[str, str], PublishedRange] = {
    ("R1map", "WM"): _around(1.04, 0.08),
    ("R1map", "GM"): _around(0.61, 0.08),
    ("MTsat", "WM"): _around(1.70, 0.08),
    ("MTsat", "GM"): _around(0.85, 0.08),
    ("R2starmap", "WM"): _around(21.0, 0.20),
    ("R2starmap", "GM"): _around(15.8, 0.20),
}


def published_range(qc: Mapping[str, Any], name: str, tissue: str) -> PublishedRange | None:
    """Return the range for a session's map, None where nothing is published for its field strength."""
    strength = qc.get("field_strength_t")
    if strength is None or abs(float(strength) - FIELD_STRENGTH_T) > 0.2:
        return None
    return RANGES.get((name, tissue))
