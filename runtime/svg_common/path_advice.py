"""What to give instead of a path that does not exist, because it is written as another program takes it."""

from __future__ import annotations

import glob
import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

# file:/x, file:///x, file://localhost/x, and file://x, which is meant as file:x. What has a user name is no path.
_FILE_URL = re.compile(r"file:(//localhost(?=/)|//(?=/)|//(?![^/]*@)|(?!//))(?P<path>.+)", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(r"%0?\d*d")  # frame_%04d.png, as FFmpeg and OpenCV take it


def shell_argument(path: str | os.PathLike[str]) -> str:
    """`path` as an argument on a command line: quoted where necessary, and never taken for an option."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def path_of_file_url(given: str) -> str | None:
    """The path that a file: URL names; None for anything else. `%20` is a space, unless a file has such a name as it stands."""
    url = _FILE_URL.fullmatch(given)
    if url is None:
        return None
    return url["path"] if os.path.lexists(url["path"]) else unquote(url["path"], errors="surrogateescape")


def path_advice(option: str, given: str) -> str | None:
    """Return the line that works in place of a file: URL or a pattern; None for any other path.

    Args:
        option: that was given, such as --source.
        given: its value, a path that does not exist.
    """
    named = path_of_file_url(given)
    if named is not None:
        return f"give the path instead of a URL: {option} {shell_argument(named)}"
    path = Path(given)
    if "://" in given:
        return None
    if _NUMBERED.search(path.name) or any(sign in path.name for sign in "*?["):
        found = glob.glob(given)
        if len(found) == 1:
            return f"patterns are not expanded; give the file: {option} {shell_argument(found[0])}"
        return f"patterns are not expanded; give the folder that contains the files: {option} {shell_argument(path.parent)}"
    return None
