"""Files of the data sets, and the cache of what was decoded from them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from svg_common.video.clips import Clip
from svg_train.data.bair_cache import decode_trajectories
from svg_train.data.bair_sources import read_trajectories
from svg_train.data.frame_cache import FrameShape, Problems
from svg_train.data.kth_ranges import read_ranges
from svg_train.data.mnist_files import read_images
from svg_train.data.tfrecord import masked_crc32c
from svg_train.data.video_cache import decode_videos
from tests.fuzz.mutations import mutate_bytes, mutate_gzip, mutate_json, mutate_png, mutate_records
from tests.fuzz.scratch import scratch_file, scratch_folder
from tests.fuzz.target import SEEDS, Target

_SHAPE = FrameShape(8, 8, 1)
_RANGE_WORDS = (
    b"person01_boxing_d1", b"\tframes\t", b"1-95, 96-185", b"*missing*", b", ", b"-", b"\n", b"\r", b"\x85",
    b"\xe2\x80\xa8", b"9" * 5000,
)  # fmt: skip


def read_all(source: Path) -> None:
    for share, trajectory in read_trajectories(source, Problems()):
        assert 0 < share <= 1
        assert all(frame.ndim == 3 for frame in trajectory)


def place_images(data: bytes) -> Path:
    """The suffix says whether a file is compressed."""
    return scratch_file("images.gz" if data[:2] == b"\x1f\x8b" else "images", data)


def place_png(data: bytes) -> Path:
    return scratch_file("pngs/1/0.png", data).parents[1]


def place_cache_entry(data: bytes) -> Path:
    """Replace the record of a decoded source; the first byte chooses the kind of source."""
    folder, kind = scratch_folder() / "decoded", "bair" if data[:1] == b"b" else "video"
    source = scratch_folder() / CACHED[kind][0].name
    if not source.exists():
        shutil.copy(CACHED[kind][0], source)
        _decode(source, folder)
    for record in folder.glob(f"{kind}-*.json"):
        record.write_bytes(data[1:])
    return source


def use_cache(source: Path) -> None:
    """A damaged record is made anew: the frames can always be read."""
    (decoded,), skipped = _decode(source, scratch_folder() / "decoded")
    assert not skipped
    assert decoded.frames().shape[1:] == (8, 8, 1)


def _decode(source: Path, folder: Path) -> Any:
    if source.suffix == ".avi":
        return decode_videos([Clip((source,), is_video=True)], folder, _SHAPE)
    return decode_trajectories([source], folder, _SHAPE)


def mutate_cache_entry(data: bytes, random: Random) -> bytes:
    return data[:1] + mutate_json(data[1:], random)


CACHED = {"bair": (SEEDS / "tfrecord" / "one.tfrecords",), "video": (SEEDS / "video-container" / "clip.avi",)}
TARGETS = {
    "tfrecord": Target(
        read=read_all,
        place=partial(scratch_file, "traj.tfrecords"),
        mutate=partial(mutate_records, checksum=masked_crc32c),
    ),
    "bair-png": Target(read=read_all, place=place_png, mutate=mutate_png),
    "kth-ranges": Target(
        read=read_ranges, place=partial(scratch_file, "00sequences.txt"), mutate=partial(mutate_bytes, words=_RANGE_WORDS)
    ),
    "idx": Target(read=read_images, place=place_images, mutate=mutate_gzip),
    "frame-cache": Target(read=use_cache, place=place_cache_entry, mutate=mutate_cache_entry),
}
