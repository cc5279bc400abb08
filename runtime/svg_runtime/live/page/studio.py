"""Makes pictures for browsers in a thread of its own, and only those that somebody waits for.

A client asks for a picture newer than its last one. While no client asks, nothing is composed and nothing encoded; when several
do, one picture is made for all of them. A slow client asks seldom, so the newest picture wins, and nothing waits in a queue.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from svg_runtime.live.overlay.view import View

_SHARE = 0.1  # of the time of one core that one kind of picture may take


@dataclass(frozen=True)
class Moment:
    """A view with its number, which grows by one with each view of a camera."""

    number: int
    view: View


@dataclass(frozen=True)
class Shot:
    """An encoded picture of the view of this number."""

    number: int
    data: bytes


@dataclass
class Feed:
    """Pictures of one kind, of one camera.

    Attributes:
        newest: gives the newest view; None: there is none yet.
        draw: makes the picture of a view, encoded.
        least_s: between two pictures.
        shot: the newest picture.
        made: pictures so far.
    """

    newest: Callable[[], Moment | None]
    draw: Callable[[View], bytes]
    least_s: float
    shot: Shot | None = None
    made: int = 0
    ready_s: float = 0.0  # time.monotonic() from which on the next picture may be made
    waiters: dict[asyncio.Future[Shot | None], asyncio.AbstractEventLoop] = field(default_factory=dict)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a picture that can be made."""
        moment = self.newest() if self.waiters else None
        return moment is not None and (self.shot is None or moment.number > self.shot.number)


class Studio:
    """The thread.

    Args:
        on_error: gets what a picture raises; the clients that waited for it get none.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._changed = threading.Condition()
        self._feeds: list[Feed] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="page-pictures", daemon=True)

    def open_feed(self, newest: Callable[[], Moment | None], draw: Callable[[View], bytes], least_s: float) -> Feed:
        """Add pictures of one kind, see `Feed`."""
        feed = Feed(newest, draw, least_s)
        with self._changed:
            self._feeds.append(feed)
        return feed

    def start(self) -> None:
        """Start to make pictures."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; who waits gets None. May be called twice."""
        with self._changed:
            self._closed = True
            for feed in self._feeds:
                _resolve_all(feed, None)
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def wake(self, feeds: tuple[Feed, ...]) -> None:
        """There is a new view. Cheap while nobody waits: the live loop calls this for every frame."""
        if any(feed.waiters for feed in feeds):
            with self._changed:
                self._changed.notify_all()

    async def picture(self, feed: Feed, after: int) -> Shot | None:
        """The picture of the newest view, whose number is larger than `after`; it may take until there is one.

        None: it cannot be made, or the run has ended.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Shot | None] = loop.create_future()
        with self._changed:
            if self._closed:
                return None
            moment, shot = feed.newest(), feed.shot
            if moment is not None and shot is not None and shot.number == moment.number > after:
                return shot
            feed.waiters[waiter] = loop
            self._changed.notify_all()
        try:
            return await waiter
        finally:
            with self._changed:
                feed.waiters.pop(waiter, None)

    def _run(self) -> None:
        while (feed := self._next()) is not None:
            self._make(feed)

    def _next(self) -> Feed | None:
        """Wait until a picture is due; None: the end."""
        with self._changed:
            while not self._closed:
                wanted = [feed for feed in self._feeds if feed.is_wanted]
                first = min(wanted, key=lambda feed: feed.ready_s, default=None)
                pause_s = None if first is None else first.ready_s - time.monotonic()
                if first is not None and pause_s is not None and pause_s <= 0:
                    return first
                self._changed.wait(pause_s)
        return None

    def _make(self, feed: Feed) -> None:
        moment = feed.newest()
        assert moment is not None
        start_s, spent_s = time.monotonic(), time.thread_time()
        try:
            shot = Shot(moment.number, feed.draw(moment.view))
        except Exception as error:
            self._on_error(error)
            shot = None
        pause_s = max(feed.least_s, (time.thread_time() - spent_s) / _SHARE)
        with self._changed:
            feed.made += shot is not None
            feed.shot = shot or feed.shot
            feed.ready_s = start_s + pause_s
            _resolve_all(feed, shot)


def _resolve_all(feed: Feed, shot: Shot | None) -> None:
    for waiter, loop in feed.waiters.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, waiter, shot)
    feed.waiters.clear()


def _resolve(waiter: asyncio.Future[Shot | None], shot: Shot | None) -> None:
    if not waiter.done():  # its client may have left
        waiter.set_result(shot)
