"""Ctrl-C and SIGTERM at moments that cannot bear them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end.

    For what lasts a moment only and would be left halfway: the start of a process that nobody would know of, or the import of a
    compiled module, which turns a KeyboardInterrupt into an ImportError, as if the module were broken.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal is handled
        yield
        return
    arrived: list[int] = []
    old = {number: signal.signal(number, lambda caught, frame: arrived.append(caught)) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if arrived:
            signal.raise_signal(arrived[0])


def end_as_ctrl_c_does() -> None:
    """Let SIGTERM, which `timeout` and service managers send, end a command as Ctrl-C does: with its outputs put in order."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
