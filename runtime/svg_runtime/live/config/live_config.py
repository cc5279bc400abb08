"""Reads live.toml: options for all cameras at the top level, and a table [cameras.NAME] for each of several cameras."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.files import refuse_pipe
from svg_common.path_advice import shell_argument
from svg_common.toml_files import read_toml
from svg_runtime.live.camera_names import name_problems
from svg_runtime.live.config.camera_keys import ALARM_KEYS, FOLDER_KEYS
from svg_runtime.live.config.settings import Setting, shown
from svg_runtime.live.config.variables import expand, has_password

CAMERAS = "cameras"
# Options of which one replaces the others, on the command line those of the file, in a camera's table those for all.
ALTERNATIVES = (("camera", "source"), ("fp16", "bf16"), ("calibrate", "no_calibrate"))
_SOURCES = 'source or camera, such as source = "rtsp://host/path", or source = "synthetic://digits" for the synthetic camera'
_SOURCE_KEYS = ("camera", "source")
_OTHERS = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True)
class LiveConfig:
    """A file of which every key and every type is known.

    Attributes:
        path: the file.
        defaults: values for all cameras, as written.
        cameras: name -> values of this camera alone, as written; several cameras in one process read the same.
        settings: key -> option.
    """

    path: Path
    defaults: dict[str, Any]
    cameras: dict[str, dict[str, Any]]
    settings: Mapping[str, Setting]

    @classmethod
    def load(
        cls, path: Path, settings: Mapping[str, Setting], actions: Collection[str] = (), of_camera: Collection[str] = (),
        only: str | None = None, given: Mapping[str, Any] | None = None,
    ) -> LiveConfig:  # fmt: skip
        """Read a file.

        Args:
            path: the file.
            settings: key -> option.
            actions: what the command line alone can say, written as keys.
            of_camera: keys that each of several cameras may have for itself; empty: the command runs one camera.
            only: name of the camera to run; None: all.
            given: what the command line says, which wins.

        Raises:
            UsageError: it does not exist, or is not TOML; or all that is wrong in it, and with the cameras that would run.
        """
        refuse_pipe(path)
        try:
            tables = read_toml(path)
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(
                f"cannot read the configuration '{path}': {reason}\n"
                "  expected a TOML file; svg-live --print-config > live.toml writes one"
            ) from error
        problems = list(_problems(tables, settings, actions))
        cameras = tables.pop(CAMERAS, {})
        named = cameras.items() if isinstance(cameras, dict) else ()
        loaded = cls(path, tables, {name: table for name, table in named if isinstance(table, dict)}, settings)
        problems += loaded._problems_of_run(of_camera, only, given or {})
        if problems:
            raise _invalid(path, problems)
        return loaded

    def choose(self, only: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of one camera over those for all, as written.

        Args:
            only: its name; None: the only one.
            given: what the command line says.

        Raises:
            UsageError: no camera has this name, or there are several and none was named, or it has no source.
        """
        names = list(self.cameras)
        if only is not None and only not in names:
            has = f"it has {', '.join(names)}" if names else f"it has no table [{CAMERAS}.NAME]; remove --only"
            raise UsageError(f"no camera '{only}' in '{self.path}'\n  {has}{_suggestion(only, names)}")
        if only is None and len(names) > 1:
            line = f"svg-live --config {shell_argument(self.path)} --only {shell_argument(names[0])}"
            raise UsageError(
                f"'{self.path}' has {len(names)} cameras: {', '.join(names)}\n  expected one; run, for example: {line}"
            )
        chosen = only if only is not None else next(iter(names), None)
        if chosen is None:
            return dict(self.defaults)
        merged = merge(self.defaults, self.cameras[chosen])
        problems = list(_without_source(chosen, {**merged, **given}))
        if problems:
            raise _invalid(self.path, problems)
        return merged

    def tables(
        self, of_camera: Collection[str], given: Mapping[str, Any], only: str | None = None
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        """Return what is in force of the file for each camera that runs and has a table, as written, by name.

        Args:
            of_camera: keys that a camera may have for itself; others are of the process. Empty: there are no tables.
            given: what the command line says, which wins.
            only: name of the camera to run; None: all.

        Raises:
            UsageError: there are several, and the command line has a source.
        """
        running = {name: table for name, table in self.cameras.items() if of_camera and only in (None, name)}
        source = next((f"--{key}" for key in _SOURCE_KEYS if key in given), None)
        if source is not None and len(running) > 1:
            raise UsageError(
                f"'{self.path}' has {len(running)} cameras, and {source} was given\n"
                f"  remove it, or run one of them from there: --only {shell_argument(next(iter(running)))}"
            )
        return {name: self._of_one(table, of_camera, given) for name, table in running.items()}

    def shared_by(self, name: str, given: Mapping[str, Any]) -> dict[str, int]:
        """How many cameras of the file write below each folder of camera `name`, together or one by one."""
        places = {each: self._folders(table, given) for each, table in self.cameras.items()}
        return {key: [each.get(key) for each in places.values()].count(folder) for key, folder in places[name].items()}

    def _folders(self, table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        merged = merge(self.defaults, table, given)
        return {key: merged[key] for key in FOLDER_KEYS if key in merged and (key not in ALARM_KEYS or merged.get("alarm"))}

    def _of_one(self, table: Mapping[str, Any], of_camera: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
        merged = merge(self.defaults, table, given)
        return {key: value for key, value in merged.items() if key in of_camera and key not in given}

    def _problems_of_run(self, of_camera: Collection[str], only: str | None, given: Mapping[str, Any]) -> Iterable[str]:
        """What is wrong with the cameras that would run, and with variables in their values."""
        names = list(self.cameras)
        if of_camera and only is None and len(names) > 1:
            yield from self._problems_of_cameras(of_camera, given)
            in_force = [("", key, value) for key, value in merge(self.defaults, given).items()]
            for name, table in self.cameras.items():
                in_force += [(f"{CAMERAS}.{name}.", key, value) for key, value in table.items() if key in of_camera]
        else:
            name = only or (names[0] if len(names) == 1 else "")
            table = self.cameras.get(name, {})
            merged = merge(self.defaults, table, given)
            in_force = [(f"{CAMERAS}.{name}." if key in table else "", key, value) for key, value in merged.items()]
            if name in self.cameras:
                yield from _not_names([name] if of_camera else [])
                yield from self._without_alarms(name, given)
                yield from _without_source(name, merged)
        if not any("alarm" in layer for layer in (given, self.defaults, *self.cameras.values())):
            yield from _idle("", set(self.defaults) - set(given), "add alarm = true, or --alarm")
        for place, key, value in in_force:
            if key in self.settings and key not in given and _has_variable(value):  # others were judged as they are
                try:
                    self._value(self.settings[key], value)
                except ValueError as error:
                    yield f"{place}{key}: {error}"

    def _problems_of_cameras(self, of_camera: Collection[str], given: Mapping[str, Any]) -> Iterable[str]:
        """What several cameras cannot have: names, keys of the process, options of alarms without these, no source or two."""
        yield from _not_names(self.cameras)
        for name, table in self.cameras.items():
            yield from _not_of_camera(name, {key: value for key, value in table.items() if key in self.settings}, of_camera)
            yield from self._without_alarms(name, given)
            merged = self._of_one(table, of_camera, given)
            if not any(key in given for key in _SOURCE_KEYS):  # which is another mistake
                yield from _without_source(name, merged)
                yield from _with_two_sources(name, merged)

    def _without_alarms(self, name: str, given: Mapping[str, Any]) -> Iterable[str]:
        """Options of alarms above the tables may be for other cameras, but not those of the camera itself."""
        table = self.cameras[name]
        if not any("alarm" in layer for layer in (table, given)) and not self.defaults.get("alarm"):
            advice = "add alarm = true to this table, or above the tables"
            yield from _idle(f"{CAMERAS}.{name}.", set(table) - set(given), advice)

    def values(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """What the command line would give for values as written: variables expanded, paths relative to the file.

        Raises:
            UsageError: an environment variable is not set, or a value is out of bounds with it.
        """
        found, problems = {}, []
        for key, value in written.items():
            try:
                found[key] = self._value(self.settings[key], value)
            except ValueError as error:
                problems.append(f"{key}: {error}")
        if problems:
            raise _invalid(self.path, problems)
        return found

    def _value(self, setting: Setting, written: Any) -> Any:
        def placed(text: str) -> str:
            expanded = expand(text)
            if text and not expanded:
                raise ValueError(f"{shown(text)} is empty; set the variable, or remove the key")
            return setting.place(expanded, self.path.parent) if expanded else ""

        return setting.convert(each_text(written, placed))

    def portable(self, key: str, value: Any) -> Any:
        """A value as written, which means the same in a file elsewhere: variables stay, paths are absolute."""
        setting, folder = self.settings[key], self.path.parent.absolute()

        def absolute(text: str) -> str:
            expanded = expand(text)
            return text if setting.place(expanded, folder) == expanded else setting.place(text, folder)

        return each_text(value, absolute)

    def password_warning(self) -> str | None:
        """What to do about a file that holds a password and that other users may read; None if all is well.

        One that systemd gives to a service (LoadCredential=) is its own: what looks like rights of a group is its access list.
        """
        tables = [self.defaults, *self.cameras.values()]
        secret = any(has_password(text) for table in tables for text in _texts(table.values()))
        if not secret or os.name != "posix" or _is_credential(self.path) or not self.path.stat().st_mode & _OTHERS:
            return None
        return (
            f"other users may read '{self.path}', and it has a password in an address\n"
            f"  run: chmod 600 {shell_argument(self.path)}; or write ${{NAME}} for an environment variable"
        )


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return folder != "" and path.resolve().is_relative_to(Path(folder).resolve())


def _not_of_camera(name: str, table: Mapping[str, Any], of_camera: Collection[str]) -> Iterable[str]:
    """What a table cannot hold where all cameras run."""
    for key, value in table.items():
        place = f"{CAMERAS}.{name}.{key}"
        if key not in of_camera:
            yield f"{place}: holds for all cameras of a process; write it above the tables, or run --only {name}"
        elif key in _SOURCE_KEYS and isinstance(value, list) and len(value) != 1:
            yield f"{place}: {shown(value)}; expected one, as a table is one camera"


def _not_names(names: Iterable[str]) -> Iterable[str]:
    for name, problem in name_problems(names):
        yield f"{CAMERAS}.{name}: {problem}"


def _idle(place: str, keys: Collection[str], advice: str) -> Iterable[str]:
    """Options of alarms that nobody has, and that nobody has taken back either: somebody forgot to say so."""
    for key in ALARM_KEYS:
        if key in keys:
            yield f"{place}{key}: has no effect without alarms; {advice}"


def _sources(values: Mapping[str, Any]) -> list[str]:
    return [key for key in _SOURCE_KEYS if values.get(key) not in (None, [])]


def _with_two_sources(name: str, values: Mapping[str, Any]) -> Iterable[str]:
    if len(_sources(values)) > 1:
        yield f"{CAMERAS}.{name}: has both camera and source; expected one of them"


def _without_source(name: str, values: Mapping[str, Any]) -> Iterable[str]:
    """A camera that nobody named must not become the synthetic one."""
    if not _sources(values):
        yield f"{CAMERAS}.{name}: has no source; expected {_SOURCES}"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later values over earlier ones; of alternatives, only those of the last layer that has one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for group in ALTERNATIVES:
            if any(layer.get(key) is not None and layer[key] is not False for key in group):  # 0 == False, and is a camera
                merged = {key: value for key, value in merged.items() if key not in group}
        merged.update(layer)
    return merged


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """`value`, or every text in a list, changed."""
    if isinstance(value, (list, tuple)):
        return [each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _problems(tables: Mapping[str, Any], settings: Mapping[str, Setting], actions: Collection[str]) -> Iterable[str]:
    """Every unknown key and every wrong value with its place."""
    for key, value in tables.items():
        if key != CAMERAS:
            yield from _problem(place="", key=key, value=value, settings=settings, actions=actions)
        elif not isinstance(value, dict):
            yield f"{CAMERAS}: {shown(value)}; expected a table for each camera, [{CAMERAS}.NAME]"
    cameras = tables.get(CAMERAS)
    for name, table in cameras.items() if isinstance(cameras, dict) else ():
        if not isinstance(table, dict):
            yield f"{CAMERAS}.{name}: {shown(table)}; expected a table for each camera, [{CAMERAS}.NAME]"
            continue
        for key, value in table.items():
            yield from _problem(place=f"{CAMERAS}.{name}.", key=key, value=value, settings=settings, actions=actions)


def _problem(
    place: str, key: str, value: Any, settings: Mapping[str, Setting], actions: Collection[str]
) -> Iterable[str]:  # fmt: skip
    if key.replace("-", "_") in actions:
        yield f"{place}{key}: belongs on the command line, --{key.replace('_', '-')}; remove it here"
    elif key not in settings:
        known = [*settings, CAMERAS] if not place else list(settings)
        yield f"{place}{key}: unknown key{_suggestion(key, known) or '; svg-live --help has all of them'}"
    elif any(isinstance(item, dict) for item in (value if isinstance(value, list) else [value])):
        yield f"{place}{key}: a table; expected a value, or [{CAMERAS}.NAME] for the table of a camera"
    elif not _has_variable(value):  # with one, the value is judged that is in force
        try:
            settings[key].convert(value)
        except ValueError as error:
            yield f"{place}{key}: {error}"


def _has_variable(value: Any) -> bool:
    return any("${" in text for text in _texts([value]))


def _invalid(path: Path, problems: Iterable[str]) -> UsageError:
    return UsageError("\n  ".join([f"invalid configuration '{path}':", *problems]))


def _suggestion(given: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(given.replace("-", "_"), list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _texts(value)
