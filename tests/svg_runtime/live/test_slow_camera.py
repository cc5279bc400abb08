"""A camera with fewer pictures a second than the model expects: all that has seconds follows its rate, once that is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.live import loop
from svg_runtime.live.adaptive import AdaptiveCounts
from svg_runtime.live.alarms.monitor import AlarmMonitor
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.events import EventLog
from svg_runtime.live.page.camera import PageCamera
from svg_runtime.live.rounds import Due, LiveLoop
from svg_runtime.live.sources import SourceFrame
from svg_runtime.live.stop import StopRequest

SMALL = ("--headless", "--json", "stats.json", "--samples", "2", "--horizon", "4")
MODEL_S = 0.1


class SlowCamera:
    """Gives a picture at every so many ticks; its rate is known from picture `known` on, and is another one from `later` on."""

    name = description = "slow"
    dropped = 0

    def __init__(self, count: int, ticks: int = 5, known: int = 0, later: tuple[int, int] = (10**6, 1)) -> None:
        self.captured = 0
        self._count = count
        self._ticks = ticks
        self._known = known
        self._later = later
        self._draw = digit_stream(0, 1, 64)

    def frames(self) -> Iterator[SourceFrame]:
        tick = 0
        for number in range(self._count):
            self.captured += 1
            ticks = self._ticks if number < self._later[0] else self._later[1]
            tick += ticks
            yield SourceFrame(
                (self._draw() * 255).astype(np.uint8), tick=tick, captured_s=time.monotonic(),
                step_s=ticks * MODEL_S if number >= self._known else None,
            )  # fmt: skip

    def close(self) -> None:
        pass


def use(monkeypatch, *cameras: SlowCamera) -> None:
    given = iter(cameras)
    monkeypatch.setattr(loop, "open_source", lambda **_: next(given))


def first_leads(folder) -> list[float]:
    return [round(float(np.load(file)["lead_s"][0]), 3) for file in sorted(folder.iterdir())]


def test_lead_times_are_those_of_the_camera_from_when_its_rate_is_known(svg_live, monkeypatch, tmp_path):
    use(monkeypatch, SlowCamera(20, known=6, later=(12, 3)))
    code, stderr, stats = svg_live(*SMALL, "--max-frames", "20", "--save-forecasts", "raw", "--output", "o.mp4")
    assert code == 0, stderr
    assert first_leads(tmp_path / "raw") == [0.1] * 4 + [0.5] * 6 + [0.3] * 8
    assert stats["interval_s"] == pytest.approx(0.3)
    assert [row["seconds"] for row in stats["score"]] == pytest.approx([0.3, 0.6, 0.9, 1.2])
    assert "PSNR at +1.2 s" in stderr


def test_the_page_has_the_lead_times_of_the_camera(svg_live, monkeypatch):
    last, look, traces = [], [], []
    end = PageCamera.end

    def note_end(camera, reason):
        last.append(camera.state())
        look.append(camera._look(camera._moment.view).caption.interval_s)
        traces.append(list(camera._moment.view.trace_s))
        end(camera, reason)

    monkeypatch.setattr(PageCamera, "end", note_end)
    use(monkeypatch, SlowCamera(10))
    code, stderr, _ = svg_live(*SMALL, "--max-frames", "10", "--serve", "0")
    assert code == 0, stderr
    [state] = last
    assert (state["interval_s"], state["lead_s"], state["leads_s"]) == (0.5, 2.0, [0.5, 1.0, 1.5, 2.0])
    assert look == [0.5]
    assert traces == [pytest.approx([0.5 * number for number in range(1, 11)])]


def told(monkeypatch) -> list[tuple[float | None, float]]:
    """What --adaptive is told: the interval, and how much time has passed."""
    told = []
    add = AdaptiveCounts.add

    def watch(adaptive, busy_ms, interval_s, passed_s):
        told.append((None if interval_s is None else round(interval_s, 3), round(passed_s, 3)))
        add(adaptive, busy_ms, interval_s, passed_s)

    monkeypatch.setattr(AdaptiveCounts, "add", watch)
    return told


def test_the_time_between_two_pictures_is_that_of_the_camera(svg_live, monkeypatch):
    adaptive = told(monkeypatch)
    use(monkeypatch, SlowCamera(12, known=5))
    code, stderr, _ = svg_live(*SMALL, "--realtime", "--max-frames", "12", "--adaptive")
    assert code == 0, stderr
    assert adaptive == [(None, 0.5)] * 3 + [(0.5, 0.5)] * 7  # nothing is judged before it is known


def due(number: int, tick: int, step_s: float | None) -> Due:
    picture = SourceFrame(np.zeros((4, 4), np.uint8), tick, captured_s=0.0, step_s=step_s)
    camera = SimpleNamespace(tick_s=MODEL_S, stats=SimpleNamespace(interval_s=step_s or MODEL_S))
    return Due(number, camera, picture, 0.0)


@pytest.mark.parametrize(
    ("forecast", "next_ones", "expected"),
    [
        ([due(0, 0, 0.5), due(1, 1, 0.2)], [due(1, 3, 0.2)], (0.2, 0.2)),  # the fastest has the least time
        ([due(0, 0, 0.5)], [due(0, 5, 0.5), due(1, 6, 0.1)], (0.5, 0.5)),  # the fast one was away, or has ended
        ([due(1, 0, 0.2)], [due(1, 8, 0.2)], (0.2, 0.8)),  # three of its pictures were dropped
        ([due(0, 0, 0.5), due(1, 1, None)], [due(1, 4, None)], (None, 0.3)),
        ([due(0, 0, 0.5)], [], (0.5, 0.5)),  # the end
    ],
)
def test_cameras_share_the_time_of_the_fastest_that_was_forecast(monkeypatch, forecast, next_ones, expected):
    adaptive = told(monkeypatch)
    counts = AdaptiveCounts([(2, 4)], EventLog())
    live = LiveLoop(cameras=[], forecasts=None, stop=StopRequest(), interval_s=MODEL_S, adaptive=counts)
    live._forecast_once = {one.number: one for one in forecast}
    live._tell_adaptive(next_ones)
    assert adaptive == [expected]


def test_a_picture_of_a_slow_camera_stands_for_its_step():
    """One that is high for half a second is long enough for an alarm, and ten steps may pass before it counts as away."""
    trigger = TriggerOptions(threshold=4.5, min_duration_s=0.5)
    options = AlarmOptions(enabled=True, trigger=trigger)
    monitor = AlarmMonitor(options=options, interval_s=MODEL_S, source="wall", model="m", events=EventLog(), numbers=iter([1]))
    for tick, step_s, is_alarm in ((0, None, False), (5, 0.5, True)):
        monitor.skip(SourceFrame(np.zeros((4, 4), np.uint8), tick, captured_s=time.monotonic(), step_s=step_s))
        assert (monitor._change(0.1 * tick + 0.01, 9.0) == "started") == is_alarm
        monitor._trigger.end()
        monitor._alarm = None
    monitor.close()
