"""The interface of what alarms are sent to, and how failures are reported: once when they begin, once when they end."""

from __future__ import annotations

import threading
from typing import Protocol

from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.worker import NotDeliveredError, Worker
from svg_runtime.live.events import EventLog

QUEUE = 100  # records that wait for a server that is away


class Transport(Protocol):
    """Sends one record; it is called in a thread of its own.

    Attributes:
        name: short, without secrets: for messages, and as the key of statistics.
    """

    name: str

    def send(self, record: AlarmRecord) -> None:
        """Send `record`.

        Raises:
            NotDeliveredError: not now; it is tried again.
            RefusedError: this record is refused; it is not tried again.
            StoppedError: `close` ended it; it is not tried again.
        """
        ...

    def close(self) -> None:
        """Say goodbye; called once, after the last record or when there is no more time for it: `send` may be in progress."""
        ...


class RefusedError(Exception):
    """A record was refused, and would be again."""


class StoppedError(Exception):
    """The run ended while a record was being sent: it has arrived, but not all of what follows from it."""


class Outlet:
    """Sends records in order through a transport, and counts them.

    Args:
        transport: what sends.
        events: of the run.
    """

    def __init__(self, transport: Transport, events: EventLog) -> None:
        self._transport = transport
        self._events = events
        self._failing = False
        self._sent = 0
        self._refused = 0
        self._stopped = 0
        self._leaving = threading.Lock()
        self._left = False
        self._worker: Worker[AlarmRecord] = Worker(f"alarm-{transport.name}", self._send, QUEUE, at_end=self._leave)

    @property
    def name(self) -> str:
        """Of the transport."""
        return self._transport.name

    def put(self, record: AlarmRecord) -> None:
        """Queue `record`; if too many wait already, the oldest is dropped and counted."""
        self._worker.put(record)

    def end(self) -> None:
        """Send what waits, however long that takes, then say goodbye. Returns at once; `close` ends it earlier."""
        self._worker.end()

    def close(self, timeout_s: float) -> None:
        """Send what waits for at most `timeout_s`, then end."""
        self._worker.close(timeout_s, self._leave)
        if self._worker.dropped:
            self._events.add(f"{self.name}_dropped", f"{self.name}: {self._worker.dropped} messages were not delivered")

    def summary(self) -> dict[str, int]:
        """Messages sent, refused by the other side, stopped by the end of the run, and dropped."""
        return {
            "sent": self._sent, "refused": self._refused, "stopped": self._stopped, "dropped": self._worker.dropped,
        }  # fmt: skip

    def _leave(self) -> None:
        """Say goodbye once: at the end of the queue, or when there is no more time for it."""
        with self._leaving:
            if not self._left:
                self._left = True
                self._transport.close()

    def _send(self, record: AlarmRecord) -> None:
        try:
            self._transport.send(record)
        except NotDeliveredError as error:
            if not self._failing:
                self._events.add(f"{self.name}_failed", f"{self.name}: {error}; alarms wait and are sent later")
            self._failing = True
            raise
        except RefusedError as error:
            self._refused += 1
            self._events.add(f"{self.name}_refused", f"{self.name}: {error}")
            return
        except StoppedError as error:
            self._stopped += 1
            self._events.add(f"{self.name}_stopped", f"{self.name}: {error}")
            return
        if self._failing:
            self._events.add(f"{self.name}_back", f"{self.name}: alarms are delivered again")
        self._failing = False
        self._sent += 1
