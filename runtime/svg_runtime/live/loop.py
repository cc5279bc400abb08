"""A live run: pictures -> model frames -> observations -> futures -> composed picture -> window and file.

`run_cameras` opens everything, `LiveLoop` of `rounds.py` takes one round of pictures after another, and `_finish` writes the
statistics.

What runs side by side: capture (threads of cameras, and of sources that read ahead), forecasts (the main thread, because a GPU
context belongs to the thread that made it), and composing and writing the picture (`OutputThread`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from svg_common.errors import OutputError, SvgError, UsageError
from svg_common.files import write_json
from svg_common.journal import as_warning
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_common.video.reader import VideoError
from svg_runtime.bundle.reader import EMBEDDED_MODEL, KNOWS_DIGITS_ONLY, Bundle, find_model, model_name
from svg_runtime.errors import SourceLostError
from svg_runtime.forecast.batch import BatchForecaster
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.live.adaptive import AdaptiveCounts, Counts, levels
from svg_runtime.live.alarms.monitor import AlarmMonitor, close_side_by_side
from svg_runtime.live.alarms.numbers import AlarmNumbers
from svg_runtime.live.alarms.signal_names import check_signal
from svg_runtime.live.camera_run import CameraRun
from svg_runtime.live.camera_wall import CameraWall
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.forecasts import CameraForecasts, OneCamera
from svg_runtime.live.live_options import LiveOptions, separated
from svg_runtime.live.live_summary import print_summary
from svg_runtime.live.output_locks import hold_outputs
from svg_runtime.live.output_thread import OutputThread
from svg_runtime.live.outputs import Output, RecordingOptions, check_output_name, open_outputs, open_recorders
from svg_runtime.live.overlay import Caption, ForecastPicture, check_display
from svg_runtime.live.overlay.wall import WallPicture, check_wall
from svg_runtime.live.page.controls import MOST_STEPS
from svg_runtime.live.page.joining import join_page, open_page
from svg_runtime.live.rounds import LiveLoop
from svg_runtime.live.run_stats import RunStats
from svg_runtime.live.service import ServiceManager, ServiceReport
from svg_runtime.live.source_reader import SourceReader, open_with_retries
from svg_runtime.live.sources import Source, camera_name, model_interval_s, open_source, source_files, step_interval_s
from svg_runtime.live.stats import STAGES, LiveStats
from svg_runtime.live.stop import StopRequest
from svg_runtime.live.timing import StageTimer

_NO_FORECAST = ("forecast_failed", "roi_outside", "short_loop")  # events after which there is none, for a while or for ever
_SAID_ABOVE = "\n  what was wrong with each is said above"

__all__ = ["LiveOptions", "run_cameras"]


@dataclass(frozen=True)
class _Setup:
    """What the parts of a run are opened with; options are those of the process."""

    options: LiveOptions
    several: bool  # cameras
    model: Path
    forecasts: CameraForecasts
    lead: int
    stop: StopRequest
    console: Console
    events: EventLog
    resources: ExitStack


def run_cameras(cameras: Sequence[LiveOptions], console: Console) -> list[LiveStats]:
    """Run from the first picture to the last, then close the files and print the summary.

    Args:
        cameras: options of each. What belongs to the process, such as the model and the display, is that of the first. Several
            have different names, and write into places of their own, see `separated`.
        console: for messages.

    Returns:
        The statistics of each.

    Raises:
        SvgError: something is missing or invalid, before anything starts; or every camera was lost, after closing everything.
        KeyboardInterrupt: Ctrl-C, after closing everything; also SIGTERM and SIGHUP before the first picture.
    """
    options = cameras[0]
    lead = options.horizon if options.lead is None else options.lead
    if not 1 <= lead <= options.horizon:
        raise UsageError(f"--lead {lead} is not a forecast step\n  expected 1 to {options.horizon}, the horizon")
    own = separated(cameras)
    events = EventLog(announce=_warner(console))
    with StopRequest() as stop, ExitStack() as resources:
        real_video = not all(each.source.is_synthetic for each in cameras)
        model = find_model(options.model, real_video=real_video)
        _check_outputs(options, own, model)
        hold_outputs(options, own, resources)
        page = None
        if options.serve is not None:
            page = open_page(options.serve, inform=_informer(console), warn=_warner(console), resources=resources)
        forecasts = _open_forecasts(
            options=options, post_process=[each.corrects for each in cameras], model=model, console=console, resources=resources
        )  # fmt: skip
        for each in own:
            if each.alarms.enabled:
                check_signal(each.alarms.signal, forecasts.surprise_unit, each.name)
        if options.model is None:
            console.print(f"svg-live: no --model: using {model_name(model)}", markup=False)
        forecasts.warm_up(_adaptive_levels(options, forecasts))
        console.print(f"svg-live: {forecasts.description}", markup=False)  # only now the precision of every graph is known
        stop.start_graceful_stop()
        setup = _Setup(
            options=options, several=len(own) > 1, model=model, forecasts=forecasts, lead=lead, stop=stop, console=console,
            events=events, resources=resources,
        )  # fmt: skip
        opened = _open_cameras(setup, own)
        _warn_of_the_model(setup, real_video=real_video)
        run = RunStats(_about(setup, own), [camera.stats for camera in opened], events)
        if options.adaptive:
            run.adaptive = AdaptiveCounts(_adaptive_levels(options, forecasts), events)
        displays, wall = _open_outputs(setup, own, opened)
        run.recorders = () if wall is None else wall.recorders
        if page is not None:
            join_page(page=page, options=own, cameras=opened, forecasts=forecasts, run=run)
        loop = LiveLoop(
            cameras=opened, forecasts=forecasts, stop=stop, interval_s=min(camera.tick_s for camera in opened),
            adaptive=run.adaptive, display=wall,
        )  # fmt: skip
        run.batches = loop.sizes
        try:
            _run_and_close(
                loop=loop, cameras=opened, wall=wall, displays=displays, max_frames=options.max_frames,
                progress=None if options.window else ProgressDisplay(console),
                service=ServiceReport(
                    stop, run.cameras, ServiceManager.from_environment(),
                    names=[camera.caption.source for camera in opened],
                ),
            )  # fmt: skip
        except Exception as error:
            close_side_by_side([camera.stats.alarms for camera in opened])
            if run.taken > 0 and not isinstance(error, UsageError):  # that is of the first picture: there is nothing to keep
                _save_what_is_known(setup, run, opened)
            raise
        close_side_by_side([camera.stats.alarms for camera in opened])
        if stop.signalled and run.taken == 0:
            raise KeyboardInterrupt
        if len(opened) == 1 and run.taken == 0:
            _raise_if_all_ended(opened)  # a camera that never came: what an earlier run has written stays
        _finish(setup, run, options.output)
        _raise_if_all_ended(opened)
        if stop.interrupted:
            raise KeyboardInterrupt
        _raise_if_unreadable(opened)
        return run.cameras


def _open_forecasts(
    options: LiveOptions, post_process: list[bool], model: Path, console: Console, resources: ExitStack
) -> CameraForecasts:
    deterministic = Bundle.open(model).manifest.model.z_dim == 0  # it has only one future
    with ProgressDisplay(console) as display:
        chosen: dict[str, Any] = {
            "backend": options.backend,
            "calibrate": options.calibrate,
            "device": options.device,
            "threads": options.threads,
            "precision": options.precision,
            "samples": 1 if deterministic else options.samples,
            "horizon": options.horizon,
            "seed": options.seed,
            "context": options.context,
            "gpu": options.gpu,
            "progress": display,
        }
        if len(post_process) == 1:
            return OneCamera(resources.enter_context(Forecaster.open(model, **chosen, post_process=post_process[0])))
        return resources.enter_context(BatchForecaster.open(model, len(post_process), **chosen, post_process=post_process))


def _warn_of_the_model(setup: _Setup, real_video: bool) -> None:
    """Say what a model was not made for."""
    if setup.model == EMBEDDED_MODEL and real_video:
        setup.events.once("digits_only", KNOWS_DIGITS_ONLY)
    asked, trained = setup.options.horizon, setup.forecasts.manifest.generation.training_horizon
    if asked > trained:
        clips = " --data video --data-root CLIPS --test-fraction 1" if real_video else ""
        setup.events.once(
            "long_horizon",
            f"--horizon is {asked}, but the model was trained on {trained} steps: how good it is beyond them is not known\n"
            f"  give --horizon {trained}, or measure it with: svg-eval MODEL --horizon {asked}{clips}",
        )


def _open_cameras(setup: _Setup, cameras: Sequence[LiveOptions]) -> list[CameraRun]:
    """Open every camera. Several are due at the same times; their alarms in one file, or in none, are numbered together.

    Raises:
        SvgError: none of them can be opened; of several, the error of the first.
    """
    origin_s = time.monotonic() if setup.several else None
    numbers: dict[Path | None, Iterator[int]] = {}
    opened = []
    failures: list[SvgError] = []
    for number, camera in enumerate(cameras):
        file = camera.alarms.events_file
        if file not in numbers:
            folders = [each.alarms.folder for each in cameras if each.alarms.events_file == file]
            numbers[file] = AlarmNumbers(file, folders, setup.events)
        opened.append(
            _open_camera(
                setup=setup, number=number, options=camera, origin_s=origin_s, alarm_numbers=numbers[file], failures=failures
            )
        )
    if len(failures) == len(cameras):
        raise failures[0]
    return opened


def _open_camera(
    setup: _Setup, number: int, options: LiveOptions, origin_s: float | None, alarm_numbers: Iterator[int],
    failures: list[SvgError],
) -> CameraRun:  # fmt: skip
    """Open one camera. One that may take long to connect does so in its own thread, and runs when it is there.

    Such are network cameras, which may be away for days, and all of several cameras. The page, the service manager and the
    others do not wait for them.

    The error of one that cannot be opened goes to `failures`; its thread meets it again, and it ends as one that dies later.
    """
    manifest, source = setup.forecasts.manifest, options.source
    events = setup.events if not setup.several else EventLog(announce=_warner(setup.console, options.name))
    interval_s = model_interval_s(source, manifest.generation.frame_interval_s)

    def open_now(stop: StopRequest) -> Source:
        return open_source(
            options=source, interval_s=interval_s, image_size=min(manifest.frame.height, manifest.frame.width), stop=stop,
            events=events, origin_s=origin_s, alone=not setup.several,
        )  # fmt: skip

    def open_late(stop: StopRequest) -> Source:
        return open_with_retries(partial(open_now, stop), source.reconnect_s, stop, events)

    late = camera_name(source) if source.is_elsewhere or setup.several else None
    reader = SourceReader(open_now if late is None else open_late, setup.stop, interval_s if source.is_paced else 0.0)
    setup.resources.callback(reader.close)
    opened: Source | None = None
    if late is None:
        try:
            opened = reader.open()
        except SvgError as error:
            failures.append(error)
    name = late or str(source.path) if opened is None else opened.name
    description = late or str(source.path) if opened is None else opened.description
    step_s = step_interval_s(source, interval_s)
    caption = _caption(setup, options, options.name or name, step_s)
    alarms = AlarmMonitor(
        options=options.alarms, interval_s=step_s, source=description, model=caption.model, events=events,
        numbers=alarm_numbers, tick_s=interval_s,
    )  # fmt: skip
    setup.resources.callback(alarms.close)
    stats = LiveStats(
        about={**({} if setup.several else _about(setup, [options])), "source": description},
        horizon=setup.options.horizon if options.serve is None else max(setup.options.horizon, MOST_STEPS),
        interval_s=step_s, events=events, fit=FitMonitor(manifest.training_data, step_s, events),
        surprise_unit=setup.forecasts.surprise_unit or "nats", alarms=alarms, name=options.name if setup.several else None,
    )  # fmt: skip
    return CameraRun(
        reader=reader, description=description, caption=caption, stats=stats, manifest=manifest,
        reset_model=partial(setup.forecasts.reset, number), tick_s=interval_s, roi=options.roi,
    )  # fmt: skip


def _open_outputs(
    setup: _Setup, options: Sequence[LiveOptions], cameras: Sequence[CameraRun]
) -> tuple[list[Output], CameraWall | None]:
    """Open what is written to. Several cameras share a display, their wall, and record apart; one does both in one thread."""
    process, several = setup.options, len(cameras) > 1
    interval_s = min(camera.tick_s for camera in cameras)
    displays = open_outputs(
        file=process.output, window=process.window, size_wh=process.display_wh, interval_s=interval_s, stop=setup.stop
    )
    for output in displays:
        setup.resources.callback(output.close, keep=False)  # of what follows something may fail; closing again changes nothing
    for own, camera in zip(options, cameras, strict=True):
        camera.recorders = camera.stats.recorders = open_recorders(
            options=own.recording, interval_s=camera.tick_s, bundle_id=setup.forecasts.manifest.bundle_id,
            events=camera.stats.events,
        )  # fmt: skip
    wall = _open_wall(setup, cameras, displays, interval_s) if several else None
    for own, camera in zip(options, cameras, strict=True):
        timer = camera.stats.timer if wall is None else StageTimer(STAGES)  # latency is that of the display
        camera.writer = _start_writer(own, camera, [] if several else displays, timer)
    return displays, wall


def _start_writer(options: LiveOptions, camera: CameraRun, outputs: Sequence[Output], timer: StageTimer) -> OutputThread | None:
    """Start the output thread, if there is anything to write; it composes pictures only if one is displayed."""
    if not outputs and not camera.recorders:
        return None
    displays = bool(outputs) or (camera.name is None and options.recording.shows_display)
    writer = OutputThread(
        picture=ForecastPicture(camera.caption, options.display_wh, options.overlays) if displays else None,
        outputs=outputs,
        recorders=camera.recorders,
        timer=timer,
        newest_wins=options.source.is_paced,
    )
    writer.start()
    return writer


def _open_wall(setup: _Setup, cameras: Sequence[CameraRun], displays: Sequence[Output], interval_s: float) -> CameraWall | None:
    """The display of several cameras, if there is one."""
    options = setup.options
    recorders = open_recorders(
        options=replace(options.recording, forecasts=None) if options.recording.shows_display else RecordingOptions(),
        interval_s=interval_s, bundle_id=setup.forecasts.manifest.bundle_id, events=setup.events,
    )  # fmt: skip
    if not displays and not recorders:
        return None
    return CameraWall(
        cameras=cameras,
        picture=WallPicture([camera.caption for camera in cameras], options.display_wh, options.overlays),
        outputs=displays,
        recorders=recorders,
        interval_s=interval_s,
    )


def _check_outputs(options: LiveOptions, cameras: Sequence[LiveOptions], model: Path) -> None:
    if options.output is not None:
        check_output_name(options.output)
    if options.serve is not None:
        options.serve.check()
    if len(cameras) == 1:
        check_display(options.display_wh, options.overlays)
    elif options.window or options.output is not None or options.recording.shows_display:
        check_wall(options.display_wh, options.overlays, len(cameras))
    files = {"--output": options.output, "--json": options.json}
    end_the_run = set(files)  # on a full disk; everything else is tried again, and may make room itself
    folders = dict(options.recording.folders)
    shared: set[Path | None] = set()  # cameras append to one file of events
    for camera in cameras:
        camera.alarms.check()
        of = "" if camera.name is None else f" of {camera.name}"
        if camera.alarms.events_file not in shared:
            shared.add(camera.alarms.events_file)
            files[f"--events{of}"] = camera.alarms.events_file
        folders[f"--alarm-dir{of}"] = camera.alarms.folder
    check_outputs(
        files, kept=folders, needed=[model, *(file for camera in cameras for file in source_files(camera.source))],
        retried={*files, *folders} - end_the_run, appended=set(files) - end_the_run,
    )  # fmt: skip


def _caption(setup: _Setup, options: LiveOptions, source: str, step_s: float) -> Caption:
    forecasts = setup.forecasts
    frame = forecasts.manifest.frame
    return Caption(
        model=model_name(setup.model), backend=forecasts.description.partition("; ")[0], source=source,
        samples=forecasts.samples, horizon=setup.options.horizon, interval_s=step_s,
        frame_hw=(frame.height, frame.width), lead=setup.lead, surprise_unit=forecasts.surprise_unit,
        alarm_signal=options.alarms.signal if options.alarms.enabled else None,
    )  # fmt: skip


def _adaptive_levels(options: LiveOptions, forecasts: CameraForecasts) -> list[Counts]:
    """What may be forecast with --adaptive, the richest first; empty without it. A stream context fixes the samples."""
    if not options.adaptive:
        return []
    return levels(forecasts.samples, options.horizon, fewer_samples=forecasts.context == "window")


def _about(setup: _Setup, cameras: Sequence[LiveOptions]) -> dict[str, Any]:
    forecasts = setup.forecasts
    return {
        "model": model_name(setup.model),
        "bundle_id": forecasts.manifest.bundle_id,
        "backend": forecasts.description,
        "samples": forecasts.samples,
        "horizon": setup.options.horizon,
        "seed": setup.options.seed,
        "context": forecasts.context,
        "post_process": any(each.corrects for each in cameras),
    }


def _informer(console: Console) -> Callable[[str], None]:
    """Print a message that needs no attention."""
    return lambda message: console.print(f"svg-live: {message}", markup=False)


def _warner(console: Console, camera: str | None = None) -> Callable[[str], None]:
    """Print a warning at once, with the name of the camera that it is about."""
    about = "" if camera is None else f"{camera}: "
    return lambda message: console.print(as_warning(f"svg-live: {about}{message}"), markup=False)


def _run_and_close(
    loop: LiveLoop, cameras: Sequence[CameraRun], wall: CameraWall | None, displays: Sequence[Output], max_frames: int | None,
    progress: ProgressDisplay | None, service: ServiceReport,
) -> None:  # fmt: skip
    """Run the loop. However it ends, the video is completed, except after a second Ctrl-C."""
    writers: list[CameraRun | CameraWall] = [*cameras]
    if wall is not None:
        writers.append(wall)
    keep = True
    try:
        with progress or nullcontext():
            with service:
                loop.run(max_frames, progress)
            for writer in writers:
                writer.finish(keep)
    except KeyboardInterrupt:
        keep = False
        raise
    finally:
        with ExitStack() as closing:  # in reverse, and all of them, whichever fails
            for writer in reversed(writers):
                for recorder in writer.recorders:
                    closing.callback(recorder.close, keep)
            for display in reversed(displays):
                closing.callback(display.close, keep)
            for writer in reversed(writers):
                closing.callback(writer.finish, keep)


def _save_what_is_known(setup: _Setup, run: RunStats, cameras: Sequence[CameraRun]) -> None:
    """An error ends the run: its statistics, of weeks perhaps, are not lost with its video."""
    for camera in cameras:
        if camera.running:
            camera.end("error")
    with suppress(SvgError):  # the error of the run is the one to report
        _finish(setup, run, output=None)


def _finish(setup: _Setup, run: RunStats, output: Path | None) -> None:
    """Write the statistics and print the summary."""
    summary, written = run.summary(), []
    json = setup.options.json
    if output is not None and run.taken > 0:
        written.append(str(output))
    try:
        if json is not None:
            write_json(json, summary)
            written.append(str(json))
    except OSError as error:
        raise OutputError(Path(str(json)), error) from error
    finally:  # what is not written can be read at least
        print_summary(setup.console, summary, written)
        if run.taken > 0 and run.forecast == 0:
            reason = _why_no_forecast(run.cameras, setup.forecasts.manifest.generation.n_past)
            setup.console.print(as_warning(f"svg-live: no forecast was made: {reason}"), markup=False)


def _why_no_forecast(cameras: Sequence[LiveStats], n_past: int) -> str:
    if any(camera.events.counts[kind] for camera in cameras for kind in _NO_FORECAST):
        return "what was wrong is said above"
    if max(camera.seen for camera in cameras) < n_past:
        return "the run ended before the model had seen enough frames"
    longest = max(camera.most_in_a_row for camera in cameras)
    return (
        f"the model needs {n_past} frames in a row before the first one, and had {longest} at most\n"
        "  give video with fewer cuts, pauses and changes of size: after each, it begins anew"
    )


def _raise_if_all_ended(cameras: Sequence[CameraRun]) -> None:
    """One that goes on, or comes to its end, makes the run a success."""
    errors = [camera.ended_by for camera in cameras if camera.ended_by is not None]
    if len(errors) < len(cameras):
        return
    if len(cameras) > 1 and all(isinstance(error, SourceLostError) for error in errors):
        names = ", ".join(str(camera.name) for camera in cameras)
        raise SourceLostError(f"all {len(cameras)} cameras were lost: {names}{_SAID_ABOVE}")
    raise next((error for error in errors if not isinstance(error, SourceLostError)), errors[0])


def _raise_if_unreadable(cameras: Sequence[CameraRun]) -> None:
    """A file that gave not one picture is a failure whatever became of the others: it would not be noticed otherwise."""
    names = [str(camera.name) for camera in cameras if isinstance(camera.ended_by, VideoError)]
    if names:
        raise SvgError(f"{len(names)} of {len(cameras)} sources could not be read: {', '.join(names)}{_SAID_ABOVE}")
