"""Search volumes of a study: masks that the study file names, and those that are made of the regions of an atlas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from voxcloud.bids.regions import atlas_files
from voxcloud.config.load import LoadedStudy
from voxcloud.config.regions import Regions
from voxcloud.errors import StudyFileError
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.records import list_records
from voxcloud.storage.store import Store, file_digest

SEARCH_VOLUMES = "search-volumes"
LIST = "rois/volumes.json"
# Atlases are read label by label; of each only the part where it is not 0 is kept.
ATLAS_BYTES = 900_000_000


@dataclass(frozen=True)
class SearchVolume:
    """A volume in which clusters are looked for.

    Attributes
    ----------
    label
        Tissue whose maps are searched in it; empty: every map.
    path
        Where its mask lies, or will.
    digest
        Of the mask, or what stands for it until it is made.
    made_by
        Key of the unit that makes it; empty for a file that the study names.
    ready
        Whether it is there.
    """

    label: str
    path: str
    digest: str
    made_by: str = ""
    ready: bool = True


@dataclass(frozen=True)
class VolumesPlan:
    """The search volumes of a study by name, and the unit that makes some of them."""

    volumes: Mapping[str, SearchVolume] = field(default_factory=dict)
    units: tuple[WorkUnit, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether every volume is there."""
        return all(volume.ready for volume in self.volumes.values())


def plan_volumes(loaded: LoadedStudy, store: Store, mask_digest: str, mask_place: str) -> VolumesPlan:
    """Return the search volumes of a study.

    Raises
    ------
    StudyFileError
        If a region has the name of a search volume.
    ImageError
        If an atlas is not there or does not have the labels that are asked for.
    """
    study = loaded.study
    given = {name: (volume.label, loaded.resolve(volume.path)) for name, volume in study.search_volumes.items()}
    volumes = {name: SearchVolume(label, path, file_digest(path)) for name, (label, path) in given.items()}
    if study.regions is None:
        return VolumesPlan(volumes)
    names = dict(volume_labels(study.regions))
    twice = [name for name in names if name in volumes]
    if twice:
        raise StudyFileError(
            f"search_volumes.{twice[0]}: expected a name of its own, found that `regions` makes a volume of this name. "
            "Rename it."
        )
    folder = loaded.resolve(study.regions.folder)
    files = atlas_files(study.regions, folder)
    outputs = {name: f"rois/{name}_mask.nii.gz" for name in names}
    unit = WorkUnit(
        step=SEARCH_VOLUMES,
        name="regions",
        params={"regions": study.regions.model_dump(exclude={"folder"}), "names": list(names)},
        inputs={path.name: file_digest(path) for path in files} | {"mask": mask_digest},
        places={"output": store.url, "mask": mask_place, "folder": folder},
        outputs=(*outputs.values(), LIST),
        projected_mem=ATLAS_BYTES,
        objects_read=len(files),
        expected_s=6.0,
    )
    ready = (unit.fingerprint[:16], "done") in list_records(store).get((unit.step, unit.name), [])
    for name, label in names.items():
        volumes[name] = SearchVolume(
            label, str(store.local_path(outputs[name])), digest_json([unit.fingerprint, name]), unit.key, ready
        )
    return VolumesPlan(volumes, (unit,))


def volume_labels(spec: Regions) -> Iterator[tuple[str, str]]:
    """Yield name and tissue of every volume that the regions make."""
    sides = ("L", "R") if spec.hemispheres else ("",)
    found: dict[str, str] = {}
    for tissue in ("GM", "WM"):
        for region, wanted in spec.volumes.items():
            for side in sides:
                if tissue in wanted.tissues:
                    found[spec.volume_name(region, tissue, side)] = tissue
    yield from found.items()
