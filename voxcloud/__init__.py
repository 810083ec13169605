"""Longitudinal quantitative brain MRI: from BIDS maps to publication-grade group statistics.

In a notebook: ``voxcloud.open_stack``, ``voxcloud.open_fit`` and ``voxcloud.to_nifti`` give a study's arrays, labelled.
"""

from typing import Any

from voxcloud.version import __version__

__all__ = ["__version__", "open_fit", "open_stack", "to_nifti"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `voxcloud --help` answers at once.
    if name in __all__:
        from voxcloud.pipeline import opening

        return getattr(opening, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
