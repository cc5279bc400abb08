"""The interface of all outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError


class OutputError(SvgError):
    """A result file cannot be written: no permission, no space, no such folder."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write '{path}': {error.strerror or error}\n  no file was left behind; choose another path")


class Output(Protocol):
    """A window or a file."""

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Show or store `picture`, (H, W, 3) uint8 RGB, at `tick` model intervals after the start."""
        ...

    def close(self, keep: bool) -> None:
        """Finish; without `keep`, discard what was stored. May be called twice."""
        ...
