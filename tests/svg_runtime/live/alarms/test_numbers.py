"""Numbers of alarms: no two alarms have the same, whatever ends a run, and none waits for a disk."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from svg_runtime.live.alarms import numbers
from svg_runtime.live.alarms.numbers import AlarmNumbers
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.events import EventLog
from svg_runtime.live.live_options import LiveOptions
from svg_runtime.live.output_locks import hold_outputs
from svg_runtime.live.sources import SourceOptions


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch) -> None:
    """Of the machine that runs the tests: what is stored late is no mistake."""
    monkeypatch.setattr(numbers, "_STORE_S", 60.0)


def last_number(file: Path | None, *folders: Path) -> int:
    """As a run finds it that begins now."""
    return AlarmNumbers(file, folders, EventLog())._last


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_numbers_go_on_after_the_largest_line_which_is_not_the_last_one(tmp_path):
    """Of two cameras, one has a long alarm, and the other a short one meanwhile."""
    file = tmp_path / "events.jsonl"
    assert last_number(None) == last_number(file) == 0
    file.write_text('{"sequence": 41}\n{"sequence": 42}\n{"sequence": 40}\n')
    assert next(AlarmNumbers(file, [], EventLog())) == 43
    with file.open("a") as half:
        half.write('{"sequence": ')
    assert last_number(file) == 43


@pytest.mark.parametrize("sequence", ["1e400", "-7", "0", "true", "7.0", '"7"', "null", "9" * 400, "[" * 100_000])
def test_a_line_without_a_number_of_an_alarm_is_passed_over(sequence, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text(f'{{"sequence": 6}}\n{{"sequence": {sequence}}}\n')
    assert last_number(file) == 6


def test_numbers_go_on_where_no_line_was_written(tmp_path):
    """As after a kill, or where the events were moved away."""
    file = tmp_path / "new" / "events.jsonl"
    taken = AlarmNumbers(file, [], EventLog())
    assert [next(taken) for _ in range(12)] == list(range(1, 13))
    assert last_number(file) == 12
    file.write_text('{"sequence": 14}\n')
    assert last_number(file) == 14


def test_numbers_go_on_after_those_of_the_clips(tmp_path):
    """Which are removed in their order; without a file of events, too."""
    for name in ("alarm-20260101T000000.000Z-000007.mp4", "alarm-20360101T000000.000Z-000003.png", "alarm-9.mp4"):
        (tmp_path / name).touch()
    assert last_number(None, tmp_path, tmp_path / "none") == 7
    assert next(AlarmNumbers(None, [None, tmp_path], EventLog())) == 8
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("content", [b"", bytes(17), b"-5", b"9" * 17, b"text", b"\xff"])
def test_a_lock_file_that_holds_no_number_is_passed_over(content, tmp_path):
    (tmp_path / ".events.jsonl.lock").write_bytes(content)
    assert last_number(tmp_path / "events.jsonl") == 0


def test_nothing_is_stored_beside_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert next(AlarmNumbers(tmp_path / "pipe", [], EventLog())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_disk_that_hangs_holds_up_no_alarm(tmp_path, monkeypatch):
    hangs, events = threading.Event(), EventLog()
    monkeypatch.setattr(numbers.os, "fsync", lambda descriptor: hangs.wait(10))
    monkeypatch.setattr(numbers, "_STORE_S", 0.02)
    taken = AlarmNumbers(tmp_path / "events.jsonl", [], events)
    assert next(taken) == 1
    monkeypatch.setattr(numbers, "_STORE_S", 10)
    assert next(taken) == 2  # it was waited for, and is not again
    assert not hangs.is_set()
    assert [thread.name for thread in threading.enumerate()].count("alarm-number") == 1  # that waits, and not one for each
    assert events.counts == {"alarm_not_saved": 2}
    hangs.set()
    taken._storing.join()
    assert next(taken) == 3
    assert events.counts == {"alarm_not_saved": 2}
    assert last_number(tmp_path / "events.jsonl") == 3


@pytest.mark.parametrize("alarms", [0, 2])
def test_the_lock_file_stays_at_the_end_of_a_run_that_had_alarms(tmp_path, alarms):
    file = tmp_path / "events.jsonl"
    options = LiveOptions(source=SourceOptions(), alarms=AlarmOptions(enabled=True, events_file=file))
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)
        taken = AlarmNumbers(file, [], EventLog())
        for _ in range(alarms):
            next(taken)
    assert [path.name for path in tmp_path.iterdir()] == [".events.jsonl.lock"] * bool(alarms)
    assert last_number(file) == alarms
