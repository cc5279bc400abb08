"""The signals that end a command: Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends when it is closed.

In our own commands only: other programs handle their own signals.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
_in_command = False
_interrupted = False


def stop_signals() -> list[signal.Signals]:
    """Return the signals that end a command: SIGINT, SIGTERM, and SIGHUP unless it is ignored, as below `nohup`."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if _SIGHUP is not None and signal.getsignal(_SIGHUP) is not signal.SIG_IGN:
        numbers.append(_SIGHUP)
    return numbers


def ignore_next_hangup(number: int) -> None:
    """If `number` is SIGHUP, ignore it from now on: handlers call this first.

    The system and the shell each send one when a terminal is closed, and the second must not interrupt the orderly end.
    """
    if number == _SIGHUP:
        signal.signal(number, signal.SIG_IGN)


def handle_stop_signals_as_sigint() -> None:
    """Let SIGTERM, which `timeout` and service managers send, and SIGHUP end this command as Ctrl-C does."""
    global _in_command, _interrupted
    if threading.current_thread() is threading.main_thread():
        _in_command, _interrupted = True, False
        for number in stop_signals():
            if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:  # not where it is ignored
                signal.signal(number, _interrupt)


def in_command() -> bool:
    """Whether this process is one of our commands."""
    return _in_command


def was_interrupted() -> bool:
    """Whether a signal has cut this command short. False where it ends in order, with handlers of its own."""
    return _interrupted


def end_undisturbed() -> None:
    """From now on SIGTERM and SIGHUP change nothing, and Ctrl-C ends the process at once, without a traceback.

    For the end of Python, when all is done and reported: it takes part of a second, in which our handlers are gone already. If
    a library hangs in it, only SIGKILL ends the process.
    """
    for number in stop_signals():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    ignore_next_hangup(number)
    raise KeyboardInterrupt


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the end of the block, in a command; elsewhere nothing changes.

    For short work that must not stop halfway: the start of a process that nothing would keep track of, or the import of a
    compiled module, which turns a KeyboardInterrupt into an ImportError, as if the module were broken.
    """
    if not _in_command or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    old = {number: handler for number in stop_signals() if (handler := signal.getsignal(number)) is not None}
    try:
        for number in old:
            signal.signal(number, lambda caught, frame: arrived.append(caught))
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
