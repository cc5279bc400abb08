"""The capture thread: reads every picture of a camera, keeps the newest, and reconnects after a loss."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from svg_common.opencv_log import silence_opencv
from svg_common.quantities import duration_text
from svg_common.video.sampling import MAX_HOLD_S, longest_hold_s
from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture
from svg_runtime.live.sources.camera_settings import CameraSettings
from svg_runtime.live.stop import StopRequest

HANG_ADVICE = "unplug it and plug it in again, then restart"  # for a camera at this machine
_FAILED_READS = 3  # in a row; one bad MJPEG picture is not a reason to reconnect
# But one read that fails after so long is: nothing came. V4L2 waits for 10 s, GStreamer for 30 s. A camera that is slow itself,
# such as with a picture every 15 s, is waited for.
_STALLED_S, _STALLED_INTERVALS = 5.0, 3
_BACK_OFF_S = (0.1, 2.0)  # first and longest pause between two attempts to reconnect
_STEADY_S = 5.0  # a connection that has delivered pictures for so long has not broken at once: pauses begin at the first again
_POLL_S = 0.02  # the reader polls the stop flag, because a signal handler must not take the lock; windows show pictures then

_RATE_PICTURES = (20, 100)  # fewest and most intervals from which the rate of a camera is told
_SETTLED_PICTURES = 20  # intervals: of the last so many, and as many before them, a rate that has not just changed is the same
_SAME_RATE = 1.025  # factor that jitter makes of it, averaged over so many
_ANOTHER_RATE = 1.1  # factor that it does not make; what is less is told from the most intervals
_PACE_PICTURES = 3  # intervals: fewest from which a pause is told, and so many long ones in a row are none
_LONGEST_IN_DRIVER_S = 5.0  # a time stamp of the driver that is older, or in the future, is of another clock


class NoPictureError(Exception):
    """A device cannot be opened or delivers no picture; the message has the reason if it is known."""


class CaptureDevice(Protocol):
    """An open camera that has delivered a picture; cv2.VideoCapture is one.

    A device may have an attribute `captured_s`: `time.monotonic()` when it took the picture that was read last, or None.
    """

    def read(self) -> tuple[bool, Any]:
        """Wait for the next picture; (False, ...) if there is none."""
        ...

    def release(self) -> None:
        """Close the device."""
        ...


class OpenCvDevice:
    """A `cv2.VideoCapture` whose pictures have the time at which the driver of V4L2 took them."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._has_time_stamps = capture.getBackendName() == "V4L2"
        self.captured_s: float | None = None

    def read(self) -> tuple[bool, Any]:
        """Wait for the next picture, (H, W, 3) BGR or (H, W) gray uint8."""
        success, image = self._capture.read()
        self.captured_s = None
        if success and self._has_time_stamps:
            captured_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if 0 <= time.monotonic() - captured_s < _LONGEST_IN_DRIVER_S:
                self.captured_s = captured_s
        return success, image

    def release(self) -> None:
        """Close the device."""
        self._capture.release()


def open_capture(
    device: int | str,
    api: int = cv2.CAP_ANY,
    settings: CameraSettings = CameraSettings(),  # noqa: B008 - it is immutable
    on_other_settings: Callable[[CameraSettings], None] = lambda given: None,
) -> CaptureDevice:
    """Open a camera with the shortest queue that its driver allows, and check that it delivers pictures.

    Args:
        device: index of the camera, path, or pipeline. A file name works too: tests use it to run the real capture code.
        api: OpenCV's number of the library that opens it.
        settings: what is set on the device.
        on_other_settings: called with what the driver gives, if that is something else.

    Raises:
        NoPictureError: it cannot be opened, or delivers none.
    """
    silence_opencv()
    capture = cv2.VideoCapture(device, api)
    given = settings.apply(capture) if capture.isOpened() else None
    if api != cv2.CAP_GSTREAMER:  # it has no such property, and says so
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    success, image = capture.read() if capture.isOpened() else (False, None)
    if not success or image is None:
        capture.release()
        raise NoPictureError("it cannot be opened or delivers no frames")
    if image.dtype != np.uint8:
        capture.release()
        raise NoPictureError(f"its pictures are {image.dtype}, not uint8")
    if given is not None:
        on_other_settings(given)
    return OpenCvDevice(capture)


@dataclass(frozen=True)
class CapturedFrame:
    """A picture from a camera.

    Attributes:
        image: (H, W, 3) BGR or (H, W) gray, uint8.
        number: from 1.
        clip: increases with every reconnect and every pause.
        captured_s: `time.monotonic()` when it was taken, or else when it arrived.
        pause_s: seconds without a picture before this clip, if it began after a pause, else 0.
        reconnected: this clip began with a reconnect.
    """

    image: Picture
    number: int
    clip: int
    captured_s: float
    pause_s: float = 0.0
    reconnected: bool = False


class CaptureThread(threading.Thread):
    """Reads a device without pause, so that its driver never queues old pictures, and keeps only the newest one.

    Args:
        name: name of the camera in messages.
        device: the camera.
        open_device: reopens it after a loss, or raises `NoPictureError`.
        events: event log for losses and reconnects.
        retry_s: how long to wait for a lost camera.
        hang_advice: what to do about a camera that does not respond, for the message.
    """

    def __init__(
        self,
        name: str,
        device: CaptureDevice,
        open_device: Callable[[], CaptureDevice],
        events: EventLog,
        retry_s: float,
        hang_advice: str = HANG_ADVICE,
    ) -> None:
        super().__init__(
            name=f"capture of {name}", daemon=True
        )  # a read that hangs in the driver must not keep the process alive
        self._camera = name
        self._device = device
        self._open_device = open_device
        self._events = events
        self._retry_s = retry_s
        self._hang_advice = hang_advice
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._newest: CapturedFrame | None = None
        self._error: BaseException | None = None
        self._clip = 0
        self._pause_s = 0.0
        self._reconnected = False  # at the beginning of this clip
        self._intervals_s: deque[float] = deque(maxlen=_RATE_PICTURES[1])
        self._rate: float | None = None
        self._settled_rate: float | None = None
        self._long_s: list[float] = []  # intervals that are pauses, in a row
        self._connected_anew = False
        self._first_s: float | None = None  # when the first picture of this connection was taken
        self._lost_s: float | None = None  # when the camera was lost; None: it delivers pictures
        self._answered_s = 0.0  # when the device last said that it has no picture, or whether it can be opened
        self._back_off_s = _BACK_OFF_S[0]
        self.captured = 0

    def latest(self, newer_than: int, max_age_s: float, timeout_s: float, stop: StopRequest) -> CapturedFrame | None:
        """Return the newest picture. Blocks only until one is new enough.

        Args:
            newer_than: number of the caller's previous picture; the same picture is never returned twice.
            max_age_s: older pictures are skipped, and a newer one is waited for.
            timeout_s: longest wait for a device that does not respond. One that says that it has no picture is retried.
            stop: ends the wait; the result is then None.

        Raises:
            SourceLostError: the camera is lost, or it did not respond within `timeout_s` (a driver that hangs).
            BaseException: whatever else ended the capture thread.
        """
        silent_since_s = time.monotonic()
        while True:
            frame = self.newer(newer_than, max_age_s, silent_since_s + timeout_s, stop)
            if frame is not None or stop:
                return frame
            if self._answered_s <= silent_since_s:
                raise SourceLostError(
                    f"{self._camera} delivered no frame for {timeout_s:g} s and does not respond.\n  {self._hang_advice}"
                )
            silent_since_s = self._answered_s

    def newer(self, newer_than: int, max_age_s: float, until_s: float, stop: StopRequest) -> CapturedFrame | None:
        """Return the newest picture, or None if none comes until `until_s` of `time.monotonic()`.

        Arguments and errors: as for `latest`, except for the `SourceLostError` of a driver that hangs.
        """
        with self._changed:
            while not stop:
                if self._error is not None:
                    raise self._error
                frame, now = self._newest, time.monotonic()
                if frame is not None and frame.number > newer_than and now - frame.captured_s <= max_age_s:
                    return frame
                if now >= until_s:
                    return None
                stop.poll()
                self._changed.wait(min(_POLL_S, until_s - now))
        return None

    def rate(self) -> float | None:
        """Return the camera's frame rate in pictures per second; None until enough pictures have arrived.

        It is of the last pictures: some cameras are slower in the dark. Gaps do not count.
        """
        return self._rate

    def settled_rate(self) -> float | None:
        """Return the rate as it last was for a while, also over a reconnect; None until it is known.

        Where the camera becomes slower or faster, this goes from one rate to the other at once, not with each picture.
        """
        return self._settled_rate

    def close(self) -> None:
        """Stop capturing and release the device. A read that hangs in the driver ends with the process.

        A device that can end its own read is told to: a thread that wakes up while Python is torn down may crash the process.
        """
        self._closing.set()
        interrupt = getattr(self._device, "interrupt", None)  # cv2.VideoCapture has none
        if interrupt is not None:
            interrupt()
        if self.is_alive():
            self.join(timeout=2.0)

    def run(self) -> None:
        """Capture until closed; an error ends the thread and is raised by `latest`."""
        try:
            self._capture()
        except BaseException as error:
            self._error = error
        finally:
            self._device.release()
            with self._changed:
                self._changed.notify_all()

    def _capture(self) -> None:
        failed = 0
        while not self._closing.is_set():
            start_s = time.monotonic()
            success, image = self._device.read()
            if success:
                failed = 0
                self._publish(image)
                continue
            self._answered_s = time.monotonic()
            failed += 1
            if failed == _FAILED_READS or self._is_stalled(self._answered_s - start_s):
                self._reconnect()
                failed = 0

    def _is_stalled(self, read_s: float) -> bool:
        """Whether a read that has failed after so long is longer than any pause between pictures of this camera."""
        longest_s = max(self._intervals_s, default=read_s)
        return read_s >= max(_STALLED_S, _STALLED_INTERVALS * longest_s)

    def _publish(self, image: Picture) -> None:
        captured_s = getattr(self._device, "captured_s", None) or time.monotonic()
        if self._newest is not None:
            self._note_interval(captured_s - self._newest.captured_s)
        self._note_delivery(captured_s)
        with self._changed:
            self.captured += 1
            self._newest = CapturedFrame(
                image=image, number=self.captured, clip=self._clip, captured_s=captured_s, pause_s=self._pause_s,
                reconnected=self._reconnected,
            )  # fmt: skip
            self._changed.notify_all()

    def _note_interval(self, interval_s: float) -> None:
        """Begin a clip after a pause or a reconnect, and tell the rate."""
        paused = self._is_pause(interval_s)
        if paused or self._connected_anew:
            self._clip += 1
            self._pause_s = interval_s if paused else 0.0
            self._reconnected = self._connected_anew
        if self._connected_anew:  # another stream of it may have another rate
            self._intervals_s.clear()
            self._long_s.clear()
            self._rate = None
        elif not paused:
            self._long_s.clear()
            self._intervals_s.append(max(interval_s, 0.0))
            if len(self._intervals_s) >= _RATE_PICTURES[0] - 1:
                self._rate = _rate(self._intervals_s)
                self._note_settled(self._rate)
        self._connected_anew = False

    def _note_settled(self, rate: float) -> None:
        """Another rate is told from few intervals, a small correction of the known one only from as many as are kept."""
        intervals_s = list(self._intervals_s)
        if len(intervals_s) == _RATE_PICTURES[0] - 1:
            self._settled_rate = rate
        if len(intervals_s) < 2 * _SETTLED_PICTURES:
            return
        known, found = self._settled_rate, _steady_rate(intervals_s[-2 * _SETTLED_PICTURES :])
        if found is not None and (known is None or _ratio(found, known) > _ANOTHER_RATE):
            self._settled_rate = found
        elif len(intervals_s) == _RATE_PICTURES[1]:
            self._settled_rate = _steady_rate(intervals_s) or known

    def _is_pause(self, interval_s: float) -> bool:
        """Whether it is longer than a gap. Where one follows another, they are no pauses: the camera has become slower."""
        intervals_s = self._intervals_s
        if len(intervals_s) < _PACE_PICTURES or interval_s <= longest_hold_s(self._rate or _rate(intervals_s)):
            return False
        self._long_s.append(interval_s)
        if len(self._long_s) < _PACE_PICTURES:
            return True
        intervals_s.clear()
        intervals_s.extend(self._long_s)
        self._long_s.clear()
        self._rate = _rate(intervals_s)  # not settled: a bad network has such gaps, too
        return interval_s > longest_hold_s(self._rate)

    def _note_delivery(self, captured_s: float) -> None:
        """A lost camera is back with a picture, not with a connection; pauses grow until a connection lasts."""
        if self._first_s is None:
            self._first_s = captured_s
        elif captured_s - self._first_s >= _STEADY_S:
            self._back_off_s = _BACK_OFF_S[0]
        if self._lost_s is not None:
            self._lost_s = None
            self._events.add("camera_back", f"{self._camera} delivers frames again")

    def _reconnect(self) -> None:
        """Reopen the device, with growing pauses. Its pictures then belong to a new clip.

        Raises:
            SourceLostError: it cannot be opened, or delivers no picture, for `retry_s` from the moment on at which it was lost:
                a read that hangs, such as ten seconds of V4L2's, comes before.
        """
        pause_s = self._back_off_s
        if self._lost_s is None:
            self._lost_s = time.monotonic()
            self._events.add(
                "camera_lost", f"{self._camera} stopped delivering frames; retrying for {duration_text(self._retry_s)}"
            )
        else:
            self._require_time("it can be opened, but delivers no frames")
            pause_s = self._cut(pause_s)
        self._device.release()
        while not self._closing.wait(pause_s):
            self._back_off_s = min(2 * self._back_off_s, _BACK_OFF_S[1])
            try:
                self._device = self._open_device()
            except NoPictureError as error:
                reason = str(error)
            else:
                self._first_s = None
                self._connected_anew = self._newest is not None
                return
            finally:
                self._answered_s = time.monotonic()
            self._require_time(reason)
            pause_s = self._cut(self._back_off_s)

    def _cut(self, pause_s: float) -> float:
        """A pause that does not go on after a lost camera is given up. The first one is not cut: cameras may break at once."""
        return min(pause_s, max(0.0, self._left_s()))

    def _left_s(self) -> float:
        """Seconds for which a lost camera is still waited for."""
        assert self._lost_s is not None
        return self._lost_s + self._retry_s - time.monotonic()

    def _require_time(self, reason: str) -> None:
        if self._left_s() <= 0:
            raise SourceLostError(
                f"{self._camera} stopped delivering frames and did not come back within {duration_text(self._retry_s)}: "
                f"{reason}\n"
                "  check its cable, its network and other programs that use it; --reconnect SECONDS waits longer"
            )


def _steady_rate(intervals_s: Sequence[float]) -> float | None:
    """The rate, if it is the same in the older and in the newer half."""
    half = len(intervals_s) // 2
    same = _ratio(_rate(intervals_s[:half]), _rate(intervals_s[half:])) <= _SAME_RATE
    return _rate(intervals_s) if same else None


def _ratio(one: float, other: float) -> float:
    """Of the larger to the smaller."""
    return max(one, other) / min(one, other)


def _rate(intervals_s: Sequence[float]) -> float:
    """Pictures per second. They may arrive in bunches, and a gap among them must not make a fast camera a slow one."""
    longest_s = max(MAX_HOLD_S, 3 * statistics.median(intervals_s))
    usual_s = [interval_s for interval_s in intervals_s if interval_s <= longest_s]
    return len(usual_s) / max(sum(usual_s), 1e-9)
