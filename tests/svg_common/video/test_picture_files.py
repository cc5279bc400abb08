"""Picture files of any depth, colours and orientation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from svg_common.video.picture_files import PictureError, PictureFiles

DEPTH12 = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "odd" / "depth12"


def written(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


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
