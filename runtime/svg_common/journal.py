"""Lines for systemd's journal: each with its syslog priority, so that `journalctl -p warning` finds what matters."""

from __future__ import annotations

import io
import os
import sys
import threading

ERROR, WARNING, INFO = "<3>", "<4>", "<6>"  # systemd.exec(5), SyslogLevelPrefix=
_STARTS = {
    **dict.fromkeys(("error: ", "Error: ", "Usage: ", "Traceback (", "Exception in thread "), ERROR),
    "warning: ": WARNING,
}
_OURS = ("svg-", "warning: ")  # ends a traceback


def stderr_is_journal() -> bool:
    """Whether systemd connected stderr to its journal: $JOURNAL_STREAM names the device and the inode of it."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or replaced by something that is not a file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def prefix_journal_lines() -> None:
    """Let each line on stderr begin with its priority, if stderr is the journal."""
    if stderr_is_journal() and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = JournalStream(sys.stderr)


def as_warning(message: str) -> str:
    """`message` as a line of level warning where stderr is the journal, else unchanged."""
    return f"{WARNING}{message}" if isinstance(sys.stderr, JournalStream) else message


class JournalStream(io.TextIOWrapper):
    """A text stream each of whose lines has a priority by how it starts: `error: `, `warning: `, all else is information.

    Indented lines, and those of a traceback, have that of the line before them. Nothing but `as_warning` sets another one: of
    what a message quotes, a `<0>` at the start of a line stays text.

    Args:
        stream: the stream that it replaces.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        self._replaced = stream  # without a reference, it would close the file
        self._lock = threading.RLock()
        self._line = ""  # has not ended yet
        self._priority = INFO

    def write(self, text: str) -> int:
        """Write all complete lines; the rest waits for its end, so that threads do not mix their lines."""
        with self._lock:
            *complete, rest = (self._line + text).split("\n")
            self._line = rest
            for line in complete:
                super().write(f"{self._prefixed(line)}\n")
        return len(text)

    def _prefixed(self, line: str) -> str:
        if line.startswith(WARNING):
            self._priority = WARNING
            return line
        goes_on = line.startswith("  ") or (self._priority == ERROR and not line.startswith(_OURS))
        if not goes_on:
            self._priority = next((level for start, level in _STARTS.items() if line.startswith(start)), INFO)
        return f"{self._priority}{line}"
