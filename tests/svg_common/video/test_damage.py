"""What depends on a damaged picture is left out: real streams, damaged packet by packet."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.quantities import count_text
from svg_common.video.reader import VideoReader

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
DAMAGED, ENDED = SHARED / "odd" / "damaged_picture.mp4", SHARED / "clips" / "test" / "intel_car-detection.mp4"
FPS, PICTURES, GOP = 10, 60, 20
ENDS = {  # with their start codes, as a muxer leaves them where it takes them for the rest of a picture
    "h264 sequence": b"\0\0\0\1\x0a", "h264 stream": b"\0\0\1\x0a\0\0\1\x0b", "hevc sequence": b"\0\0\0\1\x48\1",
    "hevc stream": b"\0\0\1\x4a\1\0",
}  # fmt: skip
X264 = {"x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:log-level=none"}


def film(path: Path, codec: str, options: dict[str, str], pictures: int = PICTURES) -> Path:
    """A texture that moves by two pixels a picture, so that every picture differs from the others."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (96 + 2 * pictures, 128, 3), dtype=np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.gop_size = 128, 96, GOP
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(pictures):
            image = np.ascontiguousarray(texture[2 * i : 2 * i + 96])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def with_packet(path: Path, number: int, damage: str) -> Path:
    """The same film with one packet cut after its first third, or filled with noise, or with zeros in its second third.

    Or with a unit that ends the sequence inside its last unit.
    """
    target = path.with_stem(f"{path.stem}_{damage}{number}")
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for i, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            data = bytearray(bytes(packet))
            if i == number and damage == "cut":
                data = data[: len(data) // 3]
            elif i == number and damage == "zeros":
                data[len(data) // 3 : 2 * len(data) // 3] = bytes(2 * len(data) // 3 - len(data) // 3)
            elif i == number and damage in ENDS:
                data = with_last_unit_longer(data, ENDS[damage])
            elif i == number:
                data[len(data) // 3 :] = np.random.default_rng(0).bytes(len(data) - len(data) // 3)
            sent = av.Packet(bytes(data))
            sent.pts, sent.dts, sent.time_base = packet.pts, packet.dts, packet.time_base
            sent.is_keyframe, sent.stream = packet.is_keyframe, copy
            container.mux(sent)
    return target


def with_last_unit_longer(data: bytearray, more: bytes) -> bytearray:
    """A packet of units with their lengths in four bytes, of which the last one has got `more` bytes."""
    last = end = 0
    while end < len(data):
        last, end = end, end + 4 + int.from_bytes(data[end : end + 4], "big")
    return data[:last] + (end - last - 4 + len(more)).to_bytes(4, "big") + data[last + 4 :] + more


def pictures_by_number(path: Path) -> tuple[dict[int, np.ndarray], str | None]:
    with VideoReader(path) as reader:
        return {round(frame.time_s * FPS): frame.image for frame in reader}, reader.problem


def smeared(shown: dict[int, np.ndarray], truth: dict[int, np.ndarray]) -> list[int]:
    return [number for number, image in shown.items() if np.abs(image.astype(int) - truth[number]).mean() > 0.3]


@pytest.mark.parametrize(
    ("name", "codec", "options", "damage"),
    [
        ("plain.mp4", "libx264", {**X264, "bf": "0"}, "cut"),
        ("b_frames.mp4", "libx264", {**X264, "bf": "3"}, "cut"),
        ("b_frames.mkv", "libx264", {**X264, "bf": "3"}, "cut"),
        ("hole.mp4", "libx264", {**X264, "bf": "3"}, "zeros"),
        ("hole.mkv", "libx265", {"x265-params": f"keyint={GOP}:log-level=none"}, "zeros"),
        ("hole.ts", "libx264", {**X264, "bf": "0"}, "zeros"),
        ("hole.avi", "libx264", {**X264, "bf": "0"}, "zeros"),
        ("hole.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4M"}, "zeros"),
        ("hole8.webm", "libvpx", {"deadline": "realtime", "crf": "4", "b": "4M"}, "zeros"),
        ("old.avi", "mpeg4", {}, "noise"),
        ("disc.mkv", "mpeg2video", {"bf": "2"}, "noise"),
        ("open_gop.mp4", "libx265", {"x265-params": f"keyint={GOP}:open-gop=1:log-level=none"}, "cut"),
    ],
)
@pytest.mark.parametrize("number", [21, 30, 36])  # soon after a key frame, in the middle, soon before the next
def test_no_smeared_picture_is_shown_and_the_next_key_frame_ends_the_wait(tmp_path, name, codec, options, damage, number):
    whole = film(tmp_path / name, codec, options)
    truth, no_problem = pictures_by_number(whole)
    assert no_problem is None
    assert len(truth) == PICTURES
    shown, problem = pictures_by_number(with_packet(whole, number, damage))
    assert smeared(shown, truth) == []
    left_out = PICTURES - len(shown)
    assert 1 <= left_out <= GOP + 6  # B-frames before the damage may depend on it
    assert set(range(2 * GOP, PICTURES)) <= set(shown)  # and the time of what follows is kept
    assert problem is not None
    assert f"{count_text(left_out, 'frame')} up to the next key frame left out" in problem
    assert f"{len(shown)} frames could be read" in problem


@pytest.mark.parametrize("name", ["camera.avi", "camera.mkv"])
@pytest.mark.parametrize("damage", ["noise", "zeros"])
def test_a_damaged_picture_of_motion_jpeg_costs_only_itself(tmp_path, name, damage):
    whole = film(tmp_path / name, "mjpeg", {})
    truth, _ = pictures_by_number(whole)
    shown, problem = pictures_by_number(with_packet(whole, 30, damage))
    assert smeared(shown, truth) == []
    assert sorted(shown) == [number for number in range(PICTURES) if number != 30]
    assert problem is not None
    assert "1 frame up to the next key frame left out" in problem


@pytest.fixture
def usual_priority() -> Iterator[None]:
    """As root, SVT-AV1 lets its process run before all others, and what this starts later inherits that."""
    yield
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.usefixtures("usual_priority")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1"])
def test_black_pictures_are_not_holes(tmp_path, codec):
    path = tmp_path / "night.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((1080, 1920, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    shown, problem = pictures_by_number(path)
    assert len(shown) == 4
    assert problem is None


def test_motion_jpeg_whose_pictures_all_end_too_early_is_shown(tmp_path):
    _, jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(5 * (jpeg.tobytes()[:-200] + b"\xff\xd9"))
    with VideoReader(path) as reader:
        assert len(list(reader)) == 5
    assert reader.problem is None


def test_a_loss_in_a_key_frame_of_a_transport_stream_is_not_taken_for_one_in_the_picture_before(tmp_path):
    whole = film(tmp_path / "whole.ts", "libx265", {"x265-params": f"keyint={GOP}:bframes=0:log-level=none"})
    truth, _ = pictures_by_number(whole)
    with av.open(str(whole)) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
    content = whole.read_bytes()
    lost = tmp_path / "lost.ts"
    lost.write_bytes(content[: keys[1] + 3 * 188] + content[keys[1] + 4 * 188 :])
    shown, problem = pictures_by_number(lost)
    assert smeared(shown, truth) == []
    assert set(range(2 * GOP, PICTURES)) <= set(shown)
    assert problem is not None


def test_a_hole_in_the_first_picture_costs_all_up_to_the_second_key_frame(tmp_path):
    whole = film(tmp_path / "film.mp4", "libx264", {**X264, "bf": "0"})
    shown, problem = pictures_by_number(with_packet(whole, 0, "zeros"))
    assert len(shown) == PICTURES - GOP
    assert problem is not None
    assert f"{GOP} frames up to the next key frame left out" in problem


def test_lost_packets_of_a_transport_stream_are_damage(tmp_path):
    whole = film(tmp_path / "whole.ts", "libx264", {**X264, "bf": "0"})
    truth, _ = pictures_by_number(whole)
    content = whole.read_bytes()
    middle = len(content) // 188 // 2
    losses = 0
    for lost in range(middle, middle + 6):
        short = tmp_path / "short.ts"
        short.write_bytes(content[: 188 * lost] + content[188 * (lost + 1) :])
        shown, problem = pictures_by_number(short)
        assert smeared(shown, truth) == []
        losses += problem is not None
    assert losses >= 1


VP8 = {"deadline": "realtime", "cpu-used": "8"}


def test_a_damaged_page_of_ogg_is_damage_of_its_stream_alone(tmp_path):
    """FFmpeg leaves pages out whose checksum is wrong, and does not say so."""
    whole = film(tmp_path / "whole.ogv", "libvpx", VP8)
    truth, no_problem = pictures_by_number(whole)
    assert no_problem is None
    content = whole.read_bytes()
    pages = [found.start() for found in re.finditer(b"OggS", content)]
    damaged = tmp_path / "damaged.ogv"
    for page in range(3, len(pages)):
        at = pages[page] + (100 if page % 2 else 0)  # in a picture, or in the head of the page
        damaged.write_bytes(content[:at] + np.random.default_rng(0).bytes(50) + content[at + 50 :])
        shown, problem = pictures_by_number(damaged)
        if page == 3:  # after the first key frame: time begins with the second one
            shown = {GOP + number: image for number, image in shown.items()}
        assert shown
        assert smeared(shown, truth) == []
        assert problem is not None
        assert "damaged" in problem if page < len(pages) - 1 else "truncated" in problem
        of_another_stream = bytearray(content[pages[2] : pages[3]])
        of_another_stream[14:18] = b"here"
        damaged.write_bytes(content[: pages[page]] + of_another_stream + content[pages[page] :])
        assert pictures_by_number(damaged)[1] is None


def test_an_ogg_file_that_is_cut_is_truncated(tmp_path):
    whole = film(tmp_path / "whole.ogv", "libvpx", VP8)
    content = whole.read_bytes()
    whole.write_bytes(content[: 2 * len(content) // 3])
    shown, problem = pictures_by_number(whole)
    assert 0 < len(shown) < PICTURES
    assert problem == f"the file is truncated: it ends within a picture; {len(shown)} frames could be read"
    whole.write_bytes(content + b"appended by some program")
    assert pictures_by_number(whole)[1] is None


def test_a_recording_that_starts_between_key_frames_is_not_damaged(tmp_path):
    content = film(tmp_path / "whole.ts", "libx265", {"x265-params": f"keyint={GOP}:log-level=none"}).read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(content[188 * (len(content) // 188 // 5) :])
    shown, problem = pictures_by_number(late)
    assert problem is None
    assert min(shown) == 0
    assert len(shown) == PICTURES - GOP


def test_a_stream_without_key_frames_is_not_lost_for_ever(tmp_path):
    refreshed = {"x264-params": "intra-refresh=1:keyint=30:bframes=0:log-level=none"}
    whole = film(tmp_path / "refreshed.mp4", "libx264", refreshed, pictures=350)
    truth, _ = pictures_by_number(whole)
    shown, problem = pictures_by_number(with_packet(whole, 20, "cut"))
    assert problem is not None
    assert smeared(shown, truth) == []
    assert sorted(shown) == [*range(20), *range(321, 350)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("number", [40, PICTURES - 1])  # a key frame, the last picture
def test_the_end_of_a_sequence_inside_the_last_unit_is_no_hole_and_hides_none(tmp_path, end, number):
    codec, options = ("libx264", X264) if "h264" in end else ("libx265", {"x265-params": f"keyint={GOP}:log-level=none"})
    whole = film(tmp_path / "film.mp4", codec, options)
    shown, problem = pictures_by_number(with_packet(whole, number, end))
    assert problem is None
    assert len(shown) == PICTURES
    holed = with_packet(with_packet(whole, 40, "zeros"), 40, end)
    assert pictures_by_number(holed)[1] is not None


@pytest.mark.skipif(not ENDED.exists(), reason="the sample file is not here")
def test_a_real_clip_whose_last_unit_holds_the_end_of_its_sequence_is_whole():
    with VideoReader(ENDED) as reader:
        assert len(list(reader)) == 377
    assert reader.problem is None


@pytest.mark.skipif(not DAMAGED.exists(), reason="the sample file is not here")
def test_one_damaged_picture_of_a_real_clip_costs_up_to_the_key_frame():
    shown, problem = pictures_by_number(DAMAGED)
    assert sorted(shown) == [*range(10), *range(50, 100)]
    assert problem is not None
    assert "40 frames up to the next key frame left out" in problem
