"""A recording of weeks: video in segments, each readable while it is written, the oldest removed at a size limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.outputs.bounded_folder import BoundedFolder
from svg_runtime.live.outputs.fragmented_mp4 import FragmentedMp4, has_fragment, is_complete, keep_whole_fragments
from svg_runtime.live.outputs.h264 import encodable
from svg_runtime.live.overlay.view import View

_LARGEST_SHARE = 10  # a segment ends at this part of the limit, so that what is removed is a small part of the recording

Picture = NDArray[np.uint8]


class SegmentRecorder:
    """Writes the composed picture, or the camera's, to segments of equal duration.

    Args:
        folder: where to; what else is in there is left alone.
        interval_s: seconds per tick.
        segment_s: duration of a segment.
        limit_bytes: of all segments together.
        what: the composed picture ("display"), or the source's picture at its own size ("camera").
    """

    def __init__(self, folder: Path, interval_s: float, segment_s: float, limit_bytes: int, what: str) -> None:
        self._files = BoundedFolder(folder, ".mp4", limit_bytes)
        self._interval_s = interval_s
        self._segment_ticks = max(1, round(segment_s / interval_s))
        self._segment_bytes = limit_bytes // _LARGEST_SHARE
        self._select: Callable[[View, Picture | None], Picture | None] = _camera if what == "camera" else _display
        self._segment: FragmentedMp4 | None = None
        self._size_hw: tuple[int, ...] = (0, 0)
        self._first_tick = 0
        self._last_tick = 0
        self._segments = 0
        self._pictures = 0
        self._in_segment = 0  # pictures in the one in progress
        self._lost = 0

    def record(self, view: View, picture: Picture | None) -> bool:
        """Encode one picture, in the segment in progress or in a new one; return whether a picture of that is on the disk.

        Raises:
            OSError: the disk is full or gone; close the segment before the next picture.
        """
        chosen = self._select(view, picture)
        if chosen is None:
            return False
        if self._segment is None or self._is_over(view.tick, chosen):
            self.close()
            self._segment = self._open(view, chosen)
        self._segment.write(chosen, view.tick)
        stored = has_fragment(self._segment.path)  # raises an error for a file that was removed, as writing to it does not
        self._last_tick = view.tick
        self._pictures += 1
        self._in_segment += 1
        return stored

    def wants(self, view: View, picture: Picture | None) -> bool:
        """Whether there is a picture of the kind that it records."""
        return self._select(view, picture) is not None

    def close(self, keep: bool = True) -> None:
        """Complete the segment in progress.

        Raises:
            OSError: the disk is full or gone; what was written before can still be read.
        """
        segment = self._segment
        self._segment = None
        if segment is not None:
            try:
                segment.close()
            finally:
                self._keep(segment.path)
            self._files.make_room(0)  # it may be larger than planned, by its last picture and its index

    def summary(self) -> dict[str, Any]:
        """Return how many pictures were written, to how many segments, and how many of those taken cannot be read."""
        return {
            "folder": str(self._files.folder), "segments": self._segments, "pictures": self._pictures, "lost": self._lost,
        }  # fmt: skip

    def _is_over(self, tick: int, picture: Picture) -> bool:
        assert self._segment is not None
        long = not self._last_tick < tick < self._first_tick + self._segment_ticks
        return long or self._segment.size_bytes >= self._segment_bytes or picture.shape[:2] != self._size_hw

    def _open(self, view: View, picture: Picture) -> FragmentedMp4:
        self._files.make_room(self._segment_bytes)
        path = self._files.new_file(view.time)
        height, width = picture.shape[:2]
        segment = FragmentedMp4(path, size_wh=(width, height), interval_s=self._interval_s, created=view.time.isoformat())
        self._size_hw = (height, width)
        self._first_tick = view.tick
        self._in_segment = 0
        return segment

    def _keep(self, path: Path) -> None:
        """Count a segment, or remove one without a picture: a disk that is full for days would leave thousands of them.

        What a full disk has cut off is counted as lost: a segment may end without an error all the same. So are all of its
        pictures if someone else removed it.
        """
        try:
            readable = self._in_segment if is_complete(path) else keep_whole_fragments(path)
            has_picture = has_fragment(path)
        except FileNotFoundError:
            readable = 0
            has_picture = False
        lost = max(0, self._in_segment - readable)
        self._lost += lost
        self._pictures -= lost
        if not has_picture:
            path.unlink(missing_ok=True)
            return
        self._files.add(path)
        self._segments += 1


def _display(view: View, picture: Picture | None) -> Picture | None:
    return picture


def _camera(view: View, picture: Picture | None) -> Picture:
    return encodable(view.picture)
