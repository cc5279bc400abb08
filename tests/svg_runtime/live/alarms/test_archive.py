"""What alarms leave: a clip that plays, a picture, a line, and a folder that does not grow beyond its limit."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from svg_runtime.live.alarms.archive import OWN_NAME, Archive, _append_line
from svg_runtime.live.alarms.clip_buffer import _WAITING_PICTURES, MOST_BUFFERS, ClipBuffer, StoredPicture
from svg_runtime.live.alarms.comparison import compare_frames
from svg_runtime.live.alarms.record import AlarmRecord, Peak
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.bounded_folder import LimitedFiles
from tests.command_runner import wait_until
from tests.svg_common.test_folder_lock import held_by_another_process

NAME = "alarm-20260102T030405.678Z-000001"


def picture(level: int, size_wh: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full((size_wh[1], size_wh[0], 3), level, np.uint8)


def test_files_that_a_killed_run_left_half_written_are_removed(tmp_path):
    """Under the names that alarms and recordings give them; of the alarm folder alone, and no others."""
    gone = [f".{NAME}.partial-ylwu_sph.mp4", f".{NAME}.partial-abc123_.png", f".{NAME}.mp4"]
    kept = [f"{NAME}.mp4", ".notes.partial-abc.mp4", f".{NAME}.old.mp4", f".{NAME}.partial-abc.txt", ".hidden"]
    for name in (*gone, *kept):
        (tmp_path / name).write_bytes(b"1234")
    folders = [f"{NAME[:-1]}2.png", f".{NAME[:-1]}2.mp4"]  # of the user
    for name in folders:
        (tmp_path / name).mkdir()
    LimitedFiles(tmp_path, OWN_NAME, 100)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == sorted(kept + folders)


def stored(tick: int, image: np.ndarray) -> StoredPicture:
    return StoredPicture(tick, cv2.imencode(".jpg", image)[1])


def archive(folder: Path | None, limit_bytes: int = 10**9, events_file: Path | None = None) -> Archive:
    files = None if folder is None else LimitedFiles(folder, OWN_NAME, limit_bytes)
    return Archive(files=files, events_file=events_file, tick_s=0.1, events=EventLog())


def record(sequence: int = 1, **changes) -> AlarmRecord:
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    values = {"phase": "ended", "source": "a", "model": "b", "signal": "combined", "threshold": 6, "position_s": 1.5}
    return AlarmRecord(sequence=sequence, start=start, peak=Peak(combined=7.0), **{**values, **changes})


def clip_of(buffer: ClipBuffer, pictures: range, tick: int, last_tick: int) -> list[StoredPicture]:
    result, ready = [], threading.Event()

    def done(clip: list[StoredPicture]) -> None:
        result.extend(clip)
        ready.set()

    for number in pictures:
        buffer.add(picture(number), number)
        if number == tick:
            buffer.request(tick - buffer._kept_ticks, last_tick, done)
        passed = threading.Event()
        buffer._worker.put(passed.set)
        assert passed.wait(5)  # the buffer keeps up, as with a camera
    buffer.close(5)
    assert ready.is_set()
    return result


def test_a_clip_reaches_from_before_to_after_the_moment():
    clip = clip_of(ClipBuffer(kept_ticks=5, limit_bytes=10**7), range(30), tick=12, last_tick=20)
    assert [each.tick for each in clip] == list(range(7, 21))
    assert abs(int(clip[0].decode()[0, 0, 0]) - 7) <= 1


def test_a_clip_that_the_end_interrupts_has_what_there_is():
    clip = clip_of(ClipBuffer(kept_ticks=5, limit_bytes=10**7), range(15), tick=12, last_tick=20)
    assert [each.tick for each in clip] == list(range(7, 15))


def test_a_clip_is_recorded_even_if_pictures_come_faster_than_they_are_compressed():
    buffer, clips, hold = ClipBuffer(kept_ticks=5, limit_bytes=10**7), [], threading.Event()
    buffer._worker.append(lambda: hold.wait(5))
    wait_until_idle_queue(buffer)
    buffer.request(0, 20, clips.append)
    for number in range(40):  # more than may wait
        buffer.add(picture(number), number)
    buffer.request(0, 30, clips.append)
    threading.Timer(0.1, hold.set).start()
    buffer.close(5)
    assert len(clips) == 2
    assert buffer.dropped == 40 - (_WAITING_PICTURES - 1)  # beside the first request


def wait_until_idle_queue(buffer: ClipBuffer) -> None:
    wait_until(lambda: not buffer._worker._queue)


def test_memory_is_bounded_by_bytes_too():
    size = stored(0, picture(0)).jpeg.nbytes
    clip = clip_of(ClipBuffer(kept_ticks=100, limit_bytes=4 * size + 100), range(40), tick=30, last_tick=31)
    assert 3 <= len([each for each in clip if each.tick <= 30]) <= 5


def see(buffer: ClipBuffer, ticks: range) -> None:
    """Add the same picture at each of `ticks`, as fast as the buffer takes them."""
    for tick in ticks:
        buffer.add(picture(0), tick)
        wait_until_idle_queue(buffer)


def test_a_clip_of_any_length_takes_limited_memory_and_so_do_clips_that_are_not_written_yet():
    size = stored(0, picture(0)).jpeg.nbytes
    clips: list[list[StoredPicture]] = []
    cut: list[int] = []
    buffer = ClipBuffer(kept_ticks=2, limit_bytes=4 * size, on_cut=lambda: cut.append(len(clips)))
    see(buffer, range(5))
    buffer.request(3, 100_000, clips.append)
    see(buffer, range(5, 100))
    most = 4 * MOST_BUFFERS
    assert [each.tick for each in clips[0]] == list(range(3, 3 + most + 1))
    buffer.request(98, 102, clips.append)
    see(buffer, range(100, 110))
    assert (clips[1], cut) == ([], [0, 1])
    clips.clear()  # they are written
    buffer.request(108, 112, clips.append)
    see(buffer, range(110, 120))
    buffer.close(5)
    assert [each.tick for each in clips[0]] == list(range(108, 113))
    assert cut == [0, 1]


def test_clips_that_overlap_share_their_pictures():
    size = stored(0, picture(0)).jpeg.nbytes
    clips: list[list[StoredPicture]] = []
    buffer = ClipBuffer(kept_ticks=2, limit_bytes=4 * size)
    for tick in range(20):
        buffer.request(tick - 2, tick + 20, clips.append)
        see(buffer, range(tick, tick + 1))
    buffer.close(5)
    assert len(clips) == 20
    assert max(map(len, clips)) == 20


def test_files_are_saved_and_the_clip_plays(tmp_path):
    files = archive(tmp_path).save(NAME, [stored(tick, picture(10 * tick, (65, 49))) for tick in (3, 4, 6)], picture(9))
    with av.open(files.clip) as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time, 3) for frame in frames] == [0, 0.1, 0.3]
    assert (frames[0].width, frames[0].height) == (64, 48)  # H.264 needs even sizes
    assert cv2.imread(files.picture).shape == (48, 64, 3)


@pytest.mark.parametrize(("size_wh", "expected"), [((1, 1), (2, 2)), ((1, 40), (2, 40)), ((41, 1), (40, 2))])
def test_a_clip_of_pictures_of_one_row_or_column_plays(size_wh, expected, tmp_path):
    files = archive(tmp_path).save(NAME, [stored(tick, picture(10 * tick, size_wh)) for tick in range(3)], None)
    with av.open(files.clip) as container:
        assert [(frame.width, frame.height) for frame in container.decode(video=0)] == [expected] * 3


def test_pictures_that_no_video_can_hold_are_an_event(tmp_path):
    wide = archive(tmp_path)
    assert wide.save(NAME, [stored(0, picture(0, (20000, 16)))], picture(9)).clip is None
    assert wide.events.counts == {"alarm_not_saved": 1}
    assert "does not take pictures of 20000x16 pixels" in wide.events.messages[0]


def test_a_picture_that_jpeg_cannot_hold_is_left_out():
    buffer, clips = ClipBuffer(kept_ticks=5, limit_bytes=10**7), []
    buffer.request(0, 5, clips.append)
    buffer.add(np.zeros((2, 70000), np.uint8), 0)
    buffer.close(5)
    assert clips == [[]]


def test_a_size_that_changes_ends_the_clip(tmp_path):
    files = archive(tmp_path).save(NAME, [stored(0, picture(1)), stored(1, picture(2)), stored(2, picture(3, (32, 32)))], None)
    with av.open(files.clip) as container:
        assert len(list(container.decode(video=0))) == 2
    assert files.picture is None


def test_the_oldest_files_are_removed_and_never_others(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"x" * 5000)
    for number in range(4):
        (tmp_path / f"alarm-2026010{number + 1}T000000.000Z-00000{number}.mp4").write_bytes(b"x" * 1000)
    archive(tmp_path, limit_bytes=2500).save(NAME.replace("20260102", "20260109"), [], picture(1))
    left = sorted(path.name[:14] for path in tmp_path.iterdir())
    assert left == ["alarm-20260103", "alarm-20260104", "alarm-20260109", "holiday.mp4"]


def test_with_a_clock_that_is_behind_the_names_the_oldest_alarms_are_removed(tmp_path):
    """As on a board without a battery, where it is 1970 until the time comes over the network."""
    for day in (1, 2):
        (tmp_path / f"alarm-2026010{day}T000000.000Z-000001.mp4").write_bytes(b"x" * 1000)
    size = len(cv2.imencode(".png", picture(1))[1])
    behind = archive(tmp_path, limit_bytes=2 * size)
    for number in range(1, 4):
        behind.save(f"alarm-19700101T00000{number}.000Z-00000{number}", [], picture(1))
    assert sorted(path.name[6:21] for path in tmp_path.iterdir()) == ["19700101T000002", "19700101T000003"]


def test_alarms_of_earlier_runs_are_removed_by_their_numbers_whatever_the_clock_said(tmp_path):
    """It was ahead for a while, then behind, then right."""
    stamps = ["20260101T000000.000Z", "20360101T000000.000Z", "19700101T000000.000Z", "20260102T000000.000Z"]
    for number, stamp in enumerate(stamps, 1):
        (tmp_path / f"alarm-{stamp}-{number:06d}.mp4").write_bytes(b"x" * 1000)
    files = LimitedFiles(tmp_path, OWN_NAME, 4000)
    for left in (stamps[1:], stamps[2:], stamps[3:], []):
        files.make_room(4000 - 1000 * len(left))
        assert sorted(path.name[6:26] for path in tmp_path.iterdir()) == sorted(left)


def test_numbers_that_several_alarms_have_tell_no_order(tmp_path):
    """Runs of earlier versions without --events began at 1 anew."""
    names = ["20250101T000001.000Z-000001", "20250101T000002.000Z-000002", "20250101T000003.000Z-000003",
             "20260101T000001.000Z-000001", "20260101T000002.000Z-000002", "20260101T000003.000Z-000004"]  # fmt: skip
    for name in names:
        (tmp_path / f"alarm-{name}.mp4").write_bytes(b"x" * 1000)
    files = LimitedFiles(tmp_path, OWN_NAME, 6000)
    for count in range(1, 7):
        files.make_room(1000 * count)
        assert {path.stem[6:] for path in tmp_path.iterdir()} == set(names[count:])


def test_an_alarm_is_removed_with_all_of_its_files(tmp_path):
    kept = archive(tmp_path, limit_bytes=10**9)
    kept.save(NAME, [stored(0, picture(1))], picture(1))
    limit_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())  # the clip of the next one is as large
    archive(tmp_path, limit_bytes).save(NAME.replace("000001", "000002"), [stored(0, picture(1))], None)
    assert [path.stem[-1] for path in tmp_path.iterdir()] == ["2"]


def test_two_processes_do_not_save_alarms_in_one_folder(tmp_path):
    late = archive(tmp_path / "later")
    (tmp_path / "later").mkdir()
    with held_by_another_process(tmp_path / "later"):
        assert late.save(NAME, [], picture(1)).picture is None
    assert "another process writes to it" in late.events.messages[0]


def test_an_old_file_that_cannot_be_removed_is_an_event_of_its_own(tmp_path):
    old = tmp_path / "alarm-20260101T000000.000Z-000001.mp4"
    old.write_bytes(b"x")
    small = archive(tmp_path, limit_bytes=1)
    old.unlink()
    old.mkdir()
    assert small.save(NAME, [], picture(1)).picture is not None
    assert small.events.counts == {"alarm_not_removed": 1}
    assert small.events.messages[0].startswith("an alarm was not removed: ")


def test_the_newest_alarm_stays_even_beyond_the_limit(tmp_path):
    files = archive(tmp_path, limit_bytes=1).save(NAME, [stored(0, picture(1))], picture(1))
    assert Path(files.clip).is_file()
    assert Path(files.picture).is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_event(tmp_path):
    full = archive(tmp_path, events_file=Path("/dev/full"))
    full.append(record())
    assert full.events.counts == {"alarm_not_saved": 1}
    assert "No space left" in full.events.messages[0]


def test_a_folder_that_is_gone_and_cannot_be_made_is_an_event(tmp_path):
    (tmp_path / "file").write_text("")
    broken = archive(tmp_path / "file" / "folder")
    files = broken.save(NAME, [stored(0, picture(1))], picture(1))
    assert files.clip is None
    assert files.picture is None
    assert broken.events.counts == {"alarm_not_saved": 2}


def test_a_line_per_record_that_reads_back(tmp_path):
    file = tmp_path / "new" / "events.jsonl"
    kept = archive(None, events_file=file)
    kept.append(record(1))
    with file.open("a") as half:
        half.write('{"schema": "svg-edge/al')  # a loss of power
    kept.append(record(2, duration_s=1.2))
    first, broken, second = file.read_text().splitlines()
    assert broken == '{"schema": "svg-edge/al'
    assert AlarmRecord.model_validate_json(first) == record(1)
    fields = json.loads(second)
    assert fields["schema"] == "svg-edge/alarm/1"
    assert fields["start"] == "2026-01-02T03:04:05Z"
    assert datetime.fromisoformat(fields["start"].replace("Z", "+00:00")).utcoffset() is not None


def test_a_pipe_takes_records_too(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    kept = archive(None, events_file=pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
        kept.append(record(1))
        assert AlarmRecord.model_validate_json(reader.readline()) == record(1)


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        _append_line(tmp_path / "pipe", "{}")


def test_names_that_are_no_text_are_written_as_escapes():
    named = AlarmRecord.model_validate({**record(1).model_dump(by_alias=True), "source": "bad\udcff.mp4"})
    assert json.loads(named.to_json())["source"] == "bad\\udcff.mp4"


def test_a_record_needs_a_time_zone():
    with pytest.raises(ValidationError, match="timezone"):
        AlarmRecord(**{**record().model_dump(by_alias=True), "start": datetime(2026, 1, 2)})


@pytest.mark.parametrize("channels", [1, 3])
def test_expected_and_real_lie_side_by_side(channels):
    dark, light = np.zeros((64, 96, channels), np.float32), np.ones((64, 96, channels), np.float32)
    canvas = compare_frames(dark, light, "alarm 1 " + "long " * 200)
    height, width = canvas.shape[:2]
    row = canvas[height // 2]
    assert row[width // 6].max() == 0
    assert row[width // 2].min() == 255
    assert row[5 * width // 6].max() > 200  # the brightest colour of the difference
