"""Opens a device in a thread: Ctrl-C does not wait for one that does not respond."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from svg_runtime.live.sources.capture import NoPictureError
from svg_runtime.live.stop import StopRequest

_POLL_S = 0.05

_Device = TypeVar("_Device")


def open_in_thread(open_device: Callable[[], _Device], name: str, stop: StopRequest, timeout_s: float | None = None) -> _Device:
    """Return the device that `open_device` returns.

    Args:
        open_device: opens it; it may go on in vain after this function gave up.
        name: name of the device, without a password.
        stop: ends the wait.
        timeout_s: longest wait; None: `open_device` ends by itself.

    Raises:
        NoPictureError: it did not respond in time.
        KeyboardInterrupt: a stop was requested meanwhile.
        BaseException: what `open_device` raises.
    """
    opened: Future[_Device] = Future()

    def run() -> None:
        try:
            opened.set_result(open_device())
        except BaseException as error:
            opened.set_exception(error)

    threading.Thread(target=run, name=f"connection to {name}", daemon=True).start()
    start_s = time.monotonic()
    while not wait([opened], timeout=_POLL_S).done:
        if stop:
            raise KeyboardInterrupt
        if timeout_s is not None and time.monotonic() - start_s > timeout_s:
            raise NoPictureError(f"no response within {timeout_s:g} s")
    return opened.result()
