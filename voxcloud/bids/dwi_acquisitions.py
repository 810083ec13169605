"""What was acquired for diffusion in one session, as a BIDS data set tells it: images, gradient tables, field map.

Plain frozen values that go into a work unit as JSON; the reader (``bids.dwi``) has checked the units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from voxcloud.bids.acquisitions import B0Acquisition

Vector = tuple[float, float, float]

# Below it a volume counts as one without diffusion weighting, as voxcloud.dwi.tensor_design has it. s/mm2.
LARGEST_B0 = 50.0


@dataclass(frozen=True)
class DwiSeries:
    """One diffusion image with its gradient table (BIDS suffix ``dwi``).

    Attributes
    ----------
    path, bval_path, bvec_path
        Absolute paths; the tables by BIDS inheritance.
    bvals
        One per volume, as written, s/mm2 if the file is right.
    bvecs
        One per volume, as written, in the frame of BIDS: voxel axes, x negated where the affine's determinant is
        positive. Neither their lengths nor NaN were changed.
    n_volumes
        Of the image, by its header.
    phase_encoding
        BIDS ``PhaseEncodingDirection``, e.g. ``j-``. Without a sign, and with a warning of the session, where only the
        axis is known (``PhaseEncodingAxis``).
    readout_s
        Total readout time in s; None where no sidecar states it, and then the session has no field map.
    partial_fourier
        Part of k-space that was acquired, 1 for all of it and where no sidecar states it.
    slice_axis
        Axis of the array along which slices follow each other.
    run, direction
        BIDS labels (``run``, ``dir``); empty where the name has none.
    """

    path: str
    bval_path: str
    bvec_path: str
    bvals: tuple[float, ...]
    bvecs: tuple[Vector, ...]
    n_volumes: int
    phase_encoding: str
    readout_s: float | None = None
    partial_fourier: float = 1.0
    slice_axis: int = 2
    run: str = ""
    direction: str = ""

    @property
    def unweighted(self) -> tuple[int, ...]:
        """0-based volumes with b at most 50 s/mm2."""
        return tuple(k for k, value in enumerate(self.bvals) if value <= LARGEST_B0)


@dataclass(frozen=True)
class DwiSession:
    """Everything from which the diffusion maps of one session are made.

    Attributes
    ----------
    participant_id, session_id
        Bare labels; the session's is empty in a data set without sessions.
    series
        Images on one grid, taken together, in order of their names and runs.
    b0
        Field map; None where there is none. A pair of opposite phase encoding (``epi``) has ``volumes`` among its
        parameters: ``positive`` and ``negative`` to the 0-based volumes without diffusion weighting. Its images may be
        among the series.
    scanner
        Manufacturer, model, field strength and the like, as the sidecars have them.
    warnings
        Sentences about what is usable and odd.
    """

    participant_id: str
    session_id: str
    series: tuple[DwiSeries, ...]
    b0: B0Acquisition | None = None
    scanner: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """Name of participant and session, e.g. ``sub-01_ses-2``."""
        return f"sub-{self.participant_id}" + (f"_ses-{self.session_id}" if self.session_id else "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every image and every gradient table that is read."""
        found = [path for one in self.series for path in (one.path, one.bval_path, one.bvec_path)]
        found += self.b0.images.values() if self.b0 is not None else ()
        return tuple(dict.fromkeys(found))

    def to_tree(self) -> dict[str, Any]:
        """Return plain values (JSON): numbers of the gradient table that are not finite become text."""
        tree = asdict(self)
        for one in tree["series"]:
            one["bvals"] = [_plain(value) for value in one["bvals"]]
            one["bvecs"] = [[_plain(value) for value in vector] for vector in one["bvecs"]]
        return tree

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> DwiSession:
        """Read what ``to_tree`` gave."""
        series = tuple(
            DwiSeries(
                **{
                    **one,
                    "bvals": tuple(as_number(value) for value in one["bvals"]),
                    "bvecs": tuple(as_vector(vector) for vector in one["bvecs"]),
                }
            )
            for one in tree["series"]
        )
        b0 = None if tree["b0"] is None else B0Acquisition(**tree["b0"])
        return cls(**{**tree, "series": series, "b0": b0, "warnings": tuple(tree["warnings"])})


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def as_number(value: float | str) -> float:
    """Return a float; every NaN is the same object, so that tuples that hold it are equal."""
    number = float(value)
    return math.nan if math.isnan(number) else number


def as_vector(values: Any) -> Vector:
    """Return three numbers."""
    x, y, z = (as_number(value) for value in values)
    return x, y, z
