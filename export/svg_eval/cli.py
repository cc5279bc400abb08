"""`svg-eval MODEL`: how good a checkpoint or a bundle is on held-out sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from svg_common.command import require_modules, run_command
from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_eval.anomaly.request import AnomalyRequest
from svg_runtime.forecast_options import Bf16Option, Fp16Option, requested_precision
from svg_train.config import MOST_AT_ONCE
from svg_train.config_options import config_options, settings_of

app = typer.Typer(pretty_exceptions_enable=False)

_DEFAULT_HORIZON = 10
_DEFAULT_SAMPLES = 100
_DEFAULT_SEQUENCES = 256
_LIVE_SAMPLES = 8  # with --anomaly, as svg-live
_EXAMPLES = 8  # sequences that --strips and --page show


def _panel(name: str, help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=name, **settings)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@config_options("data")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Checkpoint, bundle, hf://user/name, or a model of the package: camera, digits. Default: the newest bundle in "
            "this folder, else camera with --data video or --anomaly, else digits."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Inference backend of a bundle. Default: cuda if it works, else openvino on CPUs with bf16 units, else cpu."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device of the backend, or cpu, cuda or cuda:N for a checkpoint.")] = None,
    fp16: Fp16Option = False,
    bf16: Bf16Option = False,
    post_process: Annotated[
        bool, typer.Option("--post-process", help="Correct forecasts by what came before them in the clip, as svg-live does.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_AT_ONCE,
            help=f"Sampled futures per sequence. Default: {_DEFAULT_SAMPLES}, with --anomaly {_LIVE_SAMPLES}.",
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_AT_ONCE, help=f"Forecast frames. Default: {_DEFAULT_HORIZON}, with --anomaly 1."),
    ] = None,
    sequences: Annotated[int | None, typer.Option(min=1, help=f"Held-out sequences. Default: {_DEFAULT_SEQUENCES}.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    protocol: Annotated[
        Literal["smmnist", "kth", "kth40", "bair"] | None,
        typer.Option(help="Data, context and horizon that papers report on; shows their values too."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Another model for the same run, such as a deterministic one; may be repeated."),
    ] = None,
    anomaly: Annotated[
        Path | None,
        _panel(
            "Anomalies",
            "how well anomalous frames of --data video are found: labels as frame ranges (.json, .csv), UCSD's .m, "
            "or a folder of pixel masks",
            metavar="LABELS",
        ),
    ] = None,
    anomaly_first: Annotated[
        int | None, _panel("Anomalies", "number of a clip's first frame in the ranges: 0 or 1; default: 1", min=0, max=1)
    ] = None,
    json: Annotated[Path | None, _panel("Output", "write all metrics to this file")] = None,
    plot: Annotated[Path | None, _panel("Output", "plot metrics per step and best of n to this PNG, PDF or SVG")] = None,
    page: Annotated[Path | None, _panel("Output", "write everything with plots and pictures to this HTML file")] = None,
    strips: Annotated[Path | None, _panel("Output", "save the first sequences as PNG strips and GIFs in this folder")] = None,
    lpips_weights: Annotated[
        Path | None, _panel("Metrics", "TorchScript of LPIPS, from two batches (B, 3, H, W) in [-1, 1] to distances")
    ] = None,
    fvd_weights: Annotated[Path | None, _panel("Metrics", "TorchScript of I3D, such as i3d_torchscript.pt, for FVD")] = None,
    version: VersionOption = False,
    **settings: Any,
) -> None:
    """Evaluate a checkpoint or a bundle: best of N samples, PSNR and SSIM with confidence intervals, diversity, baselines.

    The held-out sequences are those of the data that the model was trained on, unless --data names others. With --anomaly:
    frame-level ROC areas of a bundle's signals on labelled clips, as svg-live and as papers normalise them.

    Exit codes: 0 ok, 1 error, 2 usage, 4 missing backend, device or extra, 130 Ctrl-C.
    """
    source = settings_of("data", settings)
    if anomaly is not None:
        _refuse_with_anomaly(
            {
                "--protocol": protocol, "--baseline": baseline, "--sequences": sequences, "--plot": plot, "--strips": strips,
                "--lpips-weights": lpips_weights, "--fvd-weights": fvd_weights, "--post-process": post_process,
            }
        )  # fmt: skip
        asked = AnomalyRequest(
            labels=anomaly,
            first_number=anomaly_first,
            model=model,
            backend=backend,
            device=device,
            precision=requested_precision(fp16, bf16),
            data=source,
            samples=samples or _LIVE_SAMPLES,
            horizon=horizon or 1,
            seed=seed,
        )
        _evaluate_anomalies(asked, json, page)
        return
    if anomaly_first is not None:
        raise UsageError("--anomaly-first has no effect without --anomaly\n  remove it, or add --anomaly LABELS")
    drawing = [*(["matplotlib"] if plot or page else []), *(["PIL"] if strips or page else [])]
    require_modules("svg-eval", "eval", "torch", "onnxruntime", *drawing)
    with defer_interrupts():  # heavy: torch, ONNX Runtime
        from svg_eval.evaluation_report import as_json
        from svg_eval.evaluation_run import Request, run
        from svg_eval.evaluation_text import as_text
        from svg_eval.measure import Settings
        from svg_eval.page import write_page
        from svg_eval.plots import check_plot_format, draw_plot, files_of_sequences, save_sequences
        from svg_runtime.bundle.reader import find_model

    precision = requested_precision(fp16, bf16)
    if protocol is not None and horizon is not None:
        raise UsageError("--protocol and --horizon were both given\n  a protocol fixes the horizon; remove one of the two")
    if plot is not None:
        check_plot_format(plot)
    strip_files = files_of_sequences(strips, _EXAMPLES) if strips is not None else []
    needed = [find_model(model), *(baseline or ()), lpips_weights, fvd_weights, *strip_files]
    files = {"--json": json, "--plot": plot, "--page": page}
    check_outputs(files, {"--strips": strips}, needed=needed, data=[source["root"]])
    measurement = Settings(
        sequences=sequences or _DEFAULT_SEQUENCES,
        samples=samples or _DEFAULT_SAMPLES,
        horizon=horizon or _DEFAULT_HORIZON,
        seed=seed,
        examples=_EXAMPLES if strips or page else 0,
    )
    request = Request(
        model=model,
        backend=backend,
        device=device,
        precision=precision,
        baselines=tuple(baseline or ()),
        protocol=protocol,
        data=source,
        settings=measurement,
        lpips_weights=lpips_weights,
        fvd_weights=fvd_weights,
        post_process=post_process,
    )
    with ProgressDisplay() as display:
        evaluation = run(request, display)
    print(as_text(evaluation))
    if json is not None:
        write_json(json, as_json(evaluation))
    if plot is not None:
        draw_plot(plot, evaluation)
    if page is not None:
        write_page(page, evaluation)
    if strips is not None:
        save_sequences(strips, evaluation)


def _refuse_with_anomaly(options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} has no effect with --anomaly\n  remove it; evaluate forecasts in another run")


def _evaluate_anomalies(request: AnomalyRequest, json: Path | None, page: Path | None) -> None:
    """`svg-eval --anomaly`: it needs neither torch nor the data sets of svg-train."""
    require_modules("svg-eval", "eval", "onnxruntime", *(["matplotlib"] if page else []))
    with defer_interrupts():  # heavy: ONNX Runtime
        from svg_eval.anomaly.page import write_page
        from svg_eval.anomaly.report import as_json, as_text, report
        from svg_eval.anomaly.run import run
        from svg_runtime.bundle.reader import find_model

    needed, data = [find_model(request.model, real_video=True)], [request.labels, request.data["root"]]
    check_outputs({"--json": json, "--page": page}, needed=needed, data=data)
    with ProgressDisplay() as display:
        result = report(run(request, display))
    print(as_text(result))
    if json is not None:
        write_json(json, as_json(result))
    if page is not None:
        write_page(page, result)


def main() -> None:
    """Entry point."""
    run_command(app)
