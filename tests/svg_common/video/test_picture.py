"""A decoded frame becomes the picture that a viewer sees: upright, square pixels, right colours, eight bits."""

from __future__ import annotations

import gc
import logging
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.video.hdr import to_sdr
from svg_common.video.reader import VideoError, VideoReader

ODD = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "odd"
WIDTH, HEIGHT = 96, 64
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def quarters() -> np.ndarray:
    """(64, 96, 3): red, green / blue, black; all eight orientations of it differ."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:32, :48], image[:32, 48:], image[32:, :48] = RED, GREEN, BLUE
    return image


def colours_of_quarters(image: np.ndarray) -> list[tuple[int, ...]]:
    rows, columns = image.shape[:2]
    places = [(y, x) for y in (rows // 4, 3 * rows // 4) for x in (columns // 4, 3 * columns // 4)]
    return [tuple(np.where(image[place] > 128, 255, 0).tolist()) for place in places]


def write(
    path: Path,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    bit_stream_filter: str | None = None,
    frame: Callable[[], av.VideoFrame] = lambda: av.VideoFrame.from_ndarray(quarters(), format="rgb24"),
    pictures: int = 8,
    color_range: int | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        packets = [packet for _ in range(pictures) for packet in stream.encode(frame())] + list(stream.encode())
        if bit_stream_filter is not None:
            rewriter = av.bitstream.BitStreamFilterContext(bit_stream_filter, stream)
            packets = [packet for sent in [*packets, None] for packet in rewriter.filter(sent)]
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    return path


def images(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as reader:
        return [frame.image for frame in reader]


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """An MP4 with another display matrix (a, b, c, d) in its track header."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    fixed = [(value << 16).to_bytes(4, "big", signed=True) for value in matrix]
    content[start : start + 20] = fixed[0] + fixed[1] + bytes(4) + fixed[2] + fixed[3]
    target = path.with_stem("turned")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
        ((0, 0, 0, 0), lambda image: image),  # a broken header
    ],
)
def test_all_eight_orientations_of_a_container_are_upright(tmp_path, matrix, upright):
    shown = images(turned(write(tmp_path / "film.mp4"), matrix))
    assert {tuple(colours_of_quarters(image)) for image in shown} == {tuple(colours_of_quarters(upright(quarters())))}


@pytest.mark.parametrize(("name", "b_frames"), [("film.ts", "2"), ("film.h264", "0")])
def test_an_orientation_of_the_codec_holds_until_it_sends_another(tmp_path, name, b_frames):
    orientation = "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal"
    path = write(tmp_path / name, options={"g": "4", "bf": b_frames}, bit_stream_filter=orientation, pictures=12)
    shown = images(path)
    assert len(shown) == 12
    assert {tuple(colours_of_quarters(image)) for image in shown} == {(RED, BLUE, GREEN, BLACK)}


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda image: image), (2, np.fliplr), (6, lambda image: np.rot90(image, -1)), (5, lambda image: image.swapaxes(0, 1))],
)
def test_motion_jpeg_with_exif_is_upright(tmp_path, orientation, upright):
    """FFmpeg gives EXIF as side data of a type that PyAV does not know."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)  # one short
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    _, jpeg = cv2.imencode(".jpg", quarters()[..., ::-1])
    content = jpeg.tobytes()
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(3 * (content[:2] + exif + content[2:]))
    shown = images(path)
    assert len(shown) == 3
    assert {tuple(colours_of_quarters(image)) for image in shown} == {tuple(colours_of_quarters(upright(quarters())))}


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (Fraction(4, 3), (64, 128)),
        (Fraction(8, 9), (72, 96)),
        (Fraction(1, 2), (128, 96)),
        (Fraction(1000), (64, 96)),
        (Fraction(1, 1000), (64, 96)),
        (Fraction(1279, 1280), (64, 96)),
    ],
)
def test_pixels_are_square(tmp_path, name, aspect, shape):
    image = images(write(tmp_path / name, aspect=aspect))[0]
    assert image.shape[:2] == shape
    assert colours_of_quarters(image) == colours_of_quarters(quarters())


def test_an_aspect_ratio_that_changes_is_followed_from_the_key_frame_on(tmp_path):
    square = write(tmp_path / "square.h264", options={"bf": "2"})
    wide = write(tmp_path / "wide.h264", options={"bf": "2"}, aspect=Fraction(4, 3))
    joined = tmp_path / "joined.h264"
    joined.write_bytes(square.read_bytes() + wide.read_bytes())
    assert [image.shape[1] for image in images(joined)] == [96] * 8 + [128] * 8


def plain_yuv(rgb: tuple[int, int, int], matrix: int, full_range: bool) -> av.VideoFrame:
    """A frame of one colour, converted here by the definition of the matrix: 1 BT.709, 5 BT.601, 9 BT.2020."""
    red_weight, blue_weight = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = [(blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)]
    y, c = (255 * luma, 255) if full_range else (16 + 219 * luma, 224)
    planes = [np.full(WIDTH * HEIGHT, round(y))] + [np.full(WIDTH * HEIGHT // 4, round(128 + c * value)) for value in chroma]
    flat = np.concatenate(planes).astype(np.uint8).reshape(HEIGHT * 3 // 2, WIDTH)
    frame = av.VideoFrame.from_ndarray(flat, format="yuv420p")
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    return frame


@pytest.mark.parametrize(("matrix", "name"), [(1, "bt709"), (5, "bt470bg"), (9, "bt2020nc")])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_matrix_and_the_range_of_the_stream(tmp_path, matrix, name, full_range):
    tags = f"colormatrix={name}:fullrange={'on' if full_range else 'off'}:log-level=none"
    path = write(
        tmp_path / "film.mp4",
        options={"x264-params": tags, "qp": "1"},
        frame=lambda: plain_yuv((200, 30, 30), matrix, full_range),
    )
    np.testing.assert_allclose(images(path)[0][32, 48], (200, 30, 30), atol=4)


def pq_signal(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: signal of light in cd/m2."""
    power = (light / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg_signal(light: np.ndarray) -> np.ndarray:
    """BT.2100: signal of gray light in cd/m2 on a display of 1,000 cd/m2."""
    scene = (light / 1000) ** (1 / 1.2)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


@pytest.mark.parametrize(("transfer", "signal"), [(16, pq_signal), (18, hlg_signal)])
def test_hdr_shows_light_up_to_diffuse_white_exactly_and_clips_the_rest(transfer, signal):
    srgb = np.array([0, 30, 128, 250, 255, 255])
    light = 203 * np.where(srgb <= 10, srgb / 255 / 12.92, ((srgb / 255 + 0.055) / 1.055) ** 2.4)
    light[-1] = 1000
    gray = np.repeat(signal(light)[None, :, None], 3, axis=2)
    shown = to_sdr(np.round(gray * 65535).astype(np.uint16), transfer, wide_gamut=True)
    np.testing.assert_allclose(shown[0], np.repeat(srgb[:, None], 3, axis=1), atol=2)


def test_bright_hdr_colours_keep_their_hue():
    light = np.array([[[800.0, 400.0, 1.0]]])
    shown = to_sdr(np.round(pq_signal(light) * 65535).astype(np.uint16), 16, wide_gamut=False)[0, 0]
    assert shown[0] == 255
    assert 180 < shown[1] < 196  # half of the light of red
    assert shown[2] < 10


def test_wide_gamut_without_hdr_keeps_gray_and_deepens_colours():
    image = np.array([[[120, 120, 120], [200, 60, 60]]], np.uint16) * 257
    shown = to_sdr(image, 1, wide_gamut=True)[0]
    np.testing.assert_allclose(shown[0], 120, atol=1)
    assert shown[1, 0] > 215
    assert shown[1, 1] < 55


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_an_hdr_film_is_recognised(tmp_path, transfer):
    """Diffuse white is at 58 % of PQ's signal and at 75 % of HLG's."""
    level = {"smpte2084": 0.5806, "arib-std-b67": 0.75}[transfer]
    tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none:lossless=1"

    def frame() -> av.VideoFrame:
        gray = av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le")
        for plane, value in zip(gray.planes, (round(64 + 876 * level), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        return gray

    path = write(tmp_path / "film.mp4", "libx265", "yuv420p10le", options={"x265-params": tags}, frame=frame)
    np.testing.assert_allclose(images(path)[0][32, 48], 255, atol=3)


@pytest.mark.parametrize("pixel_format", ["gray16le", "gray12le", "gray10le", "rgb48le", "gbrp12le"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_deep_films_are_as_bright_as_they_are(tmp_path, pixel_format, share):
    bits = {"gray16le": 16, "rgb48le": 16, "gray10le": 10}.get(pixel_format, 12)
    path = write(tmp_path / "film.mkv", "ffv1", pixel_format, frame=lambda: _ramp(pixel_format, share * (2**bits - 1)))
    image = images(path)[0]
    np.testing.assert_allclose(image[32, [0, 48, 95]], np.full((3, 3), [[0], [share * 255 * 48 / 95], [share * 255]]), atol=2)


def test_the_depth_in_16_bit_films_is_found_and_said(tmp_path, caplog):
    path = write(tmp_path / "thermal.mkv", "ffv1", "gray16le", frame=lambda: _ramp("gray16le", 4000))
    with caplog.at_level(logging.WARNING, "svg_common"):
        assert images(path)[0].max() == round(255 * 4000 / 4095)
    assert [record.getMessage() for record in caplog.records] == [
        "16-bit pictures that use only 12 bits: 4095 is shown as white"
    ]


def _ramp(pixel_format: str, brightest: float) -> av.VideoFrame:
    """From black at the left to `brightest` at the right."""
    ramp = np.round(np.linspace(0, brightest, WIDTH)).astype(np.uint16)
    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for plane in frame.planes:
        row = np.zeros(plane.line_size // 2, np.uint16)
        samples = np.repeat(ramp, 3) if pixel_format == "rgb48le" else ramp
        row[: samples.size] = samples
        plane.update(np.tile(row, HEIGHT).tobytes())
    return frame


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray12le", "gray16le"])
@pytest.mark.parametrize("limited", [True, False])
def test_gray_of_limited_range_is_expanded(tmp_path, pixel_format, limited):
    bits = {"gray": 8, "gray10le": 10, "gray12le": 12}.get(pixel_format, 16)
    unit = 2 ** (bits - 8)
    levels = np.array([0, 16, 125.5, 235, 2**bits / unit]) if limited else np.array([0, 64, 128, 192, 2**bits / unit])

    def frame() -> av.VideoFrame:
        gray = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
        row = np.zeros(gray.planes[0].line_size // (1 if bits == 8 else 2), np.uint8 if bits == 8 else np.uint16)
        row[:WIDTH] = np.resize(np.minimum(levels * unit, 2**bits - 1), WIDTH)
        gray.planes[0].update(np.tile(row, HEIGHT).tobytes())
        return gray

    path = write(tmp_path / "film.mkv", "ffv1", pixel_format, frame=frame, color_range=1 if limited else 2)
    shown = images(path)[0][0, :5, 0]
    np.testing.assert_allclose(shown, [0, 0, 127.5, 255, 255] if limited else [0, 64, 128, 192, 255], atol=1)


def test_a_colour_space_that_cannot_be_converted_is_the_reason_not_damage(tmp_path):
    def frame() -> av.VideoFrame:
        picture = plain_yuv((200, 30, 30), 5, full_range=False)
        picture.colorspace = 8
        return picture

    path = write(tmp_path / "film.mkv", options={"x264-params": "colormatrix=YCgCo:log-level=none"}, frame=frame)
    expected = "its colour space, YCgCo, is not supported: 8 frames left out; 0 frames could be read; re-encode it in BT.709"
    with pytest.raises(VideoError) as error:
        images(path)
    assert error.value.reason == expected


@pytest.mark.skipif(not ODD.exists(), reason="the sample files are not here")
def test_real_files_are_upright_round_and_in_their_colours():
    mirrored, plain = images(ODD / "mirror_hflip.mp4")[0], images(ODD / "cover_first.mp4")[0]
    assert np.abs(mirrored[:, ::-1].astype(int) - plain).mean() < 3
    circle = images(ODD / "pal16x9.mp4")[5][..., 0] > 150
    assert circle.shape == (576, 1024)
    assert np.ptp(np.flatnonzero(circle.any(0))) == pytest.approx(np.ptp(np.flatnonzero(circle.any(1))), abs=4)
    hdr = images(ODD / "hdr_pq.mp4")[0]
    np.testing.assert_allclose(hdr[20, 20], (200, 30, 30), atol=4)
    assert hdr.max() >= 248


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_frames_and_their_threads_do_not_wait_for_the_garbage_collector(tmp_path, codec):
    """At camera rate they would be hundreds, of megabytes each."""
    path = write(tmp_path / "clip.avi", codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", pictures=60)
    gc.collect()
    gc.disable()
    try:
        with VideoReader(path) as reader:
            pictures = iter(reader)
            next(pictures)
            tasks = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 0
            assert sum(1 for _ in pictures) == 59
            frames = sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())
            assert frames <= 4
            if tasks:
                assert len(list(Path("/proc/self/task").iterdir())) <= tasks + 4
    finally:
        gc.enable()
