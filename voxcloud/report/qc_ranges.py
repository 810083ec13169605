"""What medians of white and grey matter are published to be at 3 T, and how well two scans of one person agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELD_STRENGTH_T = 3.0

WEISKOPF = "doi:10.3389/fnins.2013.00095"
CALLAGHAN = "doi:10.1016/j.neurobiolaging.2014.02.008"
LEUTRITZ = "doi:10.1002/hbm.25122"
COOPER = "doi:10.3389/fnins.2020.611194"


@dataclass(frozen=True)
class PublishedRange:
    """Values in which a session's median is expected.

    Attributes
    ----------
    low, high
        In the map's unit.
    sources
        DOIs of the lowest and the highest value, and of how far sites and scans differ.
    note
        What moves a healthy person's median out of it; empty where nothing in particular does.
    """

    low: float
    high: float
    sources: tuple[str, ...]
    note: str = ""

    @property
    def source(self) -> str:
        """The DOIs in one line."""
        return ", ".join(self.sources)


# Published protocols differ more than people do, so a range reaches from the lowest to the highest published level,
# widened by the variation between sites: 8 % for R1 and MTsat, 20 % for R2* (five people at three sites, Weiskopf 2013;
# 4 to 10 % and 16 % in Leutritz 2020). Levels:
# - R1: cerebral white matter .823 to .890 1/s over six people scanned three times with product sequences (data of
#   Cooper 2020, clinicalmpm.github.io, "mean_b1_unringing"), typically 1.04 with the sequences of Weiskopf 2013 and
#   Callaghan 2014, corrected for imperfect spoiling; grey matter typically .61.
# - MTsat: 1.70 in white and .85 p.u. in grey matter with the sequences of Weiskopf 2013; 3.25 to 3.55 in the white
#   matter of Cooper 2020, whose scanner has another MT pulse. Leutritz 2020 scaled vendors to each other for this.
# - R2*: 20.0 to 21.5 1/s in the white matter of Cooper 2020, typically 21.0 in Weiskopf 2013; grey matter 15.8.
SPREAD = {"R1map": 0.08, "MTsat": 0.08, "R2starmap": 0.20}
PULSE = "it depends on the MT pulse of the sequence, which differs between vendors and versions"
LEVELS: Mapping[tuple[str, str], tuple[float, float, tuple[str, ...], str]] = {
    ("R1map", "WM"): (0.85, 1.04, (COOPER, WEISKOPF, CALLAGHAN), ""),
    ("R1map", "GM"): (0.55, 0.65, (COOPER, WEISKOPF, CALLAGHAN), "partial volume with white matter and fluid"),
    ("MTsat", "WM"): (1.70, 3.40, (WEISKOPF, COOPER, LEUTRITZ), PULSE),
    ("MTsat", "GM"): (0.85, 2.00, (WEISKOPF, COOPER, LEUTRITZ), PULSE),
    ("R2starmap", "WM"): (20.7, 21.0, (COOPER, WEISKOPF), ""),
    ("R2starmap", "GM"): (15.8, 16.5, (WEISKOPF, COOPER), "iron, and air close by"),
}
RANGES: Mapping[tuple[str, str], PublishedRange] = {
    key: PublishedRange(round(low * (1 - SPREAD[key[0]]), 3), round(high * (1 + SPREAD[key[0]]), 3), sources, note)
    for key, (low, high, sources, note) in LEVELS.items()
}

# Of 18 scans, three of each of six people, the mean over white matter differs from the person's median by up to 3.6 %
# in R1, 2.4 % in MTsat and .9 % in R2* (data of Cooper 2020): a median over a tissue should do no worse.
LARGEST_CHANGE: Mapping[str, float] = {"R1map": 0.05, "MTsat": 0.05, "R2starmap": 0.05}
CHANGE_SOURCE = COOPER


def published_range(qc: Mapping[str, Any], name: str, tissue: str) -> PublishedRange | None:
    """Return the range for a session's map, None where nothing is published for its field strength."""
    strength = qc.get("field_strength_t")
    if strength is None or abs(float(strength) - FIELD_STRENGTH_T) > 0.2:
        return None
    return RANGES.get((name, tissue))
