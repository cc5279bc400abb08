"""The cache folder and the space on the disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from svg_common.cache import cache_folder
from svg_common.errors import OutputError, first_line
from svg_common.outputs import require_writable_folder
from svg_runtime.doctor.finding import Finding
from svg_runtime.errors import SvgError

_LITTLE = 1e9  # bytes: engines and an hour of video do not fit
_MOST_FILES = 100_000
_CHOOSE = "choose another folder: export SVG_EDGE_CACHE=DIR"


def check() -> list[Finding]:
    """Look at the cache folder and at the current one."""
    try:
        folder = cache_folder()
    except SvgError as error:
        reason, *advice = str(error).splitlines()
        return [Finding("cache folder", "problem", reason, "\n".join(advice)), _free("disk here", Path.cwd())]
    return [_cache(folder), _free("disk of the cache", folder), _free("disk here", Path.cwd())]


def _cache(folder: Path) -> Finding:
    try:
        require_writable_folder(folder)
    except OutputError as error:
        return Finding("cache folder", "problem", first_line(error), _CHOOSE)
    sizes = list(_sizes(folder))
    size = f"{sum(sizes) / 1e6:.0f} MB in {len(sizes)} files" if sizes else "empty"
    more = " and more" if len(sizes) == _MOST_FILES else ""
    return Finding("cache folder", "ok", f"{folder}: {size}{more}, writable")


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file, of a limited number."""
    left = _MOST_FILES
    for where, _, names in os.walk(folder):
        for name in names:
            if left == 0:
                return
            left -= 1
            try:
                yield os.lstat(os.path.join(where, name)).st_size
            except OSError:  # it was deleted meanwhile
                yield 0


def _free(name: str, folder: Path) -> Finding:
    while not os.path.exists(folder):  # Path.exists raises an error where a folder may not be entered
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free"
    if free < _LITTLE:
        return Finding(name, "problem", detail, "delete what is not needed, or write to another disk")
    return Finding(name, "ok", detail)
