"""00sequences.txt of KTH: the frames of each clip that show a person.

Below a preface in prose there is one line per clip, with 1-based frame ranges that include both ends, not always in
order, and sometimes overlapping:

    person01_boxing_d1          frames  1-95, 96-185, 186-245, 246-360
    person13_handclapping_d3    *missing*
"""

from __future__ import annotations

import re
from pathlib import Path

from svg_common.errors import SvgError
from svg_common.text_files import EncodingError, decode_text

FrameRanges = dict[str, list[tuple[int, int]]]  # by clip, such as person01_boxing_d1

_ABOUT_A_CLIP = re.compile(r"person\d+_", re.ASCII)
_LINE = re.compile(r"(?P<clip>person\d\d_[a-z]+_d\d)\s+(\*missing\*|frames\s*:?\s*(?P<ranges>[\d\s,-]+))", re.ASCII)
_RANGE = re.compile(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", re.ASCII)
_MAX_BYTES = 1 << 20  # the published file has 38 kB


def read_ranges(path: Path) -> tuple[FrameRanges, list[tuple[int, str]]]:
    """Read the frame ranges of all clips.

    Returns:
        The ranges (first, last) of each clip that has any, and number and text of the lines about clips that cannot be
        parsed.

    Raises:
        SvgError: the file cannot be read.
    """
    ranges: FrameRanges = {}
    unparsed: list[tuple[int, str]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        line = line.strip()
        if not _ABOUT_A_CLIP.match(line):
            continue  # the preface
        match = _LINE.fullmatch(line)
        found = _parsed(match["ranges"]) if match else None
        if match is None or found is None or match["clip"] in ranges:
            unparsed.append((number, line))
        elif found:
            ranges[match["clip"]] = found
    return ranges, unparsed


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SvgError(f"cannot read '{path}': {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise SvgError(f"'{path}' is larger than {_MAX_BYTES} bytes\n  expected the frame ranges of KTH, a text file of 38 kB")
    try:
        return decode_text(content, errors="replace")
    except EncodingError as error:
        raise SvgError(f"cannot read '{path}': {error}") from error


def _parsed(text: str | None) -> list[tuple[int, int]] | None:
    """Return the ranges, empty for a missing clip, or None if a part of `text` is not a range."""
    if text is None:
        return []
    matches = [_RANGE.fullmatch(part) for part in text.rstrip(" ,").split(",")]
    pairs = [(int(match[1]), int(match[2])) for match in matches if match]
    return pairs if len(pairs) == len(matches) and all(1 <= first <= last for first, last in pairs) else None
