"""The units of a study: what each step reads, writes and needs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from voxcloud.bids.images import MaskGrid, load_mask
from voxcloud.bids.templates import brain_place
from voxcloud.config.load import LoadedStudy
from voxcloud.config.study import Model
from voxcloud.plan.paths import (
    block_objects,
    field_paths,
    fit_documents,
    fit_folder,
    fit_prefix,
    group_objects,
    pools_variances,
    search_result_path,
    stat_paths,
)
from voxcloud.plan.selection import ImageRef
from voxcloud.plan.unit import STEP_VERSIONS, WorkUnit, digest_json
from voxcloud.plan.volumes import SearchVolume
from voxcloud.schema import variable
from voxcloud.storage.stack import StackSpec, manifest_prefix, shard_path, stack_documents

if TYPE_CHECKING:
    from voxcloud.plan.build import BadImages
    from voxcloud.plan.stacks import Stack

# Voxels of one fit unit: two of the stack's blocks. Fixed, so that no result depends on workers or memory.
BLOCK_VOXELS = 10_000
UNIT_VOXELS = 20_000
MANY_PEOPLE = 100
SHARD_ROWS = 25
MAX_RESIDUAL_IMAGES = 64
# Relabelling beside random fields happens without being asked for up to this much memory.
AUTO_PERMUTATION_BYTES = 1_000_000_000
TOO_LARGE = "too large"
# Peak memory beyond arrays that a unit's projection accounts for: the cache of digests (30 MB and more where many
# files are known), libraries that a worker's first unit loads, buffers of compression and of the array library.
SLACK_BYTES = 64_000_000
# What reads a stack names the images and not the shards that hold them; so it must say how images become shards.
STACK_VERSION = f"stack-shard version {STEP_VERSIONS['stack-shard']}"


@dataclass(frozen=True)
class Context:
    """What every unit of a study shares."""

    loaded: LoadedStudy
    store_url: str
    grid: MaskGrid
    searches: Mapping[str, int]
    volumes: Mapping[str, SearchVolume] = field(default_factory=dict)

    @property
    def voxels(self) -> int:
        return len(self.grid.voxel_index)

    @property
    def mask_digest(self) -> str:
        """Digest of the mask as an array: saving it anew recomputes nothing."""
        return mask_digest(self.grid)

    def places(self, **more: Any) -> dict[str, Any]:
        """Return the places that every unit knows."""
        loaded = self.loaded
        return {"output": self.store_url, "mask": mask_place(loaded), **more}


def mask_place(loaded: LoadedStudy) -> str:
    """Return where the study's own mask lies, or the name of the template's brain."""
    space = loaded.study.space
    if space is not None:
        return brain_place(space.resolution_mm)
    assert loaded.study.mask is not None  # the study file has seen to it where there are models
    return str(loaded.resolve(loaded.study.mask))


@functools.lru_cache(maxsize=2)  # asked for by every unit of a plan
def mask_digest(grid: MaskGrid) -> str:
    """Return the digest of a mask's voxels, shape and affine."""
    import hashlib

    state = hashlib.sha256(grid.voxel_index.astype("<i8").tobytes())
    state.update(
        repr((tuple(int(n) for n in grid.shape), [[float(f"{v:.9g}") for v in row] for row in grid.affine])).encode()
    )
    return state.hexdigest()


def stack_spec(map_name: str, label: str, grid: MaskGrid) -> StackSpec:
    """Return the specification of a stack on the study's grid."""
    return StackSpec(
        map=map_name,
        label=label,
        mask_digest=mask_digest(grid),
        shape=tuple(int(n) for n in grid.shape),
        affine=grid.affine,
        voxel_index=grid.voxel_index,
        units=variable(map_name).units,
        block_voxels=BLOCK_VOXELS,
        shard_rows=SHARD_ROWS,
    )


def stack_units(context: Context, stacks: Mapping[str, Stack]) -> list[WorkUnit]:
    """Return a unit per shard and one per manifest."""
    units: list[WorkUnit] = []
    for stack in stacks.values():
        by_identity = {image.identity: image for image in stack.images}
        shards: dict[int, list[Any]] = {}
        for row in stack.allocation.rows:
            shards.setdefault(row.row // SHARD_ROWS, []).append(row)
        made = [_shard_unit(context, stack, shard, rows, by_identity) for shard, rows in sorted(shards.items())]
        units += made
        units.append(_manifest_unit(context, stack, made))
    return units


def _shard_unit(
    context: Context,
    stack: Stack,
    shard: int,
    rows: Sequence[Any],
    by_identity: Mapping[tuple[str, str, str], ImageRef],
) -> WorkUnit:
    identity = [[row.row, row.participant_id, row.session_id, row.digest] for row in rows]
    images: dict[str, dict[str, Any]] = {}
    upstream: list[str] = []
    for row in rows:
        image = by_identity.get((row.participant_id, row.session_id, row.digest))
        if image is None:
            continue
        images[str(row.row)] = {"path": image.path, "volume": image.volume}
        made = stack.made.get(image.path)
        if made is not None:
            unit = made.unit
            images[str(row.row)]["made_by"] = [unit.step, unit.name, unit.fingerprint, made.output]
            upstream.append(unit.key)
    size = SHARD_ROWS * context.voxels * 4
    return WorkUnit(
        step="stack-shard",
        name=f"{stack.name}/shard-{shard:05d}",
        params={
            "map": stack.map,
            "label": stack.label,
            "shard": shard,
            "shard_rows": SHARD_ROWS,
            "block_voxels": BLOCK_VOXELS,
        },
        inputs={"images": digest_json(identity), "mask": context.mask_digest},
        places=context.places(rows=identity, images=images, on_bad_image=context.loaded.study.on_bad_image),
        upstream=tuple(dict.fromkeys(upstream)),
        outputs=(shard_path(stack.spec, shard),),
        projected_mem=3 * size + _grid_bytes(context) * 2 + SLACK_BYTES,
        bytes_read=len(images) * context.voxels * 4,
        bytes_written=size,
        objects_read=len(images),
        expected_s=len(images) * (0.004 + context.voxels * 1.5e-7),
    )


def _grid_bytes(context: Context) -> int:
    x, y, z = context.grid.shape
    return int(x) * int(y) * int(z) * 8


def _manifest_unit(context: Context, stack: Stack, shards: Sequence[WorkUnit]) -> WorkUnit:
    rows = [[r.row, r.participant_id, r.session_id, r.digest, bool(r.live)] for r in stack.allocation.rows]
    return WorkUnit(
        step="stack-manifest",
        name=stack.name,
        params={"map": stack.map, "label": stack.label, "shard_rows": SHARD_ROWS, "block_voxels": BLOCK_VOXELS},
        inputs={"rows": digest_json(rows), "mask": context.mask_digest}
        | {unit.name: unit.fingerprint for unit in shards},
        places=context.places(rows=rows, number=stack.allocation.manifest_number),
        upstream=tuple(unit.key for unit in shards),
        # The array's metadata are this unit's too: it is the last that writes them, and readers need them whole.
        outputs=(
            f"{manifest_prefix(stack.spec)}-{stack.allocation.manifest_number}.json",
            *stack_documents(stack.spec),
        ),
        projected_mem=SLACK_BYTES,
        bytes_written=200 * len(rows),
        expected_s=0.05,
    )


def model_units(
    context: Context,
    stack: Stack,
    model: Model,
    design: Mapping[str, Any],
    tissue: Stack | None,
    bad_images: BadImages,
) -> list[WorkUnit]:
    """Return the units of one model on one stack."""
    digest = digest_json(design)
    where = f"{model.name}/{stack.name}"
    base = {
        "model": model.name,
        "map": stack.map,
        "label": stack.label,
        "shard_rows": SHARD_ROWS,
        "block_voxels": BLOCK_VOXELS,
    }
    units: list[WorkUnit] = []
    tissue_unit = _tissue_unit(context, model, design, tissue, bad_images) if tissue is not None else None
    if tissue_unit is not None:
        units.append(tissue_unit)
    template = WorkUnit(
        step="fit-template",
        name=where,
        params=base | {"unit_voxels": unit_voxels(design), "residual_images": MAX_RESIDUAL_IMAGES},
        inputs={"design": digest, "mask": context.mask_digest},
        places=context.places(),
        # It reads no image, but takes the place of the fits of another design: not before those can be made anew.
        upstream=tuple(f"stack-manifest/{s.name}" for s in (stack, tissue) if s is not None),
        outputs=tuple(f"{fit_prefix(model.name, stack.name)}/{p}" for p in fit_documents(design)),
        projected_mem=SLACK_BYTES,
        expected_s=0.05,
    )
    units.append(template)
    blocks = [
        _block_unit(context, "fit-block", where, base, digest, stack, template, tissue_unit, index, design)
        for index in range(-(-context.voxels // unit_voxels(design)))
    ]
    units += blocks
    fits = blocks
    if pools_variances(model.variance, model.weights):
        covariance = WorkUnit(
            step="fit-covariance",
            name=where,
            params=base,
            inputs={"design": digest} | {unit.name: unit.fingerprint for unit in blocks},
            places=context.places(blocks=len(blocks)),
            upstream=tuple(unit.key for unit in blocks),
            outputs=(f"{fit_folder(model.name, stack.name)}/covariance.json",),
            projected_mem=SLACK_BYTES,
            expected_s=0.3,
        )
        units.append(covariance)
        fits = [
            _whitened_unit(context, where, base, digest, stack, covariance, unit, index)
            for index, unit in enumerate(blocks)
        ]
        units += fits
    # What is read besides the fits: a unit waits for all of it, also where what lies between is done.
    read = tuple(unit.key for unit in units if unit.step in ("fit-template", "fit-block", "fit-covariance"))
    units += _search_units(context, model, stack, base, digest, design, fits, read)
    return units


def _tissue_unit(
    context: Context, model: Model, design: Mapping[str, Any], tissue: Stack, bad_images: BadImages
) -> WorkUnit:
    """Return the unit that cuts an analysis mask: mean over participants of their mean over visits."""
    sessions = {(i["participant_id"], i["session_id"]) for i in design["images"]}
    images = [
        i for i in tissue.images if (i.participant_id, i.session_id) in sessions and i.identity not in bad_images
    ] or [i for i in tissue.images if i.participant_id in {p for p, _ in sessions} and i.identity not in bad_images]
    identity = sorted(image.identity for image in images)
    mask = context.loaded.study.tissue_masks[tissue.label]
    digest = digest_json(identity)[:12]
    name = f"{model.name}/label-{tissue.label}_{digest}"
    return WorkUnit(
        step="tissue-mask",
        name=name,
        params={
            "map": tissue.map,
            "label": tissue.label,
            "threshold": mask.threshold,
            "shard_rows": SHARD_ROWS,
            "block_voxels": BLOCK_VOXELS,
        },
        inputs={"tissue images": digest_json(identity), "mask": context.mask_digest, "stack": STACK_VERSION},
        places=context.places(images=identity),
        upstream=(f"stack-manifest/{tissue.name}",),
        outputs=(f"masks/{name}.npy",),
        projected_mem=len(images) * BLOCK_VOXELS * 12 + context.voxels * 16 + _grid_bytes(context) * 2 + SLACK_BYTES,
        bytes_read=len(images) * context.voxels * 4,
        expected_s=len(images) * context.voxels * 4e-9 + 0.1,
    )


def unit_voxels(design: Mapping[str, Any]) -> int:
    """Return the voxels of one fit unit: fewer for many people, whose coefficients a unit holds. Never the workers'."""
    people = max(len(c["participants"]) for c in design["coefficients"].values())
    return UNIT_VOXELS if people <= MANY_PEOPLE else BLOCK_VOXELS


def _block_unit(
    context: Context,
    step: str,
    where: str,
    base: Mapping[str, Any],
    design_digest: str,
    stack: Stack,
    template: WorkUnit,
    tissue: WorkUnit | None,
    index: int,
    design: Mapping[str, Any],
) -> WorkUnit:
    start = index * unit_voxels(design)
    rows = len(design["images"])
    people = max(len(c["participants"]) for c in design["coefficients"].values())
    terms = len(design["coefficients"])
    tests = sum(len(c["tests"]) for c in design["coefficients"].values())
    residuals = min(people, MAX_RESIDUAL_IMAGES)
    voxels = min(unit_voxels(design), context.voxels - start)
    written = voxels * (terms * (people + residuals) * 4 + tests * 24 + terms * 8 + 3)
    inputs = {"design": design_digest, "template": template.fingerprint, "mask": context.mask_digest}
    inputs["stack"] = STACK_VERSION
    upstream = [template.key, f"stack-manifest/{stack.name}"]
    places = context.places()
    if tissue is not None:
        inputs["analysis mask"] = tissue.fingerprint
        upstream.append(tissue.key)
        places["tissue_mask"] = tissue.outputs[0]
    return WorkUnit(
        step=step,
        name=f"{where}/block-{index:05d}",
        params={**base, "start": start, "stop": start + voxels},
        inputs=inputs,
        places=places,
        upstream=tuple(upstream),
        outputs=tuple(f"{fit_prefix(base['model'], stack.name)}/{p}" for p in block_objects(design, index)),
        projected_mem=BLOCK_VOXELS * rows * 8 + 2 * written + BLOCK_VOXELS * people * 24 + SLACK_BYTES,
        bytes_read=voxels * rows * 4,
        bytes_written=written,
        objects_read=-(-rows // SHARD_ROWS) * -(-voxels // BLOCK_VOXELS),
        expected_s=0.05 + rows * voxels * 1.2e-8,
    )


def _whitened_unit(
    context: Context,
    where: str,
    base: Mapping[str, Any],
    design_digest: str,
    stack: Stack,
    covariance: WorkUnit,
    block: WorkUnit,
    index: int,
) -> WorkUnit:
    prefix = fit_prefix(base["model"], stack.name)
    values = [p for p in block.outputs if "/value_" in p]
    coefficients = [p.split("/value_")[1].split("/c/")[0] for p in values]
    return WorkUnit(
        step="fit-whitened",
        name=f"{where}/block-{index:05d}",
        params=dict(block.params),
        inputs={"design": design_digest, "covariance": covariance.fingerprint, "values": block.fingerprint},
        places=context.places(),
        upstream=(block.key, covariance.key),
        outputs=tuple(f"{prefix}/{p}" for p in group_objects({"coefficients": coefficients}, index)),
        projected_mem=block.projected_mem,
        bytes_read=block.bytes_read,
        bytes_written=block.bytes_written,
        objects_read=len(values),
        expected_s=block.expected_s,
    )


def _search_units(
    context: Context,
    model: Model,
    stack: Stack,
    base: Mapping[str, Any],
    design_digest: str,
    design: Mapping[str, Any],
    fits: Sequence[WorkUnit],
    read: tuple[str, ...],
) -> list[WorkUnit]:
    units: list[WorkUnit] = []
    study = context.loaded.study
    fit_inputs = {unit.name: unit.fingerprint for unit in fits}
    volumes = {name: volume for name, volume in context.volumes.items() if volume.label in ("", stack.label)}
    volume_digests = {f"volume {name}": volume.digest for name, volume in volumes.items()}
    searched = _searched_voxels(context, volumes)
    makers = tuple(dict.fromkeys(volume.made_by for volume in volumes.values() if volume.made_by))
    family = {"all": context.searches["study"], "model": context.searches.get(model.name, 1), "none": 1}[study.family]
    for coefficient, entry in design["coefficients"].items():
        smooth = WorkUnit(
            step="smoothness",
            name=f"{model.name}/{stack.name}/{coefficient}",
            params={**base, "coefficient": coefficient},
            inputs={"design": design_digest, **fit_inputs},
            places=context.places(),
            upstream=tuple(dict.fromkeys((*read, *(unit.key for unit in fits)))),
            outputs=tuple(
                f"{fit_folder(model.name, stack.name)}/{file}"
                for file in (f"smoothness-{coefficient}.json", f"resels-{coefficient}.npy")
            )
            + field_paths(model.name, stack.map, stack.label, coefficient),
            projected_mem=_smoothness_bytes(context, len(entry["participants"])),
            bytes_read=min(len(entry["participants"]), MAX_RESIDUAL_IMAGES) * context.voxels * 4,
            expected_s=min(len(entry["participants"]), MAX_RESIDUAL_IMAGES) * context.voxels * 2e-7,
        )
        units.append(smooth)
        needed = _permutation_bytes(searched, len(entry["participants"]))
        beside = _permute_beside(model, needed)
        permutes = beside in ("auto", "always") or model.inference.method == "permutation"
        for contrast, test in entry["tests"].items():
            stem = f"{model.name}/{stack.name}/{coefficient}_{contrast}"
            units.append(
                WorkUnit(
                    step="inference",
                    name=stem,
                    params={
                        **base,
                        "coefficient": coefficient,
                        "contrast": contrast,
                        "alternative": test["alternative"],
                        "family_size": family,
                        "inference": model.inference.model_dump(exclude={"permutation_beside"}),
                        "permute_beside": beside,
                        # What it would take is part of what the unit says: others need not change with it.
                        **({"permute_bytes": needed} if beside == TOO_LARGE else {}),
                        "volumes": sorted(volumes),
                    },
                    inputs={"design": design_digest, "smoothness": smooth.fingerprint, **fit_inputs, **volume_digests}
                    | _atlas_digests(context),
                    places=context.places(
                        volumes={name: volume.path for name, volume in volumes.items()},
                        atlas={k: context.loaded.resolve(v) for k, v in study.atlas.model_dump().items()}
                        if study.atlas
                        else None,
                    ),
                    upstream=(*smooth.upstream, smooth.key, *makers),
                    outputs=(
                        search_result_path(model.name, stack.name, coefficient, contrast),
                        *stat_paths(model.name, stack.map, stack.label, coefficient, contrast, test["kind"]),
                    ),
                    projected_mem=context.voxels * 8 * 24
                    + _grid_bytes(context) * 6
                    + (needed if permutes else 0)
                    + SLACK_BYTES,
                    bytes_read=context.voxels * 8 * 4,
                    bytes_written=context.voxels * 4 * 8,
                    expected_s=0.3 + context.voxels * 4e-6,
                )
            )
    return units


def _searched_voxels(context: Context, volumes: Mapping[str, SearchVolume]) -> int:
    """Return the voxels of the largest search volume inside the mask, the mask's where there is none or none yet."""
    if not volumes or not all(volume.ready for volume in volumes.values()):
        return context.voxels
    return max(_voxels_of(volume.path, volume.digest, context.grid) for volume in volumes.values())


@functools.lru_cache(maxsize=64)  # asked for by every model and stack; the digest tells a changed file from a known one
def _voxels_of(path: str, digest: str, grid: MaskGrid) -> int:
    return int(np.intersect1d(load_mask(path).voxel_index, grid.voxel_index, assume_unique=True).size)


def _permutation_bytes(voxels: int, people: int) -> int:
    """Return the bytes of data and residuals in float64 and of the places of their neighbours."""
    return people * voxels * 8 * 3 + voxels * 160


def _permute_beside(model: Model, needed: int) -> str:
    """Return when an inference unit relabels beside random fields: `auto` only where this takes moderate memory.

    Where it takes more the unit says so, and its result too: nothing is left out in silence.
    """
    asked = model.inference.permutation_beside
    if model.inference.method == "permutation":
        return "never"
    return TOO_LARGE if asked == "auto" and needed > AUTO_PERMUTATION_BYTES else asked


def _atlas_digests(context: Context) -> dict[str, str]:
    from voxcloud.storage.store import file_digest

    atlas = context.loaded.study.atlas
    if atlas is None:
        return {}
    return {f"atlas {k}": file_digest(context.loaded.resolve(v)) for k, v in atlas.model_dump().items()}


def _smoothness_bytes(context: Context, people: int) -> int:
    images = min(people, MAX_RESIDUAL_IMAGES)
    return 8 * images * UNIT_VOXELS * 8 + context.voxels * 80 + _grid_bytes(context) * 2 + SLACK_BYTES
