"""Data sets of frame sequences. All return (T, H, W, C) uint8 arrays in RGB order; gray has C = 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svg_common.digits import DIGIT_SIZE
from svg_common.errors import UsageError
from svg_train.config import Config

Split = Literal["train", "test"]
Frames = NDArray[np.uint8]


class SequenceDataset(Protocol):
    """Sequences of equal length. Item i is always the same array, in whatever order items are read."""

    frame_interval_s: float | None  # seconds between frames; None when the data has no time base
    description: str  # one readable line: what was found where

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frames: ...


@runtime_checkable
class ClipDataset(SequenceDataset, Protocol):
    """Sequences of recordings."""

    def clip_source(self, index: int) -> Path:
        """The video file, or the folder of pictures, that item `index` comes from."""
        ...


@runtime_checkable
class HistoryDataset(ClipDataset, Protocol):
    """Sequences of recordings, and what came before each of them."""

    def history(self, index: int, most: int) -> Frames:
        """The frames before item `index`, in time and as many as `most`: fewer at the beginning of a clip or after a pause."""
        ...


@dataclass(frozen=True)
class ClipPart:
    """The frames of a clip that are in a split: from number `first` to before `end`."""

    source: Path  # the video file, or the folder of pictures
    files: tuple[Path, ...]
    first: int
    end: int


@runtime_checkable
class FileDataset(SequenceDataset, Protocol):
    """Sequences of files whose names and number decide what is held out."""

    @property
    def parts(self) -> list[ClipPart]:
        """What is in the split of each clip that has a part in it, in order."""
        ...

    @property
    def files(self) -> list[Path]:
        """All files of the split, in order."""
        ...


def open_data(config: Config, split: Split, length: int, trained_s: float | None = None) -> SequenceDataset:
    """Open the data set that `config.data` names, as sequences of `length` frames.

    Args:
        config: of the training.
        split: which part to open.
        length: frames of a sequence.
        trained_s: seconds per step of a model that was trained already, which other videos than its own keep.

    Raises:
        SvgError: files are missing or unusable; the message names them and says what to do.
        UsageError: the data set has no frames of the model's shape.
    """
    _refuse_unfit_shape(config)
    if config.data.name == "digits":
        from svg_train.data.digits import Digits

        return Digits(config, split, length)
    if config.data.name == "smmnist":
        from svg_train.data.smmnist import StochasticMovingMNIST

        return StochasticMovingMNIST(config, split, length)
    if config.data.name == "kth":
        from svg_train.data.kth import KTHActions

        return KTHActions(config, split, length, trained_s)
    if config.data.name == "bair":
        from svg_train.data.bair import BAIRRobotPushing

        return BAIRRobotPushing(config, split, length)
    from svg_train.data.video import VideoClips

    return VideoClips(config, split, length, trained_s)


def _refuse_unfit_shape(config: Config) -> None:
    name, model = config.data.name, config.model
    if model.width != model.height and name != "video":
        raise UsageError(
            f"data '{name}' has square frames, but the model's have {model.height} x {model.width} pixels\n"
            "  use --data video, whose frames are cropped to any shape, or a model without --image-width"
        )
    if name in ("digits", "smmnist") and model.image_size <= DIGIT_SIZE:
        raise UsageError(
            f"data '{name}' has digits of {DIGIT_SIZE} pixels, which cannot move in frames of {model.image_size}\n"
            f"  expected a model of larger frames, or other --data; svg-train makes one with --image-size {2 * DIGIT_SIZE}"
        )
