"""Graceful stop of a live run: on a signal or a key in the window, the loop ends between two frames."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from svg_common.signals import ignore_next_hangup, in_command, stop_signals

_SLICE_S = 0.02  # a signal handler only sets a flag, so waits are cut into slices that check it


class StopRequest:
    """Context manager that turns SIGINT, SIGTERM and SIGHUP into a flag, so that no frame is interrupted.

    A second Ctrl-C raises KeyboardInterrupt at once, for a run that hangs. Before `start_graceful_stop`, each of them does so:
    the work at that time, such as building an engine, does not check the flag. In a command, after a signal, all of this goes
    on beyond the block, until the process ends: a second SIGTERM must not make a failure of an orderly end.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._graceful = False
        self.interrupted = False  # by Ctrl-C: the command then exits 130
        self.signalled = False  # by Ctrl-C, SIGTERM or SIGHUP
        self._previous: dict[signal.Signals, Any] = {}
        self._checks: list[Callable[[], None]] = []
        self._woken = threading.Event()

    def __enter__(self) -> StopRequest:
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.signalled and in_command():
            return
        for number, handler in self._previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # a closed terminal may signal again, until the process ends
                signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.reason is not None

    def start_graceful_stop(self) -> None:
        """From now on, signals only set the flag, because the loop checks it."""
        self._graceful = True

    def request(self, reason: str) -> None:
        """Request an end before the next frame; the first reason is kept."""
        self.reason = self.reason or reason

    def add_check(self, check: Callable[[], None]) -> None:
        """Call `check` between frames and while waiting: a window shows its newest picture, and may request a stop."""
        self._checks.append(check)

    def wake(self) -> None:
        """End one slice of a wait early, so that the checks run now. Any thread may call this."""
        self._woken.set()

    def poll(self) -> None:
        """Run all checks. Call this in the main thread, as windows require."""
        for check in self._checks:
            check()

    def sleep(self, seconds: float) -> None:
        """Sleep in the main thread, but return early when a stop is requested. The checks run meanwhile."""
        end = time.monotonic() + seconds
        while not self and (left := end - time.monotonic()) > 0:
            self.wait(left)

    def wait(self, seconds: float) -> None:
        """Run the checks, then wait until `wake`, or for `seconds` at most; also no longer than signals may wait."""
        self.poll()
        self._woken.wait(min(seconds, _SLICE_S))
        self._woken.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        ignore_next_hangup(number)
        if not self._graceful:
            raise KeyboardInterrupt
        self.signalled = True
        if number == signal.SIGINT:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
        self.request(f"signal {signal.Signals(number).name}")


class ReaderStop(StopRequest):
    """The stop of a run as a source sees it that is read in a thread of its own, or of this source alone.

    Args:
        run: ends this source, too. Its checks are for the main thread, and do not run here.
    """

    def __init__(self, run: StopRequest) -> None:
        super().__init__()
        self._run = run

    def __bool__(self) -> bool:
        return bool(self._run) or self.reason is not None

    def poll(self) -> None:
        """Run nothing: windows draw in the main thread alone."""
