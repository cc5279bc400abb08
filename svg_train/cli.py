"""`svg-train`: trains a model and writes run/ckpt.pt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from svg_common.command import require_modules, run_command
from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_common.outputs import check_outputs, existing_file
from svg_common.signals import defer_interrupts
from svg_train.config import build_config
from svg_train.config_options import config_options, settings_of
from svg_train.recipe_files import load_recipe, shipped_recipes

app = typer.Typer(pretty_exceptions_enable=False)

_TABLES = ("model", "data", "train")


@app.command()
@config_options(*_TABLES)
def train(
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="recipe: a TOML file, or the name of a built-in recipe; flags override it"),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list-recipes", help="list the built-in recipes and exit")] = False,
    out: Annotated[Path, typer.Option(help="output folder of the run")] = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out exactly where it was saved")] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            help="start from the weights of this checkpoint (.pt, or .pth of the reference implementation or OpenSTL)"
        ),
    ] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="settings of the model of --init that are not in its checkpoint (model_param.json)")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the final held-out metrics to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="data-parallel processes (Lightning Fabric starts them)")] = 1,
    precision: Annotated[
        Literal["auto", "bf16-mixed", "16-mixed", "32-true"], typer.Option(help="auto: bf16 if the hardware supports it")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="data loader processes")] = 0,
    **settings: Any,
) -> None:
    """Train a model on built-in digits, Stochastic Moving MNIST, KTH, BAIR or your own videos.

    Writes OUT/ckpt.pt (best), OUT/last.pt (to resume), metrics.jsonl, TensorBoard events and strips of held-out forecasts.

    Exit codes: 0 ok, 1 error, 2 usage, 4 missing device or extra, 130 stopped by Ctrl-C (saved; continue with --resume).
    """
    if list_recipes:
        _show_recipes()
        return
    require_modules("svg-train", "train", "torch", "lightning_fabric", "tensorboard", "PIL")
    with defer_interrupts():  # heavy: torch
        from svg_train.journal import METRICS
        from svg_train.train import BEST, LAST, Machine, Trainer

    overrides = {table: _given(settings_of(table, settings)) for table in _TABLES}
    if resume and (config is not None or init is not None or any(overrides.values())):
        raise UsageError("--resume continues with the settings of the saved run\n  remove --config, --init and all settings")
    if model_config is not None and init is None:
        raise UsageError("--model-config has no effect without --init; remove it")
    inputs = [existing_file(config), init, model_config, existing_file(overrides["data"].get("root"))]
    check_outputs({"--json": json}, {"--out": out}, needed=[*inputs, *(out / name for name in (BEST, LAST, METRICS))])
    built = build_config(load_recipe(config) if config else {}, overrides)
    evaluation = Trainer(
        config=built,
        out=out,
        machine=Machine(device, processes, precision, workers),
        resume=resume,
        init=init,
        model_config=model_config,
    ).run()
    if json is not None and evaluation is not None:
        write_json(json, evaluation.metrics())


def _show_recipes() -> None:
    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, purpose in recipes.items():
        print(f"{name:<{width}}  {purpose}")


def _given(table: dict[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    return {name: value for name, value in table.items() if value is not None}


def main() -> None:
    """Entry point."""
    run_command(app)
