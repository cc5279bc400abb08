"""`svg-live`: forecasts on a camera, on files, or on the synthetic camera, live."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from svg_common.command import run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.printable import printable
from svg_common.seconds_option import SECONDS
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.forecast_options import (
    Bf16Option,
    CacheDirOption,
    CalibrateOption,
    CpuFallbackOption,
    CudaGraphOption,
    DeviceOption,
    Fp16Option,
    HorizonOption,
    ModelOption,
    NoCalibrateOption,
    NoPostProcessOption,
    SamplesOption,
    ThreadsOption,
    WorkspaceOption,
    requested_calibration,
    requested_precision,
)
from svg_runtime.live.alarms.cli_options import (
    AlarmAfterOption,
    AlarmBeforeOption,
    AlarmBufferOption,
    AlarmClearOption,
    AlarmCooldownOption,
    AlarmDirOption,
    AlarmHoldOption,
    AlarmLimitOption,
    AlarmMinDurationOption,
    AlarmOption,
    AlarmSignalOption,
    AlarmThresholdOption,
    EventsOption,
    MqttOption,
    OnAlarmOption,
    WebhookOption,
)
from svg_runtime.live.camera_options import (
    CameraFpsOption,
    CameraSizeOption,
    FlipOption,
    ListCamerasOption,
    LoopOption,
    RoiOption,
    RotateOption,
)
from svg_runtime.live.config.camera_keys import CAMERA_KEYS
from svg_runtime.live.config.configured import configured, is_given
from svg_runtime.live.page.cli_options import ServeHostOption, ServeOption, ServeTokenOption

app = typer.Typer(pretty_exceptions_enable=False)

CameraOption = Annotated[
    list[int] | None,
    typer.Option(min=0, help="Index of a local camera; several times for several. Use --source for a network camera."),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|DIR|URL",
        help="A video, an image, a folder of these, live video such as rtsp://host/path, or synthetic://digits, the default. "
        "Several times for several cameras, which one model forecasts together.",
    ),
]
SourceFpsOption = Annotated[
    float | None,
    typer.Option(
        metavar="FPS",
        help="Pictures per second of a source without time stamps: raw H.264 or H.265, images. "
        "Default: what the codec says; images are one model step apart.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.mp4|DIR/%06d.png",
        help="Write the display to an H.264 video, or to numbered pictures (.png, .jpg). A full disk ends the run.",
    ),
]
OverlayOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME...]",
        help="What the display shows: panels, ghost (expected change over the live picture), contours (of uncertainty), "
        "before (what was expected, and what came), likely (most and least likely sample). "
        "Default: panels, or ghost for several cameras that have no room for these.",
    ),
]
DisplaySizeOption = Annotated[
    str | None, typer.Option(metavar="WxH", help="Size of the display and of its videos, in pixels. Default: 1280x720.")
]
RecordOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Record for weeks: videos that survive a kill. A full disk is counted, and tried again."),
]
RecordWhatOption = Annotated[
    Literal["display", "camera"] | None,
    typer.Option(help="What --record records: the display, or the source's own pictures. Default: display."),
]
RecordSegmentOption = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Duration of a video of --record. Default: 10m.")
]
RecordLimitOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Size of --record, and of --save-forecasts; the oldest files then give way. Default: 10GB."
    ),
]
SaveForecastsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Save all sampled futures, a .npz file per frame.")
]
ForecastDtypeOption = Annotated[
    Literal["float16", "float32"] | None, typer.Option(help="Numbers in --save-forecasts. Default: float16.")
]
HeadlessOption = Annotated[
    bool, typer.Option("--headless", help="No window. Files and the synthetic camera then run as fast as possible.")
]
RealtimeOption = Annotated[bool, typer.Option("--realtime", help="Run at the model's frame rate even without a window.")]
MaxFramesOption = Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")]
LeadOption = Annotated[
    int | None, typer.Option(min=1, help="Forecast step whose mean and spread are shown. Default: the last.")
]
ContextOption = Annotated[
    Literal["window", "stream"] | None,
    typer.Option(
        help="window: re-read the last frames before every forecast, as in training. stream: carry the state along. "
        "Default: as the bundle says."
    ),
]
BackendOption = Annotated[str, typer.Option(help="Inference backend, or auto for the fastest one that works.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the model's noise and of the synthetic camera.")]
AdaptiveOption = Annotated[
    bool,
    typer.Option(
        "--adaptive", help="Fewer samples, then a shorter horizon, while this machine cannot hold the rate of the camera."
    ),
]
ReconnectOption = Annotated[
    float,
    typer.Option(
        **SECONDS, help="How long to wait for a camera that is lost, or for a network camera at the start, such as 60 or 5m."
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write statistics: latency, frames, surprise, forecast scores.")
]


@app.command(context_settings={"help_option_names": ["-h", "--help"], "allow_extra_args": True})
@partial(configured, of_camera=CAMERA_KEYS)
def live(
    arguments: typer.Context,
    model: ModelOption = None,
    camera: CameraOption = None,
    source: SourceOption = None,
    source_fps: SourceFpsOption = None,
    list_cameras: ListCamerasOption = False,
    camera_size: CameraSizeOption = None,
    camera_fps: CameraFpsOption = None,
    rotate: RotateOption = None,
    flip: FlipOption = None,
    roi: RoiOption = None,
    loop: LoopOption = False,
    output: OutputOption = None,
    overlay: OverlayOption = None,
    display_size: DisplaySizeOption = None,
    record: RecordOption = None,
    record_what: RecordWhatOption = None,
    record_segment: RecordSegmentOption = None,
    record_limit: RecordLimitOption = None,
    save_forecasts: SaveForecastsOption = None,
    forecast_dtype: ForecastDtypeOption = None,
    headless: HeadlessOption = False,
    realtime: RealtimeOption = False,
    max_frames: MaxFramesOption = None,
    samples: SamplesOption = 8,
    horizon: HorizonOption = 10,
    lead: LeadOption = None,
    context: ContextOption = None,
    no_post_process: NoPostProcessOption = False,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    calibrate: CalibrateOption = None,
    no_calibrate: NoCalibrateOption = False,
    cuda_graph: CudaGraphOption = None,
    cpu_fallback: CpuFallbackOption = False,
    cache_dir: CacheDirOption = None,
    workspace: WorkspaceOption = None,
    fp16: Fp16Option = False,
    bf16: Bf16Option = False,
    adaptive: AdaptiveOption = False,
    seed: SeedOption = 0,
    reconnect: ReconnectOption = 10.0,
    json: JsonOption = None,
    alarm: AlarmOption = False,
    alarm_signal: AlarmSignalOption = None,
    alarm_threshold: AlarmThresholdOption = None,
    alarm_clear: AlarmClearOption = None,
    alarm_min_duration: AlarmMinDurationOption = None,
    alarm_hold: AlarmHoldOption = None,
    alarm_cooldown: AlarmCooldownOption = None,
    alarm_dir: AlarmDirOption = None,
    alarm_before: AlarmBeforeOption = None,
    alarm_after: AlarmAfterOption = None,
    alarm_buffer: AlarmBufferOption = None,
    alarm_limit: AlarmLimitOption = None,
    events: EventsOption = None,
    mqtt: MqttOption = None,
    webhook: WebhookOption = None,
    on_alarm: OnAlarmOption = None,
    serve: ServeOption = None,
    serve_host: ServeHostOption = None,
    serve_token: ServeTokenOption = None,
    version: VersionOption = False,
) -> None:
    """Watch a camera or a video and forecast its next frames, live: sampled futures, their mean and spread, and surprise.

    Stop it with q or Esc in the window, Ctrl-C, SIGTERM, or by closing the terminal; the video is then complete and playable.
    Ctrl-C always exits with 130; SIGTERM and a closed terminal exit with 0 once there was a frame.
    Before the first frame nothing is written, and they exit with 130, too.

    Exit codes: 0 ok, 1 error, 2 usage, 4 backend, device or an extra missing, 5 source lost, 130 Ctrl-C.
    """
    of_camera = {key: value for key, value in locals().items() if key in CAMERA_KEYS}
    if arguments.args:
        raise UsageError(
            f"unexpected arguments: {' '.join(map(printable, arguments.args))}\n"
            "  expected --source before each; the shell makes many of *.mp4: give their folder with --source FOLDER/"
        )
    if list_cameras:
        from svg_runtime.live.sources.list_cameras import print_cameras

        print_cameras(json)
        return
    precision = requested_precision(fp16, bf16)
    measures = requested_calibration(calibrate, no_calibrate, backend)
    with defer_interrupts():  # heavy imports: OpenCV and the inference engine
        from svg_runtime.live import camera_arguments
        from svg_runtime.live.loop import LiveOptions, run_cameras
        from svg_runtime.live.outputs.image_folder import SUFFIXES
        from svg_runtime.live.outputs.recording_options import recording_options
        from svg_runtime.live.overlay.names import parse_overlays
        from svg_runtime.live.overlay.wall import default_overlays
        from svg_runtime.live.page.options import page_options
        from svg_runtime.live.roi import parse_roi

    # 1) what is watched
    tables = arguments.obj or {}
    cameras = camera_arguments.each_camera(of_camera, tables)
    sources = camera_arguments.source_options_of_all(cameras, realtime or not headless, seed)
    names = camera_arguments.camera_names(sources, list(tables))
    if adaptive and not all(each.is_paced for each in sources):
        raise UsageError("--adaptive holds the rate of a camera, and files are read without one\n  add --realtime")
    # 2) what comes of it
    recording = recording_options(
        record=record, what=record_what, segment=record_segment, limit=record_limit, forecasts=save_forecasts,
        dtype=forecast_dtype,
    )  # fmt: skip
    alarms = camera_arguments.alarms_of_all(cameras, given=[key for key in of_camera if is_given(arguments, key)])
    endless = any(each.path is None or each.loop for each in sources)
    page = page_options(serve, serve_host, serve_token)
    ends_or_tells = (output, record, save_forecasts, json, max_frames, page)
    if headless and endless and not any(each.enabled for each in alarms) and all(each is None for each in ends_or_tells):
        raise UsageError(
            "--headless alone would run forever and show nothing\n"
            "  add --output FILE, --record DIR, --json FILE, --alarm, --serve PORT or --max-frames N"
        )
    shown = not headless or output is not None or recording.shows_display or page is not None
    is_video = recording.shows_display or (output is not None and output.suffix.lower() not in SUFFIXES)
    display_wh = _display_wh(overlay, display_size, shown, is_video)
    overlays = default_overlays(display_wh, len(sources)) if overlay is None else parse_overlays(overlay)
    console = stderr_console()
    if len(sources) == 1 and sources[0].camera is None and sources[0].source is None:
        console.print("svg-live: no --camera and no --source: using the synthetic camera, synthetic://digits", markup=False)
    process = LiveOptions(
        source=sources[0],
        model=model, backend=backend, calibrate=measures, device=device, threads=threads, precision=precision, samples=samples,
        horizon=horizon, lead=lead, seed=seed, context=context, post_process=not no_post_process,
        window=not headless, output=output, recording=recording, json=json, overlays=overlays, display_wh=display_wh,
        max_frames=max_frames, adaptive=adaptive, gpu=GpuOptions(cuda_graph, cpu_fallback, cache_dir, workspace), serve=page,
    )  # fmt: skip
    run_cameras(
        [
            replace(
                process,
                name=name,
                source=one,
                roi=None if values["roi"] is None else parse_roi(values["roi"]),
                alarms=own,
                shared_by=values.get("shared_by", {}),
            )
            for name, values, one, own in zip(names, cameras, sources, alarms, strict=True)
        ],
        console,
    )


def _display_wh(overlay: str | None, size: str | None, shown: bool, is_video: bool) -> tuple[int, int]:
    """Size of the display in pixels; it and overlays are refused where nothing is displayed."""
    from svg_runtime.live.overlay.names import DEFAULT_WH, parse_display_size

    idle = [name for name, value in (("--overlay", overlay), ("--display-size", size)) if value is not None]
    if idle and not shown:
        raise UsageError(
            f"{idle[0]} has no effect: nothing is displayed\n  add --output FILE or --record DIR, or remove {idle[0]}"
        )
    return DEFAULT_WH if size is None else parse_display_size(size, is_video)


def main() -> NoReturn:
    """Entry point of `svg-live`."""
    run_command(app, prefix="svg-live: ")
