"""Simulated studies, phantoms and cohorts with known truth."""

from voxcloud.testing.simulate import SimulatedStudy, simulate_study, tiny_study

__all__ = ["SimulatedStudy", "simulate_study", "tiny_study"]
