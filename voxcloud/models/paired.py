"""Two images of each participant: pairs by name, differences by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.errors import DesignError, nearest
from voxcloud.models.formula import refuse_repeated_rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Rows of the two conditions of each participant.

    Attributes
    ----------
    participant_ids : in the order of their first row.
    rows : (first, second) row of each participant.
    left_out : participant -> why there is no pair.
    """

    participant_ids: tuple[str, ...]
    rows: tuple[tuple[int, int], ...]
    left_out: Mapping[str, str]


def repeated_rows_refused(participant_ids: Sequence[str]) -> None:
    """Refuse several rows of one participant in a model of independent rows (``participant 03 has 5 rows``).

    Raises
    ------
    DesignError
        Naming everybody with more than one row.
    """
    refuse_repeated_rows(participant_ids)


def find_pairs(participant_ids: Sequence[str], conditions: Sequence[str], first: str, second: str) -> Pairs:
    """Find each participant's rows of two conditions (sessions) by name.

    Parameters
    ----------
    participant_ids, conditions : one per row.
    first, second : the two conditions; differences are second - first.

    Raises
    ------
    DesignError
        If a condition is unknown, a participant has one twice, or nobody has both.
    """
    for condition in (first, second):
        if condition not in conditions:
            raise DesignError(
                f"paired: expected images of '{condition}', found "
                f"{', '.join(dict.fromkeys(conditions))}.{nearest(condition, conditions)}"
            )
    found: dict[str, dict[str, int]] = {}
    for row, (participant, condition) in enumerate(zip(participant_ids, conditions, strict=True)):
        if condition not in (first, second):
            continue
        own = found.setdefault(participant, {})
        if condition in own:
            raise DesignError(
                f"paired: participant {participant} has '{condition}' twice (rows {own[condition]} and {row}); "
                "expected once."
            )
        own[condition] = row
    left_out = {
        p: f"has no '{first if second in own else second}', so no pair" for p, own in found.items() if len(own) < 2
    }
    left_out |= {p: f"has neither '{first}' nor '{second}'" for p in participant_ids if p not in found}
    complete = [p for p, own in found.items() if len(own) == 2]
    if not complete:
        raise DesignError(f"paired: nobody has both '{first}' and '{second}'. Check the names of the sessions.")
    return Pairs(tuple(complete), tuple((found[p][first], found[p][second]) for p in complete), left_out)


def paired_differences(Y: npt.ArrayLike, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Return ``Y[second] - Y[first]`` of each pair of rows, shape (pairs, v), float64.

    Parameters
    ----------
    Y : (images, v) maps, in their own unit.
    pairs : (first, second) row of each participant.

    Raises
    ------
    DesignError
        If a row is in two pairs, paired with itself, or outside the data.
    """
    data = np.asarray(Y, dtype=np.float64)
    rows = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    if rows.size and (rows.min() < 0 or rows.max() >= len(data)):
        raise DesignError(f"paired: expected rows 0 to {len(data) - 1}, found {rows.min()} to {rows.max()}.")
    if len(np.unique(rows)) < rows.size:
        raise DesignError(
            "paired: expected each row in one pair, found one in two; the differences would not be independent."
        )
    return np.asarray(data[rows[:, 1]] - data[rows[:, 0]])
