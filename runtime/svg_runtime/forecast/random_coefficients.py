"""Coefficients that differ from one forecast to the next: large ways in which forecasts are wrong, and samples may differ.

A regression has one coefficient for many forecasts. In a single one, what moves goes farther than usual, or stops, or uncovers
what was behind it: another coefficient would have suited it better, in the whole frame. How much these vary is learned, and
each sample gets its own. A few such directions hold more of the error than as many deviations of a model's samples do.

In statistics: a random coefficients model (Swamy 1970, doi:10.2307/1913012).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.noise import FloatArray

_FEW = 10  # forecasts: what fewer of them say of the variance counts less
_TINY = 1e-9  # singular value, beside which a direction is only rounding

Doubles = NDArray[np.float64]


class RandomCoefficients:
    """How much the coefficients of single forecasts differ from the usual ones: their covariance at each lead.

    Args:
        count: how many coefficients there are, K.
        memory_steps: forecasts that are remembered: older ones count less and less.
        prior: squared change of a pixel that speaks for the usual coefficients, in each forecast.
    """

    def __init__(self, count: int, memory_steps: int, prior: float) -> None:
        self._keep = 1 - 1 / memory_steps
        self._prior = prior * np.eye(count)
        self.reset()

    def reset(self) -> None:
        """Forget all forecasts."""
        self._leads: list[tuple[float, Doubles]] = []  # of each lead how many forecasts, and the sum (K, K) of their products

    def learn(self, lead: int, products: Doubles, with_error: Doubles) -> None:
        """Learn from one forecast at `lead`, from 0 on, which coefficients would have suited it better than the usual ones.

        Args:
            lead: how far ahead.
            products: (K, K) of each two regressors, the mean over pixels.
            with_error: (K,) of each regressor with the error that the usual coefficients made, likewise.
        """
        while len(self._leads) <= lead:
            self._leads.append((0.0, np.zeros_like(self._prior)))
        count, total = self._leads[lead]
        difference = np.linalg.solve(products + self._prior, with_error)
        self._leads[lead] = self._keep * count + 1, self._keep * total + np.outer(difference, difference)

    def covariance(self, horizon: int) -> Doubles:
        """(T, K, K) at each lead; 0 where nothing is known."""
        result = np.zeros((horizon, *self._prior.shape))
        for lead, (count, total) in enumerate(self._leads[:horizon]):
            result[lead] = total / max(count, _FEW)
        return result


def draws(amplitudes: FloatArray, covariance: Doubles, seed: int) -> FloatArray:
    """(S, T, K) differences from the usual coefficients, of samples that go as far as their `amplitudes` (S,).

    Their mean over samples is 0 and their covariance is the given one, (T, K, K), as far as so few samples can have it; with
    that, up to K + 1 samples go equally far, and of more only on average as far as they should. They are the same at all leads,
    but for their size: a sample that goes farther does so in each of its frames.
    """
    samples, rng = len(amplitudes), np.random.default_rng(seed)
    # 1) random directions
    normal = rng.standard_normal((samples, covariance.shape[-1]))
    normal *= amplitudes[:, None] / np.linalg.norm(normal, axis=1, keepdims=True)
    # 2) moved to mean 0 and covariance 1: the nearest matrix with orthogonal columns
    left, sizes, right = np.linalg.svd(normal - normal.mean(0), full_matrices=False)
    kept = sizes > _TINY
    unit = left[:, kept] @ right[kept] * np.sqrt(samples)
    # 3) and to the covariance of each lead
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.swapaxes(1, 2)
    drawn: FloatArray = (unit @ root).swapaxes(0, 1).astype(np.float32)
    return drawn
