"""Opens a device in a thread: Ctrl-C does not wait for one that does not respond."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from svg_runtime.live.sources.capture import CaptureDevice, NoPictureError
from svg_runtime.live.stop import StopRequest

_POLL_S = 0.05

_Device = TypeVar("_Device", bound=CaptureDevice)


class DeviceOpener(Generic[_Device]):
    """Opens a device as often as it is called, one attempt at a time.

    A thread that hangs in a driver cannot be ended. So an attempt that does not respond in time goes on, and the next call
    waits for it: however often a camera is retried, it has one thread, and what opens late is used.

    Args:
        open_device: opens it.
        name: name of the device, without a password.
        stop: ends the wait.
        timeout_s: longest wait of a call; None: `open_device` ends by itself.
    """

    def __init__(
        self, open_device: Callable[[], _Device], name: str, stop: StopRequest, timeout_s: float | None = None
    ) -> None:
        self._open_device = open_device
        self._name = name
        self._stop = stop
        self._timeout_s = timeout_s
        self._attempt: Future[_Device] | None = None

    def __call__(self) -> _Device:
        """Return the open device.

        Raises:
            NoPictureError: it did not respond in time.
            KeyboardInterrupt: a stop was requested meanwhile.
            BaseException: what `open_device` raises.
        """
        attempt = self._attempt = self._attempt or self._start()
        start_s = time.monotonic()
        while not wait([attempt], timeout=_POLL_S).done:
            if self._stop:
                raise KeyboardInterrupt
            if self._timeout_s is not None and time.monotonic() - start_s > self._timeout_s:
                raise NoPictureError(f"no response within {self._timeout_s:g} s")
        self._attempt = None
        return attempt.result()

    def _start(self) -> Future[_Device]:
        opened: Future[_Device] = Future()

        def run() -> None:
            try:
                opened.set_result(self._open_device())
            except BaseException as error:
                opened.set_exception(error)

        threading.Thread(target=run, name=f"connection to {self._name}", daemon=True).start()
        return opened
