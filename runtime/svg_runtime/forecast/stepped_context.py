"""The context of models without encoder and latents, which predict each frame from the one before."""

from __future__ import annotations

from collections.abc import Sequence

from svg_common.metrics import mean_squared_error
from svg_runtime.backends.base import Backend
from svg_runtime.bundle.manifest import PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior, RelativeError, SurpriseUnit, without_latents
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.states import RecurrentGraph


class SteppedContext:
    """Steps the graph `step` on true frames at batch 1. Its state has read all frames but the last.

    The surprise of a frame is the mean squared error of its prediction, relative to the mean of the errors of all frames
    before it since `reset`: 1 is as usual. It is None until there is such an error.

    Args:
        backend: the device.
        variant: the graphs.
        streams: carry the state along from the first frame, instead of reading the last frames again.
    """

    surprise_unit: SurpriseUnit | None = "relative"

    def __init__(self, backend: Backend, variant: PrecisionVariant, streams: bool) -> None:
        spec = variant.graphs["step"]
        h, frame = spec.tensor("h"), spec.tensor("frame")
        self._backend = backend
        self._streams = streams
        self._h = backend.allocate(h.sized(1), h.dtype)
        self._frame = backend.allocate(frame.sized(1), frame.dtype)
        self._step = RecurrentGraph(
            backend=backend,
            graph_name="step",
            spec=spec,
            batch=1,
            inputs=[{"h": self._h}] * 2,  # the true frame, in place of the model's own
            outputs=[{"frame": self._frame}] * 2,
        )
        self.predictor: RecurrentGraph | None = self._step
        self._errors = RelativeError()
        self.reset()

    def reset(self) -> None:
        """Discard all frames and errors."""
        self._step.reset()
        self._errors.reset()

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Step through the frames but the last, which is compared with its prediction."""
        if not self._streams:
            self._step.reset()
        for frame in encodings[-2:-1] if self._streams else encodings[:-1]:
            self._backend.write(self._h, frame)
            self._step.step()
        error = mean_squared_error(self._backend.read(self._frame), encodings[-1])
        return without_latents(self._errors.of(error))
