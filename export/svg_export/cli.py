"""`svg-export CHECKPOINT`: a trained checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from svg_common.command import require_modules, run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_common.outputs import check_outputs, existing_file
from svg_common.path_advice import shell_argument
from svg_common.progress import ProgressDisplay
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_export.command_line import model_options, refuse_address, repeat_with_data
from svg_export.hub.push_options import PushOptions, push_and_report
from svg_export.packing import pack_and_report, require_archive_name
from svg_export.publish_bundle import publish_bundle
from svg_export.triton.options import MAX_CAMERAS, MAX_IDLE_S, MIN_IDLE_S, TritonOptions
from svg_runtime.forecast_options import COUNT_LIMIT
from svg_train.config_options import config_options, flag, settings_of
from svg_train.families.srvp.config import MAX_EULER_STEPS, SrvpConfig

if TYPE_CHECKING:
    from rich.console import Console

    from svg_runtime.bundle.manifest import Manifest
    from svg_train.checkpoint import Checkpoint

app = typer.Typer(pretty_exceptions_enable=False)

_BATCH_NORM = "BatchNorm"
_MAX_UNROLLED = 256  # steps of the graph forecast, each of which has nodes of its own


def _engine(help: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Engines", **limits)


def _server(help: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Servers", **limits)


def _hub(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Hugging Face Hub", **settings)


def _triton(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Triton Inference Server", **settings)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@config_options("data", only=("name", "root", "num_digits", "source_fps"))
def export(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint (.pt), also of the reference implementation (.pth); with --push, --pack or --triton a bundle, too."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Bundle folder to write. Default: the checkpoint's name with .svgb.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="Add fp16 graphs, if they pass the quality gate.")] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Let engines compute the fp32 graphs in bf16, if that passes the quality gate.")
    ] = False,
    fused: Annotated[
        bool, typer.Option(help="Add the fused graphs, one run per forecast frame; without them the bundle is half as large.")
    ] = True,
    shuffled: Annotated[
        bool, typer.Option(help="Add a second decoder that OpenVINO runs faster, if it applies to the backbone.")
    ] = True,
    model_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file with settings that are not in the checkpoint, such as model_param.json."),
    ] = None,
    euler_steps: Annotated[
        int | None,
        typer.Option(
            help="Residual steps per frame instead of those in training: accuracy, not the frame interval (srvp).",
            min=1,
            max=MAX_EULER_STEPS,
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the manifest's summary to this file.")] = None,
    save_checkpoint: Annotated[
        Path | None, typer.Option(help="Also write the exported model to this file, as an svg-edge checkpoint (ckpt.pt).")
    ] = None,
    bn: Annotated[
        Literal["running", "recalibrate"],
        typer.Option(
            help="Statistics of BatchNorm: running, the checkpoint's own; recalibrate, new ones estimated on --data.",
            rich_help_panel=_BATCH_NORM,
        ),
    ] = "running",
    bn_sequences: Annotated[
        int | None,
        typer.Option(help="Training sequences to recalibrate on. Default: 200.", min=16, rich_help_panel=_BATCH_NORM),
    ] = None,
    engine: Annotated[bool, _engine("Also build engines into the bundle: for this NVIDIA GPU, or for --target.")] = False,
    backend: Annotated[str | None, _engine("tensorrt or tensorrt-rtx. Default: tensorrt with a GPU and if installed.")] = None,
    targets: Annotated[
        str | None,
        _engine("Compute capabilities to build for, such as sm75,sm86. Default: this GPU, else all.", "--target"),
    ] = None,
    samples: Annotated[
        int | None, _engine("Largest number of samples to build for. Default: 8.", min=1, max=COUNT_LIMIT)
    ] = None,
    workspace: Annotated[float | None, _engine("GiB of GPU memory for temporary results. Default: no limit.", min=0.01)] = None,
    cache_dir: Annotated[
        str | None, _engine("Cache engines in this folder. Default: $SVG_EDGE_CACHE, else the user's cache.")
    ] = None,
    server: Annotated[
        bool, _server("Also add the graph forecast: whole forecasts of many cameras in one batch, without a state.", "--server")
    ] = False,
    server_horizon: Annotated[
        int | None,
        _server("Forecast frames of that graph. Default: --triton-horizon, else those of training.", min=1, max=_MAX_UNROLLED),
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svgb.tar", help="Also write the bundle as one file, for a web server; prints its address."),
    ] = None,
    push: Annotated[
        str | None,
        _hub("Then push the bundle to the Hugging Face Hub, in one commit with a model card.", metavar="hf://USER/NAME"),
    ] = None,
    licence: Annotated[
        str | None,
        _hub("Licence of the pushed model, such as mit, for its card. Default: not stated.", "--licence", "--license"),
    ] = None,
    public: Annotated[bool, _hub("Let everybody see a model that --push makes. Default: only its owner.", "--public")] = False,
    triton: Annotated[
        Path | None,
        _triton("Also write model repositories into this folder, one per backend, with the graph of --server.", metavar="DIR"),
    ] = None,
    triton_cameras: Annotated[
        int | None, _triton("Largest number of cameras at a time. Default: 16.", min=1, max=MAX_CAMERAS)
    ] = None,
    triton_samples: Annotated[int | None, _triton("Futures per forecast. Default: 8.", min=1, max=COUNT_LIMIT)] = None,
    triton_horizon: Annotated[
        int | None, _triton("Frames per future. Default: those of the graph forecast, else 10.", min=1, max=_MAX_UNROLLED)
    ] = None,
    triton_idle: Annotated[
        float | None,
        _triton("Seconds without a frame after which a camera's state is freed. Default: 10.", min=MIN_IDLE_S, max=MAX_IDLE_S),
    ] = None,
    version: VersionOption = False,
    **settings: Any,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, after proving that they compute what the model computes.

    --fp16 and --bf16 must pass a quality gate on held-out sequences of the checkpoint's own data, or of --data. Without them
    they are compared with fp32 on drawn frames, and are then used only where they are chosen by name.
    --bn recalibrate needs --data.

    svg-export BUNDLE with --push hf://user/name, --pack name.svgb.tar or --triton DIR takes a bundle as it is.

    Exit codes: 0 ok, 1 error, 2 usage, 3 parity failed, precision too low, or a bundle that the runtime would refuse (nothing
    is published), 4 missing extra or backend, or no bf16 on this machine, 130 Ctrl-C.
    """
    # 1) a bundle as it is: nothing is exported
    refuse_address(checkpoint)
    options = PushOptions(push, licence, public)
    require_archive_name(pack)
    served = TritonOptions(
        out=triton, cameras=triton_cameras, samples=triton_samples, horizon=triton_horizon, idle_s=triton_idle
    )
    if checkpoint.is_dir() and any(each is not None for each in (push, pack, triton)):
        served.check_horizon(checkpoint)
        publish_bundle(context, push=options, pack=pack, triton=served, folder=checkpoint)
        return
    # 2) refuse options that contradict each other, before the seconds that importing torch takes
    server = server or (triton is not None and fused)  # for the backends that run no Python
    _check_server(server, fused, server_horizon, triton_horizon)
    source = settings_of("data", settings)
    _check_data(bn, fp16 or bf16, source, bn_sequences)
    require_modules("svg-export", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    with defer_interrupts():  # onnx, which --help must not load
        from svg_export.engine_options import engine_request
    request = engine_request(
        engine=engine, backend=backend, targets=targets, samples=samples, workspace=workspace, cache_dir=cache_dir
    )
    with defer_interrupts():  # heavy: torch, ONNX Runtime
        from svg_export.bundle_writer import refuse_foreign, write_bundle
        from svg_export.precision import load_held_out
        from svg_train.reference.checkpoint import load_with_sha256

    # 3) refuse, before the work, files and addresses that could not be written
    prepared = options.prepare()
    console = stderr_console()
    target = out or Path(f"{checkpoint.stem}.svgb")
    inputs = [existing_file(checkpoint), existing_file(model_config)]
    refuse_foreign(target)
    files = {"--save-checkpoint": save_checkpoint, "--pack": pack, "--json": json}
    check_outputs(
        files,
        {"--triton": triton},
        replaced={"--out": target},
        closed=served.folders,
        needed=inputs,
        data=[source["root"]],
    )
    served.check(target)
    # 4) load the model, and what its precision is measured on
    loaded, sha256 = load_with_sha256(checkpoint, model_config)
    _check_graphs(loaded, fused, shuffled)
    unrolled = _unrolled_steps(loaded, server_horizon or triton_horizon) if server else None
    if euler_steps is not None:
        loaded = _with_euler_steps(loaded, euler_steps)
    held_out = load_held_out(
        checkpoint=loaded, given=source, fp16=fp16, bf16=bf16, model_options=model_options(euler_steps, model_config)
    )
    batch_norm: dict[str, Any] = {"recalibrated": False}
    if bn == "recalibrate":
        loaded, batch_norm = _recalibrate(loaded, source, bn_sequences, console)
    # 5) export it
    with _saved(loaded, save_checkpoint, console), ProgressDisplay(console) as display:
        manifest = write_bundle(
            checkpoint=loaded,
            checkpoint_sha256=sha256,
            out=target,
            fp16=fp16,
            fused=fused,
            bf16=bf16,
            held_out=held_out,
            shuffled=shuffled,
            server_horizon=unrolled,
            progress=display,
        )
    summary = {"bundle": str(target), "batch_norm": batch_norm, **_summary(manifest)}
    if request is not None:
        with ProgressDisplay(console) as display:
            summary["engines"] = request.build(target, display)
    # 6) say what was written, and pass it on
    _report(manifest, lambda: repeat_with_data(context, loaded.config.data.name), target, console)
    if pack is not None:
        summary["packed"] = pack_and_report(target, pack, console)
    if triton is not None:
        summary["triton"] = served.write(target, console)
    if prepared is not None:
        summary["pushed"] = push_and_report(prepared, target, console)
    if json is not None:
        write_json(json, summary)


def _summary(manifest: Manifest) -> dict[str, Any]:
    from svg_export.parity import frame_curve

    variants = {}
    for name, variant in manifest.variants.items():
        parity, quality = variant.parity, variant.quality
        variants[name] = {
            "max_error": parity.max_error if parity else None,
            "frame": frame_curve(parity).model_dump() if parity else None,
            "quality": quality.model_dump() if quality else None,
            "divergence": variant.divergence.model_dump() if variant.divergence else None,
        }
    return {"bundle_id": manifest.bundle_id, "variants": variants}


def _report(manifest: Manifest, measure_with: Callable[[], str], target: Path, console: Console) -> None:
    """Print what was written, and its quality, or the command that measures it."""
    from svg_export.parity import frame_curve
    from svg_export.precision import describe, describe_unmeasured

    for name, variant in manifest.variants.items():
        if variant.parity is not None:
            psnr_db = frame_curve(variant.parity).psnr_db
            assert psnr_db is not None
            console.print(
                f"{name}: largest error {variant.parity.max_error:.2g} against {variant.parity.reference}; forecast frames "
                f"{psnr_db[0]:.0f} dB at step 1, {psnr_db[-1]:.0f} dB at step {len(psnr_db)}"
            )
        if variant.quality is not None:
            for line in describe(name, variant.quality):
                console.print(line, markup=False)
        if variant.divergence is not None:
            for line in describe_unmeasured(name, variant.divergence, measure_with()):
                console.print(line, markup=False)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    console.print(f"wrote {target} ({size:.1f} MB)\n  run it with: svg-live --model {shell_argument(target)}", markup=False)


@contextmanager
def _saved(checkpoint: Checkpoint, path: Path | None, console: Console) -> Iterator[None]:
    """Save the model to `path`, if any. It appears there once the block has succeeded: only a model that passes its gates."""
    from svg_train.checkpoint import staged_checkpoint

    if path is None:
        yield
        return
    with staged_checkpoint(path, replace(checkpoint, training=None)):  # a model, not a run that can be resumed
        yield
    console.print(f"wrote {path}", markup=False)


def _check_server(server: bool, fused: bool, server_horizon: int | None, triton_horizon: int | None) -> None:
    """Refuse options of the graph forecast that contradict each other."""
    if server_horizon is not None and not server:
        raise UsageError("--server-horizon has no effect without --server\n  add --server, or remove it")
    if server_horizon is not None and triton_horizon not in (None, server_horizon):
        raise UsageError(
            f"--server-horizon {server_horizon} and --triton-horizon {triton_horizon} differ, but the models of a repository "
            "share the graph\n  remove one of the two"
        )
    if server and not fused:
        raise UsageError("--server composes its graph of the fused graphs\n  remove --no-fused")


def _check_data(bn: str, reduced: bool, source: dict[str, Any], sequences: int | None) -> None:
    """Refuse --bn recalibrate without data, and options that would have no effect."""
    given = [flag("data", name) for name, value in source.items() if value is not None]
    if bn == "recalibrate" and source["name"] is None:
        raise UsageError(
            "--bn recalibrate needs sequences of the kind that the model was trained on\n  add --data, such as --data digits"
        )
    if bn == "running" and sequences is not None:
        raise UsageError("--bn-sequences has no effect with --bn running\n  add --bn recalibrate, or remove it")
    if bn == "running" and not reduced and given:
        raise UsageError(
            f"{', '.join(given)} given, but only --fp16, --bf16 and --bn recalibrate use data\n  add one of these, or remove "
            + " ".join(given)
        )


def _check_graphs(checkpoint: Checkpoint, fused: bool, shuffled: bool) -> None:
    """Refuse --no-fused and --no-shuffled for a family that has fused graphs alone."""
    from svg_export.families import FAMILY_EXPORTS

    family = checkpoint.config.model.family
    if FAMILY_EXPORTS[family].has_separate:
        return
    if not fused:
        raise UsageError(f"models of the family '{family}' have fused graphs only\n  remove --no-fused")
    if not shuffled:
        raise UsageError(
            f"--no-shuffled has no effect on models of the family '{family}', which have no graph decoder\n  remove it"
        )


def _unrolled_steps(checkpoint: Checkpoint, asked: int | None) -> int:
    """Frames of the graph forecast: what was asked for, else those of training, if these are not too many."""
    steps = checkpoint.config.train.n_future if asked is None else asked
    if steps > _MAX_UNROLLED:
        raise UsageError(
            f"the graph forecast would have the {steps} frames of training\n"
            f"  expected at most {_MAX_UNROLLED}: add --server-horizon, such as --server-horizon 10"
        )
    return steps


def _with_euler_steps(checkpoint: Checkpoint, steps: int) -> Checkpoint:
    """The same weights with another number of residual steps per frame. Metrics of the training do not hold for it."""
    config = checkpoint.config
    if not isinstance(config.model, SrvpConfig):
        raise UsageError(
            f"--euler-steps has no effect on models of the family '{config.model.family}', only on srvp\n  remove it"
        )
    model = config.model.model_copy(update={"n_euler_steps": steps})
    return replace(checkpoint, config=config.model_copy(update={"model": model}), metrics={}, training=None)


def _recalibrate(
    checkpoint: Checkpoint, source: dict[str, Any], sequences: int | None, console: Console
) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the checkpoint with new BatchNorm statistics, and the metrics for the summary."""
    from svg_export.recalibrate import DEFAULT_SEQUENCES, recalibrate_checkpoint

    recalibration = recalibrate_checkpoint(checkpoint, source, sequences or DEFAULT_SEQUENCES)
    for line in recalibration.lines():
        console.print(line, markup=False)  # a path may hold brackets
    return recalibration.checkpoint, recalibration.summary()


def main() -> None:
    """Entry point."""
    run_command(app)
