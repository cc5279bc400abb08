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

HANG_S = 10.0


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch) -> None:
    """Of the machine that runs the tests: what is read or stored late is no mistake."""
    monkeypatch.setattr(numbers, "_FIND_S", 60.0)
    monkeypatch.setattr(numbers, "_STORE_S", 60.0)


def last_number(file: Path | None, *folders: Path) -> int:
    """As a run finds it that begins now."""
    return AlarmNumbers(file, folders, EventLog())._last


def last_number_in(folder: Path) -> int:
    """Of the lock file alone."""
    return int((folder / ".events.jsonl.lock").read_text())


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


@pytest.mark.parametrize("content", ["alarm-20260101T000000.000Z-000040.mp4", "events.jsonl", ".events.jsonl.lock"])
def test_numbers_go_on_after_those_of_a_card_that_is_mounted_later(content, tmp_path):
    """Another folder in its place stands for it."""
    place, card = tmp_path / "alarms", tmp_path / "card"
    for folder in (place, card):
        folder.mkdir()
    (card / content).write_text({".jsonl": '{"sequence": 40}\n', ".lock": "0000000000000040\n"}.get(Path(content).suffix, ""))
    taken = AlarmNumbers(place / "events.jsonl", [place], EventLog())
    assert next(taken) == 1
    place.rename(tmp_path / "under")
    card.rename(place)
    assert [next(taken), next(taken)] == [41, 42]


def test_a_disk_that_hangs_is_not_waited_for_at_every_alarm(tmp_path, monkeypatch):
    """Where only clips are saved, a number is read and nothing is stored."""
    taken, hangs, waited_out = AlarmNumbers(None, [tmp_path], EventLog()), threading.Event(), []
    monkeypatch.setattr(numbers, "identity_of", lambda path: waited_out.append(not hangs.wait(HANG_S)))
    monkeypatch.setattr(numbers, "_FIND_S", 0.02)
    assert next(taken) == 1
    monkeypatch.setattr(numbers, "_FIND_S", HANG_S)
    assert next(taken) == 2
    assert waited_out == []
    (tmp_path / "alarm-20260101T000000.000Z-000040.mp4").touch()
    hangs.set()
    taken._finding.wait()
    assert next(taken) == 41


@pytest.mark.parametrize(("held", "newest"), [(0, 2), (40, 40)])
def test_a_number_is_stored_after_a_slow_look_and_over_no_larger_one(held, newest, tmp_path, monkeypatch):
    """At a card that was just mounted, and may have the numbers of other runs."""
    hangs, events = threading.Event(), EventLog()
    taken = AlarmNumbers(tmp_path / "events.jsonl", [], events)
    (tmp_path / ".events.jsonl.lock").write_text(f"{held}\n")
    monkeypatch.setattr(numbers, "identity_of", lambda path: hangs.wait(HANG_S))
    monkeypatch.setattr(numbers, "_FIND_S", 0.02)
    monkeypatch.setattr(numbers, "_STORE_S", 0.02)
    assert [next(taken), next(taken)] == [1, 2]
    assert last_number_in(tmp_path) == held
    hangs.set()
    taken._storing.wait()
    assert last_number_in(tmp_path) == newest
    monkeypatch.setattr(numbers, "_FIND_S", HANG_S)
    monkeypatch.setattr(numbers, "_STORE_S", HANG_S)
    assert next(taken) == newest + 1
    assert last_number_in(tmp_path) == newest + 1
    assert events.counts == {"alarm_not_saved": 2}


@pytest.mark.parametrize("content", [b"", bytes(17), b"-5", b"9" * 17, b"text", b"\xff"])
def test_a_lock_file_that_holds_no_number_is_passed_over(content, tmp_path):
    (tmp_path / ".events.jsonl.lock").write_bytes(content)
    assert last_number(tmp_path / "events.jsonl") == 0


def test_nothing_is_stored_beside_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert next(AlarmNumbers(tmp_path / "pipe", [], EventLog())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_disk_that_hangs_holds_up_no_alarm(tmp_path, monkeypatch):
    hangs, events, waited_out = threading.Event(), EventLog(), []
    monkeypatch.setattr(numbers.os, "fsync", lambda descriptor: waited_out.append(not hangs.wait(HANG_S)))
    monkeypatch.setattr(numbers, "_STORE_S", 0.02)
    taken = AlarmNumbers(tmp_path / "events.jsonl", [], events)
    assert next(taken) == 1
    monkeypatch.setattr(numbers, "_STORE_S", HANG_S)
    assert next(taken) == 2  # it was waited for, and is not again
    assert waited_out == []
    assert [thread.name for thread in threading.enumerate()].count("alarm-number") == 1  # that waits, and not one for each
    assert events.counts == {"alarm_not_saved": 2}
    hangs.set()
    taken._storing.wait()
    assert last_number_in(tmp_path) == 2  # it was stored late
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
