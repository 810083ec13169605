"""What was acquired in one session, as a BIDS data set tells it: which files belong together, and their parameters.

Plain frozen values that go into a work unit as JSON. Angles are in degrees and times in seconds, as BIDS has them;
the readers (``bids.mpm``, ``bids.fieldmaps``) have checked the units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ContrastName = Literal["MTw", "PDw", "T1w"]
B1Method = Literal["AFI", "DAM", "TFL", "RFM", "SESTE", "TB1map"]
B0Method = Literal["phasediff", "phase12", "fieldmap", "epi"]
CoilKind = Literal["head", "body"]

CONTRASTS: tuple[ContrastName, ...] = ("MTw", "PDw", "T1w")


@dataclass(frozen=True)
class EchoImage:
    """One image of a multi-echo series.

    Attributes
    ----------
    path
        Absolute path.
    echo_time_s
        Echo time in s.
    volume
        0-based volume of a file that holds all echoes; 0 where each echo is a file.
    """

    path: str
    echo_time_s: float
    volume: int = 0


@dataclass(frozen=True)
class Series:
    """One multi-echo FLASH series (BIDS suffix ``MPM``).

    Attributes
    ----------
    contrast
        MTw, PDw or T1w: by MTState and flip angle, never by the order of files.
    echoes
        In order of echo time.
    flip_angle_deg, repetition_time_s
        The same for all echoes.
    run
        BIDS run label; empty where there is one run only.
    """

    contrast: ContrastName
    echoes: tuple[EchoImage, ...]
    flip_angle_deg: float
    repetition_time_s: float
    run: str = ""


@dataclass(frozen=True)
class B0Acquisition:
    """A map of the static field, or what it is computed from.

    Attributes
    ----------
    method
        phasediff, phase12 (two phase images), fieldmap (ready-made) or epi (a pair of opposite phase encoding).
    images
        Role to absolute path: ``phasediff``, ``phase1``, ``phase2``, ``magnitude``, ``fieldmap``, ``positive`` and
        ``negative`` (blips; epi).
    parameters
        ``echo_times_s`` (two), ``units`` (as the sidecar of a field map has them), ``readout_s`` (total readout time
        of the epi pair), ``phase_encoding`` of the image ``positive``, e.g. ``j``.
    """

    method: B0Method
    images: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class B1Acquisition:
    """What a B1+ map is computed from.

    Attributes
    ----------
    method
        AFI, DAM, TFL, RFM, SESTE or TB1map.
    images
        Role to absolute path. AFI: ``short``, ``long`` (repetition time). DAM: ``single``, ``double`` (flip angle).
        TFL, RFM: ``famp``, and ``anat``. TB1map: ``map``, and ``anat`` where there is a magnitude beside it. SESTE:
        ``se-<k>``, ``ste-<k>`` with k = 01, 02, ... in order of falling flip angle.
    parameters
        ``flip_angle_deg`` (a list with one per k for SESTE), ``repetition_times_s`` (AFI: short, long),
        ``mixing_time_s``, ``readout_s`` and ``phase_encoding`` (SESTE), ``units`` (TB1map, as its sidecar has them).
    b0
        Field map that belongs to a SESTE acquisition; None where there is none.
    """

    method: B1Method
    images: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    b0: B0Acquisition | None = None


@dataclass(frozen=True)
class MpmSession:
    """Everything from which the maps of one session are made.

    Attributes
    ----------
    participant_id, session_id
        Bare labels; the session's is empty in a data set without sessions.
    series
        Contrast to its series; PDw is always there.
    b1
        None where the session has none.
    receive
        Contrast to coil (head, body) to path (``RB1COR``), empty where there are none. The key ``all`` stands for a
        pair that was acquired once for all contrasts.
    scanner
        Manufacturer, model, field strength and the like, as the sidecars have them.
    warnings
        Sentences about what is usable and odd.
    """

    participant_id: str
    session_id: str
    series: Mapping[ContrastName, Series]
    b1: B1Acquisition | None = None
    receive: Mapping[str, Mapping[CoilKind, str]] = field(default_factory=dict)
    scanner: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """Name of participant and session, e.g. ``sub-01_ses-2``."""
        return f"sub-{self.participant_id}" + (f"_ses-{self.session_id}" if self.session_id else "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every image that is read."""
        found = [echo.path for series in self.series.values() for echo in series.echoes]
        if self.b1 is not None:
            found += self.b1.images.values()
            found += self.b1.b0.images.values() if self.b1.b0 is not None else ()
        found += [path for coils in self.receive.values() for path in coils.values()]
        return tuple(dict.fromkeys(found))

    def to_tree(self) -> dict[str, Any]:
        """Return plain values (JSON)."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> MpmSession:
        """Read what ``to_tree`` gave."""
        series = {
            name: Series(**{**found, "echoes": tuple(EchoImage(**echo) for echo in found["echoes"])})
            for name, found in tree["series"].items()
        }
        b1 = tree["b1"]
        if b1 is not None:
            b1 = B1Acquisition(**{**b1, "b0": None if b1["b0"] is None else B0Acquisition(**b1["b0"])})
        return cls(**{**tree, "series": series, "b1": b1, "warnings": tuple(tree["warnings"])})
