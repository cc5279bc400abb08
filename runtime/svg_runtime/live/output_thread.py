"""The output thread: composes pictures and writes them to the outputs while the next forecast is made."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.outputs import Output, Recorder
from svg_runtime.live.overlay import View
from svg_runtime.live.timing import StageTimer

_MOST_WAITING = 2  # views; a picture that is later than that is not a live picture
_POLL_S = 0.05  # Ctrl-C must reach a wait for a slow disk
_ABANDON_S = 2.0  # how long a discarded run waits for a write that hangs


@dataclass(frozen=True)
class _Job:
    view: View
    tick: int
    queued_s: float
    timed: Sequence[tuple[StageTimer, float]]  # what gets the times, and when its picture was captured, or arrived


class Composer(Protocol):
    """Draws a view."""

    def annotate(self, view: View) -> NDArray[np.uint8]:
        """Return the picture, a new (height, width, 3) uint8 RGB array."""
        ...


class OutputThread(threading.Thread):
    """Writes every view that it is given, one after another, in a thread of its own.

    Args:
        picture: composes a view, as ForecastPicture does; None: nothing is composed.
        outputs: what composed pictures are written to.
        recorders: what views are written to, with the composed picture.
        timer: gets the stages queue, overlay, output and end_to_end.
        newest_wins: when the outputs are slower than the forecasts, leave out the oldest view that waits, as for a camera,
            instead of making the forecasts wait. It may be changed from one view to the next.
    """

    def __init__(
        self, picture: Composer | None, outputs: Sequence[Output], timer: StageTimer, newest_wins: bool,
        recorders: Sequence[Recorder] = (),
    ) -> None:  # fmt: skip
        super().__init__(name="outputs", daemon=True)  # a disk that hangs must not keep the process alive
        self._picture = picture
        self._outputs = outputs
        self._recorders = recorders
        self._timer = timer
        self.newest_wins = newest_wins
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._finished = False
        self._completes = False  # what was recorded, at the end of the thread
        self._error: BaseException | None = None
        self.left_out = 0  # views that were never composed, because newer ones came

    def submit(self, view: View, tick: int, start_s: float, timed: Sequence[tuple[StageTimer, float]] | None = None) -> None:
        """Queue a view, which must not change any more.

        Args:
            view: what is shown.
            tick: its model interval.
            start_s: when its picture was captured, or arrived.
            timed: of a view of several cameras: the timers that get the times, and when the picture of each was.

        Raises:
            OutputError: an earlier picture could not be written.
        """
        with self._changed:
            while len(self._waiting) >= _MOST_WAITING and self._error is None:
                if self.newest_wins:
                    self._waiting.popleft()
                    self.left_out += 1
                else:
                    self._changed.wait(_POLL_S)
            self._raise_error()
            self._waiting.append(_Job(view, tick, time.monotonic(), ((self._timer, start_s),) if timed is None else timed))
            self._changed.notify_all()

    def end(self) -> None:
        """No more views: let the thread write what waits, complete what was recorded, and end. Returns at once."""
        with self._changed:
            self._finished = True
            self._completes = True
            self._changed.notify_all()

    def finish(self, keep: bool) -> None:
        """Write what waits, or drop it without `keep`, and end the thread. May be called twice.

        Raises:
            OutputError: a picture could not be written; with `keep` only.
        """
        with self._changed:
            self._finished = True
            if not keep:
                self._waiting.clear()
            self._changed.notify_all()
        while keep and self.is_alive():
            self.join(_POLL_S)
        self.join(_ABANDON_S)
        if keep:
            self._raise_error()

    def run(self) -> None:
        """Write until `end` or `finish`; an error ends the thread and is raised by the next call."""
        try:
            while (job := self._next()) is not None:
                self._write(job)
            for recorder in self._recorders if self._completes else ():
                recorder.close(keep=True)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._waiting:
                if self._finished:
                    return None
                self._changed.wait()
            job = self._waiting.popleft()
            self._changed.notify_all()
            return job

    def _write(self, job: _Job) -> None:
        taken_s = time.monotonic()
        canvas = None if self._picture is None else self._picture.annotate(job.view)
        composed_s = time.monotonic()
        if canvas is not None:
            for output in self._outputs:
                output.write(canvas, job.tick)
        for recorder in self._recorders:
            recorder.record(job.view, canvas)
        written_s = time.monotonic()
        for timer, start_s in job.timed:
            timer.add("queue", (taken_s - job.queued_s) * 1e3)
            if canvas is not None:
                timer.add("overlay", (composed_s - taken_s) * 1e3)
            timer.add("output", (written_s - composed_s) * 1e3)
            timer.add("end_to_end", (written_s - start_s) * 1e3)

    def _raise_error(self) -> None:
        if self._error is not None:
            error = self._error
            self._error = None
            raise error
