"""The store of a study: named objects that appear whole or not at all.

Callers use only what an object store with conditional writes also offers: whole objects, create-if-absent,
compare-and-swap, one listing, and a clock of the store's own. Paths are POSIX and relative to the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from voxcloud.errors import CorruptStoreError, StorageError
from voxcloud.storage.digests import file_digest

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store as ZarrStore

__all__ = ["RESERVED_PREFIX", "Paths", "Store", "check_path", "file_digest", "open_store"]

Paths: TypeAlias = list[str]

# Files of this kind are the store's own (writes in progress, locks): they are never listed and never objects.
RESERVED_PREFIX = ".tmp-"

CHAINED = "chained URLs are not opened. Give a folder."
NO_OBJECT_STORAGE = "object storage comes with the service release; this version stores in folders. Give a folder."
OTHER_URL = "expected a folder, found a URL of another kind. Give a folder."


class Store(ABC):
    """Named objects; every write shows the old or the new object, never a part."""

    @property
    @abstractmethod
    def url(self) -> str:
        """What ``open_store`` takes to open it again."""

    @abstractmethod
    def local_path(self, path: str) -> Path:
        """Return the file that holds an object.

        Raises
        ------
        StorageError
            If the path leaves the store, links resolved.
        """

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Return an object.

        Raises
        ------
        CorruptStoreError
            If it does not exist.
        """

    @abstractmethod
    def write_bytes(self, path: str, data: bytes) -> None:
        """Write an object.

        Raises
        ------
        StorageFullError
            If no space is left; nothing of the object remains.
        StorageError
            If it cannot be written.
        """

    @abstractmethod
    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it. Of several callers one succeeds."""

    @abstractmethod
    def replace_if(self, path: str, expected: bytes, data: bytes | None) -> bool:
        """Replace an object, or delete it (None), if it holds the expected bytes; return whether it did.

        Of several callers that expect the same bytes one succeeds.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether an object exists."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return an object's size in bytes; -1 if there is none."""

    @abstractmethod
    def modified(self, path: str) -> float | None:
        """Return when an object was written, in seconds of the store's clock; None if there is none."""

    @abstractmethod
    def now(self) -> float:
        """Return the store's own time in seconds: what it gives to an object that is written now."""

    @abstractmethod
    def digest(self, path: str) -> str:
        """Return an object's sha256; empty if there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Paths:
        """Return the paths of all objects below a folder, sorted, from one walk."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete an object; it is no error if there is none."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below a folder."""

    @abstractmethod
    def sweep(self) -> int:
        """Delete what killed writers left behind and return how many; only for a run that holds the lease."""

    @abstractmethod
    def zarr_store(self, prefix: str) -> ZarrStore:
        """Return a read-only Zarr store below a folder."""

    def zarr_group(self, prefix: str) -> zarr.Group:
        """Open a Zarr group to read.

        Raises
        ------
        CorruptStoreError
            If there is none.
        """
        import zarr

        try:
            return zarr.open_group(self.zarr_store(prefix), mode="r", zarr_format=3)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise CorruptStoreError(_no_zarr("group", prefix, error)) from None

    def zarr_array(self, path: str) -> zarr.Array[Any]:
        """Open a Zarr array to read.

        Raises
        ------
        CorruptStoreError
            If there is none.
        """
        import zarr

        try:
            return zarr.open_array(self.zarr_store(path), mode="r", zarr_format=3)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise CorruptStoreError(_no_zarr("array", path, error)) from None


def _no_zarr(kind: str, path: str, error: Exception) -> str:
    return f"{path}: expected a Zarr {kind}, found none ({error}). Run the study again, which writes it anew."


def check_path(path: str) -> PurePosixPath:
    """Return a path inside a store.

    Raises
    ------
    StorageError
        If it is absolute, climbs with ``..``, or is one of the store's own files.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise StorageError(f"{path!r}: expected a path inside the store, relative, with / and without '..'.")
    if any(part.startswith(RESERVED_PREFIX) for part in pure.parts):
        raise StorageError(f"{path!r}: names that start with {RESERVED_PREFIX} are the store's own. Take another name.")
    return pure


def open_store(url: str | Path, allowed_roots: Iterable[str | Path] | None = None) -> Store:
    """Open a store.

    Parameters
    ----------
    url
        A folder, or a ``file://`` URL. It need not exist yet.
    allowed_roots
        Folders within which a store may lie, links resolved; None allows every folder.

    Raises
    ------
    StorageError
        For another kind of URL, or a folder outside the allowed roots.
    """
    from voxcloud.storage.folder import FolderStore

    text = str(url)
    if "::" in text:
        raise StorageError(f"{text}: {CHAINED}")
    if text.startswith("s3://"):
        raise StorageError(f"{text}: {NO_OBJECT_STORAGE}")
    text = text.removeprefix("file://")
    if "://" in text or not text or "\0" in text:
        raise StorageError(f"{text!r}: {OTHER_URL}")
    root = Path(text).resolve()
    if allowed_roots is not None:
        roots = [Path(r).resolve() for r in allowed_roots]
        if not any(root.is_relative_to(r) for r in roots):
            names = ", ".join(map(str, roots)) or "none"
            raise StorageError(
                f"{root}: expected a folder inside those that may be opened ({names}), found one outside."
            )
    return FolderStore(root)
