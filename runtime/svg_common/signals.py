"""Deferred Ctrl-C and SIGTERM for moments that must not be interrupted.

In our own commands only: other programs handle their own signals.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_in_command = False


def handle_sigterm_as_sigint() -> None:
    """Let SIGTERM, which `timeout` and service managers send, end this command as Ctrl-C does, with complete outputs."""
    global _in_command
    if threading.current_thread() is threading.main_thread():
        _in_command = True
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block, in a command; elsewhere nothing changes.

    For short work that must not stop halfway: the start of a process that nothing would keep track of, or the import of a
    compiled module, which turns a KeyboardInterrupt into an ImportError, as if the module were broken.
    """
    if not _in_command or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    old = {number: handler for number in _NUMBERS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in old:
            signal.signal(number, lambda caught, frame: arrived.append(caught))
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
