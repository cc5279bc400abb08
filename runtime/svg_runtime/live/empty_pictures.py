"""Notices pictures that carry nothing: of one colour, as with a covered lens, or the same one over and over."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture
from svg_runtime.live.standstill import Standstill

EmptyPicture = Literal["blank", "frozen"]

BLANK_AFTER_S = 0.5  # until it is said: films fade to black and back
BLANK_RANGE = 6  # of 255 levels, between the darkest and the brightest cell
_CELLS = 16  # per side; the mean over a cell averages sensor noise away
_CHECKED_BYTES = 1 << 19  # rows are left out of larger pictures


class PictureCheck:
    """Says of every picture whether it carries nothing, and reports when that begins and when it is over.

    Args:
        interval_s: seconds per model step.
        events: gets `blank_picture` or `frozen_picture`, and then `picture_back`.
    """

    def __init__(self, interval_s: float, events: EventLog) -> None:
        self._interval_s = interval_s
        self._events = events
        self._standstill = Standstill()
        self._blank_s = 0.0
        self._reported: EmptyPicture | None = None
        self._found: EmptyPicture | None = None  # of the last picture; None after a cut
        self._steps = 0  # since the last picture that was not a held one

    def add(self, picture: Picture, steps: int = 1, held: bool = False) -> EmptyPicture | None:
        """Check the next picture.

        "blank" is known at once, "frozen" as `Standstill` says. A picture that is both is blank.

        Args:
            picture: (H, W, 3) or (H, W) uint8.
            steps: model steps since the picture before it; 1 after a cut.
            held: it is the picture before it again, because none came. It shows no standstill: what is said of that one is
                said of it, and its time counts with the next picture that comes.
        """
        self._steps += steps
        if held:
            return self._found
        passed_s = self._steps * self._interval_s
        self._steps = 0
        rows = picture[:: max(1, picture.nbytes // _CHECKED_BYTES)].copy()
        blank = _is_blank(rows)
        if blank:
            self._standstill.cut()
        passed_blank_s = passed_s if self._blank_s else self._interval_s  # what was before the first one is not known to be
        self._blank_s = self._blank_s + passed_blank_s if blank else 0.0
        self._found = "blank" if blank else "frozen" if self._standstill.add(rows, passed_s) else None
        self._report(self._found)
        return self._found

    def cut(self) -> None:
        """The next picture does not follow the last one."""
        self._standstill.cut()
        self._found = None
        self._steps = 0

    def _report(self, found: EmptyPicture | None) -> None:
        if found == self._reported or (found == "blank" and self._blank_s < BLANK_AFTER_S):
            return
        if found == "blank":
            self._events.add("blank_picture", "the picture is of one colour: is the lens covered, or is it dark?")
        elif found == "frozen":
            still = f"the picture has stood still for {self._standstill.same_s:.3g} s"
            self._events.add("frozen_picture", f"{still}: the camera or what sends its video may hang")
        else:
            self._events.add("picture_back", f"the picture is no longer {self._reported}")
        self._reported = found


def _is_blank(rows: Picture) -> bool:
    """Whether all cells of the picture have the same colour, but for noise."""
    cells = cv2.resize(rows, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return int(np.ptp(cells.reshape(_CELLS * _CELLS, -1), axis=0).max()) < BLANK_RANGE
