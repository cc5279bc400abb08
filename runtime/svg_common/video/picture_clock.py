"""Date and time in the names of picture files, as surveillance cameras, phones and robots write them.

A minute that ends does not end a film, and 12:00:00 comes a second after 11:59:59: such numbers are one time, not several.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# 2024-01-31_12-00-59, 20240131120059, 2024-01-31 at 12.00.59, 20240131t120059.123z; the last number is a part of the second
_DATE_AND_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.:]?)(\d\d)\2(\d\d)(?:[-_. t]| at |)(\d\d)([-_.:h]?)(\d\d)\6(\d\d)(?:[-_.,](\d{1,9}))?(?!\d)",
    re.ASCII,
)
_UNIX_TIME = re.compile(r"(?<!\d)(\d{9,10})\.(\d{3,9})(?!\d)", re.ASCII)  # 1305031102.175304, as robots' data sets
_SECOND = 10**9  # nanoseconds
_DECIMALS = 3  # and more are decimals of the second, if their first digit is ever used; fewer count the pictures of a second


@dataclass(frozen=True)
class ClockName:
    """A name in lower case with a time in it.

    Attributes:
        rest: the name without the time; names of the same film have the same.
        seconds: since 1970, of whatever time zone.
        part: digits behind the seconds, or "".
        is_decimal: `part` is known to be decimals.
    """

    rest: str
    seconds: int
    part: str
    is_decimal: bool


def read_clock(name: str) -> ClockName | None:
    """Return the time in a file name, in lower case and without suffix; None if it has none."""
    found = _UNIX_TIME.search(name)
    if found:
        return ClockName(_without(name, found), int(found[1]), found[2], is_decimal=True)
    found = _DATE_AND_TIME.search(name)
    if not found:
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 7, 8))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return None
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    return ClockName(_without(name, found), seconds, found[9] or "", is_decimal=False)


def clock_numbers(names: Sequence[ClockName]) -> list[int]:
    """Return a number for the time of each picture of one film, of which only the distances mean anything.

    They are nanoseconds, or what a counter says that runs on from one second to the next.
    """
    parts = [int(name.part or 0) for name in names]
    digits = max(len(name.part) for name in names)
    by_time = [part for _, part in sorted((name.seconds, part) for name, part in zip(names, parts, strict=True))]
    seconds = {name.seconds for name in names}
    runs_on = len(seconds) > 1 and len(seconds) < len(names) and all(a < b for a, b in pairwise(by_time))
    if all(name.is_decimal for name in names):
        return [name.seconds * _SECOND + int(name.part.ljust(9, "0")) for name in names]
    if runs_on:
        return parts
    is_decimal = digits >= _DECIMALS and max(parts) >= 10 ** (digits - 1)
    whole = 10**digits if is_decimal else max(parts) + 1
    return [name.seconds * _SECOND + part * _SECOND // whole for name, part in zip(names, parts, strict=True)]


def _without(name: str, found: re.Match[str]) -> str:
    return f"{name[: found.start()]}\0{name[found.end() :]}"
