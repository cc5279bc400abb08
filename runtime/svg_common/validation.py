"""What pydantic finds wrong, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_ITS_OWN = "Value error, "  # which pydantic puts before the message of a validator


def problem_text(item: ErrorDetails) -> str:
    """The message of one of `ValidationError.errors()`."""
    return item["msg"].removeprefix(_ITS_OWN)


def problem_line(item: ErrorDetails) -> str:
    """The same with its place before it: `model.channels: Input should be 1 or 3`."""
    place = ".".join(map(str, item["loc"]))
    return f"{place}: {problem_text(item)}" if place else problem_text(item)
