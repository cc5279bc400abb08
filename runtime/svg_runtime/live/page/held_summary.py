"""Statistics of a run that goes on, for many clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

_HELD_S = 1.0  # they sort thousands of values: that is done once a second, however many clients ask
_ATTEMPTS = 5


class HeldSummary:
    """Calls for a summary, and holds it for a second. Thread-safe.

    Args:
        summarize: gives the statistics as plain JSON values.
    """

    def __init__(self, summarize: Callable[[], dict[str, Any]]) -> None:
        self._summarize = summarize
        self._lock = threading.Lock()
        self._held: dict[str, Any] = {}
        self._made_s = float("-inf")

    def __call__(self) -> dict[str, Any]:
        """The statistics, at most a second old."""
        with self._lock:
            if time.monotonic() - self._made_s >= _HELD_S:
                self._held = self._consistent()
                self._made_s = time.monotonic()
            return self._held

    def _consistent(self) -> dict[str, Any]:
        """The live loop goes on meanwhile: a deque that it appends to cannot be read to its end, and is read again."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._summarize()
            except RuntimeError:
                continue
        return self._summarize()
