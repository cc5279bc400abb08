"""Real files, written with PyAV, whole and damaged, through the real reader."""

from __future__ import annotations

import errno
import os
import sys
from fractions import Fraction
from pathlib import Path
from subprocess import run

import av
import numpy as np
import pytest

from svg_common.errors import ExitCode, SvgError
from svg_common.quantities import count_text
from svg_common.video.container import index_problem, missing_bytes
from svg_common.video.reader import UnreadableError, VideoError, VideoReader
from tests.refused import failing_disk, refused

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
PEDESTRIANS = SHARED / "video" / "pedestrians.avi"


def write_video(
    path: Path,
    frames: int = 40,
    fps: int = 10,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    ticks: list[int] | None = None,
    gop: int | None = None,
) -> Path:
    """Frame i is noise with a gray level of 5 i in its left half. `ticks`: time of each frame in 1/1000 s."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 3_000_000
        if gop:
            stream.gop_size = gop
        if ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            image[:, :48] = 5 * i
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if ticks:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float, name: str) -> Path:
    content = path.read_bytes()
    target = path.with_name(name)
    target.write_bytes(content[: int(len(content) * share)])
    return target


def shown_index(image: np.ndarray) -> int:
    """Which frame of `write_video` this is, by its gray level."""
    return round(float(image[8:56, 8:40].mean()) / 5)


@pytest.mark.parametrize(
    ("name", "codec", "fps"),
    [
        ("plain.avi", "mpeg4", 10),
        ("b_frames.avi", "libx264", 10),  # AVI has no presentation times: FFmpeg's are out of order with B-frames
        ("b_frames.mp4", "libx264", 25),
        ("b_frames.mkv", "libx264", 25),
        ("starts_late.ts", "libx264", 25),  # transport streams do not start at time 0
        ("plain.webm", "libvpx", 30),
    ],
)
def test_every_frame_comes_in_order_with_its_time(tmp_path, name, codec, fps):
    path = write_video(tmp_path / name, 40, fps, codec)
    with VideoReader(path) as reader:
        frames = list(reader)
    assert reader.fps == fps
    assert reader.problem is None
    assert [shown_index(frame.image) for frame in frames] == list(range(40))
    # Matroska keeps milliseconds; the others keep the exact tick.
    tolerance = 5.1e-4 if path.suffix in (".mkv", ".webm") else 1e-9
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(40) / fps, atol=tolerance)
    assert all(frame.image.shape == (64, 96, 3) and frame.image.dtype == np.uint8 for frame in frames)


def test_colours_are_rgb(tmp_path):
    path = tmp_path / "red.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        image = np.zeros((64, 64, 3), np.uint8)
        image[..., 0] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    red, green, blue = next(VideoReader(path)).image.mean((0, 1))
    assert red > 230
    assert green < 25
    assert blue < 25


def test_variable_rate_keeps_each_frame_s_own_time(tmp_path):
    ticks = [0, 40, 80, 200, 240, 280, 1000, 1040]
    path = write_video(tmp_path / "phone.mp4", len(ticks), 25, "libx264", ticks=ticks)
    with VideoReader(path) as reader:
        times = [frame.time_s for frame in reader]
    np.testing.assert_allclose(times, np.array(ticks) / 1000, atol=1e-3)


def test_a_phone_s_portrait_video_is_upright(tmp_path):
    path = write_video(tmp_path / "portrait.mp4", 3, 25, "libx264")
    upright = next(VideoReader(path)).image
    content = bytearray(path.read_bytes())
    # The 3x3 matrix of the track header, 16.16 fixed point (the last column 2.30): make it a quarter turn clockwise.
    matrix = content.index(b"tkhd") + 4 + 40
    one, minus_one, zero = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True), bytes(4)
    content[matrix : matrix + 24] = zero + one + zero + minus_one + zero + zero
    path.write_bytes(content)
    turned = next(VideoReader(path)).image
    assert turned.shape == (96, 64, 3)
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "a.avi"), ("libx264", "b.avi"), ("libx264", "c.mkv")])
def test_a_truncated_file_gives_its_front_part_and_reports_it(tmp_path, codec, name):
    whole = write_video(tmp_path / name, codec=codec)
    with VideoReader(cut(whole, 0.6, f"cut_{name}")) as reader:
        frames = [shown_index(frame.image) for frame in reader]
    assert 15 <= len(frames) < 30
    assert frames == list(range(len(frames)))
    assert reader.problem is not None
    assert "the file is truncated" in reader.problem
    assert f"{len(frames)} frames could be read" in reader.problem


def test_a_single_frame_and_byte_are_counted_as_one(tmp_path):
    with VideoReader(cut(write_video(tmp_path / "whole.avi"), 0.07, "cut.avi")) as reader:
        assert len(list(reader)) == 1
        assert "; 1 frame could be read" in reader.problem
    short = write_video(tmp_path / "short.mkv")
    short.write_bytes(short.read_bytes()[:-1])
    with VideoReader(short) as reader:
        assert len(list(reader)) == 40
        assert reader.problem == "the file is truncated: 1 byte is missing at its end; 40 frames could be read"


@pytest.mark.parametrize(("name", "codec"), [("a.ivf", "libvpx"), ("a.ts", "libx264")])
@pytest.mark.parametrize("number", [0, 1])
def test_a_recording_that_is_cut_within_its_first_pictures_shows_no_half_picture(tmp_path, name, codec, number):
    whole = write_video(tmp_path / name, 5, 25, codec, gop=12)
    with av.open(str(whole)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.size]
    middle = (begins[number] + begins[number + 1]) // 2
    whole.write_bytes(whole.read_bytes()[: middle // 188 * 188 + 100])  # within a packet of the transport stream
    shown: list[int] = []
    try:
        with VideoReader(whole) as reader:
            shown += [shown_index(frame.image) for frame in reader]
        problem = str(reader.problem)
    except VideoError as error:
        problem = error.reason
    assert shown == list(range(number))
    assert f"{count_text(number, 'frame')} could be read" in problem


def test_a_truncation_between_two_frames_is_noticed_too(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", codec="libx264", options={"movflags": "+faststart"})
    with av.open(str(whole)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux(video=0) if packet.size)
    short = tmp_path / "short.mp4"
    short.write_bytes(whole.read_bytes()[: ends[20]])
    with VideoReader(short) as reader:
        assert 15 <= len(list(reader)) <= 21
    assert reader.problem is not None
    assert "the file is truncated" in reader.problem


def test_a_damaged_middle_costs_the_frames_up_to_the_next_key_frame(tmp_path):
    path = write_video(tmp_path / "scratched.mp4", codec="libx264", options={"movflags": "+faststart"}, gop=5)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    position, size = packets[20]
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    with VideoReader(path) as reader:
        frames = list(reader)
    assert reader.problem is not None
    assert 30 <= len(frames) < 40
    assert frames[-1].time_s == pytest.approx(3.9)  # the clock keeps the gap


@pytest.mark.parametrize(
    ("name", "content"), [("empty.mp4", b""), ("text.mp4", b"not a video\n" * 500), ("zeros.avi", bytes(5000))]
)
def test_files_that_are_not_videos_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=name) as caught:
        VideoReader(path)
    assert "expected" in str(caught.value)
    assert caught.value.exit_code == ExitCode.ERROR


def test_an_mp4_without_its_index_is_refused(tmp_path):
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        VideoReader(cut(write_video(tmp_path / "whole.mp4", codec="libx264"), 0.5, "cut.mp4"))


def test_missing_folder_and_sound_are_refused(tmp_path):
    with pytest.raises(VideoError, match="No such file"):
        VideoReader(tmp_path / "nothing.mp4")
    with pytest.raises(VideoError, match="directory"):
        VideoReader(tmp_path)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="without a video stream"):
        VideoReader(sound)


def test_a_codec_that_ffmpeg_does_not_know_is_refused(tmp_path):
    """A file of a newer program, or a damaged header: the stream is there, and no decoder for it."""
    content = write_video(tmp_path / "a.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(content.replace(b"FMP4", b"\x01\x02\x03\x04"))
    with pytest.raises(VideoError, match="no decoder"):
        VideoReader(tmp_path / "b.avi")


def test_a_playlist_cannot_open_connections(tmp_path):
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        VideoReader(playlist)


def test_closing_early_ends_the_iteration(tmp_path):
    reader = VideoReader(write_video(tmp_path / "a.avi"))
    next(reader)
    reader.close()
    reader.close()
    assert list(reader) == []


def test_missing_bytes_are_counted_by_the_header(tmp_path):
    for name, codec in (("a.avi", "mpeg4"), ("b.mp4", "mpeg4"), ("c.mkv", "mpeg4")):
        whole = write_video(tmp_path / name, codec=codec)
        size = whole.stat().st_size
        assert missing_bytes(whole) == 0
        whole.write_bytes(whole.read_bytes()[:-100])
        assert missing_bytes(whole) == 100, name
        whole.write_bytes(whole.read_bytes()[: size // 2])
        assert missing_bytes(whole) > 0.4 * size, name  # what follows an MP4's cut media data is not announced
    other = tmp_path / "other.bin"
    other.write_bytes(b"\x1a\x45\xdf\xa3")  # no more than the first mark of a Matroska file
    assert missing_bytes(other) == 0


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM])
def test_a_machine_that_is_short_is_not_the_file_s_fault(tmp_path, monkeypatch, number):
    clip = write_video(tmp_path / "clip.mp4", 3, codec="libx264")

    def short(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(av, "open", short)
    with pytest.raises(SvgError, match=rf"cannot open '.*clip.mp4' now: {os.strerror(number)}\n.*run this again") as caught:
        VideoReader(clip)
    assert not isinstance(caught.value, VideoError)
    assert caught.value.exit_code == ExitCode.ERROR


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
def test_a_file_that_may_not_be_read_now_is_not_called_broken(tmp_path, monkeypatch, number):
    clip = write_video(tmp_path / "clip.mp4", 3)

    def failing(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(av, "open", failing)
    message = rf"cannot read '.*clip.mp4' now: {os.strerror(number)}\n  check the rights.*run this again"
    with pytest.raises(UnreadableError, match=message) as caught:
        VideoReader(clip)
    assert caught.value.reason == os.strerror(number)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize("name", ["a.avi", "b.mp4", "c.mkv"])
def test_a_disk_that_fails_in_the_middle_is_not_damage(tmp_path, name, number):
    clip = write_video(tmp_path / name)
    with failing_disk(name, number), VideoReader(clip) as reader, pytest.raises(UnreadableError, match=os.strerror(number)):
        list(reader)


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM])
def test_an_error_that_damage_has_too_is_of_the_disk_if_the_file_cannot_be_read(tmp_path, number):
    clip = write_video(tmp_path / "clip.avi")
    with failing_disk("clip.avi", number), VideoReader(clip) as reader:
        read = len(list(reader))
    assert 0 < read < 40
    with (
        failing_disk("clip.avi", number),
        refused(clip, errno.EIO),
        VideoReader(clip) as reader,
        pytest.raises(UnreadableError),
    ):
        list(reader)


def test_an_index_that_the_disk_does_not_give_is_not_a_broken_one(tmp_path):
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "whole.mp4").read_bytes()[:4000])  # as FFmpeg then sees it
    with refused(tmp_path / "cut.mp4", errno.EIO), pytest.raises(UnreadableError, match="Input/output error"):
        VideoReader(tmp_path / "cut.mp4")
    with pytest.raises(VideoError, match="the recording was not finished") as caught:
        VideoReader(tmp_path / "cut.mp4")
    assert not isinstance(caught.value, UnreadableError)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become a user without threads")
def test_a_machine_without_threads_to_decode_is_not_the_file_s_fault(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 3, codec="libx264")
    script = """
import os, resource, sys
import av
from svg_common.errors import SvgError
from svg_common.video.reader import VideoReader
with open(sys.argv[1], "rb") as held:
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    os.setuid(65534)
    try:
        VideoReader("/proc/self/fd/" + str(held.fileno()))
    except SvgError as error:
        print(type(error).__name__, str(error).partition("now: ")[2])
"""
    done = run([sys.executable, "-c", script, str(clip)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SvgError Resource temporarily unavailable"), done


def test_pyav_loads_only_when_a_file_is_opened():
    code = "import sys, svg_common.video.reader; sys.exit('av' in sys.modules or 'torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not PEDESTRIANS.exists(), reason="the sample clip is not here")
def test_a_real_surveillance_clip(tmp_path):
    with VideoReader(PEDESTRIANS) as reader:
        times = [frame.time_s for frame in reader]
    assert reader.problem is None
    np.testing.assert_allclose(times, np.arange(795) / 10)
    content = PEDESTRIANS.read_bytes()
    half = tmp_path / "half.avi"
    half.write_bytes(content[: len(content) // 2])
    with VideoReader(half) as reader:
        assert 380 < sum(1 for _ in reader) < 440
    assert reader.problem is not None


def boxes(path: Path) -> dict[bytes, bytes]:
    """The top-level boxes of an MP4 or MOV file."""
    content, found, at = path.read_bytes(), {}, 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found[content[at + 4 : at + 8]] = content[at : at + size]
        at += size
    return found


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".3gp"])
@pytest.mark.parametrize("cut", ["no index", "half of the pictures", "no size yet"])
def test_a_recording_without_its_index_was_not_finished(tmp_path, suffix, cut):
    whole = tmp_path / f"whole{suffix}"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    parts = boxes(whole)
    assert list(parts)[-1] == b"moov"
    pictures = parts[b"mdat"]
    cuts = {
        "no index": pictures,
        "half of the pictures": pictures[: len(pictures) // 2],
        "no size yet": bytes(4) + pictures[4:],
    }
    unfinished = tmp_path / f"cut{suffix}"
    unfinished.write_bytes(b"".join(box for kind, box in parts.items() if kind not in (b"moov", b"mdat")) + cuts[cut])
    with pytest.raises(VideoError, match=r"the recording was not finished.*no index \(moov\); copy it whole"):
        VideoReader(unfinished)


@pytest.mark.parametrize("options", [{}, {"movflags": "+faststart"}, {"movflags": "frag_keyframe+empty_moov"}])
@pytest.mark.parametrize("kept", [0, 4, 8, 400])  # bytes of the index
def test_an_index_that_is_cut_is_said(tmp_path, options, kept):
    whole = write_video(tmp_path / "whole.mp4", codec="libx264", options=options)
    index = boxes(whole)[b"moov"]
    content = whole.read_bytes()
    short = tmp_path / "short.mp4"
    short.write_bytes(content[: content.index(index) + kept])
    with pytest.raises(VideoError) as error:
        VideoReader(short)
    cut = f"its index (moov) is cut: {len(index) - kept} bytes are missing"
    assert ("it has no index (moov)" if kept < 8 else cut) in error.value.reason
    assert "copy it whole, or wait until its recorder has ended" in error.value.reason
    short.write_bytes(content[: content.index(index) + len(index) - 1])
    assert index_problem(short) == "its index (moov) is cut: 1 byte is missing"


def test_other_damage_is_not_called_unfinished(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 1000)
    with pytest.raises(VideoError) as error:
        VideoReader(tmp_path / "noise.mp4")
    assert "finished" not in str(error.value)
