"""When a peer on a GPU has submitted the work of a forecast, and how long the GPU computed."""

from __future__ import annotations

import time
from typing import Any


class DeviceClock:
    """Times one forecast after another: `begin`, then `submitted` by the peer itself, then `end`.

    Device time is from the first to the last work on one stream, by its own events, gaps included. A peer whose stream is not
    known has none.
    """

    def __init__(self) -> None:
        self._stream: Any = None
        self._events: tuple[Any, Any] | None = None
        self._began = 0.0
        self._host_s: float | None = None

    def follow(self, stream: int | None = None) -> None:
        """Record events on this stream.

        Args:
            stream: its CUDA handle; None for PyTorch's current one.
        """
        import torch

        self._stream = torch.cuda.current_stream() if stream is None else torch.cuda.ExternalStream(stream)
        self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def begin(self) -> None:
        """The forecast starts now."""
        self._host_s = None
        if self._events is not None:
            self._events[0].record(self._stream)
        self._began = time.perf_counter()

    def submitted(self) -> None:
        """All work of the forecast except the copy of its frames is submitted. Only the first call counts."""
        if self._host_s is None:
            self._host_s = time.perf_counter() - self._began
            if self._events is not None:
                self._events[1].record(self._stream)

    def end(self, total_s: float) -> tuple[float, float | None]:
        """Frames are in host memory, `total_s` after `begin`: seconds until the work was submitted, and of the device.

        A peer that never calls `submitted` waits all the time: its work is submitted when it is done.
        """
        if self._host_s is None:
            return total_s, None
        if self._events is None:
            return self._host_s, None
        self._events[1].synchronize()
        return self._host_s, self._events[0].elapsed_time(self._events[1]) / 1e3


def time_backend(backend: Any, clock: DeviceClock) -> None:
    """Call `submitted` when a backend of ours first reads values, for which it waits, and time its own stream."""
    stream, read = getattr(backend, "stream", None), backend.read
    if stream is not None:
        clock.follow(stream)

    def timed_read(buffer: Any) -> Any:
        clock.submitted()
        return read(buffer)

    backend.read = timed_read
