"""Orderly end of a live run: Ctrl-C, SIGTERM or the window ask for it, the loop ends between two frames."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SLICE_S = 0.02  # a signal handler only sets a flag, so every wait is cut into slices that look at it


class StopRequest:
    """Context manager that turns SIGINT and SIGTERM into a flag, so that a frame is never cut in half.

    A second Ctrl-C raises KeyboardInterrupt at once, for a run that hangs. Until `start_graceful_stop`, either signal does:
    whatever is under way then, such as building an engine, does not look at the flag.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._notes = False
        self.interrupted = False  # by Ctrl-C: the command then exits 130
        self.signalled = False  # by Ctrl-C or SIGTERM
        self._previous: dict[signal.Signals, Any] = {}
        self._watches: list[Callable[[], None]] = []

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.reason is not None

    def start_graceful_stop(self) -> None:
        """From now on a signal is a request, as somebody looks at the flag."""
        self._notes = True

    def request(self, reason: str) -> None:
        """Ask the loop to end before the next frame; the first reason is kept."""
        self.reason = self.reason or reason

    def watch(self, look: Callable[[], None]) -> None:
        """Have `look` called while a camera is waited for: it requests a stop when the user did, in a window for example."""
        self._watches.append(look)

    def look(self) -> None:
        """Look whether the user asks for a stop. To be called in the main thread, as windows want it."""
        for look in self._watches:
            look()

    def sleep(self, seconds: float) -> None:
        """Sleep, but return early when a stop is requested."""
        end = time.monotonic() + seconds
        while not self and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._notes:
            raise KeyboardInterrupt
        self.signalled = True
        if number == signal.SIGINT:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
        self.request(f"signal {signal.Signals(number).name}")
