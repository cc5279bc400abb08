"""What runs beside the forecasts: reading ahead in files, and composing and writing the picture."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.errors import OutputError
from svg_runtime.live import source_reader
from svg_runtime.live.output_thread import OutputThread
from svg_runtime.live.overlay import View
from svg_runtime.live.source_reader import SourceReader
from svg_runtime.live.sources.read_ahead import read_ahead
from svg_runtime.live.sources.synthetic import SyntheticSource
from svg_runtime.live.stats import STAGES
from svg_runtime.live.stop import StopRequest
from svg_runtime.live.timing import StageTimer
from tests.command_runner import wait_until

DEADLINE_S = 10.0


class Slow:
    """An output that is held until it is let go, and remembers what it was given."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.busy = threading.Event()
        self.ticks: list[int] = []
        self.threads: set[str] = set()

    def write(self, picture: np.ndarray, tick: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.busy.set()
        assert self.go.wait(DEADLINE_S)
        self.ticks.append(tick)

    def close(self, keep: bool) -> None: ...


class Full(Slow):
    """An output on a full disk."""

    def write(self, picture: np.ndarray, tick: int) -> None:
        raise OutputError("out.mp4", OSError(28, "No space left on device"))


class Canvas:
    """Stands for the composed picture, which other tests look at."""

    size_wh = (8, 8)

    def annotate(self, view: View) -> np.ndarray:
        return view.picture


def started(output: Slow, newest_wins: bool) -> OutputThread:
    thread = OutputThread(Canvas(), [output], StageTimer(STAGES), newest_wins=newest_wins)
    thread.start()
    return thread


def submit(thread: OutputThread, *ticks: int) -> None:
    for tick in ticks:
        thread.submit(View(np.zeros((8, 8), np.uint8)), tick, time.monotonic())


def test_the_newest_picture_wins_and_what_is_left_out_is_counted():
    output = Slow()
    thread = started(output, newest_wins=True)
    submit(thread, 0)
    assert output.busy.wait(DEADLINE_S)
    submit(thread, *range(1, 8))
    output.go.set()
    thread.finish(keep=True)
    assert output.ticks == [0, 6, 7]
    assert thread.left_out == 5
    assert output.threads == {"outputs"}


def test_without_a_clock_every_picture_is_written_and_forecasts_wait():
    output = Slow()
    thread = started(output, newest_wins=False)
    threading.Timer(0.3, output.go.set).start()
    submit(thread, *range(8))
    assert output.go.is_set()  # not all of them found room before
    thread.finish(keep=True)
    assert output.ticks == list(range(8))
    assert thread.left_out == 0


@pytest.mark.parametrize("newest_wins", [False, True])
def test_an_error_reaches_the_loop_once(newest_wins):
    thread = started(Full(), newest_wins=newest_wins)
    submit(thread, 0)
    thread.join(DEADLINE_S)
    with pytest.raises(OutputError, match="No space left"):
        submit(thread, 1)
    thread.finish(keep=True)
    thread = started(Full(), newest_wins=newest_wins)
    submit(thread, 0)
    with pytest.raises(OutputError, match="No space left"):
        thread.finish(keep=True)


def test_a_discarded_run_writes_nothing_more():
    output = Slow()
    thread = started(output, newest_wins=False)
    submit(thread, 0)
    assert output.busy.wait(DEADLINE_S)
    submit(thread, 1, 2)
    threading.Timer(0.1, output.go.set).start()
    thread.finish(keep=False)
    assert output.ticks == [0]
    assert not thread.is_alive()


def numbers(closed: list[str], fail_at: int = -1):
    try:
        for number in range(10):
            if number == fail_at:
                raise ValueError("broken")
            yield number
    finally:
        closed.append(threading.current_thread().name)


def test_reading_ahead_keeps_order_and_ends_its_thread():
    closed: list[str] = []
    assert list(read_ahead(numbers(closed), 2)) == list(range(10))
    assert closed == ["reading ahead"]
    assert "reading ahead" not in {thread.name for thread in threading.enumerate()}


def test_an_error_comes_after_what_was_read_before_it():
    ahead = read_ahead(numbers([], fail_at=4), 2)
    assert [next(ahead) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_reading_ahead_is_bounded_and_stops_with_its_reader():
    closed: list[str] = []
    read: list[int] = []

    def counted():
        for number in numbers(closed):
            read.append(number)
            yield number

    ahead = read_ahead(counted(), 2)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(read) <= 4  # the one that was taken, two that wait, one in hand
    ahead.close()
    assert "reading ahead" not in {thread.name for thread in threading.enumerate()}
    assert closed


def test_connecting_to_a_camera_is_no_wait_for_its_picture(monkeypatch):
    """Which the statistics would have as the longest of its waits."""
    clock = [100.0]
    monkeypatch.setattr(source_reader, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def connect(stop: StopRequest) -> SyntheticSource:
        clock[0] += 3600.0
        return SyntheticSource(0, 64, None)

    reader = SourceReader(connect, StopRequest())
    reader.ask()
    wait_until(lambda: reader.arrived)
    reader.close()
    assert reader.fetch_s == 0.0
