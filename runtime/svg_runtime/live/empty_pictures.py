"""Notices pictures that carry nothing: of one colour, as with a covered lens, or the same one over and over.

The sensor of a camera has noise, so two of its pictures are never the same. Compressed video is different: where nothing moves,
an encoder copies the picture before, bit for bit, until its next key frame. So pictures count as frozen when they stay the same
for longer than key frames are usually apart; or for a second, if they stopped in full motion, as no scene does.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Literal

import cv2
import numpy as np

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture

EmptyPicture = Literal["blank", "frozen"]

FROZEN_AFTER_S = 10.0  # x264 makes a key frame every 250 pictures unless told otherwise: 8.3 s at 30 fps
STOPPED_AFTER_S = 1.0  # at the earliest: drivers and networks repeat single pictures
_STOPPED_STEPS = 5  # likewise
_USUAL_S = 10.0  # of what came before: how much pictures usually change
_LAST_S = 0.5  # whether it was in full motion: a passer-by leaves and an encoder refines what it shows, so changes fade out
_FULL_MOTION = 0.6  # of the usual change: of what leaves the picture only the rear edge is still seen to move
_LEAST_CHANGE = 0.2  # of 255 levels, on average over the picture: calmer video is often copied by its encoder
_LONGER = 3.0  # times as long as pictures were ever the same before
BLANK_AFTER_S = 0.5  # until it is said: films fade to black and back
BLANK_RANGE = 6  # of 255 levels, between the darkest and the brightest cell
_CELLS = 16  # per side; the mean over a cell averages sensor noise away
_REMEMBERED = 8  # different pictures: a driver that hangs may give its few buffers in turns
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
        self._standstill = Standstill(interval_s)
        self._blank_s = 0.0
        self._reported: EmptyPicture | None = None

    def add(self, picture: Picture, steps: int = 1) -> EmptyPicture | None:
        """Check the next picture.

        "blank" is known at once, "frozen" as `Standstill` says. A picture that is both is blank.

        Args:
            picture: (H, W, 3) or (H, W) uint8.
            steps: model steps since the picture before it; 1 after a cut.
        """
        rows = picture[:: max(1, picture.nbytes // _CHECKED_BYTES)].copy()
        passed_s = steps * self._interval_s
        frozen = self._standstill.add(rows, passed_s)
        blank = _is_blank(rows)
        passed_blank_s = passed_s if self._blank_s else self._interval_s  # what was before the first one is not known to be
        self._blank_s = self._blank_s + passed_blank_s if blank else 0.0
        found: EmptyPicture | None = "blank" if blank else "frozen" if frozen else None
        self._report(found)
        return found

    def _report(self, found: EmptyPicture | None) -> None:
        if found == self._reported or (found == "blank" and self._blank_s < BLANK_AFTER_S):
            return
        if found == "blank":
            self._events.add("blank_picture", "the picture is of one colour: is the lens covered, or is it dark?")
        elif found == "frozen":
            same = f"the picture has been the same, bit for bit, for {self._standstill.limit_s:g} s"
            self._events.add("frozen_picture", f"{same}: the camera or what sends its video may hang")
        else:
            self._events.add("picture_back", f"the picture is no longer {self._reported}")
        self._reported = found


class Standstill:
    """Whether pictures have been the same for longer than a camera that works can show them.

    That is `FROZEN_AFTER_S`. It is `STOPPED_AFTER_S` if, just before, pictures changed as they had usually done in the last ten
    seconds, and three times as long as they were ever the same: something that passes and an encoder that copies what stands
    still become calm step by step, a program that hangs does not.

    Args:
        interval_s: seconds per model step.

    Attributes:
        limit_s: for how long the present picture, or the last one that stayed, has to stay the same to be frozen.
    """

    def __init__(self, interval_s: float) -> None:
        self.limit_s = FROZEN_AFTER_S
        self._stopped_after_s = max(STOPPED_AFTER_S, _STOPPED_STEPS * interval_s)
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._before: Picture | None = None
        self._changes: deque[float] = deque(maxlen=max(_STOPPED_STEPS, round(_USUAL_S / interval_s)))
        self._last = max(1, round(_LAST_S / interval_s))  # of the changes: in these the picture was in motion, or not
        self._same_s = 0.0
        self._longest_s = 0.0

    def add(self, rows: Picture, passed_s: float) -> bool:
        """Whether the picture that these rows are of, so many seconds after the one before it, is frozen."""
        code = zlib.crc32(rows.data, rows.shape[0])
        if code not in self._seen:
            self._longest_s = max(self._longest_s, self._same_s)
            self._same_s = 0.0
            self._seen.append(code)
        else:
            if not self._same_s:
                self.limit_s = self._limit_s()
            self._same_s += passed_s
        if self._before is not None and self._before.shape != rows.shape:
            self._changes.clear()  # in another picture other changes are usual
        elif self._before is not None:
            self._changes.append(float(cv2.absdiff(rows, self._before).mean()))
        self._before = rows
        return self._same_s >= self.limit_s

    def _limit_s(self) -> float:
        changes = np.array(self._changes)
        if len(changes) < (self._changes.maxlen or 0):
            return FROZEN_AFTER_S  # what is usual is not known yet
        usual, last = np.median(changes), np.median(changes[-self._last :])
        if usual < _LEAST_CHANGE or last < _FULL_MOTION * usual:
            return FROZEN_AFTER_S
        return min(FROZEN_AFTER_S, max(self._stopped_after_s, _LONGER * self._longest_s))


def _is_blank(rows: Picture) -> bool:
    """Whether all cells of the picture have the same colour, but for noise."""
    cells = cv2.resize(rows, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return int(np.ptp(cells.reshape(_CELLS * _CELLS, -1), axis=0).max()) < BLANK_RANGE
