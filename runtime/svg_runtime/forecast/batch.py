"""Forecasts the video of several cameras: those that are due together run as one batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from svg_common.arguments import check_count, check_flag
from svg_common.progress import ProgressListener
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import FrameSpec, Manifest, Precision
from svg_runtime.calibration.decisions import Decision
from svg_runtime.errors import CamerasError, ContextNotReadyError, ForecastError, FrameError, StreamContextError, UsageError
from svg_runtime.forecast.camera_group import Camera, CameraGroup
from svg_runtime.forecast.checks import (
    COUNT_LIMIT,
    check_counts,
    check_pairs_of_counts,
    checked_frame,
    checked_futures,
    checked_noise,
)
from svg_runtime.forecast.context import SurpriseUnit
from svg_runtime.forecast.engine_owner import EngineOwner, name_errors
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast.lanes import Lanes, Part, bound_sizes, divide
from svg_runtime.forecast.model import ContextMode, LoadedModel
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.forecast.opening import Opened, OpenOptions, open_model
from svg_runtime.forecast.scores import EarlierForecast, ForecastScore
from svg_runtime.forecast_options import Calibrate

_GivenT = TypeVar("_GivenT")
_ResultT = TypeVar("_ResultT", Observation, FloatArray)


@dataclass(frozen=True)
class _Seen:
    """A frame that is about to be read, and what earlier forecasts said about it."""

    frame: FloatArray
    scores: tuple[ForecastScore, ...]
    expected: EarlierForecast | None


class BatchForecaster(EngineOwner):
    """Forecasts for several cameras with one bundle on one backend. Use it as a context manager; it is not thread-safe.

    Camera i gives what a `Forecaster` with the seed `seed + i` gives for the same frames, whatever the other cameras do: they
    may be due at other times, be reset, or miss frames. Those that are given to one call run as one batch.

    On a CPU every core is a lane that runs graphs by itself, or several cores where there are more of them than cameras. The
    cameras of a call are divided among the lanes, or their samples where they are fewer. One core has its full speed with a
    batch of 8, so batches are not larger than 16 there, and cores that share a graph wait for each other after every layer. A
    GPU has one lane, with one batch of all.

    Graphs are bound for a lane's cameras together, for 1, and for the powers of two between, each when it is first needed or by
    `warm_up`. Another number runs as a few of these: 7 of 8 cameras as 4, 2 and 1. So no choice of cameras binds more than
    these few, whose buffers together are about twice those of all cameras.

    Attributes:
        manifest: of the bundle.
        cameras: how many.
        samples: futures per forecast and camera, as opened.
        horizon: frames per future, as opened.
        context: how the frames before a forecast are read.
        decision: why "auto" chose this backend, if it measured or had no other to take, else None.
    """

    def __init__(
        self,
        opened: Opened,
        cameras: int,
        samples: int,
        horizon: int,
        seed: int,
        context: ContextMode | None,
        scored: bool,
        post_process: Sequence[bool],
    ) -> None:
        super().__init__()
        self._model = LoadedModel.load(
            manifest=opened.bundle.manifest,
            variant=opened.bundle.variant(opened.backend.precision),
            backend=opened.backend,
            context=context,
            fused=opened.fused,
            shuffled=opened.shuffled,
        )
        self.manifest: Manifest = self._model.manifest
        self.cameras = cameras
        self.samples = samples
        self.horizon = horizon
        self.context: ContextMode = self._model.context
        self.decision: Decision | None = opened.decision
        self._scored = scored
        self._cameras = [Camera.new(self._model, seed + camera, each) for camera, each in enumerate(post_process)]
        self._lanes = Lanes(opened.backend.lanes)
        self._sizes = bound_sizes(cameras, self._lanes.count, self._model.futures_of(samples))
        self._groups: dict[tuple[int, int], CameraGroup] = {}  # by lane and number of cameras
        self._first = self._group(0, self._sizes[0])

    @classmethod
    def open(
        cls,
        path: str | Path,
        cameras: int,
        backend: str = "auto",
        device: str | None = None,
        precision: Precision | None = None,
        samples: int = 8,
        horizon: int = 10,
        seed: int = 0,
        context: ContextMode | None = None,
        threads: int | None = None,
        gpu: GpuOptions | None = None,
        progress: ProgressListener | None = None,
        calibrate: Calibrate | None = None,
        scored: bool = True,
        post_process: bool | Sequence[bool] = False,
    ) -> BatchForecaster:
        """Open a bundle on a backend for a number of cameras.

        Args:
            path: the *.svgb folder, an address or a model of the package, see `Forecaster.open`.
            cameras: how many.
            backend: "auto", which measures with the batch of all cameras, or a backend's name; see `Forecaster.open`.
            device: device of the backend; None lets the backend choose. With "auto", another than cpu chooses the backend that
                has it, and nothing is measured.
            precision: "fp32", "fp16" or "bf16"; None lets the backend choose.
            samples: futures per forecast and camera.
            horizon: frames per future.
            seed: of the noise of camera 0; the next camera's is one higher.
            context: "window" or "stream"; None: as the manifest says.
            threads: CPU threads that work at the same time; None means one per usable core.
            gpu: options for backends on NVIDIA GPUs.
            progress: listener for what "auto" measures, and for the building of engines.
            calibrate: what "auto" measures, see `Forecaster.open`.
            scored: whether forecasts are kept until their frames arrive, for `Observation.scores` and `Observation.expected`.
                Without, these are empty, and a camera takes less memory: by `samples` x `horizon`^2 frames.
            post_process: corrects the forecasts of each camera by what came after its earlier ones, see `Forecaster.open`; of
                all, or one value for each. It takes `scored`.

        Raises:
            BundleError: the bundle is missing, damaged or hostile.
            BackendMissingError, MissingExtraError: backend, library, device, precision or graphs are not available.
            BackendError: the device is out of memory.
            UsageError: an invalid value.
        """
        NoiseSource(seed)  # refuses what is not a seed
        check_count("cameras", cameras)
        check_counts(samples, horizon)
        if cameras * samples > COUNT_LIMIT:
            raise UsageError(f"{cameras} cameras with {samples} samples\n  expected at most {COUNT_LIMIT} samples together")
        check_flag("scored", scored)
        if isinstance(post_process, str):  # to Python, a sequence of letters
            check_flag("post_process", post_process)
        corrects = list(post_process) if isinstance(post_process, Sequence) else [post_process] * int(cameras)
        for each in corrects:
            check_flag("post_process", each)
        if len(corrects) != cameras:
            raise UsageError(f"post_process has {len(corrects)} values\n  expected one for each of {cameras} cameras")
        if any(corrects) and not scored:
            raise UsageError("post_process=True learns from scored forecasts\n  expected scored=True with it")
        rows, count = int(cameras * samples), int(cameras)
        options = OpenOptions(
            backend=backend, device=device, precision=precision, samples=rows, horizon=horizon, context=context,
            fused=None, shuffled=None, threads=threads, gpu=gpu, progress=progress, calibrate=calibrate, cameras=count,
            lanes=count,
        )  # fmt: skip
        return open_model(
            path,
            options,
            make=lambda opened: cls(
                opened=opened,
                cameras=count,
                samples=samples,
                horizon=horizon,
                seed=seed,
                context=context,
                scored=scored,
                post_process=corrects,
            ),
            make_timed=lambda opened: Forecaster.on(opened, samples=rows, horizon=horizon),
        )

    def __enter__(self) -> BatchForecaster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the device. Nothing can be used afterwards; closing again, or in a forked process, does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid():
            return
        self._lanes.close()
        try:
            self._model.backend.close()  # first, because it waits until nothing runs
        finally:
            del self._groups, self._first, self._cameras  # they hold the device's buffers and bound graphs

    @property
    def backend(self) -> str:
        """Name of the backend; with "auto", of the chosen one."""
        return self._model.backend.name

    @property
    def description(self) -> str:
        """Human-readable: as that of a `Forecaster`, with the number of cameras."""
        chosen = None if self.decision is None else self.decision.summary
        note = self.manifest.quality_note(self._model.backend.precision)
        where = f"in {self._lanes.count} lanes" if self._lanes.count > 1 else "in one batch"
        together = f"{self.cameras} cameras {where}" if self.cameras > 1 else None
        return "; ".join(filter(None, [self._model.backend.description, together, chosen, note]))

    @property
    @name_errors
    def surprise_unit(self) -> SurpriseUnit | None:
        """What surprise is measured in, see `Observation`; None for a model that has none."""
        self._check_open()
        return self._first.context.surprise_unit

    @name_errors
    def ready(self, camera: int) -> bool:
        """Whether n_past frames of a camera have been observed.

        Raises:
            UsageError: no such camera.
        """
        return self._camera(camera).count >= self.manifest.generation.n_past

    @name_errors
    def reset(self, camera: int | None = None, seed: int | None = None) -> None:
        """Discard frames, states and forecasts of one camera, or of all, and restart its noise from its seed.

        Args:
            camera: which; None means all.
            seed: of the camera's noise from now on; None keeps the one that it has.

        Raises:
            UsageError: no such camera, no seed, or a seed for all cameras, whose noise would then be the same.
        """
        self._check_open()
        if camera is None and seed is not None:
            raise UsageError(
                "a seed is given for all cameras together\n  expected one camera with it, such as reset(2, seed=7)"
            )
        if camera is not None and seed is not None:
            self._camera(camera).noise = NoiseSource(seed)
        for each in self._cameras if camera is None else [self._camera(camera)]:
            each.reset()

    @name_errors
    def warm_up(self, counts: Sequence[tuple[int, int]] = ()) -> None:
        """Run everything on black frames for every number of cameras that is bound, then `reset` all cameras.

        In their first runs, engines compile, allocate and capture CUDA graphs.

        Args:
            counts: further (samples, horizon) to be ready for; only the last `MAX_CACHED_ROLLOUTS` stay ready.

        Raises:
            BackendError: an engine failed.
            UsageError: wrong counts, or it is closed, or was opened before a fork of this process.
        """
        check_pairs_of_counts(counts)
        frame = self.manifest.frame
        black = np.zeros((frame.height, frame.width, frame.channels), np.float32)
        try:
            lanes = self._lanes.count
            together = {self.cameras, *(size * lanes for size in self._sizes), *range(1, lanes)}
            for count in sorted(count for count in together if count <= self.cameras):
                self.reset()
                due = range(count)
                # Two forecasts, as states alternate between two sets of buffers.
                for _ in range(self.manifest.generation.n_past + 1):
                    with suppress(ForecastError):  # what comes out for black frames does not matter
                        self.observe(dict.fromkeys(due, black))
                    if self.ready(0):
                        with suppress(ForecastError):
                            self.forecast(due)
                for samples, horizon in counts:
                    for _ in range(2):
                        with suppress(ForecastError):
                            self.forecast(due, samples, horizon)
        finally:
            self.reset()

    @name_errors
    def observe(self, frames: Mapping[int, ArrayLike]) -> dict[int, Observation]:
        """Read the next frame of each camera that has one.

        Args:
            frames: camera -> (H, W, C) float32 in [0, 1], see `Forecaster.observe`.

        Returns:
            camera -> what its frame says about the model's expectations.

        Raises:
            FrameError: a frame has the wrong shape, type or range. No camera's frame has then been read.
            BackendError: the engine failed, or memory ran out. `reset` the cameras.
            CamerasError: the surprise of some cameras is not finite; it has the others' observations. All frames have been
                read; `reset` those cameras.
            UsageError: no such camera, or it is closed, or was opened before a fork of this process.
        """
        self._check_open()
        if not isinstance(frames, Mapping):
            raise UsageError(f"frames is of type {type(frames).__name__}\n  expected a dictionary of frames by camera")
        given = {self._index(index): frame for index, frame in frames.items()}
        checked = {index: _checked_frame_of(index, frame, self.manifest.frame) for index, frame in given.items()}
        seen: dict[int, _Seen] = {}

        def read(part: Part) -> None:
            seen.update((index, self._look_at(index, checked[index])) for index in part.camera_numbers)
            cameras, frames = self._of(part), [checked[index] for index in part.camera_numbers]
            self._group(part.lane, len(cameras)).observe(cameras, frames, self.samples)
            for camera, frame in zip(cameras, frames, strict=True):
                camera.memory.observe(camera.count - 1, frame)

        for due in self._alike(checked):
            self._run(read, self._divide(due, self.samples, by_samples=False))
        return self._finish_all({index: seen[index] for index in checked}, self._observation)

    @name_errors
    def forecast(
        self,
        cameras: Iterable[int],
        samples: int | None = None,
        horizon: int | None = None,
        noise: Mapping[int, ArrayLike] | None = None,
        context_noise: Mapping[int, ArrayLike] | None = None,
    ) -> dict[int, FloatArray]:
        """Sample futures that follow the last observed frame of each camera.

        Args:
            cameras: which.
            samples: number of futures of each; default: as opened. With SVG's stream context it cannot change.
            horizon: frames per future; default: as opened.
            noise: camera -> what replaces its seeded draws of the prior, see `Forecaster.forecast`; cameras that are not in it
                draw theirs.
            context_noise: the same for the draws of the posterior.

        Returns:
            camera -> (samples, horizon, H, W, C) float32 in [0, 1].

        Raises:
            ContextNotReadyError: fewer than n_past frames of a camera were observed.
            BackendError: the engine failed, or memory ran out.
            CamerasError: the frames of some cameras are not finite; it has the others' futures. They are not scored later;
                `reset` those cameras.
            UsageError: no such camera, wrong counts or noise, or it is closed. Nothing has changed then.
        """
        self._check_open()
        if not isinstance(cameras, Iterable):
            raise UsageError(f"cameras is {cameras!r}\n  expected a list of cameras, such as [0, 1]")
        due = [self._index(index) for index in cameras]
        if len(set(due)) < len(due):
            raise UsageError(f"the cameras are {due}\n  expected each at most once")
        samples = self.samples if samples is None else samples
        horizon = self.horizon if horizon is None else horizon
        check_counts(samples, horizon)
        for index in due:
            self._check_ready(index)
        self._check_stream(samples, context_noise)
        # 1) check the caller's noise, and bind what is not bound, before anything changes
        z_dim = self.manifest.model.z_dim
        past_shape, shape = (self.manifest.context_draws, samples, z_dim), (horizon, samples, z_dim)
        given_past = self._checked_noise("context_noise", context_noise, due, past_shape)
        given = self._checked_noise("noise", noise, due, shape)
        futures_of = self._model.futures_of(samples)
        parts = self._divide(due, futures_of, by_samples=not self._first.streams_samples)
        for part in parts:
            self._group(part.lane, len(part.camera_numbers)).rollout(part.samples.stop - part.samples.start, horizon)
        # 2) draw the rest, for each camera in the order of a Forecaster
        eps_past: dict[int, FloatArray] = {}
        eps: dict[int, FloatArray] = {}
        for index in due:
            draw = self._cameras[index].noise.draw
            if self._first.reads_context_each_time:
                eps_past[index] = given_past[index] if index in given_past else draw(*past_shape)
            eps[index] = given[index] if index in given else draw(*shape)
        # 3) forecast
        futures: dict[int, dict[int, FloatArray]] = {index: {} for index in due}  # by the first sample of a part

        def sample(part: Part) -> None:
            past = [eps_past[index][:, part.samples] for index in part.camera_numbers if index in eps_past]
            found = self._group(part.lane, len(part.camera_numbers)).forecast(
                cameras=self._of(part),
                horizon=horizon,
                noise=np.concatenate([eps[index][:, part.samples] for index in part.camera_numbers], axis=1),
                context_noise=np.concatenate(past, axis=1) if past else None,
            )
            for index, each in zip(part.camera_numbers, found, strict=True):
                futures[index][part.samples.start] = each

        self._run(sample, parts)
        return self._finish_all({index: _joined(parts, samples) for index, parts in futures.items()}, self._remembered)

    def _camera(self, index: int) -> Camera:
        self._check_open()
        return self._cameras[self._index(index)]

    def _index(self, index: int) -> int:
        """Return the number of a camera, if there is one."""
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < self.cameras:
            raise UsageError(f"there is no camera {index!r}\n  expected a whole number from 0 to {self.cameras - 1}")
        return int(index)

    def _group(self, lane: int, size: int) -> CameraGroup:
        """Return the graphs of a lane that are bound for a number of cameras, on first use bound now."""
        if (lane, size) not in self._groups:
            self._groups[lane, size] = CameraGroup(self._model.in_lane(lane), size, self.samples)
        return self._groups[lane, size]

    def _of(self, part: Part) -> list[Camera]:
        return [self._cameras[index] for index in part.camera_numbers]

    def _divide(self, camera_numbers: Sequence[int], samples: int, by_samples: bool) -> list[Part]:
        """Divide cameras among lanes and bound batches. What is not bound yet is bound here, in one thread."""
        parts = divide(
            camera_numbers=camera_numbers, lanes=self._lanes.count, samples=samples, sizes=self._sizes, by_samples=by_samples
        )
        for part in parts:
            self._group(part.lane, len(part.camera_numbers))
        return parts

    def _run(self, work: Callable[[Part], None], parts: Sequence[Part]) -> None:
        by_lane: dict[int, list[Callable[[], None]]] = {}
        for part in parts:
            by_lane.setdefault(part.lane, []).append(partial(work, part))
        self._lanes.run(by_lane)

    def _alike(self, camera_numbers: Iterable[int]) -> list[list[int]]:
        """Group cameras that have seen equally many frames, up to n_past: those of one run read windows of one length."""
        most = 1 if self.context == "stream" else self.manifest.generation.n_past - 1
        groups: dict[int, list[int]] = {}
        for index in camera_numbers:
            groups.setdefault(min(self._cameras[index].count, most), []).append(index)
        return list(groups.values())

    def _look_at(self, index: int, frame: FloatArray) -> _Seen:
        camera = self._cameras[index]
        return _Seen(frame, camera.memory.score(camera.count, frame), camera.memory.latest(camera.count))

    def _observation(self, index: int, seen: _Seen) -> Observation:
        camera = self._cameras[index]
        surprise = None if camera.posterior is None else camera.posterior.surprises[0]
        return Observation.of(camera.count - 1, surprise, seen.scores, seen.expected)

    def _remembered(self, index: int, futures: FloatArray) -> FloatArray:
        """Keep futures, to be scored when their frames arrive."""
        camera = self._cameras[index]
        checked_futures(futures)
        assert camera.last_frame is not None
        return camera.memory.remember(camera.count - 1, camera.last_frame, futures) if self._scored else futures

    def _finish_all(self, given: Mapping[int, _GivenT], finish: Callable[[int, _GivenT], _ResultT]) -> dict[int, _ResultT]:
        """Finish the results of all cameras, in lanes; only then refuse those that are not finite."""
        results: dict[int, _ResultT] = {}
        failed: dict[int, ForecastError] = {}

        def finish_one(index: int) -> None:
            try:
                results[index] = finish(index, given[index])
            except ForecastError as error:
                failed[index] = error

        work: dict[int, list[Callable[[], None]]] = {}
        for number, index in enumerate(given):
            work.setdefault(number % self._lanes.count, []).append(partial(finish_one, index))
        self._lanes.run(work)
        in_order = {index: results[index] for index in given if index in results}
        if failed:
            raise CamerasError({index: failed[index] for index in given if index in failed}, in_order)
        return in_order

    def _checked_noise(
        self, name: str, noise: Mapping[int, ArrayLike] | None, due: Sequence[int], shape: tuple[int, ...]
    ) -> dict[int, FloatArray]:
        """Return the noise that was given, by camera."""
        if noise is not None and not isinstance(noise, Mapping):
            raise UsageError(f"{name} is of type {type(noise).__name__}\n  expected a dictionary of arrays by camera")
        checked: dict[int, FloatArray] = {}
        for index, values in (noise or {}).items():
            if index not in due:
                raise UsageError(f"{name} is given for camera {index!r}\n  expected only cameras of this forecast: {due}")
            array = checked_noise(f"{name} of camera {index}", values, shape)
            if array is not None:
                checked[index] = array
        return checked

    def _check_stream(self, samples: int, context_noise: Mapping[int, ArrayLike] | None) -> None:
        if self._first.streams_samples and (context_noise is not None or samples != self.samples):
            raise StreamContextError(
                f"the stream context has already been read with {self.samples} samples\n"
                f"  expected samples={self.samples} and no context_noise; or open it with context='window'",
                self.samples,
            )

    def _check_ready(self, index: int) -> None:
        seen, n_past = self._cameras[index].count, self.manifest.generation.n_past
        if seen < n_past:
            raise ContextNotReadyError(
                f"camera {index}: {seen} of {n_past} frames observed\n"
                f"  call observe() with its frames {n_past - seen} more time(s) before forecast()"
            )


def _joined(parts: Mapping[int, FloatArray], samples: int) -> FloatArray:
    """Put the samples of a camera together, in their order; the only future of a deterministic model is repeated."""
    found = [parts[first] for first in sorted(parts)]
    futures = found[0] if len(found) == 1 else np.concatenate(found)
    return futures if len(futures) == samples else np.repeat(futures, samples, axis=0)


def _checked_frame_of(index: int, values: ArrayLike, spec: FrameSpec) -> FloatArray:
    """As `checked_frame`, but an error names the camera."""
    try:
        return checked_frame(values, spec)
    except FrameError as error:
        raise FrameError(f"camera {index}: {error}") from error
