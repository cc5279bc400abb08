"""The film of a container is read, never a cover, a thumbnail or the tile of a still picture."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from svg_common.video.reader import VideoError, VideoReader

ODD = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "odd"
FILM_HW, COVER_HW = (64, 96), (200, 200)


def gray(height: int, width: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, np.uint8), format="rgb24")


def with_cover(path: Path, film: bool = True, attached: bool = False, cover: str = "mjpeg", sound: str = "") -> Path:
    """A container whose first stream is a larger picture."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(cover, rate=10)
        picture.height, picture.width = COVER_HW
        picture.pix_fmt = "yuvj420p" if cover == "mjpeg" else "rgb24"
        if attached:
            picture.disposition = Disposition.attached_pic
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=10) if film else None
        audio = container.add_stream(sound, rate=44_100, layout="mono") if sound else None
        if stream is not None:
            stream.height, stream.width, stream.pix_fmt = *FILM_HW, "yuv420p"
        still = gray(*COVER_HW)
        still.pts = 0
        packets = [*picture.encode(still), *picture.encode()]
        if stream is not None:
            packets += [packet for _ in range(12) for packet in stream.encode(gray(*FILM_HW))] + stream.encode()
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 44_100, 0
            packets += [*audio.encode(silence), *audio.encode()]
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi", "film.nut", "film.ts"])
@pytest.mark.parametrize("attached", [False, True])
def test_the_film_is_read_although_a_cover_comes_first_and_is_larger(tmp_path, name, attached):
    with VideoReader(with_cover(tmp_path / name, attached=attached)) as reader:
        frames = list(reader)
    assert len(frames) == 12
    assert {frame.image.shape[:2] for frame in frames} == {FILM_HW}


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "film.nut", "film.mov"])
@pytest.mark.parametrize("stills", [1, 2])
def test_a_thumbnail_in_a_codec_for_films_is_not_the_film(tmp_path, name, stills):
    """Matroska and MPEG-TS do not say how many pictures a stream has."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, (height, width) in zip(streams, (COVER_HW, FILM_HW), strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        packets = [packet for _ in range(stills) for packet in streams[0].encode(gray(*COVER_HW))]
        packets += [packet for _ in range(30) for packet in streams[1].encode(gray(*FILM_HW))]
        for packet in [*packets, *streams[0].encode(), *streams[1].encode()]:
            container.mux(packet)
    with VideoReader(path) as reader:
        frames = list(reader)
    assert len(frames) == 30
    assert frames[0].image.shape[:2] == FILM_HW


def test_a_cover_as_png_is_not_the_film_either(tmp_path):
    with VideoReader(with_cover(tmp_path / "film.mov", cover="png")) as reader:
        assert {frame.image.shape[:2] for frame in reader} == {FILM_HW}


@pytest.mark.parametrize(
    ("name", "sound"), [("song.mp3", "libmp3lame"), ("song.flac", "flac"), ("song.mp4", "libmp3lame"), ("song.mkv", "flac")]
)
def test_music_with_a_cover_is_refused_as_that(tmp_path, name, sound):
    with pytest.raises(VideoError, match="it has a cover or a still picture, but no video"):
        VideoReader(with_cover(tmp_path / name, film=False, attached=True, sound=sound))


def test_a_film_in_a_codec_for_pictures_is_a_film(tmp_path):
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *FILM_HW, "yuvj420p"
        for _ in range(5):
            container.mux(stream.encode(gray(*FILM_HW)))
        container.mux(stream.encode())
    with VideoReader(path) as reader:
        assert len(list(reader)) == 5


def test_an_animated_avif_is_read_and_a_still_one_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    if not pytest.importorskip("PIL.features").check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    animated, still = tmp_path / "animated.avif", tmp_path / "still.avif"
    pictures = [image.fromarray(np.full((*FILM_HW, 3), 20 * i, np.uint8)) for i in range(8)]
    pictures[0].save(animated, save_all=True, append_images=pictures[1:], duration=100)
    pictures[0].save(still)
    with VideoReader(animated) as reader:
        levels = [frame.image.mean() for frame in reader]
    np.testing.assert_allclose(levels, [20 * i for i in range(8)], atol=3)
    with pytest.raises(VideoError, match=r"a still picture \(HEIC or AVIF\), not a video; convert it to PNG or JPEG"):
        VideoReader(still)


@pytest.mark.parametrize("tiles", [1, 4])
def test_a_heic_picture_is_refused_and_its_tiles_are_no_films(tmp_path, tiles):
    path = tmp_path / "photo.heic"
    path.write_bytes(heic(tmp_path, tiles))
    with pytest.raises(VideoError, match=r"a still picture \(HEIC or AVIF\), not a video; convert it to PNG or JPEG"):
        VideoReader(path)


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def heic(folder: Path, tiles: int) -> bytes:
    """A picture as phones write it (ISO/IEC 23008-12): one HEVC picture, or a grid of several."""
    with av.open(str(folder / "tile.mp4"), "w") as container:
        stream = container.add_stream("libx265", rate=1, options={"x265-params": "bframes=0:log-level=none"})
        stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
        for _ in range(2):  # x265 numbers a single picture wrongly
            container.mux(stream.encode(gray(128, 128)))
        container.mux(stream.encode())
    with av.open(str(folder / "tile.mp4")) as container:
        configuration = bytes(container.streams.video[0].codec_context.extradata)
        tile = next(bytes(packet) for packet in container.demux(video=0) if packet.size)
    is_grid = tiles > 1
    items = tiles + is_grid  # the grid is the last item
    kinds = [b"hvc1"] * tiles + [b"grid"] * is_grid
    grid = struct.pack(">BBBBHH", 0, 0, tiles // 2 - 1, 1, 256, 64 * tiles) if is_grid else b""
    entries = [full_box(b"infe", 2, struct.pack(">HH4s", i, 0, kind), b"\0") for i, kind in enumerate(kinds, 1)]
    sizes = [full_box(b"ispe", 0, struct.pack(">II", *hw)) for hw in ((128, 128), (256, 64 * tiles))]
    links = [struct.pack(">HBBB", i, 2, 0x81, 2) for i in range(1, tiles + 1)] + [struct.pack(">HBB", items, 1, 3)] * is_grid
    tile_numbers = b"".join(struct.pack(">H", i) for i in range(1, tiles + 1))
    associations = full_box(b"ipma", 0, struct.pack(">I", items), *links)
    references = full_box(b"iref", 0, box(b"dimg", struct.pack(">HH", items, tiles), tile_numbers)) if is_grid else b""

    def description(offset: int) -> bytes:
        places = [struct.pack(">HHHHII", i + 1, 0, 0, 1, offset + i * len(tile), len(tile)) for i in range(tiles)]
        places += [struct.pack(">HHHHII", items, 1, 0, 1, 0, len(grid))] * is_grid
        return full_box(
            b"meta", 0,
            full_box(b"hdlr", 0, struct.pack(">I4s", 0, b"pict"), bytes(13)),
            full_box(b"pitm", 0, struct.pack(">H", items)),
            full_box(b"iloc", 1, struct.pack(">BBH", 0x44, 0, items), *places),
            full_box(b"iinf", 0, struct.pack(">H", items), *entries),
            references,
            box(b"iprp", box(b"ipco", box(b"hvcC", configuration), *sizes), associations),
            box(b"idat", grid),
        )  # fmt: skip

    brand = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    offset = len(brand) + len(description(0)) + 8
    return brand + description(offset) + box(b"mdat", tile * tiles)


@pytest.mark.skipif(not ODD.exists(), reason="the sample files are not here")
@pytest.mark.parametrize("name", ["cover_first.mp4", "two_streams.mp4"])
def test_real_films_with_a_picture_first(name):
    with VideoReader(ODD / name) as reader:
        assert [frame.image.shape for frame in reader] == [(240, 320, 3)] * 40
