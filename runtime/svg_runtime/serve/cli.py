"""`svg-serve`: forecasts over HTTP, with sessions, for programs in any language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from svg_common.command import require_modules, run_command, stderr_console
from svg_common.quantities import parse_duration, parse_size, parsed_option
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.forecast_options import (
    COUNT_LIMIT,
    Bf16Option,
    CacheDirOption,
    CalibrateOption,
    CpuFallbackOption,
    CudaGraphOption,
    DeviceOption,
    Fp16Option,
    NoCalibrateOption,
    ThreadsOption,
    WorkspaceOption,
    requested_calibration,
    requested_precision,
)
from svg_runtime.serve.limits import ServeLimits

app = typer.Typer(pretty_exceptions_enable=False)

DEFAULT_MODELS = ("camera", "digits")  # those in the package
_MODULES = ("starlette", "uvicorn", "prometheus_client")

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="DIR|NAME|ADDRESS",
        help="Bundle (*.svgb) that clients may open, an embedded model, or an address as svg-live takes it; several times for "
        "several. Default: camera, digits.",
    ),
]
ListenOption = Annotated[
    str, typer.Option(metavar="[HOST:]PORT", help="Where to listen. Any other host than this machine alone needs a token.")
]
HostNameOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Further host name by which clients ask for this server: in the DNS, or of a proxy."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The token that clients send. Default: $SVG_EDGE_TOKEN, else a new one, printed, where one is needed.",
    ),
]
MaxSessionsOption = Annotated[int, typer.Option(min=1, max=1024, help="Sessions that are open at the same time.")]
IdleTimeoutOption = Annotated[
    str,
    typer.Option(
        metavar="DURATION", help="A session that gets no frame and no request for so long is closed; GET does not count."
    ),
]
MaxFrameOption = Annotated[str, typer.Option(metavar="SIZE", help="Largest body of a frame.")]
MaxForecastOption = Annotated[str, typer.Option(metavar="SIZE", help="Largest forecast, as float32.")]
MaxSamplesOption = Annotated[
    int,  # not below the samples of a session that names none
    typer.Option(min=8, max=COUNT_LIMIT, help="Samples of the largest forecast: the memory of the engine grows with them."),
]
BackendOption = Annotated[str, typer.Option(help="Inference backend, or auto for the fastest one that works.")]
PrintOption = Annotated[bool, typer.Option("--print-openapi", help="Print the OpenAPI description, and exit.")]


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def serve(
    model: ModelsOption = None,
    listen: ListenOption = "127.0.0.1:8008",
    host_name: HostNameOption = None,
    token_file: TokenFileOption = None,
    max_sessions: MaxSessionsOption = 8,
    idle_timeout: IdleTimeoutOption = "5m",
    max_frame: MaxFrameOption = "32MB",
    max_forecast: MaxForecastOption = "32MB",
    max_samples: MaxSamplesOption = ServeLimits.samples,
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
    print_openapi: PrintOption = False,
    version: VersionOption = False,
) -> None:
    """Serve forecasts over HTTP: open a session with a model, send it frames, ask it for the next ones. The page at / says how.

    SIGTERM, a closed terminal and Ctrl-C let the requests that run finish. Until the models are open, all exit with 130.

    Exit codes: 0 ok (also SIGTERM), 1 error, 2 usage, 4 backend, device or an extra missing, 130 Ctrl-C.
    """
    precision = requested_precision(fp16, bf16)
    measures = requested_calibration(calibrate, no_calibrate, backend)
    limits = ServeLimits(
        sessions=max_sessions,
        idle_s=parsed_option("--idle-timeout", parse_duration, idle_timeout),
        frame_bytes=parsed_option("--max-frame", parse_size, max_frame),
        forecast_bytes=parsed_option("--max-forecast", parse_size, max_forecast),
        samples=max_samples,
    )
    require_modules("svg-serve", "serve", *_MODULES)
    with defer_interrupts():  # heavy imports: OpenCV and the inference engine
        from svg_runtime.serve.catalogue import EngineOptions, model_paths
        from svg_runtime.serve.openapi import describe
        from svg_runtime.serve.server import ServeOptions, run_server
        from svg_runtime.web.address import check_host_name, parse_listen_address

    models = model or DEFAULT_MODELS
    if print_openapi:
        print(json.dumps(describe(list(model_paths(models)), max_samples), indent=2))
        return
    engine = EngineOptions(
        backend=backend, device=device, precision=precision, threads=threads, calibrate=measures,
        gpu=GpuOptions(cuda_graph, cpu_fallback, cache_dir, workspace),
    )  # fmt: skip
    options = ServeOptions(
        models=models, engine=engine, address=parse_listen_address("--listen", listen),
        names=frozenset(check_host_name("--host-name", name) for name in host_name or ()),
        token_file=token_file, limits=limits,
    )  # fmt: skip
    run_server(options, stderr_console())


def main() -> NoReturn:
    """Entry point of `svg-serve`."""
    run_command(app, prefix="svg-serve: ")
