"""What the observed frames say: posterior and prior at batch 1, over the last n_past frames or over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from svg_runtime.backends.base import Array, Backend
from svg_runtime.manifest import Variant
from svg_runtime.noise import FloatArray, gaussian_kl
from svg_runtime.recurrent import RecurrentGraph


@dataclass(frozen=True)
class Belief:
    """Posterior of the latents between the frames of a context, and the prior's state at its end."""

    mu: FloatArray  # (steps, 1, z_dim) posterior means, one per pair of neighbouring frames; z_dim is 0 without latents
    logvar: FloatArray  # (steps, 1, z_dim)
    prior_state: dict[str, Array]  # at batch 1, after the last pair; empty without a learned prior
    surprise: float | None  # KL(posterior || prior) of the last pair, nats; None without latents


class GaussianReader:
    """Posterior and prior stepping side by side through true frames at batch 1. Neither depends on the samples.

    A fixed prior is N(0, I); a deterministic model has neither of the two.
    """

    def __init__(self, backend: Backend, variant: Variant) -> None:
        self._posterior, self._prior = (
            _Gaussian(backend, role, variant) if role in variant.graphs else None for role in ("posterior", "prior")
        )

    def reset(self) -> None:
        """Both back to the initial state."""
        for part in (self._posterior, self._prior):
            if part is not None:
                part.graph.reset()

    def read(self, encodings: Iterable[FloatArray]) -> Belief:
        """Step over `encodings` (n of (1, g_dim), oldest first): posterior on each frame, prior on the one before it."""
        pairs = list(pairwise(encodings))
        if self._posterior is None:
            nothing = np.zeros((len(pairs), 1, 0), np.float32)
            return Belief(nothing, nothing, {}, None)
        posteriors = [self._posterior.step(h_now) for _, h_now in pairs]
        mu, logvar = (np.stack(values) for values in zip(*posteriors, strict=True))
        mu_p, logvar_p = np.zeros_like(mu[-1]), np.zeros_like(mu[-1])
        if self._prior is not None:
            for h_prev, _ in pairs:
                mu_p, logvar_p = self._prior.step(h_prev)
        state = self._prior.graph.read_state() if self._prior is not None else {}
        return Belief(mu, logvar, state, gaussian_kl(mu[-1], logvar[-1], mu_p, logvar_p))


class _Gaussian:
    def __init__(self, backend: Backend, role: str, variant: Variant) -> None:
        spec = variant.graphs[role]
        self._backend = backend
        self._h, self._mu, self._logvar = (
            backend.allocate(spec.tensor(name).sized(1), spec.tensor(name).dtype) for name in ("h", "mu", "logvar")
        )
        outputs = {"mu": self._mu, "logvar": self._logvar}
        self.graph = RecurrentGraph(backend, role, spec, 1, {"h": self._h}, outputs)

    def step(self, h: FloatArray) -> tuple[FloatArray, FloatArray]:
        self._backend.write(self._h, h)
        self.graph.step()
        return self._backend.read(self._mu).copy(), self._backend.read(self._logvar).copy()
