"""Recordings that were written one after the other into a file, with time stamps and counters that begin anew."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from svg_common.video.reader import VideoReader
from svg_common.video.transport import ts_layout
from tests.svg_common.video.test_damage import GOP, X264, film, pictures_by_number, smeared

TICK = 9000  # a tenth of a second in units of MPEG's time stamps
WRAP = 1 << 33
PICTURES = 30
X265 = {"x265-params": f"keyint={GOP}:log-level=none"}


def piece(
    path: Path, first_stamp: int, first: int = 0, count: int = PICTURES, muxer: dict[str, str] | None = None, b_frames: int = 0
) -> bytes:
    """A recording whose pictures show their number as white and black bars, its bits."""
    options = {"mpegts_copyts": "1", **(muxer or {})}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10, options={**X264, "bf": str(b_frames)})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        for number in range(first, first + count):
            bits = np.array([255 * (number >> place & 1) for place in range(8)], np.uint8)
            image = np.broadcast_to(bits.repeat(8)[None, :, None], (48, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = first_stamp + TICK * (number - first)
            frame.time_base = Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def shown(path: Path) -> tuple[list[int], np.ndarray, str | None]:
    """Numbers of the pictures of `piece` that are shown, the distances of their times, and the problem."""
    with VideoReader(path) as reader:
        frames = list(reader)
    bits = [frame.image.mean((0, 2)).reshape(8, 8).mean(1) > 128 for frame in frames]
    numbers = [sum(1 << place for place in range(8) if seen[place]) for seen in bits]
    return numbers, np.diff([frame.time_s for frame in frames]), reader.problem


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("plain.ts", "libx264", {**X264, "bf": "0"}),
        ("b_frames.ts", "libx264", {**X264, "bf": "3"}),
        ("b_frames.m2ts", "libx264", {**X264, "bf": "3"}),
        ("hevc.ts", "libx265", X265),
        ("open_gop.ts", "libx265", {"x265-params": f"keyint={GOP}:open-gop=1:log-level=none"}),
        ("old.ts", "mpeg4", {}),
    ],
)
def test_joined_recordings_are_read_whole(tmp_path, name, codec, options):
    part = film(tmp_path / name, codec, options)
    truth, _ = pictures_by_number(part)
    joined = tmp_path / f"joined_{name}"
    joined.write_bytes(3 * part.read_bytes())
    pictures, problem = pictures_by_number(joined)
    assert problem is None
    assert sorted(pictures) == list(range(3 * len(truth)))
    assert smeared(pictures, {number: truth[number % len(truth)] for number in pictures}) == []


@pytest.mark.parametrize("suffix", [".ts", ".m2ts"])
@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("gap", [0, 5])
def test_pieces_whose_time_goes_on_are_read_whole(tmp_path, suffix, b_frames, gap):
    """As recorders write them that begin a file every minute: only the counters begin anew."""
    parts = [
        piece(tmp_path / f"part{suffix}", TICK * (PICTURES + gap) * number, PICTURES * number, b_frames=b_frames)
        for number in range(3)
    ]
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(b"".join(parts))
    numbers, steps_s, problem = shown(joined)
    assert (numbers, problem) == (list(range(3 * PICTURES)), None)
    assert steps_s.max() == pytest.approx(0.1 * (gap + 1))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_time_stamps_that_wrap_around_go_on(tmp_path, b_frames):
    path = tmp_path / "long.ts"
    piece(path, WRAP - 15 * TICK, b_frames=b_frames)
    numbers, steps_s, problem = shown(path)
    assert (numbers, problem) == (list(range(PICTURES)), None)
    np.testing.assert_allclose(steps_s, 0.1, atol=1e-6)


@pytest.mark.parametrize("first_s", [100, 10_000, 90_000])
def test_a_recording_that_began_at_an_earlier_time_is_not_taken_for_a_wrap(tmp_path, first_s):
    """FFmpeg adds the 26 hours after which stamps wrap around."""
    joined = tmp_path / "joined.ts"
    joined.write_bytes(piece(tmp_path / "a.ts", 90_000 * first_s) + piece(tmp_path / "b.ts", 0, PICTURES))
    numbers, steps_s, problem = shown(joined)
    assert (numbers, problem) == (list(range(2 * PICTURES)), None)
    np.testing.assert_allclose(steps_s, 0.1, atol=1e-6)


def test_a_pause_over_a_wrap_stays_a_pause(tmp_path):
    joined = tmp_path / "joined.ts"
    joined.write_bytes(piece(tmp_path / "a.ts", WRAP - 90_000 * 100) + piece(tmp_path / "b.ts", 90_000 * 20, PICTURES))
    numbers, steps_s, problem = shown(joined)
    assert (numbers, problem) == (list(range(2 * PICTURES)), None)
    assert steps_s.max() == pytest.approx(120 - 0.1 * (PICTURES - 1))


def test_a_recording_that_begins_between_key_frames_shows_nothing_of_the_one_before(tmp_path):
    whole = piece(tmp_path / "a.ts", 0)
    with av.open(str(tmp_path / "a.ts")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(whole + whole[places[5] :])
    numbers, _, problem = shown(joined)
    assert numbers == [*range(PICTURES), *range(GOP, PICTURES)]
    assert problem is None


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_loss_before_a_key_frame_is_still_one(tmp_path, lost):
    """It looks like a join, but neither time nor counters begin anew."""
    whole = film(tmp_path / "whole.ts", "libx264", {**X264, "bf": "0"})
    truth, _ = pictures_by_number(whole)
    with av.open(str(whole)) as container:
        key = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe and packet.size][2]
    content = whole.read_bytes()
    tables = next(count for count in range(1, 9) if content[key - 188 * count + 1 : key - 188 * count + 3] == b"\x41\x00")
    end = key - 188 * (tables - 1)  # of the picture before
    short = tmp_path / "short.ts"
    short.write_bytes(content[: end - 188 * lost] + content[end:])
    pictures, problem = pictures_by_number(short)
    assert smeared(pictures, truth) == []
    assert problem is not None
    assert set(range(2 * GOP, len(truth))) <= set(pictures)


def test_a_cut_recording_before_a_join_shows_no_half_picture(tmp_path):
    whole = film(tmp_path / "whole.ts", "libx264", {**X264, "bf": "0"})
    truth, _ = pictures_by_number(whole)
    content = whole.read_bytes()
    with av.open(str(whole)) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(content[: keys[1] + 5 * 188] + content)
    with VideoReader(joined) as reader:
        images = [frame.image for frame in reader]
    assert reader.problem is not None
    assert len(images) == GOP + len(truth)
    expected = [*(truth[number] for number in range(GOP)), *truth.values()]
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(images, expected, strict=True)) < 0.3


@pytest.mark.parametrize("cut", [70, 100, 187])
@pytest.mark.parametrize("packets", [2, 3, 5, 6])
def test_a_recording_that_was_cut_within_a_packet_before_a_join_shows_no_half_picture(tmp_path, packets, cut):
    whole = film(tmp_path / "whole.ts", "libx264", {**X264, "bf": "0"})
    truth, _ = pictures_by_number(whole)
    content = whole.read_bytes()
    with av.open(str(whole)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(content[: places[45] + packets * 188 + cut] + content)
    with VideoReader(joined) as reader:
        images = [frame.image for frame in reader]
    assert reader.problem is not None
    assert len(truth) + 40 <= len(images) <= len(truth) + 48
    first = len(images) - len(truth)
    expected = [*(truth[number] for number in range(first)), *truth.values()]
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(images, expected, strict=True)) < 0.3


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(tmp_path):
    content = film(tmp_path / "whole.ts", "libx264", {**X264, "bf": "0"}).read_bytes()
    lossy = tmp_path / "lossy.ts"
    middle = len(content) // 188 // 2 * 188
    lossy.write_bytes(content[:middle] + content[middle + 5 * 188 :])
    with VideoReader(lossy) as reader:
        next(reader)
        lossy.unlink()
        assert len(list(reader)) > GOP
    assert reader.problem is not None


def test_two_bytes_make_no_transport_stream(tmp_path):
    whole = film(tmp_path / "film.avi", "mpeg4", {})
    with av.open(str(whole)) as container:
        last = [packet.pos for packet in container.demux(video=0) if packet.size][-1]
    content = bytearray(whole.read_bytes())
    for layout, begin in ((188, 0), (192, 4), (204, 0)):
        for count in (0, 1):
            content[last + begin - count * layout] = 0x47
    (tmp_path / "chance.avi").write_bytes(content)
    with (tmp_path / "chance.avi").open("rb") as file:
        assert ts_layout(file, last) is None
    transport = film(tmp_path / "film.ts", "libx264", X264)
    with transport.open("rb") as file:
        assert ts_layout(file, 0) == (188, 0)
        assert ts_layout(file, transport.stat().st_size - 188) == (188, 0)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.flv", "flv", "yuv420p"),
        ("a.asf", "mpeg4", "yuv420p"),
        ("a.apng", "apng", "rgb24"),
        ("a.y4m", "rawvideo", "yuv420p"),
        ("a.ivf", "libvpx", "yuv420p"),
    ],
)
def test_other_formats_of_which_the_first_alone_is_read_are_said(tmp_path, name, codec, pixels):
    whole = tmp_path / name
    with av.open(str(whole), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        rng = np.random.default_rng(0)
        for _ in range(12):
            image = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(whole) as reader:
        assert len(list(reader)) == 12
    assert reader.problem is None
    whole.write_bytes(whole.read_bytes() * 2)
    with VideoReader(whole) as reader:
        assert len(list(reader)) == 12
    assert "several files one after the other" in str(reader.problem)
    assert "12 frames could be read" in str(reader.problem)


def test_a_stream_that_appears_in_the_middle_is_said(tmp_path):
    other = {"mpegts_start_pid": "300", "mpegts_pmt_start_pid": "4200"}  # as of another camera
    joined = tmp_path / "joined.ts"
    joined.write_bytes(piece(tmp_path / "a.ts", 0) + piece(tmp_path / "b.ts", 0, PICTURES, muxer=other))
    numbers, _, problem = shown(joined)
    assert numbers == list(range(PICTURES))
    assert problem is not None
    assert "another stream, which is not read; 30 frames could be read" in problem


@pytest.mark.parametrize("muxer", [{}, {"movflags": "frag_keyframe+empty_moov"}])
def test_joined_mp4_files_are_not_read_in_silence(tmp_path, muxer):
    path = tmp_path / "joined.mp4"
    path.write_bytes(piece(tmp_path / "a.mp4", 0, muxer=muxer) + piece(tmp_path / "b.mp4", 0, PICTURES, muxer=muxer))
    numbers, _, problem = shown(path)
    assert numbers == list(range(PICTURES))
    assert problem is not None
    assert "several files one after the other" in problem
    assert "30 frames could be read" in problem
