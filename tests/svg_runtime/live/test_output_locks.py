"""One run at a time writes to a folder or a file of events, whether that is there before it starts or not."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from svg_common.folder_lock import FolderInUseError, open_locked
from svg_runtime.live import loop
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.live_options import LiveOptions, separated
from svg_runtime.live.output_locks import hold_outputs
from svg_runtime.live.outputs import RecordingOptions
from svg_runtime.live.sources import SourceOptions
from tests.svg_common.test_folder_lock import held_by_another_process

PLACES = ("alarms", "recording", "forecasts", "new/events.jsonl")
HELD = {"new/events.jsonl": "new/.events.jsonl.lock"}  # the others are held themselves


def writing_to(folder: Path, name: str | None = None) -> LiveOptions:
    alarms, recording, forecasts, events = (folder / place for place in PLACES)
    return LiveOptions(
        source=SourceOptions(), name=name, recording=RecordingOptions(folder=recording, forecasts=forecasts),
        alarms=AlarmOptions(enabled=True, folder=alarms, events_file=events),
    )  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_there_yet_is_held_too_and_removed_if_it_stays_empty(tmp_path, place):
    options = writing_to(tmp_path)
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)
        with pytest.raises(AssertionError), held_by_another_process(tmp_path / HELD.get(place, place)):
            pass
    assert list(tmp_path.iterdir()) == []


def test_each_camera_has_its_own_and_the_display_is_recorded_once(tmp_path):
    cameras = [writing_to(tmp_path, name) for name in ("gate", "yard")]
    own = separated(cameras)
    with ExitStack() as resources:
        hold_outputs(cameras[0], own, resources)
        for place in ("alarms/gate", "alarms/yard", "forecasts/gate", "forecasts/yard", "recording", HELD["new/events.jsonl"]):
            with pytest.raises(BlockingIOError):
                open_locked(tmp_path / place)
        (tmp_path / "alarms" / "gate" / "a.mp4").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.mp4", "alarms", "gate"]


@pytest.mark.parametrize("place", PLACES)
def test_what_another_run_writes_to_is_refused_and_left_as_it_is(tmp_path, place):
    path = tmp_path / HELD.get(place, place)
    path.parent.mkdir(exist_ok=True)
    if place in HELD:
        path.touch()
    else:
        path.mkdir()
    options = writing_to(tmp_path)
    with held_by_another_process(path), ExitStack() as resources:
        with pytest.raises(FolderInUseError, match=f"writes to '.*{place}'"):
            hold_outputs(options, [options], resources)
        resources.close()
        assert path.exists()


def test_a_pipe_is_not_held(tmp_path):
    (tmp_path / "new").mkdir()
    os.mkfifo(tmp_path / PLACES[-1])
    options = writing_to(tmp_path)
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)  # and nobody waits for its reader
        assert not (tmp_path / HELD[PLACES[-1]]).exists()


def test_what_the_shell_has_opened_is_not_held(tmp_path):
    process = LiveOptions(source=SourceOptions(), alarms=AlarmOptions(enabled=True, events_file=Path("/dev/stdout")))
    with (tmp_path / "service.log").open("w") as log, ExitStack() as resources:
        stdout = os.dup(1)
        os.dup2(log.fileno(), 1)
        try:
            hold_outputs(process, [process], resources)
            assert [path.name for path in tmp_path.iterdir()] == ["service.log"]
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)


def test_a_linked_file_is_held_where_it_is(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / PLACES[-1]).symlink_to(tmp_path / "elsewhere.jsonl")
    options = writing_to(tmp_path)
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)
        with pytest.raises(BlockingIOError):
            open_locked(tmp_path / ".elsewhere.jsonl.lock")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "events.jsonl"]


def test_the_events_may_be_moved_away_and_locked_by_others(tmp_path):
    options = writing_to(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / PLACES[-1]).touch()
    with held_by_another_process(tmp_path / PLACES[-1]), ExitStack() as resources:  # flock(1), against a second run
        hold_outputs(options, [options], resources)
        (tmp_path / PLACES[-1]).rename(tmp_path / "new" / "events.jsonl.1")
        with pytest.raises(BlockingIOError):
            open_locked(tmp_path / HELD[PLACES[-1]])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["events.jsonl.1"]


@pytest.mark.parametrize("place", PLACES)
def test_what_another_run_has_made_anew_is_its_own(tmp_path, place):
    path = tmp_path / HELD.get(place, place)
    options = writing_to(tmp_path)
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)
        path.rename(tmp_path / "moved away")
        if place in HELD:
            path.touch()
        else:
            path.mkdir()
    assert path.exists()


def test_what_is_removed_just_before_it_is_held_is_made_again(tmp_path, monkeypatch):
    options, opened = writing_to(tmp_path), []

    def remove_first(path: Path) -> int:
        opened.append(path)
        if len(opened) == 1:
            path.rmdir()
        return open_locked(path)

    monkeypatch.setattr("svg_common.folder_lock.open_locked", remove_first)
    with ExitStack() as resources:
        hold_outputs(options, [options], resources)
        for place in PLACES:
            with pytest.raises(BlockingIOError):
                open_locked(tmp_path / HELD.get(place, place))
    assert list(tmp_path.iterdir()) == []


def test_a_run_holds_them_before_it_opens_a_camera_and_leaves_nothing_if_there_is_none(svg_live, tmp_path, monkeypatch):
    held = []

    def open_none(**_):
        for place in ("alarms", ".events.jsonl.lock"):
            with pytest.raises(BlockingIOError):
                open_locked(tmp_path / place)
            held.append(place)
        raise FolderInUseError("no camera")

    monkeypatch.setattr(loop, "open_source", open_none)
    code, stderr, _ = svg_live("--headless", "--alarm", "--alarm-dir", "alarms", "--events", "events.jsonl")
    assert (code, held, "no camera" in stderr) == (1, ["alarms", ".events.jsonl.lock"], True), stderr
    assert list(tmp_path.iterdir()) == []
