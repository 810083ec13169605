"""What a local worker process does first (Dask preloads this module)."""

from __future__ import annotations

import logging
import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the run, which ends its workers when the units in flight have their records.

    A terminal sends it to the workers too; one that dies of it loses its unit and fills the screen.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
