"""What happens during a run, as events: the submitting process emits them, everything that shows progress listens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TextIO

Kind = Literal["planned", "started", "finished", "failed", "skipped", "put-back", "run-ended"]

LOG = logging.getLogger("voxcloud.run")


@dataclass(frozen=True)
class Event:
    """One thing that happened to one unit (or to the run)."""

    kind: Kind
    unit: str = ""
    step: str = ""
    message: str = ""
    seconds: float = 0.0
    totals: dict[str, int] = field(default_factory=dict)
    at: float = field(default_factory=time.time)


Listener = Callable[[Event], None]


class JsonLog:
    """Writes each event as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        tree: dict[str, Any] = {k: v for k, v in asdict(event).items() if v not in ("", {}, 0.0)}
        self._stream.write(json.dumps(tree, sort_keys=True) + "\n")
        self._stream.flush()


class PlainProgress:
    """Plain lines: one when a stage starts and ends, one for each failure."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 5.0) -> None:
        self._stream = stream or sys.stdout
        self._every = every_s
        self._last = 0.0
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "planned":
            self._totals = dict(event.totals)
            return
        if event.kind == "failed":
            self._line(f"failed  {event.unit}: {event.message}")
        if event.kind in ("finished", "failed") and event.step:
            self._done[event.step] = self._done.get(event.step, 0) + 1
            total = self._totals.get(event.step, 0)
            now = time.monotonic()
            if self._done[event.step] >= total or now - self._last > self._every:
                self._last = now
                self._line(f"{event.step:<15} {self._done[event.step]:>5} of {total}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class BarProgress:
    """A bar per stage on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._tasks: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "planned":
            self._progress.start()
            for step, total in event.totals.items():
                if step not in self._tasks:
                    self._tasks[step] = self._progress.add_task(step, total=total, start=False)
                else:
                    self._progress.update(self._tasks[step], total=total)
        elif event.kind == "started" and event.step in self._tasks:
            task = self._progress.tasks[self._tasks[event.step]]
            if not task.started:
                self._progress.start_task(self._tasks[event.step])
        elif event.kind in ("finished", "failed") and event.step in self._tasks:
            self._progress.advance(self._tasks[event.step])
            if event.kind == "failed":
                self._progress.console.print(f"failed  {event.unit}: {event.message}", markup=False)
        elif event.kind == "run-ended":
            self._progress.stop()


def progress_listener() -> Listener:
    """Return bars on a terminal and plain lines otherwise."""
    return BarProgress() if sys.stdout.isatty() else PlainProgress()
