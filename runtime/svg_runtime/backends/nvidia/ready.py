"""When a file of an engine was written, for those who keep what depends on it."""

from __future__ import annotations

from pathlib import Path


def file_stamp(file: Path) -> str:
    """Size and time of the last change; "" if the file is missing. Cheaper than its hash."""
    try:
        state = file.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"
