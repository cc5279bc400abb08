"""The loop: takes the pictures that are due, observes and forecasts them in one batch, and hands out what comes of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError, UsageError, first_line
from svg_common.progress import ProgressDisplay
from svg_runtime.errors import CamerasError, SourceLostError
from svg_runtime.live.adaptive import AdaptiveCounts
from svg_runtime.live.camera_run import CameraRun
from svg_runtime.live.forecasts import CameraForecasts
from svg_runtime.live.overlay import View
from svg_runtime.live.page.controls import Change, NotYetError
from svg_runtime.live.sources import SourceFrame
from svg_runtime.live.stop import StopRequest

# How long a picture waits for those of other cameras, as a share of the interval between two. What is forecast together takes
# a fraction of the time that it takes one by one; and at ten pictures a second it is 10 ms, less than the age that the newest
# picture of a camera has anyway. Nobody waits for files that are read as fast as possible.
_GATHER_SHARE = 0.1
_GATHER_FILES_S = 0.25
_IDLE_S = 1.0

Frame = NDArray[np.float32]
Answer = TypeVar("Answer")


class Due(NamedTuple):
    """A picture of a round."""

    number: int  # of the camera
    camera: CameraRun
    picture: SourceFrame
    start_s: float  # when it was captured, or taken

    @property
    def position_s(self) -> float:
        """Seconds since the start of the source."""
        return self.picture.position_s(self.camera.tick_s)

    @property
    def interval_s(self) -> float | None:
        """Seconds until the next picture that the model is to see; None: the rate of the camera is not known yet."""
        is_known = self.picture.captured_s is None or self.picture.step_s is not None
        return self.camera.stats.interval_s if is_known else None


class Display(Protocol):
    """Shows all cameras in one picture."""

    def show(self, shown: Sequence[tuple[Due, View]]) -> None:
        """Take the new views of a round; none if nothing has happened for a while."""
        ...


class LiveLoop:
    """Passes pictures of all cameras through the model, round by round, in the main thread, as windows and GPUs require.

    A round has one picture of each camera that has a new one. One camera is a round of one.

    Args:
        cameras: by their numbers in `forecasts`.
        forecasts: the model.
        stop: ends the loop between two rounds.
        interval_s: shortest time between two pictures of a camera.
        adaptive: chooses samples and horizon; None: as opened.
        display: of several cameras; None: each has its own outputs.
    """

    def __init__(
        self, cameras: Sequence[CameraRun], forecasts: CameraForecasts, stop: StopRequest, interval_s: float,
        adaptive: AdaptiveCounts | None = None, display: Display | None = None,
    ) -> None:  # fmt: skip
        self._cameras = cameras
        self._forecasts = forecasts
        self._stop = stop
        self._gather_s = _GATHER_SHARE * interval_s
        self._adaptive = adaptive
        self._display = display
        self._counts: tuple[int, int] | tuple[()] = ()  # samples and horizon, once a client of the page has changed them
        self._busy_ms = 0.0  # of the rounds since `_forecast_once` was empty
        self._forecast_once: dict[int, Due] = {}  # pictures that were forecast in these rounds, one of a camera
        self.sizes: Counter[int] = Counter()  # how many pictures were observed together: how often

    def run(self, max_frames: int | None, display: ProgressDisplay | None) -> None:
        """Run until every camera has ended, is lost or was seen `max_frames` times, or a stop is requested.

        Raises:
            ForecastError: forecasting fails repeatedly.
            OutputError: the output cannot be written any more.
            RegionOutsideError: the region of interest does not fit the first picture.
            SvgError: what ended the only camera, but for a lost source.
        """
        for camera in self._cameras:
            camera.ask(max_frames)
        while not self._stop and any(camera.running for camera in self._cameras):
            self._next_round()
            self._apply_changes()
            for camera in self._cameras:
                if camera.running and not self._stop:
                    camera.ask(max_frames)
                if not camera.running:
                    camera.complete()
                    continue
                if self._adaptive is None:
                    camera.report_dropped()
                if not camera.reader.arrived:  # a picture that waits for a slow loop is not missing
                    camera.stats.alarms.pass_time()
            if display is not None:
                self._show_progress(display, max_frames)
        self._tell_adaptive()
        for camera in self._cameras:
            if camera.running:
                camera.end(self._stop.reason or "end of source")

    def _next_round(self) -> None:
        due = self._take_due()
        began_s = time.monotonic()
        if not due:  # nothing came for a while, or all that came were ends
            if self._display is not None:
                self._display.show([])
            return
        if any(one.number in self._forecast_once for one in due):
            self._tell_adaptive(due)
        futures = self._observe_and_forecast(due)
        self._show(due, futures)
        self._stop.poll()
        if futures:
            self._forecast_once |= {one.number: one for one in due if one.number in futures}
            self._busy_ms += (time.monotonic() - began_s) * 1e3

    def _apply_changes(self) -> None:
        """Between two rounds, what clients of the page want changed."""
        for camera in self._cameras:
            if camera.page is not None:
                camera.page.apply_changes(partial(self._apply, camera))

    def _apply(self, camera: CameraRun, change: Change) -> None:
        if change.samples or change.horizon:
            samples, horizon = self._counts or (self._forecasts.samples, self._forecasts.horizon)
            self._change_counts(change.samples or samples, change.horizon or horizon)
        camera.apply(change)

    def _change_counts(self, samples: int, horizon: int) -> None:
        """Forecast so once, so that what the model or the memory cannot do does not end the run.

        Raises:
            NotYetError: no camera has a forecast at present.
            UsageError: with the reason; nothing has changed.
        """
        ready = [number for number, camera in enumerate(self._cameras) if camera.running and self._forecasts.ready(number)]
        if not ready:
            raise NotYetError("the model has not seen enough frames yet")
        try:
            self._forecasts.forecast(ready, samples, horizon)
        except (SvgError, RuntimeError, MemoryError) as error:
            reason = first_line(error)
            raise UsageError(f"{samples} samples of {horizon} steps cannot be forecast: {reason}") from error
        self._counts = samples, horizon
        for camera in self._cameras:
            camera.stats.counts = samples, horizon
        self._note_counts(samples, horizon, by_client=True)

    def _note_counts(self, samples: int, horizon: int, by_client: bool) -> None:
        for camera in self._cameras:
            if camera.page is not None:
                camera.page.note_counts(samples, horizon, by_client)

    def _tell_adaptive(self, due: Sequence[Due] = ()) -> None:
        """The cameras share the time between two pictures of one: what all forecasts since its last picture took counts.

        Of those that were forecast, the one with the most pictures a second has the least time; `due` are the next pictures.
        """
        rounds = self._forecast_once
        if self._adaptive is not None and rounds:
            before = self._adaptive.counts
            known_s = [one.interval_s for one in rounds.values() if one.interval_s is not None]
            passed_s = [one.position_s - rounds[one.number].position_s for one in due if one.number in rounds]
            self._adaptive.add(
                busy_ms=self._busy_ms, interval_s=min(known_s) if len(known_s) == len(rounds) else None,
                passed_s=max(passed_s or known_s, default=0.0),
            )  # fmt: skip
            if self._adaptive.counts != before:
                self._note_counts(*self._adaptive.counts, by_client=False)
        self._busy_ms = 0.0
        rounds.clear()

    def _take_due(self) -> list[Due]:
        """Wait for pictures, and take them."""
        due = []
        for number, camera in self._wait_for_arrivals():
            try:
                picture = camera.take()
            except SvgError as error:
                self._end(camera, error)
                continue
            if picture is None:
                camera.end(self._stop.reason or "end of source")
                continue
            now = time.monotonic()
            if picture.captured_s is not None:
                camera.stats.timer.add("age", (now - picture.captured_s) * 1e3)
            due.append(Due(number, camera, picture, now if picture.captured_s is None else picture.captured_s))
        return due

    def _wait_for_arrivals(self) -> list[tuple[int, CameraRun]]:
        """Cameras with something to take, as soon as there is one and no other is about to have something."""
        idle_s = time.monotonic() + _IDLE_S
        first_s: float | None = None
        while not self._stop:
            running = [(number, camera) for number, camera in enumerate(self._cameras) if camera.running]
            arrived = [(number, camera) for number, camera in running if camera.reader.arrived]
            now = time.monotonic()
            if arrived:
                first_s = now if first_s is None else first_s
                patience_s = self._gather_s if any(camera.reader.is_paced for _, camera in arrived) else _GATHER_FILES_S
                until = first_s + patience_s
                waiting = [camera.reader for _, camera in running if not camera.reader.arrived]
                if now >= until or not any(reader.is_expected(until, patience_s) for reader in waiting):
                    return arrived
                self._stop.wait(until - now)
            elif now < idle_s:
                self._stop.wait(idle_s - now)
            else:
                return []
        return []

    def _observe_and_forecast(self, due: Sequence[Due]) -> dict[int, Frame]:
        """Observe the pictures and sample futures of those cameras that have seen enough."""
        with _timed(due, "preprocess"):
            frames = self._prepare(due)
        observed = [one for one in due if one.number in frames]
        if not observed:
            return {}
        self.sizes[len(observed)] += 1
        observations = self._answers(observed, "observe", lambda: self._forecasts.observe(frames))
        for one in observed:
            if one.number in observations:
                one.camera.observed(one.picture, frames[one.number], observations[one.number])
        ready = [one for one in observed if one.number in observations and self._forecasts.ready(one.number)]
        if not ready:
            return {}
        counts = self._counts if self._adaptive is None else self._adaptive.counts
        numbers = [one.number for one in ready]
        futures = self._answers(ready, "forecast", lambda: self._forecasts.forecast(numbers, *counts))
        for one in ready:
            if one.number in futures:
                one.camera.forecast_made()
        return futures

    def _answers(self, asked: Sequence[Due], stage: str, ask: Callable[[], dict[int, Answer]]) -> dict[int, Answer]:
        """What the model answers, by camera. Those for which it fails are reset, and missing."""
        try:
            with _timed(asked, stage):
                return ask()
        except CamerasError as error:
            self._fail([one for one in asked if one.number in error.failed], error.failed)
            return cast("dict[int, Answer]", error.results)
        except (SvgError, RuntimeError) as error:
            self._fail(asked, dict.fromkeys([one.number for one in asked], error))
            return {}

    def _prepare(self, due: Sequence[Due]) -> dict[int, Frame]:
        """The pictures as the model sees them, by camera."""
        frames = {}
        for one in due:
            try:
                frame = one.camera.prepare(one.picture)
            except SvgError as error:
                self._end(one.camera, error)
                continue
            if frame is not None:
                frames[one.number] = frame
        return frames

    def _fail(self, cameras: Sequence[Due], errors: Mapping[int, Exception]) -> None:
        for one in cameras:
            try:
                one.camera.forecast_failed(errors[one.number])
            except SvgError as reason:
                self._end(one.camera, reason)

    def _end(self, camera: CameraRun, error: SvgError) -> None:
        """End one of several cameras by an error; that of the only one is the run's."""
        lost = isinstance(error, SourceLostError)
        if len(self._cameras) == 1 and not lost:
            raise error
        camera.end("lost source" if lost else "error", error)
        if len(self._cameras) > 1:
            others = "; the others go on" if any(other.running for other in self._cameras) else ""
            camera.stats.events.add("ended", f"{error}\n  this camera has ended{others}")

    def _show(self, due: Sequence[Due], futures: Mapping[int, Frame]) -> None:
        shown = []
        for one in due:
            view = one.camera.show(one.picture, futures.get(one.number), one.start_s)
            shown.append((one, view))
            if one.camera.writer is None and self._display is None:
                one.camera.stats.timer.add("end_to_end", (time.monotonic() - one.start_s) * 1e3)
        if self._display is not None:
            self._display.show(shown)

    def _show_progress(self, display: ProgressDisplay, max_frames: int | None) -> None:
        taken = sum(camera.stats.taken for camera in self._cameras)
        fps = sum(camera.stats.fps for camera in self._cameras)
        if max_frames is None:
            display.progress("forecasting", None, f"frame {taken}, {fps:.1f} fps")
        else:
            most = max_frames * len(self._cameras)
            display.progress("forecasting", taken / most, f"frame {taken} of {most}, {fps:.1f} fps")


@contextmanager
def _timed(due: Sequence[Due], stage: str) -> Iterator[None]:
    """Time the block as one run of `stage` of each camera, which waits for the batch. A block that raises is not recorded."""
    start = time.perf_counter()
    yield
    ms = (time.perf_counter() - start) * 1e3
    for one in due:
        one.camera.stats.timer.add(stage, ms)
