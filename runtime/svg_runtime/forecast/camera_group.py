"""Cameras that are due together: what is kept of each, and the graphs bound for a number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np

from svg_runtime.backends.base import Array, Buffer
from svg_runtime.forecast.context import ContextPosterior, ContextState
from svg_runtime.forecast.forecaster import MAX_CACHED_ROLLOUTS
from svg_runtime.forecast.model import LoadedModel
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.forecast.observer import FrameEncoder, allocate_condition, keeps_earlier_condition
from svg_runtime.forecast.rollout import Rollout
from svg_runtime.forecast.scores import ForecastMemory
from svg_runtime.forecast.separate_rollout import SeparateRollout
from svg_runtime.forecast.states import RecurrentGraph

_MAX_CACHED = 2 * MAX_CACHED_ROLLOUTS  # a lane has them for all samples, and for its share of them, see `divide`


@dataclass(eq=False)
class Camera:
    """What is kept of one camera between calls. It belongs to no group: each call may be with other cameras."""

    noise: NoiseSource
    condition: dict[str, Buffer]  # skip conditions for a forecast that starts now, at batch 1
    latest: dict[str, Buffer]  # those of the last frame; the same buffers where forecasts take these
    memory: ForecastMemory
    encodings: list[FloatArray] = field(default_factory=list)  # of the last n_past frames, oldest first, each at batch 1
    count: int = 0  # observed frames
    last_frame: FloatArray | None = None
    posterior: ContextPosterior | None = None  # from the second frame on
    context: ContextState = field(default_factory=ContextState)
    stream: dict[str, Array] = field(default_factory=dict)  # SVG's predictor in stream mode, a row per sample

    @classmethod
    def new(cls, model: LoadedModel, seed: int, post_process: bool = False) -> Camera:
        """A camera without frames."""
        condition = allocate_condition(model.backend, model.variant)
        earlier = keeps_earlier_condition(model.manifest)
        latest = allocate_condition(model.backend, model.variant) if earlier else condition
        return cls(noise=NoiseSource(seed), condition=condition, latest=latest, memory=ForecastMemory(post_process))

    def reset(self) -> None:
        """Discard all frames, states and forecasts, and restart the noise from the seed."""
        self.noise.reset()
        self.memory.clear()
        self.encodings = []
        self.count = 0
        self.last_frame = None
        self.posterior = None
        self.context = ContextState()
        self.stream = {}


class CameraGroup:
    """The graphs bound for `size` cameras. What belongs to the cameras is loaded before a run and saved after it.

    Args:
        model: the graphs and their backend.
        size: number of cameras.
        samples: futures of each camera in stream mode, where they cannot change.

    Attributes:
        reads_context_each_time: whether every forecast reads the context itself, with noise of its own.
    """

    def __init__(self, model: LoadedModel, size: int, samples: int) -> None:
        self._model = model
        self._size = size
        self._encoder = FrameEncoder(model.backend, model.variant, size)
        self.context = model.open_context(size)
        self._condition = allocate_condition(model.backend, model.variant) if size == 1 else None
        self._rollouts: dict[tuple[int, int], Rollout] = {}
        self._stream: SeparateRollout | None = None
        if model.context == "stream" and self.context.predictor is None:
            rollout = self._make_rollout(model.futures_of(samples), 0, fused=False)
            assert isinstance(rollout, SeparateRollout)
            self._stream = rollout
        # Asked once: a context that an engine left half read reads it again when it is asked for its predictor.
        self.reads_context_each_time = self._stream is None and self.context.predictor is None

    def rollout(self, samples: int, horizon: int) -> Rollout:
        """Return the forecast loop for a number of futures, created on first use; a few are cached.

        Raises:
            UsageError: its buffers do not fit into memory.
        """
        key = samples, horizon
        if key not in self._rollouts:
            while len(self._rollouts) >= _MAX_CACHED:
                del self._rollouts[next(iter(self._rollouts))]
            self._rollouts[key] = self._make_rollout(samples, horizon, self._model.fused)
        return self._rollouts[key]

    def observe(self, cameras: Sequence[Camera], frames: Sequence[FloatArray], samples: int) -> None:
        """Read the next frame of cameras that have seen equally many, up to n_past. They change after all graphs have run."""
        h = self._encoder.encode(np.stack(frames))
        self._encoder.make_condition()
        n_past = self._model.manifest.generation.n_past
        encodings = [
            [*camera.encodings, h[row : row + 1]][-n_past:] for row, camera in enumerate(cameras)
        ]  # the cameras' own are not changed
        posteriors: Sequence[ContextPosterior | None] = [None] * len(cameras)
        contexts = [camera.context for camera in cameras]
        streams = [camera.stream for camera in cameras]
        noises = [camera.noise for camera in cameras]
        if cameras[0].count:
            read = _together(encodings, 2 if self._model.context == "stream" else n_past)
            self.context.load(contexts)
            posterior = self.context.observe(read)
            posteriors, contexts = posterior.split(), self.context.save()
            if self._stream is not None:
                size = self._model.manifest.model.z_dim
                noises = deepcopy(noises)
                eps = np.concatenate([noise.draw(samples, size) for noise in noises])
                self._stream.predictor.load_each(streams)
                self._stream.advance(read[-2], posterior.mu[0], posterior.logvar[0], eps)
                streams = self._stream.predictor.read_each(self._size)
        for row, camera in enumerate(cameras):
            camera.encodings = encodings[row]
            camera.posterior = posteriors[row]
            camera.context = contexts[row]
            camera.stream = streams[row]
            camera.noise = noises[row]
            camera.last_frame = frames[row]
            camera.count += 1
            self._keep_condition(row, camera)

    def forecast(
        self, cameras: Sequence[Camera], horizon: int, noise: FloatArray, context_noise: FloatArray | None
    ) -> list[FloatArray]:
        """Sample the futures of each camera.

        Args:
            cameras: as many as the group has.
            horizon: frames per future.
            noise: (horizon, rows, z_dim): the samples of the first camera, then those of the next.
            context_noise: (context_draws, rows, z_dim); None in stream mode.

        Returns:
            For each camera (samples, horizon, H, W, C) float32.
        """
        samples = noise.shape[1] // self._size
        rollout = self.rollout(samples, horizon)
        self._use_conditions(rollout, cameras)
        read = _together([camera.encodings for camera in cameras], self._model.manifest.generation.n_past)
        posterior = ContextPosterior.join([camera.posterior for camera in cameras if camera.posterior is not None])
        branch = self._branch(cameras)
        if branch is None:
            assert context_noise is not None
            rollout.read_context(read, posterior, context_noise)
        futures = rollout.forecast(read[-1], posterior, noise, branch)
        return np.split(futures, self._size)

    @property
    def streams_samples(self) -> bool:
        """Whether the state that is carried along depends on the samples."""
        return self._stream is not None

    def _branch(self, cameras: Sequence[Camera]) -> RecurrentGraph | None:
        """Return the graph that has read the cameras' contexts; None if the rollout reads them."""
        if self._stream is not None:
            self._stream.predictor.load_each([camera.stream for camera in cameras])
            return self._stream.predictor
        if self.reads_context_each_time:
            return None
        self.context.load([camera.context for camera in cameras])
        return self.context.predictor

    def _make_rollout(self, samples: int, horizon: int, fused: bool) -> Rollout:
        return self._model.make_rollout(
            condition=self._condition, samples=samples, horizon=horizon, fused=fused, camera_count=self._size
        )

    def _keep_condition(self, row: int, camera: Camera) -> None:
        """Copy a row of the skip conditions that were just computed, without passing the host."""
        backend = self._model.backend
        for name, buffer in self._encoder.condition.items():
            if camera.latest is not camera.condition:
                backend.copy(camera.latest[name], camera.condition[name])
            backend.copy(backend.rows(buffer, row, 1), camera.latest[name])

    def _use_conditions(self, rollout: Rollout, cameras: Sequence[Camera]) -> None:
        conditions: list[Mapping[str, Buffer]] = [camera.condition for camera in cameras]
        if self._condition is None:
            rollout.use_conditions(conditions)
            return
        for name, buffer in self._condition.items():
            self._model.backend.copy(conditions[0][name], buffer)


def _together(encodings: Sequence[Sequence[FloatArray]], last: int) -> list[FloatArray]:
    """Put the last encodings of the cameras together, oldest first, each with a row per camera."""
    return [np.concatenate(rows) for rows in zip(*(own[-last:] for own in encodings), strict=True)]
