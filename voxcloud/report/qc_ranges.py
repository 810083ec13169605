"""What medians of white and grey matter are published to be at 3 T, and how well scans of one person agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELD_STRENGTH_T = 3.0
# 2.89 T is sold as 3 T.
NEAR_T = 0.2

WEISKOPF_2013 = "doi:10.3389/fnins.2013.00095"
COOPER_2020 = "doi:10.3389/fnins.2020.611194"
# Coefficient of variation between three sites (Weiskopf 2013): under 8 % for R1 and MTsat, under 20 % for R2*.
BETWEEN_SITES = {"R1map": 0.08, "MTsat": 0.08, "R2starmap": 0.20}


@dataclass(frozen=True)
class PublishedRange:
    """Values in which the median of a healthy adult's tissue is expected, in the map's unit.

    Attributes
    ----------
    lowest, highest
        Published values of groups or persons.
    variation
        What the range is wider by, relative: the coefficient of variation between sites, twice for a single value.
    sources
        DOIs of the values.
    note
        What else moves a healthy person's median; empty where nothing in particular does.
    """

    lowest: float
    highest: float
    variation: float
    sources: tuple[str, ...]
    note: str = ""

    @property
    def low(self) -> float:
        """Lower end."""
        return round(self.lowest * (1.0 - self.variation), 2)

    @property
    def high(self) -> float:
        """Upper end."""
        return round(self.highest * (1.0 + self.variation), 2)

    @property
    def words(self) -> str:
        """Both ends, as a reader would write them."""
        return f"{self.low:.3g} to {self.high:.3g}"

    @property
    def source(self) -> str:
        """DOIs in words."""
        return ", ".join(self.sources)


# (map, tissue): the lowest and the highest value. Cooper 2020: region means of six people, three scans each (the table
# of means with measured B1 that comes with the paper): cerebral white matter of single scans, and the median over
# cortical regions of single people. Weiskopf 2013: typical values, rounded: 1.04 and .61 1/s, 1.7 and .85 p.u., 21 and
# 15.8 1/s. For MTsat these alone, with twice the variation: the tables of Cooper 2020 with and without unringing
# differ by a factor of 2.26 for the same scans.
_PUBLISHED: Mapping[tuple[str, str], tuple[float, float]] = {
    ("R1map", "WM"): (0.83, 1.04),
    ("R1map", "GM"): (0.60, 0.64),
    ("MTsat", "WM"): (1.70, 1.70),
    ("MTsat", "GM"): (0.85, 0.85),
    ("R2starmap", "WM"): (20.0, 21.5),
    ("R2starmap", "GM"): (15.8, 18.0),
}
WIDER = BETWEEN_SITES | {"MTsat": 2 * BETWEEN_SITES["MTsat"]}
_SOURCES = {
    "R1map": (WEISKOPF_2013, COOPER_2020),
    "MTsat": (WEISKOPF_2013,),
    "R2starmap": (WEISKOPF_2013, COOPER_2020),
}
_NOTES = {"MTsat": "MTsat depends on the MT pulse of the sequence, which vendors and versions choose differently"}
RANGES: Mapping[tuple[str, str], PublishedRange] = {
    (name, tissue): PublishedRange(low, high, WIDER[name], _SOURCES[name], _NOTES.get(name, ""))
    for (name, tissue), (low, high) in _PUBLISHED.items()
}
"""Age, disease, another MT pulse and partial volume move medians too: a value outside is something to look at and not
an error. PD, and the amplitude before it is calibrated, have none."""

# Of 18 scans, three of each of six people, the mean over white matter differs from the person's median by up to 3.6 %
# in R1, 2.4 % in MTsat and .9 % in R2* (Cooper 2020, as above): a median over a tissue should do no worse.
LARGEST_CHANGE: Mapping[str, float] = {"R1map": 0.05, "MTsat": 0.05, "R2starmap": 0.05}


def published_range(qc: Mapping[str, Any], name: str, tissue: str) -> PublishedRange | None:
    """Return the range for a session's map, None where nothing is published for its field strength."""
    strength = qc.get("field_strength_t")
    if strength is None or abs(float(strength) - FIELD_STRENGTH_T) > NEAR_T:
        return None
    return RANGES.get((name, tissue))
