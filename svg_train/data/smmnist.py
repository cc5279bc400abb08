"""Stochastic Moving MNIST (Denton and Fergus, ICML 2018): MNIST digits with a random new direction at each wall."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np

from svg_common.cache import cache_folder
from svg_common.digits import DIGIT_SIZE, BouncingDigits
from svg_common.errors import SvgError
from svg_common.quantities import count_text
from svg_train.config import Config
from svg_train.data import Frames, Split
from svg_train.data.digits import DEFAULT_INTERVAL_S
from svg_train.data.mnist_files import TEST_IMAGES, TRAIN_IMAGES, download_images, find_images, read_images
from svg_train.data.notes import log_once

_SEQUENCES = {"train": 1_000_000, "test": 10_000}  # each index is a different scene, as in the built-in digits
_STREAM = {"train": 1, "test": 2}
_TRAIN_SHARE = 0.9  # of the digits, if both splits come from one file


class StochasticMovingMNIST:
    """Scene `index` of `split` is drawn from the seed (run seed, split, index); the two splits never share a digit.

    The MNIST files are read from `config.data.root`, else from the user's cache folder. They are downloaded to it if both
    are missing.

    Raises:
        SvgError: a file is missing and cannot be downloaded, or is damaged.
    """

    def __init__(self, config: Config, split: Split, length: int) -> None:
        root = Path(config.data.root) if config.data.root else cache_folder(config.data.cache) / "mnist"
        images, source = _digits_of_split(root, split)
        self._images = images
        self.frame_interval_s: float | None = config.data.frame_interval_s or DEFAULT_INTERVAL_S
        digits = count_text(config.data.num_digits, "digit")
        self.description = f"smmnist: {digits} per scene from {len(self._images)} {split} digits of {source.name}"
        # Held-out scenes do not depend on the run's seed, so that runs can be compared.
        self._seed = (config.train.seed if split == "train" else 0, _STREAM[split])
        self._count = _SEQUENCES[split]
        self._length = length
        self._num_digits = config.data.num_digits
        self._image_size = config.model.image_size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frames:
        rng = np.random.default_rng((*self._seed, index))
        picked = self._images[rng.integers(0, len(self._images), self._num_digits)]
        digits = [cv2.resize(image, (DIGIT_SIZE, DIGIT_SIZE)).astype(np.float32) / 255 for image in picked]
        scene = BouncingDigits(rng, digits, self._image_size)
        frames = np.stack([scene.step() for _ in range(self._length)])
        return (frames * 255 + 0.5).astype(np.uint8)[..., None]


def _digits_of_split(root: Path, split: Split) -> tuple[Frames, Path]:
    """Return the digit images (n, 28, 28) of `split`, and their file."""
    train, test = find_images(root, TRAIN_IMAGES), find_images(root, TEST_IMAGES)
    if train is None and test is not None:
        log_once(
            logging.INFO,
            f"note: '{root}' has only '{test.name}': the first {_TRAIN_SHARE:.0%} of its digits are used for training, "
            f"the rest for testing\n  for the usual split, add {TRAIN_IMAGES}.gz to this folder",
        )
        return _share(read_images(test), split, test), test
    # The train file first: a test file on its own would be divided between the splits.
    train = train or download_images(root, TRAIN_IMAGES)
    test = test or (download_images(root, TEST_IMAGES) if split == "test" else None)
    chosen = test if split == "test" and test else train
    return read_images(chosen), chosen


def _share(images: Frames, split: Split, path: Path) -> Frames:
    cut = int(len(images) * _TRAIN_SHARE)
    part = images[:cut] if split == "train" else images[cut:]
    if not len(part):
        raise SvgError(
            f"'{path}' contains {count_text(len(images), 'digit')}, too few to split into train and test\n"
            f"  add {TRAIN_IMAGES}.gz"
        )
    return part
