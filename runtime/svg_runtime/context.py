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

    mu: FloatArray  # (steps, 1, z_dim) posterior means, one per pair of neighbouring frames
    logvar: FloatArray  # (steps, 1, z_dim)
    prior_state: dict[str, Array]  # at batch 1, after the last pair
    surprise: float  # KL(posterior || prior) of the last pair, nats


class GaussianReader:
    """Posterior and prior stepping side by side through true frames at batch 1. Neither depends on the samples."""

    def __init__(self, backend: Backend, variant: Variant) -> None:
        self._posterior, self._prior = _Gaussian(backend, "posterior", variant), _Gaussian(backend, "prior", variant)

    def reset(self) -> None:
        """Both back to the initial state."""
        self._posterior.graph.reset()
        self._prior.graph.reset()

    def read(self, encodings: Iterable[FloatArray]) -> Belief:
        """Step over `encodings` (n of (1, g_dim), oldest first): posterior on each frame, prior on the one before it."""
        mus, logvars, surprise = [], [], 0.0
        for h_prev, h_now in pairwise(encodings):
            mu_q, logvar_q = self._posterior.step(h_now)
            mu_p, logvar_p = self._prior.step(h_prev)
            mus.append(mu_q)
            logvars.append(logvar_q)
            surprise = gaussian_kl(mu_q, logvar_q, mu_p, logvar_p)
        return Belief(np.stack(mus), np.stack(logvars), self._prior.graph.read_state(), surprise)


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
