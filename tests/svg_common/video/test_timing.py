"""The rate of a video is that of its time stamps; without them it is assumed, and said so. All kinds of files play."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.video.clips import find_clips
from svg_common.video.reader import VIDEO_SUFFIXES, VideoError, VideoReader
from tests.conftest import SHARED_DATA

ODD = SHARED_DATA / "odd"
FRAMES = 12


def write_video(path: Path, codec: str, fps: int = 10, pix_fmt: str = "yuv420p", format: str | None = None) -> Path:
    """Frame i is gray of level 20 i."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = (1920, 1080) if codec == "dnxhd" else (720, 576) if fps == 25 else (352, 288)
        stream.pix_fmt, stream.bit_rate = pix_fmt, 120_000_000 if codec == "dnxhd" else 1_000_000
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((stream.height, stream.width, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path


def write_at(path: Path, times_ms: list[int], codec: str = "libx264") -> Path:
    """A video with these presentation times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i % 250, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rate(path: Path) -> tuple[float, bool]:
    with VideoReader(path) as reader:
        return reader.fps, reader.assumed_rate


# suffix: codec, pictures a second, pixel format, format where the suffix does not tell the writer
_H264, _MPEG2 = ("libx264", 10), ("mpeg2video", 25)
_TS = ("libx264", 10, "yuv420p", "mpegts")
PLAYED = {
    ".avi": ("mpeg4", 10), ".divx": ("mpeg4", 10, "yuv420p", "avi"), ".mp4": _H264, ".m4v": ("mpeg4", 10), ".mov": _H264,
    ".qt": ("mpeg4", 10, "yuv420p", "mov"), ".f4v": _H264, ".ismv": _H264, ".3gp": ("mpeg4", 10), ".3g2": ("mpeg4", 10),
    ".mj2": ("jpeg2000", 10, "yuv420p", "mov"), ".mkv": _H264, ".mk3d": ("libx264", 10, "yuv420p", "matroska"),
    ".webm": ("libvpx", 10), ".nut": ("mpeg4", 10), ".flv": ("flv1", 10), ".wmv": ("wmv2", 10), ".asf": ("wmv2", 10),
    ".wtv": _MPEG2, ".rm": ("rv10", 10), ".mpg": _MPEG2, ".mpeg": ("mpeg1video", 25), ".vob": _MPEG2,
    ".mpe": ("mpeg1video", 25, "yuv420p", "mpeg"), ".ts": _H264, ".mts": _H264, ".m2ts": _H264, ".m2t": _TS, ".mp2t": _TS,
    ".tp": _TS, ".trp": _TS, ".tod": ("mpeg2video", 25, "yuv420p", "mpegts"), ".mxf": _MPEG2, ".gxf": _MPEG2,
    ".dv": ("dvvideo", 25), ".y4m": ("rawvideo", 10), ".ivf": ("libvpx", 10), ".gif": ("gif", 10, "rgb8"),
    ".apng": ("apng", 10, "rgb24", "apng"), ".lrv": ("libx264", 10, "yuv420p", "mp4"),
    ".insv": ("libx264", 10, "yuv420p", "mp4"),
}  # fmt: skip
RAW = {
    ".h264": ("libx264", 10, "yuv420p", "h264"), ".264": ("libx264", 15, "yuv420p", "h264"),
    ".avc": ("libx264", 10, "yuv420p", "h264"), ".h265": ("libx265", 10, "yuv420p", "hevc"),
    ".265": ("libx265", 15, "yuv420p", "hevc"), ".hevc": ("libx265", 10, "yuv420p", "hevc"), ".m1v": ("mpeg1video", 25),
    ".m2v": ("mpeg2video", 25, "yuv420p", "mpeg2video"), ".mpv": ("mpeg2video", 25, "yuv420p", "mpeg2video"),
    ".dnxhd": ("dnxhd", 25, "yuv422p"), ".dnxhr": ("dnxhd", 25, "yuv422p", "dnxhd"),
    ".mjpg": ("mjpeg", 25, "yuvj420p", "mjpeg"), ".mjpeg": ("mjpeg", 25, "yuvj420p", "mjpeg"),
}  # fmt: skip
# This PyAV cannot write these: Theora, RealVideo in its later container, VVC, AV1, VC-1 and cameras' own formats; H.261 and
# H.263 take a few sizes and rates only.
NOT_WRITTEN = {
    ".ogv", ".ogm", ".rmvb", ".cine", ".dav", ".amv", ".h266", ".266", ".vvc", ".obu", ".av1", ".h261", ".h263", ".vc1",
}  # fmt: skip


@pytest.mark.parametrize("suffix", PLAYED | RAW)
def test_every_suffix_that_can_be_written_plays_at_its_rate(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", *(PLAYED | RAW)[suffix])
    with VideoReader(path) as reader:
        frames = list(reader)
    assert len(frames) == FRAMES
    fps = (PLAYED | RAW)[suffix][1]
    assert reader.fps == pytest.approx(fps)
    assert reader.assumed_rate == (suffix in RAW)
    tolerance = 0.5 / fps if suffix == ".gxf" else 1e-3  # its last picture is stamped as a half one
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(FRAMES) / fps, atol=tolerance)
    assert [clip.paths for clip in find_clips(tmp_path)] == [(path,)]


def test_the_suffixes_are_those_that_play():
    assert set(VIDEO_SUFFIXES) == PLAYED.keys() | RAW.keys() | NOT_WRITTEN
    assert len(set(VIDEO_SUFFIXES)) == len(VIDEO_SUFFIXES)


@pytest.mark.parametrize("name", ["events.mp4", "events.mkv", "events.mov"])
@pytest.mark.parametrize("pause_ms", [700, 25_000, 36_000_000])
def test_pauses_do_not_change_the_rate(tmp_path, name, pause_ms):
    path = write_at(tmp_path / name, [100 * i + pause_ms * (i // 20) for i in range(60)])
    assert rate(path) == (pytest.approx(10), False)


def test_jittered_stamps_without_a_default_duration(tmp_path):
    rng = np.random.default_rng(0)
    path = write_at(tmp_path / "browser.webm", np.cumsum(rng.integers(28, 40, 120)).tolist(), "libvpx")
    fps, assumed = rate(path)
    assert fps == pytest.approx(1000 / 33.5, rel=0.03)
    assert not assumed


def test_pictures_that_arrive_in_pairs_have_their_mean_rate(tmp_path):
    path = write_at(tmp_path / "network_camera.mkv", [100 * (i // 2) + 12 * (i % 2) for i in range(61)])
    assert rate(path) == (pytest.approx(20, rel=0.02), False)


@pytest.mark.parametrize("length", [8, 30])
def test_recordings_that_were_joined_run_on_at_their_rate(tmp_path, length):
    part = write_at(tmp_path / "part.ts", [100 * i for i in range(length)]).read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part * 2)
    with VideoReader(joined) as reader:
        times_s = [frame.time_s for frame in reader]
    assert reader.fps == pytest.approx(10)
    assert len(times_s) == 2 * length
    np.testing.assert_allclose(np.diff(times_s), 0.1, atol=1e-3)


@pytest.mark.parametrize("name", ["a.mpg", "a.vob"])
def test_small_pictures_that_share_a_stamp_of_a_program_stream_have_their_rate(tmp_path, name):
    path = write_at(tmp_path / name, [40 * i for i in range(100)])
    with VideoReader(path) as reader:
        times_s = [frame.time_s for frame in reader]
    assert (reader.fps, reader.assumed_rate) == (25, False)
    np.testing.assert_allclose(times_s, 0.04 * np.arange(100), atol=0.05)


def test_joined_mxf_files_have_the_rate_of_the_first(tmp_path):
    path = write_video(tmp_path / "a.mxf", *PLAYED[".mxf"])
    path.write_bytes(2 * path.read_bytes())
    with VideoReader(path) as reader:
        times_s = [frame.time_s for frame in reader]
    np.testing.assert_allclose(times_s, 0.04 * np.arange(2 * FRAMES), atol=1e-6)


def test_a_phone_that_lowers_its_rate_keeps_the_usual_one(tmp_path):
    path = write_at(tmp_path / "phone.mp4", np.cumsum([33] * 80 + [45] * 40).tolist())
    assert rate(path) == (pytest.approx(1000 / 33, rel=0.01), False)


@pytest.mark.parametrize("size_wh", [(160, 120), (720, 576)])
def test_raw_motion_jpeg_has_no_time_stamps_whatever_ffmpeg_takes_it_for(tmp_path, size_wh):
    path = tmp_path / "camera.mjpeg"
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8) for _ in range(5)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures))
    assert rate(path) == (25, True)


def test_a_single_picture_has_no_rate_to_assume(tmp_path):
    assert not rate(write_at(tmp_path / "one.mkv", [0]))[1]


def test_the_end_of_a_file_that_is_cut_off_tells_no_rate(tmp_path):
    """The pictures that are shown before its last one are missing: two of them would seem further apart."""
    whole = write_at(tmp_path / "whole.ts", [100 * i for i in range(20)]).read_bytes()
    path, lengths = tmp_path / "cut.ts", set()
    for size in range(564, len(whole) // 3, 188):
        path.write_bytes(whole[:size])
        with suppress(VideoError), VideoReader(path) as reader:
            lengths.add(len(list(reader)))
            assert reader.fps in (10, 25)  # 25: the codec's, of one picture
            assert not reader.assumed_rate
    assert {1, 2} <= lengths


@pytest.mark.skipif(not ODD.is_dir(), reason="the odd files are not here")
@pytest.mark.parametrize(
    ("name", "fps", "assumed"),
    [
        ("browser_no_duration.webm", 30, False),
        ("phone_27_89.mp4", 30, False),
        ("phone_29_85.mp4", 30, False),
        ("motion_events.mp4", 10, False),
        ("bursts.webm", 30, False),
        ("raw_10fps.h264", 10, True),
    ],
)
def test_odd_files_from_real_life(name, fps, assumed):
    assert rate(ODD / name) == (pytest.approx(fps, rel=0.025), assumed)
