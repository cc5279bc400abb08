"""The data behind the picture: filled by the live loop, drawn by the panels."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.alarms.signal_names import SignalName
from svg_runtime.live.roi import Region
from svg_runtime.live.sources.base import Picture

Trouble = Literal["blank", "frozen", "roi_outside"]

TRACE_STEPS = 120  # length of the trace, in forecast steps


@dataclass(frozen=True)
class Caption:
    """What does not change in a run, but for samples, horizon and the step of a camera: see `with_counts` and `with_step`."""

    model: str
    backend: str
    source: str
    samples: int
    horizon: int
    interval_s: float  # seconds per forecast step
    frame_hw: tuple[int, int]  # of the model
    lead: int  # forecast step, from 1, whose mean and spread are shown large
    surprise_unit: Literal["nats", "relative"] | None = "nats"  # see `Forecaster`
    alarm_signal: SignalName | None = None  # that is compared with the threshold; None: there are no alarms
    score_lead: int | None = None  # forecast step whose PSNR is shown; None: `lead`

    def with_counts(self, samples: int, horizon: int) -> Caption:
        """Return the caption of forecasts with these counts; a lead that was the last step stays the last."""
        if (samples, horizon) == (self.samples, self.horizon):
            return self
        lead = horizon if self.lead == self.horizon else min(self.lead, horizon)
        return replace(self, samples=samples, horizon=horizon, lead=lead, score_lead=self.score_lead or self.lead)

    def with_step(self, step_s: float | None) -> Caption:
        """Return the caption of forecasts with steps of so many seconds; None: as it is."""
        return self if step_s in (None, self.interval_s) else replace(self, interval_s=step_s)

    def lead_label(self, lead: int) -> str:
        """Return how far ahead forecast step `lead` is, such as '+0.5 s'."""
        seconds = lead * self.interval_s
        tenths = self.interval_s * 10
        return f"+{seconds:.1f} s" if tenths > 0.9 and abs(tenths - round(tenths)) < 0.02 else f"+{seconds:.2f} s"


@dataclass
class View:
    """One moment of the run.

    Attributes:
        picture: newest picture of the source, uint8.
        futures: (samples, horizon, H, W, C) float32 made from it, or None without a forecast.
        frame: (H, W, C) float32, the picture as the model sees it; None where it has not seen one.
        number: of the picture among all of the run, from 0.
        tick: model interval of the picture, from the start of the run.
        time: when the picture was captured; of a file, when it was read.
        position_s: seconds from the start of the source to the picture, in its own time.
        step_s: seconds per forecast step; None: as the caption has it.
        resets: how often the context was reset so far: what was forecast before is of another scene.
        waiting: frames still missing until the first forecast.
        trace_s: `position_s` of the last frames, oldest first.
        surprise: of the same frames; None where it is unknown.
        signal: of alarms, in standard deviations above the usual, of the same frames; empty without alarms.
        threshold: of alarms, if there are any; may change during a run.
        alarm: whether there is one.
        latency_ms: observe and forecast together.
        fps: pictures handled per second.
        seen: frames observed so far.
        dropped: model intervals whose picture was missed because the loop was late.
        best_psnr: of the best sample at the shown lead so far, in dB.
        repeat_psnr: of repeating the last frame, the baseline, in dB.
        region: the part of the picture that the model sees, if it does not look at all of it.
        trouble: the picture carries nothing, or does not contain the region of interest.
        misfit: why the model does not fit these pictures, the most important reason first; empty if nothing speaks for it.
    """

    picture: Picture
    futures: NDArray[np.float32] | None = None
    frame: NDArray[np.float32] | None = None
    number: int = 0
    tick: int = 0
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    position_s: float = 0.0
    step_s: float | None = None
    resets: int = 0
    waiting: int = 0
    trace_s: deque[float] = field(default_factory=lambda: deque(maxlen=TRACE_STEPS))
    surprise: deque[float | None] = field(default_factory=lambda: deque(maxlen=TRACE_STEPS))
    signal: deque[float | None] = field(default_factory=lambda: deque(maxlen=TRACE_STEPS))
    threshold: float | None = None
    alarm: bool = False
    latency_ms: float = 0.0
    fps: float = 0.0
    seen: int = 0
    dropped: int = 0
    best_psnr: float | None = None
    repeat_psnr: float | None = None
    region: Region | None = None
    trouble: Trouble | None = None
    misfit: tuple[str, ...] = ()

    def futures_at(self, lead: int) -> NDArray[np.float32] | None:
        """The samples at forecast step `lead`, (samples, H, W, C); None without a forecast that reaches so far."""
        return None if self.futures is None or lead > self.futures.shape[1] else self.futures[:, lead - 1]
