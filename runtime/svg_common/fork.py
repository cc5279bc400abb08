"""What a fork does to engines: their threads do not exist in the child, so a call that waits for one never returns.

Freeing an engine waits for its threads too, so the child keeps what it inherits. At its end, destructors in the engines'
libraries would wait for them once more, so it ends without.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any

_engines: weakref.WeakSet[Any] = weakref.WeakSet()
_libraries_used = threading.Event()  # also by engines that are freed: their libraries keep threads


def keep_in_children(engine: Any) -> None:
    """Never free `engine`, an object with threads, in a process that is forked from this one."""
    _engines.add(engine)
    _libraries_used.set()


def fork_problem(owner: int, what: str) -> str | None:
    """Return the message for an engine that another process opened; None in the process that did.

    Args:
        owner: os.getpid() of the process that opened it.
        what: subject of the message, such as "the forecaster".
    """
    if os.getpid() == owner:
        return None
    return (
        f"{what} was opened in process {owner}, and this is process {os.getpid()}, forked from it, without its threads\n"
        "  open the forecaster in the process that uses it, and start that process with multiprocessing.get_context('spawn')"
    )


def _leak_engines() -> None:
    for engine in list(_engines):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))  # a reference that is never given up


def _end_without_destructors() -> None:
    """After Python has finished, call _exit with its exit code before the destructors of C++ libraries."""
    libc = ctypes.CDLL(None)
    if _libraries_used.is_set() and hasattr(libc, "on_exit"):  # of glibc; elsewhere nothing passes the exit code
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leak_engines)
    os.register_at_fork(after_in_child=_end_without_destructors)
