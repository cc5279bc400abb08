"""How much clients may ask of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class WebLimits:
    """Limits of one server.

    Attributes:
        connections: at once. At the limit, those that have not sent a request yet give way; else the answer is 503.
        request_s: seconds until a request has come, headers and body.
        stall_s: seconds in which a client must take what is on its way to it: a picture, or a piece of a longer answer.
        keep_alive_s: seconds until an idle connection is closed.
        header_bytes: of a request.
        body_bytes: of a request.
        streams: at once.
        streams_per_client: at once, by address.
    """

    connections: int = 96
    request_s: float = 10.0
    stall_s: float = 20.0
    keep_alive_s: int = 15
    header_bytes: int = 16 << 10
    body_bytes: int = 64 << 10
    streams: int = 64
    streams_per_client: int = 32


class StreamSlots:
    """Counts answers that do not end by themselves. For the server's event loop alone; other threads may read `count`.

    Attributes:
        count: streams that are open.
    """

    def __init__(self, limits: WebLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self.count = 0

    @contextmanager
    def taken_by(self, client: str) -> Iterator[bool]:
        """Hold a slot for `client`, an address, while the block runs; the block gets whether there was a free one."""
        if self.count >= self._limits.streams or self._taken[client] >= self._limits.streams_per_client:
            yield False
            return
        self._taken[client] += 1
        self.count += 1
        try:
            yield True
        finally:
            self.count -= 1
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
