"""The Forecaster: observe frames, forecast futures. It combines observer, context, rollout and scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from svg_common.arguments import check_flag
from svg_common.progress import ProgressListener
from svg_runtime.backends.base import Backend
from svg_runtime.backends.computed import ComputedIn
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Manifest, Precision, PrecisionVariant
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.decisions import Decision
from svg_runtime.errors import BackendError, ContextNotReadyError, ForecastError, StreamContextError, UsageError
from svg_runtime.forecast.checks import (
    check_counts,
    check_finite,
    check_pairs_of_counts,
    checked_frame,
    checked_frames,
    checked_futures,
    checked_noise,
)
from svg_runtime.forecast.context import ContextPosterior, ContextReader, Surprise, SurpriseUnit
from svg_runtime.forecast.engine_owner import EngineOwner, name_errors
from svg_runtime.forecast.model import ContextMode, LoadedModel
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.opening import Opened, OpenOptions, open_model
from svg_runtime.forecast.rollout import Rollout
from svg_runtime.forecast.scores import EarlierForecast, ForecastMemory, ForecastScore
from svg_runtime.forecast.separate_rollout import SeparateRollout
from svg_runtime.forecast_options import Calibrate

MAX_CACHED_ROLLOUTS = 4  # of each kind, a set of device buffers per samples and horizon; the oldest is freed first


@dataclass(frozen=True)
class Observation:
    """How far one frame was from the model's expectations.

    Attributes:
        index: 0 for the first frame since open or reset.
        surprise: KL(posterior || prior) in nats. Of a model that predicts frames from frames: root mean squared error of its
            prediction, relative to the usual one, that of the last 600 frames, which is at least 0.01. None for the first
            frames, and for other models without latents.
        scores: of earlier forecasts of this frame, shortest lead first.
        expected: the latest of these forecasts; None if none was made.
        raw_surprise: the same in nats, or else the squared error itself, which does not depend on errors before it.
    """

    index: int
    surprise: float | None
    scores: tuple[ForecastScore, ...]
    expected: EarlierForecast | None = field(default=None, compare=False)  # arrays cannot be compared
    raw_surprise: float | None = None

    @classmethod
    def of(
        cls, index: int, surprise: Surprise | None, scores: tuple[ForecastScore, ...], expected: EarlierForecast | None
    ) -> Observation:
        """Put together what was found.

        Raises:
            ForecastError: the surprise is not finite.
        """
        if surprise is None:
            return cls(index, None, scores, expected)
        check_finite(surprise.raw, "the surprise is not a finite number")
        return cls(index=index, surprise=surprise.value, scores=scores, expected=expected, raw_surprise=surprise.raw)


class Forecaster(EngineOwner):
    """Forecasts video with a bundle. Use it as a context manager; it is not thread-safe, and not usable after a fork.

    The generation rule of a stochastic model (Denton and Fergus 2018, `generate_svg_lp.py`): the context is read through the
    posterior, then every latent is drawn from the learned prior, or from N(0, I) if the prior is fixed. A deterministic model
    has only one future, which is repeated for the requested number of samples.

    Attributes:
        manifest: of the bundle.
        samples: futures per forecast, as opened.
        horizon: frames per future, as opened.
        context: how the frames before a forecast are read.
        fused: whether forecasts run the fused graphs.
        decision: why "auto" chose this backend, if it measured or had no other to take, else None.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        variant: PrecisionVariant,
        samples: int,
        horizon: int,
        seed: int,
        context: ContextMode | None,
        fused: bool | None = None,
        shuffled: bool | None = None,
        post_process: bool = False,
    ) -> None:
        check_counts(samples, horizon)
        super().__init__()
        self._model = LoadedModel.load(
            manifest=bundle.manifest, variant=variant, backend=backend, context=context, fused=fused, shuffled=shuffled
        )
        self.manifest: Manifest = self._model.manifest
        self.samples = samples
        self.horizon = horizon
        self.context: ContextMode = self._model.context
        self.fused = self._model.fused
        self._backend = backend
        self._noise = NoiseSource(seed)
        self._observer = Observer(backend, self.manifest, self._model.variant)
        self._reader = self._model.open_context()
        self._separate_rollouts: dict[tuple[int, int], Rollout] = {}  # by samples and horizon
        self._fused_rollouts: dict[tuple[int, int], Rollout] = {}
        # In stream mode, the rollout whose predictor reads the frames. Forecasts branch off and leave it unchanged.
        streams = self.context == "stream" and self._reader.predictor is None
        self._stream = self._separate_rollout(self._model.futures_of(samples), 0) if streams else None
        self._memory = ForecastMemory(post_process)
        self._context_posterior: ContextPosterior | None = None
        self._is_lost = False
        self._last_frame: FloatArray | None = None
        self.decision: Decision | None = None
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
        context: ContextMode | None = None,
        fused: bool | None = None,
        threads: int | None = None,
        gpu: GpuOptions | None = None,
        progress: ProgressListener | None = None,
        calibrate: Calibrate | None = None,
        shuffled: bool | None = None,
        post_process: bool = False,
    ) -> Forecaster:
        """Open a bundle on a backend.

        Args:
            path: the *.svgb folder; an address such as hf://user/name@revision, which is fetched, see `fetch_model`; or
                "camera" or "digits", the models of the package, unless a folder has that name.
            backend: "auto" or a backend's name; a named one is used or refused, never replaced. "auto" measures once per bundle
                and machine which one is fastest, for seconds, and keeps the decision in the cache.
            device: device of the backend; None lets the backend choose. With "auto", another than cpu chooses the backend that
                has it, and nothing is measured.
            precision: "fp32", "fp16" or "bf16"; None lets the backend choose.
            samples: futures per forecast.
            horizon: frames per future.
            seed: of the noise.
            context: "window" re-reads the last n_past frames before each forecast, as in training; "stream" carries the state
                along from the first frame. None: as the manifest says, which is "stream" for models that predict frames from
                frames, else "window".
            fused: True runs the fused graphs, False the separate ones; None uses the backend's default. Both give the same
                frames.
            threads: CPU threads; None means one per usable core, or what "auto" measured. Use fewer if several forecasters run
                at the same time.
            gpu: options for backends on NVIDIA GPUs.
            progress: listener for what "auto" measures, and for the building of engines, which can take minutes at first.
            calibrate: what "auto" measures: "ready", the default, what opens in seconds, with engines that are ready; "again"
                even if a decision is kept; "full" the same, also engines that are built for minutes; "no" takes a rule of
                thumb. None: $SVG_EDGE_CALIBRATE.
            shuffled: True runs the graph `decoder_shuffled` as the decoder of the separate graphs, False the plain one; None
                uses the backend's default. Both give the same frames.
            post_process: True corrects forecasts by what came after earlier ones since `reset`; False gives them as the model
                makes them.

        Raises:
            BundleError: the bundle is missing, damaged or hostile.
            BackendMissingError, MissingExtraError: backend, library, device, precision or graphs are not available.
            BackendError: the device is out of memory.
            UsageError: an invalid value.
        """
        NoiseSource(seed)  # refuses what is not a seed, before anything is measured or built
        check_counts(samples, horizon)
        check_flag("post_process", post_process)
        options = OpenOptions(
            backend=backend, device=device, precision=precision, samples=samples, horizon=horizon, context=context,
            fused=fused, shuffled=shuffled, threads=threads, gpu=gpu, progress=progress, calibrate=calibrate,
        )  # fmt: skip
        return open_model(
            path,
            options,
            make=lambda opened: cls.on(
                opened, samples=samples, horizon=horizon, seed=seed, context=context, post_process=post_process
            ),
            make_timed=lambda opened: cls.on(opened, samples=samples, horizon=horizon),
        )

    @classmethod
    def on(
        cls,
        opened: Opened,
        samples: int,
        horizon: int,
        seed: int = 0,
        context: ContextMode | None = None,
        post_process: bool = False,
    ) -> Forecaster:
        """Return a forecaster for a bundle that was opened on a backend, which it closes."""
        forecaster = cls(
            bundle=opened.bundle,
            backend=opened.backend,
            variant=opened.bundle.variant(opened.backend.precision),
            samples=samples,
            horizon=horizon,
            seed=seed,
            context=context,
            fused=opened.fused,
            shuffled=opened.shuffled,
            post_process=post_process,
        )
        forecaster.decision = opened.decision
        return forecaster

    def __enter__(self) -> Forecaster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the device. The forecaster cannot be used afterwards; closing again does nothing.

        In a process that was forked since, nothing is freed: that would wait for threads that do not exist there.
        """
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid():
            return
        try:
            self._backend.close()  # first, because it waits until nothing runs
        finally:
            # They hold the device's buffers and bound graphs.
            del self._observer, self._reader, self._stream, self._separate_rollouts, self._fused_rollouts

    @property
    def backend(self) -> str:
        """Name of the backend; with "auto", of the chosen one."""
        return self._backend.name

    @property
    def description(self) -> str:
        """Human-readable: backend, library version and the precision that is really computed in.

        Also why "auto" chose it, and whether the quality of the precision was never measured against the truth.
        """
        chosen = None if self.decision is None else self.decision.summary
        note = self.manifest.quality_note(self._backend.precision)
        return "; ".join(filter(None, [self._backend.description, chosen, note]))

    @property
    def computed_in(self) -> ComputedIn:
        """Graph -> precision (f32, bf16, f16) -> how many of its layers with weights are computed in it.

        For the graphs used so far, as reported by the engine; graphs without a report are missing.
        """
        return self._backend.computed_in

    @property
    @name_errors
    def surprise_unit(self) -> SurpriseUnit | None:
        """What surprise is measured in, see `Observation`; None for a model that has none."""
        self._check_open()
        return self._reader.surprise_unit

    @property
    @name_errors
    def ready(self) -> bool:
        """Whether n_past frames have been observed."""
        self._check_open()
        return self._observer.count >= self.manifest.generation.n_past

    @name_errors
    def reset(self) -> None:
        """Discard all frames, states and forecasts, and restart the noise from the seed."""
        self._check_open()
        self._observer.reset()
        self._reader.reset()
        self._noise.reset()
        self._memory.clear()
        self._context_posterior = None
        self._last_frame = None
        if self._stream is not None:
            self._stream.predictor.reset()
        self._is_lost = False

    @name_errors
    def warm_up(self, counts: Sequence[tuple[int, int]] = ()) -> None:
        """Run everything on black frames, then `reset`, so that the first forecast is not slow.

        In their first runs, engines compile, allocate and capture CUDA graphs.

        Args:
            counts: further (samples, horizon) to be ready for; only the last `MAX_CACHED_ROLLOUTS` stay ready.

        Raises:
            BackendError: an engine failed.
            UsageError: wrong counts, or the forecaster is closed, or was opened before a fork of this process.
        """
        check_pairs_of_counts(counts)
        self.reset()
        frame = self.manifest.frame
        black = np.zeros((frame.height, frame.width, frame.channels), np.float32)
        try:
            # Two forecasts, as states alternate between two sets of buffers.
            for _ in range(self.manifest.generation.n_past + 1):
                with suppress(ForecastError):  # what comes out for black frames does not matter
                    self.observe(black)
                if self.ready:
                    with suppress(ForecastError):
                        self.forecast()
            for samples, horizon in counts:
                for _ in range(2):
                    with suppress(ForecastError):
                        self.forecast(samples, horizon)
        finally:
            self.reset()

    @name_errors
    def observe(self, frame: ArrayLike) -> Observation:
        """Read the next frame.

        Args:
            frame: (H, W, C) float32 in [0, 1] at the model's size; RGB, or gray with C = 1. Values up to 0.001 outside, as
                resizing produces them, are clipped.

        Raises:
            FrameError: wrong shape, type or range, or values that are not finite. The frame is then ignored.
            BackendError: the engine failed, or memory ran out. The frame has not been read, and can be given again; but the
                stream context of SVG is lost, and needs a `reset`.
            ForecastError: the surprise is not finite. The frame has been read; `reset` starts anew.
            UsageError: the forecaster is closed, or was opened before a fork of this process.
        """
        self._check_usable()
        checked = checked_frame(frame, self.manifest.frame)
        index = self._observer.count
        # 1) score earlier forecasts of this frame
        scores = self._memory.score(index, checked)
        expected = self._memory.latest(index)
        # 2) encode it, once, and compare its latents (posterior) with the expected ones (prior)
        encodings = self._observer.encode_next(checked)
        posterior = self._read_context(encodings) if index > 0 else None
        # 3) it counts only now that all engines have run
        self._observer.keep(encodings)
        self._memory.observe(index, checked)
        self._last_frame = checked
        self._context_posterior = posterior
        return Observation.of(index, None if posterior is None else posterior.surprises[0], scores, expected)

    @name_errors
    def forecast(
        self,
        samples: int | None = None,
        horizon: int | None = None,
        noise: ArrayLike | None = None,
        context_noise: ArrayLike | None = None,
    ) -> FloatArray:
        """Sample futures that follow the last observed frame.

        Args:
            samples: number of futures; default: as opened. With SVG's stream context it cannot change.
            horizon: frames per future; default: as opened.
            noise: (horizon, samples, z_dim) replaces the seeded draws of the prior.
            context_noise: (context_draws, samples, z_dim) replaces those of the posterior (window context only); context_draws
                is in the manifest, for SVG n_past - 1.

        Returns:
            (samples, horizon, H, W, C) float32 in [0, 1].

        Raises:
            ContextNotReadyError: fewer than n_past frames were observed.
            BackendError: the engine failed, or memory ran out.
            ForecastError: the frames are not finite. They are not scored later; `reset` starts anew.
            UsageError: wrong counts or noise, or the forecaster is closed. Nothing has changed then: the seeded draws of the
                next forecast are the same as without the refused one.
        """
        self._check_usable()
        samples = self.samples if samples is None else samples
        horizon = self.horizon if horizon is None else horizon
        check_counts(samples, horizon)
        self._check_ready()
        if self._stream is not None and (context_noise is not None or samples != self.samples):
            raise StreamContextError(
                f"the stream context has already been read with {self.samples} samples\n"
                f"  expected samples={self.samples} and no context_noise; or open the forecaster with context='window'",
                self.samples,
            )
        assert self._context_posterior is not None
        assert self._last_frame is not None
        # 1) check the caller's noise before anything changes
        encodings = self._observer.encodings
        z_dim = self.manifest.model.z_dim
        past_shape, shape = (self.manifest.context_draws, samples, z_dim), (horizon, samples, z_dim)
        eps_past = checked_noise("context_noise", context_noise, past_shape)
        eps = checked_noise("noise", noise, shape)
        rollout = self._rollout(self._model.futures_of(samples), horizon)
        # 2) step the states through the context frames, unless a graph has read them already
        branch = self._reader.predictor if self._stream is None else self._stream.predictor
        if branch is None:
            eps_past = self._noise.draw(*past_shape) if eps_past is None else eps_past
            rollout.read_context(encodings, self._context_posterior, eps_past)
        # 3) step from the last frame into the futures
        eps = self._noise.draw(*shape) if eps is None else eps
        futures = checked_futures(rollout.forecast(encodings[-1], self._context_posterior, eps, branch))
        if len(futures) < samples:  # a deterministic model has one
            futures = np.repeat(futures, samples, axis=0)
        # 4) remember them, to be scored when their frames arrive
        return self._memory.remember(self._observer.count - 1, self._last_frame, futures)

    @name_errors
    def reconstruct(
        self, truth: ArrayLike, noise: ArrayLike | None = None, context_noise: ArrayLike | None = None
    ) -> FloatArray:
        """Forecast with every latent from the posterior of the true next frame, as if the model had guessed it right.

        This is the reference's "approximate posterior". It runs in closed loop: only the posterior sees the true frames. The
        observed context does not change, and no seeded draw is consumed.

        Args:
            truth: (horizon, H, W, C) float32 in [0, 1], the frames that follow the last observed one.
            noise: (horizon, 1, z_dim) draws of the posterior; default: zeros, its means.
            context_noise: (n_past - 1, 1, z_dim) draws while the context is read; default: zeros.

        Returns:
            (horizon, H, W, C) float32 in [0, 1].

        Raises:
            ContextNotReadyError: fewer than n_past frames were observed.
            FrameError: a true frame has the wrong shape, type or range.
            ForecastError: the frames are not finite.
            UsageError: wrong noise, no true frames, the stream context, a bundle without a graph for the posterior, or the
                forecaster is closed.
        """
        self._check_open()
        self._check_ready()
        if self._stream is not None:
            raise StreamContextError(
                "reconstruct() is not available with the stream context\n  open the forecaster with context='window'"
            )
        if not isinstance(self._reader, ContextReader):
            raise UsageError(
                f"reconstruct() needs a graph for the posterior, which bundles of '{self.manifest.model.family}' do not have\n"
                "  evaluate the checkpoint instead: svg-eval ckpt.pt"
            )
        frames = checked_frames(truth, self.manifest.frame)
        if not frames:
            raise UsageError("truth contains no frames\n  expected at least one")
        encodings = self._observer.encodings
        past, z_dim = len(encodings) - 1, self.manifest.model.z_dim
        eps = _noise_or_zeros("noise", noise, (len(frames), 1, z_dim))
        eps_past = _noise_or_zeros("context_noise", context_noise, (past, 1, z_dim))
        # 1) the posterior over context and true frames
        self._reader.reset()
        posterior = self._reader.read([*encodings, *(self._observer.encode(frame) for frame in frames)])
        # 2) a forecast whose latents are drawn from it
        rollout = self._separate_rollout(1, len(frames))
        rollout.read_context(encodings, posterior, eps_past)
        futures = rollout.reconstruct(encodings[-1], posterior.mu[past:], posterior.logvar[past:], eps)
        future: FloatArray = checked_futures(futures)[0]
        return future

    def _read_context(self, encodings: list[FloatArray]) -> ContextPosterior:
        """Read the last frame. If an engine fails, SVG's stream context is lost: keeping it would cost copies per frame."""
        self._is_lost = self._stream is not None
        posterior = self._reader.observe(encodings)
        if self._stream is not None:
            eps = self._noise.draw(self.samples, self.manifest.model.z_dim)
            self._stream.advance(encodings[-2], posterior.mu[0], posterior.logvar[0], eps)
        self._is_lost = False
        return posterior

    def _check_usable(self) -> None:
        self._check_open()
        if self._is_lost:
            raise BackendError("the stream context was lost when an engine failed\n  reset to start anew")

    def _rollout(self, samples: int, horizon: int) -> Rollout:
        if self.fused:
            return self._get_or_create(self._fused_rollouts, samples, horizon, fused=True)
        return self._separate_rollout(samples, horizon)

    def _separate_rollout(self, samples: int, horizon: int) -> SeparateRollout:
        rollout = self._get_or_create(self._separate_rollouts, samples, horizon, fused=False)
        assert isinstance(rollout, SeparateRollout)
        return rollout

    def _get_or_create(self, cache: dict[tuple[int, int], Rollout], samples: int, horizon: int, fused: bool) -> Rollout:
        """Return a rollout, created on first use; a few of each kind are cached.

        Raises:
            UsageError: its buffers do not fit into memory.
        """
        if (samples, horizon) not in cache:
            while len(cache) >= MAX_CACHED_ROLLOUTS:
                del cache[next(iter(cache))]
            cache[samples, horizon] = self._model.make_rollout(self._observer.condition, samples, horizon, fused)
        return cache[samples, horizon]

    def _check_ready(self) -> None:
        if not self.ready:
            raise ContextNotReadyError(
                f"{self._observer.count} of {self.manifest.generation.n_past} frames observed\n"
                f"  call observe() {self.manifest.generation.n_past - self._observer.count} more time(s) before forecast()"
            )


def _noise_or_zeros(name: str, noise: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray:
    checked = checked_noise(name, noise, shape)
    return np.zeros(shape, np.float32) if checked is None else checked
