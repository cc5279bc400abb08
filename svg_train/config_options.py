"""Command-line options generated from the configuration's fields, with their names, help, choices and bounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from svg_common.errors import UsageError
from svg_train.config import DATA_OF_OPTION, GRAY_DATA, Config, families_with
from svg_train.families import FAMILIES

Command = TypeVar("Command", bound=Callable[..., Any])

# On a command line, "--name" and "--root" would be ambiguous.
_RENAMED = {("data", "name"): "data", ("data", "root"): "data_root", ("train", "duration_s"): "train"}
_TEXTS = {("train", "duration_s"): "<duration> [x>0]"}  # given as text, which the field itself parses
_RANGES = ("crop", "playback", "beta_ramp", "sampling_ramp")  # two numbers in ascending order
_PANELS = {"data": "Data", "train": "Training"}


def config_options(*tables: str, only: tuple[str, ...] = (), show_defaults: bool = False) -> Callable[[Command], Command]:
    """Add to a typer command an option for every field of these tables of `Config`, collected by its `**settings`.

    An option that is not given is None, so that it overrides nothing.

    Args:
        tables: of model, data and train.
        only: the fields to take; default: all.
        show_defaults: say in --help what a field is that neither an option nor a recipe sets.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [value for value in signature.parameters.values() if value.kind is not inspect.Parameter.VAR_KEYWORD]
        chosen = [(table, name) for table in tables for name in fields(table) if not only or name in only]
        made = [_parameter(table, name, _default(table, name) if show_defaults else False) for table, name in chosen]
        command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        return command

    return decorate


def settings_of(table: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one table among a command's settings; None means not given."""
    return {name: settings.get(_parameter_name(table, name)) for name in fields(table)}


def flag(table: str, name: str) -> str:
    """The option of a field of a table: root of data is --data-root."""
    return f"--{_parameter_name(table, name).replace('_', '-')}"


def check_data_options(
    name: str, given: Mapping[str, Any], remedy: str = "remove it, or choose one of these with --data"
) -> None:
    """Refuse options of a command line that do not apply to the data set, by the names that they have there.

    Args:
        name: of the data set.
        given: fields of data and their values; one that has its default changes nothing.
        remedy: what to do about an option that does not apply.

    Raises:
        UsageError: one does not apply.
    """
    for option, value in given.items():
        names = DATA_OF_OPTION.get(option, (name,))
        if name not in names and value != fields("data")[option].default:
            raise UsageError(
                f"{flag('data', option)} does not apply to the data '{name}', only to {', '.join(names)}\n  {remedy}"
            )


def check_data_channels(model: str, channels: int, name: str) -> None:
    """Refuse a model in colour for a data set that is gray.

    Raises:
        UsageError: the data set is gray, and the model is not.
    """
    if name in GRAY_DATA and channels != 1:
        raise UsageError(
            f"the model '{model}' has {channels} channels, and the data '{name}' is gray\n  give --data video, or a gray model"
        )


def arguments(table: str, name: str, value: Any) -> str:
    """What to write on a command line for a field of a table: --hidden 64,64 or --no-layer-norm."""
    option = flag(table, name)
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-", 1)
    listed = "," if _is_list(fields(table)[name]) else " "
    return f"{option} {listed.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"


def fields(table: str) -> dict[str, FieldInfo]:
    """The fields of one table of `Config`; of model, those of all families.

    Raises:
        TypeError: families have a setting of one name in different types.
    """
    if table == "model":
        return _fields_of_all({name: family.config.model_fields for name, family in FAMILIES.items()})
    model = Config.model_fields[table].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields


def _fields_of_all(families: Mapping[str, Mapping[str, FieldInfo]]) -> dict[str, FieldInfo]:
    """Fields by name. Where families differ, all that one of them accepts is accepted here, and its own settings check it."""
    merged: dict[str, FieldInfo] = {}
    owners: dict[str, str] = {}
    for family, table in families.items():
        for name, field in table.items():
            owner = owners.setdefault(name, family)
            kinds = _kinds(merged.setdefault(name, field)) | _kinds(field)
            if owner != family and len(kinds) > 1:
                raise TypeError(
                    f"the setting '{name}' has the type {_shown(field)} in the family '{family}' and {_shown(merged[name])} in "
                    f"'{owner}'; expected one type, that of the option {flag('model', name)}\n  rename it in '{family}'"
                )
            merged[name] = _either(merged[name], field, kinds.pop())
    return merged


def _either(first: FieldInfo, second: FieldInfo, kind: Any) -> FieldInfo:
    if first.annotation == second.annotation and bounds(first) == bounds(second):
        return first
    both = [item.annotation for item in (first, second)]
    if all(get_origin(item) is Literal for item in both):
        values = tuple(dict.fromkeys(value for item in both for value in get_args(item)))
        return FieldInfo(annotation=Literal[values], description=first.description)  # type: ignore[arg-type]
    return FieldInfo(annotation=kind, description=first.description)


def _kinds(field: FieldInfo) -> set[Any]:
    """The type of a setting: of choices, that of each."""
    is_choice = get_origin(field.annotation) is Literal
    return {type(value) for value in get_args(field.annotation)} if is_choice else {field.annotation}


def _shown(field: FieldInfo) -> str:
    return field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)


def _parameter_name(table: str, name: str) -> str:
    return _RENAMED.get((table, name), name)


def _parameter(table: str, name: str, default: str | Literal[False]) -> inspect.Parameter:
    field, text = fields(table)[name], _TEXTS.get((table, name))
    limits = {"metavar": text} if text else _limits(name, field)
    option: Any = typer.Option(help=field.description, rich_help_panel=_panel(table, name), show_default=default, **limits)
    return inspect.Parameter(
        _parameter_name(table, name),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None if text or _is_list(field) else field.annotation | None, option],  # type: ignore[operator]
    )


def _default(table: str, name: str) -> str | Literal[False]:
    """The default of a field, as it is given on a command line; False: it has none, or families have different ones."""
    tables = [family.config.model_fields for family in FAMILIES.values()] if table == "model" else [fields(table)]
    defaults = {repr(fields[name].default): fields[name].default for fields in tables if name in fields}
    if len(defaults) > 1 or (default := next(iter(defaults.values()))) in (None, PydanticUndefined):
        return False
    if isinstance(default, bool):
        return "on" if default else "off"
    return arguments(table, name, default).partition(" ")[2]


def _panel(table: str, name: str) -> str:
    """Heading of a group of options in --help: of model, the families that have the setting."""
    if table != "model":
        return "Evaluation" if name.startswith("eval_") else _PANELS[table]
    owners = families_with(name)
    return "Model, all families" if len(owners) == len(FAMILIES) else f"Model, {' and '.join(owners)}"


def _is_list(field: FieldInfo) -> bool:
    """Whether it has any number of values. A command line has them in one text, N,N,..., which the field itself parses."""
    return get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation)


def bounds(field: FieldInfo) -> dict[str, float]:
    """The bounds of a number as pydantic names them: ge, gt, le, lt."""
    return {name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}


def _number_of_values(field: FieldInfo) -> int:
    """How many arguments a command line has for it."""
    kinds = (field.annotation, *get_args(field.annotation))  # a tuple, or a tuple or None
    return next((len(get_args(kind)) for kind in kinds if get_origin(kind) is tuple), 1)


def _limits(name: str, field: FieldInfo) -> dict[str, Any]:
    """The bounds for typer. It cannot exclude an end point, so it only shows such bounds, and the field itself checks them."""
    if _is_list(field):
        return {"metavar": "N,N,..."}
    if name in _RANGES:
        return {"metavar": "FROM TO"}
    if _number_of_values(field) > 1:
        return {"metavar": " ".join("N" * _number_of_values(field))}
    limits = bounds(field)
    if not {"gt", "lt"} & limits.keys():
        return {"min": limits.get("ge"), "max": limits.get("le")}
    low = f"{limits['gt']:g}<" if "gt" in limits else f"{limits['ge']:g}<=" if "ge" in limits else ""
    high = f"<{limits['lt']:g}" if "lt" in limits else f"<={limits['le']:g}" if "le" in limits else ""
    return {"metavar": f"<float range> [{low}x{high}]" if high else f"<float range> [x>{limits['gt']:g}]"}
