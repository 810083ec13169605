"""NIfTI files as bytes: the header checked, one volume read without touching the others.

nibabel reads the header; the voxels are read here, for two reasons. A masked read needs a tenth of a brain image and
no float64 copy of all of it. And a volume deep inside a 4D ``.nii.gz`` can only be reached by decompressing everything
before it: reading k = 0 ... n-1 one after the other would decompress the file n/2 times, so the place in the
compressed stream is kept between calls and a forward read goes on from there. ISA-L decompresses faster than zlib.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError

from voxcloud.errors import ImageError, StorageError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20
SPACES = {0: "unknown", 1: "scanner", 2: "aligned", 3: "talairach", 4: "mni", 5: "template"}

SAME_PLACE_MM = 0.01
"""Two grids are the same when no corner of one lies further than this from the other; above float32 rounding of the
header (about 1e-4 mm), far below anything that matters at a voxel size of 1 mm."""

# A qform stores a rotation as b, c, d of a unit quaternion in float32; a follows from them, with an error that grows as
# a gets small, i.e. near half turns, which images stored left to right or from front to back are (Nifti1 standard,
# METHOD 2). These bound the error of the angle, in radians, that nibabel and nifti1_io then make.
_QUATERNION_ROUNDING = 2e-7
_LARGEST_ROUNDING = 1.5e-3

# Its type stub says "an object"; it is an exception.
_DAMAGED: type[Exception] = isal_zlib.error  # type: ignore[assignment]
_AUTO_GZIP = 31  # window bits: a gzip wrapper, whose checksum is then verified at its end


@dataclass(frozen=True)
class NiftiFile:
    """Where the voxels of a NIfTI file lie and how their numbers are stored."""

    path: str
    compressed: bool
    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: npt.NDArray[np.float64]
    space_code: int
    length_unit: str

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume, uncompressed."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        """Bytes of header and voxels, uncompressed."""
        return self.offset + self.n_volumes * self.volume_bytes

    @property
    def scaled(self) -> bool:
        """Whether stored numbers must be multiplied or shifted to become values."""
        return not (self.slope == 1.0 and self.intercept == 0.0)


def open_nifti(path: str | Path) -> NiftiFile:
    """Read and check the header of a NIfTI-1 or NIfTI-2 file (``.nii`` or ``.nii.gz``).

    Pairs of ``.hdr`` and ``.img`` are refused: an image is known by the digest of its one file, and a change of the
    other file would go unseen.

    Raises
    ------
    ImageError
        If the file is missing, empty, cut short or not NIfTI, or its header leaves left and right or the size open.
    StorageError
        If the file system fails; trying again may help.
    """
    name = str(path)
    start, compressed = _read_start(name)
    header = _parse(start, name)
    shape, n_volumes = _shape(header, name)
    slope, intercept = _scaling(header, name)
    affine, code = _affine(header, shape, name)
    found = NiftiFile(
        path=name,
        compressed=compressed,
        shape=shape,
        n_volumes=n_volumes,
        dtype=_dtype(header, name),
        offset=int(header["vox_offset"]),
        slope=slope,
        intercept=intercept,
        affine=affine,
        space_code=code,
        length_unit=str(header.get_xyzt_units()[0]),
    )
    _check_size(found)
    return found


def read_volume(nifti: NiftiFile, volume: int) -> npt.NDArray[Any]:
    """Return the stored numbers of one volume, flat, in the file's order (x fastest).

    Raises
    ------
    ImageError
        If the file ends too early or its checksum fails.
    """
    start = nifti.offset + volume * nifti.volume_bytes
    if not nifti.compressed:
        with _opened(nifti.path) as handle:
            handle.seek(start)
            content = handle.read(nifti.volume_bytes)
        _check_count(nifti, volume, len(content))
        return np.frombuffer(content, dtype=nifti.dtype)
    last = volume == nifti.n_volumes - 1
    return np.frombuffer(_gzip_range(nifti, volume, start, to_the_end=last), dtype=nifti.dtype)


def check_complete(nifti: NiftiFile) -> None:
    """Refuse a compressed file that ends too early, at the cost of its last four bytes.

    A gzip file ends with the size of what it holds; only where that size does not fit (or the file has several
    members, as bgzip writes) is the file decompressed to know.

    Raises
    ------
    ImageError
        If the file is cut short or damaged.
    """
    if not nifti.compressed:
        return  # the size of the file was compared with the header when it was opened
    with _opened(nifti.path) as handle:
        handle.seek(-4, os.SEEK_END)
        stated = int.from_bytes(handle.read(4), "little")
    if stated != nifti.total_bytes % 2**32:
        read_volume(nifti, nifti.n_volumes - 1)


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise ImageError(f"{name}: expected a NIfTI file, found no file. Check the path in the images table.") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageError(
            f"{name}: expected a readable NIfTI file, found: {error.strerror}. Check the path and its rights."
        ) from None
    except OSError as error:
        raise StorageError(f"{name}: reading failed: {error}. Try again; if it fails again, check the disk.") from error


def _read_start(name: str) -> tuple[bytes, bool]:
    """Return the first 540 uncompressed bytes, which hold either header, and whether the file is compressed."""
    with _opened(name) as handle:
        start = handle.read(540)
        if not start:
            raise ImageError(f"{name}: expected a NIfTI file, found 0 bytes. Copy or write the file again.")
        if start[:2] != GZIP_MAGIC:
            return start, False
        handle.seek(0)
        place, content = _GzipPlace(()), b""
        try:
            while len(content) < 540 and (piece := place.take(handle, 540 - len(content), 4096)):
                content += piece
        except EOFError:
            return content, True
        except _DAMAGED as error:
            raise ImageError(
                f"{name}: expected a gzip file, found damaged bytes ({error}). Copy or write the file again."
            ) from None
    return content, True


def _parse(start: bytes, name: str) -> Any:
    if name.lower().endswith((".img", ".hdr")) or start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        raise ImageError(
            f"{name}: expected one file, .nii or .nii.gz, found one of a .hdr and .img pair. "
            "Save the image as .nii (FSL: fslchfiletype NIFTI_GZ; SPM: Utils, File converter)."
        )
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if len(start) >= 348 and 348 in sizes and start[344:348] not in (b"n+1\0", b"ni1\0"):
        raise ImageError(
            f"{name}: expected NIfTI, found an Analyze 7.5 header, which does not say which side is left. "
            "Convert it to NIfTI with a program that knows its orientation."
        )
    kind: Any = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    length = 540 if 540 in sizes else 348
    if not sizes & {348, 540} or len(start) < length:
        raise ImageError(
            f"{name}: expected a NIfTI header of 348 or 540 bytes, found {len(start)} bytes that begin with "
            f"{start[:8]!r}. Check that the file is a NIfTI image and was copied completely."
        )
    try:
        return kind.from_fileobj(io.BytesIO(start), check=True)
    except (HeaderDataError, ValueError) as error:
        raise ImageError(f"{name}: the NIfTI header is not valid: {error}. Write the file again.") from None


def _shape(header: Any, name: str) -> tuple[tuple[int, int, int], int]:
    dims = [int(n) for n in header.get_data_shape()]
    while len(dims) > 4 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 4 or not dims or any(n < 1 for n in dims):
        raise ImageError(
            f"{name}: expected a 3D or 4D image, found shape {tuple(dims)}. "
            "Split it into 3D or 4D files of one value per voxel."
        )
    dims += [1] * (4 - len(dims))
    return (dims[0], dims[1], dims[2]), dims[3]


def _dtype(header: Any, name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except HeaderDataError:
        dtype = np.dtype(object)
    if dtype.kind not in "iuf":
        raise ImageError(
            f"{name}: expected one real number per voxel, found NIfTI data type {int(header['datatype'])} "
            "(complex, colour or unknown). Write the image as float32."
        )
    return dtype


def _scaling(header: Any, name: str) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise ImageError(f"{name}: the scaling of the values is not valid: {error}. Write the file again.") from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _affine(header: Any, shape: tuple[int, int, int], name: str) -> tuple[npt.NDArray[np.float64], int]:
    """Return voxel to RAS+ mm and the code of its space; sform before qform, as SPM, FSL and nibabel choose."""
    try:
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
    except (HeaderDataError, ValueError) as error:
        raise ImageError(f"{name}: orientation in the header is not valid: {error}. Write the file again.") from None
    if sform is None and qform is None:
        raise ImageError(
            f"{name}: expected an orientation (sform or qform code above 0), found both codes 0, which leaves left and "
            "right open. Set the orientation with the program that made the image."
        )
    chosen = qform if sform is None else sform
    affine = np.asarray(chosen, dtype=np.float64) + 0.0
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ImageError(
            f"{name}: expected an affine that can be inverted, found {affine[:3].tolist()}. Write the file again."
        )
    if sform is not None and qform is not None:
        apart = corner_distance(sform, qform, shape)
        allowed = SAME_PLACE_MM + _qform_rounding(header, affine, shape)
        if apart > allowed:
            raise ImageError(
                f"{name}: expected sform and qform to agree within {allowed:.2g} mm, found corners {apart:.3g} mm "
                f"apart (sform code {int(sform_code)}, qform code {int(qform_code)}). Programs would show the image in "
                "different places: copy the right one over the other (fslorient -copysform2qform or -copyqform2sform)."
            )
    return affine, int(qform_code if sform is None else sform_code)


def _qform_rounding(header: Any, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    """Return how far in mm a corner may lie elsewhere because the quaternion is stored in float32."""
    stored = sum(float(header[f"quatern_{part}"]) ** 2 for part in "bcd")
    a = np.sqrt(max(1.0 - stored, 0.0))
    angle = _LARGEST_ROUNDING if a == 0 else min(_LARGEST_ROUNDING, _QUATERNION_ROUNDING / a)
    diagonal = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) * (np.asarray(shape) - 1)
    return float(angle * np.linalg.norm(diagonal))


def corner_distance(first: npt.ArrayLike, second: npt.ArrayLike, shape: tuple[int, ...]) -> float:
    """Return the largest distance in mm between the same corner voxel under two affines."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in shape))], dtype=np.float64)
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(np.sqrt(((corners @ difference.T)[:, :3] ** 2).sum(axis=1)).max())


def _check_size(nifti: NiftiFile) -> None:
    """Compare the size of an uncompressed file with what its header promises."""
    if nifti.compressed:
        return
    expected = nifti.total_bytes
    found = Path(nifti.path).stat().st_size
    if found < expected:
        raise ImageError(
            f"{nifti.path}: expected {expected} bytes, found {found}: the file is cut short. Copy or write it again."
        )


def _check_count(nifti: NiftiFile, volume: int, found: int) -> None:
    if found != nifti.volume_bytes:
        raise ImageError(
            f"{nifti.path}: expected {nifti.volume_bytes} bytes of volume {volume}, found {found}: "
            "the file is cut short. Copy or write it again."
        )


class _GzipPlace:
    """A place in a gzip stream from which reading can go on; holds no open file."""

    def __init__(self, identity: tuple[Any, ...]) -> None:
        self.identity = identity
        self.stream = isal_zlib.decompressobj(_AUTO_GZIP)
        self.compressed_at = 0
        self.position = 0
        self.pending = b""
        self.ended = False

    def take(self, handle: BinaryIO, limit: int, chunk_bytes: int = CHUNK_BYTES) -> bytes:
        """Return up to ``limit`` more bytes; nothing once the stream has ended properly.

        Raises EOFError where the file ends inside the stream.
        """
        while not self.ended:
            if not self.pending:
                self.pending = handle.read(chunk_bytes)
                self.compressed_at += len(self.pending)
            at_the_end = not self.pending  # the decompressor may still hold bytes that it had no room for
            content = self.stream.decompress(self.pending, limit)
            self.pending = self.stream.unconsumed_tail
            if self.stream.eof:
                self._next_member(handle)
            if content:
                self.position += len(content)
                return content
            if at_the_end and not self.ended:
                raise EOFError
        return b""

    def _next_member(self, handle: BinaryIO) -> None:
        """Go on with another gzip member where one follows (bgzip, concatenated files); padding ends the stream."""
        rest = self.stream.unused_data
        if len(rest) < 2:
            more = handle.read(CHUNK_BYTES)
            self.compressed_at += len(more)
            rest += more
        if rest[:2] == GZIP_MAGIC:
            self.stream, self.pending = isal_zlib.decompressobj(_AUTO_GZIP), rest
        else:
            self.ended = True


_PLACES = threading.local()


def _gzip_range(nifti: NiftiFile, volume: int, start: int, *, to_the_end: bool) -> bytearray:
    """Return one volume's bytes; read on to the checksum behind the last volume."""
    with _opened(nifti.path) as handle:
        state = os.fstat(handle.fileno())
        identity = (nifti.path, state.st_size, state.st_mtime_ns, state.st_ino)
        place: _GzipPlace | None = getattr(_PLACES, "last", None)
        _PLACES.last = None  # an error below must not leave a half-used place behind
        if place is None or place.identity != identity or place.position > start:
            place = _GzipPlace(identity)
        handle.seek(place.compressed_at)
        content = bytearray(nifti.volume_bytes)
        filled = 0
        try:
            while place.position < start and place.take(handle, min(start - place.position, CHUNK_BYTES)):
                pass
            while filled < len(content):
                piece = place.take(handle, len(content) - filled)
                if not piece:
                    break
                content[filled : filled + len(piece)] = piece
                filled += len(piece)
            while to_the_end and place.take(handle, CHUNK_BYTES):
                pass
        except EOFError:
            raise ImageError(
                f"{nifti.path}: expected {nifti.total_bytes} bytes of header and voxels, found {place.position} "
                f"before the compressed file ends at {state.st_size} bytes: it is cut short. Copy or write it again."
            ) from None
        except _DAMAGED as error:
            raise ImageError(
                f"{nifti.path}: expected {nifti.total_bytes} bytes of header and voxels, found damaged compressed "
                f"bytes after {place.position} ({error}). Copy or write the file again."
            ) from None
    _check_count(nifti, volume, filled)
    _PLACES.last = None if to_the_end else place
    return content
