"""Numbers and tables as text: no column is ever cut, however narrow the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as lines: the first column to the left, numbers to the right, two spaces between columns."""
    every = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in every) for k in range(len(header))]
    lines = []
    for row in every:
        cells = [
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def seconds(count: float) -> str:
    """Return seconds in words."""
    if count < 90:
        return f"{count:.0f} s" if count >= 10 else f"{count:.1f} s"
    return f"{count / 60:.0f} min" if count < 5400 else f"{count / 3600:.1f} h"


def number_of(count: int, word: str) -> str:
    """Return a number with its word, e.g. ``1 stack`` or ``3 stacks``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def some(names: Sequence[str], most: int) -> str:
    """Return the first names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def command_line(words: Sequence[object], options: Mapping[str, object] | None = None) -> str:
    """Return a command of voxcloud that a shell takes as it is: quoted, with the options that were given.

    An option without a value (None, empty) is left out; one with several is repeated.
    """
    line = ["voxcloud", *map(str, words)]
    for option, value in (options or {}).items():
        given = value if isinstance(value, list | tuple) else [] if value is None else [value]
        for one in given:
            line += [option, str(one)]
    return shlex.join(line)
