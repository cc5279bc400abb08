"""Writes messages of Protocol Buffers as text, in which Triton reads config.pbtxt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


class Name(str):
    """A value of an enumeration, such as TYPE_FP32, which is written without quotes."""


def prototext(message: Mapping[str, object], indent: str = "") -> str:
    """Return a message as text, a field a line.

    Args:
        message: field -> value. A mapping is a message, a list repeats its field; None leaves it out.
        indent: before each line.
    """
    lines = []
    for field, value in message.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            lines.append(f"{indent}{field} {{\n{prototext(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(each, Mapping) for each in value):
                lines += [prototext({field: each}, indent) for each in value]
            else:
                lines.append(f"{indent}{field}: [{', '.join(map(_scalar, value))}]\n")
        else:
            lines.append(f"{indent}{field}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (Name, int)) else json.dumps(value)
