"""CPU seconds and peak memory of a piece of work, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    cpu_s: float
    peak_mb: float
    n: int = 1


def cpu_seconds() -> float:
    """Return user and system seconds of this process and its children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_mb() -> float:
    """Return the largest resident memory since ``forget_peak``, in MB (Linux)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak() -> None:
    """Start the peak of resident memory anew (Linux)."""
    CLEAR.write_text("5")


class Stopwatch:
    """Adds up the cost of pieces of work by name."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self._cpu = 0.0

    def start(self) -> None:
        """Begin a piece of work."""
        forget_peak()
        self._cpu = cpu_seconds()

    def stop(self, name: str) -> None:
        """End a piece of work: CPU seconds add up, the highest peak counts."""
        before = self.costs.get(name, Cost(0.0, 0.0, 0))
        spent = cpu_seconds() - self._cpu
        self.costs[name] = Cost(before.cpu_s + spent, max(before.peak_mb, peak_mb()), before.n + 1)

    def report(self) -> None:
        """Print the costs as JSON on the last line, where ``in_child`` reads them."""
        print(json.dumps({name: [c.cpu_s, c.peak_mb, c.n] for name, c in self.costs.items()}))


def in_child(script: str, *words: str, cache: Path) -> dict[str, Cost]:
    """Run a script in a new process and return the costs that it prints."""
    environment = {**os.environ, **ONE_THREAD, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, script, *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: Cost(*numbers) for name, numbers in found.items()}


def median(costs: list[dict[str, Cost]]) -> dict[str, Cost]:
    """Return the median of repeated measurements by name."""
    names = costs[0]
    return {
        name: Cost(
            statistics.median(c[name].cpu_s for c in costs),
            statistics.median(c[name].peak_mb for c in costs),
            costs[0][name].n,
        )
        for name in names
    }
