"""What pydantic finds wrong, in words for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_ITS_OWN = "Value error, "  # which pydantic puts before the message of a validator
# Problems whose message says what was given, or that nothing was.
_TELLS_ITSELF = ("value_error", "missing", "too_long", "json_invalid", "union_tag_invalid", "union_tag_not_found")
_LONGEST_TEXT = 40  # characters
_MOST_BITS = 64  # of a whole number; a hostile one has megabytes


def problem_text(item: ErrorDetails) -> str:
    """The message of one of `ValidationError.errors()`, and what was given."""
    message = item["msg"].removeprefix(_ITS_OWN)
    if item["type"] in _TELLS_ITSELF:
        return message
    # What stands under a name that nobody knows may be anything, a password as well.
    return f"{message}; given {_shown(item['input'], secret=item['type'] == 'extra_forbidden')}"


def problem_line(item: ErrorDetails) -> str:
    """The same with its place before it: `model.channels: Input should be 1 or 3; given 2`."""
    place = ".".join(map(str, item["loc"]))
    return f"{place}: {problem_text(item)}" if place else problem_text(item)


def _shown(value: object, secret: bool) -> str:
    """A value as JSON has it, in a few printable characters; of long and nested ones, what they are."""
    if isinstance(value, str):
        return json.dumps(value) if len(value) <= _LONGEST_TEXT and not secret else f"a text of {len(value)} characters"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, float) and math.isnan(value):
        return "NaN, which is not a number"
    if isinstance(value, float) and math.isinf(value):
        return f"{'-' if value < 0 else ''}infinity, or a number that is too large"
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else f"a value of the type {type(value).__name__}"
