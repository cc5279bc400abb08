"""The context of models that read a window of frames themselves, and have no posterior to be surprised at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svg_common.metrics import mean_squared_error
from svg_runtime.backends.base import Backend
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior, RelativeError, SurpriseUnit, without_latents
from svg_runtime.forecast.fused_rollout import FusedRollout
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.states import RecurrentGraph

_SAMPLES = 4  # whose mean is the prediction


class SampledContext:
    """Predicts each frame from the window before it, as the mean of a few samples with always the same noise.

    The surprise of a frame is the mean squared error of its prediction, relative to the mean of the errors of all frames
    before it since `reset`: 1 is as usual. It is None until there is such an error.
    """

    predictor: RecurrentGraph | None = None  # every forecast runs `prime` with noise of its own
    surprise_unit: SurpriseUnit | None = "relative"

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, observer: Observer) -> None:
        self._n_past = manifest.generation.n_past
        self._rollout = FusedRollout(
            backend=backend, manifest=manifest, variant=variant, observer=observer, samples=_SAMPLES, horizon=1
        )
        noise, size = NoiseSource(0), manifest.model.z_dim
        self._context_noise = noise.draw(manifest.context_draws, _SAMPLES, size)
        self._noise = noise.draw(1, _SAMPLES, size)
        self._errors = RelativeError()
        self.reset()

    def reset(self) -> None:
        """Discard the prediction and all errors."""
        self._predicted: FloatArray | None = None
        self._errors.reset()

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Compare the last frame with its prediction, and predict the next one."""
        context = without_latents()
        if self._predicted is not None:
            context = without_latents(
                self._errors.of(mean_squared_error(self._predicted, np.moveaxis(encodings[-1][0], 0, -1)))
            )
        if len(encodings) == self._n_past:
            self._rollout.read_context(list(encodings), context, self._context_noise)
            self._predicted = self._rollout.forecast(encodings[-1], context, self._noise)[:, 0].mean(0)
        return context
