"""Reads frames at batch 1: encodes each once, conditions the decoder's skips, and keeps both on the device or cached."""

from __future__ import annotations

from collections import deque

import numpy as np

from svg_runtime.backends.base import Backend, Buffer
from svg_runtime.manifest import Manifest, Variant
from svg_runtime.noise import FloatArray


class Observer:
    """Encoder and skip graphs at batch 1.

    Attributes:
        encodings: h of the last n_past frames, oldest first, each (1, g_dim).
        rings: the decoder's skip conditions of the last frames, in the order in which they are overwritten.
        condition_slot: index into `rings` for a forecast that starts now: the frame `skip_lag` before the last one.
        count: frames observed.
    """

    def __init__(self, backend: Backend, manifest: Manifest, variant: Variant) -> None:
        self._backend = backend
        encoder, skip = variant.graphs["encoder"], variant.graphs["skip"]
        frame, h = encoder.tensor("frame"), encoder.tensor("h")
        skips = [tensor for tensor in encoder.outputs if tensor.name != "h"]
        self._frame = backend.allocate(frame.sized(1), frame.dtype)
        self._h = backend.allocate(h.sized(1), h.dtype)
        skip_buffers = {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in skips}
        self._encode = backend.bind("encoder", {"frame": self._frame}, {"h": self._h, **skip_buffers})
        generation = manifest.generation
        # A ring: the frame `skip_lag` back must still be there. last_frame_skip always takes the last frame.
        self._lag = 0 if generation.last_frame_skip else generation.skip_lag
        self.rings: list[dict[str, Buffer]] = [
            {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in skip.outputs}
            for _ in range(self._lag + 1)
        ]
        self._condition = [backend.bind("skip", skip_buffers, ring) for ring in self.rings]
        self.encodings: deque[FloatArray] = deque(maxlen=generation.n_past)
        self.count = 0

    def observe(self, frame: FloatArray) -> None:
        """Take in one (H, W, C) float32 frame: its encoding and its skip conditions."""
        self.encodings.append(self.encode(frame))
        self._backend.run(self._condition[self.count % len(self.rings)])
        self.count += 1

    def encode(self, frame: FloatArray) -> FloatArray:
        """Encoding (1, g_dim) of a (H, W, C) float32 frame that is not taken in."""
        self._backend.write(self._frame, np.moveaxis(frame, -1, 0)[None])
        self._backend.run(self._encode)
        h: FloatArray = self._backend.read(self._h).copy()
        return h

    @property
    def condition_slot(self) -> int:
        """Which of `rings` a forecast that starts now must use."""
        return (self.count - 1 - self._lag) % len(self.rings)

    def reset(self) -> None:
        """Forget all frames."""
        self.encodings.clear()
        self.count = 0
