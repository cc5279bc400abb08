"""Recordings: readable after a kill, bounded, never at the cost of anybody else's file, and unimpressed by a full disk."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_runtime.bundle.reader import Bundle
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs import retrying
from svg_runtime.live.outputs.bounded_folder import BoundedFolder
from svg_runtime.live.outputs.forecasts import ForecastRecorder
from svg_runtime.live.outputs.fragmented_mp4 import FragmentedMp4
from svg_runtime.live.outputs.recording_options import RecordingOptions, recording_options
from svg_runtime.live.outputs.retrying import Retrying
from svg_runtime.live.outputs.segments import SegmentRecorder
from svg_runtime.live.overlay import View
from tests.command_runner import HANG_S
from tests.file_size import limit_file_size
from tests.svg_runtime.live.live_helpers import (
    FFMPEG_STEPS,
    fail_in_ffmpeg,
    frame_numbers,
    read_pictures,
    read_times,
    write_video,
)

NOON = datetime(2026, 10, 25, 12, tzinfo=timezone.utc)


def view_at(tick: int, picture: np.ndarray | None = None, futures: np.ndarray | None = None) -> View:
    picture = np.random.default_rng(tick).integers(0, 255, (90, 120, 3), np.uint8) if picture is None else picture
    return View(picture, futures, tick=tick, time=NOON + timedelta(seconds=0.1 * tick), number=tick, step_s=0.1)


def segments(folder: Path, what: str = "camera", limit: int = 10**9, segment_s: float = 2.0) -> SegmentRecorder:
    return SegmentRecorder(folder=folder, interval_s=0.1, segment_s=segment_s, limit_bytes=limit, what=what)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_but_the_last_second_can_be_read_after_a_kill(tiny_bundle, tmp_path):
    """A forecast is saved for every picture from the third on, so that their number tells how far the run had come."""
    small = ["--headless", "--threads", "1", "--samples", "2", "--horizon", "2"]
    recorded = ["--save-forecasts", "raw", "--record", "rec", "--record-segment", "4s"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from svg_runtime.live.cli import main; main()", "--model", str(tiny_bundle), *small,
         *recorded],
        cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "raw").is_dir() or len(list((tmp_path / "raw").iterdir())) < 66:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    forecasts = sorted((tmp_path / "raw").glob("svg-live-*.npz"))
    seen = 3 + int(np.load(forecasts[-2])["frame"]) - 2
    videos = [read_times(path) for path in sorted((tmp_path / "rec").iterdir())]
    assert videos[0] == pytest.approx([0.1 * n for n in range(40)])
    assert sum(map(len, videos)) >= seen - 10
    assert all(np.isfinite(np.load(path)["futures"]).all() for path in forecasts)


def test_the_display_and_the_sources_own_pictures_are_recorded(svg_live, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=12, brightness_code=True)
    source = ["--source", "clip.mp4", "--headless", "--json", "stats.json"]
    code, stderr, stats = svg_live(*source, "--record", "cam", "--record-what", "camera")
    assert code == 0, stderr
    assert stats["recorded"] == [{"folder": "cam", "segments": 1, "pictures": 12, "lost": 0}]
    assert "overlay" not in stats["latency_ms"]
    assert frame_numbers(read_pictures(next((tmp_path / "cam").iterdir()))) == list(range(12))
    code, stderr, stats = svg_live(*source, "--record", "shown")
    assert code == 0, stderr
    assert read_pictures(next((tmp_path / "shown").iterdir()))[0].shape == (720, 1280, 3)
    assert "1 segment, 12 pictures: shown" in stderr


def test_forecasts_are_saved_with_their_frame_time_and_model(svg_live, tiny_bundle, tmp_path):
    code, stderr, stats = svg_live(
        "--headless", "--max-frames", "6", "--samples", "3", "--horizon", "4", "--save-forecasts", "raw",
        "--forecast-dtype", "float32", "--json", "stats.json",
    )  # fmt: skip
    assert code == 0, stderr
    files = sorted((tmp_path / "raw").iterdir())
    assert len(files) == stats["frames"]["forecast"] == stats["recorded"][0]["forecasts"] == 4
    for number, file in enumerate(files, 2):
        saved = np.load(file)
        assert (saved["futures"].shape, saved["futures"].dtype) == ((3, 4, 64, 64, 1), np.float32)
        assert (int(saved["frame"]), int(saved["tick"])) == (number, number)
        assert saved["lead_s"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
        assert str(saved["bundle_id"]) == Bundle.open(tiny_bundle).manifest.bundle_id
        stamp = datetime.fromisoformat(str(saved["time"]))
        assert stamp.utcoffset() == timedelta(0)
        assert abs((datetime.now(timezone.utc) - stamp).total_seconds()) < 60
        assert f"{stamp:%Y%m%dT%H%M%S}" in file.name


def test_segments_are_cut_by_time_by_size_and_where_the_picture_changes(tmp_path):
    recorder = segments(tmp_path)
    for tick in range(50):
        recorder.record(view_at(tick), None)
    recorder.record(view_at(50, np.zeros((64, 65), np.uint8)), None)  # gray, and of another size, which is odd
    recorder.record(view_at(900, np.zeros((64, 65), np.uint8)), None)  # after a pause
    recorder.close()
    found = names(tmp_path)
    assert found[0] == "svg-live-20261025T120000.000Z-000001.mp4"
    assert found[1] == "svg-live-20261025T120002.000Z-000002.mp4"
    assert [len(read_times(tmp_path / name)) for name in found] == [20, 20, 10, 1, 1]
    assert read_pictures(tmp_path / found[3])[0].shape == (64, 64, 3)
    small = segments(tmp_path / "small", limit=1_000_000, segment_s=600)
    for tick in range(40):
        small.record(view_at(tick), None)
    small.close()
    assert len(names(tmp_path / "small")) > 1


@pytest.mark.parametrize(
    ("size_hw", "shape"), [((1, 1), (2, 2, 3)), ((1, 41), (2, 40, 3)), ((40, 1), (40, 2, 3)), ((3, 3), (2, 2, 3))]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_pictures_of_any_sides_are_recorded(size_hw, shape, channels, tmp_path):
    recorder = segments(tmp_path)
    for tick in range(5):
        recorder.record(view_at(tick, np.full((*size_hw, *channels), 40 * tick, np.uint8)), None)
    recorder.close()
    pictures = read_pictures(tmp_path / names(tmp_path)[0])
    assert [picture.shape for picture in pictures] == [shape] * 5
    assert np.allclose([picture.mean() for picture in pictures], [0, 40, 80, 120, 160], atol=4)


def test_a_relative_folder_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    """FFmpeg takes what is before it for a protocol."""
    monkeypatch.chdir(tmp_path)
    recorder = segments(Path("rec-10:30"))
    recorder.record(view_at(0), None)
    recorder.close()
    assert len(read_times(tmp_path / "rec-10:30" / names(Path("rec-10:30"))[0])) == 1


@pytest.mark.parametrize("step", FFMPEG_STEPS)
def test_whatever_ffmpeg_fails_with_is_counted_as_lost(tmp_path, monkeypatch, step):
    fail_in_ffmpeg(monkeypatch, step)
    events = EventLog()
    recorder = Retrying(segments(tmp_path), "--record", events)
    recorder.record(view_at(0), None)
    recorder.close()
    assert events.messages[0] == "--record: cannot be written: Cannot allocate memory; tried again every 10 s"


def test_pictures_that_no_video_can_hold_are_counted_as_lost(tmp_path):
    events = EventLog()
    recorder = Retrying(segments(tmp_path), "--record", events)
    recorder.record(view_at(0, np.zeros((16, 20000), np.uint8)), None)
    recorder.close()
    assert recorder.summary()["lost"] == 1
    assert events.messages == [
        "--record: cannot be written: the H.264 encoder does not take pictures of 20000x16 pixels; tried again every 10 s"
    ]


def test_the_oldest_give_way_and_nothing_else_does(tmp_path):
    own_name = "svg-live-20200101T000000.000Z.mp4"  # of an earlier run
    others = [f"{own_name}.txt", "2020.mp4", "svg-live-holiday.mp4", f"copy of {own_name}"]
    for name in others:
        (tmp_path / name).write_bytes(bytes(300_000))
    (tmp_path / own_name).write_bytes(bytes(300_000))
    recorder = segments(tmp_path, limit=500_000, segment_s=1.0)
    for tick in range(200):
        recorder.record(view_at(tick), None)
        own = [path for path in tmp_path.iterdir() if path.name not in others]
        assert sum(path.stat().st_size for path in own) <= 500_000
    recorder.close()
    kept = [name for name in names(tmp_path) if name not in others]
    assert set(others) < set(names(tmp_path))
    assert len(kept) > 2
    assert own_name not in kept
    assert kept[-1] > "svg-live-20261025T120018"


def test_the_limit_holds_after_every_segment(tmp_path):
    """A picture is 10 kB: six segments exceed the limit, and room is made for one of a tenth of it."""
    recorder = segments(tmp_path, limit=58_000)
    for tick in range(20):
        recorder.record(view_at(tick), None)
        recorder.close()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 58_000
    assert len(names(tmp_path)) == 5


def test_two_files_of_one_moment_have_two_names_and_unfinished_ones_are_removed(tmp_path):
    (tmp_path / ".svg-live-20200101T000000.000Z.npz").write_bytes(b"unfinished")
    (tmp_path / ".other.npz").write_bytes(b"not ours")
    recorder = ForecastRecorder(tmp_path, limit_bytes=10**6, bundle_id="b", dtype="float16")
    for _ in range(2):
        recorder.record(view_at(0, futures=np.zeros((1, 2, 4, 4, 1), np.float32)), None)
    stamp = "svg-live-20261025T120000.000Z"
    assert names(tmp_path) == [".other.npz", f"{stamp}-000001.npz", f"{stamp}-000002.npz"]
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    new = BoundedFolder(tmp_path / "new", ".mp4", limit_bytes=1).new_file(elsewhere)
    assert new.name == f"{stamp}-000001.mp4"


def test_after_a_restart_the_oldest_give_way_whatever_the_clock_said(tmp_path):
    """It was ahead for a while, then behind, then right; an earlier version gave no numbers."""
    (tmp_path / "svg-live-20261025T110000.000Z.npz").write_bytes(bytes(1000))
    years = [2026, 2036, 1970, 2026]
    for number, year in enumerate(years):
        run = BoundedFolder(tmp_path, ".npz", limit_bytes=5000)  # a run each
        path = run.new_file(NOON.replace(year=year) + timedelta(seconds=number))
        path.write_bytes(bytes(1000))
        run.add(path)
    after = BoundedFolder(tmp_path, ".npz", limit_bytes=5000)
    assert after.new_file(NOON).name.endswith("-000005.npz")
    for left in (years, years[1:], years[2:], years[3:], []):
        after.make_room(5000 - 1000 * len(left))
        assert sorted(int(name[9:13]) for name in names(tmp_path)) == sorted(left)


def test_where_a_card_is_mounted_its_own_files_count(tmp_path):
    """It is mounted late, taken out and put in again. Another folder in its place stands for it."""
    place, under, card = tmp_path / "rec", tmp_path / "under", tmp_path / "card"
    card.mkdir()
    for number in (98, 99, 100):
        (card / f"svg-live-20260101T000000.000Z-{number:06d}.npz").write_bytes(bytes(1000))
    files = BoundedFolder(place, ".npz", limit_bytes=3000)

    def numbers_after(more: int) -> list[int]:
        for _ in range(more):
            files.make_room(1000)
            path = files.new_file(NOON)
            path.write_bytes(bytes(1000))
            files.add(path)
        return [int(name[-10:-4]) for name in names(place)]

    assert numbers_after(1) == [1]
    place.rename(under)
    card.rename(place)
    assert numbers_after(1) == [99, 100, 101]
    place.rename(card)
    under.rename(place)
    assert numbers_after(3) == [102, 103, 104]
    place.rename(under)
    card.rename(place)
    assert numbers_after(1) == [100, 101, 105]


def test_a_folder_that_is_removed_is_counted_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "RETRY_S", 0.05)
    events = EventLog()
    recorder = Retrying(segments(tmp_path / "rec", segment_s=60), "--record", events)
    for tick in range(10):
        recorder.record(view_at(tick), None)
    shutil.rmtree(tmp_path / "rec")
    for tick in range(10, 13):
        recorder.record(view_at(tick), None)
    time.sleep(0.06)
    for tick in range(13, 20):
        recorder.record(view_at(tick), None)
    recorder.close()
    assert events.counts == {"record_failed": 1, "record_again": 1}
    assert recorder.summary()["lost"] == 13  # with those of the segment that is gone
    assert [len(read_times(path)) for path in (tmp_path / "rec").iterdir()] == [7]


@pytest.mark.parametrize(("more", "made_anew", "kept"), [(0, False, 0), (2, True, 2)])
def test_pictures_of_a_segment_that_was_removed_are_lost(tmp_path, monkeypatch, more, made_anew, kept):
    """Only the last picture of it is known to be lost at once: those before it had been written."""
    monkeypatch.setattr(retrying, "RETRY_S", 0.0)
    events = EventLog()
    recorder = Retrying(segments(tmp_path / "rec", segment_s=60), "--record", events)
    for tick in range(10):
        recorder.record(view_at(tick), None)
    shutil.rmtree(tmp_path / "rec")
    for tick in range(10, 11 + more):
        recorder.record(view_at(tick), None)
    recorder.close()
    summary = recorder.summary()
    assert (summary["segments"], summary["pictures"], summary["lost"]) == (int(made_anew), kept, 11)
    assert [len(read_times(path)) for path in (tmp_path / "rec").glob("*")] == [kept] * made_anew


def test_a_full_disk_ends_no_run_and_what_was_written_can_be_read(tiny_bundle, tmp_path):
    """The kernel refuses to let a file grow over the limit, as a full disk does."""
    limited = "from tests.file_size import limit_file_size; limit_file_size(5_000); "
    arguments = ["--model", str(tiny_bundle), "--headless", "--max-frames", "90", "--record", "rec", "--record-what", "camera"]
    run = subprocess.run(
        [sys.executable, "-c", f"{limited}from svg_runtime.live.cli import main; main()", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert re.search(r"--record: cannot be written: .*; tried again every 10 s", run.stderr)
    counted = re.search(r"recorded: \d segments?, (\d+) pictures, (\d+) lost", run.stderr)
    pictures = sum(len(read_times(video)) for video in (tmp_path / "rec").iterdir())
    assert pictures > 5
    assert (int(counted[1]), int(counted[1]) + int(counted[2])) == (pictures, 90)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (["--record"], "svg-live-20250101T000000.000Z-000001.mp4"),
        (["--save-forecasts"], "svg-live-20250101T000000.000Z-000001.npz"),
        (["--alarm", "--alarm-dir"], "alarm-20250101T000000.000Z-1.mp4"),
    ],
)
def test_what_an_earlier_run_recorded_is_not_replaced(svg_live, tmp_path, folder, name):
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / name
    old.write_bytes(b"\0\0\0 of an earlier run")
    short = ("--headless", "--samples", "2", "--horizon", "2", "--max-frames", "3", *folder, "old")
    output = [["--output", f"old/{name}"]] if name.endswith(".mp4") else []
    for option in (["--json", f"old/{name}"], ["--alarm", "--events", f"old/{name}"], *output):
        code, stderr, _ = svg_live(*short, *option)
        assert (code, f"would overwrite 'old/{name}', a file in the folder of {folder[-1]}" in stderr) == (2, True), stderr
    assert old.read_bytes() == b"\0\0\0 of an earlier run"
    for _ in range(2):  # the second one adds to the events
        code, stderr, _ = svg_live(*short, "--json", "old/stats.json", "--alarm", "--events", "old/events.log")
        assert code == 0, stderr
        (tmp_path / "old" / "events.log").write_text("{}\n")


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        (["--record", "rec"], 0, ""),
        (["--save-forecasts", "raw"], 0, ""),
        (["--alarm", "--alarm-dir", "alarms"], 0, ""),
        (["--alarm", "--events", "events.jsonl"], 0, ""),
        (["--output", "out.mp4"], 1, "error: cannot write 'out.mp4': No space left on device\n"),
        (["--json", "out.json"], 1, "error: cannot write 'out.json': No space left on device\n"),
    ],
)
def test_a_disk_that_is_full_at_the_start_refuses_only_what_is_not_tried_again(svg_live, monkeypatch, output, code, said):
    def refuse(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    got, stderr, _ = svg_live("--headless", "--samples", "2", "--horizon", "2", "--max-frames", "3", *output)
    assert (got, said in stderr) == (code, True), stderr


def test_own_recordings_that_fill_the_disk_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "RETRY_S", 0.0)
    old = tmp_path / "svg-live-20250101T000000.000Z.mp4"
    old.write_bytes(bytes(10**6))
    real = FragmentedMp4.__init__

    def on_a_full_disk(self, *arguments, **named):
        if old.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, *arguments, **named)

    monkeypatch.setattr(FragmentedMp4, "__init__", on_a_full_disk)
    events = EventLog()
    recorder = Retrying(segments(tmp_path, limit=10**6), "--record", events)
    for tick in range(10):
        recorder.record(view_at(tick), None)
    recorder.close()
    assert events.counts == {}
    assert recorder.summary()["pictures"] == 10


def _record_until_the_disk_is_full(folder: str, limits: str) -> None:
    """Runs in a process of its own: after ten pictures, the disk has so many bytes more."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for more in map(int, limits.split(",")):
        recorder = Retrying(segments(Path(folder) / str(more), segment_s=60), "--record", EventLog())
        for tick in range(20):
            if tick == 10:
                size = next((Path(folder) / str(more)).iterdir()).stat().st_size
                limit_file_size(size + more)
            recorder.record(view_at(tick), None)
        recorder.close()
        limit_file_size(resource.RLIM_INFINITY)
        print(more, recorder.summary()["pictures"], recorder.summary()["lost"])


def test_wherever_the_disk_is_full_the_rest_plays_to_its_end_and_is_counted(tmp_path):
    """Within a fragment, within its index, where only the end of the file is missing, and where nothing is."""
    limits = [0, 3, 50, 104, 200, 5_000, 20_000, 50_400, 10**9]
    code = "import sys; from tests.svg_runtime.live import test_recording as t; t._record_until_the_disk_is_full(*sys.argv[1:])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), ",".join(map(str, limits))],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert [more for more, *_ in found] == limits
    for more, pictures, lost in found:
        assert pictures == len(read_times(next((tmp_path / str(more)).iterdir())))
        assert pictures + lost == 20
    assert found[0][2] > found[-2][2] > 0 == found[-1][2]


def test_what_a_full_disk_leaves_without_an_error_is_cut_and_counted(tmp_path, monkeypatch):
    """The last fragment is written when the file is closed, which reports nothing."""
    recorder = segments(tmp_path, segment_s=60)
    for tick in range(10):
        recorder.record(view_at(tick), None)
    real = FragmentedMp4.close

    def close(self: FragmentedMp4) -> None:
        real(self)
        os.truncate(self.path, self.path.stat().st_size - 400)  # the index at the end, and some of the last fragment

    monkeypatch.setattr(FragmentedMp4, "close", close)
    recorder.close()
    assert recorder.summary()["pictures"] == len(read_times(tmp_path / names(tmp_path)[0])) == 9
    assert recorder.summary()["lost"] == 1


def _record_on_a_full_disk(folder: str, limit: str) -> None:
    """Runs in a process of its own: no file may grow over the limit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit_file_size(int(limit))
    recorder, failures = segments(Path(folder)), 0
    for tick in range(10):
        try:
            recorder.record(view_at(tick), None)
        except OSError:
            failures += 1
            with suppress(OSError):
                recorder.close()
    print(failures, recorder.summary()["segments"])


def _record_until_there_is_room(folder: str) -> None:
    """Runs in a process of its own: at first no file may grow over its index and the start of a fragment."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    retrying.RETRY_S = 0.0
    events = EventLog()
    recorder = Retrying(segments(Path(folder), segment_s=60), "--record", events)
    for limit in (2_000, resource.RLIM_INFINITY):
        limit_file_size(limit)
        for tick in range(20):
            recorder.record(view_at(tick), None)
        print(events.counts["record_failed"] > 1, events.counts["record_again"])
    recorder.close()


def test_a_disk_that_stays_full_is_not_announced_as_writable(tmp_path):
    """The first pictures of a segment are in memory, and every attempt takes some before it fails."""
    code = "import sys; from tests.svg_runtime.live.test_recording import _record_until_there_is_room as run; run(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert (run.returncode, run.stdout.split()) == (0, ["True", "0", "True", "1"]), run.stderr


def test_a_moment_without_a_forecast_does_not_say_that_forecasts_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "RETRY_S", 0.0)
    events, futures = EventLog(), np.zeros((1, 2, 8, 8, 1), np.float32)
    forecasts = ForecastRecorder(tmp_path / "raw", limit_bytes=10**6, bundle_id="b", dtype="float16")
    recorder = Retrying(forecasts, "--save-forecasts", events)
    (tmp_path / "raw").touch()  # a file, where no folder can be made
    recorder.record(view_at(0, futures=futures), None)
    recorder.record(view_at(1), None)
    assert events.counts == {"record_failed": 1}
    (tmp_path / "raw").unlink()
    recorder.record(view_at(2, futures=futures), None)
    assert events.counts == {"record_failed": 1, "record_again": 1}
    (tmp_path / "raw").rename(tmp_path / "taken")
    (tmp_path / "raw").touch()
    monkeypatch.setattr(retrying, "RETRY_S", HANG_S)  # from here on, nothing is tried
    for number, found in enumerate((futures, None, futures, None), 3):
        recorder.record(view_at(number, futures=found), None)
    assert recorder.summary()["lost"] == 1 + 2  # a moment without a forecast has nothing to lose


def test_a_full_disk_is_not_strewn_with_videos_without_a_picture(tmp_path):
    """Every attempt opens a new video, whose index does not fit on the disk."""
    code = "import sys; from tests.svg_runtime.live.test_recording import _record_on_a_full_disk as run; run(*sys.argv[1:])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "500"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert (run.returncode, run.stdout.split()) == (0, ["10", "0"]), run.stderr
    assert names(tmp_path) == []


def test_a_forecast_larger_than_the_limit_is_refused_and_removes_nothing(tmp_path):
    recorder = ForecastRecorder(tmp_path, limit_bytes=10_000, bundle_id="b", dtype="float16")
    recorder.record(view_at(0, futures=np.zeros((1, 2, 8, 8, 1), np.float32)), None)
    before = names(tmp_path)
    with pytest.raises(OSError, match=r"a file of 0\.5 MB exceeds the limit of 0\.0 MB"):
        recorder.record(view_at(1, futures=np.zeros((8, 10, 32, 32, 3), np.float32)), None)
    assert names(tmp_path) == before != []


def test_numbered_pictures_are_read_back_with_their_gaps(svg_live, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=6, brightness_code=True)
    code, stderr, _ = svg_live("--source", "clip.mp4", "--headless", "--output", "frames/%04d.png", "--record", "rec")
    assert code == 0, stderr
    assert names(tmp_path / "frames") == [f"{tick:04d}.png" for tick in range(6)]
    assert cv2.imread(str(tmp_path / "frames" / "0003.png")).shape == (720, 1280, 3)
    code, stderr, _ = svg_live("--source", "clip.mp4", "--headless", "--output", "frames/%04d.png")
    assert (code, "would be mixed" in stderr) == (ExitCode.USAGE, True)
    assert "--record DIR goes on in the same folder" in stderr
    code, stderr, _ = svg_live("--source", "clip.mp4", "--headless", "--output", "frames/%d.jpg")
    assert code == 0, stderr
    assert (tmp_path / "frames" / "5.jpg").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"segment": "10"}, "--record-segment: '10' is not a duration"),
        ({"segment": "0.5s"}, "too short"),
        ({"limit": "1MB"}, "--record-limit 1MB is too small for a recording\n  expected at least 10MB"),
        ({"limit": "much"}, "--record-limit: 'much' is not a size"),
        ({"record": None, "what": "camera"}, "--record-what without anything to record"),
        ({"record": None, "limit": "1G"}, "--record-limit without anything to record"),
        ({"dtype": "float32"}, "add --save-forecasts DIR"),
    ],
)
def test_options_that_mean_nothing_are_refused(given, message):
    options = {"record": Path("rec"), "what": None, "segment": None, "limit": None, "forecasts": None, "dtype": None}
    with pytest.raises(UsageError, match=re.escape(message)):
        recording_options(**{**options, **given})


def test_options_are_read():
    options = recording_options(
        record=Path("rec"), what="camera", segment="1h30m", limit="2.5G", forecasts=Path("raw"), dtype="float32"
    )
    assert options == RecordingOptions(Path("rec"), "camera", 5400.0, 2_500_000_000, Path("raw"), 2_500_000_000, "float32")
