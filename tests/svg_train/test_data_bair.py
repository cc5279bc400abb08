"""BAIR robot pushing from small files in its published form and from the PNG folders of the SVG reference."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from svg_adapt.cli import app
from svg_common.errors import SvgError, UsageError
from svg_train.checkpoint import load_checkpoint
from svg_train.config import build_config
from svg_train.data import bair_cache, bair_sources, open_data
from tests.refused import refused

LENGTH = 6
FRAMES = 8  # per trajectory; the real ones have 30


def trajectory(number: int, frames: int = FRAMES) -> np.ndarray:
    """(frames, 64, 64, 3) of noise; the top left pixel is (trajectory, frame, 255)."""
    images = np.random.default_rng(number).integers(0, 255, (frames, 64, 64, 3), np.uint8)
    images[:, 0, 0] = [(number, i, 255) for i in range(frames)]
    return images


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, rest = b"", len(content)
    while rest > 127:
        size, rest = size + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + size + bytes([rest]) + content


def feature(name: str, value: bytes, kind: int = 1) -> bytes:
    """A map entry of Features. Kinds: 1 bytes, 2 floats (packed)."""
    return field(1, field(1, name.encode()) + field(2, field(kind, field(1, value))))


def example(images: np.ndarray) -> bytes:
    """A tf.train.Example with the features of the published files, in an order of their own, as maps have it."""
    features = []
    for i, image in enumerate(images):
        features += [
            feature(f"{i}/image_aux1/encoded", image.tobytes()),
            feature(f"{i}/image_main/encoded", (255 - image).tobytes()),
            feature(f"{i}/action", struct.pack("<4f", 1, 2, 3, 4), 2),
            feature(f"{i}/endeffector_pos", struct.pack("<3f", 1, 2, 3), 2),
        ]
    return field(1, b"".join(features[::-1]))


def record(content: bytes) -> bytes:
    def crc(part: bytes) -> bytes:
        plain = google_crc32c.value(part)
        return struct.pack("<I", ((plain >> 15 | plain << 17) % 2**32 + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(content))
    return length + crc(length) + content + crc(content)


def write_records(path: Path, numbers, frames: int = FRAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(example(trajectory(number, frames))) for number in numbers))
    return path


def write_pngs(folder: Path, numbers, frames: int = FRAMES) -> Path:
    for index, number in enumerate(numbers, 1):
        (folder / str(index)).mkdir(parents=True)
        for i, image in enumerate(trajectory(number, frames)):
            Image.fromarray(image).save(folder / str(index) / f"{i}.png")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "bair").mkdir()
    return tmp_path / "bair"


def write_both_splits(root: Path, form: str) -> None:
    """Trajectories 1 to 12 for train, in two parts, and 50 and 51 for test."""
    if form == "records":
        write_records(root / "softmotion30_44k" / "train" / "traj_256_to_511.tfrecords", [1, 2])
        write_records(root / "softmotion30_44k" / "train" / "traj_1024_to_1279.tfrecords", range(3, 13))
        write_records(root / "softmotion30_44k" / "test" / "traj_0_to_255.tfrecords", [50, 51])
    else:
        write_pngs(root / "processed_data" / "train" / "traj_256_to_511", [1, 2])
        write_pngs(root / "processed_data" / "train" / "traj_1024_to_1279", range(3, 13))
        write_pngs(root / "processed_data" / "test" / "traj_0_to_255", [50, 51])


def config_of(root: Path, channels: int = 3, image_size: int = 64, **data):
    source = {"name": "bair", "root": str(root), "cache": str(root.parent / "cache"), **data}
    model = {"n_past": 2, "channels": channels, "image_size": image_size}
    return build_config({"model": model, "train": {"n_future": 4}, "data": source})


def open_bair(root: Path, split: str, length: int = LENGTH, **options):
    return open_data(config_of(root, **options), split, length)


def windows(data) -> list[tuple[int, int]]:
    """Trajectory and first frame of every sequence, by the mark in its first pixel."""
    return [tuple(int(value) for value in data[i][0, 0, 0, :2]) for i in range(len(data))]


@pytest.mark.parametrize("form", ["records", "pngs"])
def test_both_forms_give_the_published_frames(root, form):
    write_both_splits(root, form)
    train, test = open_bair(root, "train"), open_bair(root, "test")
    assert windows(train) == [(number, start) for number in range(1, 13) for start in range(FRAMES - LENGTH + 1)]
    assert windows(test) == [(50, 0), (51, 0)]
    for data in (train, test):
        for i in (0, len(data) - 1):
            number, start = windows(data)[i]
            np.testing.assert_array_equal(data[i], trajectory(number)[start : start + LENGTH])
    assert train[0].dtype == np.uint8
    assert type(train[0]) is np.ndarray
    assert train.description == "bair: 12 train trajectories from 2 files, 36 sequences of 6"


def test_a_root_with_the_splits_themselves_serves_too(root):
    write_both_splits(root, "records")
    assert windows(open_bair(root / "softmotion30_44k", "test")) == [(50, 0), (51, 0)]
    write_both_splits(root, "pngs")
    assert windows(open_bair(root / "processed_data", "test")) == [(50, 0), (51, 0)]


def test_channels_and_size_follow_the_model(root):
    write_both_splits(root, "records")
    gray = open_bair(root, "test", channels=1, image_size=128)[0]
    assert gray.shape == (LENGTH, 128, 128, 1)
    luma = trajectory(50)[:LENGTH] @ np.array([0.299, 0.587, 0.114])
    assert abs(gray.mean() - luma.mean()) < 1


def test_the_rate_is_only_known_when_given(root):
    write_both_splits(root, "records")
    assert open_bair(root, "test").frame_interval_s is None
    assert open_bair(root, "test", frame_interval_s=0.1).frame_interval_s == 0.1


@pytest.mark.parametrize("form", ["records", "pngs"])
def test_sources_are_read_once_and_again_when_they_change(root, form, capsys, monkeypatch):
    read: list[str] = []
    original = bair_cache.read_trajectories
    monkeypatch.setattr(
        bair_cache, "read_trajectories", lambda source, problems: read.append(source.name) or original(source, problems)
    )
    write_both_splits(root, form)
    before = windows(open_bair(root, "train"))
    assert "decoding 2 trajectory files" in capsys.readouterr().err
    assert [name.partition(".")[0] for name in read] == ["traj_256_to_511", "traj_1024_to_1279"]
    assert windows(open_bair(root, "train")) == before
    assert len(read) == 2
    if form == "records":
        write_records(root / "softmotion30_44k" / "train" / "traj_256_to_511.tfrecords", [21])
    else:
        image = Image.fromarray(trajectory(21)[0])
        image.save(root / "processed_data" / "train" / "traj_256_to_511" / "1" / "0.png")
    assert windows(open_bair(root, "train"))[0] == (21, 0)
    assert len(read) == 3


BROKEN_RECORDS = {
    "broken json": "[1, 2",
    "other json": "[1, 2]",
    "deep json": "[" * 100_000,
    "a length beyond int64": '{"lengths": [1000000000000000000000], "problem": null}',
    "negative lengths": '{"lengths": [16, -8], "problem": null}',
    "nested lengths": '{"lengths": [[8]], "problem": null}',
}


@pytest.mark.parametrize("harm", ["short frames", "no frames", "no json", *BROKEN_RECORDS])
def test_a_damaged_cache_entry_is_made_again(root, harm):
    write_both_splits(root, "records")
    before = windows(open_bair(root, "test"))
    (frames,), (about,) = (list((root.parent / "cache").glob(f"bair-*{suffix}")) for suffix in (".u8", ".json"))
    if harm == "short frames":
        os.truncate(frames, frames.stat().st_size - 1)
    elif harm == "no frames":
        frames.unlink()
    elif harm == "no json":
        about.unlink()
    else:
        about.write_text(BROKEN_RECORDS[harm])
    assert windows(open_bair(root, "test")) == before


def test_damaged_records_are_skipped_and_reported(root, logged):
    path = root / "train" / "traj_0_to_255.tfrecords"
    whole = write_records(path, [1, 2, 3, 4]).read_bytes()
    one = len(whole) // 4
    content = bytearray(whole)
    content[one + 5000] ^= 1
    gap = example(trajectory(9)).replace(b"3/image_aux1/encoded", b"3/image_AUX1/encoded")
    path.write_bytes(content[: 3 * one] + record(b"no example") + record(gap) + content[3 * one : -100])
    assert {number for number, _ in windows(open_bair(root, "train"))} == {1, 3}
    messages = logged.text
    assert "1 trajectory file is damaged; its intact part is used" in messages
    for reason in (
        "record 2 has a wrong checksum",
        "record 4: ",
        "record 5: feature '3/image_aux1/encoded' is missing",
        "1 more",
    ):
        assert reason in messages
    logged.clear()
    open_bair(root, "train", LENGTH - 1)
    assert "damaged" not in logged.text  # logged once, although the note is in the cache


def test_frames_of_another_size_are_refused(root):
    path = root / "test" / "traj_0_to_255.tfrecords"
    path.parent.mkdir()
    path.write_bytes(record(example(np.zeros((3, 32, 32, 3), np.uint8))))
    with pytest.raises(SvgError, match="'0/image_aux1/encoded' has 3072 bytes, which is not a 64x64 RGB frame"):
        open_bair(root, "test")


def test_damaged_png_folders_are_skipped_and_reported(root, logged):
    folder = write_pngs(root / "test" / "traj_0_to_255", range(1, 7))
    (folder / "1" / "3.png").unlink()
    content = (folder / "2" / "0.png").read_bytes()
    (folder / "2" / "0.png").write_bytes(content[: len(content) // 2])
    (folder / "3" / "7.png").write_text("no picture")
    Image.new("1", (5000, 1)).save(folder / "5" / "7.png")
    assert windows(open_bair(root, "test")) == [(4, 0), (6, 0)]
    messages = logged.text
    for reason in ("1/3.png: missing", "2/0.png: ", "3/7.png: not a PNG image", "1 more"):
        assert reason in messages


@pytest.mark.parametrize("chunk", ["profile without a name", "a length of 2 GB"])
def test_a_chunk_that_pillow_stumbles_over_is_a_damaged_picture(root, logged, chunk):
    folder = write_pngs(root / "test" / "traj_0_to_255", [1, 2])
    content = (folder / "1" / "0.png").read_bytes()
    after_header = 8 + 25
    if chunk == "a length of 2 GB":
        harmed = content[:after_header] + struct.pack(">I", 0x7FFFFFF0) + b"tEXt" + content[after_header:]
    else:
        profile = struct.pack(">I", 1) + b"iCCPx" + struct.pack(">I", zlib.crc32(b"iCCPx"))
        harmed = content[:after_header] + profile + content[after_header:]
    (folder / "1" / "0.png").write_bytes(harmed)
    assert windows(open_bair(root, "test")) == [(2, 0)]
    assert "1/0.png: " in logged.text


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("away", ["traj_0_to_255.tfrecords", "traj_0_to_255", "traj_0_to_255/1", "traj_0_to_255/1/3.png"])
def test_what_cannot_be_read_now_is_not_kept_as_damage(root, logged, away, number):
    """A source is left out whole, for once: its entry in the cache would lack what was away for ever."""
    folder = root / "train"
    for name, numbers in (("traj_0_to_255", [1, 2]), ("traj_256_to_511", [3])):
        if away.endswith("tfrecords"):
            write_records(folder / f"{name}.tfrecords", numbers)
        else:
            write_pngs(folder / name, numbers)
    source, plain = folder / Path(away).parts[0], bair_cache.read_trajectories
    with pytest.MonkeyPatch.context() as patch:

        def read(given, problems):  # after its state was taken, which fails as well
            with refused(folder / away, number) if given == source else nullcontext():
                yield from plain(given, problems)

        patch.setattr(bair_cache, "read_trajectories", read)
        assert {number for number, _ in windows(open_bair(root, "train"))} == {3}
    assert "1 trajectory file is not used" in logged.text
    assert f"{os.strerror(number)}" in logged.text
    assert "damaged" not in logged.text
    assert {number for number, _ in windows(open_bair(root, "train"))} == {1, 2, 3}


def test_folders_that_cannot_be_listed_are_an_error_or_a_source_less(root, logged):
    write_pngs(root / "train" / "traj_0_to_255", [1])
    write_pngs(root / "train" / "traj_256_to_511", [2])
    with refused(root / "train" / "traj_0_to_255"):
        assert {number for number, _ in windows(open_bair(root, "train"))} == {2}
    assert "1 trajectory file is not used" in logged.text
    with refused(root / "train"), pytest.raises(SvgError, match=r"cannot read '.*train': Permission denied"):
        open_bair(root, "train")


def test_a_disk_that_fails_in_the_middle_of_a_file_is_not_damage(root, monkeypatch):
    write_records(root / "train" / "traj_0_to_255.tfrecords", [1, 2])

    def failing(self):
        plain = reader.__iter__(self)
        yield next(plain)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reader = bair_sources.TFRecordReader
    with monkeypatch.context() as patch:
        patch.setattr(bair_sources, "TFRecordReader", type("Failing", (reader,), {"__iter__": failing}))
        with pytest.raises(SvgError, match=r"traj_0_to_255.tfrecords: Input/output error"):
            open_bair(root, "train")
    assert {number for number, _ in windows(open_bair(root, "train"))} == {1, 2}


def test_unusable_files_are_listed_once_and_skipped(root, logged):
    write_records(root / "train" / "traj_0_to_255.tfrecords", [1])
    (root / "train" / "traj_256_to_511.tfrecords").write_text("no records at all " * 10)
    (root / "train" / "traj_512_to_767.tfrecords").touch()
    assert windows(open_bair(root, "train")) == [(1, 0), (1, 1), (1, 2)]
    messages = logged.text
    assert "2 trajectory files are not used" in messages
    assert "traj_256_to_511.tfrecords: it is not a TFRecord file" in messages
    assert "traj_512_to_767.tfrecords: it contains no trajectory" in messages
    (root / "train" / "traj_0_to_255.tfrecords").unlink()
    with pytest.raises(SvgError, match="no BAIR trajectory in") as caught:
        open_bair(root, "train")
    assert "it is not a TFRecord file" in str(caught.value)


def test_short_trajectories_are_left_out(root, logged):
    write_records(root / "train" / "traj_0_to_255.tfrecords", [1, 2])
    write_records(root / "train" / "traj_256_to_511.tfrecords", [3], frames=4)
    assert windows(open_bair(root, "train", FRAMES)) == [(1, 0), (2, 0)]
    assert "1 of 3 train trajectories have fewer than 8 frames" in logged.text
    with pytest.raises(SvgError, match="has the 9 frames of a sequence; the longest has 8"):
        open_bair(root, "train", FRAMES + 1)


def test_no_data_says_where_to_get_it_and_where_to_put_it(root, tmp_path):
    write_records(root / "train" / "traj_0_to_255.tfrecords", [1])
    for place, kind, problem in (
        (None, UsageError, "data 'bair' needs --data-root"),
        (tmp_path / "nowhere", UsageError, "nowhere' is not a folder"),
        (root, SvgError, "has no BAIR test data"),
    ):
        with pytest.raises(kind, match=problem) as caught:
            open_data(build_config({"data": {"name": "bair", "root": place and str(place)}}), "test", LENGTH)
        for hint in ("bair_robot_pushing_dataset_v0.tar", "softmotion30_44k/{train,test}/*.tfrecords", "--data-root"):
            assert hint in str(caught.value)


def test_an_unwritable_cache_is_named(root):
    write_both_splits(root, "records")
    with pytest.raises(SvgError, match="cache folder '/dev/null/cache'"):
        open_bair(root, "train", cache="/dev/null/cache")


@pytest.mark.parametrize("option", [{"frame_step": 2}, {"test_fraction": 0.3}, {"split_by": "file"}, {"num_digits": 2}])
def test_options_that_do_not_apply_to_bair_are_refused(root, option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} does not apply to data 'bair'"):
        config_of(root, **option)


def test_training_runs_on_bair(root, tmp_path):
    torch.set_num_threads(1)  # tiny layers: a second thread costs more than it brings
    write_both_splits(root, "records")
    options = {
        "data": "bair", "data-root": root, "cache": tmp_path / "cache", "out": tmp_path / "run", "json": tmp_path / "j.json",
        "device": "cpu", "precision": "32-true", "steps": 1, "batch-size": 2, "n-past": 2, "n-future": 2, "channels": 3,
        "nf": 2, "g-dim": 8, "z-dim": 2, "rnn-size": 8, "eval-sequences": 2, "eval-samples": 2, "eval-horizon": 2,
    }  # fmt: skip
    result = CliRunner().invoke(app, [part for name, value in options.items() for part in (f"--{name}", str(value))])
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt").config.data.name == "bair"
    assert json.loads((tmp_path / "j.json").read_text())["psnr_best"] > 0
