"""The context of models whose graph `prime` reads a window of frames and whose latents no other graph computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svg_runtime.backends.base import Backend
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior, ContextState, SurpriseUnit, in_nats, no_surprise, without_latents
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.states import RecurrentGraph

_COMPARED = ("posterior_mu", "posterior_logvar", "prior_mu", "prior_logvar")


class PrimedContext:
    """Runs `prime` without noise, for the surprise: KL(posterior || prior) of the last frame in nats.

    The prior depends on the latents before, for which it takes the means. With fewer than n_past frames there is no surprise.
    """

    predictor: RecurrentGraph | None = None  # every forecast runs `prime` with noise of its own

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, camera_count: int = 1) -> None:
        spec = variant.graphs["prime"]
        self._backend = backend
        self._camera_count = camera_count
        self._n_past = manifest.generation.n_past
        inputs = {tensor.name: backend.allocate(tensor.sized(camera_count), tensor.dtype) for tensor in spec.inputs}
        self._inputs = inputs  # the noise stays zero; a bound graph does not keep its buffers alive
        outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._gaussians = {
            name: backend.allocate(outputs[name].sized(camera_count), outputs[name].dtype)
            for name in _COMPARED
            if name in outputs
        }
        compares = len(self._gaussians) == len(_COMPARED)
        self._prime = backend.bind("prime", inputs, self._gaussians) if compares else None
        self.surprise_unit: SurpriseUnit | None = "nats" if compares else None

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def load(self, states: Sequence[ContextState]) -> None:
        """Nothing is kept between frames."""

    def save(self) -> list[ContextState]:
        """Nothing is kept between frames."""
        return [ContextState() for _ in range(self._camera_count)]

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Read the window."""
        if self._prime is None or len(encodings) < self._n_past:
            return no_surprise(self._camera_count)
        self._backend.write(self._inputs["h_seq"], np.stack(encodings))
        self._prime.run()
        posterior_mu, posterior_logvar, mu, logvar = (self._backend.read(self._gaussians[name]).copy() for name in _COMPARED)
        return without_latents([in_nats(*row) for row in zip(posterior_mu, posterior_logvar, mu, logvar, strict=True)])
