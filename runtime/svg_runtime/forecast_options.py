"""Options that mean the same in every command that runs a bundle."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from svg_common.errors import UsageError

Calibrate = Literal["ready", "full", "again", "no"]
COUNT_LIMIT = 1 << 16  # of samples and of horizon: that of the Forecaster, whose import would slow down --help

ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|NAME|ADDRESS",
        help="Bundle (*.svgb), an embedded model (digits, camera), hf://user/name@revision, or "
        "https://host/name.svgb.tar#sha256=HASH. Default: the newest in this folder, else an embedded one.",
    ),
]
SamplesOption = Annotated[int, typer.Option(min=1, max=COUNT_LIMIT, help="Sampled futures per frame.")]
HorizonOption = Annotated[int, typer.Option(min=1, max=COUNT_LIMIT, help="Forecast steps.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads. Default: one per usable core, or what auto measured.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Device of the backend; without --backend it chooses that, too: cuda, or OpenVINO's CPU, GPU, NPU."),
]
Fp16Option = Annotated[bool, typer.Option("--fp16", "--half", help="Run the bundle's fp16 graphs.")]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="Compute in bf16; the bundle must have been exported with --bf16.")]
CudaGraphOption = Annotated[
    bool | None,
    typer.Option(
        "--cuda-graph/--no-cuda-graph", help="NVIDIA GPUs: replay launches as CUDA graphs. Default: the backend's choice."
    ),
]
CpuFallbackOption = Annotated[
    bool, typer.Option("--cpu-fallback", help="cuda, ort-tensorrt: run nodes that the GPU does not support on the CPU.")
]
CacheDirOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Cache folder for engines. Default: $SVG_EDGE_CACHE, else the user's cache folder."),
]
NoPostProcessOption = Annotated[
    bool,
    typer.Option(
        "--no-post-process", help="Leave forecasts as the model makes them: not corrected by what came after earlier ones."
    ),
]
CalibrateOption = Annotated[
    Literal["full", "again"] | None,
    typer.Option(help="What auto measures: also engines that it then builds for minutes, or again. Default: once per model."),
]
NoCalibrateOption = Annotated[
    bool, typer.Option("--no-calibrate", help="auto measures nothing and takes a rule of thumb. Also: SVG_EDGE_CALIBRATE=no.")
]
WorkspaceOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        metavar="GIB",
        help="TensorRT: GPU memory for temporary results while building. Default: the library's choice.",
    ),
]


def requested_calibration(calibrate: Literal["full", "again"] | None, no_calibrate: bool, backend: str) -> Calibrate | None:
    """Return what `auto` is to measure; None leaves it to the environment.

    Raises:
        UsageError: both were given, or without `auto`, or there is no such backend.
    """
    if calibrate is not None and no_calibrate:
        raise UsageError("both --calibrate and --no-calibrate were given\n  expected one of them")
    if backend != "auto" and (calibrate is not None or no_calibrate):
        from svg_runtime.backends import check_backend  # only for an error

        check_backend(backend)
        given = "--no-calibrate" if no_calibrate else "--calibrate"
        raise UsageError(f"{given} has no effect with --backend {backend}, which is used as it is\n  remove one of them")
    return "no" if no_calibrate else calibrate


def requested_precision(fp16: bool, bf16: bool) -> Literal["fp16", "bf16"] | None:
    """Return the precision that the options request; None lets the backend choose.

    Raises:
        UsageError: both were given.
    """
    if fp16 and bf16:
        raise UsageError("both --fp16 and --bf16 were given\n  expected one of them")
    return "fp16" if fp16 else "bf16" if bf16 else None
