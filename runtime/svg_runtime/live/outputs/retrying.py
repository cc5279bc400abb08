"""What a recorder does when the disk is full or gone: what cannot be written is lost and counted, the run goes on."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.base import Recorder
from svg_runtime.live.overlay.view import View

RETRY_S = 10.0


class Retrying:
    """Passes everything on to `recorder`. After a failure, nothing for ten seconds; then it is tried again.

    Args:
        recorder: any.
        option: of the command line that asked for it, for messages.
        events: gets an event `record_failed` for each failed attempt, and `record_again` when something is on the disk again.
    """

    def __init__(self, recorder: Recorder, option: str, events: EventLog) -> None:
        self._recorder = recorder
        self._option = option
        self._events = events
        self._failed_s: float | None = None  # time.monotonic() of the last failed attempt
        self._lost = 0

    def record(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """Write, or count what is lost; never fails. See `Recorder`."""
        if self._failed_s is not None and time.monotonic() - self._failed_s < RETRY_S:
            self._lost += self._recorder.wants(view, picture)
            return False
        try:
            stored = self._recorder.record(view, picture)
        except OSError as error:
            self._lost += 1
            self._fail(error)
            return False
        if self._failed_s is not None and stored:  # on a full disk, the first pictures are taken into memory
            self._failed_s = None
            lost = self.summary()["lost"]
            self._events.add("record_again", f"{self._option}: it can be written again; {lost} pictures were lost so far")
        return stored

    def wants(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """See `Recorder`."""
        return self._recorder.wants(view, picture)

    def close(self, keep: bool = True) -> None:
        """Complete what is in progress; an error is an event."""
        try:
            self._recorder.close(keep=True)
        except OSError as error:
            self._fail(error)

    def summary(self) -> dict[str, Any]:
        """Return what was stored, and how many pictures were lost: not taken, or taken and found to be unreadable."""
        stored = self._recorder.summary()
        return {**stored, "lost": stored.get("lost", 0) + self._lost}

    def _fail(self, error: OSError) -> None:
        self._failed_s = time.monotonic()
        self._events.add(
            "record_failed", f"{self._option}: cannot be written: {error.strerror or error}; tried again every {RETRY_S:g} s"
        )
        with suppress(OSError):  # what is in progress cannot be completed either, but can be read
            self._recorder.close(keep=True)
