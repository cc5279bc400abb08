"""What became of the videos."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 20  # problems in the statistics


@dataclass
class Tally:
    """What became of the videos of this shard, this run's and earlier ones'."""

    listed: int = 0
    done_before: int = 0
    status: Counter[str] = field(default_factory=Counter)  # ok, damaged, failed, unreachable
    frames: int = 0
    alarms: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def count(self, row: dict[str, Any]) -> None:
        """Count a row of the table of videos."""
        self.status[row["status"]] += 1
        self.frames += row["frames"]
        self.alarms += row["alarms"]
        if row["reason"] is not None:
            self.problem(row["video"], row["reason"])

    def unreachable(self, name: str, reason: str) -> None:
        """Count a video that the next run will try again."""
        self.status["unreachable"] += 1
        self.problem(name, reason)

    def problem(self, name: str, reason: str) -> None:
        """Remember why a video is not ok."""
        if len(self.problems) < _SHOWN:
            self.problems[name] = reason

    def add(self, other: dict[str, Any]) -> None:
        """Add the attributes of another one, but not what it was given to do."""
        self.status.update(other["status"])
        self.frames += other["frames"]
        self.alarms += other["alarms"]
        for name, reason in other["problems"].items():
            self.problem(name, reason)

    @property
    def not_ok(self) -> int:
        """Videos that are not forecast completely."""
        return sum(count for status, count in self.status.items() if status != "ok")
