"""A store in a folder of a local or network disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxcloud.errors import CorruptStoreError, StorageError, StorageFullError, VoxcloudError
from voxcloud.storage.digests import file_digest
from voxcloud.storage.store import RESERVED_PREFIX, Paths, Store, check_path

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

LOG = logging.getLogger(__name__)

LOCK_WAIT_S = 10.0
OWN_FOLDER = ".voxcloud"
CONTENDING_S = 10.0
LOCK_PAUSE_S = 0.05


@dataclass(frozen=True)
class FolderStore(Store):
    """A folder of objects, each one file."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def local_path(self, path: str) -> Path:
        full = self.root / check_path(path)
        try:
            inside = full.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError) as error:  # links in a circle
            raise StorageError(f"{full}: cannot be followed ({error}). Remove the link.") from None
        if not inside:
            raise StorageError(f"{full}: leaves the store {self.root} through a link. Remove the link.")
        return full

    def read_bytes(self, path: str) -> bytes:
        full = self.local_path(path)
        try:
            return full.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise CorruptStoreError(
                f"{full}: expected this object, found none. Run the study again, which writes it anew."
            ) from None
        except OSError as error:
            raise explain(error, full) from error

    def write_bytes(self, path: str, data: bytes) -> None:
        target = self.local_path(path)
        with _written_beside(target, data) as temporary:
            temporary.replace(target)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        target = self.local_path(path)
        # A link to a complete file: unlike O_EXCL it never shows an object that is half written.
        with _written_beside(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def replace_if(self, path: str, expected: bytes, data: bytes | None) -> bool:
        target = self.local_path(path)
        with _locked(target):
            try:
                if target.read_bytes() != expected:
                    return False
            except FileNotFoundError:
                return False
            except OSError as error:
                raise explain(error, target) from error
            if data is None:
                self.delete(path)
            else:
                self.write_bytes(path, data)
        return True

    def exists(self, path: str) -> bool:
        return self.local_path(path).is_file()

    def size(self, path: str) -> int:
        found = self._stat(path)
        return -1 if found is None else found.st_size

    def modified(self, path: str) -> float | None:
        found = self._stat(path)
        return None if found is None else found.st_mtime

    def _stat(self, path: str) -> os.stat_result | None:
        full = self.local_path(path)
        try:
            return full.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise explain(error, full) from error

    def now(self) -> float:
        probe = self.root / f"{RESERVED_PREFIX}clock-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # The byte makes network file systems ask the server for the time instead of guessing it.
            probe.write_bytes(b".")
            return probe.stat().st_mtime
        except OSError as error:
            raise explain(error, probe) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def digest(self, path: str) -> str:
        full = self.local_path(path)
        try:
            return file_digest(full)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ""
        except OSError as error:
            raise explain(error, full) from error

    def list(self, prefix: str) -> Paths:
        base = self.local_path(prefix)
        return sorted(
            Path(entry.path).relative_to(self.root).as_posix()
            for entry in _walk(base)
            if not entry.name.startswith(RESERVED_PREFIX)
        )

    def delete(self, path: str) -> None:
        full = self.local_path(path)
        try:
            full.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise explain(error, full) from error

    def delete_prefix(self, prefix: str) -> None:
        full = self.local_path(prefix)
        if full == self.root:
            raise StorageError(f"{self.root}: expected a folder inside the store to delete, found the store itself.")
        try:
            shutil.rmtree(full)
        except FileNotFoundError:
            return
        except OSError as error:
            raise explain(error, full) from error

    def sweep(self) -> int:
        count, now = 0, self.now()
        for entry in _walk(self.root):
            if entry.name.startswith(RESERVED_PREFIX) and not entry.name.startswith(_lock_name("")):
                with contextlib.suppress(OSError):
                    # Other runs may ask for the lease at this moment: what they write lies beside it, for milliseconds.
                    if Path(entry.path).parent in (self.root, self.root / OWN_FOLDER) and (
                        now - entry.stat().st_mtime < CONTENDING_S
                    ):
                        continue
                    Path(entry.path).unlink()
                    count += 1
        return count

    def zarr_store(self, prefix: str) -> ZarrStore:
        from zarr.storage import LocalStore

        return LocalStore(self.local_path(prefix), read_only=True)


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files below a folder; links are not followed, and a folder that vanishes meanwhile is empty."""
    waiting = [str(folder)]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise explain(error, Path(here)) from error


@contextlib.contextmanager
def _written_beside(target: Path, data: bytes) -> Iterator[Path]:
    """Write a complete, synced file beside the target, under a name of its own; it is gone afterwards."""
    temporary = target.with_name(f"{RESERVED_PREFIX}{uuid.uuid4().hex}")
    try:
        _make_folder(target.parent)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    except VoxcloudError:
        raise
    except OSError as error:
        raise explain(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # another unit deleted a parent between two of the levels
        folder.mkdir(parents=True, exist_ok=True)


def _lock_name(name: str) -> str:
    return f"{RESERVED_PREFIX}lock-{name}"


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of an object: the kernel gives it back if this process dies."""
    lock = target.with_name(_lock_name(target.name))
    _make_folder(target.parent)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise explain(error, lock) from error
    try:
        _wait_for(descriptor, lock)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, lock: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{lock}: another process has held this lock for {LOCK_WAIT_S:.0f} s; it may be stopped. "
                    "End it and start again."
                ) from None
            time.sleep(LOCK_PAUSE_S)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                # Only two runs that start within the same milliseconds could then take one another for dead.
                LOG.warning("%s: this file system offers no locks (%s); going on without", lock, error.strerror)
                return None
            raise explain(error, lock) from error


def explain(error: OSError, path: Path) -> StorageError:
    """Return the error that says in words what the operating system said in numbers."""
    if isinstance(error, StorageError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(_existing(path)).free:,} bytes free)"
        quota = "the quota is used up" if error.errno == errno.EDQUOT else "no space is left on the disk"
        return StorageFullError(f"{path}: {quota}{free}. Make room and run the study again: what is done is kept.")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        refused = StorageError(
            f"{path}: access is refused ({error.strerror}). Check the folder's permissions and run the study again."
        )
        refused.retryable = False
        return refused
    return StorageError(
        f"{path}: {error.strerror or error}. Check the disk and run the study again: what is done is kept."
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
