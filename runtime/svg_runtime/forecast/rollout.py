"""The interface of the two forecast loops, on the separate graphs and on the fused graphs, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from svg_runtime.backends.base import Array, Buffer
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.states import RecurrentGraph


class Rollout(Protocol):
    """Buffers and bound graphs for a fixed number of cameras, samples and steps: bound once, run for every forecast.

    A batch has a row for each sample of each camera: all samples of the first one, then those of the next.
    """

    def use_conditions(self, conditions: Sequence[Mapping[str, Buffer]]) -> None:
        """Copy each camera's skip conditions, at batch 1; not for one camera, whose buffers are bound themselves."""
        ...

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Read the context frames from the initial states.

        Args:
            encodings: h of each context frame, oldest first, each a row per camera.
            context: posterior of the latents between them.
            noise: (context_draws, rows, z_dim).
        """
        ...

    def forecast(
        self, h: FloatArray, context: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Sample the futures that follow the last observed frame.

        Args:
            h: its encoding, a row per camera.
            context: posterior of the context frames; SVG's separate prior starts from its `prior_states`.
            noise: (horizon, rows, z_dim) draws for the prior.
            branch_from: another rollout's predictor that has read the context; it is not changed. None: this rollout's own.

        Returns:
            (rows, horizon, H, W, C) float32.
        """
        ...


def spread(values: Array, samples: int, axis: int = 0) -> Array:
    """Repeat the row of each camera for its samples; a single row is left to the broadcasting of `Backend.write`."""
    return values if values.shape[axis] == 1 else np.repeat(values, samples, axis)


def futures_of(frames: Array) -> FloatArray:
    """Copy the device's (horizon, rows, C, H, W) into (rows, horizon, H, W, C)."""
    futures: FloatArray = np.array(frames.transpose(1, 0, 3, 4, 2), np.float32, order="C")
    return futures
