"""The live loop: picture -> model frame -> observation -> futures -> composed picture -> window and file.

`run_live` opens everything, `LiveLoop.run` takes one picture after another, and `_finish` writes the statistics.

Three things run side by side: capture (a camera's thread, or one that reads ahead in a file), forecasts (the main thread,
because a GPU context belongs to the thread that made it), and composing and writing the picture (`OutputThread`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from svg_common.errors import OutputError, SvgError, UsageError
from svg_common.files import write_json
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, EMBEDDED_MODEL, KNOWS_DIGITS_ONLY, Bundle, find_model
from svg_runtime.errors import ForecastError, SourceLostError
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast_options import Calibrate
from svg_runtime.live.adaptive import AdaptiveCounts, Counts, levels
from svg_runtime.live.alarms.monitor import AlarmMonitor
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.empty_pictures import EmptyPicture, PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.live_summary import print_summary
from svg_runtime.live.output_thread import OutputThread
from svg_runtime.live.outputs import (
    Output,
    Recorder,
    RecordingOptions,
    check_output_name,
    open_outputs,
    open_recorders,
)
from svg_runtime.live.overlay import Caption, ForecastPicture, View, check_display
from svg_runtime.live.overlay.names import DEFAULT, DEFAULT_WH
from svg_runtime.live.page.camera import CameraAbout, PageCamera
from svg_runtime.live.page.controls import MOST_STEPS, Change, Fixed, Settings
from svg_runtime.live.page.options import ServeOptions
from svg_runtime.live.page.pictures import start_overlay
from svg_runtime.live.preprocess import Preprocessor, crop
from svg_runtime.live.roi import RegionOutsideError, Roi
from svg_runtime.live.sources import (
    Picture,
    Source,
    SourceFrame,
    SourceOptions,
    model_interval_s,
    open_source,
    source_files,
    step_interval_s,
)
from svg_runtime.live.stats import LiveStats
from svg_runtime.live.stop import StopRequest
from svg_runtime.live.timing import wall_clock

if TYPE_CHECKING:
    from svg_runtime.live.page.live_page import LivePage

_FAILURES_IN_A_ROW = 5  # without a success in between, forecasting is considered broken


@dataclass(frozen=True)
class LiveOptions:
    """The options of `svg-live`."""

    source: SourceOptions
    model: str | None = None
    backend: str = "auto"
    calibrate: Calibrate | None = None  # what "auto" measures
    device: str | None = None
    threads: int | None = None
    precision: Precision | None = None
    samples: int = 8
    horizon: int = 10
    lead: int | None = None  # forecast step whose mean and spread are shown large; None: the last
    seed: int = 0
    context: Literal["window", "stream"] | None = None  # None: as the bundle says
    window: bool = True
    output: Path | None = None
    overlays: tuple[str, ...] = DEFAULT
    display_wh: tuple[int, int] = DEFAULT_WH
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    json: Path | None = None
    max_frames: int | None = None
    roi: Roi | None = None  # the part of the picture that the model looks at
    adaptive: bool = False  # fewer samples, then a shorter horizon, where the rate cannot be held
    gpu: GpuOptions = field(default_factory=GpuOptions)
    alarms: AlarmOptions = field(default_factory=AlarmOptions)
    serve: ServeOptions | None = None  # the page


def run_live(options: LiveOptions, console: Console) -> LiveStats:
    """Run from the first picture to the last, then close the files and print the summary.

    Raises:
        SvgError: something is missing or invalid, before anything starts; or the source was lost, after closing everything.
        KeyboardInterrupt: Ctrl-C, after closing everything; also SIGTERM before the first picture.
    """
    lead = options.horizon if options.lead is None else options.lead
    if not 1 <= lead <= options.horizon:
        raise UsageError(f"--lead {lead} is not a forecast step\n  expected 1 to {options.horizon}, the horizon")
    events = EventLog(announce=lambda message: console.print(f"svg-live: {message}", markup=False))
    with StopRequest() as stop, ExitStack() as resources:
        model = find_model(options.model, real_video=not options.source.is_synthetic)
        _check_outputs(options, model)
        page = None
        if options.serve is not None:
            from svg_runtime.live.page.live_page import LivePage  # the web server

            page = LivePage.open(options.serve, report=lambda message: console.print(f"svg-live: {message}", markup=False))
            resources.callback(page.close)
        forecaster = resources.enter_context(_open_forecaster(options, model, console))
        if options.model is None:
            console.print(f"svg-live: no --model: using {_model_name(model)}", markup=False)
        forecaster.warm_up(_adaptive_levels(options, forecaster))
        console.print(f"svg-live: {forecaster.description}", markup=False)  # only now the precision of every graph is known
        stop.start_graceful_stop()
        frame = forecaster.manifest.frame
        interval_s = model_interval_s(options.source, forecaster.manifest.generation.frame_interval_s)
        source = open_source(
            options=options.source, interval_s=interval_s, image_size=min(frame.height, frame.width), stop=stop, events=events
        )
        resources.callback(source.close)
        if model == EMBEDDED_MODEL and not options.source.is_synthetic:
            events.once("digits_only", KNOWS_DIGITS_ONLY)
        step_s = step_interval_s(options.source, interval_s)
        caption = _caption(options=options, model=model, forecaster=forecaster, source=source, step_s=step_s, lead=lead)
        alarms = AlarmMonitor(
            options=options.alarms, interval_s=step_s, source=source.description, model=caption.model, events=events
        )
        resources.callback(alarms.close)
        stats = LiveStats(
            about=_about(options, caption, source, forecaster), interval_s=step_s, events=events,
            horizon=options.horizon if page is None else max(options.horizon, MOST_STEPS),  # a client may ask for more
            fit=FitMonitor(forecaster.manifest.training_data, step_s, events),
            surprise_unit=forecaster.surprise_unit or "nats", alarms=alarms,
        )  # fmt: skip
        if options.adaptive:
            stats.adaptive = AdaptiveCounts(_adaptive_levels(options, forecaster), step_s, events)
        outputs = open_outputs(
            file=options.output, window=options.window, size_wh=options.display_wh, interval_s=interval_s, stop=stop
        )
        for output in outputs:
            resources.callback(output.close, keep=False)  # of what follows something may fail; closing again changes nothing
        recorders = open_recorders(
            options=options.recording,
            interval_s=interval_s,
            step_s=step_s,
            bundle_id=forecaster.manifest.bundle_id,
            events=events,
        )
        writer = _start_writer(options=options, caption=caption, outputs=outputs, recorders=recorders, stats=stats)
        loop = LiveLoop(
            forecaster=forecaster, source=source, writer=writer, caption=caption, stats=stats, stop=stop, roi=options.roi,
            page=None if page is None else _add_to_page(page, options, caption, forecaster, stats),
        )  # fmt: skip
        if page is not None:
            page.start()
        _run_and_close(loop, [*outputs, *recorders], options.max_frames, None if options.window else ProgressDisplay(console))
        alarms.close()
        if stop.signalled and stats.seen == 0:
            raise KeyboardInterrupt
        stats.recorded = [recorder.summary() for recorder in recorders]
        _finish(options, stats, console)
        if loop.lost is not None:
            raise loop.lost
        if stop.interrupted:
            raise KeyboardInterrupt
        return stats


class LiveLoop:
    """Passes pictures from the source through the forecaster to the output thread, one at a time."""

    def __init__(
        self, forecaster: Forecaster, source: Source, writer: OutputThread | None, caption: Caption, stats: LiveStats,
        stop: StopRequest, roi: Roi | None = None, page: PageCamera | None = None,
    ) -> None:  # fmt: skip
        frame = forecaster.manifest.frame
        self._forecaster = forecaster
        self._source = source
        self._writer = writer
        self._caption = caption
        self._stats = stats
        self._stop = stop
        self._page = page
        self._counts = caption.samples, caption.horizon
        self._preprocessor = Preprocessor(frame.height, frame.width, frame.channels, roi)
        self._picture_check = PictureCheck(caption.interval_s, stats.events)
        self._view = View(picture=np.zeros((frame.height, frame.width), np.uint8))
        self._empty: EmptyPicture | None = None  # what is wrong with the present picture
        self._clip: int | None = None
        self._observed = 0  # frames since the context last started
        self._failures = 0
        self.lost: SourceLostError | None = None

    def run(self, max_frames: int | None, display: ProgressDisplay | None) -> None:
        """Run until the source ends, is lost, `max_frames` were seen, or a stop is requested.

        Raises:
            ForecastError: forecasting fails repeatedly.
            OutputError: the output cannot be written any more.
            RegionOutsideError: the region of interest does not lie within the first picture.
        """
        timer = self._stats.timer
        for source_frame in self._pictures(max_frames):
            now = time.monotonic()
            start = source_frame.captured_s or now
            if source_frame.captured_s is not None:
                timer.add("age", (now - start) * 1e3)
            with timer.stage("preprocess"):
                frame = self._to_model_frame(source_frame)
            futures = None if frame is None else self._observe_and_forecast(source_frame, frame)
            self._stats.frame_done()
            view = None if self._writer is None and self._page is None else self._update_view(source_frame, futures)
            if self._page is not None and view is not None:
                self._page.publish(view)
                self._page.apply_changes(self._apply)
            if self._writer is not None and view is not None:
                self._writer.submit(view, source_frame.tick, start)
                self._stats.not_shown = self._writer.left_out
            else:
                timer.add("end_to_end", (time.monotonic() - start) * 1e3)
            self._stop.poll()
            if self._stats.adaptive is not None and futures is not None:
                self._stats.adaptive.add((time.monotonic() - now) * 1e3)
            if display is not None:
                self._show_progress(display, max_frames)
        if self._page is not None:
            self._page.end(f"ended: {self._stats.stopped_by}")

    def finish(self, keep: bool) -> None:
        """Wait until everything is written; without `keep`, drop what waits to be. May be called twice.

        Raises:
            OutputError: a picture could not be written; with `keep` only.
        """
        if self._writer is not None:
            self._writer.finish(keep)

    def _show_progress(self, display: ProgressDisplay, max_frames: int | None) -> None:
        seen, fps = self._stats.seen, self._stats.fps
        if max_frames is None:
            display.progress("forecasting", None, f"frame {seen}, {fps:.1f} fps")
        else:
            display.progress("forecasting", seen / max_frames, f"frame {seen} of {max_frames}, {fps:.1f} fps")

    def _pictures(self, max_frames: int | None) -> Iterator[SourceFrame]:
        """Yield pictures of the source, and time the wait for each; record why the run ends."""
        stats, pictures = self._stats, self._source.frames()
        while not self._stop:
            if max_frames is not None and stats.seen >= max_frames:
                stats.stopped_by = "--max-frames"
                return
            try:
                with stats.timer.stage("capture"):
                    picture = next(pictures, None)
            except SourceLostError as error:
                self.lost = error
                stats.stopped_by = "lost source"
                return
            stats.captured = self._source.captured
            stats.dropped = self._source.dropped
            if picture is None:
                break
            stats.seen += 1
            stats.held += picture.held
            yield picture
        stats.stopped_by = self._stop.reason or stats.stopped_by

    def _to_model_frame(self, source_frame: SourceFrame) -> NDArray[np.float32] | None:
        """Fit the picture to the model; None if its region lies outside. At a cut in the video, the context is reset."""
        clip = self._clip
        self._clip = source_frame.clip
        cut = clip is not None and clip != source_frame.clip
        if cut and source_frame.pause_s:
            paused = f"{self._source.description}: no picture for {source_frame.pause_s:.4g} s"
            self._stats.events.add("pause", f"{paused}; the context is reset")
            self._stats.pauses += 1
        elif source_frame.again:
            self._stats.events.add("loop", f"{self._source.description} begins anew; the context is reset")
        elif cut:
            self._stats.events.add("new_clip", f"{self._source.description}: a new video begins; the context is reset")
        if self._preprocessor.size_changed(source_frame.image):
            height, width = source_frame.image.shape[:2]
            self._stats.events.add("size_changed", f"the frame size is now {width}x{height}; the context is reset")
            cut = True
        if cut:
            self._reset_context(new_scene=source_frame.pause_s == 0)
        part = self._part(source_frame.image, changed=cut)
        if part is None:
            self._view.frame = None
            return None
        self._empty = self._stats.count_empty(self._picture_check.add(part))
        self._view.trouble = self._empty
        frame = self._preprocessor.fit(part)
        self._view.frame = frame
        return frame

    def _part(self, picture: Picture, changed: bool) -> Picture | None:
        """The part of the picture that the model looks at; None, which is reported, if its region lies outside."""
        view, frame = self._view, self._forecaster.manifest.frame
        view.region = None
        try:
            region = self._preprocessor.region(picture)
        except RegionOutsideError as error:
            if self._stats.seen == 1:
                raise
            if changed:
                reason = str(error).partition("\n")[0]
                self._stats.events.add("roi_outside", f"{reason}; there are no forecasts until it does")
            view.trouble = "roi_outside"
            return None
        if region is not None:
            view.region = region.as_seen((frame.height, frame.width))
        return crop(picture, region)

    def _observe_and_forecast(self, source_frame: SourceFrame, frame: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Observe the frame and sample futures. A failure is counted and reported, and the context is reset."""
        timer, forecaster, adaptive = self._stats.timer, self._forecaster, self._stats.adaptive
        try:
            with timer.stage("observe"):
                observation = forecaster.observe(frame)
            self._record(frame, observation)
            self._stats.alarms.add(source_frame, frame, observation, self._empty)
            if not forecaster.ready:
                return None
            with timer.stage("forecast"):
                futures = forecaster.forecast(*(adaptive.counts if adaptive else self._counts))
        except (SvgError, RuntimeError) as error:
            self._count_failure(error)
            return None
        self._failures = 0
        self._stats.forecast += 1
        return futures

    def _record(self, frame: NDArray[np.float32], observation: Observation) -> None:
        self._observed = observation.index + 1
        surprise = observation.surprise
        self._view.surprise.append(surprise)
        if surprise is not None:
            self._stats.surprise.add(surprise)
        self._stats.scores.add(observation.scores)
        if self._view.trouble is None:  # a covered lens says nothing about the model
            self._stats.fit.add(frame, observation.scores)

    def _count_failure(self, error: Exception) -> None:
        self._failures += 1
        reason = str(error).partition("\n")[0]
        self._stats.events.add("forecast_failed", f"no forecast for this frame: {reason}; the context is reset")
        if self._failures >= _FAILURES_IN_A_ROW:
            cause = reason if isinstance(error, ForecastError) else error  # its advice is for Python
            raise ForecastError(
                f"forecasting failed {self._failures} times in a row, last with: {cause}\n"
                "  try --backend cpu without --fp16 and --bf16; if that fails too, export the bundle again"
            ) from error
        self._reset_context()

    def _reset_context(self, new_scene: bool = False) -> None:
        self._forecaster.reset()
        self._observed = 0
        self._view.surprise.append(None)
        self._stats.fit.cut()
        self._stats.alarms.reset(new_scene)
        self._stats.resets += 1

    def _apply(self, change: Change) -> None:
        """Apply what a client of the page wants changed.

        Raises:
            SvgError: it cannot be done; nothing has changed.
        """
        if change.samples or change.horizon:
            self._change_counts(change.samples or self._counts[0], change.horizon or self._counts[1])
        if change.threshold is not None:
            self._stats.alarms.set_threshold(change.threshold)
        if change.changes_region:
            self._preprocessor.look_at(change.region)
        if change.changes_region or change.reset:
            self._reset_context(new_scene=True)

    def _change_counts(self, samples: int, horizon: int) -> None:
        """Forecast so once, so that what this model or its memory cannot do does not end the run."""
        if not self._forecaster.ready:
            raise UsageError("the model has not seen enough frames yet; try again in a moment")
        try:
            self._forecaster.forecast(samples, horizon)
        except (SvgError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"{samples} samples of {horizon} steps cannot be forecast: {reason}") from error
        self._counts = samples, horizon

    def _update_view(self, source_frame: SourceFrame, futures: NDArray[np.float32] | None) -> View:
        """Copy the state of the run into the view and return a view that does not change any more."""
        view, stats = self._view, self._stats
        view.picture = source_frame.image
        view.futures = futures
        view.tick = source_frame.tick
        view.time = wall_clock(source_frame.captured_s)
        view.resets = stats.resets
        view.waiting = max(0, self._forecaster.manifest.generation.n_past - self._observed)
        view.latency_ms = stats.timer.last_ms("observe") + (stats.timer.last_ms("forecast") if futures is not None else 0.0)
        view.fps = stats.fps
        view.seen = stats.seen
        view.dropped = stats.dropped
        view.misfit = stats.fit.reasons
        psnr = stats.scores.psnr(self._caption.lead)
        if psnr is not None:
            best, _, repeat = psnr
            view.best_psnr = best
            view.repeat_psnr = repeat
        return replace(view, surprise=deque(view.surprise, view.surprise.maxlen))


def _check_outputs(options: LiveOptions, model: Path) -> None:
    if options.output is not None:
        check_output_name(options.output)
    check_display(options.display_wh, options.overlays)
    options.alarms.check()
    if options.serve is not None:
        options.serve.check()
    files = {"--output": options.output, "--json": options.json, "--events": options.alarms.events_file}
    folders = {**options.recording.folders, "--alarm-dir": options.alarms.folder}
    check_outputs(files, folders, needed=[model, *source_files(options.source)])


def _caption(options: LiveOptions, model: Path, forecaster: Forecaster, source: Source, step_s: float, lead: int) -> Caption:
    frame = forecaster.manifest.frame
    return Caption(
        model=_model_name(model), backend=forecaster.description.partition("; ")[0], source=source.name,
        samples=forecaster.samples, horizon=options.horizon, interval_s=step_s,
        frame_hw=(frame.height, frame.width), lead=lead, surprise_unit=forecaster.surprise_unit,
    )  # fmt: skip


def _add_to_page(
    page: LivePage, options: LiveOptions, caption: Caption, forecaster: Forecaster, stats: LiveStats
) -> PageCamera:
    manifest = forecaster.manifest
    adaptive = "--adaptive chooses it" if options.adaptive else None
    one_future = "this model has only one future" if manifest.model.z_dim == 0 else None
    frame_bytes = 4 * manifest.frame.height * manifest.frame.width * manifest.frame.channels
    about = CameraAbout(
        name=caption.source, caption=caption, clips=options.alarms.folder,
        fixed=Fixed(samples=adaptive or one_future, horizon=adaptive, frame_bytes=frame_bytes),
    )  # fmt: skip
    settings = Settings(
        samples=caption.samples, horizon=caption.horizon, overlay=start_overlay(options.overlays),
        roi=None if options.roi is None else str(options.roi),
        threshold=options.alarms.trigger.threshold if options.alarms.enabled else None,
    )  # fmt: skip
    return page.add_camera(about, settings, stats)


def _start_writer(
    options: LiveOptions, caption: Caption, outputs: list[Output], recorders: list[Recorder], stats: LiveStats
) -> OutputThread | None:
    """Start the output thread, if there is anything to write; it composes pictures only if one is displayed."""
    if not outputs and not recorders:
        return None
    displays = bool(outputs) or options.recording.shows_display
    writer = OutputThread(
        picture=ForecastPicture(caption, options.display_wh, options.overlays) if displays else None,
        outputs=outputs,
        recorders=recorders,
        timer=stats.timer,
        newest_wins=options.source.is_paced,
    )
    writer.start()
    return writer


def _open_forecaster(options: LiveOptions, model: Path, console: Console) -> Forecaster:
    deterministic = Bundle.open(model).manifest.model.z_dim == 0  # it has only one future
    with ProgressDisplay(console) as display:
        return Forecaster.open(
            model,
            backend=options.backend,
            calibrate=options.calibrate,
            device=options.device,
            threads=options.threads,
            precision=options.precision,
            samples=1 if deterministic else options.samples,
            horizon=options.horizon,
            seed=options.seed,
            context=options.context,
            gpu=options.gpu,
            progress=display,
        )


def _adaptive_levels(options: LiveOptions, forecaster: Forecaster) -> list[Counts]:
    """What may be forecast with --adaptive, the richest first; empty without it. A stream context fixes the samples."""
    if not options.adaptive:
        return []
    return levels(forecaster.samples, options.horizon, fewer_samples=forecaster.context == "window")


def _model_name(model: Path) -> str:
    return f"{model.name} (embedded)" if model.parent == EMBEDDED_FOLDER else model.name


def _about(options: LiveOptions, caption: Caption, source: Source, forecaster: Forecaster) -> dict[str, Any]:
    return {
        "model": caption.model,
        "bundle_id": forecaster.manifest.bundle_id,
        "backend": forecaster.description,
        "samples": forecaster.samples,
        "horizon": options.horizon,
        "seed": options.seed,
        "context": forecaster.context,
        "source": source.description,
    }


def _run_and_close(
    loop: LiveLoop, outputs: Sequence[Output | Recorder], max_frames: int | None, display: ProgressDisplay | None
) -> None:
    """Run the loop. However it ends, the video is completed, except after a second Ctrl-C."""
    keep = True
    try:
        with display or nullcontext():
            loop.run(max_frames, display)
            loop.finish(keep)
    except KeyboardInterrupt:
        keep = False
        raise
    finally:
        try:
            loop.finish(keep)
        finally:
            for output in outputs:
                output.close(keep)


def _finish(options: LiveOptions, stats: LiveStats, console: Console) -> None:
    """Write the statistics and print the summary."""
    summary, written = stats.summary(), []
    if options.output is not None and stats.seen > 0:
        written.append(str(options.output))
    if options.json is not None:
        try:
            write_json(options.json, summary)
        except OSError as error:
            raise OutputError(options.json, error) from error
        written.append(str(options.json))
    print_summary(console, summary, written)
    if stats.seen > 0 and stats.forecast == 0:
        console.print("svg-live: no forecast was made: the run ended before the model had seen enough frames", markup=False)
