"""The command line, ended by SIGKILL at a chosen write: a script for the tests, not a test.

VOXCLOUD_TEST_KILL holds "WHEN TEXT": WHEN is ``before``, ``in`` or ``after`` the first write of an object whose path
contains TEXT. ``in`` leaves half of the bytes in the file that is being written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from voxcloud.cli.app import main
from voxcloud.report import page
from voxcloud.storage.folder import FolderStore

WHEN, TEXT = os.environ["VOXCLOUD_TEST_KILL"].split(" ", 1)


def die(*_: Any) -> NoReturn:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def die_half_way(descriptor: int) -> NoReturn:
    """Cut what was written in half, then end."""
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    die()


def at_write(write: Callable[..., Any], path: str, *args: Any) -> Any:
    """Write, unless this is the write to die at."""
    if TEXT not in path:
        return write(*args)
    if WHEN == "before":
        die()
    if WHEN == "in":
        os.fsync = die_half_way
    answer = write(*args)
    die()
    return answer


write_bytes, create, replace_file = FolderStore.write_bytes, FolderStore.create_if_absent, page.replace_file
FolderStore.write_bytes = lambda self, path, data: at_write(write_bytes, path, self, path, data)
FolderStore.create_if_absent = lambda self, path, data: at_write(create, path, self, path, data)
page.replace_file = lambda path, text: at_write(replace_file, Path(path).name, path, text)

if __name__ == "__main__":
    sys.exit(main())
