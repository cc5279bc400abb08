"""Which sequences of many clips are evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svg_train.data.spread_sequences import SpreadSequences


class Clips:
    """Stands in for hundreds of videos: as many sequences of each clip as given."""

    frame_interval_s = 0.1
    description = "video"

    def __init__(self, lengths: list[int]) -> None:
        self._sources = [Path(f"{clip:03d}") for clip, length in enumerate(lengths) for _ in range(length)]

    def __len__(self) -> int:
        return len(self._sources)

    def clip_source(self, index: int) -> Path:
        return self._sources[index]

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((1, 1, 1, 1), self._sources[:index].count(self._sources[index]), np.uint8)


@pytest.mark.parametrize("after_others", [False, True])
@pytest.mark.parametrize("lengths", [300 * [5], [*(3 * number % 7 + 1 for number in range(300))]], ids=["equal", "unequal"])
def test_of_more_clips_than_sequences_every_few_gives_one(lengths, after_others):
    chosen = SpreadSequences(Clips(lengths), 64, after_others)
    clips = [int(chosen.clip_source(number).name) for number in range(len(chosen))]
    assert len(clips) == 64
    assert set(np.diff(clips)) == {4, 5}
    assert clips[0] == 0
    assert clips[-1] >= 295
    for number, clip in enumerate(clips):
        assert chosen[number].item() == (lengths[clip] // 2 if after_others else 0)


def test_of_fewer_clips_than_sequences_each_gives_as_many_as_it_has():
    chosen = SpreadSequences(Clips([1, 9, 2, 9]), 11)
    assert [(chosen.clip_source(number).name, chosen[number].item()) for number in range(11)] == [
        ("000", 0), ("001", 0), ("001", 2), ("001", 4), ("001", 6),
        ("002", 0), ("002", 1), ("003", 0), ("003", 2), ("003", 4), ("003", 6),
    ]  # fmt: skip
