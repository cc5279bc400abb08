"""Where files of engines may lie, and when they were written: cheap, for it is asked at every start with `auto`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from svg_common.cache import cache_folder
from svg_common.errors import SvgError

BUNDLE_FOLDER = "engines"  # inside a bundle


def engine_folders(configured: str | None) -> list[Path]:
    """Return the cache folders that may hold engines, without making or testing any: nothing in them may be run.

    Args:
        configured: folder chosen by the user; None means $SVG_EDGE_CACHE, else the user's cache folder.
    """
    folders = [temporary_folder()]
    with contextlib.suppress(SvgError):  # this user has none
        folders.insert(0, cache_folder(configured))
    return [folder for folder in folders if folder is not None]


def temporary_folder() -> Path | None:
    """Return this user's folder in the system's temporary one, for engines that no other folder takes.

    None: the system has no temporary folder that can be written, as on a full disk or in a read-only container.
    """
    try:
        system = tempfile.gettempdir()
    except OSError:
        return None
    return Path(system) / (f"svg-edge-{os.getuid()}" if hasattr(os, "getuid") else "svg-edge")


def file_stamp(file: Path) -> str:
    """Return size and time of the last change; "" if the file is missing. Cheaper than its hash."""
    try:
        state = file.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"
