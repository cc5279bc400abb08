"""The context of models that read a window of frames themselves, and have no posterior to be surprised at."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from svg_common.metrics import mean_squared_error
from svg_runtime.backends.base import Backend
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior, ContextState, SurpriseUnit, no_surprise, without_latents
from svg_runtime.forecast.fused_rollout import FusedRollout
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.forecast.states import RecurrentGraph

SAMPLES = 4  # whose mean is the prediction


def predicts_by_samples(variant: PrecisionVariant) -> bool:
    """Whether what is observed is read by a `SampledContext`: the graph `prime` reads the frames themselves."""
    return "prime" in variant.graphs and "encoder" not in variant.graphs


def largest_batch(manifest: Manifest, samples: int, cameras: int = 1) -> int:
    """Return the largest batch that is bound, for which engines are built: that of a forecast, or of its context.

    Args:
        manifest: of the bundle.
        samples: futures of a forecast, of all cameras together.
        cameras: how many are observed together.
    """
    by_samples = any(predicts_by_samples(variant) for variant in manifest.variants.values())
    return max(samples, SAMPLES * cameras) if by_samples else samples


class SampledContext:
    """Predicts each frame from the window before it, as the mean of a few samples with always the same noise.

    The surprise of a frame is the error of its prediction, relative to that of the frames before it since `reset`, see
    `RelativeError`. It is None until there is such an error.
    """

    predictor: RecurrentGraph | None = None  # every forecast runs `prime` with noise of its own
    surprise_unit: SurpriseUnit | None = "relative"

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, camera_count: int = 1) -> None:
        self._n_past = manifest.generation.n_past
        self._rollout = FusedRollout(
            backend=backend,
            manifest=manifest,
            variant=variant,
            condition={} if camera_count == 1 else None,  # without an encoder there are none
            samples=SAMPLES,
            horizon=1,
            camera_count=camera_count,
        )
        noise, size = NoiseSource(0), manifest.model.z_dim
        self._context_noise = np.tile(noise.draw(manifest.context_draws, SAMPLES, size), (1, camera_count, 1))
        self._noise = np.tile(noise.draw(1, SAMPLES, size), (1, camera_count, 1))
        self._camera_count = camera_count
        self.reset()

    def reset(self) -> None:
        """Discard the prediction and all errors."""
        self._states = [ContextState() for _ in range(self._camera_count)]

    def load(self, states: Sequence[ContextState]) -> None:
        """Go on with other predictions and errors."""
        self._states = [replace(state, errors=copy(state.errors)) for state in states]

    def save(self) -> list[ContextState]:
        """Return the predictions and errors."""
        return self._states

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Compare the last frames with their predictions, and predict the next ones."""
        predicted = self._predict(encodings)  # first, as an engine may fail
        surprises = [
            None if state.predicted is None else state.errors.of(mean_squared_error(state.predicted, np.moveaxis(frame, 0, -1)))
            for state, frame in zip(self._states, encodings[-1], strict=True)
        ]
        for state, frame in zip(self._states, predicted, strict=True):
            state.predicted = frame
        return without_latents(surprises)

    def _predict(self, encodings: Sequence[FloatArray]) -> Sequence[FloatArray | None]:
        """The next frame (H, W, C) of each camera; none before n_past frames."""
        context = no_surprise(self._camera_count)
        if len(encodings) < self._n_past:
            return [None] * self._camera_count
        self._rollout.read_context(list(encodings), context, self._context_noise)
        futures = self._rollout.forecast(encodings[-1], context, self._noise)
        return [samples.mean(0) for samples in np.split(futures[:, 0], self._camera_count)]
