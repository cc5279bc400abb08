"""A run as a service of systemd: readiness, a line of status, and a watchdog that a run which hangs does not feed.

The protocol of sd_notify(3) is a datagram of `NAME=value` lines to the socket $NOTIFY_SOCKET. It is written out here because
that is all there is to it: the libraries for it are bindings of libsystemd that have to be compiled, or no longer than this.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from types import TracebackType

from svg_common.errors import first_line
from svg_common.printable import console_text
from svg_common.quantities import duration_text
from svg_runtime.live.stats import LiveStats
from svg_runtime.live.stop import StopRequest
from svg_runtime.live.timing import away_after_s

_SEND_TIMEOUT_S = 0.5  # a manager that is busy must not hold up forecasts
_STATUS_EVERY_S = 5.0
_START_EXTENSION_S = 60.0  # how long the manager waits for the next message: a first picture may take long to be processed
_MOST_NAMES = 8  # systemd ignores a message of more than 4096 bytes
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """What listens at $NOTIFY_SOCKET.

    Attributes:
        watchdog_s: it ends a service that has not sent WATCHDOG=1 for so long; None: it never does.
    """

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # @: in Linux's abstract namespace

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager | None:
        """Return the manager of this process, or None; its variables are removed, so that no child speaks for the service."""
        found = {name: environment.pop(name, "") for name in _VARIABLES}
        if not found["NOTIFY_SOCKET"].startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            return None
        ours = found["WATCHDOG_PID"] in ("", str(os.getpid()))
        timeout_us = float(found["WATCHDOG_USEC"]) if ours and found["WATCHDOG_USEC"].isdecimal() else 0.0  # inf of 400 digits
        return cls(found["NOTIFY_SOCKET"], timeout_us / 1e6 or None)

    def send(self, **values: str) -> bool:
        """Send variables in one message. Whether they arrived: a service goes on without its manager."""
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True


class ServiceReport:
    """Context manager that tells the service manager how a run is, between frames and while it waits for one.

    READY=1 is sent once the first picture was processed: then the camera delivers and the model runs, which is what a unit with
    `After=` wants; WATCHDOG=1, at half of the timeout. Both are sent by a check of `stop`, which runs where the loop makes
    progress or waits for a picture: a lost camera is not a fault of the process, a forecast that does not return is one.
    For the same reason EXTEND_TIMEOUT_USEC= goes with the status until then: a camera may be away for longer than a service may
    take to start, TimeoutStartSec=.
    STOPPING=1 is sent as soon as the loop has ended: from then on systemd has TimeoutStopSec= in the place of the watchdog,
    which nobody feeds while videos, clips and alarms are completed.

    Args:
        stop: runs the check.
        runs: statistics of every camera.
        manager: None: nothing is sent.
        names: of the cameras whose first picture is waited for, without passwords.
        now: the clock, in seconds.
    """

    def __init__(
        self, stop: StopRequest, runs: Sequence[LiveStats], manager: ServiceManager | None, names: Sequence[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._stop = stop
        self._runs = runs
        self._manager = manager
        self._names = names
        self._now = now
        self._ready = False
        self._taken = [0 for _ in runs]
        self._taken_s = [now() for _ in runs]  # when the last picture of each was
        self._status_due_s = now()
        self._ping_due_s = now()

    def __enter__(self) -> ServiceReport:
        if self._manager is not None:
            self._stop.add_check(self._check)
            self._check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._manager is None:
            return
        self._manager.send(STOPPING="1", STATUS=_failure(error) or f"ended by {self._reason()}")

    def _check(self) -> None:
        manager, now = self._manager, self._now()
        assert manager is not None
        for number, run in enumerate(self._runs):
            if run.taken > self._taken[number]:
                self._taken[number] = run.taken
                self._taken_s[number] = now
        if not self._ready and any(self._taken):
            self._ready = manager.send(READY="1", STATUS="running")
            self._status_due_s = now + _STATUS_EVERY_S
        elif now >= self._status_due_s:
            self._status_due_s = now + _STATUS_EVERY_S
            if self._ready:
                manager.send(STATUS=self._status(now))
            else:
                extension = f"{_START_EXTENSION_S * 1e6:.0f}"
                manager.send(STATUS=f"waiting for the first picture of {self._waited_for()}", EXTEND_TIMEOUT_USEC=extension)
        if manager.watchdog_s is not None and now >= self._ping_due_s:
            self._ping_due_s = now + manager.watchdog_s / 2
            manager.send(WATCHDOG="1")

    def _waited_for(self) -> str:
        """Names of a few."""
        more = len(self._names) - _MOST_NAMES
        return ", ".join(self._names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

    def _status(self, now: float) -> str:
        runs = self._runs
        problems = [self._problem(number, now) for number in range(len(runs))]
        away = [problem for problem in problems if problem]
        more = len(away) - _MOST_NAMES
        alarms = sum(run.events.counts["alarm"] for run in runs)
        rate = sum(run.fps for run, problem in zip(runs, problems, strict=True) if not problem)
        parts = [
            f"{len(runs)} cameras" if len(runs) > 1 else "",
            *away[:_MOST_NAMES],
            f"and {more} more cameras" if more > 0 else "",
            "" if all(problems) else f"{rate:.1f} frames/s",
            f"{sum(run.taken for run in runs)} frames",
            f"{sum(run.dropped for run in runs)} dropped",
            f"{alarms} alarm{'' if alarms == 1 else 's'}",
            "the model does not fit" if any(run.fit.reasons for run in runs if run.stopped_by is None) else "",
        ]
        return ", ".join(filter(None, parts))

    def _problem(self, number: int, now: float) -> str:
        """Why a camera gives no pictures; empty: it does."""
        run, away_s = self._runs[number], now - self._taken_s[number]
        about = f"{run.name}: " if run.name else ""
        if run.stopped_by is not None:
            return f"{about}ended by {run.stopped_by}"
        return f"{about}no picture for {duration_text(away_s)}" if away_s >= away_after_s(run.interval_s) else ""

    def _reason(self) -> str:
        """What ended the run: a stop, or the ends of its cameras."""
        return self._stop.reason or ", ".join(dict.fromkeys(str(run.stopped_by) for run in self._runs))


def _failure(error: BaseException | None) -> str:
    """Why it failed, in one line without passwords; empty if it did not."""
    if error is None or isinstance(error, KeyboardInterrupt):
        return ""
    return f"failed: {console_text(first_line(error))}"
