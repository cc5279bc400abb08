"""BAIR robot pushing, small (Ebert et al., CoRL 2017): a robot arm that moves randomly in a box of objects.

Read from the published TFRecord files, or from the PNG folders that the SVG reference makes of them:

    root/softmotion30_44k/{train,test}/traj_0_to_255.tfrecords ...
    root/processed_data/{train,test}/traj_0_to_255/1/0.png ...

The root may also contain train/ and test/ itself.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.quantities import count_text
from svg_train.config import Config
from svg_train.data import Frames, Split
from svg_train.data.bair_cache import decode_trajectories
from svg_train.data.bair_sources import trajectory_folders
from svg_train.data.frame_cache import FrameShape, list_sources, root_folder, warn_about_sources
from svg_train.data.notes import log_once

URL = "http://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar"
_FOLDERS = ("softmotion30_44k", "", "processed_data")  # TFRecord files first: the PNG folders are made from them
_LAYOUT = (
    f"  download {URL} (30 GB) and unpack it, or use the PNG folders that the SVG reference makes of it;\n"
    "  give --data-root ROOT, with"
    " ROOT/softmotion30_44k/{train,test}/*.tfrecords or ROOT/processed_data/{train,test}/traj_*/1/0.png"
)


class BAIRRobotPushing:
    """Sequences of (length, H, W, C) uint8 frames of the published split: all of a trajectory for train, its start for test.

    Raises:
        UsageError: no root is given.
        SvgError: the split has no trajectory that is long enough, or the cache cannot be written.
    """

    def __init__(self, config: Config, split: Split, length: int) -> None:
        data, model = config.data, config.model
        root = root_folder(data.root, "bair", _LAYOUT)
        shape = FrameShape(model.image_size, model.image_size, model.channels)
        sources, unusable = decode_trajectories(_sources(root, split), cache_folder(data.cache), shape)
        if not sources:
            raise SvgError(f"no BAIR trajectory in '{root}' can be read:\n{list_sources(unusable)}\n{_LAYOUT}")
        warn_about_sources("trajectory file", unusable, [(source.source, source.problem) for source in sources])
        self._sources = sources
        self._length = length
        self._windows = np.concatenate([_windows(i, s.lengths, split, length) for i, s in enumerate(self._sources)])
        lengths = np.concatenate([source.lengths for source in self._sources])
        _require_length(lengths, split, length)
        self.frame_interval_s: float | None = data.frame_interval_s  # the owners publish no rate
        self.description = (
            f"bair: {np.count_nonzero(lengths >= length)} {split} trajectories from {count_text(len(self._sources), 'file')}, "
            f"{len(self)} sequences of {length}"
        )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Frames:
        number, start = self._windows[index]
        return np.array(self._sources[number].frames()[start : start + self._length])


def _sources(root: Path, split: Split) -> list[Path]:
    """Return the TFRecord files or the folders of PNG folders of `split`, in the order of their first trajectory.

    Raises:
        SvgError: none exists.
    """
    for name in _FOLDERS:
        folder = root / name / split
        try:
            files = list(folder.iterdir()) if folder.is_dir() else []  # not glob, which takes what it cannot read for empty
            records = [file for file in files if file.suffix == ".tfrecords" and file.is_file()]
            found = records or [file for file in files if file.name.startswith("traj_") and _has_trajectories(file)]
        except OSError as error:
            raise SvgError(
                f"cannot read '{error.filename}': {error.strerror}\n  check the rights to it and its disk"
            ) from error
        if found:
            return sorted(found, key=_first_trajectory)
    raise SvgError(f"--data-root '{root}' has no BAIR {split} data\n{_LAYOUT}")


def _has_trajectories(folder: Path) -> bool:
    """Whether it has any, as far as it can be read: if it cannot, it is listed when it is decoded."""
    try:
        return folder.is_dir() and bool(trajectory_folders(folder))
    except OSError:
        return True


def _first_trajectory(path: Path) -> tuple[int, str]:
    number = re.search(r"\d+", path.name)
    return (int(number[0]) if number else 0), path.name


def _windows(number: int, lengths: NDArray[np.int64], split: Split, length: int) -> NDArray[np.int64]:
    """Return (n, 2): `number`, and the first frame of a sequence, counted over all trajectories of the source."""
    firsts = np.cumsum(lengths) - lengths
    room = np.maximum(lengths - length + 1, 0)
    if split == "test":
        room = np.minimum(room, 1)  # as the reference evaluates: each trajectory once, from its first frame
    starts = [first + np.arange(positions) for first, positions in zip(firsts, room, strict=True)]
    flat = np.concatenate(starts)
    return np.stack([np.full(len(flat), number), flat], 1)


def _require_length(lengths: NDArray[np.int64], split: Split, length: int) -> None:
    short = np.count_nonzero(lengths < length)
    if short == len(lengths):
        raise SvgError(
            f"no BAIR {split} trajectory has the {length} frames of a sequence; the longest has {lengths.max()}\n"
            "  choose a smaller --n-past, --n-future (training) or --eval-horizon (test)"
        )
    if short:
        log_once(
            logging.INFO,
            f"note: {short} of {len(lengths)} {split} trajectories have fewer than {length} frames and are not used",
        )
