"""The steps by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxcloud.pipeline.execute import Step
from voxcloud.pipeline.fitting import fit_block, fit_covariance, fit_template, fit_whitened, tissue_mask
from voxcloud.pipeline.inferring import inference, smoothness
from voxcloud.pipeline.publishing import behaviour, report, summary
from voxcloud.pipeline.stacking import stack_manifest, stack_shard
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.store import Store


def mpm_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Make the maps of one session."""
    from voxcloud.pipeline.mapping.step import mpm_maps as step  # compiled kernels, which a group analysis never needs

    return step(unit, store)


def mpm_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Look at the maps of all sessions together."""
    from voxcloud.pipeline.quality import mpm_qc as step

    return step(unit, store)


def dwi_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Make the diffusion maps of one session."""
    from voxcloud.pipeline.diffusion.step import dwi_maps as step  # compiled kernels too

    return step(unit, store)


def dwi_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Look at the diffusion maps of all sessions together."""
    from voxcloud.pipeline.quality import dwi_qc as step

    return step(unit, store)


def anatomy(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Find the anatomy of one participant: midpoint of the visits, tissues, normalisation."""
    from voxcloud.pipeline.spatial.anatomy import anatomy as step  # compiled kernels too

    return step(unit, store)


def template_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Bring the maps of one session into template space and smooth them."""
    from voxcloud.pipeline.spatial.session import template_maps as step

    return step(unit, store)


def space_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Look at the anatomy of all participants together."""
    from voxcloud.pipeline.spatial.cohort import space_qc as step

    return step(unit, store)


def search_volumes(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Make search volumes of the regions of an atlas."""
    from voxcloud.pipeline.regions import search_volumes as step

    return step(unit, store)


STEPS: dict[str, Step] = {
    "mpm-maps": mpm_maps,
    "dwi-maps": dwi_maps,
    "anatomy": anatomy,
    "template-maps": template_maps,
    "stack-shard": stack_shard,
    "stack-manifest": stack_manifest,
    "search-volumes": search_volumes,
    "tissue-mask": tissue_mask,
    "fit-template": fit_template,
    "fit-block": fit_block,
    "fit-covariance": fit_covariance,
    "fit-whitened": fit_whitened,
    "smoothness": smoothness,
    "inference": inference,
    "behaviour": behaviour,
    "mpm-qc": mpm_qc,
    "dwi-qc": dwi_qc,
    "space-qc": space_qc,
    "summary": summary,
    "report": report,
}
