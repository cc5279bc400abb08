"""`--adaptive`: what is left out when the machine is too slow, and how it comes back."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from svg_common.errors import ExitCode
from svg_runtime.forecast.forecaster import MAX_CACHED_ROLLOUTS, Forecaster
from svg_runtime.live.adaptive import AdaptiveCounts, counts_in_words, levels
from svg_runtime.live.events import EventLog
from svg_runtime.live.page.board import Board
from svg_runtime.live.page.camera import PageCamera
from tests.svg_runtime.live.live_helpers import write_video

INTERVAL_S = 0.1
PER_FUTURE_MS = 1.5  # of the imagined machine, per sample and step


def watch(adaptive: AdaptiveCounts, seconds: float, slowness: float = 1.0) -> list[tuple[int, int]]:
    """Run for a while on a machine whose time grows with the work; return the counts of every frame."""
    used = []
    for _ in range(round(seconds / INTERVAL_S)):
        samples, horizon = adaptive.counts
        used.append(adaptive.counts)
        adaptive.add(slowness * PER_FUTURE_MS * samples * horizon, INTERVAL_S, passed_s=INTERVAL_S)
    return used


@pytest.mark.parametrize(
    ("samples", "horizon", "fewer", "expected"),
    [
        (8, 10, True, [(8, 10), (4, 10), (2, 10), (2, 5)]),
        (64, 16, True, [(64, 16), (11, 16), (2, 16), (2, 8)]),
        (100, 10, True, [(100, 10), (14, 10), (2, 10), (2, 5)]),
        (7, 10, True, [(7, 10), (3, 10), (2, 10), (2, 5)]),
        (3, 10, True, [(3, 10), (2, 10), (2, 5), (2, 3)]),
        (2, 10, True, [(2, 10), (2, 5), (2, 3), (2, 2)]),
        (1, 3, True, [(1, 3), (1, 2), (1, 1)]),
        (8, 10, False, [(8, 10), (8, 5), (8, 3), (8, 2)]),
        (8, 1, True, [(8, 1), (4, 1), (2, 1)]),
        (64, 1, True, [(64, 1), (20, 1), (6, 1), (2, 1)]),
        (8, 1, False, [(8, 1)]),
    ],
)
def test_samples_go_first_and_every_level_stays_ready(samples, horizon, fewer, expected):
    assert levels(samples, horizon, fewer) == expected
    assert len(expected) <= MAX_CACHED_ROLLOUTS


@pytest.mark.parametrize("horizon", [1, 2, 10])
def test_any_number_of_samples_comes_down_to_two_and_each_level_is_less_work(horizon):
    for samples in range(2, 500):
        steps = levels(samples, horizon)
        assert steps[0] == (samples, horizon)
        assert len(steps) <= MAX_CACHED_ROLLOUTS
        assert (2, horizon) in steps
        assert all(before[0] * before[1] > after[0] * after[1] for before, after in pairwise(steps))


def test_a_slow_machine_gets_fewer_and_a_free_one_more_again():
    events = EventLog()
    adaptive = AdaptiveCounts(levels(8, 10), events)
    assert watch(adaptive, 10.0, slowness=0.5)[-1] == (8, 10)
    used = watch(adaptive, 3.0)  # 120 ms of 100
    assert used[-1] == (4, 10)
    assert used.index((4, 10)) <= 11
    assert watch(adaptive, 10.0)[-1] == (4, 10)  # 60 ms: 8 samples would take 120
    assert watch(adaptive, 10.0, slowness=4.0)[-1] == (2, 5)
    assert watch(adaptive, 60.0, slowness=0.5)[-1] == (8, 10)
    assert events.counts == {"adaptive_fewer": 3, "adaptive_more": 3}
    assert "now 4 samples x 10 steps instead of 8 samples x 10 steps: forecasts took" in events.messages[0]


def test_a_pause_is_no_time_in_which_the_machine_was_free():
    adaptive = AdaptiveCounts(levels(8, 10), EventLog())
    watch(adaptive, 1.5)
    reduced = adaptive.counts
    assert reduced != (8, 10)
    for passed_s in (0.1, 0.1, 600.0):
        adaptive.add(1.0, INTERVAL_S, passed_s=passed_s)
    assert adaptive.counts == reduced  # of three pictures nothing can be told
    assert adaptive.summary()["reduced_s"] > 600


def test_more_that_was_too_much_is_tried_ever_less_often():
    """A machine whose time does not fall with the work, as one that is busy with something else in between."""
    adaptive = AdaptiveCounts(levels(4, 10), EventLog())
    changes, before = [], adaptive.counts
    for frame in range(3000):
        adaptive.add(30.0 if adaptive.counts == (2, 10) else 95.0, INTERVAL_S, passed_s=INTERVAL_S)
        if adaptive.counts != before and adaptive.counts == (4, 10):
            changes.append(frame)
        before = adaptive.counts
    pauses = [later - earlier for earlier, later in pairwise(changes)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


@pytest.mark.parametrize(("lasted_s", "longer"), [(50.0, True), (60.0, False)])
def test_the_wait_for_more_grows_only_if_more_did_not_last(lasted_s, longer):
    """What overloads the machine now and then says nothing of the forecasts."""
    adaptive = AdaptiveCounts(levels(4, 10), EventLog())
    waited = []
    for _ in range(3):
        watch(adaptive, 1.0, slowness=2.0)
        waited.append(watch(adaptive, 40.0, slowness=0.5).count((2, 10)))
        watch(adaptive, lasted_s - 40 + waited[-1] * INTERVAL_S, slowness=0.5)
        assert adaptive.counts == (4, 10)
    assert (waited[2] > 3 * waited[0]) == longer
    assert (waited[2] <= waited[0]) != longer


def test_what_is_too_much_even_so_is_said_once():
    events = EventLog()
    watch(AdaptiveCounts(levels(2, 2), events), 20.0, slowness=100.0)
    assert events.counts["too_slow"] == 1
    assert "a camera's frames are dropped, and a file falls behind" in events.messages[-1]


@pytest.fixture
def slow_forecasts(monkeypatch):
    """A machine on which 8 samples of 10 steps take 120 ms."""
    real = Forecaster.forecast

    def slow(self, samples=None, horizon=None, **noise):
        time.sleep(0.0015 * (samples or self.samples) * (horizon or self.horizon))
        return real(self, samples, horizon, **noise)

    monkeypatch.setattr(Forecaster, "forecast", slow)


def test_counts_have_their_singular():
    assert [counts_in_words(1, 1), counts_in_words(2, 4)] == ["1 sample x 1 step", "2 samples x 4 steps"]


def test_a_live_run_adapts_and_says_so(svg_live, slow_forecasts):
    code, stderr, stats = svg_live(
        "--headless", "--realtime", "--adaptive", "--max-frames", "30", "--json", "stats.json", "--output", "o.mp4"
    )
    assert code == 0, stderr
    assert stats["adaptive"]["samples"] < 8
    assert stats["adaptive"]["reduced_s"] > 0
    assert f" s reduced; {counts_in_words(stats['adaptive']['samples'], stats['adaptive']['horizon'])} now" in stderr
    assert stats["events"]["counts"]["adaptive_fewer"] >= 1
    assert "instead of 8 samples x 10 steps" in stderr
    assert " dB best sample, " in stderr  # of 8 at first, of fewer then


def test_the_page_shows_what_is_in_force(svg_live, slow_forecasts, monkeypatch):
    last, entries = [], []
    end, add = PageCamera.end, Board.add

    def note_end(camera, reason):
        last.append(camera.state())
        end(camera, reason)

    def note_entry(board, kind, camera, values, group=None):
        entries.append(kind)
        add(board, kind, camera, values, group)

    monkeypatch.setattr(PageCamera, "end", note_end)
    monkeypatch.setattr(Board, "add", note_entry)
    arguments = ["--headless", "--realtime", "--adaptive", "--max-frames", "30", "--json", "stats.json", "--serve", "0"]
    code, stderr, stats = svg_live(*arguments)
    assert code == 0, stderr
    [state] = last
    in_force = stats["adaptive"]["samples"], stats["adaptive"]["horizon"]
    assert in_force != (8, 10)
    assert (state["settings"]["samples"], state["settings"]["horizon"]) == in_force
    assert state["lead_s"] == state["leads_s"][-1] == pytest.approx(in_force[1] * state["interval_s"])
    assert "change" not in entries  # which no client has made


def test_a_video_of_few_pictures_a_second_leaves_its_own_time_for_each(svg_live, tmp_path, monkeypatch):
    intervals, passed = set(), []

    class Watched(AdaptiveCounts):
        def add(self, busy_ms, interval_s, passed_s):
            intervals.add(interval_s)
            passed.append(passed_s)
            super().add(busy_ms, interval_s, passed_s)

    monkeypatch.setattr("svg_runtime.live.loop.AdaptiveCounts", Watched)
    write_video(tmp_path / "clip.mp4", frames=8, fps=5)
    code, stderr, stats = svg_live(
        "--source", "clip.mp4", "--headless", "--realtime", "--adaptive", "--json", "stats.json", "--save-forecasts", "raw"
    )
    assert code == 0, stderr
    assert intervals == {stats["interval_s"]}
    assert stats["interval_s"] == pytest.approx(0.2)
    assert passed == pytest.approx([0.2] * stats["frames"]["forecast"])
    saved = np.load(next((tmp_path / "raw").iterdir()))
    assert saved["lead_s"][:2] == pytest.approx([0.2, 0.4])


def test_adaptive_needs_a_rate_to_hold(svg_live):
    code, stderr, _ = svg_live("--headless", "--adaptive", "--max-frames", "2")
    assert (code, "add --realtime" in stderr) == (ExitCode.USAGE, True)
