"""What happened, for `/events`: the last entries in order, each with a number that clients go on from."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

_KEPT = 200  # of each share
_LATE = 50  # of each share, for a client that joins
_OF_A_GROUP = 10
_DIGITS = 16  # a number with so many is not the number of an entry


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        run: names the run, which counts from 1 again.
        number: from 1, growing by one.
        kind: alarm, event or change.
        data: JSON.
        group: entries that are alike, of one camera; None: it stands for itself.
    """

    run: str
    number: int
    kind: str
    data: str
    group: tuple[str, str] | None = None

    def as_server_sent(self) -> str:
        """As a message of an event stream."""
        return f"id: {self.run}-{self.number}\nevent: {self.kind}\ndata: {self.data}\n\n"


class Board:
    """Thread-safe; all cameras of a run write to one.

    Each camera has a share for its alarms, and one for all else: what a bad connection reports all day pushes out no alarm, and
    nothing of another camera.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: dict[tuple[str, bool], deque[Entry]] = {}  # by camera, and whether they are alarms
        self._count = 0
        self._run = f"{time.time_ns() // 1_000_000:x}"

    def add(self, kind: str, camera: str, values: dict[str, Any], group: str | None = None) -> None:
        """Add an entry; `values` are plain JSON values.

        Of a group, only the last entries stay: a short video that is played again and again would push all else out.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        data = json.dumps({"time": now, "camera": camera, **values})
        with self._lock:
            self._count += 1
            of = None if group is None else (camera, group)
            share = self._shares.setdefault((camera, kind == "alarm"), deque(maxlen=_KEPT))
            alike = [one for one in share if of is not None and one.group == of]
            if len(alike) >= _OF_A_GROUP:
                share.remove(alike[0])
            share.append(Entry(run=self._run, number=self._count, kind=kind, data=data, group=of))

    def after(self, number: int | None, camera: str | None = None) -> list[Entry]:
        """The entries whose number is larger, in order.

        Args:
            number: of the entry that the client has seen last; None: it joins, and gets only the last entries of each share.
            camera: whose entries, with those of the run as a whole; None: all.
        """
        most = _LATE if number is None else _KEPT
        number = number or 0
        asked = None if camera is None else {camera, ""}
        with self._lock:
            if number >= self._count:
                return []
            shares = [share for (of, _), share in self._shares.items() if asked is None or of in asked]
            last = [entry for share in shares for entry in list(share)[-most:]]
        return sorted((entry for entry in last if entry.number > number), key=lambda entry: entry.number)

    def number_of(self, entry_id: str) -> int | None:
        """Number of the entry that a client has seen last; None: of another run, or of none."""
        run, _, number = entry_id.partition("-")
        return int(number) if run == self._run and number.isdecimal() and len(number) < _DIGITS else None

    @property
    def count(self) -> int:
        """Number of the newest entry."""
        return self._count
