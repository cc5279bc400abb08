"""Sources of one's own, chosen by the scheme of their addresses: docs/add-a-source.md says how to write one."""

from __future__ import annotations

from collections.abc import Callable

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Source
from svg_runtime.live.sources.pacing import Ticker
from svg_runtime.live.stop import StopRequest

# Opens a source. Its arguments: the whole address, the schedule of the model's pictures, what ends waits, and the event log.
OpenSource = Callable[[str, Ticker, StopRequest, EventLog], Source]

OWN_SOURCES: dict[str, OpenSource] = {}  # by scheme, in lower case: "noise" for --source noise://


def find_own_source(address: str) -> OpenSource | None:
    """Return what opens the source at an address; None if the scheme is not one of `OWN_SOURCES`."""
    scheme, separator, _ = address.partition("://")
    return OWN_SOURCES.get(scheme.lower()) if separator else None
