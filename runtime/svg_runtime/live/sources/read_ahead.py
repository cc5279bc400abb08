"""Reads ahead in a thread: the next pictures of a file are decoded while the model is busy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")
_POLL_S = 0.05  # the thread polls whether the generator was closed while its queue is full


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def read_ahead(items: Generator[_Item, None, None], depth: int) -> Generator[_Item, None, None]:
    """Yield `items` in order, then their error if there is one; a thread prepares `depth` of them, and one more, in advance.

    The thread ends, and `items` is closed, when the generator is used up or closed.
    """
    ready: queue.Queue[_Item | _End] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: _Item | _End) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    def read() -> None:
        error = None
        try:
            with closing(items):
                for item in items:
                    offer(item)
                    if closed.is_set():
                        return
        except BaseException as problem:
            error = problem
        offer(_End(error))

    thread = threading.Thread(target=read, name="reading ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        thread.join()
