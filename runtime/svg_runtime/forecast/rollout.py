"""The interface of the two forecast loops, on the separate graphs and on the fused graphs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from svg_runtime.backends.base import Array
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.states import RecurrentGraph


class Rollout(Protocol):
    """Buffers and bound graphs for a fixed number of samples and steps: bound once, run for every forecast."""

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Read the context frames from the initial states.

        Args:
            encodings: h of each context frame, oldest first, each at batch 1.
            context: posterior of the latents between them.
            noise: (context_draws, samples, z_dim).
        """
        ...

    def forecast(
        self, h: FloatArray, context: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Sample the futures that follow the last observed frame.

        Args:
            h: its encoding at batch 1.
            context: posterior of the context frames; SVG's separate prior starts from its `prior_state`.
            noise: (horizon, samples, z_dim) draws for the prior.
            branch_from: another rollout's predictor that has read the context; it is not changed. None: this rollout's own.

        Returns:
            (samples, horizon, H, W, C) float32.
        """
        ...


def futures_of(frames: Array) -> FloatArray:
    """Copy the device's (horizon, samples, C, H, W) into (samples, horizon, H, W, C)."""
    futures: FloatArray = np.array(frames.transpose(1, 0, 3, 4, 2), np.float32, order="C")
    return futures
