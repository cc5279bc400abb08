"""How far samples go from their mean: most stay near it, a few go far.

Those of a model all go about as far, since each differs from the mean in very many details at once. How wrong forecasts are is
less even: mostly little happens, now and then much. Samples with amplitudes as uneven as that are nearer to more of what comes.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from svg_runtime.forecast.noise import FloatArray

_DIGITS = 4  # of how far samples go: two of them always go equally far, and are not to be ordered by rounding
_MOST = 3.0  # times farther, or less far, than a sample went: it is to stay recognisable


def amplitudes(deviations: FloatArray, uneven: float) -> FloatArray:
    """(S,) how far each sample is to go beside others, in the order in which they already do: log-normal, mean square 1.

    Args:
        deviations: (S, ...) of samples from their mean.
        uneven: standard deviation of the logarithm; 0: all go as far.
    """
    samples = len(deviations)
    wanted = np.exp([uneven * NormalDist().inv_cdf((each + 0.5) / samples) for each in range(samples)])
    wanted /= np.sqrt(np.square(wanted).mean())
    result = np.empty(samples, np.float32)
    result[np.argsort(_own(deviations).round(_DIGITS), kind="stable")] = wanted
    return result


def stretch(deviations: FloatArray, wanted: FloatArray) -> None:
    """Change `deviations` (S, ...) to go as far as is `wanted` (S,), 3 times as far or less far at most; their mean stays 0."""
    factors = np.clip(wanted / np.maximum(_own(deviations), wanted / _MOST), 1 / _MOST, _MOST)
    shift = np.tensordot(factors / np.float32(len(factors)), deviations, 1)
    deviations *= factors.reshape(-1, *[1] * (deviations.ndim - 1))
    deviations -= shift


def _own(deviations: FloatArray) -> FloatArray:
    """(S,) how far samples go already, mean square 1."""
    flat = deviations.reshape(len(deviations), -1)
    energy: FloatArray = np.einsum("si,si->s", flat, flat)
    return np.sqrt(energy / energy.mean()) if energy.any() else np.ones_like(energy)
