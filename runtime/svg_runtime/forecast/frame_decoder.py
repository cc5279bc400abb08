"""Decodes the latents of a forecast, several steps at once, after the last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from svg_runtime.backends.base import Backend, BoundGraph, Buffer, StepBuffers
from svg_runtime.bundle.manifest import GraphSpec
from svg_runtime.forecast.noise import FloatArray

_FRAMES = 64  # decoded at once: enough for full speed, few enough for any memory


@dataclass(frozen=True)
class _Part:
    """Some steps of one camera that are decoded by one run."""

    rows: slice  # of the batch: the camera's samples
    steps: slice
    gathered: list[tuple[list[Buffer], Buffer]]  # latents of the steps, and the buffer that the graph reads
    graph: BoundGraph
    frames: Buffer  # (steps * samples, C, H, W)


class FrameDecoder:
    """The graph `decode`, bound to the latents of all steps.

    Every camera is decoded by itself. A batch of its frames is large enough, and its constants can stay at batch 1.

    Args:
        backend: the device.
        spec: interface of the graph.
        latents: name -> a buffer per step, each with a row for each sample of each camera.
        constants: for each camera, name -> what is the same for all its steps and samples, at batch 1.
        horizon: number of steps.
        samples: futures of each camera.
    """

    def __init__(
        self,
        backend: Backend,
        spec: GraphSpec,
        latents: Mapping[str, StepBuffers],
        constants: Sequence[Mapping[str, Buffer]],
        horizon: int,
        samples: int,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._latents = latents
        self._constants = constants
        self._samples = samples
        self._horizon = horizon
        at_once = max(1, min(_FRAMES, backend.max_batch or _FRAMES) // samples)
        self._parts = [
            self._bind(camera, slice(first, min(first + at_once, horizon)))
            for camera in range(len(constants))
            for first in range(0, horizon, at_once)
        ]

    def run(self) -> FloatArray:
        """Decode all steps; returns (rows, horizon, H, W, C)."""
        for part in self._parts:
            for steps, whole in part.gathered:
                self._backend.gather(steps, whole)
            part.graph.run()
        channels, height, width = self._parts[0].frames.shape[1:]
        rows = len(self._constants) * self._samples
        futures: FloatArray = np.empty((rows, self._horizon, height, width, channels), np.float32)
        for part in self._parts:
            frames = self._backend.read(part.frames)
            by_step = frames.reshape(-1, self._samples, channels, height, width)
            futures[part.rows, part.steps] = by_step.transpose(1, 0, 3, 4, 2)
        return futures

    def _bind(self, camera: int, steps: slice) -> _Part:
        count = steps.stop - steps.start
        inputs, gathered, batch = dict(self._constants[camera]), [], count * self._samples
        rows = slice(camera * self._samples, (camera + 1) * self._samples)
        alone = len(self._constants) == 1
        for name, buffers in self._latents.items():
            own = list(buffers.steps[steps])
            if alone and count == 1:
                inputs[name] = own[0]
                continue
            if not alone:
                own = [self._backend.rows(buffer, rows.start, self._samples) for buffer in own]
            tensor = self._spec.tensor(name)
            inputs[name] = self._backend.allocate(tensor.sized(batch), tensor.dtype)
            gathered.append((own, inputs[name]))
        frame = self._spec.tensor("frame")
        frames = self._backend.allocate(frame.sized(batch), frame.dtype)
        graph = self._backend.bind("decode", inputs, {"frame": frames})
        return _Part(rows=rows, steps=steps, gathered=gathered, graph=graph, frames=frames)
