"""Host-side Gaussian noise: the only randomness of a forecast. No exported graph contains a random operation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.errors import UsageError

FloatArray = NDArray[np.float32]


class NoiseSource:
    """Standard normal draws, reproducible from a seed and the order of calls.

    Raises:
        UsageError: the seed is not a whole number of at least 0.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise UsageError(f"seed is {seed!r}\n  expected a whole number of at least 0")
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Restart from the seed."""
        self._rng = np.random.default_rng(self._seed)

    def draw(self, *shape: int) -> FloatArray:
        """Draw standard normal float32 values of `shape`."""
        return self._rng.standard_normal(shape, np.float32)


def gaussian_sample(mu: FloatArray, logvar: FloatArray, eps: FloatArray) -> FloatArray:
    """z = mu + exp(logvar / 2) * eps (the reparameterization of the paper's equation 3)."""
    z: FloatArray = mu + np.exp(0.5 * logvar) * eps
    return z


def gaussian_kl(mu_q: FloatArray, logvar_q: FloatArray, mu_p: FloatArray, logvar_p: FloatArray) -> float:
    """KL(q || p) of diagonal Gaussians in nats, summed over all elements."""
    variance_ratio = np.exp(logvar_q - logvar_p)
    distance = (mu_q - mu_p) ** 2 / np.exp(logvar_p)
    return float(0.5 * np.sum(logvar_p - logvar_q + variance_ratio + distance - 1.0))
