"""The mp4 file is complete, exactly timed and playable, or is not there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from svg_common.errors import OutputError, UsageError
from svg_runtime.live.outputs import check_output_name, open_outputs
from svg_runtime.live.outputs.mp4 import Mp4Writer
from svg_runtime.live.stop import StopRequest
from tests.file_size import limit_file_size
from tests.svg_runtime.live.live_helpers import FFMPEG_STEPS, fail_in_ffmpeg, read_pictures, read_times

SIZE = (320, 180)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)


def write_one(path: Path) -> None:
    writer = Mp4Writer(path, SIZE, 0.1)
    writer.write(noise(), 0)
    writer.close(keep=True)


@pytest.mark.parametrize("fast", [False, True])
def test_a_video_is_browser_playable_with_exact_times(tmp_path, fast):
    path = tmp_path / "new" / "a.mp4"
    writer = Mp4Writer(path, SIZE, 1001 / 30000, fast)
    for tick in (5, 6, 7, 10):  # starts late, and two intervals were missed
        writer.write(noise(tick), tick)
    assert not path.exists()
    writer.close(keep=True)
    writer.close(keep=True)
    assert read_times(path) == pytest.approx([tick * 1001 / 30000 for tick in (0, 1, 2, 5)], abs=1e-6)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == SIZE
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # faststart
    assert [item.name for item in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fast", [False, True])
def test_a_pause_of_days_lasts_as_long_in_the_video(tmp_path, fast):
    """The picture before it is repeated every hour: mp4 has no room for so long a time between two pictures."""
    writer = Mp4Writer(tmp_path / "a.mp4", SIZE, 0.1, fast)
    hours = 60
    for tick, level in ((0, 10), (1, 200), (hours * 36_000, 10), (hours * 36_000 + 1, 10)):
        writer.write(np.full((SIZE[1], SIZE[0], 3), level, np.uint8), tick)
    writer.close(keep=True)
    repeats = [0.1 + 3600 * hour for hour in range(hours)]
    assert read_times(tmp_path / "a.mp4") == pytest.approx([0, *repeats, 3600 * hours, 3600 * hours + 0.1], abs=1e-6)
    means = [picture.mean() for picture in read_pictures(tmp_path / "a.mp4")]
    assert means == pytest.approx([10, *[200] * hours, 10, 10], abs=6)


@pytest.mark.parametrize("fast", [False, True])
def test_colors_survive_encoding(tmp_path, fast):
    colors = ((230, 30, 30), (30, 200, 60), (40, 60, 220), (128, 128, 128))
    writer = Mp4Writer(tmp_path / "a.mp4", SIZE, 0.1, fast)
    for tick, color in enumerate(colors):
        writer.write(np.full((SIZE[1], SIZE[0], 3), color, np.uint8), tick)
    writer.close(keep=True)
    with av.open(str(tmp_path / "a.mp4")) as container:
        for color, frame in zip(colors, container.decode(video=0), strict=True):
            assert np.abs(frame.to_ndarray(format="rgb24").mean((0, 1)) - color).max() < 6


def test_a_discarded_or_empty_video_leaves_no_file(tmp_path):
    for frames, keep in ((3, False), (0, True)):
        writer = Mp4Writer(tmp_path / "a.mp4", SIZE, 0.1)
        for tick in range(frames):
            writer.write(noise(), tick)
        writer.close(keep=keep)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_ends_the_video_at_once(tmp_path):
    writer = Mp4Writer(tmp_path / "new" / "a.mp4", SIZE, 0.1)
    writer.write(noise(), 0)
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(OutputError, match=r"cannot write '.*a\.mp4': No such file"):
        writer.write(noise(), 1)
    writer.close(keep=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", FFMPEG_STEPS)
def test_whatever_ffmpeg_fails_with_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, step):
    fail_in_ffmpeg(monkeypatch, step)
    with pytest.raises(OutputError, match=r"cannot write '.*a\.mp4': Cannot allocate memory"):
        write_one(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_name_may_have_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_one(Path("rec-10:30") / "a.mp4")
    assert len(read_times(tmp_path / "rec-10:30" / "a.mp4")) == 1


def test_an_earlier_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")
    writer = Mp4Writer(path, SIZE, 0.1)
    writer.write(noise(), 0)
    assert path.read_bytes() == b"earlier"
    writer.close(keep=True)
    assert len(read_times(path)) == 1


@pytest.mark.parametrize("name", ["a.avi", "a", "folder.mp4", "a.png", "a%s.png", "%d-%d.png"])
def test_a_wrong_name_is_a_usage_error(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UsageError, match=r"expected.*--output"):
        check_output_name(tmp_path / name)


def test_an_unwritable_path_is_refused_before_the_start():
    with pytest.raises(OutputError, match="/proc/nowhere"):
        Mp4Writer(Path("/proc/nowhere/a.mp4"), SIZE, 0.1)


def _write_until_full(path: str, limit: str, fast: str) -> None:
    """Runs in a process of its own: the kernel refuses to let a file grow over the limit, as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit_file_size(int(limit))
    writer = Mp4Writer(Path(path), SIZE, 0.1, fast == "fast")
    try:
        for tick in range(60):
            writer.write(noise(tick), tick)
        writer.close(keep=True)
    except OutputError as error:
        writer.close(keep=True)
        print(error)
        sys.exit(7)


@pytest.mark.parametrize("speed", ["fast", "small"])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, speed):
    whole = Mp4Writer(tmp_path / "whole.mp4", SIZE, 0.1, speed == "fast")
    for tick in range(60):
        whole.write(noise(tick), tick)
    whole.close(keep=True)
    size = (tmp_path / "whole.mp4").stat().st_size
    (tmp_path / "whole.mp4").unlink()
    code = "import sys; from tests.svg_runtime.live.test_outputs import _write_until_full; _write_until_full(*sys.argv[1:])"
    for limit in (size // 3, size - 2000):  # full in the middle, and full only when the file is completed
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.mp4"), str(limit), speed],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert run.returncode == 7, run.stderr
        assert "cannot write" in run.stdout
        assert "a.mp4" in run.stdout
        assert list(tmp_path.iterdir()) == []


def test_no_display_is_a_usage_error_that_suggests_headless(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")  # OpenCV's toolkit then has nowhere to go
    with pytest.raises(UsageError, match="--headless --output"):
        open_outputs(tmp_path / "a.mp4", True, SIZE, 0.1, StopRequest())
    assert list(tmp_path.iterdir()) == []
