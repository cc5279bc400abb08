"""Names that a JSON body gives twice: of two values, one would be ignored."""

from __future__ import annotations

from contextlib import suppress

from svg_common.json_text import RepeatedNameError, read_json


def repeated_name(body: bytes) -> tuple[str, int] | None:
    """The first name that an object in a JSON body has more than once, cut short, and how often.

    Returns:
        None if there is none, or if the body is not JSON: what it should be, its validation describes.
    """
    with suppress(ValueError, RecursionError):
        try:
            read_json(body, parse_int=str)  # numbers of any length
        except RepeatedNameError as repeated:
            return repeated.name, repeated.count
    return None
