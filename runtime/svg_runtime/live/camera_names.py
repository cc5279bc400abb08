"""Names of several cameras: of events, folders, topics and tiles. Free of OpenCV, so that a command line is checked quickly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # a key of TOML without quotes, and safe in a path and in a topic of MQTT
_LONGEST = 32  # of a derived name, which may get a number


def is_name(name: str) -> bool:
    """Whether a camera can have this name: one that is safe in an address, a folder and a topic, as it is."""
    return _NAME.fullmatch(name) is not None


def name_problems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that cannot be names of folders and topics, or that differ by case alone, each with what is wrong with it."""
    seen: dict[str, str] = {}
    for name in names:
        if not is_name(name):
            yield name, f"'{name}' cannot be the name of a camera; expected up to 40 letters, digits, _ and -"
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            yield name, f"'{other}' and '{name}' differ by case alone; expected names that folders can have"


def derived_names(titles: Iterable[str]) -> list[str]:
    """Make a name of what each source is called, such as a file name or a host; equal ones are numbered: gate, gate-2."""
    names: list[str] = []
    for title in titles:
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
        first = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:_LONGEST].strip("-") or "camera"
        name, number = first, 1
        while name.casefold() in {taken.casefold() for taken in names}:
            number += 1
            name = f"{first}-{number}"
        names.append(name)
    return names
