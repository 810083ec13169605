"""Who may be exchanged with whom: the relabellings of a permutation test, drawn or enumerated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxcloud.errors import ContrastError, DesignError

Floats = NDArray[np.float64]

# Singular values below this part of the largest count as zero.
_RANK_TOLERANCE = 1e-10
_MOST_FLIPS = 62


@dataclass(frozen=True)
class Relabelling:
    """A t contrast taken apart, and the relabellings under which its null distribution is built.

    ``interest`` (n,) is the unit vector that carries the contrast: t = interest'y sqrt(df) / |residual|.
    ``nuisance`` (n, q) is an orthonormal basis of the rest of the model; ``moving`` holds those of its columns that a
    relabelling can bring into play (after permutations the constant cannot). ``scale`` turns interest'y into the
    effect c'b. Number 0 is the observed data; 1 to ``n_permutations`` are the relabellings. ``kind`` is permutation
    or sign-flip; ``exact`` says that each of the ``n_possible`` is taken once, otherwise they are drawn with ``seed``.
    ``groups`` holds the rows that may be exchanged with one another, ``rows`` numbers equal rows of the design alike.
    """

    kind: str
    interest: Floats
    nuisance: Floats
    moving: Floats
    scale: float
    df: int
    n_permutations: int
    n_possible: int
    exact: bool
    seed: int
    groups: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    def indices(self, first: int, last: int) -> tuple[NDArray[np.intp], Floats]:
        """Return order and sign of the rows, both (last - first, n), of relabellings ``first`` to ``last`` - 1.

        Relabelled data are sign * y[order]. Each drawn relabelling has a seed of its own: it does not depend on
        which others are drawn beside it.
        """
        n = self.interest.size
        order = np.tile(np.arange(n, dtype=np.intp), (last - first, 1))
        sign = np.ones((last - first, n))
        if self.exact:
            self._enumerate(order, sign, first, last)
            return order, sign
        for row, number in enumerate(range(first, last)):
            if number == 0:
                continue
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(number,))))
            if self.kind == "sign-flip":
                sign[row] = np.where(generator.integers(0, 2, size=n) == 1, -1.0, 1.0)
            else:
                for group in self.groups:
                    order[row, list(group)] = generator.permutation(np.array(group, dtype=np.intp))
        return order, sign

    def _enumerate(self, order: NDArray[np.intp], sign: Floats, first: int, last: int) -> None:
        if self.kind == "sign-flip":
            for row, number in enumerate(range(first, last)):
                bits = (number >> np.arange(self.interest.size)) & 1
                sign[row] = 1.0 - 2.0 * bits
            return
        for number, chosen in enumerate(_arrangements(self.rows, self.groups)):
            if number >= last:
                break
            if number >= first:
                order[number - first] = chosen


def _arrangements(rows: Sequence[int], groups: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield one order of the data for every distinct arrangement of equal design rows; the observed one first.

    ``rows`` numbers the distinct design rows: exchanging two people with equal rows changes nothing.
    """
    yield list(range(len(rows)))
    for design in _combined(rows, groups, 0, list(rows)):
        if list(design) == list(rows):
            continue
        # design[i] is the design row that person i receives; find the people that hold it in the observed order.
        order = list(range(len(rows)))
        for group in groups:
            receivers: dict[int, list[int]] = {}
            for person in group:
                receivers.setdefault(design[person], []).append(person)
            for position in group:
                order[position] = receivers[rows[position]].pop(0)
        yield order


def _combined(
    rows: Sequence[int], groups: Sequence[Sequence[int]], depth: int, current: list[int]
) -> Iterator[list[int]]:
    if depth == len(groups):
        yield current
        return
    group = groups[depth]
    values = sorted(rows[person] for person in group)
    while True:
        for person, value in zip(group, values, strict=True):
            current[person] = value
        yield from _combined(rows, groups, depth + 1, current)
        if not _advance(values):
            return


def _advance(values: list[int]) -> bool:
    """Step to the next arrangement in lexicographic order; False after the last."""
    pivot = len(values) - 2
    while pivot >= 0 and values[pivot] >= values[pivot + 1]:
        pivot -= 1
    if pivot < 0:
        return False
    swap = len(values) - 1
    while values[swap] <= values[pivot]:
        swap -= 1
    values[pivot], values[swap] = values[swap], values[pivot]
    values[pivot + 1 :] = reversed(values[pivot + 1 :])
    return True


def _count_arrangements(rows: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    total = 1
    for group in groups:
        labels = [rows[person] for person in group]
        count = math.factorial(len(labels))
        for label in set(labels):
            count //= math.factorial(labels.count(label))
        total *= count
    return total


def _split_model(design: Floats, weights: Floats) -> tuple[Floats, Floats, float]:
    """Return the unit vector of the contrast, a basis of the rest of the model, and the effect's scale."""
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    rank = int((singular > _RANK_TOLERANCE * singular[0]).sum())
    left, singular, right = left[:, :rank], singular[:rank], right[:rank]
    if np.linalg.norm(weights - right.T @ (right @ weights)) > 1e-8 * np.linalg.norm(weights):
        raise ContrastError(
            f"permutation test: expected an estimable contrast, found weights {weights.tolist()} outside the rows of "
            f"a design of rank {rank}. Take away the column that repeats others, or ask for another comparison."
        )
    coordinates = (right @ weights) / singular
    length = float(np.linalg.norm(coordinates))
    # Householder's reflection turns the contrast's direction into the first axis; the other axes are the rest.
    direction = coordinates / length
    rotation = np.linalg.qr(np.column_stack([direction, np.eye(rank)]))[0]
    return left @ direction, left @ rotation[:, 1:], length


def _take_out_constant(nuisance: Floats) -> tuple[bool, Floats]:
    """Say whether the constant lies in the span, and return the part of the span orthogonal to it."""
    n, q = nuisance.shape
    constant = np.full(n, 1.0 / math.sqrt(n))
    inside = nuisance.T @ constant
    if q == 0 or 1.0 - float(inside @ inside) > 1e-8:
        return False, nuisance
    rotation = np.linalg.qr(np.column_stack([inside, np.eye(q)]))[0]
    return True, nuisance @ rotation[:, 1:]


def _groups(n: int, blocks: Sequence[str] | None, participant_ids: Sequence[str] | None) -> list[tuple[int, ...]]:
    for name, labels in (("blocks", blocks), ("participant_ids", participant_ids)):
        if labels is not None and len(labels) != n:
            raise DesignError(
                f"permutation test: expected {n} {name}, one per row of the design, found {len(labels)}. "
                "Give one label per row."
            )
    if participant_ids is not None and len(set(participant_ids)) < n:
        repeated = next(p for p in participant_ids if list(participant_ids).count(p) > 1)
        raise DesignError(
            f"permutation test: expected one row per participant, found {list(participant_ids).count(repeated)} for "
            f"participant {repeated}. Bring each participant to one value first, e.g. by the two-stage model."
        )
    labels = list(blocks) if blocks is not None else [""] * n
    return [tuple(i for i in range(n) if labels[i] == label) for label in dict.fromkeys(labels)]


def plan_relabelling(
    design: ArrayLike,
    weights: ArrayLike,
    *,
    n_permutations: int,
    seed: int,
    blocks: Sequence[str] | None = None,
    participant_ids: Sequence[str] | None = None,
    exchange: str = "auto",
    whitener: ArrayLike | None = None,
) -> Relabelling:
    """Plan the relabellings of a t contrast.

    Rows are permuted where the model under the null hypothesis has an intercept, since errors are then exchangeable.
    Where the contrast tests a mean (no constant is left in the rest of the model) signs are flipped, which needs
    errors that are symmetric about zero. With a whitener that is asked of the design as given: whitening takes the
    constant out of the model, but it makes errors exchangeable and not symmetric.

    Parameters
    ----------
    design
        (n, p), one row per participant.
    weights
        (p,), the contrast.
    n_permutations
        Relabellings to draw beside the observed data. If no more than that exist, each is taken once and the p values
        are exact.
    seed
        Seed of all relabellings.
    blocks
        Rows are exchanged only within the same label, e.g. one scanner. Signs need none.
    participant_ids
        (n,) labels; a participant with two rows is refused.
    exchange
        ``auto``, ``permutation`` or ``sign-flip``.
    whitener
        (n, n), what data and design are multiplied with so that errors are alike: whitened residuals are relabelled.

    Raises
    ------
    DesignError
        If a participant has several rows, sizes disagree or nothing can be exchanged.
    ContrastError
        If the contrast is zero or not estimable.
    """
    x, c = np.asarray(design, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or c.shape != (x.shape[1],) or not c.any():
        raise ContrastError(
            f"permutation test: expected one weight per column of the design, not all zero, found design {x.shape} "
            f"and weights {c.tolist()}. Write the contrast by names."
        )
    if n_permutations < 1:
        raise DesignError(f"permutation test: expected 1 permutation or more, found {n_permutations}. 10,000 is usual.")
    n = x.shape[0]
    groups = _groups(n, blocks, participant_ids)
    has_constant = _take_out_constant(_split_model(x, c)[1])[0]
    kind = _kind(exchange, has_constant, blocks)
    interest, nuisance, scale = _split_model(x if whitener is None else _whitened(x, whitener), c)
    df = n - nuisance.shape[1] - 1
    if df < 1:
        raise DesignError(
            f"permutation test: expected more participants than columns, found {n} for a model of rank "
            f"{nuisance.shape[1] + 1}. Leave covariates out."
        )
    # Equal design rows make equal relabellings. Rounded, since a covariate's last bits do not make two people differ.
    rounded = np.round(np.column_stack([interest, nuisance]), 10) + 0.0
    rows = tuple(int(i) for i in np.unique(rounded, axis=0, return_inverse=True)[1].ravel())
    n_possible = 2**n if kind == "sign-flip" else _count_arrangements(rows, groups)
    if n_possible < 2:
        raise DesignError("permutation test: expected rows that differ within blocks, found none. Use larger blocks.")
    exact = n_possible - 1 <= n_permutations and n <= _MOST_FLIPS
    return Relabelling(
        kind=kind,
        interest=interest,
        nuisance=nuisance,
        moving=_take_out_constant(nuisance)[1] if kind == "permutation" else nuisance,
        scale=scale,
        df=df,
        n_permutations=n_possible - 1 if exact else n_permutations,
        n_possible=n_possible,
        exact=exact,
        seed=seed,
        groups=tuple(groups),
        rows=rows,
    )


def _whitened(design: Floats, whitener: ArrayLike) -> Floats:
    matrix, n = np.asarray(whitener, dtype=np.float64), len(design)
    if matrix.shape != (n, n):
        raise DesignError(
            f"permutation test: expected a whitener of {n} x {n}, one row per row of the design, found shape "
            f"{matrix.shape}. Give the one that the model was fitted with."
        )
    return matrix @ design


def _kind(exchange: str, has_constant: bool, blocks: Sequence[str] | None) -> str:
    if exchange not in ("auto", "permutation", "sign-flip"):
        raise DesignError(
            f"permutation test: expected exchange to be auto, permutation or sign-flip, found '{exchange}'. "
            "Write one of them."
        )
    kind = exchange if exchange != "auto" else ("permutation" if has_constant else "sign-flip")
    if kind == "permutation" and not has_constant:
        raise DesignError(
            "permutation test: expected a constant in the model under the null hypothesis, found a contrast that tests "
            "a mean: exchanging rows leaves a mean as it is. Use sign flips."
        )
    if kind == "sign-flip" and blocks is not None:
        raise DesignError(
            "permutation test: expected no blocks with sign flips, which exchange nobody, found some. Leave blocks out."
        )
    return kind
