"""Turns what the command line and the file say of one camera, or of each of several, into its options."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_runtime.live.alarms.options import AlarmOptions, alarm_options
from svg_runtime.live.camera_names import derived_names
from svg_runtime.live.config.camera_keys import ALARM_KEYS
from svg_runtime.live.sources import SourceOptions, Turn, camera_name, check_source
from svg_runtime.live.sources.camera_settings import parse_camera_settings

Values = Mapping[str, Any]  # of the options in CAMERA_KEYS, by parameter; of a table also `shared_by` of `LiveConfig`


def each_camera(values: Values, tables: Mapping[str, Values]) -> list[Values]:
    """The values of each camera: of each table, else of each --camera or --source; all but these hold for all of them.

    Raises:
        UsageError: both --camera and --source were given.
    """
    cameras: list[Values] = []
    for table in tables.values() or [values]:
        if table["camera"] and table["source"]:
            indexes = " ".join(f"--source v4l2://{index}" for index in table["camera"])
            raise UsageError(
                f"both --camera and --source were given\n  expected, for both, {indexes} instead of --camera,\n"
                "  or a file of --config with a table for each camera"
            )
        named = [(key, one) for key in ("camera", "source") for one in table[key] or ()]
        sources: list[dict[str, Any]] = [{"camera": None, "source": None, key: one} for key, one in named]
        cameras += [{**table, **source} for source in sources or [{"camera": None, "source": None}]]
    return cameras


def source_options_of_all(cameras: Sequence[Values], realtime: bool, seed: int) -> list[SourceOptions]:
    """The source of each camera, see `source_options`. Camera i has the seed + i, as its noise: synthetic ones differ."""
    return [source_options(values, realtime, seed + number) for number, values in enumerate(cameras)]


def source_options(values: Values, realtime: bool, seed: int) -> SourceOptions:
    """The source of one camera, checked.

    Raises:
        UsageError: see `check_source`; or an option that does not apply to it.
        BackendMissingError: see `check_source`.
    """
    fps = values["source_fps"]
    options = SourceOptions(
        camera=values["camera"], source=values["source"], source_fps=fps, realtime=realtime, seed=seed,
        reconnect_s=values["reconnect"], settings=parse_camera_settings(values["camera_size"], values["camera_fps"]),
        loop=values["loop"],
        turn=Turn.of(values["rotate"], values["flip"]),
    )  # fmt: skip
    check_source(options)
    if fps is not None and not 0 < fps < math.inf:
        raise UsageError(f"--source-fps {fps:g} is not a rate\n  expected pictures per second, such as 25")
    if fps is not None and options.path is None:
        raise UsageError("--source-fps applies to files without time stamps, not to cameras\n  remove it")
    return options


def alarms_of_all(cameras: Sequence[Values], given: Collection[str] = ()) -> list[AlarmOptions]:
    """The alarms of each camera.

    Args:
        cameras: values of each. Options of alarms may be there for the others alone, or for another run of the same file.
        given: options of the command line, of which nobody else has use: they are refused where no camera has alarms.

    Raises:
        UsageError: as for `alarm_options`.
    """
    if not any(values["alarm"] for values in cameras):
        alarm_options(False, {key: values[key] for values in cameras for key in ALARM_KEYS if key in given})
    return [_alarms(values) if values["alarm"] else AlarmOptions() for values in cameras]


def _alarms(values: Values) -> AlarmOptions:
    return alarm_options(True, {key: values[key] for key in ALARM_KEYS})


def camera_names(sources: Sequence[SourceOptions], tables: Sequence[str]) -> list[str | None]:
    """The name of each camera: of its table, so that it is the same alone; else, of several, of its file, host or device."""
    if len(tables) == len(sources):
        return list(tables)
    return [None] if len(sources) == 1 else list(derived_names(map(_title, sources)))


def _title(source: SourceOptions) -> str:
    if source.path is not None:
        path: Path = source.path.resolve()
        return path.stem if path.is_file() else path.name
    name = camera_name(source) or "digits"
    return name.partition("://")[2] if name.startswith(("rtsp", "http", "udp", "tcp")) else name
