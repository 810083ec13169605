"""Tab-separated tables as BIDS writes them: labels stay labels, numbers become numbers, nothing is guessed."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.errors import StorageError, TableError, nearest

LABEL = re.compile(r"[A-Za-z0-9]+")
PREFIXES = {"participant_id": "sub-", "session_id": "ses-"}

# Codes in these columns are names even when they are written as digits: site 1, 2, 3 is no slope over sites.
TEXT_COLUMNS = frozenset(
    {"participant_id", "session_id", "group", "sex", "site", "scanner", "map", "label", "path", "acq_time"}
)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LEADING_ZERO = re.compile(r"0\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MISSING = frozenset({"", "n/a"})
# What R, pandas and spreadsheets write instead of n/a; in columns of labels these may be labels.
_MISSING_ELSEWHERE = _MISSING | {"N/A", "NA", "NaN", "nan"}
_SEPARATORS = {",": "commas", ";": "semicolons"}


@dataclass(frozen=True)
class _Raw:
    """A table as text: the header, the cells by column, and the line that each row came from."""

    path: Path
    header: tuple[str, ...]
    cells: dict[str, list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """Name a row for a message: its line, and its participant and session where the table has them."""
        names = [
            prefix + self.cells[column][row].removeprefix(prefix)
            for column, prefix in PREFIXES.items()
            if self.cells.get(column, [""] * len(self.lines))[row] not in _MISSING
        ]
        return f"{self.path}, line {self.lines[row]}" + (f" ({'_'.join(names)})" if names else "")


def read_table(
    path: str | Path, required: Sequence[str] = (), *, numeric: Collection[str] = (), text: Collection[str] = ()
) -> pd.DataFrame:
    """Read a TSV.

    ``participant_id`` and ``session_id`` lose their prefixes (``sub-01`` is ``01``) and keep their zeros. Columns of
    numbers become float64, missing cells (``n/a`` or empty) NaN; every other column holds str, missing cells None. A
    column stays text if it is a known column of labels, if ``text`` names it, if the JSON beside the table gives it
    ``Levels``, or if a cell has a leading zero (``01``). BOM, CRLF, UTF-16 and cells in quotes are tolerated.

    Parameters
    ----------
    path
        The table.
    required
        Columns that must be there.
    numeric
        Columns that must hold numbers.
    text
        Columns that hold text whatever they look like.

    Raises
    ------
    TableError
        If the file is missing, no TSV, ragged, lacks a column (the nearest one is named), or holds a cell that does
        not fit its column: a label with other characters, or a word among numbers.
    """
    raw = _read_raw(Path(path))
    for name in required:
        if name not in raw.header:
            raise TableError(
                f"{path}: expected a column {name}, found {', '.join(raw.header)}.{nearest(name, raw.header)} "
                "Add or rename the column."
            )
    as_text = TEXT_COLUMNS | set(text) | _with_levels(Path(path))
    columns: dict[str, pd.Series[Any]] = {}
    for name in raw.header:
        if name in PREFIXES:
            columns[name] = pd.Series(_labels(raw, name, required=name in required), dtype=object)
        elif name in numeric:
            columns[name] = pd.Series(_numbers(raw, name), dtype=np.float64)
        elif name in as_text or not _holds_numbers(raw, name):
            columns[name] = pd.Series(_texts(raw.cells[name], name), dtype=object)
        else:
            columns[name] = pd.Series(_numbers(raw, name), dtype=np.float64)
    return pd.DataFrame(columns)


def bare_label(value: str, column: str, where: str) -> str:
    """Return a label without its prefix, or refuse it.

    Raises
    ------
    TableError
        If the label has other characters than letters and digits.
    """
    prefix = PREFIXES[column]
    label = value.removeprefix(prefix)
    if not LABEL.fullmatch(label):
        raise TableError(
            f"{where}: {column} expects letters and digits, with or without {prefix}, found '{value}'. "
            "Correct that cell."
        )
    return label


def _read_raw(path: Path) -> _Raw:
    lines = re.split(r"\r\n|\n|\r", _decode(path))
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise TableError(f"{path}: expected a header line and rows, found an empty file. Write the table again.")
    header = _split(filled[0][1])
    if len(header) == 1:
        for separator, words in _SEPARATORS.items():
            if separator in header[0]:
                raise TableError(
                    f"{path}: expected columns separated by tabs, found {words}. "
                    "Save the table as tab-separated text (TSV)."
                )
    while header and not header[-1] and all(not "".join(_split(line)[len(header) - 1 :]) for _, line in filled):
        header.pop()
    if "" in header:
        raise TableError(
            f"{path}: expected a name for each column, found none for column {header.index('') + 1}. Name it."
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TableError(f"{path}: expected each column once, found {', '.join(twice)} twice. Rename or remove one.")
    rows = []
    for number, line in filled[1:]:
        row = _split(line)
        if len(row) < len(header) or any(row[len(header) :]):
            raise TableError(
                f"{path}, line {number}: expected {len(header)} cells ({', '.join(header)}), found {len(row)}. "
                "Check the tabs of that line; write n/a where a value is missing."
            )
        rows.append(row)
    if not rows:
        raise TableError(f"{path}: expected rows below the header, found none. Fill the table.")
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return _Raw(path, tuple(header), cells, [number for number, _ in filled[1:]])


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"{path}: expected a table, found no file. Check the path in the study file.") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise TableError(f"{path}: expected a table, found: {error.strerror}. Check the path and its rights.") from None
    except OSError as error:
        raise StorageError(f"{path}: reading failed: {error}. Try again; if it fails again, check the disk.") from error
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        if b"\0" in content or content.startswith(b"PK\x03\x04"):
            raise TableError(f"{path}: expected tab-separated text, found a binary file. Save the table as TSV.")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # What is neither UTF-16 nor UTF-8 comes from an older spreadsheet; every byte has a meaning in Latin-1.
        return content.decode("latin-1")


def _split(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("\t")]
    return [c[1:-1].replace('""', '"').strip() if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells]


def _with_levels(path: Path) -> set[str]:
    """Return the columns that the data dictionary beside a table calls categorical."""
    dictionary = path.with_suffix(".json")
    if not dictionary.is_file():
        return set()
    try:
        tree = json.loads(dictionary.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TableError(
            f"{dictionary}: expected a BIDS data dictionary in JSON, found: {error}. Correct the file."
        ) from None
    if not isinstance(tree, dict):
        return set()
    return {name for name, entry in tree.items() if isinstance(entry, dict) and entry.get("Levels")}


def _labels(raw: _Raw, name: str, *, required: bool) -> list[str | None]:
    found: list[str | None] = []
    for row, cell in enumerate(raw.cells[name]):
        if cell in _MISSING:
            if required:
                raise TableError(f"{raw.where(row)}: {name} expects a label, found nothing. Fill in that cell.")
            found.append(None)
        else:
            found.append(bare_label(cell, name, f"{raw.path}, line {raw.lines[row]}"))
    return found


def _texts(cells: Sequence[str], name: str) -> list[str | None]:
    missing = _MISSING if name in ("label", "path", "map") else _MISSING_ELSEWHERE
    return [None if cell in missing else cell for cell in cells]


def _holds_numbers(raw: _Raw, name: str) -> bool:
    """Whether a column is one of numbers; a word among numbers is then an error, not a new category."""
    filled = [cell for cell in raw.cells[name] if cell not in _MISSING_ELSEWHERE]
    if any(_LEADING_ZERO.fullmatch(cell) for cell in filled):
        return False
    if filled and all(_DECIMAL_COMMA.fullmatch(cell) for cell in filled):
        return True
    return 2 * sum(_NUMBER.fullmatch(cell) is not None for cell in filled) > len(filled) or not filled


def _numbers(raw: _Raw, name: str) -> list[float]:
    found = []
    for row, cell in enumerate(raw.cells[name]):
        if cell in _MISSING_ELSEWHERE:
            found.append(float("nan"))
        elif _NUMBER.fullmatch(cell):
            found.append(float(cell))
        else:
            comma = " with a point, not a comma," if _DECIMAL_COMMA.fullmatch(cell) else ""
            raise TableError(
                f"{raw.where(row)}: {name} expects a number{comma} or n/a, found '{cell}'. Correct that cell; where "
                f'the column holds names, give it "Levels" in {raw.path.with_suffix(".json").name}.'
            )
    return found
