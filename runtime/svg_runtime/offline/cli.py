"""`svg-forecast`: forecasts, surprise and alarms of many stored videos, as Parquet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from svg_common.command import require_modules, run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.quantities import parse_duration, parsed_option
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_runtime.forecast_options import (
    Bf16Option,
    CalibrateOption,
    DeviceOption,
    Fp16Option,
    HorizonOption,
    ModelOption,
    NoCalibrateOption,
    NoPostProcessOption,
    SamplesOption,
    ThreadsOption,
    requested_calibration,
    requested_precision,
)
from svg_runtime.live.alarms.cli_options import (
    AlarmClearOption,
    AlarmCooldownOption,
    AlarmHoldOption,
    AlarmMinDurationOption,
    AlarmSignalOption,
    AlarmThresholdOption,
)
from svg_runtime.live.camera_options import FlipOption, RoiOption, RotateOption

app = typer.Typer(pretty_exceptions_enable=False)
_LEAST_GPU_SHARE = 0.0001  # Ray counts in ten-thousandths

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Videos, folders of videos, lists of both (.txt), and addresses such as s3://bucket/folder or gs://bucket/*.mp4.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Where the Parquet files go. What is done there already is not done again.")
]
ShardOption = Annotated[
    str | None, typer.Option(metavar="I/N", help="Forecast only part I of N: run all parts at once, wherever you like.")
]
KeepOption = Annotated[
    Literal["mean", "spread", "samples"] | None,
    typer.Option(help="Also keep the forecasts: their mean, mean and spread, or all samples. They are large."),
]
SaveEveryOption = Annotated[
    str, typer.Option(metavar="DURATION", help="Publish finished videos this often; a kill costs at most that, and one video.")
]
SourceFpsOption = Annotated[
    float | None, typer.Option(metavar="FPS", help="Pictures per second of videos without time stamps. Default: the codec's.")
]
ContextOption = Annotated[
    Literal["window", "stream"] | None,
    typer.Option(
        help="window: re-read the last frames for every forecast. stream: carry the state along. Default: the bundle's."
    ),
]
BackendOption = Annotated[str, typer.Option(help="Inference backend, or auto for the fastest one that works.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the model's noise, the same for every video.")]
JsonOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a summary: counts of videos, frames, alarms; problems.")
]
RayOption = Annotated[
    int | None,
    typer.Option("--ray", min=1, metavar="WORKERS", help="Spread the videos over workers of Ray Data, here or on a cluster."),
]
RayGpusOption = Annotated[
    float, typer.Option(min=0.0, metavar="SHARE", help="GPUs that each worker of --ray needs, such as 0.5.")
]


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def forecast(
    sources: SourcesArgument,
    out: OutOption,
    model: ModelOption = None,
    shard: ShardOption = None,
    keep: KeepOption = None,
    save_every: SaveEveryOption = "1m",
    samples: SamplesOption = 8,
    horizon: HorizonOption = 10,
    seed: SeedOption = 0,
    context: ContextOption = None,
    no_post_process: NoPostProcessOption = False,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    calibrate: CalibrateOption = None,
    no_calibrate: NoCalibrateOption = False,
    fp16: Fp16Option = False,
    bf16: Bf16Option = False,
    rotate: RotateOption = None,
    flip: FlipOption = None,
    roi: RoiOption = None,
    source_fps: SourceFpsOption = None,
    ray: RayOption = None,
    ray_gpus: RayGpusOption = 0.0,
    json: JsonOption = None,
    alarm_signal: AlarmSignalOption = None,
    alarm_threshold: AlarmThresholdOption = None,
    alarm_clear: AlarmClearOption = None,
    alarm_min_duration: AlarmMinDurationOption = None,
    alarm_hold: AlarmHoldOption = None,
    alarm_cooldown: AlarmCooldownOption = None,
    version: VersionOption = False,
) -> None:
    """Forecast many stored videos: surprise, errors and signals of every frame, alarms and other events, as Parquet.

    Run the same command again after anything went wrong: what is done is kept, and no video is forecast twice. Ctrl-C,
    SIGTERM and a closed terminal publish what is finished.

    Exit codes: 0 ok, 1 error or a video that could not be read, 2 usage, 4 backend, device or an extra missing, 130 Ctrl-C.
    """
    if ray_gpus and not (_LEAST_GPU_SHARE <= ray_gpus <= 1 or ray_gpus.is_integer()):
        raise UsageError(
            f"--ray-gpus {ray_gpus:g} is neither a share of a GPU nor a number of GPUs\n"
            f"  expected {_LEAST_GPU_SHARE:g} to 1, such as 0.25, or 2, 3, ..."
        )
    require_modules("svg-forecast", "forecast", "pyarrow", "filelock")
    if ray is not None:
        require_modules("--ray", "ray", "ray", "pandas")
    elif ray_gpus:
        raise UsageError("--ray-gpus has no effect without --ray\n  add --ray WORKERS")
    if ray is not None and shard is not None:
        raise UsageError("both --ray and --shard were given, but Ray spreads the videos itself\n  expected one of them")
    if source_fps is not None and not 0 < source_fps < math.inf:
        raise UsageError(f"--source-fps {source_fps:g} is not a rate\n  expected pictures per second, such as 25")
    precision = requested_precision(fp16, bf16)
    measures = requested_calibration(calibrate, no_calibrate, backend)
    with defer_interrupts():  # heavy imports: OpenCV, Arrow and the inference engine
        from svg_runtime.live.alarms.options import alarm_options
        from svg_runtime.live.roi import parse_roi
        from svg_runtime.live.sources import Turn
        from svg_runtime.offline.forecast_run import run_forecast
        from svg_runtime.offline.one_video import SeenAs
        from svg_runtime.offline.options import ForecastOptions
        from svg_runtime.offline.shard import Shard, parse_shard

    alarms = alarm_options(True, {
        "alarm_signal": alarm_signal, "alarm_threshold": alarm_threshold,
        "alarm_clear": alarm_clear, "alarm_min_duration": alarm_min_duration, "alarm_hold": alarm_hold,
        "alarm_cooldown": alarm_cooldown,
    })  # fmt: skip
    alarms.check()
    seen_as = SeenAs(
        turn=Turn.of(rotate, flip),
        roi=None if roi is None else parse_roi(roi), source_fps=source_fps, signal=alarms.signal, trigger=alarms.trigger,
    )  # fmt: skip
    options = ForecastOptions(
        sources=tuple(sources), out=out, model=model, backend=backend, calibrate=measures, device=device, threads=threads,
        precision=precision, samples=samples, horizon=horizon, seed=seed, context=context,
        post_process=not no_post_process, seen_as=seen_as, keep=keep,
        shard=Shard() if shard is None else parse_shard(shard),
        save_every_s=parsed_option("--save-every", parse_duration, save_every), ray_workers=ray, ray_gpus=ray_gpus, json=json,
    )  # fmt: skip
    run_forecast(options, stderr_console())


def main() -> NoReturn:
    """Entry point of `svg-forecast`."""
    run_command(app, prefix="svg-forecast: ")
