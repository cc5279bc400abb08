"""Problems during a live run: all are counted by kind, and the first messages are stored and reported at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

_MAX_MESSAGES = 20


class EventLog:
    """Counts events by kind. Thread-safe: the capture thread and the live loop both add events.

    Args:
        announce: called with the message of an event, at most `announce_each` times per kind, so that a camera that fails every
            second does not fill the terminal.
        announce_each: see above.
    """

    def __init__(self, announce: Callable[[str], None] | None = None, announce_each: int = 5) -> None:
        self._announce = announce
        self._announce_each = announce_each
        self._listeners: list[Callable[[str, str], None]] = []
        self._lock = threading.Lock()
        self._first: list[tuple[str, str]] = []  # kind and message of the first events
        self.counts: Counter[str] = Counter()

    @property
    def messages(self) -> list[str]:
        """The first messages, in order."""
        return [message for _, message in self._first]

    def listen(self, listener: Callable[[str, str], None]) -> None:
        """Call `listener` with kind and message of every event: at once with the first ones so far, later from any thread."""
        with self._lock:
            for kind, message in self._first:
                listener(kind, message)
            self._listeners.append(listener)

    def add(self, kind: str, message: str) -> None:
        """Count one event of `kind` (a stable name in the statistics) and announce `message`."""
        with self._lock:
            self.counts[kind] += 1
            count = self.counts[kind]
            if len(self._first) < _MAX_MESSAGES:
                self._first.append((kind, message))
            listeners = list(self._listeners)  # as of now: one that comes next gets this event from `listen`
        for listener in listeners:
            listener(kind, message)
        if self._announce is not None and count <= self._announce_each:
            more = " (more of this kind are only counted)" if count == self._announce_each else ""
            self._announce(message + more)

    def once(self, kind: str, message: str) -> None:
        """Add only the first event of this kind: a warning that applies to the whole run."""
        if kind not in self.counts:
            self.add(kind, message)

    def summary(self) -> dict[str, Any]:
        """Return the counts by kind and the first messages in order, as plain JSON values."""
        with self._lock:
            return {"counts": dict(self.counts), "messages": self.messages}
