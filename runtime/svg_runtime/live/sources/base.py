"""The interface of all sources of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SourceFrame:
    """One picture for the model, one model interval after the picture before it.

    Attributes:
        image: (H, W, 3) RGB or (H, W) gray, uint8, at the source's own size.
        tick: number of the model interval that the picture belongs to, from 0, increasing. A gap means intervals without a
            picture.
        clip: number of the continuous piece of video. When it changes, earlier pictures are not context for later ones.
        pause_s: seconds without a picture before this one, if it begins a clip after a pause, else 0.
        reconnected: it begins a clip because the connection to the camera was lost, for however short a time.
        captured_s: `time.monotonic()` when a camera took the picture; None for other sources.
        held: it is the picture before it again, because none came in a short gap.
        again: the source begins from its start again, with a new clip.
        source_s: seconds from the first picture of the source, pauses inside files included; None for a camera, whose ticks
            tell the time.
        step_s: seconds from one picture of a camera to the next that the model sees, as measured: its interval, or that of a
            slower camera. None: not known yet; a file, where it is known before.
    """

    image: Picture
    tick: int
    clip: int = 0
    captured_s: float | None = None
    pause_s: float = 0.0
    held: bool = False
    again: bool = False
    source_s: float | None = None
    reconnected: bool = False
    step_s: float | None = None

    def position_s(self, tick_s: float) -> float:
        """Seconds since the start of the source, in its own time; `tick_s`: seconds per model interval."""
        return self.tick * tick_s if self.source_s is None else self.source_s


class Source(Protocol):
    """A camera, files, or the synthetic camera."""

    name: str  # short, for the picture
    description: str  # exact, for messages and statistics

    @property
    def dropped(self) -> int:
        """Model intervals whose picture the model did not see because the loop was late; cameras only."""
        ...

    @property
    def captured(self) -> int:
        """Pictures captured or decoded so far, used or not."""
        ...

    def frames(self) -> Iterator[SourceFrame]:
        """Yield pictures at the model's interval until the source ends or a stop is requested.

        Raises:
            SourceLostError: the source stopped delivering pictures.
        """
        ...

    def close(self) -> None:
        """Release the device or file. May be called twice."""
        ...
