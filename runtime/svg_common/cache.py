"""The folder where decoded data, compiled models and models from elsewhere are cached between runs."""

from __future__ import annotations

import os
from pathlib import Path

from svg_common.errors import SvgError


def cache_folder(configured: str | None = None) -> Path:
    """Return the folder for cached data: `configured`, else $SVG_EDGE_CACHE, else the user's cache folder.

    Raises:
        SvgError: none of these is set and the user has no home folder.
    """
    chosen = configured or os.environ.get("SVG_EDGE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "svg-edge"
    except RuntimeError as error:
        raise SvgError("no cache folder: this user has no home folder\n  set SVG_EDGE_CACHE to a writable folder") from error


def models_folder() -> Path:
    """Where models from elsewhere are kept: models/ in the cache folder.

    Raises:
        SvgError: there is no cache folder.
    """
    return cache_folder() / "models"
