"""Where pictures are dropped, seconds are those of the source; what is no time of the same video does not count as such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.live import loop
from svg_runtime.live.dropped import DroppedPictures
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import SourceFrame

SMALL = ("--headless", "--json", "stats.json", "--samples", "1", "--horizon", "1")
STEADY = [5 * number for number in range(30)]  # two of ten pictures a second


class SlowCamera:
    """Gives the pictures at these ticks; those from `pause` on are of another clip, after `pause_s` or a reconnect."""

    name = description = "slow"
    dropped = 0

    def __init__(
        self, ticks: Sequence[int], frozen: bool, pause: int | None = None, pause_s: float = 2.0, step_s: float | None = None,
        drops: bool = False,
    ) -> None:  # fmt: skip
        self.captured = 0
        self._step_s = step_s
        self._drops = drops  # a picture at each tick that is left out
        self._ticks = ticks
        self._pause = len(ticks) if pause is None else pause
        self._pause_s = pause_s
        draw = digit_stream(0, 1, 64)
        self._pictures = [(draw() * 255).astype(np.uint8) for _ in range(1 if frozen else len(ticks))]

    def frames(self) -> Iterator[SourceFrame]:
        for number, tick in enumerate(self._ticks):
            self.captured += 1
            self.dropped = tick - number if self._drops else 0
            yield SourceFrame(
                self._pictures[number % len(self._pictures)], tick=tick, clip=int(number >= self._pause),
                pause_s=self._pause_s if number == self._pause else 0.0, reconnected=number == self._pause,
                step_s=self._step_s,
            )  # fmt: skip

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("ticks", "pause", "frozen"),
    [
        (STEADY, None, 10),  # from 10 s on
        ([*STEADY[:10], *(tick + 1000 for tick in STEADY[10:20])], 10, 0),  # 4.5 s before a pause, and 4.5 s after it
        ([*STEADY[:10], *(tick + 1000 for tick in STEADY[10:19])], None, 0),  # the loop has stalled: that is one second
    ],
)
def test_a_frozen_camera_is_noticed_after_ten_seconds_of_its_own(svg_live, monkeypatch, ticks, pause, frozen):
    monkeypatch.setattr(loop, "open_source", lambda **_: SlowCamera(ticks, frozen=True, pause=pause))
    code, stderr, stats = svg_live(*SMALL, "--max-frames", str(len(ticks)))
    assert code == 0, stderr
    assert stats["frames"]["frozen"] == frozen
    assert stats["pauses"] == (pause is not None)


def test_signals_and_fit_take_the_same_seconds(svg_live, monkeypatch):
    monkeypatch.setattr(loop, "open_source", lambda **_: SlowCamera(STEADY, frozen=False))
    code, stderr, stats = svg_live(*SMALL, "--max-frames", "30")
    assert code == 0, stderr
    assert stats["alarms"]["signals"]["scene"]["count"] == 30 - 1 - 6  # the first has none, and three seconds are learned
    assert stats["fit"]["gain_db"] is not None


@pytest.mark.parametrize(("pause_s", "event"), [(2.0, "pause"), (0.0, "reconnected")])
def test_what_is_usual_is_kept_over_a_loss_of_the_camera_however_short(svg_live, monkeypatch, pause_s, event):
    camera = SlowCamera(STEADY, frozen=False, pause=15, pause_s=pause_s)
    monkeypatch.setattr(loop, "open_source", lambda **_: camera)
    code, stderr, stats = svg_live(*SMALL, "--max-frames", "30")
    assert code == 0, stderr
    assert stats["events"]["counts"][event] == stats["resets"] == 1
    assert "a new video begins" not in stderr
    assert stats["pauses"] == (event == "pause")
    assert stats["alarms"]["signals"]["scene"]["count"] == 30 - 1 - 6  # as without a loss


def test_a_file_with_fewer_pictures_than_the_model_expects_drops_none(svg_live, tmp_path):
    """Each is a step of a quarter of a second, though it passes two or three intervals of the model."""
    picture = (digit_stream(0, 1, 64)() * 255).astype(np.uint8)
    for number in range(45):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), picture)
    code, stderr, stats = svg_live(*SMALL, "--source", ".", "--source-fps", "4")
    assert code == 0, stderr
    assert stats["frames"]["frozen"] == 45 - 40


@pytest.mark.parametrize(
    ("ticks", "step_s", "is_known"),
    [
        (STEADY, None, False),
        (STEADY, 0.5, True),  # the step of a slow camera, none dropped
        ([int(number * 1.25) for number in range(60)], 0.125, True),  # of one a little slower: every fourth tick has no picture
        ([3 * number for number in range(60)], 0.125, False),
    ],
)
def test_motion_over_a_dropped_picture_is_not_compared_with_that_of_a_step(svg_live, monkeypatch, ticks, step_s, is_known):
    monkeypatch.setattr(loop, "open_source", lambda **_: SlowCamera(ticks, frozen=False, step_s=step_s))
    code, stderr, stats = svg_live(*SMALL, "--max-frames", str(len(ticks)))
    assert code == 0, stderr
    seen = stats["fit"]["statistics"]
    assert "brightness" in seen
    assert ("motion" in seen, "moving" in seen) == (is_known, is_known)


def watch(dropped: DroppedPictures, seconds: float, share: float, counts: list[float]) -> None:
    """Ten pictures a second are due, of which a share is dropped; `counts`: position, taken and dropped so far."""
    for _ in range(round(10 * seconds)):
        counts[0] += 0.1
        counts[1] += 1 - share
        counts[2] += share
        dropped.add(counts[0], round(counts[1]), round(counts[2]))


def test_only_what_is_dropped_for_half_a_minute_is_reported_and_once():
    events, counts = EventLog(), [0.0, 0.0, 0.0]
    dropped = DroppedPictures(events)
    watch(dropped, 300, 0.05, counts)
    for _ in range(5):  # stalls of ten seconds
        watch(dropped, 10, 0.9, counts)
        watch(dropped, 30, 0.0, counts)
    assert events.counts == {}
    watch(dropped, 120, 0.5, counts)
    assert events.counts == {"too_slow": 1}
    assert ": 50 % of its pictures are dropped" in events.messages[0]
    assert "try --adaptive, another --backend, a smaller model" in events.messages[0]


@pytest.mark.parametrize(("extra", "reported"), [((), True), (("--realtime", "--adaptive"), False)])
def test_a_machine_that_is_slower_than_the_camera_says_so_unless_it_adapts(svg_live, monkeypatch, extra, reported):
    ticks = [5 * number for number in range(80)]
    monkeypatch.setattr(loop, "open_source", lambda **_: SlowCamera(ticks, frozen=False, drops=True))
    code, stderr, _ = svg_live(*SMALL, "--max-frames", "80", *extra)
    assert code == 0, stderr
    assert ("this machine cannot hold the rate of the camera: 80 % of its pictures are dropped" in stderr) == reported
