"""Metrics with a goal: ratios from one run and sizes, shown in a table after the timings. They never fail a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GoalMetric:
    """One number that matters.

    `goal` is the largest value wanted, or with `at_least` the smallest; None if the metric is for information. `meant_for`
    names the hardware of the goal. If `here` is False, this machine is another one, and the goal is unknown rather than missed.
    """

    name: str
    value: float
    unit: str = ""
    goal: float | None = None
    at_least: bool = False
    meant_for: str = ""
    here: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal, or if it is missed on other hardware."""
        if self.goal is None:
            return None
        met = self.value >= self.goal if self.at_least else self.value <= self.goal
        return met if met or self.here else None

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        return {**asdict(self), "met": self.met}


def table(metrics: Iterable[GoalMetric]) -> list[str]:
    """Lines of a table: metric, measured, goal, whether it is met."""
    rows = [("metric", "measured", "goal", "")]
    for metric in metrics:
        sign = "at least" if metric.at_least else "at most"
        goal = "" if metric.goal is None else f"{sign} {metric.goal:g} {metric.unit}".rstrip()
        goal += f" on {metric.meant_for}" if metric.meant_for else ""
        verdict = {True: "met", False: "MISSED", None: ""}[metric.met]
        rows.append((metric.name, f"{metric.value:.3g} {metric.unit}".rstrip(), goal, verdict))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def interleave(benchmark: Any, target: Callable[[], Any], baseline: Callable[[], Any], rounds: int) -> list[float]:
    """Time `target` interleaved with `baseline`, so that the machine's load is the same for both.

    Returns:
        Seconds of `baseline` per round, in the order of `round_seconds(benchmark)`.
    """
    seconds: list[float] = []

    def before_round() -> None:
        start = time.perf_counter()
        baseline()
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(target, setup=before_round, rounds=rounds, warmup_rounds=1 if benchmark.enabled else 0)
    return seconds[-rounds:]


def round_seconds(benchmark: Any) -> list[float]:
    """Seconds of every timed round. Empty when benchmarks are disabled."""
    return list(benchmark.stats.stats.data) if benchmark.enabled else []


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median of the ratios of each round, which outliers on a busy machine hardly change."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
