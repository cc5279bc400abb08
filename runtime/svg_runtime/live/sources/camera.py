"""A camera whose newest picture is sampled on a fixed real-time schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from svg_common.video.sampling import longest_hold_s
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import SourceFrame
from svg_runtime.live.sources.capture import HANG_ADVICE, CaptureDevice, CapturedFrame, CaptureThread
from svg_runtime.live.sources.pacing import SLOWER_THAN_MODEL, Ticker, is_same_step
from svg_runtime.live.stop import StopRequest

DEFAULT_RETRY_S = 10.0
_RESPONSE_TIMEOUT_S = 12.0  # V4L2 aborts a read after 10 s
_MAX_AGE_S = 1.0


class CameraSource:
    """Pictures of a camera at the model's interval.

    At every tick of the schedule it yields the newest picture, at most `_MAX_AGE_S` old; pictures in between are not used. A
    tick that passes while the loop is busy is counted as dropped, if the camera had a picture for it. Reading blocks until the
    tick is due, or until a camera slower than the schedule delivers its next picture.

    Gaps are as in `svg_common.video.sampling`: when the next picture is late by half a step, the newest one is held, and
    yielded again at every step. After a pause of more than a second the next picture begins a clip. The gap is that between
    two pictures of the camera, however late the loop is.

    Args:
        name: name of the camera in messages.
        open_device: opens the camera.
        ticker: the schedule.
        stop: ends a wait.
        events: event log for lost connections.
        retry_s: how long to wait for a lost camera.
        response_timeout_s: longest time in which the device reports that there is no picture.
        hang_advice: what to do about a camera that does not respond, for the message.

    Raises:
        NoPictureError: the camera cannot be opened, or delivers no picture.
    """

    def __init__(
        self,
        name: str,
        open_device: Callable[[], CaptureDevice],
        ticker: Ticker,
        stop: StopRequest,
        events: EventLog,
        retry_s: float = DEFAULT_RETRY_S,
        response_timeout_s: float = _RESPONSE_TIMEOUT_S,
        hang_advice: str = HANG_ADVICE,
    ) -> None:
        self.name = self.description = name
        self.dropped = 0
        self._ticker = ticker
        self._stop = stop
        self._events = events
        self._step_s: float | None = None  # None: the camera's rate is not known yet
        self._skipped = 0  # pictures that were not seen, and may be those of ticks that were missed
        self._timeout_s = retry_s + response_timeout_s
        self._thread = CaptureThread(
            name=name, device=open_device(), open_device=open_device, events=events, retry_s=retry_s, hang_advice=hang_advice
        )
        self._thread.start()

    @property
    def captured(self) -> int:
        """Pictures that the camera has delivered so far."""
        return self._thread.captured

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the newest picture at every tick until a stop is requested.

        Raises:
            SourceLostError: the camera stopped delivering pictures and did not come back.
        """
        tick, held = 0, 0  # held: how many times in a row
        shown: SourceFrame | None = None
        last: CapturedFrame | None = None
        while not self._stop:
            self._ticker.wait_for(tick)
            due = max(tick, self._ticker.current())
            frame = self._next(last, held)
            if self._stop:
                return
            self._count_dropped(due - tick, last, frame)
            self._note_step()
            # A slow camera makes ticks pass as well, but the loop is not late: they are not counted as dropped.
            tick = max(due, self._ticker.current())
            if frame is not None:
                held = 0
                begins_clip = last is not None and frame.clip != last.clip
                last, shown = frame, _source_frame(frame, tick, begins_clip, self._step_s)
            elif shown is not None:
                held += 1
                shown = replace(shown, tick=tick, held=True, pause_s=0.0, reconnected=False)
            assert shown is not None  # without a picture before it none is held
            yield shown
            tick += 1

    def close(self) -> None:
        """Stop the capture thread and release the camera."""
        self._thread.close()

    def _next(self, last: CapturedFrame | None, held: int) -> CapturedFrame | None:
        """The next picture of the camera; None to hold the last one, or because of a stop."""
        number = 0 if last is None else last.number
        rate = self._thread.rate()
        if last is not None and rate is not None:  # else nobody knows yet when the next one is late
            step_s = max(self._ticker.interval_s, 1 / rate)
            late_s = max((1.5 + held) * step_s, time.monotonic() - last.captured_s)  # a slow loop holds less often, not longer
            if late_s <= longest_hold_s(rate):
                return self._thread.newer(number, _MAX_AGE_S, last.captured_s + late_s, self._stop)
        return self._thread.latest(number, _MAX_AGE_S, self._timeout_s, self._stop)

    def _count_dropped(self, missed: int, last: CapturedFrame | None, frame: CapturedFrame | None) -> None:
        """Of the ticks that passed while the loop was busy, those count for which there was a picture.

        A late loop may skip the picture of a tick one picture before it misses the tick, so one is remembered.
        """
        if last is not None and frame is not None:
            self._skipped += frame.number - last.number - 1
        dropped = min(missed, self._skipped)
        self.dropped += dropped
        self._skipped = min(self._skipped - dropped, 1)

    def _note_step(self) -> None:
        """Follow the rate of the camera, and say so; a change as small as what makes no camera slow is none."""
        rate, model_s = self._thread.settled_rate(), self._ticker.interval_s
        if rate is None:
            return
        own_s, before_s = max(model_s, 1 / rate), self._step_s or model_s
        if is_same_step(own_s, before_s):
            self._step_s = before_s
            return
        self._step_s = own_s if own_s > model_s * SLOWER_THAN_MODEL else model_s
        rates = f"{self.description} delivers {rate:.3g} frames per second, the model expects {1 / model_s:.3g}"
        if self._step_s > model_s:
            faster = "and the model sees faster motion than in training"
            self._events.add("slow_source", f"{rates}: one forecast step is {self._step_s:.2f} s here, {faster}")
        else:
            self._events.add("full_rate", f"{rates}: one forecast step is {model_s:.3g} s again")


def _source_frame(frame: CapturedFrame, tick: int, begins_clip: bool, step_s: float | None) -> SourceFrame:
    image = frame.image if frame.image.ndim == 2 else np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB), np.uint8)
    return SourceFrame(
        image=image, tick=tick, clip=frame.clip, captured_s=frame.captured_s,
        pause_s=frame.pause_s if begins_clip else 0.0, reconnected=frame.reconnected and begins_clip, step_s=step_s,
    )  # fmt: skip
