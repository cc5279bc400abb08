"""Pictures that are rotated and mirrored, files that begin anew, and what of it is counted."""

from __future__ import annotations

import re
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_common.video.reader import VideoError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import SourceOptions, Turn, open_source
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.stop import StopRequest
from tests.svg_runtime.live.live_helpers import frame_numbers, write_video

CORNERS = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)  # 2 rows, 3 columns


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(90), [[4, 1], [5, 2], [6, 3]]),
        (Turn(180), [[6, 5, 4], [3, 2, 1]]),
        (Turn(270), [[3, 6], [2, 5], [1, 4]]),
        (Turn(flip="horizontal"), [[3, 2, 1], [6, 5, 4]]),
        (Turn(flip="vertical"), [[4, 5, 6], [1, 2, 3]]),
        (Turn(90, "horizontal"), [[1, 4], [2, 5], [3, 6]]),  # rotated first
    ],
)
def test_turns(turn, expected):
    assert turn.apply(CORNERS).tolist() == expected
    colour = np.repeat(CORNERS[:, :, None], 3, 2)
    assert turn.apply(colour)[..., 1].tolist() == expected


@pytest.mark.parametrize("turn", [(45, None), (0, "diagonal")])
def test_other_turns_are_refused(turn):
    with pytest.raises(UsageError, match="expected 90, 180 or 270"):
        Turn(*turn)


def test_every_source_is_turned_and_keeps_its_counts():
    plain = open_source(SourceOptions(seed=3), 0.1, 64, StopRequest(), EventLog())
    turned = open_source(SourceOptions(seed=3, turn=Turn(90)), 0.1, 64, StopRequest(), EventLog())
    for before, after in islice(zip(plain.frames(), turned.frames(), strict=False), 5):
        assert np.array_equal(np.rot90(before.image, -1), after.image)
        assert (before.tick, before.clip) == (after.tick, after.clip)
    assert (turned.captured, turned.dropped, turned.name) == (plain.captured, plain.dropped, plain.name)
    turned.close()


def test_a_looped_file_begins_anew_with_a_new_clip_and_goes_on_in_time(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=4, brightness_code=True)
    frames = list(islice(FileSource(path, 0.1, StopRequest(), EventLog(), loop=True).frames(), 10))
    assert frame_numbers([frame.image for frame in frames]) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [frame.clip for frame in frames] == [0] * 4 + [1] * 4 + [2] * 2
    assert [frame.again for frame in frames] == [n in (4, 8) for n in range(10)]
    assert [frame.tick for frame in frames] == list(range(10))


def test_a_looped_file_that_vanishes_is_an_error_with_the_reason(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=4)
    events = EventLog()
    frames = FileSource(path, 0.1, StopRequest(), events, loop=True).frames()
    next(frames)
    Path(path).unlink()
    given = []
    with pytest.raises(VideoError, match=r"no frame of '.*a\.mp4' can be read any longer:\n  .*No such file"):
        given.extend(frames)
    assert events.counts == {"unreadable_file": 1}


def test_closing_ends_the_thread_that_reads_though_the_iterator_lives_on(tmp_path):
    """As in the traceback of an error."""
    source = FileSource(write_video(tmp_path / "a.mp4", frames=9), 0.1, StopRequest(), EventLog())
    frames = source.frames()
    next(frames)
    assert "reading ahead" in {thread.name for thread in threading.enumerate()}
    source.close()
    source.close()
    assert "reading ahead" not in {thread.name for thread in threading.enumerate()}
    assert list(frames) == []


def test_held_pictures_of_a_file_are_marked(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=7, times_s=[0, 0.1, 0.2, 0.7, 0.8, 36000.8, 36000.9])
    frames = list(FileSource(path, 0.1, StopRequest(), EventLog()).frames())
    assert [frame.held for frame in frames] == [False] * 3 + [True, True] + [False, True, True] + [False] * 3


def test_a_looped_run_is_counted_and_ends_when_it_is_told_to(svg_live, tmp_path):
    times_s = [0.1 * n for n in range(5)] + [0.8, 5.0, 5.1, 5.2]
    write_video(tmp_path / "a.mp4", frames=9, times_s=times_s)
    once = svg_live("--source", "a.mp4", "--headless", "--json", "stats.json", "--horizon", "1")[2]
    assert (once["frames"]["seen"], once["frames"]["held"], once["pauses"]) == (12, 3, 1)
    code, stderr, stats = svg_live(
        "--source", "a.mp4", "--headless", "--json", "stats.json", "--horizon", "1", "--loop", "--max-frames", "36"
    )
    assert code == 0, stderr
    assert stats["events"]["counts"] == {"pause": 3, "loop": 2}
    assert (stats["frames"]["held"], stats["pauses"], stats["resets"]) == (9, 3, 5)
    assert "a.mp4 begins anew; the context is reset" in stderr


def test_a_loop_too_short_for_a_forecast_is_said_once(svg_live, tmp_path):
    """The tiny model needs three pictures. Of several clips the longest counts, and a pause ends one."""
    loop = ("--headless", "--json", "stats.json", "--horizon", "1", "--loop", "--max-frames", "12")
    write_video(tmp_path / "one.mp4", frames=1)
    write_video(tmp_path / "slow.mp4", frames=2, fps=5)
    write_video(tmp_path / "paused.mp4", frames=4, times_s=[0, 0.1, 5.0, 5.1])
    for name, said in (("one", "1 picture in a row, one every 0.1 s"), ("slow", "2 pictures in a row, one every 0.2 s"),
                       ("paused", "2 pictures in a row, one every 0.1 s")):  # fmt: skip
        code, stderr, stats = svg_live("--source", f"{name}.mp4", *loop)
        assert code == 0, stderr
        assert stats["frames"]["forecast"] == 0
        assert stats["events"]["counts"]["short_loop"] == 1
        assert stderr.count(f"{name}.mp4 has {said}, and the model needs 3 before its first forecast: there will be none") == 1
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", frames=1)
    write_video(tmp_path / "clips" / "b.mp4", frames=3)
    code, stderr, stats = svg_live("--source", "clips", *loop)
    assert (code, stats["frames"]["forecast"] > 0, "short_loop" in stats["events"]["counts"]) == (0, True, False), stderr


def test_looping_without_an_end_or_an_output_is_refused(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=3)
    code, stderr, _ = svg_live("--source", "a.mp4", "--headless", "--loop")
    assert (code, "would run forever" in stderr) == (ExitCode.USAGE, True)
    for source in (["--camera", "0"], ["--source", "rtsp://host/x"], []):
        code, stderr, _ = svg_live(*source, "--headless", "--loop", "--max-frames", "2")
        assert (code, "--loop applies to files" in stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("loop = true", r"--loop applies .*, not to rtsp://10\.0\.0\.5\n.* in a file of options it is loop"),
        ("camera_fps = 30.0", r"not to rtsp://10\.0\.0\.5\n.* in a file of options they are camera_size and camera_fps"),
    ],
)
def test_of_several_cameras_the_one_with_a_key_that_does_not_apply_is_named(svg_live, tmp_path, key, expected):
    tables = ["[cameras.gate]", 'source = "rtsp://viewer:s3cret@10.0.0.5/x"', key, "[cameras.yard]", 'source = "udp://:1"']
    (tmp_path / "live.toml").write_text("\n".join(tables))
    (tmp_path / "live.toml").chmod(0o600)
    code, stderr, _ = svg_live("--config", "live.toml", "--headless", "--max-frames", "2")
    assert code == ExitCode.USAGE
    assert re.search(expected, stderr), stderr
    assert "s3cret" not in stderr


def test_a_covered_lens_is_counted_and_said(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=12, brightness_code=True)  # each picture is of one colour
    code, stderr, stats = svg_live("--source", "a.mp4", "--headless", "--json", "stats.json", "--output", "o.mp4")
    assert code == 0, stderr
    assert stats["frames"]["blank"] == 12
    assert stats["events"]["counts"]["blank_picture"] == 1
    assert "the picture is of one colour" in stderr
    assert "12 blank" in stderr
