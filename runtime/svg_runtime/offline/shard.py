"""Shards: which of the videos a process forecasts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from svg_common.errors import UsageError

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1 on.

    A video belongs to the shard that its id says, so that it does not matter what else is listed, or in which order.
    """

    number: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        """In file names."""
        return f"{self.number}-of-{self.count}"

    def has(self, video_id: str) -> bool:
        """Whether the video is in this shard."""
        return int(video_id, 16) % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """Read `I/N`.

    Raises:
        UsageError: it is not two numbers, or I is not one of 1 to N.
    """
    found = _SHARD.fullmatch(text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard {text} is not a shard\n  expected I/N with I from 1 to N, such as 1/4, 2/4, 3/4 and 4/4")
    return Shard(int(found[1]), int(found[2]))
