"""From frames to alarms: what is raised, what is not, and what an alarm leaves."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.scores import EarlierForecast
from svg_runtime.live import timing
from svg_runtime.live.alarms import monitor, numbers
from svg_runtime.live.alarms.archive import Archive
from svg_runtime.live.alarms.monitor import AlarmMonitor, close_side_by_side
from svg_runtime.live.alarms.options import AlarmOptions, alarm_options
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.alarms.webhook import Webhook
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.mp4 import Mp4Writer
from svg_runtime.live.sources.base import SourceFrame
from tests.command_runner import HANG_S, wait_until
from tests.svg_runtime.live.alarms.test_numbers import last_number, refuse

STEP_S = 0.1
QUIET, ANOMALY = 0.0, 0.4


class Watch:
    """A monitor that sees a gray wall whose brightness jumps, which was not forecast."""

    def __init__(self, options: AlarmOptions, ticks: int = 1) -> None:
        self.events = EventLog()
        self.monitor = AlarmMonitor(
            options=options, interval_s=STEP_S, source="wall", model="m", events=self.events, tick_s=STEP_S / ticks
        )
        self.ticks = ticks  # per picture
        self.rng = np.random.default_rng(0)
        self.tick = 0
        self.away_s: float | None = None  # seconds of pauses in a file, in which ticks have none; None: ticks tell the time
        self.held_s: float | None = None  # when a camera took the picture that is held; None: none is
        self.first_s: float | None = None  # when a camera took its first picture; None: a file, read as fast as possible

    def see(self, seconds: float, jump: float = QUIET, empty=None) -> None:
        for _ in range(round(seconds / STEP_S)):
            real = self.rng.normal(0.4 + jump, 0.02, (16, 16, 1)).clip(0, 1).astype(np.float32)
            samples = self.rng.normal(0.4, 0.02, (8, 16, 16, 1)).clip(0, 1).astype(np.float32)
            picture = np.full((48, 64, 3), round(255 * (0.4 + jump)), np.uint8)
            observation = Observation(self.tick, None, (), EarlierForecast(1, samples))
            captured_s = None if self.first_s is None else self.first_s + self.tick / self.ticks * STEP_S
            source_s = None if self.away_s is None else self.away_s + self.tick / self.ticks * STEP_S
            held = self.held_s is not None
            captured_s = self.held_s if held else captured_s
            frame = SourceFrame(picture, self.tick, captured_s=captured_s, source_s=source_s, held=held)
            self.monitor.add(frame, real, observation, empty)
            self.tick += self.ticks
            if self.monitor._clips is not None:  # it keeps up, as with a camera
                passed = threading.Event()
                self.monitor._clips._worker.put(passed.set)
                assert passed.wait(5)

    @property
    def count(self) -> int:
        return self.monitor.summary()["count"]


@pytest.fixture
def watch():
    opened: list[Watch] = []

    def make(ticks: int = 1, **options) -> Watch:
        opened.append(Watch(AlarmOptions(**{"enabled": True, **options}), ticks))
        return opened[-1]

    yield make
    for each in opened:
        each.monitor.close()


def test_an_anomaly_is_one_alarm_and_the_next_one_another(watch):
    wall = watch()
    wall.see(20)
    assert wall.count == 0
    wall.see(1, ANOMALY)
    assert wall.monitor.active
    wall.see(12)
    assert not wall.monitor.active
    wall.see(1, ANOMALY)
    wall.see(2)
    assert wall.count == 2
    assert wall.events.counts["alarm"] == 2
    assert wall.monitor.summary()["signals"]["combined"]["max"] > 4.5


def test_without_alarms_signals_are_still_measured(watch):
    wall = watch(enabled=False)
    wall.see(10)
    wall.see(1, ANOMALY)
    assert wall.count == 0
    assert wall.monitor.values.combined > 4.5


@pytest.mark.parametrize("empty", ["blank", "frozen"])
def test_pictures_that_carry_nothing_raise_no_alarm_nor_does_what_follows_at_once(watch, empty):
    wall = watch()
    wall.see(20)
    wall.see(3, ANOMALY, empty=empty)
    wall.see(0.8, ANOMALY)  # the model has just seen black
    wall.see(5)
    assert wall.count == 0
    wall.see(1, ANOMALY)
    assert wall.count == 1


def test_after_a_reset_there_is_a_second_of_calm_and_a_new_scene_is_learned(watch):
    wall = watch()
    wall.see(20)
    wall.monitor.reset(new_scene=False)
    wall.see(0.8, ANOMALY)
    wall.see(0.5)
    assert wall.count == 0
    wall.monitor.reset(new_scene=True)
    wall.see(20, ANOMALY)
    assert wall.count == 0


def test_the_calm_begins_after_the_pause_and_not_before_it(watch):
    wall = watch()
    wall.see(20)
    wall.monitor.reset(new_scene=False)
    wall.tick += 600  # a minute without a picture
    wall.see(0.8, ANOMALY)
    wall.see(0.5)
    assert wall.count == 0
    wall.see(1, ANOMALY)
    assert wall.count == 1


@pytest.mark.parametrize("ticks", [1, 2])  # 2: a video with half of the model's rate
def test_an_alarm_leaves_a_clip_a_picture_and_a_line(watch, tmp_path, ticks):
    file = tmp_path / "events.jsonl"
    wall = watch(ticks, folder=tmp_path / "alarms", before_s=1.0, after_s=2.0, events_file=file)
    wall.first_s = time.monotonic() - 60
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.see(4)
    wall.monitor.close()
    record = AlarmRecord.model_validate_json(file.read_text())
    assert (record.sequence, record.phase, record.source) == (1, "ended", "wall")
    assert record.position_s == pytest.approx(20)
    assert record.duration_s == pytest.approx(1, abs=0.25)
    assert (record.end - record.start).total_seconds() == pytest.approx(record.duration_s, abs=0.01)
    assert record.peak.combined > 4.5
    assert record.peak.surprise is None
    with av.open(record.files.clip) as container:
        levels = [int(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    assert len(levels) == pytest.approx(31, abs=1)  # from 1 s before to 2 s after
    assert levels[0] < 120 < levels[15]
    assert cv2.imread(record.files.picture) is not None
    assert Path(record.files.clip).parent == tmp_path / "alarms"


@pytest.mark.parametrize(("after_s", "last_s"), [(2.0, 2.0), (0.5, 1.4)])  # the latter: until the alarm was raised
def test_a_clip_is_cut_around_the_start_of_the_alarm_however_long_that_must_last(watch, tmp_path, after_s, last_s):
    trigger = TriggerOptions(min_duration_s=1.5)
    wall = watch(folder=tmp_path, trigger=trigger, before_s=1.0, after_s=after_s, events_file=tmp_path / "events.jsonl")
    wall.see(20)
    wall.see(3, ANOMALY)
    wall.see(3)
    wall.monitor.close()
    record = AlarmRecord.model_validate_json((tmp_path / "events.jsonl").read_text())
    assert record.position_s == pytest.approx(20)
    with av.open(record.files.clip) as container:
        levels = [int(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    assert [level > 120 for level in levels] == [False] * 10 + [True] * (round(10 * last_s) + 1)


def test_the_number_of_an_alarm_is_on_the_disk_before_anyone_hears_of_it(watch, tmp_path):
    """So a run after a kill or a power cut during the alarm does not use it again."""
    file, heard = tmp_path / "events.jsonl", []
    wall = watch(events_file=file)
    wall.monitor.listeners.append(lambda record: heard.append((record.sequence, record.phase, last_number(file))))
    wall.see(20)
    wall.see(1, ANOMALY)
    assert heard == [(1, "started", 1)]
    assert not file.exists()
    after = watch(events_file=file)
    after.see(20)
    after.see(1, ANOMALY)
    after.monitor.close()
    assert AlarmRecord.model_validate_json(file.read_text()).sequence == 2


def test_an_alarm_goes_out_although_its_number_cannot_be_stored(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers.os, "fsync", refuse)
    wall, heard = watch(events_file=tmp_path / "events.jsonl"), []
    wall.monitor.listeners.append(heard.append)
    wall.see(20)
    wall.see(1, ANOMALY)
    assert [(record.sequence, record.phase) for record in heard] == [(1, "started")]
    assert wall.events.counts["alarm_not_saved"] == 1
    assert "the number of alarm 1 was not saved: " in wall.events.messages[0]
    assert "No space left on device" in wall.events.messages[0]


def test_a_pause_inside_a_file_counts_for_the_position_and_the_cool_down_of_alarms(watch, tmp_path):
    file = tmp_path / "events.jsonl"
    wall = watch(events_file=file, folder=tmp_path)
    wall.away_s = 0.0
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.monitor.reset(new_scene=False)
    wall.away_s = 25.0
    wall.see(5)  # the cool-down takes ten seconds
    wall.see(1, ANOMALY)
    wall.see(2)
    wall.monitor.close()
    one, two = (AlarmRecord.model_validate_json(line) for line in file.read_text().splitlines())
    assert (one.position_s, two.position_s) == pytest.approx((20, 51))
    assert (one.duration_s, two.duration_s) == pytest.approx((1, 1), abs=0.25)


def test_a_clip_that_would_take_too_much_memory_ends_early_and_the_next_one_has_room_again(watch, tmp_path):
    file = tmp_path / "events.jsonl"
    wall = watch(folder=tmp_path / "alarms", before_s=1.0, after_s=1000.0, events_file=file, buffer_bytes=10_000)
    wall.see(20)
    clips = wall.monitor._clips
    for count in (1, 2):
        wall.see(1, ANOMALY)
        wall.see(20)
        assert wall.events.counts["alarm_clip_cut"] == count
        wait_until(lambda: clips._held_bytes - sum(clips._freed) <= 10_000)  # what was cut is written
    wall.monitor.close()
    assert "raise it, or lower --alarm-after" in wall.events.messages[1]
    for line in file.read_text().splitlines():
        with av.open(json.loads(line)["files"]["clip"]) as container:
            assert 10 < len(list(container.decode(video=0))) < 220


def test_behind_a_disk_that_hangs_pictures_are_lost_and_no_end_of_an_alarm(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "_QUEUE", 2)
    append, answers, hangs, heard = Archive.append, threading.Event(), threading.Event(), []

    def append_later(archive: Archive, record: AlarmRecord) -> None:
        hangs.set()
        assert answers.wait(HANG_S)
        append(archive, record)

    monkeypatch.setattr(Archive, "append", append_later)
    trigger = TriggerOptions(cooldown_s=1.0)
    wall = watch(folder=tmp_path, before_s=1.0, after_s=1.0, trigger=trigger, events_file=tmp_path / "events.jsonl")
    wall.monitor.listeners.append(lambda record: record.phase == "ended" and heard.append(record.sequence))
    wall.see(20)
    for number in range(1, 5):
        wall.see(1, ANOMALY)
        wall.see(4)
        assert wall.count == number
        assert hangs.wait(HANG_S)
    assert heard == []
    lost = [message.partition(":")[0] for message in wall.events.messages if "not saved" in message]
    assert sorted(lost) == [f"the {what} of alarm {number} was not saved" for what in ("clip", "picture") for number in (3, 4)]
    answers.set()
    wall.monitor.close()
    assert heard == [1, 2, 3, 4]
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [sorted(kind for kind, file in record["files"].items() if file) for record in records] == [
        ["clip", "picture"]
    ] * 2 + [[]] * 2
    assert not any("in time" in message for message in wall.events.messages)


def level_in(picture: str | None) -> float:
    """Mean brightness of the real frame, the second of three, of the picture of an alarm."""
    assert picture is not None
    image = cv2.imread(picture)
    height, width = image.shape[:2]
    return float(image[height // 2 - 50 : height // 2 + 50, width // 2 - 50 : width // 2 + 50].mean()) / 255


@pytest.mark.parametrize("seconds", [3, 0])  # 0: the run is stopped during the alarm
def test_the_picture_is_of_the_largest_signal_also_after_the_clip_is_complete(watch, tmp_path, seconds):
    wall = watch(folder=tmp_path, before_s=1.0, after_s=1.0, events_file=tmp_path / "events.jsonl")
    wall.see(20)
    wall.see(2, 0.25)
    wall.see(0.5, 0.5)
    wall.see(0.5, 0.25)
    wall.see(seconds)
    wall.monitor.close()
    record = AlarmRecord.model_validate_json((tmp_path / "events.jsonl").read_text())
    assert record.duration_s == pytest.approx(3, abs=0.25)
    assert level_in(record.files.picture) == pytest.approx(0.9, abs=0.05)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".lock", ".mp4", ".png"]


def test_alarms_of_a_file_that_is_read_fast_do_not_overlap_and_end_before_they_are_written(watch, tmp_path):
    file = tmp_path / "events.jsonl"
    wall = watch(events_file=file)
    wall.see(20)
    for _ in range(2):
        wall.see(1, ANOMALY)
        wall.see(12)
    wall.monitor.close()
    one, two = (AlarmRecord.model_validate_json(line) for line in file.read_text().splitlines())
    assert one.start < one.end < two.start < two.end < datetime.now().astimezone()
    assert two.position_s - one.position_s == pytest.approx(13)
    assert one.duration_s == pytest.approx(1, abs=0.25)


def test_the_record_of_the_end_has_the_threshold_of_the_start(watch, tmp_path):
    wall = watch(events_file=tmp_path / "events.jsonl")
    records: list[AlarmRecord] = []
    wall.monitor.listeners.append(records.append)
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.monitor.set_threshold(9.0)
    wall.see(3)
    wall.monitor.close()
    assert [(record.phase, record.threshold) for record in records] == [("started", 4.5), ("ended", 4.5)]
    assert wall.monitor.summary()["threshold"] == 9.0


def test_an_alarm_ends_after_its_start_although_the_clock_is_set_back(watch, tmp_path, monkeypatch):
    class SetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=1)

    file = tmp_path / "events.jsonl"
    wall = watch(events_file=file)
    wall.first_s = time.monotonic() - 60
    wall.see(20)
    wall.see(0.5, ANOMALY)
    for module in (timing, monitor):
        monkeypatch.setattr(module, "datetime", SetBack)
    wall.see(0.5, ANOMALY)
    wall.see(3)
    wall.monitor.close()
    record = AlarmRecord.model_validate_json(file.read_text())
    assert record.duration_s == pytest.approx(1, abs=0.25)
    assert (record.end - record.start).total_seconds() == pytest.approx(record.duration_s, abs=0.01)


def test_an_alarm_that_is_still_there_at_the_end_is_complete(watch, tmp_path):
    file = tmp_path / "events.jsonl"
    wall = watch(folder=tmp_path, events_file=file)
    wall.see(20)
    wall.see(0.5, ANOMALY)
    wall.monitor.close()
    wall.monitor.close()
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["phase"] == "ended"
    assert Path(json.loads(line)["files"]["clip"]).is_file()


class Clock:
    """`time.monotonic()` that can be moved on."""

    def __init__(self, monkeypatch) -> None:
        self.ahead_s = 0.0
        real = time.monotonic
        monkeypatch.setattr(monitor.time, "monotonic", lambda: real() + self.ahead_s)


def wait_until_written(file: Path) -> AlarmRecord:
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return AlarmRecord.model_validate_json(file.read_text())


def test_an_alarm_of_a_camera_that_dies_ends_and_is_written_without_another_picture(watch, tmp_path, monkeypatch):
    clock, file = Clock(monkeypatch), tmp_path / "events.jsonl"
    wall = watch(folder=tmp_path / "alarms", after_s=2.0, events_file=file)
    wall.first_s = time.monotonic() - 21
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.monitor.pass_time()
    clock.ahead_s = 2.0  # it may be late, or the loop slow
    wall.monitor.pass_time()
    assert wall.monitor.active
    clock.ahead_s = 7.0
    wall.monitor.pass_time()
    assert not wall.monitor.active
    record = wait_until_written(file)
    assert record.duration_s == pytest.approx(1, abs=0.25)
    assert Path(record.files.clip).is_file()
    wall.monitor.pass_time()
    assert wall.count == 1


def test_a_forecast_that_takes_long_leaves_no_camera_away(watch, monkeypatch):
    """And so starts an alarm and keeps it up."""
    clock, wall = Clock(monkeypatch), watch(trigger=TriggerOptions(min_duration_s=0.2))
    wall.first_s = time.monotonic() - 60
    wall.see(20)
    for _ in range(3):
        wall.see(0.1, ANOMALY)
        clock.ahead_s += 20.0
        wall.monitor.pass_time()  # after the forecast
    assert wall.monitor.active
    assert wall.count == 1
    clock.ahead_s += 20.0
    wall.monitor.pass_time()
    assert not wall.monitor.active


def test_time_that_passes_says_nothing_of_a_file(watch, monkeypatch):
    clock, wall = Clock(monkeypatch), watch()
    wall.away_s = 0.0
    wall.see(20)
    wall.see(1, ANOMALY)
    clock.ahead_s = 100.0
    wall.monitor.pass_time()
    assert wall.monitor.active


def test_pictures_that_cannot_be_observed_end_an_alarm_by_its_rules(watch, tmp_path):
    wall = watch(events_file=tmp_path / "events.jsonl", folder=tmp_path / "alarms", after_s=0.5)
    wall.see(20)
    wall.see(1, ANOMALY)
    for number in range(11):
        assert wall.monitor.active == (number < 10), number
        wall.monitor.skip(SourceFrame(np.zeros((24, 32, 3), np.uint8), wall.tick))
        wall.tick += 1
    record = wait_until_written(tmp_path / "events.jsonl")
    assert record.duration_s == pytest.approx(1, abs=0.25)


def test_a_camera_that_has_ended_says_so_while_others_run(watch, tmp_path):
    file = tmp_path / "events.jsonl"
    wall = watch(events_file=file, folder=tmp_path / "alarms")
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.monitor.end()
    assert not wall.monitor.active
    assert Path(wait_until_written(file).files.clip).is_file()
    wall.monitor.end()
    wall.monitor.close()
    assert len(file.read_text().splitlines()) == 1
    assert wall.monitor.summary()["pictures_missing"] == 0
    assert "alarm_not_saved" not in wall.events.counts


@pytest.mark.parametrize(("then_s", "lasted_s"), [(0, 1.5), (0.5, 2.4)])
def test_a_cameras_alarm_lasts_from_its_start_to_its_end_although_pictures_were_held(
    watch, tmp_path, monkeypatch, then_s, lasted_s
):
    file = tmp_path / "events.jsonl"
    wall = watch(events_file=file)
    first_s = wall.first_s = time.monotonic() - 60
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: first_s + wall.tick * STEP_S))
    wall.see(20)
    wall.see(1, ANOMALY)
    wall.held_s = first_s + (wall.tick - 1) * STEP_S
    wall.see(0.5, ANOMALY)
    wall.held_s = None
    wall.first_s += 0.4  # its pictures are younger now when they are taken
    wall.see(then_s, ANOMALY)
    wall.see(3)
    wall.monitor.close()
    record = AlarmRecord.model_validate_json(file.read_text())
    assert record.duration_s == pytest.approx(lasted_s, abs=0.15)
    assert (record.end - record.start).total_seconds() == pytest.approx(record.duration_s, abs=0.01)


def test_a_server_that_is_away_costs_no_frame(watch, monkeypatch):
    seen, frames_waited = threading.Event(), []

    def send(self: Webhook, alarm: AlarmRecord) -> None:
        frames_waited.append(not seen.wait(HANG_S))
        raise NotDeliveredError("away")

    monkeypatch.setattr(Webhook, "send", send)
    wall = watch(webhook="http://127.0.0.1:1/")
    wall.see(20)
    wall.see(1, ANOMALY)
    seen.set()
    wall.monitor.close()
    assert frames_waited
    assert not any(frames_waited)
    assert wall.monitor.summary()["sent"]["webhook"] == {"sent": 0, "refused": 0, "stopped": 0, "dropped": 2}
    assert wall.events.counts["webhook_dropped"] == 1


def test_several_wait_for_a_server_that_is_away_at_the_same_time():
    all_wait, closed = threading.Barrier(4), []

    def close() -> None:
        closed.append(all_wait.wait(HANG_S))  # raises where one is closed after another

    close_side_by_side([SimpleNamespace(close=close)] * 4)
    assert sorted(closed) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": True, "trigger": TriggerOptions(threshold=2, clear=3)}, "--alarm-clear 3 is above"),
        ({"enabled": True, "before_s": float("inf")}, "--alarm-before is inf"),
        ({"enabled": True, "trigger": TriggerOptions(threshold=float("nan"))}, "--alarm-threshold is nan"),
        ({"trigger": TriggerOptions(threshold=0, clear=0)}, "--alarm-threshold is 0\n  expected a number above 0"),
        ({"trigger": TriggerOptions(clear=0)}, "--alarm-clear is 0\n  expected a number above 0"),
        ({"enabled": True, "webhook": "ftp://h"}, "--webhook"),
        ({"enabled": True, "command": "no-such-program-here"}, "--on-alarm"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        AlarmOptions(**options).check()


@pytest.mark.parametrize(
    ("option", "value"),
    [("alarm_dir", Path("x")), ("mqtt", "mqtt://h"), ("alarm_threshold", 6.0), ("alarm_hold", 0.0), ("alarm_limit", "1GB")],
)
def test_an_option_of_alarms_is_refused_without_them(option, value):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} has no effect without alarms\n  add --alarm"):
        alarm_options(False, {option: value, "events": None})
    assert alarm_options(True, {option: value}).enabled


def test_options_that_are_not_given_have_their_documented_values():
    assert alarm_options(False, {"alarm_threshold": None}) == AlarmOptions()
    assert alarm_options(True, {"alarm_threshold": 6.0}).trigger == TriggerOptions(threshold=6.0, clear=3.0)
    with pytest.raises(UsageError, match="--alarm-limit: 'much' is not a size"):
        alarm_options(True, {"alarm_limit": "much"})


@pytest.mark.parametrize(
    ("option", "size", "expected"),
    [("alarm_limit", "0MB", "10MB"), ("alarm_limit", "9.9MB", "10MB"), ("alarm_buffer", "0kB", "1MB")],
)
def test_a_size_without_room_for_a_clip_is_refused(option, size, expected):
    with pytest.raises(
        UsageError, match=f"--{option.replace('_', '-')} {size} is too small for .*\n  expected at least {expected}"
    ):
        alarm_options(True, {option: size})
    assert alarm_options(True, {option: expected}).enabled


@pytest.mark.parametrize("option", ["--alarm-threshold", "--alarm-clear"])
def test_a_level_of_0_at_which_an_alarm_would_never_end_is_refused_wherever_it_is_given(svg_live, option):
    code, stderr, _ = svg_live("--headless", "--max-frames", "1", "--alarm", option, "0")
    assert (code, f"{option} is 0\n  expected a number above 0" in stderr) == (2, True)
    key = option.lstrip("-").replace("-", "_")
    Path("live.toml").write_text(f"alarm = true\n{key} = 0\n")
    code, stderr, _ = svg_live("--config", "live.toml", "--headless", "--max-frames", "1")
    assert (code, f"{option} is 0\n  expected a number above 0" in stderr) == (2, True)


def test_svg_live_raises_an_alarm_when_the_lens_is_covered(svg_live, tmp_path):
    still = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    noise = np.random.default_rng(1)
    pictures = [np.clip(still + noise.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(90)]
    pictures[70:80] = [still[::-1] // 3] * 10  # of one colour, it would carry nothing
    writer = Mp4Writer(tmp_path / "clip.mp4", (64, 64), STEP_S)
    for tick, picture in enumerate(pictures):
        writer.write(picture, tick)
    writer.close(keep=True)
    code, stderr, stats = svg_live(
        "--source", "clip.mp4", "--headless", "--json", "stats.json", "--samples", "2", "--horizon", "2",
        "--alarm", "--alarm-dir", "alarms", "--events", "events.jsonl", "--alarm-limit", "10MB",
    )  # fmt: skip
    assert code == 0
    assert stats["alarms"]["count"] == 1
    assert "svg-live: alarm 1 at 7.0 s: combined" in stderr
    assert "alarms: 1 with combined from 4.5 on" in stderr
    record = AlarmRecord.model_validate_json(Path("events.jsonl").read_text())
    assert Path(record.files.clip).is_file()
    assert Path(record.files.picture).is_file()
    code, stderr, _ = svg_live("--headless", "--max-frames", "1", "--alarm", "--alarm-limit", "10")
    assert code == 2
    assert "--alarm-limit: '10' is not a size" in stderr
