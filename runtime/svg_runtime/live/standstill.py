"""Notices that the same picture comes over and over, because a camera or what sends its video hangs.

The sensor of a camera has noise, so two of its pictures are never the same. Compressed video is different: where nothing moves,
an encoder copies the picture before, bit for bit or nearly so, until its next key frame. So pictures count as frozen when they
stay the same, bit for bit, for longer than key frames are usually apart. They also do after a second in which hardly anything
changes, if they stopped in full motion, as hardly any scene does: an encoder may go on behind a sensor that hangs.
"""

from __future__ import annotations

import math
import zlib
from collections import deque

import cv2
import numpy as np

from svg_runtime.live.sources.base import Picture

FROZEN_AFTER_S = 10.0  # x264 makes a key frame every 250 pictures unless told otherwise: 8.3 s at 30 fps
STOPPED_AFTER_S = 1.0  # if they stopped in full motion
_STOPPED_PICTURES = 5  # at least, after the first: drivers and networks repeat single ones
_USUAL_S = 10.0  # of what came before: how much pictures usually change
_STILL = 0.05  # of the usual change: what an encoder still refines
_LAST_S = 0.5  # whether it was in full motion: a passer-by leaves and an encoder refines what it shows, so changes fade out
_FULL_MOTION = 0.6  # of the usual change: of what leaves the picture only the rear edge is still seen to move
_LEAST_CHANGE = 0.2  # of 255 levels, on average over the picture: in calmer video the usual change says little
_LONGER = 3.0  # times as long as the longest standstill of the last hour
_HOUR_S = 3600.0
_REMEMBERED = 8  # different pictures: a driver that hangs may give its few buffers in turns


class Standstill:
    """Whether pictures have stood still for longer than a camera that works can show them.

    That is `FROZEN_AFTER_S` in which they are the same, bit for bit. It is `STOPPED_AFTER_S` of hardly any change if, just
    before, pictures changed as they had usually done in the last ten seconds, and three times as long as any standstill of the
    last hour. Something that passes becomes calm step by step, and so does an encoder; what hangs does not.

    Attributes:
        same_s: for how long the present picture has been nearly the same.
    """

    def __init__(self) -> None:
        self.same_s = 0.0
        self._exact_s = 0.0
        self._repeats = 0
        self._limit_s = math.inf
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._before: Picture | None = None
        self._changes: deque[tuple[float, float]] = deque()  # seconds since the picture before, mean change in levels
        self._changes_s = 0.0
        self._usual = 0.0  # change, before the present standstill
        self._time_s = 0.0
        self._longest: deque[tuple[float, float]] = deque()  # when it ended, and its length: each longer than all after it

    def add(self, rows: Picture, passed_s: float) -> bool:
        """Whether the next picture is frozen.

        Args:
            rows: of the picture, (H, W, 3) or (H, W) uint8, contiguous. They are kept until the next ones come.
            passed_s: seconds since the picture before it.
        """
        self._time_s += passed_s
        is_seen = self._note_code(rows)
        self._exact_s = self._exact_s + passed_s if is_seen else 0.0
        change = self._change_of(rows)
        if not self._repeats:
            self._usual = self._usual_change()
        if is_seen or (change is not None and self._usual >= _LEAST_CHANGE and change <= _STILL * self._usual):
            self._limit_s = self._limit_s if self._repeats else self._find_limit_s()
            self._repeats += 1
            self.same_s += passed_s
        else:
            self._end_standstill()
        self._note_change(change, passed_s)
        has_stopped = self.same_s >= self._limit_s and self._repeats >= _STOPPED_PICTURES
        return has_stopped or self._exact_s >= FROZEN_AFTER_S

    def cut(self) -> None:
        """The next picture does not follow the last one: what changes is usual is learned anew."""
        self._before = None
        self._changes.clear()
        self._changes_s = 0.0

    def _note_code(self, rows: Picture) -> bool:
        """Whether a picture was, bit for bit, among the last different ones, of which it is one now."""
        code = zlib.crc32(rows.data, rows.shape[0])
        if code in self._seen:
            return True
        self._seen.append(code)
        return False

    def _change_of(self, rows: Picture) -> float | None:
        """Mean change since the picture before, in levels; None after a cut, and with another size, which is one."""
        if self._before is not None and self._before.shape != rows.shape:
            self.cut()
        change = None if self._before is None else cv2.norm(rows, self._before, cv2.NORM_L1) / rows.size
        self._before = rows
        return change

    def _note_change(self, change: float | None, passed_s: float) -> None:
        if change is None:
            return
        self._changes.append((passed_s, change))
        self._changes_s += passed_s
        while self._changes_s - self._changes[0][0] >= _USUAL_S:
            self._changes_s -= self._changes.popleft()[0]

    def _usual_change(self) -> float:
        """The median of the last ten seconds; 0 until so much is known."""
        return float(np.median([change for _, change in self._changes])) if self._changes_s >= _USUAL_S else 0.0

    def _find_limit_s(self) -> float:
        """For how long the standstill that begins now has to last, to be a stop in full motion; infinity if it is none."""
        if self._usual < _LEAST_CHANGE:
            return math.inf
        passed = np.array(self._changes)
        since_s = passed[::-1, 0].cumsum()  # from the newest backwards
        last = np.median(passed[::-1, 1][since_s <= max(_LAST_S, since_s[0])])
        if last < _FULL_MOTION * self._usual:
            return math.inf
        while self._longest and self._time_s - self._longest[0][0] > _HOUR_S:
            self._longest.popleft()
        longest_s = self._longest[0][1] if self._longest else 0.0
        return max(STOPPED_AFTER_S, _LONGER * longest_s)

    def _end_standstill(self) -> None:
        while self._longest and self._longest[-1][1] <= self.same_s:
            self._longest.pop()
        if self._repeats:
            self._longest.append((self._time_s, self.same_s))
        self.same_s = 0.0
        self._repeats = 0
