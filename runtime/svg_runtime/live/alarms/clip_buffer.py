"""The last seconds of pictures, compressed: what a clip from before an alarm is made of."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.alarms.worker import Worker
from svg_runtime.live.sources.base import Picture

_QUALITY = 92  # of JPEG: a tenth of the raw size, without visible loss in the clip
_WAITING_PICTURES = 15  # raw; more wait only where compression is slower than the camera
MOST_BUFFERS = 8  # times `limit_bytes`: of all pictures, with those of clips in progress and of clips that are not written yet


@dataclass(frozen=True)
class StoredPicture:
    """A compressed picture and the model interval that it belongs to."""

    tick: int
    jpeg: NDArray[np.uint8]

    def decode(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        decoded = cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR)
        return np.asarray(cv2.cvtColor(np.asarray(decoded), cv2.COLOR_BGR2RGB), np.uint8)


@dataclass
class _Request:
    """A clip that is still being recorded."""

    first_tick: int
    last_tick: int
    done: Callable[[list[StoredPicture]], None]
    pictures: list[StoredPicture] = field(default_factory=list)


class ClipBuffer:
    """Ring buffer of pictures, bounded in time and in bytes, which compresses in a thread of its own.

    Clips hold their pictures until whoever gets them lets go of them. When all pictures take more than `MOST_BUFFERS` times
    the limit, clips end early, and new ones have no pictures.

    Args:
        kept_ticks: how many model intervals are kept, for a clip that begins before it is asked for.
        limit_bytes: of compressed pictures; the oldest go first.
        at_end: called in the thread of this buffer when it has handed over the last clip.
        on_cut: called in the thread of this buffer for each clip that ends early because of its bytes.

    Attributes:
        dropped: pictures that are missing, because compression was slower than the camera.
    """

    def __init__(
        self, kept_ticks: int, limit_bytes: int, at_end: Callable[[], None] | None = None,
        on_cut: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._kept_ticks = kept_ticks
        self._limit_bytes = limit_bytes
        self._ring: deque[StoredPicture] = deque()
        self._bytes = 0
        self._held_bytes = 0  # of the ring, and of all clips
        self._freed: deque[int] = deque()  # bytes of pictures that nobody holds any more, by whichever thread let go of them
        self._requests: list[_Request] = []
        self._at_end = at_end
        self._on_cut = on_cut
        self._worker: Worker[Callable[[], None]] = Worker(
            "alarm-pictures", lambda task: task(), _WAITING_PICTURES, at_end=self._finish
        )

    @property
    def dropped(self) -> int:
        """See the class."""
        return self._worker.dropped

    def add(self, picture: Picture, tick: int) -> None:
        """Keep `picture`, which nobody may change any more."""
        self._worker.offer(lambda: self._store(picture, tick))

    def request(self, first_tick: int, last_tick: int, done: Callable[[list[StoredPicture]], None]) -> None:
        """Call `done` in the thread of this buffer with the pictures of these ticks, once they are there."""
        self._worker.append(lambda: self._start(_Request(first_tick, last_tick, done)))

    def pass_time(self, tick: int) -> None:
        """No picture has come until `tick`: clips that end before it are complete."""
        if self._requests:
            self._worker.append(lambda: self._complete(tick))

    def end(self) -> None:
        """Hand over what there is of clips that are not complete. Returns at once."""
        self._worker.end()

    def close(self, timeout_s: float) -> None:
        """As `end`, and wait for it for at most `timeout_s`."""
        self._worker.close(timeout_s)

    def _store(self, picture: Picture, tick: int) -> None:
        bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        encoded, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        self._complete(tick)
        if not encoded:  # wider or higher than JPEG can be
            return
        stored = StoredPicture(tick, np.asarray(jpeg, np.uint8))
        self._held_bytes += stored.jpeg.nbytes
        weakref.finalize(stored, self._freed.append, stored.jpeg.nbytes)
        for request in self._requests:
            request.pictures.append(stored)
        self._ring.append(stored)
        self._bytes += stored.jpeg.nbytes
        while self._ring and (self._bytes > self._limit_bytes or self._ring[0].tick < tick - self._kept_ticks):
            self._bytes -= self._ring.popleft().jpeg.nbytes
        if self._is_full():
            self._cut()

    def _start(self, request: _Request) -> None:
        self._requests.append(request)
        if self._is_full():
            self._cut()
        else:
            request.pictures = [stored for stored in self._ring if stored.tick >= request.first_tick]

    def _is_full(self) -> bool:
        while self._freed:
            self._held_bytes -= self._freed.popleft()
        return self._held_bytes > MOST_BUFFERS * self._limit_bytes

    def _cut(self) -> None:
        for _ in self._requests:
            self._on_cut()
        self._hand_over()

    def _complete(self, tick: int) -> None:
        for request in [request for request in self._requests if tick > request.last_tick]:
            self._requests.remove(request)
            request.done(request.pictures)

    def _hand_over(self) -> None:
        for request in self._requests:
            request.done(request.pictures)
        self._requests = []

    def _finish(self) -> None:
        self._hand_over()
        if self._at_end is not None:
            self._at_end()
