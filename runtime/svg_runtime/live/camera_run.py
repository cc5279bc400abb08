"""What belongs to one camera of a run: its source, how its pictures are seen, its context, statistics, alarms, and view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import first_line
from svg_common.quantities import duration_text
from svg_common.video.sampling import MAX_HOLD_S
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.errors import ForecastError, SvgError
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.live.dropped import DroppedPictures
from svg_runtime.live.empty_pictures import EmptyPicture, PictureCheck
from svg_runtime.live.fit import is_after_gap
from svg_runtime.live.output_thread import OutputThread
from svg_runtime.live.outputs import Recorder
from svg_runtime.live.overlay import Caption, View
from svg_runtime.live.page.camera import PageCamera
from svg_runtime.live.page.controls import Change
from svg_runtime.live.preprocess import Preprocessor, crop
from svg_runtime.live.roi import RegionOutsideError, Roi
from svg_runtime.live.source_reader import SourceReader
from svg_runtime.live.sources import Picture, SourceFrame
from svg_runtime.live.stats import LiveStats
from svg_runtime.live.timing import wall_clock

_FAILURES_IN_A_ROW = 5  # without a success in between, forecasting is considered broken


class CameraRun:
    """One camera. `LiveLoop` takes its pictures and forecasts them, together with those of other cameras.

    Args:
        reader: gives its pictures.
        description: of its source, for messages.
        caption: what its picture says.
        stats: its statistics, events and alarms.
        manifest: of the model.
        reset_model: lets the model forget the pictures of this camera.
        tick_s: seconds per model interval.
        roi: the part of its pictures that the model looks at; None: all of it.

    Attributes:
        name: of several cameras; None: it is the only one.
        writer: what its views are given to; None: nothing.
        recorders: what `writer` records to.
        page: shows it in browsers.
        view: its newest state; a copy of it is what outputs get.
        running: whether there may be more pictures.
        ended_by: the error that ended it, if one did.
    """

    def __init__(
        self, reader: SourceReader, description: str, caption: Caption, stats: LiveStats, manifest: Manifest,
        reset_model: Callable[[], None], tick_s: float, roi: Roi | None = None,
    ) -> None:  # fmt: skip
        frame = manifest.frame
        self.reader = reader
        self.caption = caption
        self.stats = stats
        self.name = stats.name
        self.tick_s = tick_s
        self.writer: OutputThread | None = None
        self.recorders: Sequence[Recorder] = ()
        self.page: PageCamera | None = None
        self.view = View(picture=np.zeros((frame.height, frame.width), np.uint8), step_s=stats.interval_s)
        self.running = True
        self.ended_by: SvgError | None = None
        self._description = description
        self._reset_model = reset_model
        self._frame_hw = frame.height, frame.width
        self._n_past = manifest.generation.n_past
        self._preprocessor = Preprocessor(frame.height, frame.width, frame.channels, roi)
        self._picture_check = PictureCheck(caption.interval_s, stats.events)
        self._dropped = DroppedPictures(stats.events)
        self._empty: EmptyPicture | None = None  # what is wrong with the present picture
        self._clip: int | None = None
        self._tick = 0  # of the present picture
        self._steps = 1  # from the picture before it
        self._in_clip = 0  # pictures since it began
        self._longest_clip = 0
        self._observed = 0  # frames since the context last started
        self._failures = 0
        self._asked = False

    def ask(self, max_frames: int | None) -> None:
        """Ask for the next picture, unless one is asked for already, or this camera has shown `max_frames`."""
        if self._asked:
            return
        if max_frames is not None and self.stats.taken >= max_frames:
            self.end("--max-frames")
        else:
            self._asked = True
            self.reader.ask()

    def take(self) -> SourceFrame | None:
        """Take and count the picture that has arrived; None at the end of the source.

        Raises:
            BaseException: what ended the source, such as SourceLostError.
        """
        stats = self.stats
        self._asked = False
        picture = self.reader.take()
        stats.timer.add("capture", self.reader.fetch_s * 1e3)
        stats.captured = self.reader.captured
        stats.dropped = self.reader.dropped
        if picture is not None:
            if not stats.taken and stats.name is None:
                stats.begin(self.reader.opened_s)
            stats.taken += 1
            stats.held += picture.held
            stats.interval_s = self.view.step_s = picture.step_s or stats.interval_s
            self.view.position_s = picture.position_s(self.tick_s)
        return picture

    def end(self, reason: str, error: SvgError | None = None) -> None:
        """There are no more pictures. Its source is closed now: other cameras may run for days."""
        self.running = False
        self.reader.stop()
        self.stats.end(reason)
        self.ended_by = error
        if self.page is not None:
            self.page.end(f"ended: {reason}")

    def complete(self) -> None:
        """After the end: let its recordings and alarms be completed, without waiting for it. May be called again."""
        if self.writer is not None:
            self.writer.end()
        self.stats.alarms.end()

    def prepare(self, source_frame: SourceFrame) -> NDArray[np.float32] | None:
        """Fit a picture to the model; None if its region does not fit. At a cut in the video, the context is reset.

        Raises:
            RegionOutsideError: the region of interest does not fit the first picture.
        """
        cut = self._note_cut(source_frame)
        resized = self._note_size(source_frame.image)
        if cut or resized:
            same_camera = source_frame.pause_s > 0 or source_frame.reconnected
            self._picture_check.cut()
            if resized or not (same_camera or source_frame.again):  # one round of a looped file may be too short to judge it
                self.stats.fit.reset()
            self._reset_context(new_scene=resized or not same_camera)
        part = self._part(source_frame.image, changed=cut or resized)
        if part is None:
            self.view.frame = None
            self.stats.alarms.skip(source_frame)
            return None
        self._empty = self.stats.count_empty(self._picture_check.add(part, self._steps, source_frame.held))
        self.view.trouble = self._empty
        frame = self._preprocessor.fit(part)
        self.view.frame = frame
        return frame

    def observed(self, source_frame: SourceFrame, frame: NDArray[np.float32], observation: Observation) -> None:
        """Note what the model says of a frame: surprise, scores of earlier forecasts, signals."""
        self.stats.seen += 1
        self._observed = observation.index + 1
        self.stats.most_in_a_row = max(self.stats.most_in_a_row, self._observed)
        surprise = observation.surprise
        self._extend_trace(surprise)
        if surprise is not None:
            self.stats.surprise.add(surprise)
        self.stats.scores.add(observation.scores)
        is_clear = self.view.trouble is None  # a covered lens says nothing about the model
        if not is_clear or is_after_gap(self._steps, self.stats.interval_s / self.tick_s):
            self.stats.fit.cut()
        if is_clear:
            self.stats.fit.add(frame, observation.scores, self._steps)
        self.stats.alarms.add(
            source_frame=source_frame, frame=frame, observation=observation, empty=self._empty, steps=self._steps
        )
        self.view.signal[-1] = self.stats.alarms.value

    def report_dropped(self) -> None:
        """Report it if pictures are dropped all the time; not for --adaptive, which acts on it."""
        self._dropped.add(self.view.position_s, self.stats.taken, self.stats.dropped)

    def forecast_made(self) -> None:
        """Count a forecast."""
        self._failures = 0
        self.stats.forecast += 1

    def forecast_failed(self, error: Exception) -> None:
        """Count and report a failure, and reset the context.

        Raises:
            ForecastError: too many failed in a row.
        """
        self._failures += 1
        reason = first_line(error)
        self.stats.events.add("forecast_failed", f"no forecast for this frame: {reason}; the context is reset")
        if self._failures >= _FAILURES_IN_A_ROW:
            cause = reason if isinstance(error, ForecastError) else error  # its advice is for Python
            raise ForecastError(
                f"forecasting failed {self._failures} times in a row, last with: {cause}\n"
                "  try --backend cpu without --fp16 and --bf16; if that fails too, export the bundle again"
            ) from error
        self._reset_context()

    def show(self, source_frame: SourceFrame, futures: NDArray[np.float32] | None, start_s: float) -> View:
        """Give the new state to the outputs of this camera.

        Args:
            source_frame: the newest picture.
            futures: its forecast, if there is one.
            start_s: when the picture was captured, or arrived.

        Returns:
            A view that does not change any more.

        Raises:
            OutputError: an earlier picture could not be written.
        """
        self.stats.frame_done()
        view = self._update_view(source_frame, futures)
        if self.page is not None:
            self.page.publish(view)
        if self.writer is not None:
            self.writer.submit(view, source_frame.tick, start_s)
            self.stats.not_shown = max(self.stats.not_shown, self.writer.left_out)  # or more, which the wall counts
        return view

    def apply(self, change: Change) -> None:
        """Apply what a client of the page wants changed, but for what all cameras have in common."""
        if change.threshold is not None:
            self.stats.alarms.set_threshold(change.threshold)
        if change.changes_region:
            self._preprocessor.look_at(change.region)
        if change.changes_region or change.reset:
            self._picture_check.cut()
            self.stats.fit.reset()
            self._reset_context(new_scene=True)

    def finish(self, keep: bool) -> None:
        """Wait until everything is written; without `keep`, drop what waits to be. May be called twice.

        Raises:
            OutputError: a picture could not be written; with `keep` only.
        """
        if self.writer is not None:
            self.writer.finish(keep)

    def _reset_context(self, new_scene: bool = False) -> None:
        self._reset_model()
        self._observed = 0
        self._extend_trace(None)
        self.stats.fit.cut()
        self.stats.alarms.reset(new_scene)
        self.stats.resets += 1

    def _extend_trace(self, surprise: float | None) -> None:
        view = self.view
        view.trace_s.append(view.position_s)
        view.surprise.append(surprise)
        view.signal.append(None)

    def _note_cut(self, source_frame: SourceFrame) -> bool:
        """Whether earlier pictures cannot be context for this one, which is reported."""
        events, clip = self.stats.events, self._clip
        self._clip = source_frame.clip
        cut = clip is not None and clip != source_frame.clip
        self._steps = 1 if clip is None or cut else self._steps_since(source_frame)
        self._tick = source_frame.tick
        self._in_clip = 1 if cut else self._in_clip + 1
        if source_frame.again:
            self._warn_if_too_short()
        self._longest_clip = max(self._longest_clip, self._in_clip)
        if cut and source_frame.pause_s:
            events.add(
                "pause", f"{self._description}: no picture for {duration_text(source_frame.pause_s)}; the context is reset"
            )
            self.stats.pauses += 1
        elif source_frame.reconnected:
            events.add("reconnected", f"{self._description}: connected again; the context is reset")
        elif source_frame.again:
            events.add("loop", f"{self._description} begins anew; the context is reset")
        elif cut:
            events.add("new_clip", f"{self._description}: a new video begins; the context is reset")
        return cut

    def _steps_since(self, source_frame: SourceFrame) -> int:
        """Model steps since the picture before; at most a second of them, as long as a picture is held: the loop may stall."""
        if source_frame.source_s is not None:
            return 1  # a file lacks no picture: a gap in its ticks is a rate below the model's
        return min(source_frame.tick - self._tick, max(1, round(MAX_HOLD_S / self.tick_s)))

    def _warn_if_too_short(self) -> None:
        """A file that begins anew without a forecast will never have one."""
        if self._longest_clip < self._n_past:
            count = f"{self._longest_clip} picture{'' if self._longest_clip == 1 else 's'}"
            self.stats.events.once(
                "short_loop",
                f"{self._description} has {count} in a row, one every {self.stats.interval_s:.3g} s, and the model needs "
                f"{self._n_past} before its first forecast: there will be none\n  give a longer video, or more pictures",
            )

    def _note_size(self, picture: Picture) -> bool:
        """Whether the picture has another size than the one before it, which is reported."""
        if not self._preprocessor.size_changed(picture):
            return False
        height, width = picture.shape[:2]
        self.stats.events.add("size_changed", f"the frame size is now {width}x{height}; the context is reset")
        return True

    def _part(self, picture: Picture, changed: bool) -> Picture | None:
        """The part of the picture that the model looks at; None, which is reported, if its region does not fit."""
        view = self.view
        view.region = None
        try:
            region = self._preprocessor.region(picture)
        except RegionOutsideError as error:
            if self.stats.taken == 1:
                raise
            if changed:
                reason = first_line(error)
                self.stats.events.add("roi_outside", f"{reason}; there are no forecasts for pictures of this size")
            view.trouble = "roi_outside"
            return None
        if region is not None:
            view.region = region.as_seen(self._frame_hw)
        return crop(picture, region)

    def _update_view(self, source_frame: SourceFrame, futures: NDArray[np.float32] | None) -> View:
        """Copy the state of the run into the view and return a view that does not change any more."""
        view, stats = self.view, self.stats
        view.picture = source_frame.image
        view.futures = futures
        view.tick = source_frame.tick
        view.time = wall_clock(source_frame.captured_s)
        view.resets = stats.resets
        view.waiting = max(0, self._n_past - self._observed)
        view.latency_ms = stats.timer.last_ms("observe") + (stats.timer.last_ms("forecast") if futures is not None else 0.0)
        view.fps = stats.fps
        view.number = stats.taken - 1
        view.seen = stats.seen
        view.dropped = stats.dropped
        view.misfit = stats.fit.reasons
        view.threshold = stats.alarms.threshold
        view.alarm = stats.alarms.active
        psnr = stats.scores.psnr(self.caption.lead)
        if psnr is not None:
            best, _, repeat = psnr
            view.best_psnr = best
            view.repeat_psnr = repeat
        return replace(view, trace_s=view.trace_s.copy(), surprise=view.surprise.copy(), signal=view.signal.copy())
