"""The capture thread: reads every picture of a camera, keeps the newest, and reconnects after a loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2

from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture
from svg_runtime.live.stop import StopRequest

_FAILED_READS = 3  # in a row; one bad MJPEG picture is no reason to reconnect
_BACK_OFF_S = (0.1, 2.0)  # first and longest pause between two attempts to reconnect
_POLL_S = 0.02  # the reader polls the stop flag, because a signal handler must not take the lock; windows show pictures then


class NoPictureError(Exception):
    """A device cannot be opened or delivers no picture; the message has the reason if it is known."""


class CaptureDevice(Protocol):
    """An open camera that has delivered a picture; cv2.VideoCapture is one."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next picture; (False, ...) if there is none."""
        ...

    def release(self) -> None:
        """Close the device."""
        ...


def open_capture(device: int | str) -> CaptureDevice:
    """Open a camera with the shortest queue that its driver allows, and check that it delivers pictures.

    Args:
        device: index of the camera. A file name works too: tests use it to run the real capture code.

    Raises:
        NoPictureError: it cannot be opened, or delivers none.
    """
    # OpenCV prints its own warnings about every missing device; our message says what to do.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(device)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if not (capture.isOpened() and capture.read()[0]):
        capture.release()
        raise NoPictureError("it cannot be opened or delivers no frames")
    return capture


@dataclass(frozen=True)
class CapturedFrame:
    """A picture from a camera: `image` (H, W, 3) BGR uint8, `number` from 1, `clip` increases with every reconnect."""

    image: Picture
    number: int
    clip: int
    captured_s: float


class CaptureThread(threading.Thread):
    """Reads a device without pause, so that its driver never queues old pictures, and keeps only the newest one.

    Args:
        name: name of the camera in messages.
        device: the camera.
        open_device: reopens it after a loss, or raises `NoPictureError`.
        events: event log for losses and reconnects.
        retry_s: how long to wait for a lost camera.
    """

    def __init__(
        self,
        name: str,
        device: CaptureDevice,
        open_device: Callable[[], CaptureDevice],
        events: EventLog,
        retry_s: float,
    ) -> None:
        super().__init__(
            name=f"capture of {name}", daemon=True
        )  # a read that hangs in the driver must not keep the process alive
        self._camera = name
        self._device = device
        self._open_device = open_device
        self._events = events
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._newest: CapturedFrame | None = None
        self._error: BaseException | None = None
        self._clip = 0
        self._first_s = 0.0
        self.captured = 0

    def latest(self, newer_than: int, max_age_s: float, timeout_s: float, stop: StopRequest) -> CapturedFrame | None:
        """Return the newest picture. Blocks only until one is new enough.

        Args:
            newer_than: number of the caller's previous picture; the same picture is never returned twice.
            max_age_s: older pictures are skipped, and a newer one is waited for.
            timeout_s: longest wait.
            stop: ends the wait; the result is then None.

        Raises:
            SourceLostError: the camera is lost, or no picture came within `timeout_s` (a driver that hangs).
            BaseException: whatever else ended the capture thread.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not stop:
                if self._error is not None:
                    raise self._error
                frame, now = self._newest, time.monotonic()
                if frame is not None and frame.number > newer_than and now - frame.captured_s <= max_age_s:
                    return frame
                if now > deadline:
                    raise SourceLostError(
                        f"{self._camera} delivered no frame for {timeout_s:g} s and does not respond.\n"
                        "  unplug it and plug it in again, then restart"
                    )
                stop.poll()
                self._changed.wait(_POLL_S)
        return None

    def rate(self) -> float | None:
        """Return the camera's frame rate in pictures per second; None until enough pictures have arrived."""
        frame = self._newest
        if frame is None or frame.number < 20 or frame.clip > 0:
            return None
        return (frame.number - 1) / max(frame.captured_s - self._first_s, 1e-9)

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
            success, image = self._device.read()
            if success:
                failed = 0
                self._publish(image)
                continue
            failed += 1
            if failed == _FAILED_READS:
                self._reconnect()
                failed = 0

    def _publish(self, image: Picture) -> None:
        now = time.monotonic()
        with self._changed:
            self.captured += 1
            self._first_s = self._first_s or now
            self._newest = CapturedFrame(image, self.captured, self._clip, now)
            self._changed.notify_all()

    def _reconnect(self) -> None:
        """Reopen the device, with growing pauses. Its pictures then belong to a new clip."""
        self._events.add("camera_lost", f"{self._camera} stopped delivering frames; retrying for {self._retry_s:g} s")
        self._device.release()
        deadline, pause = time.monotonic() + self._retry_s, _BACK_OFF_S[0]
        while not self._closing.wait(min(pause, max(0.0, deadline - time.monotonic()))):
            try:
                self._device = self._open_device()
            except NoPictureError as error:
                if time.monotonic() >= deadline:
                    raise SourceLostError(
                        f"{self._camera} stopped delivering frames and did not come back within {self._retry_s:g} s: {error}\n"
                        "  check its cable, its network and other programs that use it; --reconnect SECONDS waits longer"
                    ) from None
            else:
                self._clip += 1
                self._events.add("camera_back", f"{self._camera} delivers frames again")
                return
            pause = min(2 * pause, _BACK_OFF_S[1])
