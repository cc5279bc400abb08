"""JSON of others, in which no name stands twice in an object: Python would take the last value, other readers the first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

_SHOWN = 40  # characters of a name in a message


class RepeatedNameError(ValueError):
    """An object has a name more than once.

    Attributes:
        name: the name, cut short.
        count: how often.
    """

    def __init__(self, name: str, count: int) -> None:
        super().__init__(f"{name[:_SHOWN]}: given {count} times; expected each name once")
        self.name = name[:_SHOWN]
        self.count = count


def read_json(text: str | bytes, parse_int: Callable[[str], Any] | None = None) -> Any:
    """Read JSON as `json.loads` does.

    Args:
        text: the JSON.
        parse_int: what makes a value of a whole number. None: `int`, which refuses thousands of digits.

    Raises:
        RepeatedNameError: an object has a name more than once.
        ValueError, RecursionError: it is no JSON, or is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_members, parse_int=parse_int)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise RepeatedNameError(*Counter(name for name, _ in pairs).most_common(1)[0])
    return members
