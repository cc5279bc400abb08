"""Built-in data: procedurally drawn digits that bounce as in Stochastic Moving MNIST. Endless, nothing to download."""

from __future__ import annotations

import numpy as np

from svg_common.digits import digit_stream
from svg_common.quantities import count_text
from svg_train.config import Config
from svg_train.data import Frames, Split

DEFAULT_INTERVAL_S = 0.1
_SEQUENCES = {"train": 1_000_000, "test": 10_000}  # each index is a different scene
_STREAM = {"train": 1, "test": 2}


class Digits:
    """Scene `index` of `split` is drawn from the seed (run seed, split, index), so that the two splits never overlap."""

    def __init__(self, config: Config, split: Split, length: int) -> None:
        self.frame_interval_s: float | None = config.data.frame_interval_s or DEFAULT_INTERVAL_S
        self.description = f"digits: {count_text(config.data.num_digits, 'procedural digit')} per scene, {split} scenes"
        # Held-out scenes do not depend on the run's seed, so that runs can be compared.
        self._seed = (config.train.seed if split == "train" else 0, _STREAM[split])
        self._count = _SEQUENCES[split]
        self._length = length
        self._scene = config.data.num_digits, config.model.image_size, config.data.edge_px

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frames:
        step = digit_stream((*self._seed, index), *self._scene)
        frames = np.stack([step() for _ in range(self._length)])
        return (frames * 255 + 0.5).astype(np.uint8)[..., None]
