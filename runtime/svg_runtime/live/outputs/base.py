"""The interface of all outputs."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Output(Protocol):
    """A window or a file."""

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Show or store `picture`, (H, W, 3) uint8 RGB, at `tick` model intervals after the start.

        The output thread calls this; the main thread opens and closes.
        """
        ...

    def close(self, keep: bool) -> None:
        """Finish; without `keep`, discard what was stored. May be called twice."""
        ...
