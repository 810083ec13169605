"""b-values and b-vectors of diffusion images: text files, found by the inheritance that BIDS defines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxcloud.bids.raw import absent_content, image_stem, listed, parse_image_name
from voxcloud.errors import BidsError

Float64 = npt.NDArray[np.float64]
BVAL, BVEC = ".bval", ".bvec"
AXES = 3
TURNED = "one vector per row"
AMBIGUOUS = "three vectors of three numbers"


@dataclass(frozen=True)
class GradientFiles:
    """The gradient table of an image as its files have it.

    Attributes
    ----------
    bvals : (volume,), as written, s/mm2 if the file is right.
    bvecs : (3, volume), as written, in the frame of BIDS: voxel axes, x negated where the affine's determinant is
        positive. NaN stays NaN.
    bval_path, bvec_path : where they were found.
    notes : what is not as BIDS wants it but can be read in one way only.
    """

    bvals: Float64
    bvecs: Float64
    bval_path: Path
    bvec_path: Path
    notes: tuple[str, ...]


def read_gradients(root: str | Path, image: str | Path) -> GradientFiles:
    """Read the gradient table that applies to a diffusion image.

    In the image's folder and those above it, up to the root, ``.bval`` and ``.bvec`` files apply that have the image's
    suffix and no entity that the image has not. The nearest folder with one wins, for each of the two by itself; files
    are not merged.

    Raises
    ------
    BidsError
        If there is none, two of one folder apply, or a file does not hold a table.
    """
    top, path = Path(root).absolute(), Path(image).absolute()
    if not path.is_relative_to(top):
        raise BidsError(f"{path}: expected an image in {top}, found it elsewhere. Name the right data set.")
    values_path, vectors_path = (find_table(top, path, extension) for extension in (BVAL, BVEC))
    values, notes = read_bvals(values_path)
    vectors, more = read_bvecs(vectors_path)
    return GradientFiles(values, vectors, values_path, vectors_path, (*notes, *more))


def find_table(root: Path, image: Path, extension: str) -> Path:
    """Return the ``.bval`` or ``.bvec`` file that applies to an image; see ``read_gradients``."""
    parsed = parse_image_name(image.name)
    if parsed is None:
        raise BidsError(f"{image.name}: expected the name of a BIDS image, found another. Rename it as BIDS says.")
    entities, suffix = set(parsed[0].items()), parsed[1]
    stem = image_stem(image.name)
    levels = len(image.relative_to(root).parts) - 1
    for folder in [image.parent, *image.parent.parents][: levels + 1]:
        inside = listed(folder)
        applicable = [
            path
            for path in inside
            if path.name.lower().endswith(extension) and _applies(path.name[: -len(extension)], entities, suffix)
        ]
        own = [path for path in applicable if path.name[: -len(extension)] == stem]
        if own:
            # What lies beside another image of this folder under its name is that image's own.
            images = {image_stem(path.name) for path in inside}
            applicable = own + [
                path for path in applicable if path not in own and path.name[: -len(extension)] not in images
            ]
        if len(applicable) > 1:
            names = " and ".join(path.name for path in applicable)
            raise BidsError(
                f"{image.name}: expected at most one {extension} file that applies to it per folder (BIDS "
                f"inheritance), found {names} in {folder.relative_to(root).as_posix()}. Name the right one after the "
                "image, and move the general one up a folder."
            )
        if applicable:
            return applicable[0]
    raise BidsError(
        f"{image.name}: expected a file {stem}{extension} beside it, or one that applies to it in a folder above, "
        f"found none. Convert the scanner's files again (dcm2niix writes it), or exclude the image."
    )


def read_bvals(path: Path) -> tuple[Float64, tuple[str, ...]]:
    """Read b-values: one row, or one column, which is noted.

    Returns
    -------
    (volume,) as written, and notes.

    Raises
    ------
    BidsError
        If the file holds anything but one row or one column of numbers.
    """
    table, notes = _read_numbers(path, "b-values")
    if table.shape[0] != 1 and table.shape[1] != 1:
        hint = " These look like b-vectors." if AXES in table.shape else ""
        raise BidsError(
            f"{path}: expected b-values in one row, found {table.shape[0]} rows of {table.shape[1]}.{hint} "
            "Write one number per volume, separated by spaces."
        )
    if table.shape[0] > 1:
        notes = (*notes, f"{path.name}: expected b-values in one row, found one column, which was read as such.")
    return table.ravel(), notes


def read_bvecs(path: Path) -> tuple[Float64, tuple[str, ...]]:
    """Read b-vectors: three rows; rows of three numbers are turned and noted.

    Three rows of three numbers can be read in two ways: they are taken as BIDS has it, rows x, y and z.

    Returns
    -------
    (3, volume) as written, and notes.

    Raises
    ------
    BidsError
        If the file holds neither three rows nor three columns of numbers.
    """
    table, notes = _read_numbers(path, "b-vectors")
    if AXES not in table.shape:
        raise BidsError(
            f"{path}: expected b-vectors in three rows (x, y, z), found {table.shape[0]} rows of {table.shape[1]}. "
            "Write one column per volume."
        )
    if table.shape[0] != AXES:
        notes = (*notes, f"{path.name}: expected b-vectors in three rows, found {TURNED}; they were turned.")
        return np.ascontiguousarray(table.T), notes
    if table.shape[1] == AXES:
        notes = (
            *notes,
            f"{path.name}: expected more volumes, found {AMBIGUOUS}, which were read as rows x, y and z.",
        )
    return table, notes


def _applies(stem: str, entities: set[tuple[str, str]], suffix: str) -> bool:
    """Say whether a file without extension speaks about an image with these entities and this suffix."""
    *parts, found = stem.split("_")
    pairs = {(key, label) for key, _, label in (part.partition("-") for part in parts)}
    return found == suffix and all("-" in part for part in parts) and pairs <= entities


def _read_numbers(path: Path, what: str) -> tuple[Float64, tuple[str, ...]]:
    """Read lines of numbers; blank lines, a byte order mark and any line ends are passed over."""
    absent = absent_content(path)
    if absent is not None:
        advice = absent.advice.replace("%s", f"'{path}'")
        raise BidsError(f"{path}: expected {what}, found {absent.what}. {advice}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BidsError(f"{path}: expected {what} as text, found: {error}. Write the file again.") from None
    notes: tuple[str, ...] = ()
    if "," in text:
        notes = (f"{path.name}: expected numbers separated by spaces, found commas, which were read as spaces.",)
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if words:
            rows.append([_number(word, f"{path}, line {number}", what) for word in words])
    if not rows:
        raise BidsError(f"{path}: expected {what}, found an empty file. Convert the scanner's files again.")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise BidsError(
            f"{path}: expected rows of equal length, found {', '.join(str(len(row)) for row in rows[:6])} numbers. "
            "The file was cut or edited: convert the scanner's files again."
        )
    return np.array(rows, np.float64), notes


def _number(word: str, where: str, what: str) -> float:
    try:
        return float(word.replace("_", "x"))  # Python alone would read 1_000
    except ValueError:
        raise BidsError(
            f"{where}: expected {what}, found {word[:40]!r}, which is no number. Write numbers only."
        ) from None
