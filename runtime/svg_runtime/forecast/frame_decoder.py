"""Decodes the latents of a forecast, several steps at once, after the last step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from svg_runtime.backends.base import Array, Backend, BoundGraph, Buffer, StepBuffers
from svg_runtime.bundle.manifest import GraphSpec

_FRAMES = 64  # decoded at once: enough for full speed, few enough for any memory


@dataclass(frozen=True)
class _Part:
    """Some steps that are decoded by one run."""

    gathered: list[tuple[tuple[Buffer, ...], Buffer]]  # buffers of the steps, and the one that the graph reads
    graph: BoundGraph
    frames: Buffer  # (steps * samples, C, H, W)


class FrameDecoder:
    """The graph `decode`, bound to the latents of all steps.

    Args:
        backend: the device.
        spec: interface of the graph.
        latents: name -> a buffer per step, each (samples, ...).
        constants: name -> what is the same for all steps and samples, at batch 1.
        horizon: number of steps.
        samples: futures.
    """

    def __init__(
        self,
        backend: Backend,
        spec: GraphSpec,
        latents: Mapping[str, StepBuffers],
        constants: Mapping[str, Buffer],
        horizon: int,
        samples: int,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._latents = latents
        self._constants = constants
        self._samples = samples
        at_once = max(1, min(_FRAMES, backend.max_batch or _FRAMES) // samples)
        self._parts = [self._bind(range(first, min(first + at_once, horizon))) for first in range(0, horizon, at_once)]

    def run(self) -> Array:
        """Decode all steps; returns (horizon, samples, C, H, W)."""
        for part in self._parts:
            for steps, whole in part.gathered:
                self._backend.gather(steps, whole)
            part.graph.run()
        frames = np.concatenate([self._backend.read(part.frames) for part in self._parts])
        return frames.reshape(-1, self._samples, *frames.shape[1:])

    def _bind(self, steps: range) -> _Part:
        inputs, gathered, batch = dict(self._constants), [], len(steps) * self._samples
        for name, buffers in self._latents.items():
            own = buffers.steps[steps.start : steps.stop]
            if len(steps) == 1:
                inputs[name] = own[0]
                continue
            tensor = self._spec.tensor(name)
            inputs[name] = self._backend.allocate(tensor.sized(batch), tensor.dtype)
            gathered.append((own, inputs[name]))
        frame = self._spec.tensor("frame")
        frames = self._backend.allocate(frame.sized(batch), frame.dtype)
        return _Part(gathered, self._backend.bind("decode", inputs, {"frame": frames}), frames)
