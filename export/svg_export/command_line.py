"""The command line of `svg-export`: an address in it is refused, and it is repeated where a model has to be exported again."""

from __future__ import annotations

from pathlib import Path

import typer

from svg_common.errors import UsageError
from svg_common.path_advice import path_of_file_url, shell_argument
from svg_runtime.bundle.remote.addresses import is_model_address, shown_address


def refuse_address(checkpoint: Path) -> None:
    """Refuse a model that lies elsewhere, which pathlib would take for a file that does not exist.

    Raises:
        UsageError: `checkpoint` is an address, or a URL of a file.
    """
    if not is_model_address(checkpoint) or checkpoint.exists():
        return
    path = path_of_file_url(str(checkpoint))
    if path is not None:
        raise UsageError(f"svg-export takes no URL of a file\n  give the path: svg-export {shell_argument(path)}")
    raise UsageError(
        f"svg-export takes no address, but '{shown_address(checkpoint)}' was given: it reads checkpoints and bundle folders on "
        "this machine\n  download it, and give the checkpoint (ckpt.pt), or with --push, --pack or --triton the bundle's folder"
    )


def model_options(euler_steps: int | None, model_config: Path | None) -> str:
    """The options that make another model of the same file, as a manifest may name them: FILE stands for a path."""
    steps = "" if euler_steps is None else f" --euler-steps {euler_steps}"
    return steps if model_config is None else f"{steps} --model-config FILE"


def given_options(context: typer.Context) -> dict[str, str]:
    """The options of the command line, as they were given: parameter -> --fp16, or --no-fused."""
    given = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if parameter.param_type_name == "option" and source is not None and source.name == "COMMANDLINE":
            given[name] = (parameter.secondary_opts if context.params[name] is False else parameter.opts)[0]
    return given


def repeat_with_data(context: typer.Context, data: str) -> str:
    """The command that was given, with the held-out sequences that it lacked; DIR stands for where they are.

    Args:
        context: of the command.
        data: name of the data set.
    """
    values = {flag: context.params[name] for name, flag in given_options(context).items()}
    given = [flag if isinstance(value, bool) else f"{flag} {shell_argument(str(value))}" for flag, value in values.items()]
    checkpoint = shell_argument(context.params["checkpoint"])
    return " ".join(["svg-export", checkpoint, *given, "--data", data, "--data-root", "DIR"])
