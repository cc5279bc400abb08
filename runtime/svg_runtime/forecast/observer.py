"""Reads frames: encodes each once and computes the decoder's skip conditions."""

from __future__ import annotations

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
        self._n_past = manifest.generation.n_past
        self._encoder = FrameEncoder(backend, variant)
        self.encodings: list[FloatArray] = []
        self.count = 0
        self.condition = allocate_condition(backend, variant)
        self._latest = allocate_condition(backend, variant) if keeps_earlier_condition(manifest) else self.condition

    def encode_next(self, frame: FloatArray) -> list[FloatArray]:
        """Compute encoding and skip conditions of the next (H, W, C) float32 frame; return what `encodings` becomes.

        Nothing changes before `keep`: an engine may still fail.
        """
        h = self.encode(frame)
        self._encoder.make_condition()
        return [*self.encodings, h][-self._n_past :]

    def keep(self, encodings: list[FloatArray]) -> None:
        """Count the frame that `encode_next` has encoded as observed."""
        for name, buffer in self._encoder.condition.items():  # copied, so that forecasts are bound to one set of buffers
            if self._latest is not self.condition:
                self._backend.copy(self._latest[name], self.condition[name])
            self._backend.copy(buffer, self._latest[name])
        self.encodings = encodings
        self.count += 1

    def encode(self, frame: FloatArray) -> FloatArray:
        """Return the encoding h at batch 1 of a (H, W, C) float32 frame without observing it."""
        return self._encoder.encode(frame[None])

    def reset(self) -> None:
        """Discard all frames."""
        self.encodings = []
        self.count = 0


def keeps_earlier_condition(manifest: Manifest) -> bool:
    """Whether forecasts take the skip conditions of the frame before the last one; last_frame_skip always takes the last."""
    return bool(manifest.generation.skip_lag) and not manifest.generation.last_frame_skip


def allocate_condition(backend: Backend, variant: PrecisionVariant) -> dict[str, Buffer]:
    """Return buffers for the skip conditions of one camera; none in a model without skips."""
    outputs = variant.graphs["skip"].outputs if "skip" in variant.graphs else ()
    return {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in outputs}
