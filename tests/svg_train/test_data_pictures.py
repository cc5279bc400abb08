"""Sequences from folders of pictures: their numbers are their time, beside videos, and in the reference's KTH layout."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from svg_common.errors import SvgError, UsageError
from svg_train.config import build_config
from svg_train.data import open_data
from tests.refused import refused
from tests.svg_common.video.test_timing import write_video

LENGTH = 4


def write_pictures(folder: Path, numbers, name: str = "f{:03d}.png", size: int = 64) -> Path:
    """Picture n is flat gray of level 4 n."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / name.format(number)), np.full((size, size, 3), 4 * number, np.uint8))
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def open_split(root: Path, split: str = "train", **data):
    table = {"name": "video", "root": str(root), "cache": str(root.parent / "cache"), "test_fraction": 0.4, **data}
    if data.get("name") == "kth":
        del table["test_fraction"]
    return open_data(build_config({"model": {"n_past": 2}, "train": {"n_future": 2}, "data": table}), split, LENGTH)


def windows(data) -> list[list[int]]:
    return [np.round(np.median(data[i], (1, 2, 3)) / 4).astype(int).tolist() for i in range(len(data))]


def test_a_folder_of_pictures_is_a_clip(root, logged):
    write_pictures(root, range(1, 21))
    train, test = open_split(root), open_split(root, "test")
    assert windows(train) == [list(range(i, i + LENGTH)) for i in range(1, 10)]
    assert min(min(window) for window in windows(test)) == 13
    assert train.frame_interval_s == pytest.approx(0.1)
    assert train.description.startswith("video: 1 file with 12 train frames")
    assert "has no time stamps: assumed 10 frames per second; give the true rate with --source-fps" in logged.text


def test_lost_and_unreadable_pictures_keep_their_time(root, logged):
    write_pictures(root, [n for n in range(20) if n != 4])
    (root / "f008.png").write_bytes(b"no picture")
    found = windows(open_split(root))
    assert [2, 3, 5, 5] in found  # halfway belongs to the later one
    assert [6, 7, 9, 9] in found
    assert "1 video is damaged" in logged.text
    assert "'f008.png': not a readable image" in logged.text


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_picture_that_cannot_be_read_now_is_not_kept_as_damage(root, logged, number):
    """The clip is left out whole, for once: its entry in the cache would lack the picture for ever."""
    for clip in ("a", "b"):
        write_pictures(root / clip, range(1, 21))
    with refused(root / "a" / "f009.png", number):
        assert len(windows(open_split(root))) == 9
    assert f"'f009.png': {os.strerror(number)}" in logged.text
    assert "damaged" not in logged.text
    assert len(windows(open_split(root))) == 18


def test_a_long_gap_in_the_numbers_is_not_crossed(root):
    write_pictures(root, [*range(12), *range(40, 60)])
    data = open_split(root, test_fraction=0.1)
    assert not any(min(window) < 12 and max(window) >= 40 for window in windows(data))
    assert "1 pause over 1 s that no sequence crosses" in data.description


def test_pictures_of_sizes_by_turns_have_no_sequence(root):
    for number in range(20):
        cv2.imwrite(str(root / f"f{number:03d}.png"), np.full((64, 48) if number % 2 else (48, 64), 4 * number, np.uint8))
    reason = "too short: 1 consecutive train frame between 11 picture size changes, but a sequence needs 4"
    with pytest.raises(SvgError, match=reason):
        open_split(root)


def test_the_rate_of_pictures_can_be_given(root):
    write_pictures(root, range(40))
    thirds = open_split(root, source_fps=30, frame_interval_s=0.1)
    assert windows(thirds)[0] == [0, 3, 6, 9]
    assert thirds.frame_interval_s == pytest.approx(0.1)
    alone = open_split(root, frame_interval_s=0.5)  # as in svg-live: one step apart
    assert windows(alone)[0] == [0, 1, 2, 3]
    assert alone.frame_interval_s == 0.5


def test_folders_of_folders_and_videos_are_read_together(root):
    write_pictures(root / "a" / "walk", range(20), size=80)
    write_pictures(root / "a" / "run", range(20))
    write_pictures(root, range(20), name="top{}.jpg")
    (root / "b").mkdir()
    write_video(root / "b" / "c.mp4", "libx264")
    data = open_split(root, split_by="time")
    assert data.description.startswith("video: 4 files")
    assert data.frame_interval_s == pytest.approx(0.1)


def test_pictures_are_decoded_once_and_again_when_one_changes(root):
    write_pictures(root, range(20))
    before = windows(open_split(root))
    (entry,) = (root.parent / "cache").glob("pictures-*.u8")
    assert windows(open_split(root)) == before
    cv2.imwrite(str(root / "f000.png"), np.full((64, 64, 3), 200, np.uint8))
    assert windows(open_split(root))[0] == [50, 1, 2, 3]
    assert len(list((root.parent / "cache").glob("pictures-*.u8"))) == 2
    assert entry.exists()


def test_a_folder_without_a_readable_picture_is_named(root):
    for number in range(3):
        (root / f"f{number}.png").write_bytes(b"no picture")
    with pytest.raises(SvgError, match="no picture in it can be read"):
        open_split(root)


def test_the_rate_of_data_with_a_time_base_is_not_an_option():
    with pytest.raises(UsageError, match="source_fps does not apply to data 'kth'"):
        build_config({"data": {"name": "kth", "source_fps": 25}})


@pytest.mark.parametrize("place", ["KTH/processed", "processed", "."])
def test_the_references_prepared_kth_pictures(root, place):
    for person in (1, 22):
        folder = root / place / "boxing" / f"person{person:02d}_boxing_d1"
        write_pictures(folder, range(1, 31), name="image-{:03d}_64x64.png")
        write_pictures(folder, range(1, 31), name="image-{:03d}_128x128.png", size=128)
    train, test = open_split(root, name="kth"), open_split(root, "test", name="kth")
    assert windows(train) == [list(range(i, i + LENGTH)) for i in range(1, 28)]
    assert len(test) >= 16
    assert train.frame_interval_s == pytest.approx(0.04)
    assert "1 clip of 1 person and 1 action with 30 train frames" in train.description
    assert open_split(root, split_by="time").description.startswith("video: 4 files")  # both sizes of both clips


def test_a_kth_clip_that_is_there_as_file_and_as_pictures_counts_once(root):
    (root / "boxing").mkdir()
    write_video(root / "boxing" / "person01_boxing_d1_uncomp.avi", "ffv1", 25, "bgr0")
    write_pictures(root / "processed" / "boxing" / "person01_boxing_d1", range(1, 31), name="image-{:03d}_64x64.png")
    assert "kth: 1 clip of 1 person" in open_split(root, name="kth").description
