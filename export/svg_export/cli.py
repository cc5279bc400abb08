"""`svg-export CHECKPOINT`: a trained checkpoint becomes a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from svg_common.command import require_modules, run_command, stderr_console
from svg_common.files import write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint that svg-train wrote (ckpt.pt)")],
    out: Annotated[Path | None, typer.Option(help="bundle folder to make; default: the checkpoint's name with .svgb")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="add an fp16 variant beside fp32")] = False,
    json: Annotated[Path | None, typer.Option(help="write the manifest's summary to this file")] = None,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, after proving that they compute what the model computes.

    Exit codes: 0 ok, 1 error, 2 usage, 3 parity failed (nothing is published), 4 an extra is missing.
    """
    require_modules("svg-export", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    from svg_export.bundle_writer import write_bundle
    from svg_train.checkpoint import load_checkpoint

    console = stderr_console()
    loaded = load_checkpoint(checkpoint)
    target = out or Path(f"{checkpoint.stem}.svgb")
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    manifest = write_bundle(loaded, sha256, target, fp16, lambda line: console.print(line))
    summary = {
        "bundle": str(target),
        "bundle_id": manifest.bundle_id,
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
    if json is not None:
        write_json(json, summary)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    console.print(f"wrote {target} ({size:.1f} MB)\n  run it with: svg-live --model {target}")


def main() -> None:
    """Entry point."""
    run_command(app)
