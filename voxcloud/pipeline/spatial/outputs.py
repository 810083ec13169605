"""What lies in template space and on the way there: images with sidecars, transforms, and reading them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.templates import Template
from voxcloud.bids.volumes import load_volume, sidecar_bytes, volume_bytes
from voxcloud.config.space import TEMPLATE, TISSUES
from voxcloud.plan.paths import anatomy_images, change_paths, transforms_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.schema import variable
from voxcloud.storage.store import Store
from voxcloud.version import __version__

if TYPE_CHECKING:
    from voxcloud.pipeline.spatial.anatomy import Anatomy

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

MIDPOINT_PROSE = "midpoint of the participant's visits"
REFERENCES = {
    "midpoint": ("doi:10.1016/j.neuroimage.2012.02.084",),
    "normalisation": ("doi:10.1016/j.jalz.2016.06.2038",),
    "segmentation": ("doi:10.1016/j.neuroimage.2005.02.018",),
    "smoothing": ("doi:10.1016/j.neuroimage.2011.01.052",),
    "volume": ("doi:10.1006/nimg.2000.0582", "doi:10.1006/nimg.2001.0786"),
}


@dataclass(frozen=True, eq=False)
class Change:
    """How a visit is deformed against the midpoint, on the template's grid.

    Attributes
    ----------
    ratio
        (x, y, z): volume in the visit over volume in the midpoint.
    displacement
        (x, y, z, 3) in mm of the midpoint: a point y of it lies at ``T (y + d)`` in the visit.
    """

    ratio: Float32
    displacement: Float32


@dataclass(frozen=True, eq=False)
class Way:
    """The way from the template to a participant's visits, as it was written.

    Attributes
    ----------
    matrix
        (4, 4) M: a point x of the template (mm) lies at ``M (x + u(x))`` in the midpoint.
    displacement
        (x, y, z, 3) u in mm.
    visits
        Session to (4, 4): a point of the midpoint to the same in that visit.
    probability
        Label to tissue probability on the template's grid.
    jacobian
        (x, y, z): mm3 of the midpoint per mm3 of the template.
    """

    matrix: Float64
    displacement: Float32
    visits: Mapping[str, Float64]
    probability: Mapping[str, Float32]
    jacobian: Float32

    def deformed(self, change: Change | None) -> Float32:
        """Return the displacement by which a visit is read: ``M (x + u + d') = M (x + u) + d``."""
        if change is None:
            return self.displacement
        back = np.linalg.inv(self.matrix[:3, :3]).astype(np.float32)
        return self.displacement + change.displacement @ back.T


def write_image(store: Store, path: str, values: npt.NDArray[Any], affine: Float64, tree: Mapping[str, Any]) -> None:
    """Write an image and its sidecar."""
    words = str(tree.get("Description", ""))[:50]
    store.write_bytes(path, volume_bytes(values, affine, f"voxcloud {__version__} {words}"))
    made_by = {"GeneratedBy": [{"Name": "voxcloud", "Version": __version__}]}
    store.write_bytes(path.removesuffix(".nii.gz") + ".json", sidecar_bytes(dict(tree) | made_by))


def write_anatomy(unit: WorkUnit, store: Store, template: Template, found: Anatomy) -> None:
    """Write everything of a participant's anatomy."""
    participant, contrast = unit.params["participant_id"], unit.params["contrast"]
    paths = anatomy_images(participant, contrast)
    midpoint, tissues, way = found.midpoint, found.tissues, found.way
    about = {"Sources": list(unit.places["images"].values())}
    there = {"SpatialReference": MIDPOINT_PROSE} | about
    here = {"SpatialReference": TEMPLATE} | about
    units = variable(contrast).units
    images: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "midpoint": (midpoint.image, {"Description": f"Mean {contrast} of all visits, halfway between them."}),
        "brain": (tissues.brain.astype(np.float32), {"Description": "Brain.", "Type": "Brain"}),
        **{
            label: (getattr(tissues, label.lower()), {"Description": f"Probability of {label}.", "Units": "1"})
            for label in ("GM", "WM", "CSF")
        },
    }
    images["midpoint"][1]["Units"] = units
    for name, (values, tree) in images.items():
        write_image(store, paths[name], values, midpoint.affine, tree | there)
    warp = "Where a point of the template lies before the affine transform to the midpoint: displacement x, y, z."
    ratio = "Volume in the midpoint per volume of the template, affine transform included."
    on_template: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "warp": (way.displacement, {"Description": warp, "Units": "mm", "Matrix": transforms_path(participant)}),
        "jacobian": (way.jacobian, {"Description": ratio, "Units": "1"}),
        "template image": (found.image, {"Description": f"Mean {contrast} of all visits.", "Units": units}),
        **{
            f"template {label}": (p, {"Description": f"Probability of {label}, not modulated.", "Units": "1"})
            for label, p in found.probability.items()
        },
    }
    for name, (values, tree) in on_template.items():
        write_image(store, paths[name], values, template.affine, tree | here)
    for session, change in (found.changes or {}).items():
        told = "Volume in this visit over volume in the midpoint of all visits."
        path, warp_path = change_paths(participant, session)
        write_image(store, path, change.ratio, template.affine, {"Description": told, "Units": "1"} | here)
        told = "Where a point of the midpoint lies before the rigid transform to this visit: displacement x, y, z."
        write_image(store, warp_path, change.displacement, template.affine, {"Description": told, "Units": "mm"} | here)
    tree = {
        "Description": "Points in mm, RAS+, as columns (x, y, z, 1).",
        "TemplateToMidpoint": way.matrix.tolist(),
        "MidpointToVisit": {
            session: matrix.tolist() for session, matrix in zip(unit.params["sessions"], midpoint.matrices, strict=True)
        },
        "VolumesMl": tissues.report["volumes_ml"],
        "References": [doi for name in ("midpoint", "normalisation", "segmentation") for doi in REFERENCES[name]],
    }
    store.write_bytes(transforms_path(participant), sidecar_bytes(tree))


def read_way(store: Store, participant: str, contrast: str) -> Way:
    """Read the way from the template to a participant's visits."""
    paths = anatomy_images(participant, contrast)
    tree = json.loads(store.read_bytes(transforms_path(participant)))

    def values(name: str) -> Float32:
        return np.asarray(load_volume(store.local_path(paths[name])).values, dtype=np.float32)

    return Way(
        np.asarray(tree["TemplateToMidpoint"]),
        read_field(store, paths["warp"]),
        {session: np.asarray(matrix) for session, matrix in tree["MidpointToVisit"].items()},
        {label: values(f"template {label}") for label in TISSUES},
        values("jacobian"),
    )


def read_field(store: Store, path: str) -> Float32:
    """Read an image of three volumes, (x, y, z, 3)."""
    place = store.local_path(path)
    return np.stack([np.asarray(load_volume(place, k).values, dtype=np.float32) for k in range(3)], axis=-1)


def read_change(store: Store, participant: str, session: str) -> Change:
    """Read how a visit is deformed against the midpoint."""
    path, warp_path = change_paths(participant, session)
    ratio = np.asarray(load_volume(store.local_path(path)).values, dtype=np.float32)
    return Change(ratio, read_field(store, warp_path))
