"""The context of models without encoder and latents, which predict each frame from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from svg_common.metrics import mean_squared_error
from svg_runtime.backends.base import Array, Backend
from svg_runtime.bundle.manifest import PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior, ContextState, SurpriseUnit, without_latents
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.states import RecurrentGraph


class SteppedContext:
    """Steps the graph `step` on true frames. Its state has read all frames but the last.

    The surprise of a frame is the error of its prediction, relative to that of the frames before it since `reset`, see
    `RelativeError`. It is None until there is such an error.

    Args:
        backend: the device.
        variant: the graphs.
        streams: carry the state along from the first frame, instead of reading the last frames again.
        camera_count: how many are read together.
    """

    surprise_unit: SurpriseUnit | None = "relative"

    def __init__(self, backend: Backend, variant: PrecisionVariant, streams: bool, camera_count: int = 1) -> None:
        spec = variant.graphs["step"]
        h, frame = spec.tensor("h"), spec.tensor("frame")
        self._backend = backend
        self._streams = streams
        self._camera_count = camera_count
        self._h = backend.allocate(h.sized(camera_count), h.dtype)
        self._frame = backend.allocate(frame.sized(camera_count), frame.dtype)
        self._step = RecurrentGraph(
            backend=backend,
            graph_name="step",
            spec=spec,
            batch=camera_count,
            inputs=[{"h": self._h}] * 2,  # the true frame, in place of the model's own
            outputs=[{"frame": self._frame}] * 2,
        )
        self.reset()

    @property
    def predictor(self) -> RecurrentGraph | None:
        """The graph `step`. If an engine has failed within a window, the one before it is read again first.

        Raises:
            BackendError: the engine failed again.
        """
        if self._is_half_read:
            self._read_window(self._window)
        return self._step

    def reset(self) -> None:
        """Discard all frames and errors."""
        self._step.reset()
        self._states = [ContextState() for _ in range(self._camera_count)]
        self._window: Sequence[FloatArray] = ()  # the frames that the state has read, oldest first
        self._is_half_read = False

    def load(self, states: Sequence[ContextState]) -> None:
        """Go on from other states and errors."""
        self._is_half_read = False
        self._step.load_each([state.recurrent[0] if state.recurrent else {} for state in states])
        self._states = [replace(state, errors=copy(state.errors)) for state in states]

    def save(self) -> list[ContextState]:
        """Return the states and errors."""
        recurrent = self._step.read_each(self._camera_count)
        return [replace(state, recurrent=[own]) for state, own in zip(self._states, recurrent, strict=True)]

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Step through the frames but the last, which is compared with its prediction."""
        predicted = self._read_frame(encodings[-2]) if self._streams else self._read_window(encodings[:-1])
        compared = zip(self._states, predicted, encodings[-1], strict=True)
        return without_latents([state.errors.of(mean_squared_error(frame, true)) for state, frame, true in compared])

    def _read_frame(self, h: FloatArray) -> Array:
        """Step through one more frame; returns the prediction of the next, (cameras, C, H, W)."""
        self._backend.write(self._h, h)
        self._step.step()
        try:
            return self._backend.read(self._frame)
        except BaseException:  # a GPU may report here that the step has failed
            self._step.step_back()
            raise

    def _read_window(self, frames: Sequence[FloatArray]) -> Array:
        """Step through `frames` from the initial state; returns the prediction of the next one."""
        self._is_half_read = True
        self._step.reset()
        for h in frames:
            self._backend.write(self._h, h)
            self._step.step()
        predicted = self._backend.read(self._frame)
        self._window = frames
        self._is_half_read = False
        return predicted
