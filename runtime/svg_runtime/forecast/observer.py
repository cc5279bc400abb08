"""Reads frames: encodes each once and computes the decoder's skip conditions."""

from __future__ import annotations

from collections import deque

import numpy as np

from svg_runtime.backends.base import Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.noise import FloatArray


class FrameEncoder:
    """Runs the encoder and skip graphs on one frame of each camera. Without encoder a frame is its own encoding.

    Args:
        backend: the device.
        variant: the graphs.
        camera_count: number of frames that are encoded at once.

    Attributes:
        condition: the decoder's skip conditions of the last frames, a row for each; empty in a model without skips.
    """

    def __init__(self, backend: Backend, variant: PrecisionVariant, camera_count: int = 1) -> None:
        self._backend = backend
        self.condition: dict[str, Buffer] = {}
        self._encode: BoundGraph | None = None
        self._skip: BoundGraph | None = None
        if "encoder" not in variant.graphs:
            return
        spec, allocate = variant.graphs["encoder"], backend.allocate
        frame, h = spec.tensor("frame"), spec.tensor("h")
        self._frames = allocate(frame.sized(camera_count), frame.dtype)
        self._h = allocate(h.sized(camera_count), h.dtype)
        skips = {
            tensor.name: allocate(tensor.sized(camera_count), tensor.dtype) for tensor in spec.outputs if tensor.name != "h"
        }
        self._encode = backend.bind("encoder", {"frame": self._frames}, {"h": self._h, **skips})
        if "skip" in variant.graphs:
            outputs = variant.graphs["skip"].outputs
            self.condition = {tensor.name: allocate(tensor.sized(camera_count), tensor.dtype) for tensor in outputs}
            self._skip = backend.bind("skip", skips, self.condition)

    def encode(self, frames: FloatArray) -> FloatArray:
        """Return the encodings h, a row for each of (cameras, H, W, C) float32 frames."""
        channels_first: FloatArray = np.moveaxis(frames, -1, 1)
        if self._encode is None:
            return np.array(channels_first)
        self._backend.write(self._frames, channels_first)
        self._encode.run()
        h: FloatArray = self._backend.read(self._h).copy()
        return h

    def make_condition(self) -> None:
        """Compute the skip conditions of the frames that were encoded last."""
        if self._skip is not None:
            self._skip.run()


class Observer:
    """The frames of one camera: encodes them, and keeps what forecasts need.

    Attributes:
        encodings: h of the last n_past frames, oldest first, each at batch 1.
        condition: the decoder's skip conditions for a forecast that starts now, from the frame `skip_lag` before the last one;
            empty in a model without skips.
        count: number of observed frames.
    """

    def __init__(self, backend: Backend, manifest: Manifest, variant: PrecisionVariant) -> None:
        self._backend = backend
        self._encoder = FrameEncoder(backend, variant)
        self.encodings: deque[FloatArray] = deque(maxlen=manifest.generation.n_past)
        self.count = 0
        self._latest = self._encoder.condition
        self.condition = allocate_condition(backend, variant) if keeps_earlier_condition(manifest) else self._latest

    def observe(self, frame: FloatArray) -> None:
        """Read one (H, W, C) float32 frame: compute its encoding and its skip conditions."""
        self.encodings.append(self.encode(frame))
        if self._latest is not self.condition:  # a copy per frame, so that forecasts are bound to one set of buffers
            for name, buffer in self.condition.items():
                self._backend.copy(self._latest[name], buffer)
        self._encoder.make_condition()
        self.count += 1

    def encode(self, frame: FloatArray) -> FloatArray:
        """Return the encoding h at batch 1 of a (H, W, C) float32 frame without observing it."""
        return self._encoder.encode(frame[None])

    def reset(self) -> None:
        """Discard all frames."""
        self.encodings.clear()
        self.count = 0


def keeps_earlier_condition(manifest: Manifest) -> bool:
    """Whether forecasts take the skip conditions of the frame before the last one; last_frame_skip always takes the last."""
    return bool(manifest.generation.skip_lag) and not manifest.generation.last_frame_skip


def allocate_condition(backend: Backend, variant: PrecisionVariant) -> dict[str, Buffer]:
    """Return buffers for the skip conditions of one camera; none in a model without skips."""
    outputs = variant.graphs["skip"].outputs if "skip" in variant.graphs else ()
    return {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in outputs}
