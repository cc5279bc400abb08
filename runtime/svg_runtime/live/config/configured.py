"""Gives a command --config, --only and --print-config, by its own parameters."""

from __future__ import annotations

import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

import svg_runtime
from svg_common.command import stderr_console
from svg_common.errors import UsageError
from svg_common.toml_files import toml_lines
from svg_runtime.live.config.live_config import LiveConfig, each_text, merge
from svg_runtime.live.config.settings import Setting, opposite, plain, settings_of
from svg_runtime.live.config.variables import escape

Command = TypeVar("Command", bound=Callable[..., Any])

# Eager, as --help: they say what the command does, and are not in the file.
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.toml", is_eager=True, help="Read options from a file; flags override it."),
]
OnlyOption = Annotated[
    str | None, typer.Option("--only", metavar="NAME", is_eager=True, help="Which camera of --config to run.")
]
PrintConfigOption = Annotated[
    bool | None,
    typer.Option("--print-config", is_eager=True, help="Print the options in force, as --config reads them, and exit."),
]
_OWN = {"config": ConfigOption, "only": OnlyOption, "print_config": PrintConfigOption}


def configured(command: Command) -> Command:
    """Let a typer command that takes a `typer.Context` read its options from a file; every flag gets its opposite."""
    signature = inspect.signature(command, eval_str=True)
    settings = settings_of(command)
    flags = {key: opposite(setting) for key, setting in settings.items() if f"no_{key}" not in settings}
    switches = {key: _switch(key, flag) for key, flag in flags.items() if flag is not None}
    context_name = next(name for name, value in signature.parameters.items() if value.annotation is typer.Context)

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        # 1) what the command line itself says
        config, only, print_config = (arguments.pop(name) for name in _OWN)
        given = _given(arguments[context_name], settings, arguments)
        for key, switch in switches.items():
            if arguments.pop(switch.name):
                given[key] = arguments[settings[key].parameter] = False
        if only is not None and config is None:
            raise UsageError("--only names a camera of a file, and there is no --config\n  add --config live.toml")
        # 2) the rest from the file
        loaded = LiveConfig.load(config, settings) if config is not None else None
        written = _from_file(loaded, only, given)
        values = loaded.values(written) if loaded is not None else {}
        for key, value in values.items():
            arguments[settings[key].parameter] = value
        # 3) run with both, or show both
        in_force = {key: arguments[setting.parameter] for key, setting in settings.items()}
        if not print_config:
            _keep_file(config, [value for key, value in in_force.items() if settings[key].is_path])
            return command(**arguments)
        _print({key: _printable_value(loaded, settings[key], written.get(key), value) for key, value in in_force.items()})
        return None

    own = [_keyword(name, option) for name, option in _OWN.items()]
    parameters = [*signature.parameters.values(), *own, *switches.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


def _switch(key: str, flag: str) -> inspect.Parameter:
    """The opposite of a flag. --help leaves it out: at 80 columns its list has no room for another column."""
    return _keyword(f"not_{key}", Annotated[bool | None, typer.Option(flag, is_eager=True, hidden=True)])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _given(context: Any, settings: Mapping[str, Setting], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line itself says."""
    sources = {key: context.get_parameter_source(setting.parameter) for key, setting in settings.items()}
    return {key: arguments[settings[key].parameter] for key, source in sources.items() if source.name != "DEFAULT"}


def _keep_file(config: Path | None, paths: Iterable[Any]) -> None:
    """No option may name the file itself: an output would overwrite it."""
    for path in paths:
        if config is not None and isinstance(path, (str, Path)) and os.path.realpath(path) == os.path.realpath(config):
            raise UsageError(f"an option names '{path}', which is the configuration itself\n  choose another file")


def _from_file(loaded: LiveConfig | None, only: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is in force of a file, as written."""
    if loaded is None:
        return {}
    warning = loaded.password_warning()
    if warning is not None:
        stderr_console().print(f"svg-live: {warning}", markup=False)
    merged = merge(loaded.choose(only), given)
    return {key: value for key, value in merged.items() if key not in given}


def _printable_value(loaded: LiveConfig | None, setting: Setting, written: Any, value: Any) -> Any:
    """A value that means the same in another file."""
    if written is not None and loaded is not None:
        return loaded.portable(setting.key, written)
    return each_text(plain(value), lambda text: escape(setting.place(text, Path.cwd())))


def _print(values: Mapping[str, Any]) -> None:
    """To stdout, passwords too: what is printed must work."""
    chosen = {key: value for key, value in values.items() if value not in (None, [])}
    left = ", ".join(key for key in values if key not in chosen)
    print(f"# Options of svg-live {svg_runtime.__version__}. Run them with: svg-live --config FILE.toml")
    try:
        lines = toml_lines(chosen)
    except ValueError as error:
        raise UsageError(f"a name cannot be written as TOML, which is Unicode: {error}\n  rename the file or folder") from error
    print(*lines, sep="\n")
    if left:
        print(*textwrap.wrap(f"Not set: {left}", 78, initial_indent="# ", subsequent_indent="# "), sep="\n")
