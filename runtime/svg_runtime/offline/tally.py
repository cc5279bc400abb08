"""What became of the videos."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from svg_runtime.offline.published_part import DoneVideo

STATUSES = ("ok", "damaged", "failed", "unreachable")


@dataclass
class Tally:
    """What became of the videos of this shard, this run's and earlier ones'."""

    listed: int = 0  # in this shard, also what cannot be reached
    done_before: int = 0
    status: Counter[str] = field(default_factory=Counter)  # of STATUSES
    frames: int = 0  # of this run, as alarms are
    alarms: int = 0
    misfits: int = 0  # videos that the model does not fit, for some time at least
    problems: list[tuple[str, str]] = field(default_factory=list)  # names of videos that are not ok, and why

    def count(self, row: dict[str, Any], is_misfit: bool = False) -> None:
        """Count a row of the table of videos, and whether it has an event `misfit`."""
        self._note(row["video"], row["status"], row["reason"])
        self.frames += row["frames"]
        self.alarms += row["alarms"]
        self.misfits += is_misfit

    def count_before(self, name: str, done: DoneVideo) -> None:
        """Count a video that an earlier run forecast."""
        self.done_before += 1
        self.misfits += done.is_misfit
        self._note(name, done.status, done.reason)

    def unreachable(self, name: str, reason: str) -> None:
        """Count a video that the next run will try again."""
        self._note(name, "unreachable", reason)

    def add(self, other: dict[str, Any]) -> None:
        """Add the attributes of another one, but not what it was given to do."""
        self.status.update(other["status"])
        self.frames += other["frames"]
        self.alarms += other["alarms"]
        self.misfits += other["misfits"]
        self.problems += [(name, reason) for name, reason in other["problems"]]

    @property
    def not_ok(self) -> int:
        """Videos that are not forecast completely."""
        return sum(count for status, count in self.status.items() if status != "ok")

    @property
    def reasons(self) -> dict[str, str]:
        """Why videos are not ok, by name. Addresses that differ in their query alone are shown alike, so they get a number."""
        reasons: dict[str, str] = {}
        count: Counter[str] = Counter()
        for name, reason in self.problems:
            own = name
            while own in reasons:
                count[name] += 1
                own = f"{name} ({count[name] + 1})"
            reasons[own] = reason
        return reasons

    def _note(self, name: str, status: str, reason: str | None) -> None:
        self.status[status] += 1
        if reason is not None:
            self.problems.append((name, reason))
