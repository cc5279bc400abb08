"""Numbers of alarms: each is on the disk before its alarm is announced, so that no later run uses it again."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from svg_common.outputs import is_open_already
from svg_runtime.live.alarms.archive import OWN_NAME
from svg_runtime.live.events import EventLog

_TAIL = 1 << 20  # bytes at the end of the events file, in which the largest number is: lines come in order of the alarms' ends
_LARGEST = 1 << 53  # above it, not every reader of JSON keeps integers apart
_DIGITS = 16  # always so many: the same bytes are written again, for which a full disk needs no space
_STORE_S = 0.5  # a disk takes milliseconds, a slow card a tenth of a second


class AlarmNumbers(Iterator[int]):
    """The numbers after the largest one of earlier runs, for the live loop's thread.

    A number is stored when it is taken, in the lock file beside the events file: the line of an alarm is written when it has
    ended, and a kill or a power cut may come before. Where that fails, or takes long, it is an event, and the alarm goes on.
    A disk that hangs holds up the run once, not at each alarm.

    Args:
        events_file: gets a line per alarm; None: nothing is stored.
        folders: of the clips of its cameras, whose names have the numbers; None: clips are not saved.
        events: of the run.
    """

    def __init__(self, events_file: Path | None, folders: Iterable[Path | None], events: EventLog) -> None:
        self._file = None if events_file is None else lock_file_of(events_file)
        self._events = events
        self._storing: threading.Thread | None = None
        self._is_late = False
        self._last = max((*_of_lines(events_file), *_of_lock_file(self._file), *_of_names(folders)), default=0)

    def __next__(self) -> int:
        self._last += 1
        if self._file is not None:
            self._store_in_time(self._file, self._last)
        return self._last

    def _store_in_time(self, file: Path, number: int) -> None:
        start = time.monotonic()
        is_stored = self._is_stored(0.0 if self._is_late else _STORE_S)  # the one before
        if is_stored:
            self._storing = threading.Thread(target=self._store, args=(file, number), name="alarm-number", daemon=True)
            self._storing.start()
            is_stored = self._is_stored(_STORE_S - (time.monotonic() - start))
        self._is_late = not is_stored
        if self._is_late:
            self._report(file, number, "the disk takes too long")

    def _is_stored(self, wait_s: float) -> bool:
        """Whether what is being stored is there within so many seconds."""
        if self._storing is not None:
            self._storing.join(max(wait_s, 0.0))
        return self._storing is None or not self._storing.is_alive()

    def _store(self, file: Path, number: int) -> None:
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


def lock_file_of(events_file: Path) -> Path | None:
    """The file beside `events_file` that holds it for one run at a time; None for a pipe, or what the shell has opened."""
    if is_open_already(events_file) or (events_file.exists() and not events_file.is_file()):
        return None
    place = Path(os.path.realpath(events_file))
    return place.with_name(f".{place.name}.lock")


def _of_lines(events_file: Path | None) -> Iterator[int]:
    """Of the last lines of the events file. A crash may have left half a line, and another program may have written one."""
    if events_file is None or not events_file.is_file():
        return
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


def _of_names(folders: Iterable[Path | None]) -> Iterator[int]:
    """Of clips and pictures, which are removed in this order."""
    for folder in filter(None, folders):
        with suppress(OSError):  # it does not exist yet
            yield from (int(found["number"]) for found in map(OWN_NAME.fullmatch, os.listdir(folder)) if found is not None)


def _is_number(number: int) -> bool:
    return 1 <= number < _LARGEST
