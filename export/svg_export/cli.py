"""`svg-export CHECKPOINT`: a trained checkpoint becomes a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from svg_common.command import require_modules, run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_export.engine_options import engine_request
from svg_runtime.options import COUNT_LIMIT

if TYPE_CHECKING:
    from rich.console import Console

    from svg_train.checkpoint import Checkpoint

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _batch_norm(help: str, least: int | None = None) -> Any:
    return typer.Option(help=help, min=least, rich_help_panel="BatchNorm")


def _engine(help: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Engines", **limits)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="what svg-train or the reference implementation wrote (.pt, .pth)")],
    out: Annotated[Path | None, typer.Option(help="bundle folder to make; default: the checkpoint's name with .svgb")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="add an fp16 variant beside fp32")] = False,
    fused: Annotated[
        bool, typer.Option(help="add the fused graphs, one run per forecast frame; without them the bundle is half as large")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="write the manifest's summary to this file")] = None,
    save_checkpoint: Annotated[
        Path | None, typer.Option(help="also write what is exported as an svg-edge checkpoint (ckpt.pt) to this file")
    ] = None,
    bn: Annotated[
        Literal["running", "recalibrate"],
        _batch_norm("statistics: running, the checkpoint's own; recalibrate, estimated anew on --data"),
    ] = "running",
    data: Annotated[str | None, _batch_norm("data set to recalibrate on, as in svg-train")] = None,
    data_root: Annotated[str | None, _batch_norm("its files")] = None,
    num_digits: Annotated[int | None, _batch_norm("digits per scene (digits, smmnist)")] = None,
    bn_sequences: Annotated[int | None, _batch_norm("training sequences to recalibrate on; default: 200", 16)] = None,
    engine: Annotated[bool, _engine("also build engines for NVIDIA GPUs, into the bundle; no GPU is needed here")] = False,
    backend: Annotated[str | None, _engine("whose engines; default: tensorrt-rtx")] = None,
    targets: Annotated[
        str | None, _engine("compute capabilities to build for, such as sm75,sm86,sm120; default: all known", "--target")
    ] = None,
    samples: Annotated[int | None, _engine("most samples to build for; default: 8", min=1, max=COUNT_LIMIT)] = None,
    workspace: Annotated[float | None, _engine("GiB of GPU memory for temporary results; default: no limit", min=0.01)] = None,
    cache_dir: Annotated[str | None, _engine("keep engines here; default: $SVG_EDGE_CACHE, else the user's cache")] = None,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, after proving that they compute what the model computes.

    Exit codes: 0 ok, 1 error, 2 usage, 3 parity failed (nothing is published), 4 an extra or a backend is missing.
    """
    source = {"name": data, "root": data_root, "num_digits": num_digits}
    _check_recalibration(bn, source, bn_sequences)
    request = engine_request(engine, backend, targets, samples, workspace, cache_dir)
    require_modules("svg-export", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    from svg_export.bundle_writer import refuse_foreign, write_bundle
    from svg_export.reference.checkpoint import load_any_checkpoint

    console = stderr_console()
    _refuse_same_file(checkpoint, save_checkpoint)
    loaded = load_any_checkpoint(checkpoint)
    target = out or Path(f"{checkpoint.stem}.svgb")
    batch_norm: dict[str, Any] = {"recalibrated": False}
    if bn == "recalibrate":
        refuse_foreign(target)  # before minutes of work
        loaded, batch_norm = _recalibrate(loaded, source, bn_sequences, console)
    if save_checkpoint is not None:
        _save(loaded, save_checkpoint, console)
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    manifest = write_bundle(loaded, sha256, target, fp16, lambda line: console.print(line), fused)
    summary = {
        "bundle": str(target),
        "bundle_id": manifest.bundle_id,
        "batch_norm": batch_norm,
        "variants": {
            name: {"max_error": variant.parity.max_error, "frame": variant.parity.curves["forecast.decoder.frame"].model_dump()}
            for name, variant in manifest.variants.items()
        },
    }
    for name, variant in manifest.variants.items():
        frame = variant.parity.curves["forecast.decoder.frame"]
        assert frame.psnr_db is not None
        console.print(
            f"{name}: largest error {variant.parity.max_error:.2g} against {variant.parity.reference}; forecast frames "
            f"{frame.psnr_db[0]:.0f} dB at step 1, {frame.psnr_db[-1]:.0f} dB at step {len(frame.psnr_db)}"
        )
    if request is not None:
        summary["engines"] = request.fulfil(target, lambda line: console.print(line, markup=False))
    if json is not None:
        write_json(json, summary)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    console.print(f"wrote {target} ({size:.1f} MB)\n  run it with: svg-live --model {target}")


def _refuse_same_file(checkpoint: Path, save_checkpoint: Path | None) -> None:
    if (
        save_checkpoint is not None
        and save_checkpoint.exists()
        and checkpoint.exists()
        and save_checkpoint.samefile(checkpoint)
    ):
        raise UsageError("--save-checkpoint would overwrite the checkpoint that is exported\n  give it another name")


def _save(checkpoint: Checkpoint, path: Path, console: Console) -> None:
    from svg_train.checkpoint import save_checkpoint

    save_checkpoint(path, checkpoint)
    console.print(f"wrote {path}", markup=False)


def _check_recalibration(bn: str, source: dict[str, Any], sequences: int | None) -> None:
    """Refuse --bn recalibrate without data, and data that would have no effect."""
    flags = {"--data": source["name"], "--data-root": source["root"], "--num-digits": source["num_digits"]}
    given = [flag for flag, value in {**flags, "--bn-sequences": sequences}.items() if value is not None]
    if bn == "recalibrate" and "--data" not in given:
        raise UsageError(
            "--bn recalibrate needs sequences of the kind that the model was trained on\n  add --data, such as --data digits"
        )
    if bn == "running" and given:
        raise UsageError(
            f"{', '.join(given)} given, but --bn running uses no data\n  add --bn recalibrate, or leave out {' '.join(given)}"
        )


def _recalibrate(
    checkpoint: Checkpoint, source: dict[str, Any], sequences: int | None, console: Console
) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the checkpoint with new BatchNorm statistics, and the figures for the summary."""
    from svg_export.recalibrate import DEFAULT_SEQUENCES, recalibrate_checkpoint

    def say(line: str) -> None:
        console.print(line, markup=False)  # a path may hold brackets

    recalibration = recalibrate_checkpoint(checkpoint, source, sequences or DEFAULT_SEQUENCES, say)
    for line in recalibration.lines():
        say(line)
    return recalibration.checkpoint, recalibration.summary()


def main() -> None:
    """Entry point."""
    run_command(app)
