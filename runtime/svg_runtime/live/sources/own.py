"""Sources of one's own, chosen by the scheme of their addresses: docs/add-a-source.md says how to write one."""

from __future__ import annotations

from typing import Protocol

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Source
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.stop import StopRequest


class OpenSource(Protocol):
    """Opens a source."""

    def __call__(self, address: str, ticker: Ticker, *, stop: StopRequest, events: EventLog, retry_s: float) -> Source:
        """Return the source.

        Args:
            address: all of it.
            ticker: when the model's pictures are due.
            stop: ends waits.
            events: what is worth reporting.
            retry_s: how long to wait for a device that is lost, in seconds.

        Raises:
            SourceLostError, NoPictureError: it is not available now; it is opened again for `retry_s`.
        """


OWN_SOURCES: dict[str, OpenSource] = {}  # by scheme, in lower case: "noise" for --source noise://


def find_own_source(address: str) -> OpenSource | None:
    """Return what opens the source at an address; None if the scheme is not one of `OWN_SOURCES`."""
    scheme, separator, _ = address.partition("://")
    return OWN_SOURCES.get(scheme.lower()) if separator else None
