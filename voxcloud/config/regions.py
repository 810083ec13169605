"""The section ``regions`` of the study file: search volumes from an atlas that the user has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from voxcloud.config.part import Part

Tissue = Literal["GM", "WM"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]

# The analysis masks of the study that voxcloud is modelled on leave out what lies below these.
MIN_TISSUE: dict[Tissue, float] = {"GM": 0.2, "WM": 0.6}


class AtlasRegion(Part):
    """One region: labels of one atlas, and the tissue in which it is searched."""

    atlas: str = Field(
        ...,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the atlas: its label XML in the folder, without .xml, e.g. Juelich.",
    )
    labels: tuple[str, ...] = Field(
        ...,
        min_length=1,
        description="Names of labels, or shell-style patterns such as `GM Primary motor cortex*`; capitals do not "
        "matter. A pattern that fits no label is an error.",
    )
    tissue: Tissue | tuple[Tissue, ...] = Field(..., description="GM or WM; [GM, WM]: the region in each of them.")

    @field_validator("labels")
    @classmethod
    def _not_empty(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not all(label.strip() for label in labels):
            raise ValueError("expected names or patterns of labels, found an empty one")
        return labels

    @property
    def tissues(self) -> tuple[Tissue, ...]:
        """The tissues in which the region is searched."""
        return (self.tissue,) if isinstance(self.tissue, str) else self.tissue

    @model_validator(mode="after")
    def _some_tissue(self) -> AtlasRegion:
        if not self.tissues or len(set(self.tissues)) < len(self.tissues):
            raise ValueError(f"tissue: expected GM, WM or [GM, WM], found {list(self.tissues)}")
        return self


class Regions(Part):
    """Search volumes from regions of atlases; by default GM_L, GM_R, WM_L and WM_R, each all regions together."""

    folder: str = Field(
        ...,
        description="Folder with atlases in FSL's layout: label XML, and the NIfTI that it names. FSLDIR itself will "
        "do, too.",
    )
    threshold: float = Field(
        25.0,
        gt=0,
        le=100,
        description="Probability in percent from which a voxel belongs to a label of a probabilistic atlas.",
    )
    hemispheres: bool = Field(True, description="One volume for each hemisphere; false: both together.")
    combine: Literal["union", "single"] = Field(
        "union", description="union: all regions of a tissue are one volume; single: each region is a volume."
    )
    min_tissue: dict[Tissue, Annotated[float, Field(ge=0, lt=1)]] = Field(
        MIN_TISSUE,
        description="Tissue probability of the template below which a voxel is not in the volume. A tissue that is "
        "not named keeps its default.",
    )
    volumes: dict[Name, AtlasRegion] = Field(..., min_length=1, description="Regions by name, e.g. thalamus.")

    @model_validator(mode="after")
    def _names_differ(self) -> Regions:
        files: dict[str, str] = {}
        for name in self.volumes:
            # Names of files hold letters and digits only, and some disks do not tell capitals apart.
            other = files.setdefault(name.replace("-", "").replace("_", "").casefold(), name)
            if other != name:
                raise ValueError(f"volumes: {other} and {name} would be the same file; rename one")
        return self

    def least(self, tissue: Tissue) -> float:
        """Return the smallest probability of a tissue in the template within its volumes."""
        return self.min_tissue.get(tissue, MIN_TISSUE[tissue])

    def volume_name(self, region: str, tissue: Tissue, hemisphere: str) -> str:
        """Return the name of the volume that a region is part of, e.g. GM_L, or thalamus_GM_L with combine: single."""
        parts = [region, tissue, hemisphere] if self.combine == "single" else [tissue, hemisphere]
        return "_".join(part for part in parts if part)
