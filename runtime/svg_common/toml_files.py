"""TOML files that people write: read with a limit, and written so that reading gives the same values."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svg_common.text_files import decode_text

_MAX_BYTES = 1 << 20  # a device may have no end, and tables of megabytes would take minutes
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, not UTF-8, or too long.
        RecursionError: its tables are nested too deeply.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    return parse_toml(decode_text(content))


def parse_toml(text: str) -> dict[str, Any]:
    """Read the text of a TOML file as plain values; errors: as `read_toml`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    tables: dict[str, Any] = tomllib.loads(text)
    return tables


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Write a table as lines `key = value`.

    Not a library: all that is written are texts, numbers, truth values and lists of these, under names of options, and a
    device should not install a package for that.

    Raises:
        ValueError: a text is not Unicode, such as the name of a file with undecodable bytes.
    """
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool):  # before int, which it is too
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return _text(str(value))


def _text(text: str) -> str:
    """A basic string: TOML forbids every control character in it, DEL too, which JSON allows."""
    text.encode("utf-8")  # a UnicodeEncodeError is a ValueError
    return '"' + "".join(_ESCAPES.get(sign) or (sign if sign.isprintable() else _escaped(sign)) for sign in text) + '"'


def _escaped(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) <= 0xFFFF else f"\\U{ord(sign):08x}"
