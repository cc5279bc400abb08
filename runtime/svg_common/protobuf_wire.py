"""Decodes protobuf's wire format without the protobuf package. The input is hostile: every length is checked first.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable

# Number and value: an integer (varint), bytes (fixed 4 or 8 bytes), or a view of the message (strings, bytes, messages).
Field = tuple[int, int | bytes | memoryview]

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are obsolete and refused
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_NUMBER = (1 << 29) - 1  # other readers truncate larger ones, and would see another field
_MAX_FIELDS = 1 << 16  # of one message; the formats read here have some hundred, a hostile file could have 10^9
_MAX_SHIFT = 63  # a varint has at most ten bytes; without a limit, an endless one would take quadratic time


class WireError(ValueError):
    """The bytes are not a protobuf message, or one that is refused."""


def read_fields(message: memoryview) -> list[Field]:
    """Decode the fields of one message, in the order of the file. Messages inside it stay undecoded views.

    Raises:
        WireError: cut short, of an unknown wire type or number, or with too many fields.
    """
    fields: list[Field] = []
    position = 0
    while position < len(message):
        if len(fields) == _MAX_FIELDS:
            raise WireError("too many fields")
        key, position = _read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        if not 0 < number <= _MAX_NUMBER:
            raise WireError(f"invalid field number {number}")
        if wire_type == _VARINT:
            integer, position = _read_varint(message, position)
            fields.append((number, integer))
            continue
        size, position = _content_size(message, position, wire_type)
        if size > len(message) - position:
            raise WireError("truncated: a field is longer than its message")
        content = message[position : position + size]
        fields.append((number, content if wire_type == _LENGTH_DELIMITED else bytes(content)))
        position += size
    return fields


def length_delimited(fields: Iterable[Field], number: int) -> list[memoryview]:
    """Contents of all fields `number`, which are strings, bytes or messages.

    Raises:
        WireError: one of them is a number. protobuf would skip it, but no writer produces it.
    """
    contents = []
    for key, value in fields:
        if key != number:
            continue
        if not isinstance(value, memoryview):
            raise WireError(f"field {number} has the wrong wire type")
        contents.append(value)
    return contents


def _content_size(message: memoryview, position: int, wire_type: int) -> tuple[int, int]:
    """Bytes of a field's content, and where it begins."""
    if wire_type == _LENGTH_DELIMITED:
        return _read_varint(message, position)
    if wire_type in _FIXED_SIZES:
        return _FIXED_SIZES[wire_type], position
    raise WireError(f"unknown wire type {wire_type}")


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the integer at `position`, 7 bits per byte and the lowest first, and the position after it."""
    if position < len(message) and message[position] < 0x80:  # nearly all of them have one byte
        return message[position], position + 1
    value = 0
    for shift in range(0, _MAX_SHIFT + 1, 7):
        if position == len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("unterminated varint")
