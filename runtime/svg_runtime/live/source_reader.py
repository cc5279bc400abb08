"""Reads one source in a thread of its own, one picture ahead at most: a camera that blocks delays no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

from svg_common.errors import first_line
from svg_common.quantities import duration_text
from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import Source, SourceFrame
from svg_runtime.live.stop import ReaderStop, StopRequest

_BACK_OFF_S = (0.5, 5.0)  # first and longest pause between two attempts to open a camera
_ABANDON_S = 3.0  # how long the end waits for a source that hangs; cameras wait 2 s for a read of theirs


class SourceReader:
    """Fetches a picture whenever it is asked for one, and wakes the loop when it is there.

    Asking is what makes this right for every source: a camera answers with its newest picture at that moment, and counts what
    it drops; of a file none is lost.

    Args:
        open_source: opens the source with the stop that it has to heed.
        stop: of the run.
        interval_s: seconds between two pictures in real time; 0: they come as fast as they are read.

    Attributes:
        arrived: there is a picture, the end or an error, which `take` returns.
        fetch_s: how long the last picture was waited for.
        opened_s: `time.monotonic()` when the source was open; 0 before.
    """

    def __init__(self, open_source: Callable[[StopRequest], Source], stop: StopRequest, interval_s: float = 0.0) -> None:
        self._open_source = open_source
        self._run_stop = stop
        self._stop = ReaderStop(stop)
        self._interval_s = interval_s
        self._source: Source | None = None
        self._asked = threading.Event()
        self._asked_s = 0.0
        self._arrived_s: float | None = None
        self._picture: SourceFrame | None = None
        self._error: BaseException | None = None
        self.arrived = False
        self.fetch_s = 0.0
        self.opened_s = 0.0
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)  # one that hangs ends with the process

    @property
    def captured(self) -> int:
        """See `Source`."""
        return 0 if self._source is None else self._source.captured

    @property
    def dropped(self) -> int:
        """See `Source`."""
        return 0 if self._source is None else self._source.dropped

    @property
    def is_paced(self) -> bool:
        """Whether pictures come in real time."""
        return self._interval_s > 0

    def open(self) -> Source:
        """Open the source in the caller's thread, which raises its errors. Otherwise its own thread opens it."""
        self._source = self._open_source(self._stop)
        self.opened_s = self._asked_s = time.monotonic()  # connecting is no wait for a picture
        return self._source

    def ask(self) -> None:
        """Let it fetch the next picture. Not after its end."""
        self._asked_s = time.monotonic()
        self._asked.set()
        if self._thread.ident is None:
            self._thread.start()

    def take(self) -> SourceFrame | None:
        """Return the picture that has arrived; None at the end of the source.

        Raises:
            BaseException: what ended the source, such as SourceLostError.
        """
        picture = self._picture
        self._picture = None
        self.arrived = False
        if self._error is not None:
            raise self._error
        return picture

    def is_expected(self, until: float, patience_s: float) -> bool:
        """Whether the picture that was asked for should come until then, of `time.monotonic()`.

        One that should have come so long before, and did not, is not expected any more: its camera is slow, or away.
        """
        expected_s = self._asked_s
        if self._interval_s and self._arrived_s is not None:
            expected_s = max(expected_s, self._arrived_s + self._interval_s)
        return until - 2 * patience_s <= expected_s <= until

    def stop(self) -> None:
        """Let the thread close the source and end, without waiting for it: nobody wants its pictures any more."""
        self._stop.request("closed")
        self._stop.wake()
        self._asked.set()

    def close(self) -> None:
        """End the thread and close the source; a source that hangs ends with the process. May be called twice."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_ABANDON_S)
        elif self._source is not None and self._thread.ident is None:  # opened, and never asked
            self._source.close()

    def _run(self) -> None:
        try:
            with closing(self._source or self.open()) as source:
                frames = source.frames()
                while self._wait_until_asked():
                    picture = next(frames, None)
                    self._deliver(picture, None)
                    if picture is None:
                        return
        except KeyboardInterrupt:  # a stop was requested while it was opened
            self._deliver(None, None)
        except BaseException as error:
            self._deliver(None, error)

    def _wait_until_asked(self) -> bool:
        self._asked.wait()
        self._asked.clear()
        return self._stop.reason is None

    def _deliver(self, picture: SourceFrame | None, error: BaseException | None) -> None:
        self._picture = picture
        self._error = error
        self._arrived_s = time.monotonic()
        self.fetch_s = self._arrived_s - self._asked_s
        self.arrived = True
        self._run_stop.wake()


def open_with_retries(open_source: Callable[[], Source], retry_s: float, stop: StopRequest, events: EventLog) -> Source:
    """Open a camera, and try again for `retry_s` if it is not there: others run meanwhile.

    Raises:
        SourceLostError: it did not come.
        KeyboardInterrupt: a stop was requested meanwhile.
    """
    deadline = time.monotonic() + retry_s
    pause_s = _BACK_OFF_S[0]
    while True:
        try:
            source = open_source()
        except SourceLostError as error:
            if time.monotonic() >= deadline:
                raise
            reason = first_line(error)
            events.once("camera_missing", f"{reason}; retrying for {duration_text(retry_s)}")
        else:
            if "camera_missing" in events.counts:
                events.add("camera_back", f"{source.description} delivers frames")
            return source
        stop.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(2 * pause_s, _BACK_OFF_S[1])
        if stop:
            raise KeyboardInterrupt
