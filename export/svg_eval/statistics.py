"""From measurements to metrics: best of N, means with confidence intervals, and best of n for every n up to N."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DIGITS = 7  # significant ones in the JSON; more would be rounding noise
_Z95 = 1.959964  # half width of a 95 % interval of the normal distribution, in standard deviations
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences, and half the width of its 95 % confidence interval (normal approximation).

    The interval is NaN for a single sequence.
    """

    mean: float
    ci95: float


@dataclass(frozen=True)
class Curve:
    """An estimate over the whole horizon, and one per step."""

    overall: Estimate
    per_step: list[Estimate]


def significant(value: float) -> float:
    """As metrics and scores stand in the JSON."""
    return float(f"{value:.{_DIGITS}g}")


def shown(value: float, digits: int, sign: bool = False) -> str:
    """`value` with so many decimals; what rounds to zero has no minus."""
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def estimate(values: Array) -> Estimate:
    """Of independent values (N,), one per sequence."""
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"))
    return Estimate(float(values.mean()), float(_Z95 * values.std(ddof=1) / np.sqrt(len(values))))


def curve(values: Array) -> Curve:
    """Of values (N, T)."""
    return Curve(estimate(values.mean(1)), [estimate(step) for step in values.T])


def best_sample(values: Array, lower_is_better: bool = False) -> Array:
    """The sample with the best mean over the horizon, for each sequence: (N, S, T) -> (N, T).

    Each metric chooses its own best sample (SRVP, Franceschi et al. 2020).
    """
    scores = values.mean(2)
    chosen = scores.argmin(1) if lower_is_better else scores.argmax(1)
    best: Array = values[np.arange(len(values)), chosen]
    return best


def counts_up_to(samples: int) -> list[int]:
    """1, 2, 5, 10, ... and `samples` itself."""
    return sorted({count for count in _COUNTS if count < samples} | {samples})


def expected_best(values: Array, n: int) -> Array:
    """Expected maximum of n of the S values of each row, drawn without replacement: (N, S) -> (N,).

    Exact, from the order statistics: the i-th smallest (1-based) is the maximum in C(i - 1, n - 1) of the C(S, n) subsets.
    The best of the first n would depend on one lucky order.
    """
    samples = values.shape[1]
    ranks = np.arange(samples, 1, -1)
    # From rank i to i - 1, the weight falls by (i - n) / (i - 1): the binomials themselves may have thousands of digits.
    weights = n / samples * np.cumprod([1.0, *(np.maximum(ranks - n, 0) / (ranks - 1))])
    expected: Array = np.sort(values, axis=1)[:, ::-1] @ weights
    return expected


def best_of_n(values: Array) -> list[tuple[int, Estimate]]:
    """Estimates of the best of n samples by their mean over the horizon, for growing n: (N, S, T)."""
    scores = values.mean(2)
    return [(n, estimate(expected_best(scores, n))) for n in counts_up_to(scores.shape[1])]
