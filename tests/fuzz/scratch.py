"""The folder where a target puts the files that its reader is given."""

from __future__ import annotations

import os
from pathlib import Path


def scratch_folder() -> Path:
    """The worker's own folder, in memory where the system allows it."""
    return Path(os.environ["SVG_FUZZ_SCRATCH"])


def scratch_file(name: str, data: bytes) -> Path:
    """Write `data` as the file `name` of the scratch folder."""
    path = scratch_folder() / name
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path
