"""One thread of linear algebra per unit, also where several units share a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_inside = 0
_first: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold linear algebra at one thread in this process while anybody is inside.

    The limit is the process's: a unit that ends must not lift it for the units that still run, so it is lifted when
    the last one leaves. A library that was loaded since it was set is limited when the next one enters.
    """
    global _inside, _first
    with _lock:
        limit = threadpool_limits(1)
        _inside += 1
        if _inside == 1:
            _first = limit  # it knows what was before
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _first.restore_original_limits()
