"""Simulated studies, phantoms and cohorts with known truth."""

from voxcloud.testing.effects import PlantedEffect
from voxcloud.testing.null import NullCohort, null_cohort
from voxcloud.testing.raw import SimulatedRaw, simulate_raw, tiny_raw
from voxcloud.testing.raw_changes import RawChange
from voxcloud.testing.raw_study import SimulatedRawStudy, simulate_raw_study
from voxcloud.testing.simulate import SimulatedStudy, simulate_study, tiny_study
from voxcloud.testing.truth import compare_with_truth, summarise_truth

__all__ = [
    "NullCohort",
    "PlantedEffect",
    "RawChange",
    "SimulatedRaw",
    "SimulatedRawStudy",
    "SimulatedStudy",
    "compare_with_truth",
    "null_cohort",
    "simulate_raw",
    "simulate_raw_study",
    "simulate_study",
    "summarise_truth",
    "tiny_raw",
    "tiny_study",
]
