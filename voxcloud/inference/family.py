"""Multiplicity over a family of searches.

A search is one look for clusters: (model, map, label, coefficient, contrast, direction, search volume). Each controls
its own familywise error at alpha, so N searches on data without any effect give N alpha false positives on average.
Two adjustments are offered, both valid whatever the dependence between maps, coefficients and volumes:

- per cluster, Bonferroni: p_family = min(1, N p_fwe). A cluster with p_family <= alpha is one that alpha over the
  whole family allows;
- per search, Holm: the searches' smallest p_fwe in ascending order, p_(i) -> max_{j <= i} min(1, (N - j + 1) p_(j)).
  It says which searches hold any effect, and is never larger than Bonferroni's.

A search without a cluster counts: its p is 1. Both directions of a contrast count, and so does a direction that was
looked at and found empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class SearchKey:
    """Names one search; two looks with the same key are one search.

    Attributes
    ----------
    model, map, label
        Which fit; ``label`` is the tissue, or empty.
    coefficient, contrast, direction
        Which question.
    volume
        Where: the analysis mask or the name of a search volume.
    """

    model: str
    map: str
    label: str
    coefficient: str
    contrast: str
    direction: Literal["greater", "less", "two-sided"]
    volume: str

    def __str__(self) -> str:
        return ", ".join(part for part in astuple(self) if part)


def count_searches(searches: Iterable[SearchKey]) -> int:
    """Return the number of different searches."""
    return len(set(searches))


def expected_false_positives(alphas: Iterable[float]) -> float:
    """Return the number of searches expected to find something where there is nothing: the sum of their alphas."""
    return float(sum(alphas))


def bonferroni(p: npt.ArrayLike, n_searches: int) -> Float64:
    """Return min(1, N p): the family-adjusted p of clusters, peaks or searches, in the shape of ``p``.

    Raises
    ------
    ValueError
        If the family is empty.
    """
    if n_searches < 1:
        raise ValueError(f"A family holds at least one search, found {n_searches}.")
    return np.asarray(np.minimum(1.0, n_searches * np.asarray(p, dtype=np.float64)))


def holm(p: npt.ArrayLike) -> Float64:
    """Return Holm's step-down adjusted p, in the order given.

    References
    ----------
    1. Holm, Scand J Stat 6:65 (1979), https://www.jstor.org/stable/4615733
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    n = values.size
    stepped = np.maximum.accumulate(np.minimum(1.0, (n - np.arange(n)) * values[order]))
    adjusted = np.empty(n)
    adjusted[order] = stepped
    return adjusted


def adjust_over_family(smallest_p: Mapping[SearchKey, float]) -> dict[SearchKey, float]:
    """Return the Holm-adjusted p of each search of a family from its smallest familywise p (1 without a cluster)."""
    keys = sorted(smallest_p)
    adjusted = holm([smallest_p[key] for key in keys])
    return {key: float(value) for key, value in zip(keys, adjusted, strict=True)}
