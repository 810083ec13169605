"""Memory that was freed goes back to the system: a peak is what a unit holds, not what earlier units held."""

from __future__ import annotations

import ctypes
import functools
import sys

# Numbers of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# Arrays above this are mapped on their own and unmapped when they are freed. Left alone, glibc raises the threshold to
# the largest array freed so far, and blocks of 20 to 50 MB then leave holes that nothing else fits into.
MAPPED_BYTES = 4 << 20
KEPT_BYTES = 32 << 20
# Each thread that allocates (the array library reads with several) would have a heap of its own, all as large as the
# largest of its moments.
ARENAS = 2


@functools.cache
def return_freed_memory() -> bool:
    """Set this process's C library accordingly, once; return whether it could be done (glibc only)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, e.g. musl
        return False
    settings = ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, MAPPED_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(bool(mallopt(name, value)) for name, value in settings)
