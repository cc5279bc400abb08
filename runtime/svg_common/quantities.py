"""Durations and sizes as people write them on a command line: 90s, 20m, 1h30m; 500MB, 2GB, 1.5GiB. And counts in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

from svg_common.errors import UsageError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0)  # of the groups above
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT])(i?)B?", re.IGNORECASE)
_BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}  # with an i, as in GiB

_Value = TypeVar("_Value")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 20m, 2h, 1d or 1h30m. A number needs its unit: 20 could be anything.

    Raises:
        ValueError: it is not a duration above 0; the message has examples.
    """
    seconds = _seconds(text)
    if not 0 < seconds < math.inf:
        what = "no time at all" if seconds == 0 else "not a duration"
        raise ValueError(f"'{text}' is {what}; expected a number with its unit, such as 90s, 20m, 2h or 1h30m")
    return seconds


def parse_seconds(text: str) -> float:
    """Seconds of a number alone, such as 5 or 0.3, or of a duration with its unit, as `parse_duration`; 0 is one.

    Raises:
        ValueError: it is neither, or below 0; the message has examples.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = _seconds(text)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"'{text}' is not a time from 0 on; expected seconds, such as 5, or another unit, such as 90s or 2m")
    return seconds


def _seconds(text: str) -> float:
    """Of a duration with its unit; nan: it is none."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not text.strip():
        return math.nan
    return sum(float(number) * unit for number, unit in zip(found.groups(), _SECONDS, strict=True) if number)


def parse_size(text: str) -> int:
    """Bytes of a size such as 500MB or 2G, in powers of 1000, or 2GiB, in powers of 1024.

    Raises:
        ValueError: it is not a size; the message has examples.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not a size; expected a number with its unit, such as 500MB or 2GB; 2GiB is more")
    units = _BINARY_BYTES if found[3] else _BYTES
    return round(float(found[1]) * units[found[2].upper()])


def parsed_option(option: str, parse: Callable[[str], _Value], text: str) -> _Value:
    """Return `parse(text)`, the value of `option` on a command line.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def parsed_size(option: str, text: str, least: str, of: str) -> int:
    """Bytes of a size, the value of `option` on a command line.

    Args:
        option: its name.
        text: its value, as for `parse_size`.
        least: the smallest size that is accepted.
        of: what a smaller one has no room for.

    Raises:
        UsageError: it cannot be read, or is too small.
    """
    size = parsed_option(option, parse_size, text)
    if size < parse_size(least):
        raise UsageError(f"{option} {text} is too small for {of}\n  expected at least {least}")
    return size


def duration_text(seconds: float) -> str:
    """`0.5 s`, `45 s`, `12.5 min`, `2.0 h` or `3.0 days`."""
    if seconds < 10:
        return f"{round(seconds, 1):g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size_text(size: float) -> str:
    """`12.3 MB` or `1.50 GB`."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def count_text(count: int, noun: str) -> str:
    """`1 video`, `0 videos` or `3 videos`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_or_are(count: int) -> str:
    """The verb for so many: `is` for 1, else `are`."""
    return "is" if count == 1 else "are"
