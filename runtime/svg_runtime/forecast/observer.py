"""Reads frames at batch 1: encodes each once and computes the decoder's skip conditions."""

from __future__ import annotations

from collections import deque

import numpy as np

from svg_runtime.backends.base import Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import GraphSpec, Manifest, PrecisionVariant
from svg_runtime.forecast.noise import FloatArray


class Observer:
    """Runs the encoder and skip graphs at batch 1. In a model without encoder a frame is its own encoding.

    Attributes:
        encodings: h of the last n_past frames, oldest first, each at batch 1.
        condition: the decoder's skip conditions for a forecast that starts now, from the frame `skip_lag` before the last one;
            empty in a model without skips.
        count: number of observed frames.
    """

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant) -> None:
        self._backend = backend
        self.condition: dict[str, Buffer] = {}
        self.encodings: deque[FloatArray] = deque(maxlen=manifest.generation.n_past)
        self.count = 0
        self._latest = self.condition
        self._skip: BoundGraph | None = None
        self._encode: BoundGraph | None = None
        if "encoder" in variant.graphs:
            skips = self._bind_encoder(variant.graphs["encoder"])
            if "skip" in variant.graphs:
                self._bind_skip(variant.graphs["skip"], skips, manifest)

    def observe(self, frame: FloatArray) -> None:
        """Read one (H, W, C) float32 frame: compute its encoding and its skip conditions."""
        self.encodings.append(self.encode(frame))
        if self._latest is not self.condition:  # a copy per frame, so that forecasts are bound to one set of buffers
            for name, buffer in self.condition.items():
                self._backend.copy(self._latest[name], buffer)
        if self._skip is not None:
            self._skip.run()
        self.count += 1

    def encode(self, frame: FloatArray) -> FloatArray:
        """Return the encoding h at batch 1 of a (H, W, C) float32 frame without observing it."""
        first: FloatArray = np.moveaxis(frame, -1, 0)[None]
        if self._encode is None:
            return np.array(first)
        self._backend.write(self._frame, first)
        self._encode.run()
        h: FloatArray = self._backend.read(self._h).copy()
        return h

    def reset(self) -> None:
        """Discard all frames."""
        self.encodings.clear()
        self.count = 0

    def _bind_encoder(self, spec: GraphSpec) -> dict[str, Buffer]:
        """Returns the buffers of the skips."""
        allocate, frame, h = self._backend.allocate, spec.tensor("frame"), spec.tensor("h")
        self._frame = allocate(frame.sized(1), frame.dtype)
        self._h = allocate(h.sized(1), h.dtype)
        skips = {tensor.name: allocate(tensor.sized(1), tensor.dtype) for tensor in spec.outputs if tensor.name != "h"}
        self._encode = self._backend.bind("encoder", {"frame": self._frame}, {"h": self._h, **skips})
        return skips

    def _bind_skip(self, spec: GraphSpec, skips: dict[str, Buffer], manifest: Manifest) -> None:
        def allocate() -> dict[str, Buffer]:
            return {tensor.name: self._backend.allocate(tensor.sized(1), tensor.dtype) for tensor in spec.outputs}

        generation = manifest.generation
        self.condition = allocate()
        # last_frame_skip always takes the last frame.
        self._latest = allocate() if generation.skip_lag and not generation.last_frame_skip else self.condition
        self._skip = self._backend.bind("skip", skips, self._latest)
