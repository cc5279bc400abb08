"""`svg-train`: trains a model and writes run/ckpt.pt; records a camera and adapts a model to it."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from svg_adapt.adaptation_options import RECIPE, AdaptationOptions
from svg_adapt.adaptation_stage import STATE, exported_bundle, read_stage
from svg_adapt.machine_share import set_niceness, set_threads
from svg_adapt.recording import delete_recording
from svg_common.command import require_modules, run_command
from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_common.outputs import check_outputs, existing_file
from svg_common.path_advice import shell_argument
from svg_common.quantities import count_text, parse_duration, parsed_option, size_text
from svg_common.seconds_option import SECONDS
from svg_common.signals import defer_interrupts
from svg_common.version import VersionOption
from svg_runtime.live.camera_options import CameraFpsOption, CameraSizeOption, FlipOption, RoiOption, RotateOption
from svg_train.config import build_config, families_with
from svg_train.config_options import check_data_options, config_options, fields, settings_of
from svg_train.recipe_files import load_recipe, shipped_recipes
from svg_train.run_folder import RECORDING
from svg_train.shipped_models import find_checkpoint

if TYPE_CHECKING:
    from svg_train.machine import Machine

app = typer.Typer(pretty_exceptions_enable=False)

_TABLES = ("model", "data", "train")
_PLACES = {"root", "cache"}  # of the table data


def _adaptation(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Adaptation", **settings)


def _of_svg_live(option: Any) -> Any:
    """What svg-live says of an option of its own."""
    described = copy(get_args(option)[1])
    described.rich_help_panel = "Adaptation"
    return described


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@config_options(*_TABLES, show_defaults=True)
def train(
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Recipe: a TOML file, or the name of a built-in recipe; flags override it."),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list-recipes", help="List the built-in recipes and exit.")] = False,
    out: Annotated[Path, typer.Option(help="Output folder of the run.")] = Path("run"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out where it was saved; an adaptation: with the same command."),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Start from the weights of this checkpoint (.pt, or .pth of the reference implementation or OpenSTL), or of a "
            "model that ships with the package, such as camera, which is then adapted.",
        ),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(help="JSON file with settings that are not in the checkpoint of --init, such as model_param.json."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the final held-out metrics, or the report of an adaptation, to this file.")
    ] = None,
    source: Annotated[
        str | None,
        _adaptation(
            "Record this and adapt to it: all that svg-live reads, and 0 or /dev/video0.", metavar="FILE|DIR|URL|NUMBER"
        ),
    ] = None,
    camera: Annotated[int | None, _adaptation("Record this local camera, as --source NUMBER.", min=0)] = None,
    record: Annotated[
        str | None, _adaptation("How long to record, such as 20m; a file ends earlier. Default: 20m.", metavar="DURATION")
    ] = None,
    record_limit: Annotated[
        str | None,
        _adaptation("The oldest minutes of a recording give way above this size. Default: 2GB.", metavar="SIZE"),
    ] = None,
    reconnect: Annotated[float | None, _adaptation("How long to wait for a lost camera. Default: 60.", **SECONDS)] = None,
    camera_size: Annotated[str | None, _of_svg_live(CameraSizeOption)] = None,
    camera_fps: Annotated[float | None, _of_svg_live(CameraFpsOption)] = None,
    rotate: Annotated[Literal["0", "90", "180", "270"] | None, _of_svg_live(RotateOption)] = None,
    source_flip: Annotated[Literal["none", "horizontal", "vertical"] | None, _of_svg_live(FlipOption)] = None,
    roi: Annotated[str | None, _of_svg_live(RoiOption)] = None,
    delete_recording: Annotated[
        bool, _adaptation("Delete what was recorded in --out, and the pictures made of it, and exit.", "--delete-recording")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    processes: Annotated[
        int,
        typer.Option(min=1, help="Data-parallel processes on this host, which share the batch; several hosts: with torchrun."),
    ] = 1,
    lost_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="End if another of several processes does not answer for so long; they wait while one evaluates or decodes. "
            "Default: 30m.",
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16-mixed", "16-mixed", "32-true"],
        typer.Option(
            help="auto: bf16; 16-mixed on a GPU without it, 32-true on a CPU where bf16 is no faster. --resume keeps it."
        ),
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, max=256, help="Data loader processes.")] = 0,
    nice: Annotated[
        int | None, typer.Option(min=0, max=19, help="Give way to other programs: 19 runs only when the CPU is otherwise idle.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="CPU threads of each process. Default: one per core, shared by the processes."),
    ] = None,
    version: VersionOption = False,
    **settings: Any,
) -> None:
    """Train a model on built-in digits, Stochastic Moving MNIST, KTH, BAIR or your own videos, or adapt one to your camera.

    Writes OUT/ckpt.pt (best), OUT/last.pt (to resume), metrics.jsonl, TensorBoard events and strips of held-out forecasts.

    --init camera, or another model of the package, is adapted: to --source, which is recorded to OUT/recording, or to the clips
    in --data-root. What that gained is printed; a model that is worth it is exported to OUT.

    Exit codes: 0 ok, 1 error, 2 usage, 3 parity failed (of an adaptation: its model is kept, no bundle written), 4 missing
    device or extra, 5 source lost, 130 stopped by Ctrl-C (saved; continue with --resume).
    """
    if list_recipes:
        _show_recipes()
        return
    if delete_recording:
        _delete_recording(out)
        return
    if nice is not None:
        set_niceness(nice)  # before anything starts a thread
    overrides = {table: _given(settings_of(table, settings)) for table in _TABLES}
    options = AdaptationOptions(
        recipe=config, init=init, source=source, camera=camera, record=record, record_limit=record_limit, reconnect=reconnect,
        camera_size=camera_size, camera_fps=camera_fps, rotate=rotate, source_flip=source_flip, roi=roi,
    )  # fmt: skip
    options.check(overrides["data"], {"--model-config": model_config is not None, "--processes": processes > 1})
    if resume and not options.adapts:
        _check_resume(out, config is not None or init is not None or _has_settings(overrides))
    if model_config is not None and init is None:
        raise UsageError("--model-config has no effect without --init; remove it")
    _choose_length(overrides["train"])
    start = find_checkpoint(init) if init is not None else None
    require_modules("svg-train", "train", "torch", "lightning_fabric", "tensorboard", "PIL")
    with defer_interrupts():  # heavy: torch
        from svg_train.reference.checkpoint import check_format
        from svg_train.run_folder import BEST, LAST, METRICS, STRIPS
        from svg_train.train import Trainer

    own = [exported_bundle(out), *(out / name for name in (BEST, LAST, METRICS, STRIPS, STATE, RECORDING))]
    needed = [existing_file(config), start, model_config, *own]
    check_outputs({"--json": json}, {"--out": out}, needed=needed, data=[overrides["data"].get("root")])
    if threads is not None:
        set_threads(threads)
    machine = _machine(device=device, processes=processes, precision=precision, workers=workers, lost_after=lost_after)
    if options.adapts and start is not None:
        if machine.world_size > 1:
            raise UsageError("an adaptation trains in one process\n  start svg-train without torchrun")
        report: dict[str, Any] | None = _adapt(
            options=options, overrides=overrides, start=start, out=out, machine=machine, resume=resume
        )
    else:
        places = overrides.pop("data") if resume else None
        recipe = load_recipe(config) if config else {}
        if not resume:
            if start is not None:
                check_format(start)  # before what it is to be trained on
            _check_data_options(config, recipe, overrides["data"], start is not None)
            _check_family(config, recipe, overrides["model"].get("family"))
        built = build_config(recipe, overrides)
        evaluation = Trainer(
            config=built, out=out, machine=machine, resume=resume, init=start, model_config=model_config, places=places
        ).run()
        report = evaluation.metrics() if evaluation is not None else None
    if json is not None and report is not None:
        write_json(json, report)
    if not options.adapts and report is not None and (out / BEST).exists():  # a resumed run may have come without it
        _print_best(out / BEST)


def _print_best(model: Path) -> None:
    """It may be of an earlier step than the last one."""
    from svg_train.checkpoint import load_checkpoint

    print(f"best model: {model} (step {load_checkpoint(model).step})\nexport it with: svg-export {shell_argument(model)}")


def _machine(device: str, processes: int, precision: str, workers: int, lost_after: str | None) -> Machine:
    from svg_train.machine import LOST_AFTER_S, Machine

    wait_s = LOST_AFTER_S if lost_after is None else parsed_option("--lost-after", parse_duration, lost_after)
    machine = Machine(device=device, processes=processes, precision=precision, workers=workers, lost_after_s=wait_s)
    if lost_after is not None and machine.world_size == 1:
        raise UsageError("--lost-after has no effect with one process; remove it")
    return machine


def _adapt(
    options: AdaptationOptions,
    overrides: dict[str, dict[str, Any]],
    start: Path,
    out: Path,
    machine: Machine,
    resume: bool,
) -> dict[str, Any]:
    record = options.recording(overrides["data"].pop("source_fps", None) if options.records else None)
    require_modules("svg-train of a camera", "export", "onnx", "onnxscript", "onnxruntime")
    with defer_interrupts():  # heavy: ONNX
        from svg_adapt.adaptation import Adaptation, adapt

    recipe = options.recipe or RECIPE
    return adapt(
        Adaptation(start=start, out=out, recipe=recipe, overrides=overrides, machine=machine, resume=resume, record=record)
    )


def _has_settings(overrides: dict[str, dict[str, Any]]) -> bool:
    """Whether anything is set but where the data is: a run and its data may have moved."""
    return any(set(values) - (_PLACES if table == "data" else set()) for table, values in overrides.items())


def _check_resume(out: Path, has_settings: bool) -> None:
    if has_settings:
        raise UsageError(
            "--resume continues with the settings of the saved run\n"
            "  remove --config, --init and all settings but --data-root and --cache, which may have moved"
        )
    if read_stage(out) not in (None, "done"):
        raise UsageError(f"the run in '{out}' is an adaptation\n  continue it with the command that started it and --resume")


def _check_data_options(config: str | None, recipe: dict[str, Any], data: dict[str, Any], has_init: bool) -> None:
    """Refuse options that do not apply to the data set by the names that they have here, not by keys of a recipe."""
    table = recipe.get("data")
    named = data.get("name") or (table.get("name") if isinstance(table, dict) else None)
    name = str(named or fields("data")["name"].default)
    if config is None and named is None:  # the user did not choose them
        of_clips = "adapt" if has_init else "video"
        remedy = f"{name} are the default; for clips of your own add --config {of_clips}, for another data set --data"
        check_data_options(name, data, remedy)
    else:
        check_data_options(name, data)


def _check_family(name: str | None, recipe: dict[str, Any], family: str | None) -> None:
    """Refuse --family beside a recipe of another family by that, not by each setting of the recipe."""
    table = recipe.get("model")
    settings = {key: families_with(key) for key in table} if isinstance(table, dict) else {}
    foreign = [key for key, families in settings.items() if families and family not in families]
    if family is not None and foreign:
        raise UsageError(
            f"the recipe '{name}' is of another family than --family {family}, which has no {', '.join(foreign)}\n"
            "  choose one with --config (svg-train --list-recipes), or give --family and --data without --config"
        )


def _choose_length(train: dict[str, Any]) -> None:
    """Steps or time: the one that is given replaces the other one of the recipe."""
    if "steps" in train and "duration_s" in train:
        raise UsageError("both --steps and --train were given\n  expected one of them: the length in steps, or in time")
    if "steps" in train:
        train["duration_s"] = None
    elif "duration_s" in train:
        train["duration_s"] = parsed_option("--train", parse_duration, train["duration_s"])


def _delete_recording(out: Path) -> None:
    deleted = delete_recording(out)
    files = f"{count_text(deleted.files, 'file')}, {size_text(deleted.size_bytes)}"
    print(f"deleted {files}: the recording in {out / RECORDING}, its decoded frames, and the pictures that training made of it")
    if deleted.kept:
        print(f"kept what svg-train did not write: {', '.join(map(str, deleted.kept))}")


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
