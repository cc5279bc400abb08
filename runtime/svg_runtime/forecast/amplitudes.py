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


def stretch(deviations: FloatArray, uneven: float) -> FloatArray:
    """Change how far samples go from their mean, in place, to log-normal amplitudes. Their mean stays 0.

    Each then goes three times as far as before at most, and a third of it at least. Details in which one sample differs that
    is nearly the mean would else be blown up.

    Args:
        deviations: (S, ...) of samples from their mean.
        uneven: standard deviation of the logarithm of the amplitudes; 0: all samples go equally far.

    Returns:
        (S,) the amplitudes that were wanted, mean square 1.
    """
    own = _how_far(deviations)
    wanted = amplitudes(own, uneven)
    factors = np.clip(wanted / np.maximum(own, wanted / _MOST), 1 / _MOST, _MOST)
    shift = np.einsum("s,s...->...", factors / np.float32(len(factors)), deviations)  # see `planes`: no product of matrices
    deviations *= factors.reshape(-1, *[1] * (deviations.ndim - 1))
    deviations -= shift
    return wanted


def amplitudes(own: FloatArray, uneven: float) -> FloatArray:
    """(S,) quantiles of a log-normal distribution, scaled to mean square 1, in the order of `own` (S,)."""
    samples = len(own)
    wanted = np.exp([uneven * NormalDist().inv_cdf((each + 0.5) / samples) for each in range(samples)])
    wanted /= np.sqrt(np.square(wanted).mean())
    result = np.empty(samples, np.float32)
    result[np.argsort(own.round(_DIGITS), kind="stable")] = wanted
    return result


def _how_far(deviations: FloatArray) -> FloatArray:
    """(S,) root of the mean square of each sample, compared with that of all."""
    flat = deviations.reshape(len(deviations), -1)
    energy: FloatArray = np.einsum("si,si->s", flat, flat)
    return np.sqrt(energy / energy.mean()) if energy.any() else np.ones_like(energy)
