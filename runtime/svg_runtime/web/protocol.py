"""HTTP/1.1 of uvicorn with the deadlines that it lacks.

uvicorn closes idle connections between requests, but waits for ever for a request that has begun, or never does, and for a
client that takes no answer. Both would use up the connections.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from svg_runtime.web.limits import WebLimits

_REFUSED_BEYOND = 16  # connections above the limit are answered with 503, more of them not at all


def guarded_protocol(limits: WebLimits) -> type[H11Protocol]:
    """Return uvicorn's protocol with these limits."""

    class GuardedProtocol(H11Protocol):
        """Aborts a connection whose request does not arrive in time, or whose client takes nothing."""

        deadline: asyncio.TimerHandle | None = None  # running while a request is to arrive
        stalled: asyncio.TimerHandle | None = None  # running while the client takes nothing
        since_s = 0.0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, transport))
            self.transport.set_write_buffer_limits(high=0)  # pause_writing is called as soon as something is left over
            self.since_s = time.monotonic()
            self._start_deadline()
            self._make_room()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                self._start_deadline()
            else:
                self._stop_deadline()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stalled = self.stalled or self.loop.call_later(limits.stall_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_stalled()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_deadline()
            self._stop_stalled()
            super().connection_lost(exc)

        def _make_room(self) -> None:
            """At the limit, the oldest connection that owes a request gives way; without one, uvicorn answers 503."""
            alive = [one for one in self.connections if isinstance(one, GuardedProtocol) and not one.transport.is_closing()]
            if len(alive) > limits.connections:
                waiting = [one for one in alive if one.deadline is not None and one is not self]
                if waiting:
                    min(waiting, key=lambda one: one.since_s).transport.abort()
                elif len(alive) > limits.connections + _REFUSED_BEYOND:
                    self.transport.abort()
            for one in list(self.connections):
                if one.transport.is_closing():
                    self.connections.discard(one)  # at once, as uvicorn counts them

        def _start_deadline(self) -> None:
            self.deadline = self.deadline or self.loop.call_later(limits.request_s, self.transport.abort)

        def _stop_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _stop_stalled(self) -> None:
            if self.stalled is not None:
                self.stalled.cancel()
                self.stalled = None

    return GuardedProtocol


def protocol_options(limits: WebLimits) -> dict[str, Any]:
    """The options of uvicorn that belong to these limits."""
    return {
        "http": guarded_protocol(limits),
        "ws": "none",
        "h11_max_incomplete_event_size": limits.header_bytes,
        "timeout_keep_alive": limits.keep_alive_s,
        "limit_concurrency": limits.connections + 1,  # it counts the connection that asks
    }
