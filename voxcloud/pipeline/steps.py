"""The steps by name."""

from __future__ import annotations

from voxcloud.pipeline.execute import Step
from voxcloud.pipeline.fitting import fit_block, fit_covariance, fit_template, fit_whitened, tissue_mask
from voxcloud.pipeline.inferring import inference, smoothness
from voxcloud.pipeline.publishing import behaviour, report, summary
from voxcloud.pipeline.stacking import stack_manifest, stack_shard

STEPS: dict[str, Step] = {
    "stack-shard": stack_shard,
    "stack-manifest": stack_manifest,
    "tissue-mask": tissue_mask,
    "fit-template": fit_template,
    "fit-block": fit_block,
    "fit-covariance": fit_covariance,
    "fit-whitened": fit_whitened,
    "smoothness": smoothness,
    "inference": inference,
    "behaviour": behaviour,
    "summary": summary,
    "report": report,
}
