"""Images on the grid of a mask: headers checked, voxels inside the mask read, everything else refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxcloud.bids.nifti import SAME_PLACE_MM, SPACES, NiftiFile, corner_distance, open_nifti, read_volume
from voxcloud.errors import ImageError, MaskError
from voxcloud.schema import SPATIAL_UNITS

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]

RESAMPLE = (
    "Resample it to the mask's grid (SPM: Coregister, Reslice; nilearn: resample_to_img(image, mask); "
    "FSL: flirt -applyxfm -usesqform), or exclude it (on_bad_image: exclude)."
)
MNI_CODE = 4

# Header codes that name a template space; images of two of them do not belong together. Code 2 ("aligned", what
# nibabel writes by default) and 1 (scanner) are found on template images as well and prove nothing.
_NAMED_SPACES = (3, 4)


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says; reading it costs one small read.

    Parameters
    ----------
    path
        The file.
    shape
        Voxels along x, y, z of one volume.
    affine
        (4, 4), voxel to RAS+ mm.
    zooms
        Voxel sizes in mm.
    units
        Length unit that the header names: mm or unknown.
    n_volumes
        Volumes in the file; 1 for a 3D image.
    dtype
        Stored data type, e.g. ``int16``.
    space
        Name of the coordinate space's code: scanner, aligned, talairach, mni or template.
    """

    path: str
    shape: Shape
    affine: Float64
    zooms: tuple[float, float, float]
    units: str
    n_volumes: int
    dtype: str
    space: str

    def check_grid(self, grid: MaskGrid) -> None:
        """Refuse an image that is not on the grid of the mask, up to flips and permutations of its axes.

        Raises
        ------
        ImageError
            The message holds shape, voxel sizes and the first voxel's place of both, in mm.
        """
        _axes_of(self, grid)


@dataclass(frozen=True, eq=False)
class MaskGrid:
    """A mask and the grid that it defines.

    Parameters
    ----------
    shape
        Voxels along the three axes of the array.
    affine
        (4, 4), voxel to RAS+ mm.
    mask
        (shape), True inside.
    voxel_index
        (voxels,) int64: positions of the voxels inside, in the flattened mask, C order, ascending.
    space_code
        NIfTI code of the space, which statistical maps on this grid carry on; 4 is MNI152.
    binary
        False where the mask had other values than 0 and 1 and was cut at > 0.
    """

    shape: Shape
    affine: Float64
    mask: Bool
    voxel_index: Int64
    space_code: int = MNI_CODE
    binary: bool = True
    path: str = ""
    _places: dict[tuple[object, ...], Int64] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_array(
        cls,
        mask: npt.ArrayLike,
        affine: npt.ArrayLike,
        *,
        space_code: int = MNI_CODE,
        binary: bool = True,
        path: str = "",
    ) -> MaskGrid:
        """Make a grid from a boolean array and an affine (voxel to RAS+ mm).

        Raises
        ------
        MaskError
            If no voxel is inside.
        """
        inside = np.asarray(mask, dtype=bool)
        assert inside.ndim == 3
        index = np.flatnonzero(inside.ravel(order="C")).astype(np.int64)
        if not index.size:
            raise MaskError(
                f"{path or 'mask'}: expected voxels above 0, found none in {inside.shape}. "
                "Give a mask that is not empty."
            )
        x, y, z = inside.shape
        return cls((x, y, z), np.asarray(affine, dtype=np.float64), inside, index, space_code, binary, path)

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel sizes in mm."""
        return _zooms(self.affine)

    def to_mm(self, positions: npt.ArrayLike) -> Float64:
        """Return the mm coordinates, shape (n, 3), of positions in the flattened grid (C order)."""
        voxels = np.stack(np.unravel_index(np.asarray(positions, dtype=np.int64), self.shape), axis=-1)
        mm: Float64 = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        return mm

    def _file_places(self, axes: Axes, image_shape: Shape) -> Int64:
        """Return where the mask's voxels lie in a file's flat order; kept, because a cohort shares one grid."""
        key = (axes, image_shape)
        places = self._places.get(key)
        if places is None:
            strides = (1, image_shape[0], image_shape[0] * image_shape[1])
            along = []
            for grid_axis, (axis, sign) in enumerate(axes):
                steps = np.arange(self.shape[grid_axis], dtype=np.int64)
                along.append((steps if sign > 0 else steps[::-1]) * strides[axis])
            full = along[0][:, None, None] + along[1][None, :, None] + along[2][None, None, :]
            # Two threads may both come here; they store equal arrays.
            places = self._places[key] = full.ravel(order="C")[self.voxel_index]
        return places


Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""For each axis of the grid: the image's axis that runs along it, and +1 or -1 for its direction."""


@dataclass(frozen=True)
class ImageStatistics:
    """Robust summary of an image's values inside the mask, in the units of the map."""

    n_finite: int
    n_nan: int
    n_zero: int
    median: float
    p01: float
    p99: float

    @property
    def p1(self) -> float:
        """The 1st percentile."""
        return self.p01


@dataclass(frozen=True)
class MaskedImage:
    """The voxels of one image inside a mask, and how many infinite values became NaN."""

    values: Float32
    n_infinite: int


def read_header(path: str | Path, volume: int | None = None) -> ImageHeader:
    """Read and check an image's header without reading its voxels.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``.
    volume
        0-based volume that will be read, or None to look at the file as a whole.

    Raises
    ------
    ImageError
        If the file is missing, empty, cut short or not NIfTI, in another unit than mm, without orientation, its sform
        and qform disagree, or it has no such volume.
    """
    nifti = open_nifti(path)
    header = _header(nifti)
    if volume is not None:
        _check_volume(nifti, volume)
    return header


def load_mask(path: str | Path) -> MaskGrid:
    """Read a mask: every voxel above 0 is inside; NaN and negative values are outside.

    A mask of probabilities is thus cut at > 0 (``binary`` is then False); threshold it beforehand for another cut.

    Raises
    ------
    MaskError
        If no voxel is inside, or the file has several volumes.
    ImageError
        If the file cannot be read.
    """
    nifti = open_nifti(path)
    _header(nifti)
    if nifti.n_volumes != 1:
        raise MaskError(
            f"{path}: expected a 3D mask, found {nifti.n_volumes} volumes. Save the one volume that is the mask."
        )
    raw = read_volume(nifti, 0)
    values = raw.astype(np.float64) * nifti.slope + nifti.intercept if nifti.scaled else raw
    with np.errstate(invalid="ignore"):
        inside = values > 0
        binary = bool(np.all((values == 0) | (values == 1)))
    mask = np.ascontiguousarray(inside.reshape(nifti.shape, order="F"))
    return MaskGrid.from_array(mask, nifti.affine, space_code=nifti.space_code, binary=binary, path=str(path))


def read_masked(path: str | Path, volume: int | None, grid: MaskGrid) -> Float32:
    """Return the values of an image at the voxels of a mask, in the mask's voxel order.

    value = stored * slope + intercept in float64, then float32, as nibabel's ``get_fdata`` rounded to float32; an image
    saved with flipped or permuted axes (LAS for RAS) gives the same bits.

    Parameters
    ----------
    path, volume
        The file and the 0-based volume in it; None for a file of one volume.
    grid
        The mask; the image must be on its grid up to flips and permutations of the axes.

    Returns
    -------
    numpy.ndarray
        (voxels,) float32; NaN where the image is not finite.

    Raises
    ------
    ImageError
        If the file cannot be read completely or is on another grid.
    """
    return read_masked_image(path, volume, grid).values


def read_masked_image(path: str | Path, volume: int | None, grid: MaskGrid) -> MaskedImage:
    """Read as ``read_masked`` does, and say how many infinite values became NaN."""
    nifti = open_nifti(path)
    axes = _axes_of(_header(nifti), grid)
    if volume is None:
        if nifti.n_volumes != 1:
            raise ImageError(
                f"{path}: expected one volume, found {nifti.n_volumes}. Name the volume (0 to {nifti.n_volumes - 1}) "
                "in the column `volume` of the images table."
            )
        volume = 0
    _check_volume(nifti, volume)
    stored = read_volume(nifti, volume)[grid._file_places(axes, nifti.shape)]
    if nifti.scaled:
        stored = stored.astype(np.float64) * nifti.slope + nifti.intercept
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32)
    infinite = np.isinf(values)
    n_infinite = int(np.count_nonzero(infinite))
    if n_infinite:
        values[infinite] = np.nan
    assert values.shape == grid.voxel_index.shape
    return MaskedImage(values, n_infinite)


def image_statistics(vector: npt.ArrayLike) -> ImageStatistics:
    """Summarise the values of one image inside the mask: what ``voxcloud.schema.check_units`` looks at.

    Parameters
    ----------
    vector
        (voxels,), NaN where the image has no value.
    """
    values = np.asarray(vector)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ImageStatistics(0, int(values.size), 0, float("nan"), float("nan"), float("nan"))
    p01, median, p99 = np.percentile(finite, [1.0, 50.0, 99.0])
    return ImageStatistics(
        n_finite=int(finite.size),
        n_nan=int(values.size - finite.size),
        n_zero=int(np.count_nonzero(finite == 0)),
        median=float(median),
        p01=float(p01),
        p99=float(p99),
    )


def _header(nifti: NiftiFile) -> ImageHeader:
    if nifti.length_unit not in (SPATIAL_UNITS, "unknown"):
        raise ImageError(
            f"{nifti.path}: expected lengths in {SPATIAL_UNITS}, found {nifti.length_unit} in the header. "
            f"Convert the affine to {SPATIAL_UNITS} and save the image again."
        )
    return ImageHeader(
        path=nifti.path,
        shape=nifti.shape,
        affine=nifti.affine,
        zooms=_zooms(nifti.affine),
        units=nifti.length_unit,
        n_volumes=nifti.n_volumes,
        dtype=str(nifti.dtype.newbyteorder("=")),
        space=SPACES.get(nifti.space_code, "unknown"),
    )


def _check_volume(nifti: NiftiFile, volume: int) -> None:
    if not 0 <= volume < nifti.n_volumes:
        raise ImageError(
            f"{nifti.path}: expected volume {volume} (counted from 0), found {nifti.n_volumes} volumes. "
            "Correct the column `volume` of the images table."
        )


def _zooms(affine: Float64) -> tuple[float, float, float]:
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def _axes_of(header: ImageHeader, grid: MaskGrid) -> Axes:
    """Return how the image's axes run along the grid's, or refuse the image."""
    found = SPACES.get(grid.space_code, "unknown")
    named = [SPACES[code] for code in _NAMED_SPACES]
    if header.space in named and found in named and header.space != found:
        raise ImageError(
            f"{header.path}: expected the space of the mask, {found}, found {header.space} (sform code). "
            "Normalise images and mask to one template."
        )
    if header.shape == grid.shape and corner_distance(header.affine, grid.affine, grid.shape) <= SAME_PLACE_MM:
        return ((0, 1), (1, 1), (2, 1))
    # Grid voxel to image voxel; the same grid means a signed permutation, shifted to count from the other end.
    step = np.linalg.solve(header.affine, grid.affine)[:3, :3]
    order = np.abs(step).argmax(axis=0)
    if sorted(order.tolist()) != [0, 1, 2]:
        raise ImageError(_another_grid(header, grid, None))
    axes: list[tuple[int, int]] = []
    rebuilt = np.zeros((4, 4))
    rebuilt[3, 3] = 1.0
    for grid_axis, axis in enumerate(order.tolist()):
        sign = 1 if step[axis, grid_axis] > 0 else -1
        axes.append((axis, sign))
        rebuilt[axis, grid_axis] = sign
        rebuilt[axis, 3] = 0 if sign > 0 else header.shape[axis] - 1
    shape = tuple(header.shape[axis] for axis, _ in axes)
    apart = corner_distance(header.affine @ rebuilt, grid.affine, grid.shape)
    if shape != grid.shape or apart > SAME_PLACE_MM:
        raise ImageError(_another_grid(header, grid, apart if shape == grid.shape else None))
    return (axes[0], axes[1], axes[2])


def _another_grid(header: ImageHeader, grid: MaskGrid, apart: float | None) -> str:
    moved = "" if apart is None else f"; corners lie up to {apart:.3g} mm apart"
    return (
        f"{header.path}: expected the mask's grid, {_describe(grid.shape, grid.affine)}, found "
        f"{_describe(header.shape, header.affine)}{moved}. {RESAMPLE}"
    )


def _describe(shape: Shape, affine: Float64) -> str:
    sizes = " x ".join(f"{v:.4g}" for v in _zooms(affine))
    first = ", ".join(f"{v:.4g}" for v in affine[:3, 3])
    rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in affine[:3])
    return f"shape {' x '.join(map(str, shape))}, voxels {sizes} mm, first voxel at ({first}) mm, affine [{rows}]"
