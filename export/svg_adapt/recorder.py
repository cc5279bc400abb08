"""Records pictures of any source of svg-live, at the interval of the model, into the segments of a `Recording`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_adapt.recording import Recording
from svg_common.errors import UsageError
from svg_common.frames import covering_size
from svg_common.progress import ProgressDisplay
from svg_common.quantities import size_text
from svg_runtime.live.outputs.mp4 import Mp4Writer
from svg_runtime.live.preprocess import crop
from svg_runtime.live.roi import RegionOutsideError, Roi
from svg_runtime.live.sources import Source, SourceFrame
from svg_runtime.live.stop import StopRequest

_LOG = logging.getLogger(__name__)
SEGMENT_S = 60.0  # what a loss of power costs
_SIDES = 4  # pictures are kept at up to so many times the side of the model's frame: crops of a quarter are not enlarged

Picture = NDArray[np.uint8]


@dataclass
class _Segment:
    """A segment in progress."""

    writer: Mp4Writer
    clip: int
    size_hw: tuple[int, ...]
    first_tick: int
    last_tick: int

    def continues(self, frame: SourceFrame, picture: Picture) -> bool:
        """Whether a picture belongs to the same piece of video and has the same size."""
        return frame.clip == self.clip and picture.shape[:2] == self.size_hw


class Recorder:
    """Writes the pictures of a source to segments.

    Pictures that are further apart than the interval are left out: those of a clip among others, or of a camera at dusk.

    Args:
        recording: where to.
        source: where from; it yields a picture per interval of the recording.
        side: of the model's frame in pixels.
        least_s: the shortest video of whose last part, which is held out, one sequence can be evaluated.
        roi: the part of the pictures that is kept; None: all of them.
    """

    def __init__(
        self,
        recording: Recording,
        source: Source,
        side: int,
        least_s: float = 0.0,
        roi: Roi | None = None,
    ) -> None:
        self._recording = recording
        self._source = source
        self._side = side
        self._roi = roi
        # Where a minute has few pictures: wherever a segment ends in the last part, a sequence lies on one side of its end.
        self._segment_s = max(SEGMENT_S, 2 * least_s)
        self._interval_s = recording.facts.interval_s
        self._segment: _Segment | None = None
        self._complete_bytes = 0
        self._pace = _Pace(self._interval_s)
        self._is_fast_enough = False  # as far as known, of any picture of a camera in this run
        self._too_slow_s: float | None = None  # interval of the first pictures that are left out

    def record(self, until_s: float, stop: StopRequest, display: ProgressDisplay) -> None:
        """Record until the recording has `until_s` seconds, the source ends, or a stop is requested.

        Raises:
            SourceLostError: the source stopped delivering pictures; what was recorded is kept.
            UsageError: all its pictures, or the first ones of a camera, are further apart than the interval, or they do not
                contain the region.
            OutputError: the disk is full or gone; complete segments are kept.
        """
        keep, ended = True, False
        try:
            for frame in self._source.frames():
                slow_s = self._pace.too_slow_s(frame)
                if slow_s is None:
                    self._write(frame)
                else:
                    self._leave_out(frame, slow_s)
                self._show(until_s, display)
                if stop or self._recording.facts.has(until_s, self._open_s):
                    break
            else:
                ended = not stop
        except KeyboardInterrupt:
            keep = False
            raise
        finally:
            self._close(keep)
        if ended:
            if self._too_slow_s is not None and not self._recording.facts.recorded_s:
                raise self._refusal(self._too_slow_s)
            self._recording.finish()

    def _show(self, until_s: float, display: ProgressDisplay) -> None:
        done_s = self._recording.facts.recorded_s + self._open_s
        size = self._complete_bytes + (0 if self._segment is None else self._segment.writer.size_bytes)
        display.progress("recording", min(done_s / until_s, 1.0), size_text(size))

    @property
    def _open_s(self) -> float:
        """Seconds of the segment in progress."""
        segment = self._segment
        return 0.0 if segment is None else (segment.last_tick - segment.first_tick + 1) * self._interval_s

    def _write(self, frame: SourceFrame) -> None:
        picture = shrink(self._part(frame.image), self._side)
        full = self._open_s >= self._segment_s
        if self._segment is not None:
            full = full or self._segment.writer.size_bytes >= self._recording.segment_limit_bytes
            if full or not self._segment.continues(frame, picture):
                self._close(keep=True)
        if self._segment is None:
            self._segment = self._open(frame, picture)
        self._is_fast_enough = self._is_fast_enough or frame.step_s is not None
        self._segment.writer.write(picture, frame.tick)
        self._segment.last_tick = frame.tick

    def _part(self, image: Picture) -> Picture:
        """What is kept of a picture."""
        if self._roi is None:
            return image
        try:
            return crop(image, self._roi.in_picture(image.shape[0], image.shape[1]))
        except RegionOutsideError as error:
            raise UsageError(f"{error}\n  give another --roi, in another --out") from error

    def _open(self, frame: SourceFrame, picture: Picture) -> _Segment:
        height, width = picture.shape[:2]
        path = self._recording.next_segment()
        self._complete_bytes = self._recording.size_bytes  # not at every picture: a recording may have a thousand segments
        writer = Mp4Writer(path, (width, height), self._interval_s)
        return _Segment(writer, frame.clip, (height, width), first_tick=frame.tick, last_tick=frame.tick)

    def _close(self, keep: bool) -> None:
        seconds, segment = self._open_s, self._segment
        self._segment = None
        if segment is not None:
            segment.writer.close(keep)
            if segment.writer.path.exists():  # else it was discarded
                self._recording.add(segment.writer.path, seconds)

    def _leave_out(self, frame: SourceFrame, apart_s: float) -> None:
        """A model cannot be trained at an interval at which there are no pictures.

        A segment in progress is kept if its pictures were near enough before: the rate of a camera is not known at once.

        Raises:
            UsageError: of a camera that has been too slow from the beginning.
        """
        is_camera = frame.step_s is not None
        self._close(keep=is_camera and self._is_fast_enough)
        if is_camera and not self._is_fast_enough and not self._recording.facts.recorded_s:
            raise self._refusal(apart_s)
        if self._too_slow_s is None:
            self._too_slow_s = apart_s
            _LOG.warning(
                "pictures further apart than the model's steps of %g s are not recorded: now there is one every %.2g s",
                self._interval_s,
                apart_s,
            )

    def _refusal(self, apart_s: float) -> UsageError:
        return UsageError(
            f"{self._source.description} has a picture every {apart_s:.2g} s, but the model forecasts in steps of "
            f"{self._interval_s:g} s\n  adapt it to the source's own steps, in another --out: --frame-interval-s {apart_s:.2g}"
        )


class _Pace:
    """Tells which pictures are further apart than `interval_s`: those of a camera by its rate, of a file by their ticks."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: SourceFrame | None = None
        self._slow_s: float | None = None  # of the clip

    def too_slow_s(self, frame: SourceFrame) -> float | None:
        """Seconds from one picture to the next where a picture is now. None: near enough, or not known yet."""
        if frame.step_s is not None:
            return frame.step_s if frame.step_s > self._interval_s else None
        if frame.source_s is None:
            return None
        last = self._last
        self._last = frame
        if last is None or last.clip != frame.clip:
            self._slow_s = None
        elif frame.tick > last.tick + 1:  # of a file that is fast enough, no tick lacks a picture
            assert last.source_s is not None
            self._slow_s = frame.source_s - last.source_s
        return self._slow_s


def shrink(image: Picture, side: int) -> Picture:
    """A picture (H, W, 3) RGB or (H, W) gray as it is kept: RGB, of even sides, the shorter one at most four times `side`."""
    height, width = (max(2, length // 2 * 2) for length in covering_size(image, _SIDES * side, _SIDES * side))
    if (height, width) != image.shape[:2]:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
