"""The work unit: what is done, from what, to where, and the fingerprint that says whether it was done already.

A unit is plain JSON. ``params`` are the settings that its step reads and ``inputs`` the digests of what it reads;
together with the step's integer version they make the fingerprint. ``places`` tells where things lie on this day
(paths, URLs): it never enters the fingerprint, so that a data set that is moved or copied recomputes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# One integer a step: raise it when the numbers that the step writes change (tests/plan/test_step_versions.py).
STEP_VERSIONS: dict[str, int] = {
    "mpm-maps": 1,
    "dwi-maps": 2,
    "anatomy": 1,
    "template-maps": 1,
    "stack-shard": 1,
    "stack-manifest": 1,
    "search-volumes": 1,
    "tissue-mask": 1,
    "fit-template": 1,
    "fit-block": 3,
    "fit-covariance": 1,
    "fit-whitened": 2,
    "smoothness": 2,
    "inference": 2,
    "behaviour": 2,
    "mpm-qc": 1,
    "dwi-qc": 1,
    "space-qc": 1,
    "summary": 2,
    "report": 1,
}

DIGEST_MARK = "sha256:"

# Order of the stages on the screen; a unit starts when its own upstream units are done, not when a stage ends.
STAGES: tuple[str, ...] = tuple(STEP_VERSIONS)


@dataclass(frozen=True)
class WorkUnit:
    """One idempotent piece of work that writes whole objects to fixed places.

    Attributes
    ----------
    step
        A registered step name.
    name
        Unique within the step, e.g. ``training/R1map_label-GM/block-00002``.
    params
        Settings that the step reads (JSON); part of the fingerprint.
    inputs
        Name to digest of what is read: file digests, or fingerprints of upstream units.
    places
        Where inputs and the study lie; never part of the fingerprint.
    upstream
        Keys of units that must be done first.
    outputs
        Paths in the store (a folder's objects are listed one by one).
    projected_mem
        Upper bound of memory in bytes on top of the interpreter.
    """

    step: str
    name: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    upstream: tuple[str, ...] = ()
    places: Mapping[str, Any] = field(default_factory=dict)
    projected_mem: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    objects_read: int = 0
    expected_s: float = 0.0

    @property
    def key(self) -> str:
        """Unique name of the unit, as ``voxcloud unit run`` takes it."""
        return f"{self.step}/{self.name}"

    @property
    def parts(self) -> dict[str, str]:
        """The fingerprint's parts by name, so that a stale unit can say which of them changed."""
        parts = {"step version": str(STEP_VERSIONS[self.step])}
        parts |= {f"setting {name}": short_digest(value) for name, value in self.params.items()}
        parts |= {f"input {name}": digest for name, digest in self.inputs.items()}
        return parts

    @property
    def nested(self) -> dict[str, Any]:
        """The settings that the parts hold only as a digest: a record keeps them, to say later what changed in them."""
        return {k: v for k, v in self.params.items() if short_digest(v).startswith(DIGEST_MARK)}

    @property
    def fingerprint(self) -> str:
        """Sha256 over the parts: equal fingerprints mean equal outputs."""
        return digest_json({"step": self.step, "name": self.name, "parts": self.parts})

    def to_json(self) -> str:
        """Return the unit as JSON."""
        return json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkUnit:
        """Read a unit that ``to_json`` wrote."""
        tree = json.loads(text)
        tree.pop("fingerprint", None)
        tree["outputs"] = tuple(tree["outputs"])
        tree["upstream"] = tuple(tree["upstream"])
        return cls(**tree)

    def with_places(self, **places: Any) -> WorkUnit:
        """Return a copy that knows more places."""
        return replace(self, places={**self.places, **places})


def digest_json(value: Any) -> str:
    """Sha256 of a JSON value in one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short_digest(value: Any) -> str:
    """Return the value itself where it is short enough to read, else a digest of it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text if len(text) <= 60 else f"{DIGEST_MARK}{digest_json(value)[:16]}"
