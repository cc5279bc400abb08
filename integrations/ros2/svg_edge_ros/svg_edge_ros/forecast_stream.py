"""Forecasts of one stream of stamped pictures, without ROS: what the node does, so that any program can test or use it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import first_line
from svg_common.quantities import duration_text
from svg_edge_ros.image_messages import ImageError, check_picture
from svg_edge_ros.stamp_schedule import StampSchedule, Step
from svg_runtime import Forecaster
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.errors import ForecastError, SvgError
from svg_runtime.live.empty_pictures import EmptyPicture, PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor, is_after_gap
from svg_runtime.live.preprocess import Preprocessor, crop
from svg_runtime.live.roi import REGION_OUTSIDE, RegionOutsideError, Roi
from svg_runtime.live.sources.pacing import SLOWER_THAN_MODEL
from svg_runtime.live.timing import StageTimer, away_after_s

_DEFAULT_INTERVAL_S = 0.1  # of a model that does not say what it was trained at
_MOST_FAILURES = 5  # without a forecast in between, before the stream is considered broken
_MANY_CUTS = 2  # without a forecast since: one comes with any pause, more say that there may never be a forecast
_RATE_S = 10.0  # rates are counted over the last ten seconds

Picture = NDArray[np.uint8]


class Level(IntEnum):
    """How well it goes, with the numbers of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class StreamOptions:
    """How to forecast; the names are those of `Forecaster.open`."""

    model: str = "camera"
    backend: str = "auto"
    precision: Precision | None = None
    samples: int = 8
    horizon: int = 10
    seed: int = 0
    threads: int | None = None
    context: Literal["window", "stream"] | None = None
    post_process: bool = True
    interval_s: float | None = None  # None: as in training
    roi: Roi | None = None


@dataclass(frozen=True)
class Futures:
    """Sampled futures, and the pictures that show them.

    Attributes:
        frames: (samples, horizon, H, W, C) float32 in [0, 1].
    """

    frames: NDArray[np.float32]

    def mosaic(self) -> Picture:
        """All of them as one picture, (samples * H, horizon * W, C): a row per sample, a column per step."""
        samples, steps, height, width, channels = self.frames.shape
        return _to_uint8(self.frames.transpose(0, 2, 1, 3, 4).reshape(samples * height, steps * width, channels))

    def mean(self) -> Picture:
        """Mean of the samples at the last step, (H, W, C)."""
        return _to_uint8(self.frames[:, -1].mean(0))

    def spread(self) -> NDArray[np.float32]:
        """Standard deviation of the samples at the last step, (H, W), the mean over the channels; of brightness in [0, 1]."""
        return np.asarray(self.frames[:, -1].std(0).mean(-1), np.float32)


@dataclass(frozen=True)
class Answer:
    """What one observed picture gave.

    Attributes:
        surprise: of the picture; None where it is unknown.
        futures: what may follow it; None until enough pictures were seen.
    """

    surprise: float | None
    futures: Futures | None


@dataclass(frozen=True)
class StreamStatus:
    """How it goes: a level, a sentence, and named values."""

    level: Level
    message: str
    values: dict[str, str]


class ForecastStream:
    """Observes the pictures that are due by their stamps, and forecasts after each. Use it in the thread that made it.

    Args:
        options: how to forecast.
        announce: called with what a person should know, as `EventLog` does.
        now: the clock for rates, in seconds.

    Raises:
        SvgError: the bundle, the backend or an option is not available or invalid.
    """

    def __init__(
        self, options: StreamOptions, announce: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        model = find_model(options.model)
        deterministic = Bundle.open(model).manifest.model.z_dim == 0  # it has only one future
        self._forecaster = Forecaster.open(
            model,
            backend=options.backend,
            precision=options.precision,
            samples=1 if deterministic else options.samples,
            horizon=options.horizon,
            seed=options.seed,
            threads=options.threads,
            context=options.context,
            post_process=options.post_process,
        )
        self._forecaster.warm_up()
        manifest = self._forecaster.manifest
        self.interval_s = options.interval_s or manifest.generation.frame_interval_s or _DEFAULT_INTERVAL_S
        self.description = self._forecaster.description
        self.events = EventLog(announce)
        self._model = model.name
        self._roi = options.roi
        self._now = now
        self._schedule = StampSchedule(self.interval_s)
        self._preprocessor = Preprocessor(manifest.frame.height, manifest.frame.width, manifest.frame.channels, options.roi)
        self._check = PictureCheck(self.interval_s, self.events)
        self._fit = FitMonitor(manifest.training_data, self.interval_s, self.events)
        self._timer = StageTimer(("preprocess", "observe", "forecast"))
        self._came = _Rate()
        self._arrived_s: float | None = None  # the last image, also one that was left out
        self._left_out = 0
        self._unusable: ImageError | None = None  # why the last image was left out; None: it was not
        self._made = _Rate()
        self._steps = 1  # to the present picture from the one before it
        self._empty: EmptyPicture | Literal["roi_outside"] | None = None
        self._surprise: float | None = None
        self._observed = 0  # pictures in the context
        self._skipped = self._resets = self._failures = 0
        self._cuts_since_forecast = 0  # pauses, earlier time stamps and other picture sizes

    def close(self) -> None:
        """Free the device."""
        self._forecaster.close()

    def reset(self) -> None:
        """Discard the context and the schedule: the next picture is the first one, perhaps of another scene."""
        self._schedule.reset()
        self._check.cut()
        self._fit.reset()
        self._reset_context()

    def add(self, picture: Picture, stamp_s: float) -> Answer | None:
        """Ingest a picture, (H, W, 3) RGB or (H, W) gray; None if it is not due, or nothing could be made of it.

        What is no picture, or has no finite time stamp, is left out as if it had not come; the first of a kind is announced.

        Args:
            picture: uint8, of any size.
            stamp_s: when it was taken, in seconds on any clock.

        Raises:
            ForecastError: forecasting failed several times in a row.
        """
        try:
            check_picture(picture)
            step = self._schedule.take(stamp_s)
        except ImageError as error:
            self.leave_out(error)
            return None
        self._unusable = None
        self._arrived_s = self._now()
        self._came.count(self._arrived_s)
        if step is None:
            return None
        self._note_slow_source()
        self._skipped += step.skipped
        self._steps = step.skipped + 1
        with self._timer.stage("preprocess"):
            frame = self._model_frame(picture, step)
        if frame is None:
            return None
        try:
            return self._observe_and_forecast(frame)
        except (SvgError, RuntimeError) as error:
            self._count_failure(error)
            return None

    def leave_out(self, error: ImageError) -> None:
        """Count an image that cannot be used, as if it had not come; the first of a kind is announced."""
        self.events.once(error.kind, str(error))
        self._unusable = error
        self._arrived_s = self._now()
        self._left_out += 1

    def status(self) -> StreamStatus:
        """Return how it goes now, in the words of diagnostics."""
        level, message = self._verdict()
        return StreamStatus(level, message, self._values())

    def _note_slow_source(self) -> None:
        """Whether the camera or this machine is slow is not known here: ROS drops what comes while the model is busy."""
        camera_s = self._schedule.camera_interval_s
        if camera_s is None or camera_s <= self.interval_s * SLOWER_THAN_MODEL:
            return
        self.events.once(
            "slow_source",
            f"a picture comes every {camera_s:.3g} s, the model expects one every {self.interval_s:.3g} s: one forecast step "
            f"is {camera_s:.3g} s here, and the model sees larger motion per step than in training\n"
            "  set the camera to more pictures per second; if observing and forecasting take as long, by the diagnostics, "
            "lower samples or horizon",
        )

    def _model_frame(self, picture: Picture, step: Step) -> NDArray[np.float32] | None:
        size_changed = self._preprocessor.size_changed(picture)
        if step.new_scene or size_changed:
            self._check.cut()
        if size_changed:
            self._fit.reset()
        if (step.new_scene or size_changed) and self._observed:
            self.events.add("new_scene", "a pause, an earlier time stamp or another picture size: the context is reset")
            self._reset_context()
            self._cuts_since_forecast += 1
        try:
            part = crop(picture, self._preprocessor.region(picture))
        except RegionOutsideError as error:
            self._empty = "roi_outside"
            self.events.once("roi_outside", str(error))
            return None
        self._empty = self._check.add(part, self._steps)
        return self._preprocessor.fit(part)

    def _observe_and_forecast(self, frame: NDArray[np.float32]) -> Answer:
        with self._timer.stage("observe"):
            observation = self._forecaster.observe(frame)
        self._observed += 1
        self._surprise = observation.surprise
        is_clear = self._empty is None  # a covered lens says nothing about the model
        camera_s = self._schedule.camera_interval_s or self.interval_s
        if not is_clear or is_after_gap(self._steps, camera_s / self.interval_s):
            self._fit.cut()
        if is_clear:
            self._fit.add(frame, observation.scores, self._steps)
        if not self._forecaster.ready:
            return Answer(observation.surprise, futures=None)
        with self._timer.stage("forecast"):
            futures = self._forecaster.forecast()
        self._failures = self._cuts_since_forecast = 0
        self._made.count(self._now())
        return Answer(observation.surprise, Futures(futures))

    def _count_failure(self, error: Exception) -> None:
        self._failures += 1
        reason = first_line(error)
        self.events.add("forecast_failed", f"no forecast for this picture: {reason}; the context is reset")
        if self._failures >= _MOST_FAILURES:
            raise ForecastError(f"forecasting failed {self._failures} times in a row, last with: {reason}") from error
        self._reset_context()

    def _reset_context(self) -> None:
        self._forecaster.reset()
        self._fit.cut()
        self._surprise = None
        self._observed = 0
        self._resets += 1

    def _verdict(self) -> tuple[Level, str]:
        away_s = None if self._arrived_s is None else self._now() - self._arrived_s
        if away_s is None or away_s >= away_after_s(self.interval_s):
            return Level.STALE, "no picture yet" if away_s is None else f"no picture for {duration_text(away_s)}"
        if self._failures:
            return Level.ERROR, "forecasting fails"
        if self._unusable is not None:
            return Level.WARN, first_line(self._unusable)
        troubles = {
            "blank": "the picture is of one colour",
            "frozen": "the picture is frozen",
            "roi_outside": REGION_OUTSIDE,
        }
        if self._empty is not None:
            return Level.WARN, troubles[self._empty]
        if self._cuts_since_forecast >= _MANY_CUTS:
            return Level.WARN, "the context is reset again and again, by pauses, earlier time stamps or other picture sizes"
        if self._fit.reasons:
            return Level.WARN, f"the model does not fit: {'; '.join(self._fit.reasons)}"
        return Level.OK, "forecasting"

    def _values(self) -> dict[str, str]:
        now = self._now()
        numbers: dict[str, float | None] = {
            "pictures per second": self._came.per_second(now),
            "forecasts per second": self._made.per_second(now),
            "images left out": self._left_out,
            "intervals without a picture": self._skipped,
            "resets of the context": self._resets,
            f"surprise ({self._forecaster.surprise_unit or 'none'})": self._surprise,
            "gain over repeating the last frame, dB": self._fit.gain_db(),
        }
        for stage, summary in self._timer.summary().items():
            numbers |= {f"{stage} {name}, ms": summary[name] for name in ("p50", "p95")}
        texts = {"model": self._model, "backend": self.description, "interval, s": f"{self.interval_s:g}"}
        return texts | {name: "unknown" if value is None else f"{value:.4g}" for name, value in numbers.items()}


class _Rate:
    """How often something happened in the last seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        self._times.append(now)
        while now - self._times[0] > _RATE_S:
            self._times.popleft()

    def per_second(self, now: float) -> float:
        recent = [time_s for time_s in self._times if now - time_s <= _RATE_S]
        return len(recent) / max(now - recent[0], 1.0) if recent else 0.0


def _to_uint8(frame: NDArray[np.float32]) -> Picture:
    return (np.clip(frame, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
