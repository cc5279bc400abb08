"""Gives a command --config, --only and --print-config, by its own parameters; also several cameras, if it can run them."""

from __future__ import annotations

import functools
import inspect
import math
import os
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

import svg_runtime
from svg_common.command import stderr_console
from svg_common.errors import UsageError
from svg_common.journal import as_warning
from svg_common.toml_files import toml_lines
from svg_runtime.live.config.live_config import CAMERAS, LiveConfig, each_text, merge
from svg_runtime.live.config.settings import Setting, actions_of, opposite, plain, settings_of
from svg_runtime.live.config.variables import escape

Command = TypeVar("Command", bound=Callable[..., Any])

# Eager, as --help: they say what the command does, and are not in the file.
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.toml", is_eager=True, help="Read options from a file; flags override it."),
]
OnlyOption = Annotated[
    str | None, typer.Option("--only", metavar="NAME", is_eager=True, help="Which camera of --config to run. Default: all.")
]
PrintConfigOption = Annotated[
    bool | None,
    typer.Option("--print-config", is_eager=True, help="Print the options in force, as --config reads them, and exit."),
]
_OWN = {"config": ConfigOption, "only": OnlyOption, "print_config": PrintConfigOption}
_TYPERS = ("help", "install_completion", "show_completion")  # which every command has


def configured(command: Command, of_camera: Collection[str] = ()) -> Command:
    """Let a typer command that takes a `typer.Context` read its options from a file; every flag gets its opposite.

    Args:
        command: the command.
        of_camera: keys of options that each of several cameras may have for itself. The command gets the tables of the
            cameras that run as the context's `obj`: name -> parameter -> value of all of these,
            and `shared_by` of `LiveConfig`. None: it runs one camera.
    """
    signature = inspect.signature(command, eval_str=True)
    settings = settings_of(command)
    actions = {*actions_of(command), *_OWN, *_TYPERS}
    flags = {key: opposite(setting, settings) for key, setting in settings.items()}
    switches = {key: _switch(key, flag) for key, flag in flags.items() if flag is not None}
    context_name = next(name for name, value in signature.parameters.items() if value.annotation is typer.Context)

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        # 1) what the command line itself says
        config, only, print_config = (arguments.pop(name) for name in _OWN)
        given = _given(arguments[context_name], settings, arguments)
        _refuse_not_finite(given)
        for key, switch in switches.items():
            if arguments.pop(switch.name):
                given[key] = arguments[settings[key].parameter] = False
        if only is not None and config is None:
            raise UsageError("--only names a camera of a file, and there is no --config\n  add --config live.toml")
        # 2) the rest from the file
        loaded = None
        if config is not None:
            loaded = LiveConfig.load(config, settings, actions=actions, of_camera=of_camera, only=only, given=given)
        written = {}
        tables: dict[str, dict[str, Any]] = {}
        if loaded is not None:
            tables = loaded.tables(of_camera, given, only)
            written = _from_file(loaded, only, given, several=len(tables) > 1)
        values = loaded.values(written) if loaded is not None else {}
        said = {key: arguments[setting.parameter] for key, setting in settings.items()}
        in_force = {**said, **values}
        of_each: dict[str, dict[str, Any]] = {}
        for name, table in tables.items():
            assert loaded is not None
            of_each[name] = {**{key: said[key] for key in of_camera}, **loaded.values(table)}
        # 3) run with both, or show both
        if not print_config:
            everything = [item for table in (in_force, *of_each.values()) for item in table.items()]
            _keep_file(config, [value for key, value in everything if settings[key].is_path])
            shared = {name: loaded.shared_by(name, given) for name in of_each} if loaded is not None else {}
            arguments[context_name].obj = {
                name: {**_by_parameter(table, settings), "shared_by": shared[name]} for name, table in of_each.items()
            }
            return command(**{**arguments, **_by_parameter(in_force, settings)})

        def printable(written: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
            return {key: _printable_value(loaded, settings[key], written.get(key), value) for key, value in values.items()}

        process = {key: value for key, value in in_force.items() if not tables or key not in of_camera}
        _print(printable(written, process), {name: printable(tables[name], values) for name, values in of_each.items()})
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
    parameters = {key: setting.parameter for key, setting in settings.items()}
    return {key: arguments[parameter] for key, parameter in parameters.items() if is_given(context, parameter)}


def is_given(context: Any, parameter: str) -> bool:
    """Whether the command line itself says it: what comes from a file is still the command's default to typer."""
    return bool(context.get_parameter_source(parameter).name != "DEFAULT")


def _refuse_not_finite(given: Mapping[str, Any]) -> None:
    """typer takes nan and inf for numbers, within any bounds."""
    for key, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{key.replace('_', '-')} is {value:g}\n  expected a finite number")


def _keep_file(config: Path | None, paths: Iterable[Any]) -> None:
    """No option may name the file itself: an output would overwrite it."""
    each = (item for path in paths for item in (path if isinstance(path, list) else [path]))
    for path in each:
        if config is not None and isinstance(path, (str, Path)) and os.path.realpath(path) == os.path.realpath(config):
            raise UsageError(f"an option names '{path}', which is the configuration itself\n  choose another file")


def _by_parameter(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {settings[key].parameter: value for key, value in values.items()}


def _from_file(loaded: LiveConfig, only: str | None, given: Mapping[str, Any], several: bool) -> dict[str, Any]:
    """What is in force of a file, as written; of several cameras, what holds for all."""
    warning = loaded.password_warning()
    if warning is not None:
        stderr_console().print(as_warning(f"svg-live: {warning}"), markup=False)
    merged = merge(loaded.defaults if several else loaded.choose(only, given), given)
    return {key: value for key, value in merged.items() if key not in given}


def _printable_value(loaded: LiveConfig | None, setting: Setting, written: Any, value: Any) -> Any:
    """A value that means the same in another file."""
    if written is not None and loaded is not None:
        return loaded.portable(setting.key, written)
    return each_text(plain(value), lambda text: escape(setting.place(text, Path.cwd())))


def _print(values: Mapping[str, Any], cameras: Mapping[str, Mapping[str, Any]]) -> None:
    """To stdout, passwords too: what is printed must work."""
    chosen = _chosen(values)
    left = ", ".join(key for key in values if key not in chosen)
    print(f"# Options of svg-live {svg_runtime.__version__}. Run them with: svg-live --config FILE.toml")
    try:
        lines = toml_lines(chosen)
        tables = [line for name, own in cameras.items() for line in ("", f"[{CAMERAS}.{name}]", *toml_lines(_chosen(own)))]
    except ValueError as error:
        raise UsageError(f"a name cannot be written as TOML, which is Unicode: {error}\n  rename the file or folder") from error
    print(*lines, sep="\n")
    if left:
        print(*textwrap.wrap(f"Not set: {left}", 78, initial_indent="# ", subsequent_indent="# "), sep="\n")
    print(*tables, sep="\n", end="\n" if tables else "")


def _chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, [])}
