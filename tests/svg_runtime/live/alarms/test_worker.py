"""The bounded queue: order, overflow, retries, and an end that does not wait for ever."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from svg_runtime.live.alarms import worker as worker_module
from svg_runtime.live.alarms.worker import NotDeliveredError, Worker
from tests.command_runner import HANG_S, wait_until


@pytest.fixture
def gate():
    """An event that holds workers back until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_items_are_handled_in_order_and_all_of_them_before_the_end():
    handled: list[int] = []
    worker = Worker("test", handled.append, size=10)
    for item in range(5):
        worker.put(item)
    worker.close(5)
    assert handled == [0, 1, 2, 3, 4]
    assert worker.dropped == 0


def test_an_item_that_was_handled_is_let_go_of_before_the_next_one_comes():
    """It may hold a clip."""
    worker: Worker[threading.Event] = Worker("test", lambda item: item.set(), size=5)
    item = threading.Event()
    held = weakref.ref(item)
    worker.put(item)
    del item
    wait_until(lambda: held() is None)
    worker.close(5)


def test_a_full_queue_drops_the_oldest_or_refuses_the_newest(gate):
    handled: list[int] = []
    started = threading.Event()

    def handle(item: int) -> None:
        started.set()
        gate.wait(5)
        handled.append(item)

    worker = Worker("test", handle, size=2)
    worker.put(0)
    assert started.wait(5)  # 0 is in hand, not in the queue
    for item in (1, 2, 3):
        worker.put(item)
    assert not worker.offer(4)
    assert worker.dropped == 2
    gate.set()
    worker.close(5)
    assert handled == [0, 2, 3]


def test_what_was_not_delivered_is_tried_again_before_the_next(monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.01)
    tries: list[str] = []

    def handle(item: str) -> None:
        tries.append(item)
        if len(tries) < 3:
            raise NotDeliveredError

    worker = Worker("test", handle, size=5)
    worker.put("a")
    worker.put("b")
    worker.close(5)
    assert tries == ["a", "a", "a", "b"]
    assert worker.dropped == 0


def test_a_bug_is_shown_and_the_thread_goes_on(monkeypatch):
    shown, handled = [], []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def handle(item: int) -> None:
        handled.append(1 // item)

    worker = Worker("test", handle, size=5)
    worker.put(0)
    worker.put(1)
    worker.close(5)
    assert handled == [1]
    assert worker.dropped == 1
    assert shown[0].exc_type is ZeroDivisionError


def test_the_end_does_not_wait_for_a_server_that_is_away(monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 600.0)
    tries: list[int] = []

    def handle(item: int) -> None:
        tries.append(item)
        raise NotDeliveredError

    worker = Worker("test", handle, size=5)
    worker.put(1)
    worker.put(2)
    wait_until(lambda: tries)
    worker.close(0.3)
    worker._thread.join(HANG_S)
    assert not worker._thread.is_alive()
    assert worker.dropped == 2


def test_what_the_end_interrupts_counts_as_its_handler_says(gate):
    for handled, dropped in ((True, 1), (False, 2)):
        gate.clear()
        started = threading.Event()

        def handle(item: int, started: threading.Event = started, handled: bool = handled) -> None:
            started.set()
            gate.wait(30)
            if not handled:
                raise NotDeliveredError

        worker = Worker("test", handle, size=5)
        worker.put(1)
        worker.put(2)
        assert started.wait(5)
        worker.close(0.1, interrupt=gate.set)
        assert worker.dropped == dropped  # 2 was never begun


def test_the_end_does_not_wait_for_a_handler_that_hangs(gate):
    worker = Worker("test", lambda item: gate.wait(30), size=5)
    worker.put(1)
    worker.put(2)
    time.sleep(0.05)
    worker.close(0.1)
    assert worker.dropped == 2
