"""What the steps that make maps of a session have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence

from voxcloud.errors import CorruptStoreError
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.store import file_digest


class Phases:
    """CPU seconds of this thread, phase by phase: a record tells where the time of a session goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.thread_time()

    def end(self, name: str) -> None:
        """End a phase; the next one begins."""
        now = time.thread_time()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def refuse_changed(unit: WorkUnit, who: str, paths: Sequence[str], names: Sequence[str]) -> None:
    """Stop at a file that was written anew after the plan was made: the record would name the old one.

    Parameters
    ----------
    paths, names
        Every file that is read: where it lies, and as the unit's inputs name it.
    """
    for path, name in zip(paths, names, strict=True):
        if file_digest(path) != unit.inputs[name]:
            raise CorruptStoreError(
                f"{who}: expected the image that the run was planned with, found that {path} was changed since. Run "
                "again when nothing writes images any more."
            )
