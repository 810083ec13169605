"""The section ``space`` of the study file: how maps come from each visit's own space into that of the template."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from voxcloud.config.part import Part
from voxcloud.errors import nearest

TEMPLATE = "MNI152NLin2009aSym"
TISSUES = ("GM", "WM")
MPM_MAPS = ("R1map", "MTsat", "R2starmap")
DWI_MAPS = ("FA", "MD", "AD", "RD")
VOLUME = "volume"

Millimetres = Annotated[float, Field(ge=0, le=30)]


class Fwhm(Part):
    """Full width at half maximum of the smoothing kernel in each tissue."""

    GM: Millimetres = Field(..., description="In grey matter, mm; 0: not smoothed.")
    WM: Millimetres = Field(..., description="In white matter, mm; 0: not smoothed.")


# Draganski et al. 2011 and the study that voxcloud is modelled on: white matter of MPM is smoothed less, because its
# values differ less between neighbours.
DEFAULT_FWHM: dict[str, Fwhm] = {
    **dict.fromkeys(MPM_MAPS, Fwhm(GM=5, WM=3)),
    **dict.fromkeys(DWI_MAPS, Fwhm(GM=5, WM=5)),
    VOLUME: Fwhm(GM=6, WM=4),
}


class Space(Part):
    """Within-participant template, segmentation, normalisation and smoothing; everything has a default."""

    resolution_mm: float = Field(
        1.5, ge=1, le=8, description=f"Voxel size of the grid of {TEMPLATE} on which everything is analysed, mm."
    )
    anatomy: Literal["auto", "MTsat", "R1map"] = Field(
        "auto",
        description="Image that visits are aligned by, that is segmented and normalised; auto: MTsat where every "
        "session has it, else R1map.",
    )
    registration: Literal["greedy", "antspyx", "dipy"] = Field(
        "greedy", description="Program of the non-linear normalisation; antspyx and dipy must be installed."
    )
    longitudinal: Literal["deformation", "none"] = Field(
        "deformation",
        description="How volume changes within a participant: by the deformation of each visit to the midpoint, or not "
        "(one volume for all visits).",
    )
    fwhm_mm: dict[str, Fwhm] = Field(
        {}, description="Smoothing by map, e.g. {R1map: {GM: 5, WM: 3}}; maps that are not named keep their defaults."
    )

    @field_validator("fwhm_mm")
    @classmethod
    def _known_maps(cls, table: dict[str, Fwhm]) -> dict[str, Fwhm]:
        for name in table:
            if name not in DEFAULT_FWHM:
                raise ValueError(
                    f"map '{name}' is not smoothed.{nearest(name, DEFAULT_FWHM)} Expected one of: "
                    f"{', '.join(DEFAULT_FWHM)}"
                )
        return table

    def fwhm(self, map_name: str, label: str) -> float:
        """Return the kernel of a map in a tissue, mm."""
        return float(getattr(self.fwhm_mm.get(map_name, DEFAULT_FWHM[map_name]), label))
