"""The study file."""

from voxcloud.config.load import LoadedStudy, load_study, parse_study
from voxcloud.config.study import Study

__all__ = ["LoadedStudy", "Study", "load_study", "parse_study"]
