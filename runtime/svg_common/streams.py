"""stdin, stdout and stderr of a command, whatever its caller has done to them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def open_closed_streams() -> None:
    """Connect a closed stdin, stdout or stderr to the null device.

    Otherwise the next file that is opened takes its number, and what a library prints goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def drop_unwritable_messages() -> None:
    """Let a stderr that cannot be written, as of a closed terminal or a full disk, cost messages and not the run."""
    stream = sys.stderr
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a program has replaced it by something that is not a file
        return
    buffer = io.BufferedWriter(_Messages(number, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=True)


def flush_results() -> None:
    """Write what stdout still holds; what cannot be written is dropped, and not tried again at the exit of Python.

    Raises:
        OSError: it cannot be written; a BrokenPipeError if its reader has closed it.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


class _Messages(io.FileIO):
    """Takes all that is written, and drops what cannot be."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            return len(data)
        return len(data) if written is None else written  # None: its reader is too slow, and it does not wait
