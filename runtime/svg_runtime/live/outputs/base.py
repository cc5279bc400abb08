"""The interfaces of all outputs."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.view import View


class Output(Protocol):
    """A window or a file of composed pictures."""

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Show or store `picture`, (H, W, 3) uint8 RGB, at `tick` model intervals after the start.

        The output thread calls this; the main thread opens and closes.
        """
        ...

    def close(self, keep: bool) -> None:
        """Finish; without `keep`, discard what was stored. May be called twice."""
        ...


class Recorder(Protocol):
    """A folder that grows for as long as the run lasts."""

    def record(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """Store what it records of one moment: `view`, or the picture composed of it; None if nothing is composed.

        Returns:
            Whether the file that it is part of has reached the disk, at least in part.

        Raises:
            OSError: the disk is full or gone. `record` may be called again.
        """
        ...

    def wants(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """Whether there is anything for it in a moment."""
        ...

    def close(self, keep: bool) -> None:
        """Complete what is in progress; it is kept in any case. May be called twice, and `record` after it.

        Raises:
            OSError: as `record`.
        """
        ...

    def summary(self) -> dict[str, Any]:
        """Return what was stored, as plain JSON values."""
        ...
