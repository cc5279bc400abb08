"""Figures with a goal: ratios from one run and sizes, shown in a table after the timings. They never fail a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number that matters.

    `goal` is the largest value wanted, or with `at_least` the smallest; None where the figure is for information. `meant_for`
    names the hardware of the goal; where `here` is False this machine is another one, and the goal is not missed but unknown.
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
        """Whether the goal is reached; None without one, and where it is missed on hardware that it is not meant for."""
        if self.goal is None:
            return None
        met = self.value >= self.goal if self.at_least else self.value <= self.goal
        return met if met or self.here else None

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        return {**asdict(self), "met": self.met}


def table(figures: Iterable[Figure]) -> list[str]:
    """Lines of a table: figure, measured, goal, whether it is met."""
    rows = [("figure", "measured", "goal", "")]
    for figure in figures:
        sign = "at least" if figure.at_least else "at most"
        goal = "" if figure.goal is None else f"{sign} {figure.goal:g} {figure.unit}".rstrip()
        goal += f" on {figure.meant_for}" if figure.meant_for else ""
        verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
        rows.append((figure.name, f"{figure.value:.3g} {figure.unit}".rstrip(), goal, verdict))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def interleave(benchmark: Any, target: Callable[[], Any], baseline: Callable[[], Any], rounds: int) -> list[float]:
    """Time `target` and, before each of its rounds, `baseline`: whatever else the machine does meets both alike.

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
    """Median of the ratios of each round, which outlier rounds of a busy machine hardly move."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
