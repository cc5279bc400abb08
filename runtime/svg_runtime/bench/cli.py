"""`svg-bench`: how fast, how large and how exact each backend and precision of this machine runs a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console

from svg_common.command import run_command
from svg_common.files import write_json
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.forecast_options import (
    Bf16Option,
    DeviceOption,
    Fp16Option,
    HorizonOption,
    ModelOption,
    SamplesOption,
    requested_precision,
)

if TYPE_CHECKING:
    from svg_runtime.bench.calibrate import Calibration

app = typer.Typer(pretty_exceptions_enable=False)

_OF_ROWS = ("backend", "device", "seed", "seconds")  # options of the table of all backends alone

BackendOption = Annotated[
    str | None, typer.Option(help="Measure only this backend, or auto for the fastest one that works. Default: all.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the noise and of the synthetic camera.")]
SecondsOption = Annotated[
    float, typer.Option(min=0.1, max=86400.0, help="Measuring time per row, after at most a second of warm-up.")
]
BenchCalibrateOption = Annotated[
    Literal["ready", "full"] | None,
    typer.Option(
        help="Measure only what --backend auto chooses from, and keep the decision for this machine: "
        "what opens in seconds (ready), or also engines that take minutes to build (full)."
    ),
]
DecisionOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Take the decision that --calibrate --json wrote on a machine of the same kind."),
]
JsonOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all results, hardware and versions as JSON.")]


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def bench(
    context: typer.Context,
    model: ModelOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    fp16: Fp16Option = False,
    bf16: Bf16Option = False,
    samples: SamplesOption = 8,
    horizon: HorizonOption = 10,
    seed: SeedOption = 0,
    seconds: SecondsOption = 5.0,
    json: JsonOption = None,
    calibrate: BenchCalibrateOption = None,
    decision: DecisionOption = None,
    version: VersionOption = False,
) -> None:
    """Measure a bundle on this machine: a row for every backend, precision and set of graphs.

    Latency, rates, peak memory, error against fp32, share of the CPU's peak. A case that fails is a row with the reason.

    --fp16 or --bf16 measures only that precision.

    Each row runs in its own process. Ctrl-C stops the benchmark and prints the rows so far.

    Exit codes: 0 ok, 1 error, 2 usage, 4 no backend ran, or an extra is missing, 130 Ctrl-C.
    """
    with defer_interrupts():  # heavy imports: NumPy, OpenCV
        from svg_runtime.bench.bench_report import as_json, print_report
        from svg_runtime.bench.bench_run import BenchOptions, run_bench
        from svg_runtime.bench.calibrate import Calibration
        from svg_runtime.bundle.reader import Bundle, find_model

    precision = requested_precision(fp16, bf16)
    if calibrate is not None or decision is not None:
        _refuse_with_a_choice(context)
    bundle = Bundle.open(find_model(model))
    check_outputs({"--json": json}, needed=[bundle.path, decision])
    if calibrate is not None or decision is not None:
        _calibrate(Calibration(bundle, samples, horizon, precision), calibrate, decision, json)
        return
    for variant in bundle.manifest.variants:
        bundle.graphs(variant)  # a damaged bundle is one error, not one per backend
    options = BenchOptions(
        backend=backend, device=device, precision=precision, samples=samples, horizon=horizon, seed=seed, seconds=seconds
    )
    with ProgressDisplay() as progress:
        findings = run_bench(bundle, options, progress)
    if findings.rows:
        print_report(Console(highlight=False, emoji=False), bundle, options, findings)
        if json is not None:
            write_json(json, as_json(bundle, options, findings))
    if findings.interrupted:
        raise KeyboardInterrupt
    if all(row.result is None for row in findings.rows):
        narrowed = backend is not None or device is not None or precision is not None
        then = "svg-bench without --backend, --device, --fp16 and --bf16" if narrowed else "pip install 'svg-edge[cpu]'"
        raise BackendMissingError(f"no backend could run this bundle; the rows above give the reasons\n  try: {then}")


def _refuse_with_a_choice(context: typer.Context) -> None:
    """Refuse what says nothing about the choice of `auto`: it compares all backends, for as long as it takes."""
    sources = {name: context.get_parameter_source(name) for name in _OF_ROWS}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise UsageError(
            f"{options} has no effect with --calibrate and --decision, which are about --backend auto\n"
            "  remove it, or measure without --calibrate and --decision"
        )


def _calibrate(
    calibration: Calibration, calibrate: Literal["ready", "full"] | None, decision_file: Path | None, json: Path | None
) -> None:
    from svg_runtime.bench.calibrate import decision_table

    if calibrate is not None and decision_file is not None:
        raise UsageError("both --calibrate and --decision were given\n  expected one of them")
    with ProgressDisplay() as progress:
        if decision_file is not None:
            decision = calibration.take(decision_file, progress)
        else:
            decision = calibration.measure(calibrate == "full", progress)
    Console(highlight=False, emoji=False).print("\n".join(decision_table(decision)), markup=False, soft_wrap=True)
    if json is not None:
        write_json(json, calibration.as_json(decision))


def main() -> NoReturn:
    """Entry point of `svg-bench`."""
    run_command(app)
