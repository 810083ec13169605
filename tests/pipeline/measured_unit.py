"""Carry out one unit and print by how much memory rose, in bytes (Linux): a script for the tests, not a test."""

from __future__ import annotations

import sys
from pathlib import Path

from voxcloud.pipeline.execute import execute_ref
from voxcloud.pipeline.steps import STEPS


def memory(line: str) -> int:
    """Return a number of the kernel's, in bytes: VmRSS now, VmHWM at the highest."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{line}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    assert STEPS  # imported: what a worker has loaded before its first unit
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    answer = execute_ref(sys.argv[1], sys.argv[2])
    assert answer["state"] == "done", answer
    print(memory("VmHWM") - before)  # noqa: T201
