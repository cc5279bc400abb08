"""Work that a stop does not wait for: a driver that waits for a server looks at no signal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from svg_runtime.live.stop import StopRequest

_POLL_S = 0.05  # a signal handler only sets a flag

_Result = TypeVar("_Result")


class StoppedError(Exception):
    """A stop was requested before some work was done."""


def until_stopped(stop: StopRequest, work: Callable[[], _Result]) -> _Result:
    """Return what `work` returns. It runs in a thread, which after a stop is left alone, and ends with the process.

    Raises:
        StoppedError: a stop was requested meanwhile.
        BaseException: what `work` raises.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    while not wait([done], timeout=_POLL_S).done:
        if stop:
            raise StoppedError
    return done.result()
