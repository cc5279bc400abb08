"""Numbers of alarms: each is on the disk before its alarm is announced, so that no later run uses it again."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from svg_common.files import identity_of
from svg_common.outputs import is_open_already
from svg_runtime.live.alarms.archive import OWN_NAME
from svg_runtime.live.events import EventLog

_TAIL = 1 << 20  # bytes at the end of the events file, in which the largest number is: lines come in order of the alarms' ends
_LARGEST = 1 << 53  # above it, not every reader of JSON keeps integers apart
_DIGITS = 16  # always so many: the same bytes are written again, for which a full disk needs no space
_FIND_S = 0.5  # for a look at the folders, and again where a disk was mounted in their place
_STORE_S = 0.5  # a disk takes milliseconds, a slow card a tenth of a second


class AlarmNumbers(Iterator[int]):
    """The numbers after the largest one of earlier runs, for the live loop's thread.

    A number is stored when it is taken, in the lock file beside the events file: the line of an alarm is written when it has
    ended, and a kill or a power cut may come before. Where that fails, or takes long, it is an event, and the alarm goes on.
    Where another folder is in the place of one by now, such as that of a card that was mounted, its numbers count, too.
    A disk that hangs holds up the run once, not at each alarm.

    Args:
        events_file: gets a line per alarm; None: nothing is stored.
        folders: of the clips of its cameras, whose names have the numbers; None: clips are not saved.
        events: of the run.
    """

    def __init__(self, events_file: Path | None, folders: Iterable[Path | None], events: EventLog) -> None:
        self._events_file = events_file
        self._file = None if events_file is None else lock_file_of(events_file)
        self._folders = list(filter(None, folders))
        self._events = events
        self._finding = _Background(self._find)
        self._storing = _Background(self._store)
        self._identities: list[tuple[int, int] | None] | None = None  # of the folders that were read
        self._found = 0  # by the thread that reads
        self._find()
        self._last = self._stored = self._found

    def __next__(self) -> int:
        self._finding.is_done_within(_FIND_S)
        self._last = max(self._last, self._found) + 1
        if self._file is not None and not self._storing.is_done_within(_STORE_S):
            self._report(self._file, self._last, "the disk takes too long")
        return self._last

    def _find(self) -> None:
        """Look for the largest number, where it was not looked for yet."""
        of_events = [] if self._file is None else [self._file.parent]
        identities = [identity_of(folder) for folder in (*of_events, *self._folders)]
        if identities != self._identities:
            found = *_of_lines(self._events_file), *_of_lock_file(self._file), *_of_names(self._folders)
            self._found = max((self._found, *found))
            self._identities = identities

    def _store(self) -> None:
        """Store the newest number, after a look at the folders that is late: what it finds must not be overwritten before."""
        assert self._file is not None
        while self._stored < self._last:  # others may have been taken meanwhile
            self._finding.wait()
            number = max(self._last, self._found)
            self._write(self._file, number)
            self._stored = number

    def _write(self, file: Path, number: int) -> None:
        """In place, within one sector of the disk, so that the file is locked as before, and holds one number or the other."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as opened:
                opened.write(b"%0*d\n" % (_DIGITS, number))
                os.fsync(opened.fileno())
        except OSError as error:
            self._report(file, number, error.strerror or str(error))

    def _report(self, file: Path, number: int, reason: str) -> None:
        problem = f"the number of alarm {number} was not saved: '{file}': {reason}"
        self._events.add("alarm_not_saved", f"{problem}; after a kill or a power cut, another alarm may have it too")


class _Background:
    """Does one task with a disk in a thread, once at a time."""

    def __init__(self, task: Callable[[], None]) -> None:
        self._task = task
        self._thread: threading.Thread | None = None
        self._is_late = False

    def is_done_within(self, most_s: float) -> bool:
        """Do it, once the time before is done; whether all that takes at most so many seconds. Late, it is waited for once."""
        start = time.monotonic()
        is_done = self.wait(0.0 if self._is_late else most_s)
        if is_done:
            thread = threading.Thread(target=self._task, name="alarm-number", daemon=True)
            thread.start()
            self._thread = thread  # not before: another thread may wait for it
            is_done = self.wait(max(most_s - (time.monotonic() - start), 0.0))
        self._is_late = not is_done
        return is_done

    def wait(self, most_s: float | None = None) -> bool:
        """Whether the last time ends within so many seconds; None: wait until then."""
        thread = self._thread
        if thread is None:
            return True
        thread.join(most_s)
        return not thread.is_alive()


def lock_file_of(events_file: Path) -> Path | None:
    """The file beside `events_file` that holds it for one run at a time; None for a pipe, or what the shell has opened."""
    if is_open_already(events_file) or (events_file.exists() and not events_file.is_file()):
        return None
    place = Path(os.path.realpath(events_file))
    return place.with_name(f".{place.name}.lock")


def _of_lines(events_file: Path | None) -> Iterator[int]:
    """Of the last lines of the events file. A crash may have left half a line, and another program may have written one."""
    lines = []
    with suppress(OSError):  # it cannot be read, or its disk was just taken away
        if events_file is not None and events_file.is_file():
            with events_file.open("rb") as file:
                file.seek(max(0, events_file.stat().st_size - _TAIL))
                lines = file.read().splitlines()
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            sequence = json.loads(line)["sequence"]
            if type(sequence) is int and _is_number(sequence):  # True is an int too
                yield sequence


def _of_lock_file(file: Path | None) -> Iterator[int]:
    """Of the newest alarm that a run has had; none after a power cut that left nothing of it."""
    if file is not None:
        with suppress(OSError, ValueError):
            number = int(file.read_bytes()[: _DIGITS + 1])
            if _is_number(number):
                yield number


def _of_names(folders: Iterable[Path]) -> Iterator[int]:
    """Of clips and pictures, which are removed in this order."""
    for folder in folders:
        with suppress(OSError):  # it does not exist yet
            yield from (int(found["number"]) for found in map(OWN_NAME.fullmatch, os.listdir(folder)) if found is not None)


def _is_number(number: int) -> bool:
    return 1 <= number < _LARGEST
