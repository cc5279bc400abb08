"""Names that a JSON body gives twice: of two values, one would be ignored."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress


def repeated_name(body: bytes) -> tuple[str, int] | None:
    """The first name that an object in a JSON body has more than once, cut short, and how often.

    Returns:
        None if there is none, or if the body is not JSON: what it should be, its validation describes.
    """
    found: list[tuple[str, int]] = []

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found.extend((name[:40], count) for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    with suppress(ValueError, RecursionError):
        json.loads(body, object_pairs_hook=members, parse_int=str)  # numbers of any length
        return found[0] if found else None
    return None
