"""`svg-train`: trains a model and writes run/ckpt.pt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from svg_common.command import require_modules, run_command
from svg_common.errors import UsageError
from svg_common.files import existing_file, refuse_overwriting, write_json
from svg_common.signals import defer_interrupts
from svg_train.options import (
    CacheOption,
    DataOption,
    DataRootOption,
    EdgePxOption,
    FrameIntervalOption,
    FrameStepOption,
    NumDigitsOption,
    SplitByOption,
    TestFractionOption,
    data_table,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_MODEL = ("backbone", "variant", "image_size", "channels", "nf", "g_dim", "z_dim", "rnn_size", "predictor_layers",
          "posterior_layers", "prior_layers", "n_past", "skip_lag", "last_frame_skip")  # fmt: skip
_TRAIN = ("steps", "batch_size", "n_future", "lr", "warmup_steps", "beta", "ema_decay", "seed", "eval_every", "eval_sequences",
          "eval_samples", "eval_horizon", "save_every")  # fmt: skip


def _panel(name: str, help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=name)


@app.command()
def train(
    config: Annotated[Path | None, typer.Option(help="TOML recipe; flags override it")] = None,
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out exactly where it was saved")] = False,
    init: Annotated[Path | None, typer.Option(help="start from the weights of this checkpoint (fine-tuning)")] = None,
    json: Annotated[Path | None, typer.Option(help="write the final held-out figures to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="data-parallel processes (Lightning Fabric starts them)")] = 1,
    precision: Annotated[
        Literal["auto", "bf16-mixed", "16-mixed", "32-true"], typer.Option(help="auto: bf16 where the hardware computes in it")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="data loader processes")] = 0,
    data: DataOption = None,
    data_root: DataRootOption = None,
    num_digits: NumDigitsOption = None,
    edge_px: EdgePxOption = None,
    frame_step: FrameStepOption = None,
    frame_interval_s: FrameIntervalOption = None,
    test_fraction: TestFractionOption = None,
    split_by: SplitByOption = None,
    cache: CacheOption = None,
    backbone: Annotated[Literal["dcgan", "vgg"] | None, _panel("Model", "encoder and decoder architecture")] = None,
    variant: Annotated[
        Literal["lp", "fp", "det"] | None, _panel("Model", "learned prior, fixed prior, or deterministic (no latent)")
    ] = None,
    image_size: Annotated[int | None, _panel("Model", "side of the frames in pixels: 64 or 128")] = None,
    channels: Annotated[int | None, _panel("Model", "1: gray, 3: RGB")] = None,
    nf: Annotated[int | None, _panel("Model", "channels of the first convolution")] = None,
    g_dim: Annotated[int | None, _panel("Model", "size of the frame encoding")] = None,
    z_dim: Annotated[int | None, _panel("Model", "size of the latent")] = None,
    rnn_size: Annotated[int | None, _panel("Model", "hidden size of the LSTMs")] = None,
    predictor_layers: Annotated[int | None, _panel("Model", "LSTM layers of the predictor")] = None,
    posterior_layers: Annotated[int | None, _panel("Model", "LSTM layers of the posterior")] = None,
    prior_layers: Annotated[int | None, _panel("Model", "LSTM layers of the prior")] = None,
    n_past: Annotated[int | None, _panel("Model", "observed frames")] = None,
    skip_lag: Annotated[int | None, _panel("Model", "0: skips from the last observed frame, 1: from the one before")] = None,
    last_frame_skip: Annotated[bool | None, _panel("Model", "take skips from every (predicted) frame")] = None,
    steps: Annotated[int | None, _panel("Training", "optimizer steps")] = None,
    batch_size: Annotated[int | None, _panel("Training", "sequences per step and process")] = None,
    n_future: Annotated[int | None, _panel("Training", "frames predicted after n_past")] = None,
    lr: Annotated[float | None, _panel("Training", "peak learning rate")] = None,
    warmup_steps: Annotated[int | None, _panel("Training", "steps of linear warm-up")] = None,
    beta: Annotated[float | None, _panel("Training", "weight of the KL term")] = None,
    ema_decay: Annotated[float | None, _panel("Training", "decay of the averaged weights; 0: off")] = None,
    seed: Annotated[int | None, _panel("Training", "seed of weights, data and noise")] = None,
    eval_every: Annotated[int | None, _panel("Evaluation", "steps between evaluations")] = None,
    eval_sequences: Annotated[int | None, _panel("Evaluation", "held-out sequences")] = None,
    eval_samples: Annotated[int | None, _panel("Evaluation", "sampled futures per sequence")] = None,
    eval_horizon: Annotated[int | None, _panel("Evaluation", "forecast frames")] = None,
    save_every: Annotated[int | None, _panel("Evaluation", "steps between writes of last.pt")] = None,
) -> None:
    """Train SVG on built-in digits, Stochastic Moving MNIST, KTH, BAIR or your own videos.

    Writes OUT/ckpt.pt (best), OUT/last.pt (to resume), metrics.jsonl, TensorBoard events and strips of held-out forecasts.

    Exit codes: 0 ok, 1 error, 2 usage, 4 device or an extra missing, 130 stopped by Ctrl-C (saved; continue with --resume).
    """
    given = dict(locals())
    require_modules("svg-train", "train", "torch", "lightning_fabric", "tensorboard", "PIL")
    with defer_interrupts():  # heavy: torch
        from svg_train.config import build_config, load_recipe
        from svg_train.train import BEST, LAST, Machine, Trainer

    overrides = _overrides(given)
    if resume and (config is not None or init is not None or any(overrides.values())):
        raise UsageError(
            "--resume continues with the settings that the run was started with\n  leave out --config, --init and all settings"
        )
    refuse_overwriting({"--json": json}, [config, init, existing_file(data_root), out / BEST, out / LAST])
    built = build_config(load_recipe(config) if config else {}, overrides)
    evaluation = Trainer(
        config=built, out=out, machine=Machine(device, processes, precision, workers), resume=resume, init=init
    ).run()
    if json is not None and evaluation is not None:
        write_json(json, evaluation.metrics())


def _overrides(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that were given as flags, by table of the configuration."""
    tables = {
        "model": {name: given[name] for name in _MODEL},
        "data": data_table(given),
        "train": {name: given[name] for name in _TRAIN},
    }
    return {table: {key: value for key, value in values.items() if value is not None} for table, values in tables.items()}


def main() -> None:
    """Entry point."""
    run_command(app)
