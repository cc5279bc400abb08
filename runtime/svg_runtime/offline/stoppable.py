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


def until_stopped(stop: StopRequest, work: Callable[[], _Result], clean_up: Callable[[], None]) -> _Result:
    """Return what `work` returns. It runs in a thread, which after a stop is left alone, and ends with the process.

    Args:
        stop: ends the wait.
        work: what is done in the thread.
        clean_up: removes what `work` has made, after a stop: the thread may make it when the caller has already removed it.

    Raises:
        StoppedError: a stop was requested meanwhile.
        BaseException: what `work` raises.
    """
    done: Future[_Result] = Future()
    left = threading.Event()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
        if left.is_set():
            clean_up()

    threading.Thread(target=run, name="download", daemon=True).start()
    while not wait([done], timeout=_POLL_S).done:
        if stop:
            left.set()
            raise StoppedError
    return done.result()
