"""Some of the sequences of a set of videos, as evenly as possible from all of its clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svg_train.data import Frames, HistoryDataset, SequenceDataset
from svg_train.data.video import VideoClips


class SpreadSequences:
    """`count` sequences, as evenly as possible from all clips: the first ones alone would be of few clips.

    Args:
        data: the sequences of all clips.
        count: how many of them, fewer than there are.
        after_others: the only sequence of a clip is its middle one, not its first, before which there is nothing to learn from.
    """

    def __init__(self, data: HistoryDataset, count: int, after_others: bool = False) -> None:
        self._data = data
        self._numbers = _spread([data.clip_source(number) for number in range(len(data))], count, after_others)
        self.frame_interval_s = data.frame_interval_s
        middle = ", the middle one where a clip gives one" if after_others else ""
        self.description = f"{data.description}, {count} of them, as evenly as possible from all clips{middle}"

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Frames:
        return self._data[self._numbers[index]]

    def clip_source(self, index: int) -> Path:
        """As `ClipDataset.clip_source`."""
        return self._data.clip_source(self._numbers[index])

    def history(self, index: int, most: int) -> Frames:
        """As `HistoryDataset.history`."""
        return self._data.history(self._numbers[index], most)


def spread_over_clips(data: SequenceDataset, count: int, after_others: bool = False) -> SequenceDataset:
    """`data`, or `count` of its sequences from all clips if it is a set of videos with more. KTH's order does so by itself."""
    return SpreadSequences(data, count, after_others) if isinstance(data, VideoClips) and len(data) > count else data


def _spread(sources: Sequence[Path], count: int, after_others: bool) -> list[int]:
    """Numbers of `count` of the sequences, in order: from each clip the same number, evenly spaced, as far as it has so many.

    With more clips than `count`, one of every so many clips, in the order of the data.
    """
    clips: dict[Path, list[int]] = {}
    for number, source in enumerate(sources):
        clips.setdefault(source, []).append(number)
    if count < len(clips):
        in_order = list(clips.values())
        return [_only_one(in_order[part * len(clips) // count], after_others) for part in range(count)]
    chosen: list[int] = []
    for index, numbers in enumerate(sorted(clips.values(), key=len)):  # what short clips lack, longer ones make up for
        share = min(len(numbers), (count - len(chosen)) // (len(clips) - index))
        if share == 1:
            chosen.append(_only_one(numbers, after_others))
        else:
            chosen += [numbers[part * len(numbers) // share] for part in range(share)]
    return sorted(chosen)


def _only_one(numbers: Sequence[int], after_others: bool) -> int:
    """The sequence that stands for its whole clip."""
    return numbers[len(numbers) // 2 if after_others else 0]
