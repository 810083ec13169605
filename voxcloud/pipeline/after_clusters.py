"""After the clusters: what people run in R or JASP on cluster means, beside each cluster, as description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from voxcloud.inference.bayes import one_sample_bf, two_sample_bf
from voxcloud.inference.t_tests import one_sample_test, welch_test

TWO_GROUPS = re.compile(r"^\s*group\[(\w[\w-]*)\]\s*-\s*group\[(\w[\w-]*)\]\s*$")
FEWEST = 3


def compare_groups(test: Any, values: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, Any] | None:
    """Compare the cluster's coefficients of the two groups that a contrast names, or the one mean that it tests.

    Welch's t, and BF01 of the equal-variance t (JZS, Cauchy 0.707) with the largest value that these numbers of people
    can reach. No covariates: those are in the between-participant t. Voxels were selected on the same data, so both are
    descriptive.

    Parameters
    ----------
    test
        The contrast's text; only ``group[a] - group[b]``, and ``intercept`` of one group, have a comparison.
    values
        Participant to the mean of the coefficient over the cluster.
    groups
        Participant to group.

    Returns
    -------
    dict or None
        ``groups``, ``n``, ``t``, ``df``, ``p``, ``bf01`` and ``bf01_max``; None where the contrast is of another kind,
        a group has fewer than three people or nothing varies.
    """
    if not isinstance(test, str):
        return None
    if test.strip().lower() == "intercept" and len(set(groups.values())) <= 1:
        names, samples = ["all"], [list(values.values())]
    elif found := TWO_GROUPS.match(test):
        names = [found.group(1), found.group(2)]
        samples = [[v for p, v in values.items() if groups.get(p) == name] for name in names]
    else:
        return None
    data = [np.asarray(sample, dtype=np.float64) for sample in samples]
    if any(sample.size < FEWEST or np.ptp(sample) == 0 for sample in data):
        return None
    t = one_sample_test(data[0]) if len(data) == 1 else welch_test(data[0], data[1])
    bayes = one_sample_bf(data[0]) if len(data) == 1 else two_sample_bf(data[0], data[1])
    return {
        "groups": names,
        "n": [int(sample.size) for sample in data],
        "t": float(t.t),
        "df": float(t.df),
        "p": float(t.p),
        "bf01": float(bayes.bf01),
        "bf01_max": float(bayes.max_bf01),
    }
