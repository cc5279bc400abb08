"""What one server takes and gives at most, so that its memory is bounded whatever clients do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeLimits:
    """Limits of one server.

    Attributes:
        sessions: open at the same time.
        idle_s: seconds without a request, after which a session is closed.
        waiting: requests of one session that may wait for the one that runs.
        wait_s: seconds that each of them may wait.
        frame_bytes: of the body of a frame.
        json_bytes: of any other body.
        early_bytes: of a frame that is read before it is its session's turn: connections keep as much of a body anyway.
        stall_s: seconds in which more of a body must come.
        pixels: of a picture, looked up in its header before it is decoded.
        forecast_bytes: of all frames of a forecast, as float32.
        samples: of a forecast: an engine computes all of them at once, in memory that it keeps until its session is closed.
    """

    sessions: int = 8
    idle_s: float = 300.0
    waiting: int = 4
    wait_s: float = 30.0
    frame_bytes: int = 32_000_000
    json_bytes: int = 64_000
    early_bytes: int = 1 << 16
    stall_s: float = 5.0
    pixels: int = 1 << 24
    forecast_bytes: int = 32_000_000
    samples: int = 64
