"""The options of a command as keys of a file, read from the command's own parameters: a new option needs no change here."""

from __future__ import annotations

import inspect
import math
import os
import shlex
import types
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typer.models import OptionInfo

from svg_common.quantities import parse_seconds
from svg_common.seconds_option import SECONDS

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes", Path: "a path in quotes"}


@dataclass(frozen=True)
class Setting:
    """One option.

    Attributes:
        key: its name in the file: --source-fps is source_fps.
        parameter: the command's argument.
        annotation: type of a value that is given.
        option: help, bounds and form, as the command declares them.
    """

    key: str
    parameter: str
    annotation: Any
    option: OptionInfo

    def convert(self, value: Any) -> Any:
        """Return a value of the file as the command line would give it.

        Raises:
            ValueError: it has another type, or is out of bounds; the message says what was given and expected.
        """
        if self.option.metavar == SECONDS["metavar"] and isinstance(value, str):
            value = parse_seconds(value)
        converted = _converted(self.annotation, value)
        for item in converted if isinstance(converted, list) else [converted]:
            if not isinstance(item, (int, float)) or (math.isfinite(item) and self._low <= item <= self._high):
                continue
            raise ValueError(f"{shown(value)} is out of bounds; expected {self._bounds()}")
        return converted

    @property
    def is_path(self) -> bool:
        """Whether it may name a file or folder."""
        return self.annotation is Path or bool({"FILE", "DIR"} & self._forms)

    def place(self, path: str, folder: Path) -> str:
        """Return a path that a file in `folder` gives as the working folder sees it; addresses and names of models stay.

        So does a program that is found in PATH, and all arguments of a program; and a source that is refused as no path, whose
        message must neither miss the mistake nor repeat a password.
        """
        from svg_runtime.live.sources.addresses import is_stream_address  # numpy, which --help does without
        from svg_runtime.live.sources.foreign_names import is_foreign_name

        if "COMMAND" in self._forms:
            return _placed_command(path, folder)
        if not self.is_path or is_stream_address(path):
            return path
        home = Path(path).expanduser() if path.startswith("~/") else Path(path)
        may_be_name = ("NAME" in self._forms and path == home.stem) or ("URL" in self._forms and is_foreign_name(path))
        if may_be_name and not os.path.exists(folder / home):  # also for a name that is longer than any file's
            return path
        return str(folder / home)

    @property
    def _low(self) -> float:
        return -math.inf if self.option.min is None else self.option.min

    @property
    def _high(self) -> float:
        return math.inf if self.option.max is None else self.option.max

    def _bounds(self) -> str:
        ends = (("at least", self._low), ("at most", self._high))
        return " and ".join(f"{word} {end:g}" for word, end in ends if math.isfinite(end)) or "a number"

    @property
    def _forms(self) -> set[str]:
        """FILE, DIR, NAME, URL of FILE.mp4|DIR/%06d.png: what a value can be."""
        return {form.replace("/", ".").split(".")[0] for form in (self.option.metavar or "").split("|")}


def settings_of(command: Callable[..., Any]) -> dict[str, Setting]:
    """The options of a typer command by their keys, without those that say what the command does (`is_eager`)."""
    found = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        annotation, option = split_annotation(parameter)
        if option is not None and not option.is_eager and option.expose_value:
            key = _key(parameter.name, option)
            found[key] = Setting(key, parameter.name, annotation, option)
    return found


def actions_of(command: Callable[..., Any]) -> set[str]:
    """What is not a key of a file, as if it were one: the options that say what the command does, such as list_cameras."""
    parameters = inspect.signature(command, eval_str=True).parameters
    options = {name: split_annotation(parameter)[1] for name, parameter in parameters.items()}
    return {_key(name, option) for name, option in options.items() if option is not None and option.is_eager}


def split_annotation(parameter: inspect.Parameter) -> tuple[Any, OptionInfo | None]:
    """Type of a given value, without None, and the option that Annotated declares."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter.annotation, None
    annotation, *declared = get_args(parameter.annotation)
    return _without_none(annotation), next((item for item in declared if isinstance(item, OptionInfo)), None)


def opposite(setting: Setting, known: Container[str]) -> str | None:
    """The flag that takes back what a file says: --no-headless of headless, --post-process of no_post_process.

    None for an option that has one, is not a flag, or whose opposite would be one of the keys that are `known`.
    """
    key = setting.key.removeprefix("no_") if setting.key.startswith("no_") else f"no_{setting.key}"
    if setting.annotation is not bool or "/" in "".join(_names(setting.option)) or key in known:
        return None
    return f"--{key.replace('_', '-')}"


def plain(value: Any) -> Any:
    """A value of the command line as a file can hold it."""
    if isinstance(value, list) and len(value) == 1:
        return plain(value[0])
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def shown(value: Any) -> str:
    """A value of a file for a message."""
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _placed_command(command: str, folder: Path) -> str:
    """Put `folder` before a program that is named with its path; `shlex` joins the two, whichever of them is quoted."""
    try:
        program = next(iter(shlex.split(command)), "")
    except ValueError:
        return command  # `AlarmCommand` says what is wrong with its quotes
    if "/" not in program or program.startswith(("/", "~")):
        return command
    return shlex.quote(f"{folder}/") + command.lstrip()


def _key(parameter: str, option: OptionInfo) -> str:
    long = next((name for name in _names(option) if name.startswith("--")), f"--{parameter}")
    return long.split("/")[0][2:].replace("-", "_")


def _names(option: OptionInfo) -> tuple[str, ...]:
    """Names that Annotated declares. The first one is in `default`, which is a value where an option is itself the default."""
    first = () if option.default is ... else (str(option.default),)
    return (*first, *(option.param_decls or ()))


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else annotation


def _converted(annotation: Any, value: Any) -> Any:
    origin = get_origin(annotation)
    if origin in (list, tuple):
        return _converted_list(annotation, value)
    if origin is Literal:
        choices = get_args(annotation)
        chosen = str(value) if type(value) is int else value  # a choice such as 90
        if chosen not in choices:
            raise ValueError(f"{shown(value)}; expected one of {', '.join(choices)}")
        return chosen
    if value == "":
        raise ValueError(f"'' is empty; expected {_KINDS.get(annotation, str(annotation))}, or no such key")
    if annotation is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{shown(value)}; expected a smaller number") from None
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not annotation:
        raise ValueError(f"{shown(value)}; expected {_KINDS.get(annotation, str(annotation))}")
    return value


def _converted_list(annotation: Any, value: Any) -> Any:
    kinds = get_args(annotation)
    many = get_origin(annotation) is list or kinds[-1] is Ellipsis
    if get_origin(annotation) is list and not isinstance(value, list):
        return [_converted(kinds[0], value)]  # as the command line, which can say it once, too
    if not isinstance(value, list) or not (many or len(value) == len(kinds)):
        count = "" if many else f"{len(kinds)} "
        raise ValueError(f"{shown(value)}; expected a list of {count}values in brackets")
    converted = [_converted(kind, item) for kind, item in zip([kinds[0]] * len(value) if many else kinds, value, strict=True)]
    return converted if get_origin(annotation) is list else tuple(converted)
