"""A thread with a bounded queue, so that slow disks and absent servers cost the live loop no time."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_LAST_TRIES_S = 0.2  # between tries once the run has ended
_INTERRUPT_S = 0.2  # for an item that was interrupted to be counted


class NotDeliveredError(Exception):
    """An item could not be handled now, and is tried again."""


class Worker(Generic[_Item]):
    """Handles items in order, in a thread of its own.

    Args:
        name: of the thread.
        handle: called with each item; `NotDeliveredError` lets it be tried again, after 1 s, then up to 30 s later.
        size: items that wait at most.
        at_end: called in the thread once it has handled the last item, or had no more time for it.

    Attributes:
        dropped: items that nobody handled: the queue was full, or the run had ended.
    """

    def __init__(self, name: str, handle: Callable[[_Item], None], size: int, at_end: Callable[[], None] | None = None) -> None:
        self._handle = handle
        self._size = size
        self._at_end = at_end
        self._ending = False
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._busy = False  # an item is being handled
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether as many items wait as may; `append` queues more."""
        return len(self._queue) >= self._size

    def put(self, item: _Item) -> None:
        """Queue `item`; if the queue is full, the oldest one is dropped."""
        with self._changed:
            if len(self._queue) >= self._size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(item)
            self._changed.notify_all()

    def offer(self, item: _Item) -> bool:
        """Queue `item` unless the queue is full; then it is dropped."""
        with self._changed:
            if len(self._queue) >= self._size:
                self.dropped += 1
                return False
            self._queue.append(item)
            self._changed.notify_all()
            return True

    def append(self, item: _Item) -> None:
        """Queue `item` even if the queue is full, and drop none: for the few that must not be lost."""
        with self._changed:
            self._queue.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """Handle what is queued, however long that takes, then end. Returns at once; `close` ends it earlier."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self, timeout_s: float, interrupt: Callable[[], None] | None = None) -> None:
        """Handle what is queued for at most `timeout_s`, then end; what is left is counted as dropped.

        Args:
            timeout_s: see above.
            interrupt: called then, once. It may end what is being handled, which counts as its handler says.
        """
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if interrupt is not None:
            interrupt()
            self._thread.join(_INTERRUPT_S)
        with self._changed:
            self.dropped += len(self._queue) + self._busy
            self._queue.clear()
            self._busy = False

    def _run(self) -> None:
        while (item := self._next()) is not None:
            handled = self._handle_with_retries(item)
            with self._changed:
                if self._busy:  # else `close` has given it up
                    self.dropped += not handled
                self._busy = False
            del item  # it may hold all pictures of a clip, and the next one may be hours away
        if self._at_end is not None:
            self._at_end()

    def _next(self) -> _Item | None:
        """The oldest item; None at the end."""
        with self._changed:
            while not self._queue and not self._closing and not self._ending:
                self._changed.wait()
            if not self._queue or time.monotonic() >= self._deadline:
                return None
            self._busy = True
            return self._queue.popleft()

    def _handle_with_retries(self, item: _Item) -> bool:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                self._handle(item)
                return True
            except NotDeliveredError:
                if not self._wait(wait_s):
                    return False
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except Exception:  # a bug: shown as Python would, but the thread goes on, for weeks if need be
                kind, error, trace = sys.exc_info()
                threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
                return False

    def _wait(self, seconds: float) -> bool:
        """Wait before the next try, shortly once the run has ended; False when there is no time for another one."""
        with self._changed:
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, seconds)
            else:
                self._changed.wait(_LAST_TRIES_S)
            return time.monotonic() < self._deadline
