"""Reads frames at batch 1: encodes each once and computes the decoder's skip conditions."""

from __future__ import annotations

from collections import deque

import numpy as np

from svg_runtime.backends.base import Backend, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.noise import FloatArray


class Observer:
    """Runs the encoder and skip graphs at batch 1.

    Attributes:
        encodings: h of the last n_past frames, oldest first, each (1, g_dim).
        condition: the decoder's skip conditions for a forecast that starts now, from the frame `skip_lag` before the last one.
        count: number of observed frames.
    """

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant) -> None:
        self._backend = backend
        encoder, skip = variant.graphs["encoder"], variant.graphs["skip"]
        frame, h = encoder.tensor("frame"), encoder.tensor("h")
        skips = [tensor for tensor in encoder.outputs if tensor.name != "h"]
        self._frame = backend.allocate(frame.sized(1), frame.dtype)
        self._h = backend.allocate(h.sized(1), h.dtype)
        skip_buffers = {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in skips}
        self._encode = backend.bind("encoder", {"frame": self._frame}, {"h": self._h, **skip_buffers})
        generation = manifest.generation

        def allocate() -> dict[str, Buffer]:
            return {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in skip.outputs}

        self.condition = allocate()
        # last_frame_skip always takes the last frame.
        self._latest = allocate() if generation.skip_lag and not generation.last_frame_skip else self.condition
        self._skip = backend.bind("skip", skip_buffers, self._latest)
        self.encodings: deque[FloatArray] = deque(maxlen=generation.n_past)
        self.count = 0

    def observe(self, frame: FloatArray) -> None:
        """Read one (H, W, C) float32 frame: compute its encoding and its skip conditions."""
        self.encodings.append(self.encode(frame))
        if self._latest is not self.condition:  # a copy per frame, so that forecasts are bound to one set of buffers
            for name, buffer in self.condition.items():
                self._backend.copy(self._latest[name], buffer)
        self._skip.run()
        self.count += 1

    def encode(self, frame: FloatArray) -> FloatArray:
        """Return the encoding (1, g_dim) of a (H, W, C) float32 frame without observing it."""
        self._backend.write(self._frame, np.moveaxis(frame, -1, 0)[None])
        self._encode.run()
        h: FloatArray = self._backend.read(self._h).copy()
        return h

    def reset(self) -> None:
        """Discard all frames."""
        self.encodings.clear()
        self.count = 0
