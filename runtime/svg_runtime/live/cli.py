"""`svg-live`: forecasts on a camera, on files, or on the synthetic camera, live."""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from svg_common.command import run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.printable import printable
from svg_common.signals import defer_interrupts
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
    SignalChoice,
    WebhookOption,
    size_of,
)

app = typer.Typer(pretty_exceptions_enable=False)


class _Context(str, Enum):
    window = "window"
    stream = "stream"


CameraOption = Annotated[int | None, typer.Option(min=0, help="Index of a local camera. Use --source for a network camera.")]
SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|DIR|URL",
        help="A video, an image, a folder of these, live video such as rtsp://host/path, or synthetic://digits, the default.",
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
OutputOption = Annotated[Path | None, typer.Option(metavar="FILE.mp4", help="Write the display to an H.264 video.")]
HeadlessOption = Annotated[
    bool, typer.Option("--headless", help="No window. Files and the synthetic camera then run as fast as possible.")
]
RealtimeOption = Annotated[bool, typer.Option("--realtime", help="Run at the model's frame rate even without a window.")]
MaxFramesOption = Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")]
LeadOption = Annotated[
    int | None, typer.Option(min=1, help="Forecast step whose mean and spread are shown. Default: the last.")
]
ContextOption = Annotated[
    _Context | None,
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
    float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for a lost camera to come back.")
]
JsonOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write statistics: latency, frames, surprise, forecast scores.")
]


@app.command(context_settings={"help_option_names": ["-h", "--help"], "allow_extra_args": True})
def live(
    arguments: typer.Context,
    model: ModelOption = None,
    camera: CameraOption = None,
    source: SourceOption = None,
    source_fps: SourceFpsOption = None,
    output: OutputOption = None,
    headless: HeadlessOption = False,
    realtime: RealtimeOption = False,
    max_frames: MaxFramesOption = None,
    samples: SamplesOption = 8,
    horizon: HorizonOption = 10,
    lead: LeadOption = None,
    context: ContextOption = None,
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
    alarm_signal: AlarmSignalOption = SignalChoice.combined,
    alarm_threshold: AlarmThresholdOption = 4.5,
    alarm_clear: AlarmClearOption = None,
    alarm_min_duration: AlarmMinDurationOption = 0.2,
    alarm_hold: AlarmHoldOption = 1.0,
    alarm_cooldown: AlarmCooldownOption = 10.0,
    alarm_dir: AlarmDirOption = None,
    alarm_before: AlarmBeforeOption = 5.0,
    alarm_after: AlarmAfterOption = 5.0,
    alarm_buffer: AlarmBufferOption = "64MB",
    alarm_limit: AlarmLimitOption = "1GB",
    events: EventsOption = None,
    mqtt: MqttOption = None,
    webhook: WebhookOption = None,
    on_alarm: OnAlarmOption = None,
) -> None:
    """Watch a camera or a video and forecast its next frames, live: sampled futures, their mean and spread, and surprise.

    Stop it with q or Esc in the window, Ctrl-C, or SIGTERM; the video is then complete and playable. Before the first frame
    nothing is written, and both signals exit with 130.

    Exit codes: 0 ok, 1 error, 2 usage, 4 backend, device or an extra missing, 5 source lost, 130 Ctrl-C.
    """
    if arguments.args:
        raise UsageError(
            f"without an option before it: {' '.join(map(printable, arguments.args))}\n"
            "  expected one source; the shell makes many of *.mp4: give their folder with --source FOLDER/"
        )
    if camera is not None and source is not None:
        raise UsageError("both --camera and --source were given\n  expected one of them")
    precision = requested_precision(fp16, bf16)
    measures = requested_calibration(calibrate, no_calibrate, backend)
    with defer_interrupts():  # heavy imports: OpenCV and the inference engine
        from svg_runtime.live.alarms.options import AlarmOptions
        from svg_runtime.live.alarms.trigger import TriggerOptions
        from svg_runtime.live.loop import LiveOptions, run_live
        from svg_runtime.live.sources import SourceOptions, check_source

    paced = realtime or not headless
    source_options = SourceOptions(
        camera=camera, source=source, source_fps=source_fps, realtime=paced, seed=seed, reconnect_s=reconnect
    )
    check_source(source_options)
    endless = source_options.path is None
    if source_fps is not None and not 0 < source_fps < math.inf:
        raise UsageError(f"--source-fps {source_fps:g} is not a rate\n  expected pictures per second, such as 25")
    if source_fps is not None and endless:
        raise UsageError("--source-fps applies to files without time stamps, not to cameras\n  remove it")
    if headless and endless and output is None and json is None and max_frames is None and not alarm:
        raise UsageError(
            "--headless alone would run forever and show nothing\n"
            "  add --output FILE.mp4, --json FILE, --alarm or --max-frames N"
        )
    if adaptive and not source_options.is_paced:
        raise UsageError("--adaptive holds the rate of a camera, and files are read without one\n  add --realtime")
    console = stderr_console()
    if camera is None and source is None:
        console.print("svg-live: no --camera and no --source: using the synthetic camera, synthetic://digits", markup=False)
    trigger = TriggerOptions(
        threshold=alarm_threshold,
        clear=alarm_threshold / 2 if alarm_clear is None else alarm_clear,
        min_duration_s=alarm_min_duration,
        hold_s=alarm_hold,
        cooldown_s=alarm_cooldown,
    )
    alarms = AlarmOptions(
        enabled=alarm, signal=alarm_signal.value, trigger=trigger, folder=alarm_dir, before_s=alarm_before, after_s=alarm_after,
        buffer_bytes=size_of("--alarm-buffer", alarm_buffer), limit_bytes=size_of("--alarm-limit", alarm_limit),
        events_file=events, mqtt=mqtt, webhook=webhook, command=on_alarm,
    )  # fmt: skip
    options = LiveOptions(
        source=source_options,
        model=model, backend=backend, calibrate=measures, device=device, threads=threads, precision=precision, samples=samples,
        horizon=horizon, lead=lead, seed=seed, context=None if context is None else context.value,
        window=not headless, output=output, json=json,
        max_frames=max_frames, adaptive=adaptive, gpu=GpuOptions(cuda_graph, cpu_fallback, cache_dir, workspace),
        alarms=alarms,
    )  # fmt: skip
    run_live(options, console)


def main() -> NoReturn:
    """Entry point of `svg-live`."""
    run_command(app, prefix="svg-live: ")
