"""The Forecaster: observe frames, forecast futures. Composes observer, context, rollout and scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from svg_common.progress import ProgressListener
from svg_runtime.backends import open_backend
from svg_runtime.backends.base import Backend
from svg_runtime.backends.computed import ComputedIn
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import PRECISIONS, Manifest, Precision, PrecisionVariant
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, ContextNotReadyError, FrameError, UsageError
from svg_runtime.forecast.context import ContextPosterior, ContextReader
from svg_runtime.forecast.noise import FloatArray, NoiseSource, checked_noise
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.rollouts import Rollouts, use_fused
from svg_runtime.forecast.scores import ForecastMemory, ForecastScore
from svg_runtime.forecast.separate_rollout import Rollout

Context = Literal["window", "stream"]
_COUNT_LIMIT = 1 << 16  # of samples and of horizon: beyond it a typing error is more likely than a wish


@dataclass(frozen=True)
class Observation:
    """What one frame said about the model's expectations."""

    index: int  # 0 for the first frame since open or reset
    surprise: float | None  # KL(posterior || prior) in nats; None for the first frame, and without latents
    scores: tuple[ForecastScore, ...]  # of the forecasts made for this frame earlier, shortest lead first


class Forecaster:
    """Forecasts video with a bundle. Use as a context manager; not safe for use from several threads at once.

    Generation follows the reference (Denton and Fergus 2018, `generate_svg_lp.py`): the context is read through the posterior,
    then every latent is drawn from the learned prior, or from N(0, I) if the prior is fixed. A deterministic model has one
    future, which is repeated for as many samples as are asked for, and no surprise.
    """

    def __init__(self, bundle: Bundle, backend: Backend, variant: PrecisionVariant, samples: int, horizon: int, seed: int,
                 context: Context, fused: bool | None = None) -> None:  # fmt: skip
        _check_counts(samples, horizon)
        if context not in ("window", "stream"):
            raise UsageError(f"unknown context '{context}'\n  expected window or stream")
        self.manifest: Manifest = bundle.manifest
        self.samples, self.horizon, self.context = samples, horizon, context
        self._backend, self._variant = backend, variant
        self._noise = NoiseSource(seed)
        self._observer = Observer(backend, self.manifest, variant)
        self.fused = use_fused(variant, fused, backend.prefers_fused)
        streams = context == "stream"
        pairs = 1 if streams else self.manifest.generation.n_past - 1
        # In the window context the fused graphs bring the prior through the context themselves.
        self._reader = ContextReader(backend, variant, pairs, keeps_state=streams or not self.fused)
        self._rollouts = Rollouts(backend, self.manifest, variant, self._observer, self.fused)
        # In the stream context, the rollout whose predictor reads the frames. Forecasts branch off and leave it untouched.
        self._stream = self._rollouts.separate(self._futures_of(samples), 0) if context == "stream" else None
        self._memory = ForecastMemory()
        self._belief: ContextPosterior | None = None
        self._last_frame: FloatArray | None = None
        self._closed = False
        self.reset()

    @classmethod
    def open(
        cls,
        path: str | Path,
        backend: str = "auto",
        device: str | None = None,
        precision: Precision | None = None,
        samples: int = 8,
        horizon: int = 10,
        seed: int = 0,
        context: Context = "window",
        fused: bool | None = None,
        threads: int | None = None,
        gpu: GpuOptions | None = None,
        progress: ProgressListener | None = None,
    ) -> Forecaster:
        """Open a bundle on a backend.

        Args:
            path: the *.svgb folder.
            backend: "auto" or a backend's name; a named one is used or refused, never replaced.
            device: device of the backend; None leaves the choice to it.
            precision: "fp32", "fp16" or "bf16"; None leaves the choice to the backend.
            samples: futures per forecast.
            horizon: frames per future.
            seed: of the noise.
            context: "window" re-reads the last n_past frames before each forecast, as in training; "stream" carries state from
                the first frame on.
            fused: True runs the fused graphs, False the separate ones; None takes what the backend is faster with. Both give
                the same frames.
            threads: of a processor; None takes one per usable core. Forecasters that work at the same time share the cores best
                with fewer each.
            gpu: choices for backends of NVIDIA GPUs.
            progress: who is told while engines are built, which can take minutes the first time.

        Raises:
            BundleError: the bundle is missing, damaged or hostile.
            BackendMissingError, MissingExtraError: backend, library, device or precision is not to be had.
            BackendError: the device has no memory left.
            UsageError: a value that means nothing.
        """
        _check_counts(samples, horizon)
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}\n  expected at least 1")
        if precision not in (None, *PRECISIONS):
            raise UsageError(f"unknown precision '{precision}'\n  expected one of: {', '.join(PRECISIONS)}")
        bundle = Bundle.open(path)
        try:
            opened = open_backend(bundle, backend, device, precision, threads, samples, gpu, progress)
            try:
                return cls(bundle, opened, bundle.variant(opened.precision), samples, horizon, seed, context, fused)
            except BaseException:
                opened.close()
                raise
        except MemoryError as error:
            raise BackendError(f"the backend '{backend}' has no memory left: {error}\n  close what else uses it") from error

    def __enter__(self) -> Forecaster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the device. The forecaster cannot be used afterwards; closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._backend.close()  # first: it waits until nothing runs any more
        finally:
            del self._observer, self._reader, self._rollouts, self._stream  # they hold the device's buffers and bound graphs

    @property
    def backend(self) -> str:
        """The backend's name; with "auto", of the one that was taken."""
        return self._backend.name

    @property
    def description(self) -> str:
        """Backend, library version and the precision that is really computed in, for people."""
        return self._backend.description

    @property
    def computed_in(self) -> ComputedIn:
        """Graph -> precision (f32, bf16, f16) -> how many of its layers with weights are computed in it.

        Of the graphs that were used so far, as the engine tells it; a graph of which it tells nothing is missing.
        """
        return self._backend.computed_in

    @property
    def ready(self) -> bool:
        """Whether n_past frames have been observed."""
        self._check_open()
        return self._observer.count >= self.manifest.generation.n_past

    def reset(self) -> None:
        """Forget all frames, states and forecasts, and start the noise again from the seed."""
        self._check_open()
        self._observer.reset()
        self._reader.reset()
        self._noise.reset()
        self._memory.clear()
        self._belief = self._last_frame = None
        if self._stream is not None:
            self._stream.predictor.reset()

    def warm_up(self) -> None:
        """Run everything on black frames, then `reset`: what engines do at their first runs would make the first forecast late.

        They compile, allocate and capture CUDA graphs then. It takes as long as a few forecasts more than that.

        Raises:
            BackendError: an engine failed.
            UsageError: the forecaster is closed.
        """
        self.reset()
        frame = self.manifest.frame
        black = np.zeros((frame.height, frame.width, frame.channels), np.float32)
        try:
            for _ in range(self.manifest.generation.n_past + 1):  # two forecasts: the stream's state has two buffers, in turn
                self.observe(black)
                if self.ready:
                    self.forecast()
        finally:
            self.reset()

    def observe(self, frame: ArrayLike) -> Observation:
        """Take in the next frame.

        Args:
            frame: (H, W, C) float32 in [0, 1] at the model's size; RGB, or gray with C = 1.

        Raises:
            FrameError: wrong shape, type, range, or values that are not finite. The frame is then not taken in.
            UsageError: the forecaster is closed.
        """
        self._check_open()
        checked = _checked_frame(frame, self.manifest)
        index = self._observer.count
        scores = self._memory.score(index, checked)
        self._observer.observe(checked)
        self._last_frame = checked
        if index == 0:
            return Observation(index, None, scores)
        self._belief = self._read_window() if self._stream is None else self._read_stream(self._stream)
        return Observation(index, self._belief.surprise, scores)

    def forecast(
        self,
        samples: int | None = None,
        horizon: int | None = None,
        noise: ArrayLike | None = None,
        context_noise: ArrayLike | None = None,
    ) -> FloatArray:
        """Sample futures that follow the last observed frame.

        Args:
            samples: futures; default as opened. With the stream context it cannot change.
            horizon: frames per future; default as opened.
            noise: (horizon, samples, z_dim) replaces the seeded draws of the prior.
            context_noise: (n_past - 1, samples, z_dim) replaces those of the posterior (window context only).

        Returns:
            (samples, horizon, H, W, C) float32 in [0, 1].

        Raises:
            ContextNotReadyError: fewer than n_past frames were observed.
            UsageError: counts or noise that do not fit, or the forecaster is closed. Nothing has changed then: the seeded
                draws of the next forecast are the same as without the refused one.
        """
        self._check_open()
        samples = self.samples if samples is None else samples
        horizon = self.horizon if horizon is None else horizon
        _check_counts(samples, horizon)
        self._check_ready()
        if self._stream is not None and (context_noise is not None or samples != self.samples):
            raise UsageError(
                "with the stream context the past is already read\n  expected no context_noise and the samples as opened"
            )
        assert self._belief is not None
        assert self._last_frame is not None
        z_dim, encodings = self.manifest.model.z_dim, list(self._observer.encodings)
        past_shape, shape = (len(encodings) - 1, samples, z_dim), (horizon, samples, z_dim)
        eps_past, eps = checked_noise("context_noise", context_noise, past_shape), checked_noise("noise", noise, shape)
        rollout = self._rollouts.get(self._futures_of(samples), horizon)
        if self._stream is None:
            rollout.read_context(encodings, self._belief, self._noise.draw(*past_shape) if eps_past is None else eps_past)
        eps = self._noise.draw(*shape) if eps is None else eps
        branch = None if self._stream is None else self._stream.predictor
        futures = rollout.forecast(encodings[-1], self._belief, eps, branch)
        futures = np.repeat(futures, samples // len(futures), axis=0)
        self._memory.remember(self._observer.count - 1, self._last_frame, futures)
        return futures

    def reconstruct(
        self, targets: ArrayLike, noise: ArrayLike | None = None, context_noise: ArrayLike | None = None
    ) -> FloatArray:
        """The forecast that the model would make if it guessed every latent right: z from the posterior of the true next frame.

        The reference's "approximate posterior". It runs in closed loop: the true frames are seen by the posterior alone. What
        was observed stays as it is, and no seeded draw is used up.

        Args:
            targets: (horizon, H, W, C) float32 in [0, 1], the true frames that follow the last observed one.
            noise: (horizon, 1, z_dim) draws of the posterior; default: zeros, its means.
            context_noise: (n_past - 1, 1, z_dim) draws while the context is read; default: zeros.

        Returns:
            (horizon, H, W, C) float32 in [0, 1].

        Raises:
            ContextNotReadyError: fewer than n_past frames were observed.
            FrameError: a target that is no frame of the model.
            UsageError: noise that does not fit, the stream context, or the forecaster is closed.
        """
        self._check_open()
        self._check_ready()
        if self._stream is not None:
            raise UsageError("reconstruct() reads the context again\n  open the forecaster with context='window'")
        frames = [_checked_frame(target, self.manifest) for target in np.asarray(targets)]
        if not frames:
            raise UsageError("there are no targets\n  expected at least one true frame after the observed ones")
        z_dim, encodings = self.manifest.model.z_dim, list(self._observer.encodings)
        shapes = {"noise": (len(frames), 1, z_dim), "context_noise": (len(encodings) - 1, 1, z_dim)}
        given = {"noise": noise, "context_noise": context_noise}
        eps = {name: checked_noise(name, given[name], shape) for name, shape in shapes.items()}
        draws = {name: np.zeros(shapes[name], np.float32) if value is None else value for name, value in eps.items()}
        self._reader.reset()
        context_posterior = self._reader.read([*encodings, *(self._observer.encode(frame) for frame in frames)])
        rollout, past = self._rollouts.separate(1, len(frames)), len(encodings) - 1
        rollout.read_context(encodings, context_posterior, draws["context_noise"])
        posterior = ContextPosterior(context_posterior.mu[past:], context_posterior.logvar[past:], {}, None)
        futures = rollout.forecast(encodings[-1], context_posterior, draws["noise"], posterior=posterior)
        result: FloatArray = futures[0]
        return result

    def _futures_of(self, samples: int) -> int:
        """How many futures to compute: a deterministic model has but one."""
        return samples if self.manifest.model.z_dim else 1

    def _read_window(self) -> ContextPosterior:
        self._reader.reset()
        return self._reader.read(self._observer.encodings)

    def _read_stream(self, stream: Rollout) -> ContextPosterior:
        pair = list(self._observer.encodings)[-2:]
        context_posterior = self._reader.read(pair)
        eps = self._noise.draw(self.samples, self.manifest.model.z_dim)
        stream.advance(pair[0], context_posterior.mu[0], context_posterior.logvar[0], eps)
        return context_posterior

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the forecaster is closed\n  open another one with Forecaster.open(...)")

    def _check_ready(self) -> None:
        if not self.ready:
            raise ContextNotReadyError(
                f"{self._observer.count} of {self.manifest.generation.n_past} frames observed\n"
                f"  call observe() {self.manifest.generation.n_past - self._observer.count} more time(s) before forecast()"
            )


def _checked_frame(given: ArrayLike, manifest: Manifest) -> FloatArray:
    spec = manifest.frame
    expected = f"expected ({spec.height}, {spec.width}, {spec.channels}) float32 in [0, 1]"
    try:
        frame = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise FrameError(f"the frame is no array: {error}\n  {expected}") from error
    if frame.dtype != np.float32:
        convert = "frame.astype('float32')" if frame.dtype.kind == "f" else "frame.astype('float32') / 255"
        raise FrameError(f"the frame's type is {frame.dtype}\n  {expected}; convert with {convert}")
    if frame.shape != (spec.height, spec.width, spec.channels):
        raise FrameError(
            f"the frame's shape is {frame.shape}\n  {expected}; svg_common.frames.fit_frame makes one of any picture"
        )
    low, high = float(frame.min()), float(frame.max())
    if not (low >= 0.0 and high <= 1.0):  # also false for NaN
        raise FrameError(f"the frame's values lie in [{low}, {high}]\n  {expected}")
    return frame.astype(np.float32)  # a copy: the caller may reuse the array


def _check_counts(samples: int, horizon: int) -> None:
    for name, value in (("samples", samples), ("horizon", horizon)):
        if not isinstance(value, (int, np.integer)) or not 1 <= value <= _COUNT_LIMIT:
            raise UsageError(f"{name} is {value!r}\n  expected a whole number from 1 to {_COUNT_LIMIT}")
