"""Scores of an ensemble, as weather forecasting knows them: fair CRPS, spread against skill, rank histogram, coverage.

The members of the ensemble are the samples of one forecast, and a value is one channel of one pixel. docs/evaluate.md has the
formulas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = NDArray[np.float32]

CENTRAL = 0.8  # probability of the interval whose coverage is reported
_LEVELS = 255  # the truth is known in steps of 1/255


def fair_crps(members: Values, truth: Values) -> Array:
    """Continuous ranked probability score of each value; lower is better.

    The fair estimator (Ferro 2014), whose expectation does not depend on the number of members:
    mean |x_i - y| - sum of |x_i - x_j| over i < j / (S (S - 1)). Of a single member: its absolute error.

    Args:
        members: (S, V).
        truth: (V,).

    Returns:
        (V,) in the unit of the values.
    """
    count = len(members)
    error: Array = np.abs(members - truth).mean(0, dtype=np.float64)
    if count == 1:
        return error
    # The i-th smallest of S values is added i - 1 times and subtracted S - i times in the sum of |x_i - x_j| over i < j.
    ordered = np.sort(members.T)
    weights = (2 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
    pairs: Array = ordered @ weights
    return error - pairs


def rank_histogram(members: Values, truth: Values, groups: NDArray[np.bool_]) -> Array:
    """How often the truth has each rank among the members (Hamill 2001).

    Compared are grey levels, the steps in which the truth is known. Where the truth equals e members, each of the e + 1 ranks
    that it could have receives 1 / (e + 1): what drawing one of them by lot gives on average.

    Args:
        members: (S, V) in [0, 1].
        truth: (V,) in [0, 1].
        groups: (G, V), the values that belong to each group.

    Returns:
        (G, S + 1), from the values below all members to those above all.
    """
    ranks = len(members) + 1
    levels, level = (np.rint(values * _LEVELS).astype(np.int16) for values in (members, truth))
    first, ties = (levels < level).sum(0), (levels == level).sum(0)
    share = 1 / (ties + 1)
    histograms = []
    for group in groups:
        begins = np.bincount(first[group], share[group], ranks + 1)
        ends = np.bincount(first[group] + ties[group] + 1, share[group], ranks + 1)
        histograms.append(np.cumsum(begins - ends)[:ranks])
    return np.stack(histograms)


def coverage(histogram: Array, probability: float = CENTRAL) -> float:
    """Share of the truths inside the central interval of the ensemble: ranks between its quantiles.

    S members divide the line into S + 1 parts of equal probability. A part that the interval's end divides counts in
    proportion, so that a calibrated ensemble has the interval's probability, whatever S is. NaN without truths.

    Args:
        histogram: (S + 1,) of `rank_histogram`.
        probability: of the interval; no larger than `interval_probability` allows.
    """
    total = histogram.sum()
    if total <= 0:
        return float("nan")
    edges = np.arange(len(histogram) + 1) / len(histogram)
    cumulative = np.concatenate([[0.0], np.cumsum(histogram)]) / total
    # Rounded: (1 - 0.8) / 2 is a little less than 0.1, where the interval of nine members begins.
    low, high = np.interp(np.round([(1 - probability) / 2, (1 + probability) / 2], 12), edges, cumulative)
    return float(high - low)


def interval_probability(members: int) -> float:
    """The probability of the interval that `members` can show: fewer than 9 reach no 80 %, only their own range."""
    return min(CENTRAL, (members - 1) / (members + 1))


def spread_skill_ratio(variance: float, squared_error: float, members: int) -> float:
    """Spread of the members over the error of their mean: 1 if calibrated, below 1 if overconfident; NaN without error.

    With the factor (S + 1) / S for the sampling error of a mean of S members (Fortin et al. 2014).

    Args:
        variance: of the members, unbiased (divisor S - 1), mean over the values.
        squared_error: of the mean of the members, mean over the values.
        members: S.
    """
    if not squared_error > 0:
        return float("nan")
    return float(np.sqrt((members + 1) / members * variance / squared_error))
