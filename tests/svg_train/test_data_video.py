"""Sequences from real video files, written here with PyAV: cache, split, time interval, and bad input."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

from svg_common.errors import SvgError, UsageError
from svg_common.quantities import count_text
from svg_common.video.reader import VideoReader
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.stop import StopRequest
from svg_train.config import build_config
from svg_train.data import open_data, video_cache
from svg_train.data.frame_cache import FrameShape
from svg_train.data.notes import log_once
from svg_train.data.video import split_for
from svg_train.data.video_cache import DecodedVideo
from svg_train.data.video_clips import at_one_interval, describe_cuts
from svg_train.data.video_sampling import regular_runs
from tests.refused import failing_disk, refused

PEDESTRIANS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "video" / "pedestrians.avi"
LENGTH = 6


def _add_stream(container, fps):
    """Lossless if the container supports it."""
    lossless = container.format.name != "mp4"
    stream = container.add_stream("ffv1" if lossless else "mpeg4", rate=fps)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0" if lossless else "yuv420p"
    return stream


def write_video(path: Path, frames: int = 60, fps: int = 10, first: int = 0) -> Path:
    """Frame i is flat gray of level first + 2 i."""
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, fps)
        for i in range(frames):
            image = np.full((64, 96, 3), first + 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def options(tmp_path):
    """Table [data] for videos in tmp_path / "videos", with a cache of its own."""
    (tmp_path / "videos").mkdir()
    return {"name": "video", "root": str(tmp_path / "videos"), "cache": str(tmp_path / "cache")}


def config_of(options, **changes):
    model = {"n_past": 2, "channels": changes.pop("channels", 1)}
    return build_config({"model": model, "train": {"n_future": 4}, "data": {**options, **changes}})


def open_both(options, length=LENGTH, **changes):
    config = config_of(options, **changes)
    return open_data(config, "train", length), open_data(config, "test", length)


def indices(sequence, first=0):
    """Which frames of `write_video` a sequence is made of."""
    return np.round((np.median(sequence, (1, 2, 3)) - first) / 2).astype(int).tolist()


def all_indices(data, first=0):
    return [indices(data[i], first) for i in range(len(data))]


def test_train_takes_every_start_and_test_the_last_part(options):
    write_video(Path(options["root"]) / "a.avi")
    train, test = open_both(options, test_fraction=0.25)
    assert all_indices(train) == [list(range(i, i + LENGTH)) for i in range(45 - LENGTH + 1)]
    seen = all_indices(test)
    assert {i for window in seen for i in window} <= set(range(45, 60))
    assert len({tuple(window) for window in seen}) == len(seen) == 15 - LENGTH + 1  # fewer than 16 without overlap
    assert train[0].shape == (LENGTH, 64, 64, 1)
    assert train[0].dtype == np.uint8
    assert type(train[0]) is np.ndarray
    assert train.frame_interval_s == test.frame_interval_s == pytest.approx(0.1)
    assert train.description == "video: 1 file with 45 train frames (split by time), 0.1 s per step, 40 sequences of 6"


def test_what_a_run_draws_is_no_clip_even_if_its_folder_is_among_them(options):
    root = Path(options["root"])
    write_video(root / "a.avi")
    (root / "strips").mkdir()
    write_video(root / "strips" / "mine.avi")  # a folder of the user, who may call it so
    descriptions = [data.description for data in open_both(options)]
    (root / "run/strips").mkdir(parents=True)
    (root / "run/metrics.jsonl").touch()
    write_video(root / "run/strips/step-0000001.avi")
    assert "2 files" in descriptions[0]
    assert [data.description for data in open_both(options)] == descriptions


@pytest.mark.parametrize("split_by", ["time", "file"])
def test_all_of_a_folder_can_be_test_data_but_nothing_is_left_to_train_on(options, split_by):
    for name in "ab":
        write_video(Path(options["root"]) / f"{name}.avi")
    config = config_of(options, test_fraction=1, split_by=split_by)
    test = open_data(config, "test", LENGTH)
    assert "2 files with 120 test frames" in test.description
    assert [test.clip_source(i).name for i in (0, len(test) - 1)] == ["a.avi", "b.avi"]
    with pytest.raises(UsageError, match="--test-fraction 1 leaves nothing to train on"):
        open_data(config, "train", LENGTH)


def test_test_windows_do_not_overlap_when_there_are_enough(options):
    write_video(Path(options["root"]) / "a.avi", 120)
    _, test = open_both(options, length=3, test_fraction=0.5)
    assert all_indices(test) == [[60 + 3 * i + j for j in range(3)] for i in range(20)]


def test_a_longer_test_sequence_moves_no_frame_into_the_test_part(options):
    write_video(Path(options["root"]) / "a.avi")
    config = config_of(options, test_fraction=0.25)
    train, test = open_data(config, "train", 4), open_data(config, "test", 12)
    assert max(i for window in all_indices(train) for i in window) == 44
    assert min(i for window in all_indices(test) for i in window) == 45


def test_frame_step_and_interval_mean_the_same(options):
    write_video(Path(options["root"]) / "a.avi")
    by_step, _ = open_both(options, test_fraction=0.4, frame_step=3)
    by_time, _ = open_both(options, test_fraction=0.4, frame_interval_s=0.3)
    both, _ = open_both(options, test_fraction=0.4, frame_interval_s=0.3, frame_step=3)
    assert by_step.frame_interval_s == by_time.frame_interval_s == both.frame_interval_s == pytest.approx(0.3)
    assert all_indices(by_step) == all_indices(by_time) == all_indices(both)
    assert all_indices(by_step)[2] == [2, 5, 8, 11, 14, 17]
    assert max(max(window) for window in all_indices(by_step)) == 35


@pytest.mark.parametrize(("fps", "frames"), [(12, [0, 1, 2, 4, 5, 6]), (15, [0, 2, 3, 5, 6, 8])])
def test_an_interval_that_is_asked_for_is_kept_by_the_nearest_frames(options, fps, frames):
    write_video(Path(options["root"]) / "a.avi", fps=fps)
    train, _ = open_both(options, test_fraction=0.4, frame_interval_s=0.1)
    assert train.frame_interval_s == 0.1
    assert all_indices(train)[0] == frames


def test_an_interval_at_which_no_video_has_frames_comes_with_one_that_works(options):
    for name, fps in (("a", 4), ("b", 6)):
        write_video(Path(options["root"]) / f"{name}.avi", fps=fps)
    with pytest.raises(UsageError, match=r"no video has a frame for every step of 0\.1 s:\n.*a\.avi: at 4 frames") as refused:
        open_both(options, test_fraction=0.4, frame_interval_s=0.1)
    works = float(str(refused.value).rpartition("--frame-interval-s ")[2])
    assert open_both(options, test_fraction=0.4, frame_interval_s=works)[0].description.startswith("video: 1 file")


def test_step_and_interval_that_contradict_are_refused(options):
    write_video(Path(options["root"]) / "a.avi")
    with pytest.raises(UsageError, match="remove one of the two"):
        open_both(options, frame_interval_s=0.3, frame_step=2)


def test_files_of_other_rates_keep_the_interval_or_are_skipped(options, logged):
    root = Path(options["root"])
    write_video(root / "a.avi", 60, 10)
    write_video(root / "b.avi", 120, 30)
    write_video(root / "c.avi", 60, 4)
    train, _ = open_both(options, test_fraction=0.4)
    assert train.frame_interval_s == pytest.approx(0.1)
    windows = all_indices(train)
    steps = {tuple(np.diff(window)) for window in windows}
    assert steps == {(1,) * 5, (3,) * 5}
    messages = logged.text
    assert "1 video is not used" in messages
    assert "c.avi: at 4 frames per second its frames are 0.25 s apart, too slow for 0.1 s per step" in messages


@pytest.mark.parametrize("fps", [12, 15, 24, 25, 28, 50])
def test_a_rate_without_a_whole_number_of_frames_per_step_is_sampled_by_time(options, logged, fps):
    write_video(Path(options["root"]) / "a.avi", 60, 10)
    write_video(Path(options["root"]) / "b.avi", 100, fps)
    train, _ = open_both(options, test_fraction=0.3)
    assert "not used" not in logged.text
    windows = [window for window in all_indices(train) if tuple(np.diff(window)) != (1,) * 5]
    assert windows
    for window in windows:
        late_s = (np.array(window) - window[0]) / fps - 0.1 * np.arange(LENGTH)
        assert np.abs(late_s).max() <= 1 / fps + 1e-9  # each frame and the first are the nearest ones: half a frame each


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_interval_that_is_asked_for_holds_in_a_folder_of_several_rates(options, names):
    for name, fps in zip(names, (12, 27), strict=True):
        write_video(Path(options["root"]) / f"{name}.avi", 60, fps)
    train, _ = open_both(options, test_fraction=0.4, frame_interval_s=0.1)
    assert train.frame_interval_s == 0.1
    assert train.description.startswith("video: 2 files")


def test_a_rate_within_five_percent_is_the_same(options):
    write_video(Path(options["root"]) / "a.avi", 60, 25)
    write_video(Path(options["root"]) / "b.avi", 60, 24)
    train, _ = open_both(options, test_fraction=0.4)
    assert train.description.startswith("video: 2 files")


def test_five_files_are_split_by_file(options):
    for i in range(6):
        write_video(Path(options["root"]) / f"{i}.avi", 20, first=40 * i)
    train, test = open_both(options, test_fraction=0.3)
    levels = [{int(np.median(data[i][0])) // 40 for i in range(len(data))} for data in (train, test)]
    assert len(levels[0]) == 4
    assert len(levels[1]) == 2
    assert not levels[0] & levels[1]
    assert "split by file" in train.description


def test_files_without_a_sequence_are_no_files_to_hold_out(options, logged):
    for i in range(5):
        write_video(Path(options["root"]) / f"{i}.avi", 60, first=i)
    write_video(Path(options["root"]) / "2_photo.avi", 1)  # in the middle of six, which would be the one that is held out
    for length in (3, LENGTH, 20):
        train, test = open_both(options, length)
        assert [data.description.split(" with")[0] for data in (train, test)] == ["video: 4 files", "video: 1 file"]
    assert "2_photo.avi: too short: 1 consecutive train frame, but a sequence needs 3" in logged.text


def test_the_way_to_split_can_be_chosen(options):
    write_video(Path(options["root"]) / "a.avi", 60)
    with pytest.raises(UsageError, match="at least 2"):
        open_both(options, split_by="file")
    write_video(Path(options["root"]) / "b.avi", 60, first=60)
    train, test = open_both(options, split_by="file")
    assert len(train) == 60 - LENGTH + 1
    assert "1 file with 60 test frames" in test.description
    for i in range(4):
        write_video(Path(options["root"]) / f"c{i}.avi", 60)
    assert "6 files" in open_both(options, split_by="time", test_fraction=0.3)[0].description


def test_a_break_in_the_recording_is_not_crossed(options):
    path = Path(options["root"]) / "camera.mkv"
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, 10)
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 2 * i, np.uint8), format="rgb24")
            frame.pts = i + (100 if i >= 20 else 0) + (1 if i >= 10 else 0)  # 10 s of pause, and one lost frame
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    windows = all_indices(open_both(options, test_fraction=0.3)[0])
    assert [17, 18, 19, 20, 21, 22] not in windows
    assert not any(19 in window and 20 in window for window in windows)
    # The frame before the lost one, or the one after it, stays for its time.
    assert any(window in ([7, 8, 9, 9, 10, 11], [7, 8, 9, 10, 10, 11]) for window in windows)


def test_colour_and_gray_have_separate_entries(options):
    path = Path(options["root"]) / "red.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        image = np.zeros((64, 96, 3), np.uint8)
        image[..., 0] = 250
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    gray, colour = (open_both(options, channels=channels, test_fraction=0.4)[0] for channels in (1, 3))
    assert abs(float(gray[0].mean()) - 0.299 * 250) < 5
    assert colour[0].shape == (LENGTH, 64, 64, 3)
    red, green, blue = colour[0].mean((0, 1, 2))
    assert red > 230 > 30 > max(green, blue)


def test_millisecond_time_stamps_do_not_drift():
    fps = 30000 / 1001
    times_s = np.round(np.arange(100_000) / fps, 3)  # as Matroska keeps them
    (run,) = regular_runs(times_s, fps)
    np.testing.assert_array_equal(run, np.arange(100_000))


def test_a_varying_rate_is_resampled_in_time():
    times_s = np.array([0.0, 0.1, 0.2, 0.25, 0.3, 0.6, 0.7])
    (run,) = regular_runs(times_s, 10)
    np.testing.assert_allclose(times_s[run], [0, 0.1, 0.2, 0.3, 0.3, 0.6, 0.6, 0.7])


def test_progress_in_a_terminal(options, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr("svg_common.progress.stderr_console", lambda: terminal)
    write_video(Path(options["root"]) / "[bold]a.avi")
    open_both(options, test_fraction=0.4)
    assert "decoding 1 video file" in terminal.file.getvalue()
    assert "[bold]a.avi, 32 frames" in terminal.file.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were opened for decoding."""
    names: list[str] = []

    class Counting(VideoReader):
        def __init__(self, path):
            names.append(Path(path).name)
            super().__init__(path)

    monkeypatch.setattr(video_cache, "VideoReader", Counting)
    return names


def test_a_video_is_decoded_once_and_again_when_it_changes(options, decoded, capsys):
    path = write_video(Path(options["root"]) / "a.avi")
    train, _ = open_both(options, test_fraction=0.4)
    assert decoded == ["a.avi"]
    assert "decoding 1 video file" in capsys.readouterr().err
    before = all_indices(train)
    again, _ = open_both(options, test_fraction=0.4)
    assert decoded == ["a.avi"]
    assert all_indices(again) == before
    write_video(path, first=100)
    os.utime(path, ns=(1, 1))
    changed, _ = open_both(options, test_fraction=0.4)
    assert decoded == ["a.avi", "a.avi"]
    assert all_indices(changed, first=100) == before
    assert all_indices(train) == before  # a run in progress keeps its frames


def test_a_file_that_is_no_video_is_tried_once_and_again_when_it_changes(options, decoded, capsys, logged):
    write_video(Path(options["root"]) / "a.avi")
    broken = Path(options["root"]) / "b.avi"
    broken.write_bytes(b"text")
    for _ in range(2):
        assert open_both(options, test_fraction=0.4)[0].description.startswith("video: 1 file ")
        assert decoded == ["a.avi", "b.avi"]
    assert "b.avi: Invalid data" in logged.text
    assert capsys.readouterr().err.count("decoding") == 1
    write_video(broken)
    assert open_both(options, test_fraction=0.4)[0].description.startswith("video: 2 files ")


BROKEN_RECORDS = {
    "broken json": "[1, 2",
    "other json": "[1, 2]",
    "deep json": "[" * 100_000,
    "nested times": '{"times_s": [[0.0]], "fps": 10.0, "problem": null}',
    "a time that is not a number": '{"times_s": [NaN], "fps": 10.0, "problem": null}',
    "a rate beyond float": '{"times_s": [0.0], "fps": 1' + "0" * 400 + ', "problem": null}',
}


@pytest.mark.parametrize("harm", ["short frames", "no frames", "no json", *BROKEN_RECORDS])
def test_a_damaged_cache_entry_is_decoded_again(options, decoded, harm):
    write_video(Path(options["root"]) / "a.avi")
    before = all_indices(open_both(options, test_fraction=0.4)[0])
    (frames,), (about,) = (list(Path(options["cache"]).glob(f"*{suffix}")) for suffix in (".u8", ".json"))
    if harm == "short frames":
        frames.write_bytes(frames.read_bytes()[:-1])
    elif harm == "no frames":
        frames.unlink()
    elif harm == "no json":
        about.unlink()
    else:
        about.write_text(BROKEN_RECORDS[harm])
    assert all_indices(open_both(options, test_fraction=0.4)[0]) == before
    assert len(decoded) == 2


def test_an_interrupted_decode_leaves_nothing_behind(options, monkeypatch):
    write_video(Path(options["root"]) / "a.avi")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_cache, "fit_frame", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_both(options)
    assert list(Path(options["cache"]).iterdir()) == []


def test_two_processes_may_decode_at_once(options):
    write_video(Path(options["root"]) / "a.avi", 120)
    code = (
        "import sys, json; from svg_train.config import build_config; from svg_train.data import open_data;"
        "data = open_data(build_config(json.loads(sys.argv[1])), 'train', 6); print(int(data[len(data) - 1].sum()))"
    )
    table = json.dumps({"data": options, "model": {"n_past": 2}, "train": {"n_future": 4}})
    running = [subprocess.Popen([sys.executable, "-c", code, table], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] != ""
    assert sorted(path.suffix for path in Path(options["cache"]).iterdir()) == [".json", ".u8"]


def test_two_threads_may_decode_at_once(options):
    write_video(Path(options["root"]) / "a.avi")
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(all_indices(open_both(options, test_fraction=0.4)[0]))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("place", ["/dev/null/cache", "{file}/cache"])
def test_an_unwritable_cache_is_named(options, tmp_path, place):
    path = write_video(Path(options["root"]) / "a.avi")
    with pytest.raises(SvgError, match="cache folder") as caught:
        open_both(options, cache=place.format(file=path))
    assert "SVG_EDGE_CACHE" in str(caught.value)


def test_the_cache_folder_follows_the_environment(options, tmp_path, monkeypatch):
    write_video(Path(options["root"]) / "a.avi")
    monkeypatch.delenv("SVG_EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_both(options, cache=None, test_fraction=0.4)
    assert list((tmp_path / "xdg" / "svg-edge").glob("*.u8"))
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "own"))
    open_both(options, cache=None, test_fraction=0.4)
    assert list((tmp_path / "own").glob("*.u8"))
    monkeypatch.delenv("SVG_EDGE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_both(options, cache=None, test_fraction=0.4)
    assert list((tmp_path / "home" / ".cache" / "svg-edge").glob("*.u8"))


def write_bad_files(root: Path) -> None:
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("no video at all\n" * 100)
    write_video(root / "short.avi", 4)
    content = write_video(root / "no_index.mp4").read_bytes()
    (root / "no_index.mp4").write_bytes(content[: len(content) // 2])


def test_bad_files_are_listed_once_and_skipped(options, logged):
    root = Path(options["root"])
    write_bad_files(root)
    whole = write_video(root / "whole.avi")
    (root / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    train, _ = open_both(options, split_by="time", test_fraction=0.3)
    assert train.description.startswith("video: 2 files")
    messages = logged.text
    assert messages.count("3 videos are not used:") == 1
    for reason in (
        "empty.mp4: the file is empty",
        "text.mp4: Invalid data",
        "no_index.mp4: the recording was not finished",
    ):
        assert messages.count(reason) == 1
    for split, frames in (("train", 3), ("test", 1)):
        too_short = f"short.avi: too short: {count_text(frames, f'consecutive {split} frame')}, but a sequence needs 6"
        assert re.search(f"1 video is not used as {split} data:\n  .*{too_short}", messages), messages
    assert "1 video is damaged" in messages
    assert "cut.avi: the file is truncated" in messages


@pytest.mark.parametrize(("split_by", "frames", "test_fraction"), [("end", 40, 0.5), ("time", 4, 0.1)])
def test_a_video_that_lies_wholly_in_the_other_part_is_not_listed(options, logged, split_by, frames, test_fraction):
    write_video(Path(options["root"]) / "1.avi", frames)
    write_video(Path(options["root"]) / "2.avi", 40)
    _, test = open_both(options, length=4, split_by=split_by, test_fraction=test_fraction)
    assert test.description.startswith("video: 1 file")
    assert "not used" not in logged.text


def test_the_end_of_a_recording_is_that_of_its_highest_numbers(options):
    """Not of its last names: rec9 comes after rec12 by name."""
    for number in range(1, 13):
        write_video(Path(options["root"]) / f"rec{number}.avi", 10, first=10 * number)
    train, test = open_both(options, split_by="end", test_fraction=2 / 12)
    assert [{Path(data.clip_source(i)).stem for i in range(len(data))} for data in (train, test)] == [
        {f"rec{number}" for number in range(1, 11)},
        {"rec11", "rec12"},
    ]


def test_parts_of_a_recording_that_are_too_short_are_listed_once_in_their_part(options, logged):
    """The end of the recording is 000004, and the last two frames of 000003."""
    for number, frames in enumerate((60, 4, 30, 10), start=1):
        write_video(Path(options["root"]) / f"00000{number}.avi", frames)
    open_both(options, split_by="end", test_fraction=12 / 104)
    for split, name, frames in (("train", "000002", 4), ("test", "000003", 2)):
        too_short = f"{name}.avi: too short: {frames} consecutive {split} frames, but a sequence needs 6"
        assert re.search(f"1 video is not used as {split} data:\n  .*{too_short}", logged.text), logged.text
    assert logged.text.count("too short") == 2


def test_when_the_split_gives_no_frame_to_a_part_the_error_lists_the_videos(options):
    write_video(Path(options["root"]) / "a.avi", 40)
    with pytest.raises(SvgError, match=r"a.avi: too short: 0 consecutive test frames(?s:.*)a larger --test-fraction"):
        open_both(options, split_by="end", test_fraction=0.001)


def test_links_to_nothing_and_pipes_are_listed(options, logged):
    root = Path(options["root"])
    (root / "sub").mkdir()
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "sub" / "circle.avi").symlink_to("circle.avi")
    os.mkfifo(root / "pipe.mp4")
    reasons = [
        "gone.mp4: a link that leads to no file",
        "circle.avi: a link that leads to no file",
        "pipe.mp4: a pipe or a device",
    ]
    with pytest.raises(UsageError, match="contains no video") as caught:
        open_both(options)
    assert all(reason in str(caught.value) for reason in reasons)
    (root / ".hidden.mp4").symlink_to("nowhere.mp4")
    write_video(root / "whole.avi")
    open_both(options, test_fraction=0.4)
    assert "3 videos are not used" in logged.text
    assert all(reason in logged.text for reason in reasons)


def test_a_folder_that_may_not_be_read_is_listed(options, logged):
    root = Path(options["root"])
    (root / "private").mkdir()
    write_video(root / "whole.avi")
    write_video(root / "private" / "other.avi")
    with refused(root / "private"):
        train, _ = open_both(options, test_fraction=0.4)
    assert train.description.startswith("video: 1 file ")
    assert f"{root}/private: a folder that cannot be read: Permission denied" in logged.text
    with refused(root), pytest.raises(SvgError, match=rf"cannot read the folder '{root}': Permission denied"):
        open_both(options)


def test_decoding_that_the_disk_ended_is_not_kept(options, logged):
    root = Path(options["root"])
    for name in ("a.avi", "b.avi"):
        write_video(root / name)
    with failing_disk("b.avi", errno.ESTALE, packets=40):
        assert open_both(options, test_fraction=0.4)[0].description.startswith("video: 1 file ")
    assert f"b.avi: {os.strerror(errno.ESTALE)}" in logged.text
    assert open_both(options, test_fraction=0.4)[0].description.startswith("video: 2 files ")


def test_a_line_break_in_a_name_begins_no_line_of_the_list(options, logged):
    root = Path(options["root"])
    write_video(root / "whole.avi")
    (root / "a\n  whole.avi: forged.mp4").write_bytes(b"")
    open_both(options, test_fraction=0.4)
    assert r"a\n  whole.avi: forged.mp4: the file is empty" in logged.text


def test_when_no_video_is_left_all_reasons_are_in_the_error(options):
    write_bad_files(Path(options["root"]))
    with pytest.raises(SvgError) as caught:
        open_both(options)
    for name in ("empty.mp4", "text.mp4", "no_index.mp4", "short.avi"):
        assert str(caught.value).count(name) == 1
    assert "expected" in str(caught.value)


def test_a_test_part_that_is_too_short_is_explained(options):
    write_video(Path(options["root"]) / "a.avi", 30)
    config = config_of(options, test_fraction=0.1)
    assert len(open_data(config, "train", LENGTH)) > 0
    with pytest.raises(SvgError, match="3 consecutive test frames, but a sequence needs 6") as caught:
        open_data(config, "test", LENGTH)
    assert "--test-fraction" in str(caught.value)


def test_missing_roots_name_the_option(options, tmp_path):
    for root, problem in ((None, "data 'video' needs --data-root"), (str(tmp_path / "nowhere"), "does not exist")):
        with pytest.raises(UsageError, match=problem) as caught:
            open_both(options, root=root)
        assert "--data-root" in str(caught.value)
    with pytest.raises(UsageError, match="contains no video") as empty:
        open_both(options)
    assert ".mp4" in str(empty.value)


@pytest.mark.skipif(not PEDESTRIANS.exists(), reason="the sample clip is not here")
def test_a_real_surveillance_clip(options):
    train, test = open_both(options, length=15, root=str(PEDESTRIANS), frame_step=2, channels=3)
    assert train.frame_interval_s == pytest.approx(0.2)
    assert len(train) == 676 - 29 + 1
    assert len(test) >= 16
    frames = train[100]
    assert frames.shape == (15, 64, 64, 3)
    assert 30 < frames.mean() < 220
    change = np.abs(np.diff(frames.astype(int), axis=0)).mean()
    assert 0.3 < change < 20
    assert not {frame.tobytes() for i in range(len(test)) for frame in test[i]} & {
        frame.tobytes() for i in range(0, len(train), 15) for frame in train[i]
    }


def write_at(path: Path, times_ms: list[int]) -> Path:
    """Frame i is flat gray of level 2 i, at these times."""
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, 30)
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 2 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_pauses_start_sequences_anew_and_are_counted(options):
    write_at(Path(options["root"]) / "events.mkv", [100 * i + 25_000 * (i // 20) for i in range(60)])
    train, _ = open_both(options, test_fraction=0.3)
    assert train.frame_interval_s == pytest.approx(0.1)
    assert train.description.endswith("2 pauses over 1 s that no sequence crosses")
    assert not any(min(window) < 20 <= max(window) for window in all_indices(train))


def write_sizes(path: Path, sizes: list[int]) -> Path:
    """Videos of so many frames, by turns wide and high, in one file; frame i of all is flat gray of level 4 i, at 0.1 i s."""
    parts, number = [], 0
    for turn, frames in enumerate(sizes):
        part = path.with_name("part.ts")
        with av.open(str(part), "w") as container:
            stream = container.add_stream("mpeg4", rate=10, options={"qmin": "2", "qmax": "2"})
            stream.width, stream.height = (96, 64) if turn % 2 == 0 else (64, 96)
            stream.gop_size = 1  # a small step of gray is lost between key frames
            for _ in range(frames):
                gray = np.full((stream.height, stream.width, 3), 4 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
                number += 1
            container.mux(stream.encode())
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))
    return path


def numbers_of(frames) -> list[int]:
    """Which frames of `write_sizes` these are."""
    return [round(float(np.median(frame)) / 4) for frame in frames]


@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.5, 1.0)])
def test_no_sequence_crosses_a_change_of_the_picture_size(options, crop):
    """It shows another view: svg-live and svg-forecast begin anew there."""
    write_sizes(Path(options["root"]) / "a.ts", [20, 20, 20])
    for _ in range(2):  # decoded, and from the cache
        train, test = open_both(options, test_fraction=0.2, crop=crop)
        assert f"sequences of {LENGTH}, 2 picture size changes that no sequence crosses" in train.description
        assert "size change" not in test.description
        if crop == (1.0, 1.0):
            windows = [numbers_of(train[i]) for i in range(len(train))]
            assert windows == [list(range(i, i + LENGTH)) for i in (*range(15), *range(20, 35), *range(40, 43))]


def test_a_history_does_not_reach_over_a_change_of_the_picture_size(options):
    write_sizes(Path(options["root"]) / "a.ts", [20, 30])
    _, test = open_both(options, test_fraction=0.8)
    for i in range(len(test)):
        first = numbers_of(test[i])[0]
        assert numbers_of(test.history(i, 50)) == list(range(20 if first >= 20 else 10, first))


def test_pauses_and_size_changes_are_counted_side_by_side():
    video = DecodedVideo(
        source=Path("a.mkv"),
        frames_file=Path("a.u8"),
        shape=FrameShape(64, 64, 1),
        fps=10.0,
        times_s=np.arange(30) / 10 + 25 * (np.arange(30) >= 20),
        problem=None,
        size_changes=(5, 20),
    )
    (clip,), _ = at_one_interval([video], 0.1)
    assert [(piece[0], piece[-1]) for piece in clip.pieces] == [(0, 4), (5, 19), (20, 29)]
    assert describe_cuts([clip]) == ", 1 pause over 1 s and 2 picture size changes that no sequence crosses"


@pytest.mark.parametrize("damage", [[0], [5, 5], [7, 3], [60], ["5"], [True], 5, "5", None, [[1]]])
def test_damaged_size_changes_in_the_cache_are_decoded_anew(options, damage):
    write_video(Path(options["root"]) / "a.avi", 60)
    before = open_both(options)[0].description
    (record,) = Path(options["cache"]).glob("*.json")
    about = json.loads(record.read_text())
    record.write_text(json.dumps({**about, "size_changes": damage}))
    assert open_both(options)[0].description == before
    assert json.loads(record.read_text()) == about


def test_each_part_of_a_split_counts_its_own_pauses(options):
    write_at(Path(options["root"]) / "events.mkv", [100 * i + 25_000 * (i // 20) for i in range(60)])
    train, test = open_both(options, test_fraction=0.25)
    assert "1 pause" not in test.description
    assert "2 pauses" in train.description
    train, test = open_both(options, test_fraction=0.5)
    assert ["1 pause" in part.description for part in (train, test)] == [True, True]


@pytest.mark.parametrize(("damage", "what"), [(Path.unlink, "removed"), (lambda file: os.truncate(file, 100), "shortened")])
def test_a_cache_that_is_damaged_while_it_is_used_says_what_to_do(options, damage, what):
    write_video(Path(options["root"]) / "a.avi")
    train, _ = open_both(options)
    (file,) = Path(options["cache"]).glob("*.u8")
    damage(file)
    with pytest.raises(SvgError, match=rf"{what} while they were in use: .*\n.*svg-train --out FOLDER --resume"):
        train[0]
    assert len(open_both(options)[0][0])


def test_a_short_pause_holds_the_nearest_frame(options):
    write_at(Path(options["root"]) / "bursts.mkv", [100 * i + 600 * (i // 8) for i in range(48)])
    windows = all_indices(open_both(options, test_fraction=0.3)[0])
    assert [6, 7, 7, 7, 7, 8] in windows


def test_jittered_stamps_are_sampled_in_time(options):
    rng = np.random.default_rng(0)
    times_ms = np.cumsum(rng.integers(28, 40, 120)).tolist()
    write_at(Path(options["root"]) / "browser.mkv", times_ms)
    train, _ = open_both(options, test_fraction=0.3, frame_interval_s=0.1)
    assert train.frame_interval_s == 0.1
    for window in all_indices(train):
        late_ms = np.array([times_ms[i] for i in window]) - times_ms[window[0]] - 100 * np.arange(LENGTH)
        assert np.abs(late_ms).max() <= 40


def test_an_entry_of_an_older_version_is_not_taken(options, monkeypatch):
    write_video(Path(options["root"]) / "a.avi")
    monkeypatch.setattr(video_cache, "_VERSION", video_cache._VERSION - 1)
    open_both(options, test_fraction=0.4)
    monkeypatch.undo()
    open_both(options, test_fraction=0.4)
    assert len(list(Path(options["cache"]).glob("*.u8"))) == 2


def test_raw_streams_are_at_the_rate_of_the_codec_or_of_the_user(options, logged):
    path = Path(options["root"]) / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 5 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert open_both(options, test_fraction=0.4)[0].frame_interval_s == pytest.approx(0.1)
    assert "raw.h264' has no time stamps: assumed 10 frames per second; give the true rate with --source-fps" in logged.text
    logged.clear()
    log_once.cache_clear()
    given, _ = open_both(options, test_fraction=0.4, source_fps=20)
    assert given.frame_interval_s == pytest.approx(0.05)
    assert "assumed" not in logged.text
    assert "time stamps of their own" not in logged.text


@pytest.mark.parametrize(("source_fps", "step_s"), [(1e6, "1e-06"), (1e-6, "1e+06")])
def test_a_rate_of_pictures_that_makes_steps_at_which_no_model_runs_is_refused(options, source_fps, step_s):
    for number in range(30):
        cv2.imwrite(f"{options['root']}/{number:02d}.png", np.zeros((64, 64, 3), np.uint8))
    expected = rf"a model step of {re.escape(step_s)} s, 1 frame of .*\n  expected 0\.0001 to 129600 s;"
    with pytest.raises(UsageError, match=expected):
        open_data(config_of(options, source_fps=source_fps), "train", 3)


def test_a_rate_that_no_video_needs_is_said(options, logged):
    write_video(Path(options["root"]) / "a.avi")
    write_video(Path(options["root"]) / "b.avi")
    assert open_both(options, source_fps=20)[0].frame_interval_s == pytest.approx(0.1)
    assert logged.text.count("all videos have time stamps of their own: --source-fps does not change them") == 1


@pytest.mark.parametrize("test_fraction", [0.5, 1.0])
def test_more_of_a_short_video_is_advised_only_where_there_is_more(options, test_fraction):
    write_video(Path(options["root"]) / "a.avi", frames=10)
    with pytest.raises(SvgError, match="no video is long enough for test sequences of 11 frames") as refused:
        open_data(config_of(options, test_fraction=test_fraction), "test", 11)
    assert "--test-fraction" not in str(refused.value)
    needed = "a test sequence needs 11 frames, but the longest video has 10 in a row"
    assert (needed in str(refused.value)) == (test_fraction < 1)
    for split, fraction, size in (("test", 0.4, "larger"), ("train", 0.6, "smaller")):
        with pytest.raises(SvgError, match=f"for {split} sequences of 6 frames") as refused:
            open_data(config_of(options, test_fraction=fraction), split, 6)
        assert f"a {size} --test-fraction gives more frames to the {split} part" in str(refused.value)
        assert "a step lasts" not in str(refused.value)


@pytest.mark.parametrize("option", ["frame_step", "frame_interval_s"])
def test_shorter_steps_are_advised_where_a_step_takes_several_frames(options, option):
    write_video(Path(options["root"]) / "a.avi", frames=10)
    config = config_of(options, **{option: 3 if option == "frame_step" else 0.3})
    advice = f"a step lasts 0.3 s here, and a smaller --{option.replace('_', '-')} makes sequences shorter"
    with pytest.raises(SvgError, match=advice):
        open_data(config, "train", 6)
    with pytest.raises(SvgError, match="no video is long enough") as refused:
        open_data(config, "train", 6, trained_s=0.3)  # a model runs at its own interval
    assert "a step lasts" not in str(refused.value)


@pytest.mark.parametrize("split_by", ["end", "file"])
def test_whole_videos_are_advised_where_the_ends_of_several_are_too_short(options, split_by):
    write_video(Path(options["root"]) / "a.avi", frames=20)
    write_video(Path(options["root"]) / "b.avi", frames=20)
    with pytest.raises(SvgError, match=f"--split-by {split_by}"):
        open_both(options, test_fraction=0.2)
    _, test = open_both(options, test_fraction=0.2, split_by=split_by)
    assert len(test)


@pytest.mark.parametrize(
    ("frames", "split_by"),
    [([40, 40, 20], "time"), ([40, 20, 20], "end"), ([20], "time"), ([40, 5, 5, 5], "time")],
)
def test_clips_of_one_camera_are_split_at_the_end_if_the_ends_of_most_are_too_short(options, frames, split_by):
    for number, count in enumerate(frames):
        write_video(Path(options["root"]) / f"{number}.avi", count)
    assert split_for(config_of(options, test_fraction=0.15), LENGTH) == split_by


@pytest.mark.skipif(not PEDESTRIANS.exists(), reason="the odd files are not here")
def test_odd_phones_and_browsers_share_a_folder(options, logged):
    odd = PEDESTRIANS.parents[1] / "odd"
    for name in ("phone_27_89.mp4", "phone_29_85.mp4", "browser_no_duration.webm", "motion_events.mp4"):
        (Path(options["root"]) / name).symlink_to(odd / name)
    train, _ = open_both(options, split_by="time", frame_interval_s=0.1)
    assert train.frame_interval_s == 0.1
    assert train.description.startswith("video: 4 files")
    assert "not used" not in logged.text


def test_training_and_live_select_the_same_pictures(options):
    rng = np.random.default_rng(3)
    times_ms = np.cumsum(rng.choice([28, 33, 39, 500, 900], 100, p=[0.3, 0.3, 0.3, 0.05, 0.05])).tolist()
    path = write_at(Path(options["root"]) / "a.mkv", times_ms)
    length = 20
    train = open_data(config_of(options, test_fraction=0.3, frame_interval_s=0.1), "train", length)
    live = [frame.image for frame in FileSource(path, 0.1, StopRequest(), EventLog()).frames()]
    levels = np.round(np.median(np.stack(live[:length]), (1, 2, 3)) / 2).astype(int).tolist()
    assert indices(train[0]) == levels
    assert len(set(levels)) < length - 2  # some were held


@pytest.mark.parametrize(
    ("root", "line"),
    [
        ("file:///data/a%20b", "--data-root '/data/a b'"),
        ("clips/*.mp4", "--data-root clips"),
        ("nowhere", "correct --data-root"),
    ],
)
def test_a_root_written_for_another_program_gets_the_line_that_works(options, root, line):
    with pytest.raises(UsageError) as refused:
        open_both(options, root=root)
    assert str(refused.value).endswith(line)


def test_too_few_files_to_split_by_come_with_the_reasons_against_the_others(options, tmp_path):
    write_video(tmp_path / "videos" / "fast.avi", fps=30)
    write_video(tmp_path / "videos" / "slow.avi", fps=25)
    write_video(tmp_path / "videos" / "short.avi", fps=30, frames=2)
    (tmp_path / "videos" / "text.avi").write_text("no video")
    with pytest.raises(UsageError) as caught:
        open_data(config_of(options, split_by="file", frame_interval_s=1 / 30), "train", 6)
    first, *others, advice = str(caught.value).splitlines()
    assert re.fullmatch(r"--split-by file needs at least 2 usable videos, but --data-root '.*' has 1:", first)
    assert len(others) == 3
    for name, reason in (("slow", "too slow for 0.03333 s per step"), ("short", "too short: 2 "), ("text", "")):
        assert any(f"{name}.avi: " in line and reason in line for line in others), str(caught.value)
    assert advice == "  add videos, or use --split-by time"
