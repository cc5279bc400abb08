"""Picture files of any depth, colours and orientation."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from svg_common.video.picture_damage import find_damage
from svg_common.video.picture_files import PictureError, PictureFiles
from svg_common.video.tiff import has_several_pages
from tests.refused import refused

FORMS = [("<", False), (">", False), ("<", True), (">", True)]  # of a TIFF: byte order, BigTIFF
DEPTH12 = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "odd" / "depth12"
MEMORY = Path("/proc/self/mem")  # nothing is at its beginning


def written(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def texture(height: int = 240, width: int = 320) -> np.ndarray:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 1.5)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    written, content = cv2.imencode(suffix, image, options)
    assert written
    return content.tobytes()


def with_hole(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(4096) + content[middle + 4096 :]


def with_flipped_bytes(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(value ^ 255 for value in content[middle : middle + 512]) + content[middle + 512 :]


def too_early(content: bytes) -> bytes:
    return content[:-200] + content[-2:]


def saved(folder: Path, contents: list[bytes], suffix: str = ".jpg") -> list[Path]:
    paths = [folder / f"{number:03}{suffix}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def tiff(pages: list[dict[int, int]], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of pictures of one pixel, 200 200 200, with more tags per page."""
    offset, count, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    start = b"II" if order == "<" else b"MM"
    start += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    content = start
    for number, more in enumerate(pages):
        samples = 4 if 338 in more else 3
        tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 0, 277: samples, 278: 1, 279: samples, **more}
        length = struct.calcsize("=" + count) + len(tags) * (4 + 2 * size) + size
        data = len(content) + length
        tags[258], tags[273] = data + 8, data
        entries = b""
        for tag, value in sorted(tags.items()):
            values = samples if tag == 258 else 1
            is_long = tag in (254, 273) or (tag == 258 and not (big and samples <= 4))
            kind = 3 if tag == 258 or not is_long else 4
            field = struct.pack(order + "4H", *[8] * samples, *[0] * (4 - samples)) if tag == 258 and big else b""
            field = field or struct.pack(order + ("I" if is_long else "H"), value)
            entries += struct.pack(order + "HH" + offset, tag, kind, values) + field.ljust(size, b"\0")
        following = 0 if number == len(pages) - 1 else data + 16
        content += struct.pack(order + count, len(tags)) + entries + struct.pack(order + offset, following)
        content += bytes([200, 200, 200, 30] + [0] * 4) + struct.pack(order + "4H", 8, 8, 8, 8)
    return content


def ramp(brightest: float, dtype: type = np.uint16) -> np.ndarray:
    return np.tile(np.linspace(0, brightest, 64), (48, 1)).astype(dtype)


def with_orientation(jpeg: Path, orientation: int) -> Path:
    """The JPEG with an EXIF segment that holds nothing but the orientation."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + orientation.to_bytes(2, "big") + bytes(2)
    exif = b"Exif\0\0MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + bytes(4)
    content = jpeg.read_bytes()
    jpeg.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    return jpeg


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda image: image),
        (2, np.fliplr),
        (3, lambda image: np.rot90(image, 2)),
        (4, np.flipud),
        (5, lambda image: image.transpose(1, 0, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_all_eight_orientations_of_exif_are_upright(tmp_path, orientation, upright):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:] = (0, 0, 255), (255, 255, 255)
    path = with_orientation(written(tmp_path / "photo.jpg", image), orientation)
    shown = PictureFiles([path]).read(path)
    assert np.abs(shown.astype(int) - upright(image[..., ::-1])).mean() < 3  # JPEG blurs the borders of colours


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("brightest", "bits"), [(65535, 16), (20000, 16), (16383, 14), (9000, 14), (4080, 12), (1023, 10), (255, 8)]
)
def test_16_bit_samples_are_read_by_the_depth_in_use(tmp_path, suffix, brightest, bits):
    path = written(tmp_path / f"deep{suffix}", ramp(brightest))
    pictures = PictureFiles([path])
    assert pictures.read(path).max() == round(255 * brightest / (2**bits - 1))
    assert (pictures.depth_note is None) == (bits == 16)


def test_one_depth_holds_for_all_pictures_of_a_clip(tmp_path):
    brightest = [100] + [3000] * 30 + [60000]
    paths = [written(tmp_path / f"{i:02}.png", ramp(value)) for i, value in enumerate(brightest)]
    pictures = PictureFiles(paths[:-1])
    assert pictures.read(paths[0]).max() == round(255 * 100 / 4095)  # not brightened by itself
    assert pictures.read(paths[1]).max() == round(255 * 3000 / 4095)
    assert pictures.depth_note == "16-bit pictures that use only 12 bits: 4095 is shown as white"
    assert pictures.read(paths[-1]).max() == round(255 * 60000 / 65535)
    assert pictures.depth_note is None
    assert pictures.read(paths[1]).max() == round(255 * 3000 / 65535)


def test_eight_bit_pictures_are_read_as_they_are(tmp_path):
    dark = written(tmp_path / "dark.png", ramp(40, np.uint8))
    transparent = written(tmp_path / "alpha.png", np.dstack([ramp(200, np.uint8)] * 3 + [np.zeros((48, 64), np.uint8)]))
    colour = written(tmp_path / "colour.bmp", np.full((8, 8, 3), (0, 0, 255), np.uint8))
    pictures = PictureFiles([dark, transparent, colour])
    assert pictures.read(dark).max() == 40
    assert pictures.read(transparent).max() == 200  # the colours beneath, transparency ignored
    assert pictures.read(colour)[0, 0].tolist() == [255, 0, 0]
    assert pictures.depth_note is None


def test_other_files_are_refused_with_the_reason(tmp_path):
    floats = written(tmp_path / "floats.tif", ramp(1, np.float32))
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("no picture")
    pictures = PictureFiles([floats])
    with pytest.raises(PictureError, match="its samples are float32; expected 8- or 16-bit"):
        pictures.read(floats)
    for path in (empty, text):
        with pytest.raises(PictureError, match="not a readable image"):
            pictures.read(path)
    with pytest.raises(PictureError, match="No such file"):
        pictures.read(tmp_path / "missing.png")


def test_opencv_prints_nothing_of_a_file_that_is_refused(tmp_path, capfd):
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        for path in (written(tmp_path / "floats.tif", ramp(1, np.float32)), written(tmp_path / "whole.tif", ramp(9, np.int32))):
            with pytest.raises(PictureError, match="its samples are"):
                PictureFiles([path]).read(path)
    finally:
        cv2.utils.logging.setLogLevel(level)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("away", ["a.png", "b.png"])
def test_a_file_that_cannot_be_read_now_is_named_also_if_it_decides_the_depth_alone(tmp_path, away):
    files = [written(tmp_path / name, ramp(1023)) for name in ("a.png", "b.png")]
    pictures = PictureFiles(files)
    with refused(tmp_path / away), suppress(PictureError):
        pictures.read(files[0])
    assert pictures.unreadable == f"'{away}': Permission denied"
    damaged = PictureFiles([tmp_path / "c.png"])
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(PictureError, match="not a readable image"):
        damaged.read(tmp_path / "c.png")
    assert damaged.unreadable is None


@pytest.mark.skipif(not MEMORY.exists(), reason="this system has no file that opens and cannot be read")
def test_a_disk_that_fails_in_a_file_is_not_its_end():
    pictures = PictureFiles([MEMORY])
    with pytest.raises(PictureError, match="Input/output error"):
        pictures.read(MEMORY)
    assert pictures.unreadable == "'mem': Input/output error"


@pytest.mark.skipif(not DEPTH12.exists(), reason="the sample files are not here")
def test_real_12_bit_pictures_are_visible():
    paths = sorted(DEPTH12.iterdir())
    pictures = PictureFiles(paths)
    assert all(pictures.read(path).max() > 250 for path in paths)
    assert pictures.bits == 12


@pytest.mark.parametrize(("suffix", "advice"), [(".png", "rename it to .apng"), (".webp", "convert it to a video")])
def test_an_animation_is_refused_as_that_and_a_single_picture_of_its_kind_is_read(tmp_path, suffix, advice):
    image = pytest.importorskip("PIL.Image")
    pictures = [image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(3)]
    animation, single = tmp_path / f"animation{suffix}", tmp_path / f"single{suffix}"
    pictures[0].save(animation, save_all=True, append_images=pictures[1:])
    pictures[1].save(single)
    with pytest.raises(PictureError, match=f"it is an animation of several pictures; {advice}"):
        PictureFiles([animation]).read(animation)
    assert int(PictureFiles([single]).read(single).max()) == pytest.approx(60, abs=3)


def test_a_damaged_jpeg_is_refused_and_the_others_of_its_folder_are_read(tmp_path):
    whole = encoded(".jpg", texture())
    contents = [whole, with_hole(whole), whole, with_flipped_bytes(whole), whole]
    paths = saved(tmp_path, contents)
    pictures = PictureFiles(paths)
    for path in paths[::2]:
        assert pictures.read(path).shape == (240, 320, 3)
    with pytest.raises(PictureError, match="it is damaged: it has a hole of zeros"):
        pictures.read(paths[1])
    with pytest.raises(PictureError, match="it is damaged: it decodes with errors"):
        pictures.read(paths[3])


@pytest.mark.parametrize("kind", ["optimized", "progressive", "restart", "alone"])
def test_a_damaged_jpeg_of_any_kind_is_refused(tmp_path, kind):
    options = {
        "optimized": (cv2.IMWRITE_JPEG_OPTIMIZE, 1), "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restart": (cv2.IMWRITE_JPEG_RST_INTERVAL, 40),
    }.get(kind, ())  # fmt: skip
    whole = encoded(".jpg", texture(), *options)
    paths = saved(tmp_path, [with_hole(whole)] if kind == "alone" else [with_hole(whole), whole])
    with pytest.raises(PictureError, match="it is damaged"):  # also as the first one, before an intact one was read
        PictureFiles(paths).read(paths[0])


def test_jpegs_that_all_end_too_early_are_the_habit_of_their_camera(tmp_path):
    paths = saved(tmp_path, [too_early(encoded(".jpg", texture()))] * 12)
    pictures = PictureFiles(paths)
    assert all(pictures.read(path).shape == (240, 320, 3) for path in paths)


def test_damage_at_equal_distances_is_not_taken_for_a_habit(tmp_path):
    whole = encoded(".jpg", texture())
    paths = saved(tmp_path, [whole if number % 5 else with_hole(whole) for number in range(45)])
    with pytest.raises(PictureError, match="it is damaged"):
        PictureFiles(paths).read(paths[0])


def test_a_tiff_whose_numbers_point_anywhere_ends_in_no_other_error(tmp_path):
    rng = np.random.default_rng(0)
    for order, big in FORMS:
        whole = tiff([{338: 2}, {254: 1}], order, big)
        for _ in range(40):
            content = bytearray(whole)
            start = int(rng.integers(4, len(content) - 8))
            content[start : start + 8] = rng.bytes(8)
            path = saved(tmp_path, [bytes(content)], ".tif")[0]
            with suppress(PictureError):
                PictureFiles([path]).read(path)


PLAIN = np.zeros((1080, 1920, 3), np.uint8)
WHOLE = {
    "plain": lambda: encoded(".jpg", PLAIN),
    "plain, optimized": lambda: encoded(".jpg", PLAIN, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "plain, progressive": lambda: encoded(".jpg", PLAIN, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "gray": lambda: encoded(".jpg", texture()[..., 0]),
    "gray, plain, optimized": lambda: encoded(".jpg", PLAIN[..., 0], cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "4:4:4": lambda: encoded(".jpg", texture(), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "more after its end": lambda: encoded(".jpg", texture()) + bytes(5000),
    "two pictures": lambda: 2 * encoded(".jpg", texture()),
    "zeros in a note": lambda: b"\xff\xd8\xff\xed\x20\x00" + bytes(8190) + encoded(".jpg", texture())[2:],
    "broken EXIF": lambda: b"\xff\xd8\xff\xe1\x00\x20Exif\0\0II*\0" + bytes(range(200, 220)) + encoded(".jpg", texture())[2:],
    "zeros before its end": lambda: encoded(".jpg", texture())[:-2] + bytes(5000) + b"\xff\xd9",
    "zeros for its end": lambda: encoded(".jpg", texture())[:-2] + bytes(5000),
    "filled up": lambda: encoded(".jpg", texture()).replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_odd_jpegs_are_not_damaged(tmp_path, kind):
    path = saved(tmp_path, [WHOLE[kind]()])[0]
    assert PictureFiles([path]).read(path).ndim == 3


@pytest.mark.parametrize("end", [b"\xff\xd9", b"\0\0"])
def test_a_jpeg_whose_second_half_is_zeros_is_refused(tmp_path, end):
    whole = encoded(".jpg", texture())  # so rich that the zeros are more blocks than were lost
    half = len(whole) // 2
    path = saved(tmp_path, [whole[:half] + bytes(len(whole) - half - 2) + end])[0]
    with pytest.raises(PictureError, match="it is damaged"):
        PictureFiles([path]).read(path)


def test_a_jpeg_too_large_for_ffmpeg_is_not_damaged():
    gray = encoded(".jpg", np.zeros((16, 16), np.uint8))
    assert find_damage(np.frombuffer(gray.replace(b"\x08\0\x10\0\x10", struct.pack(">BHH", 8, 4200, 65000)), np.uint8)) is None


@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"keep_rgb": True}, {"restart_marker_rows": 1}])
def test_jpegs_of_other_programs_are_not_damaged(tmp_path, mode, options):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "picture.jpg"
    image.fromarray(texture(117, 203)).convert(mode).save(path, **options)
    assert PictureFiles([path]).read(path).shape == (117, 203, 3)


def test_a_webp_with_a_hole_is_refused_and_a_plain_one_is_read(tmp_path):
    lossy = (cv2.IMWRITE_WEBP_QUALITY, 90)
    contents = [encoded(".webp", PLAIN, *lossy), encoded(".webp", PLAIN), encoded(".webp", texture(), *lossy)]
    paths = saved(tmp_path, [*contents, with_hole(contents[-1])], ".webp")
    pictures = PictureFiles(paths)
    for path in paths[:3]:
        assert pictures.read(path).ndim == 3
    with pytest.raises(PictureError, match="it is damaged: it has a hole of zeros"):
        pictures.read(paths[3])


@pytest.mark.parametrize("area", ["night", "beside noise"])
@pytest.mark.parametrize("method", [0, 2, 4])
@pytest.mark.parametrize("quality", [60, 90, 100])
def test_a_plain_webp_of_a_fast_encoder_is_read(tmp_path, area, method, quality):
    image = pytest.importorskip("PIL.Image")
    picture = np.zeros((480, 640, 3), np.uint8)
    if area == "night":
        cv2.putText(picture, "12:34:56", (20, 40), 0, 1, (255, 255, 255), 2)
    else:
        picture[:240] = np.random.default_rng(0).integers(0, 60, (240, 640, 3))
    path = tmp_path / "picture.webp"
    image.fromarray(picture).save(path, quality=quality, method=method)
    assert PictureFiles([path]).read(path).shape == (480, 640, 3)


def test_the_habit_of_jpegs_does_not_excuse_a_damaged_webp(tmp_path):
    webp = with_hole(encoded(".webp", texture(), cv2.IMWRITE_WEBP_QUALITY, 90))
    paths = saved(tmp_path, [*[too_early(encoded(".jpg", texture()))] * 3, webp])
    pictures = PictureFiles(paths)
    for path in paths[:3]:
        assert pictures.read(path).shape == (240, 320, 3)
    with pytest.raises(PictureError, match="it is damaged: it has a hole of zeros"):
        pictures.read(paths[3])


@pytest.mark.parametrize(("order", "big"), FORMS)
def test_a_tiff_of_several_pages_is_refused_and_thumbnails_and_masks_are_not_pages(tmp_path, order, big):
    pages, thumbnails = saved(
        tmp_path, [tiff([{}, {}], order, big), tiff([{}, {254: 1}, {254: 4}, {255: 2}], order, big)], ".tif"
    )
    with pytest.raises(PictureError, match="it has several pages; save each page as a file of its own"):
        PictureFiles([pages]).read(pages)
    assert PictureFiles([thumbnails]).read(thumbnails).tolist() == [[[200, 200, 200]]]


def test_a_tiff_of_opencv_with_several_pages_is_refused(tmp_path):
    path = tmp_path / "stack.tif"
    assert cv2.imwritemulti(str(path), [texture(16, 16)] * 3)
    with pytest.raises(PictureError, match="it has several pages"):
        PictureFiles([path]).read(path)


@pytest.mark.parametrize("cut", [8, 12, 17, 60, 130])
def test_a_broken_tiff_is_not_readable(tmp_path, cut):
    path = saved(tmp_path, [tiff([{}])[:cut]], ".tif")[0]
    with pytest.raises(PictureError, match="not a readable image"):
        PictureFiles([path]).read(path)


@pytest.mark.parametrize(("order", "big"), FORMS)
@pytest.mark.parametrize("transparency", [0, 1, 2])
def test_the_colours_of_a_tiff_are_not_darkened_by_its_transparency(tmp_path, order, big, transparency):
    path = saved(tmp_path, [tiff([{338: transparency}], order, big)], ".tif")[0]
    assert PictureFiles([path]).read(path).tolist() == [[[200, 200, 200]]]


class CountsLooks(np.ndarray):
    """The content of a file, which counts how often it is looked into."""

    looks = 0

    @property
    def data(self) -> memoryview:
        self.looks += 1
        return super().data


def looks_for_a_second_page(content: bytes) -> int:
    """How many values are read until it is known that there is none."""
    counted = np.frombuffer(content, np.uint8).view(CountsLooks)
    assert not has_several_pages(counted)
    return counted.looks


def test_of_a_tiff_whose_large_directories_overlap_little_is_read():
    entry = struct.pack("<HHIHH", 254, 4, 1, 1, 0xFFFF)  # reduced; the last field is the next directory's count of entries
    content = b"II*\0" + struct.pack("<IH", 8, 0xFFFF) + 0xFFFF * entry
    for number in range(1, 100):
        content += struct.pack("<IIHH", 8 + 12 * number, 1, 1, 0xFFFF)
    assert 0 < looks_for_a_second_page(content + bytes(12)) < 10_000


def test_of_a_tiff_with_a_long_chain_of_directories_little_is_read():
    step = struct.Struct("<HHHIII")  # one entry: reduced
    count = 20_000
    content = b"II*\0" + struct.pack("<I", 8)
    content += b"".join(step.pack(1, 254, 4, 1, 1, 8 + step.size * number) for number in range(1, count + 1))
    assert 0 < looks_for_a_second_page(content) < 10_000
