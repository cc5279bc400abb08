"""Measures the ways to run a bundle: first whether the frames are right, then which way is faster, one pair after another.

Only two ways are open at a time, so that small machines have the memory: the fastest so far, and one that challenges it. Their
rounds are interleaved, so that the machine's load is the same for both.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError
from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.calibration.ways import REFERENCE, Way

_LOG = logging.getLogger(__name__)
MAX_ERROR = 1e-3  # of fp32 over all frames: other kernels round otherwise, and the loop amplifies it
MIN_DB = 30.0  # of reduced precisions, first frame: later ones are other samples of the same distribution
_RACE_S = 1.0
_MIN_ROUNDS, _MAX_ROUNDS = 5, 60
_SLOW_ROUNDS = 2  # of models whose forecast takes so long that more would keep the user waiting
_TASK = "measuring backends"

Frames = NDArray[np.float32]


class Runner(Protocol):
    """What is measured of a Forecaster."""

    def observe(self, frame: Any) -> object:
        """Read a frame."""
        ...

    def forecast(self, samples: Any = None, horizon: Any = None, noise: Any = None, context_noise: Any = None) -> Frames:
        """Sample futures."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


@dataclass(frozen=True)
class Task:
    """The same frames and noise for every way.

    Attributes:
        frames: (n_past, H, W, C) in [0, 1], a bright square that moves over a gradient.
        context_noise: (n_past - 1, samples, z_dim).
        noise: (horizon, samples, z_dim).
    """

    frames: Frames
    context_noise: Frames
    noise: Frames

    @classmethod
    def make(cls, manifest: Manifest, samples: int, horizon: int) -> Task:
        """For the bundle's own shape."""
        frame, n_past, z_dim = manifest.frame, manifest.generation.n_past, manifest.model.z_dim
        rng = np.random.default_rng(0)
        y, x = np.mgrid[0 : frame.height, 0 : frame.width].astype(np.float32)
        shown = np.empty((n_past, frame.height, frame.width, frame.channels), np.float32)
        for step in range(n_past):
            from_centre = np.maximum(abs(x / frame.width - 0.3 - 0.04 * step), abs(y / frame.height - 0.5))
            shown[step] = np.where(from_centre < 0.125, 0.9, 0.3 * x / frame.width)[..., None]
        draw = rng.standard_normal
        return cls(shown, draw((n_past - 1, samples, z_dim), np.float32), draw((horizon, samples, z_dim), np.float32))


@dataclass
class Row:
    """What was found of one way."""

    way: Way
    seconds: list[float] = field(default_factory=list)  # of one observed frame and one forecast, in its last race
    reason: str = ""  # why it takes no part

    @property
    def median_s(self) -> float:
        """Median of its last race; infinite if it took no part."""
        return statistics.median(self.seconds) if self.seconds else float("inf")

    def as_json(self) -> dict[str, Any]:
        """For the kept decision."""
        found = {"ms": round(self.median_s * 1e3, 3), "rounds": len(self.seconds)} if self.seconds else {"reason": self.reason}
        return {**self.way.as_json(), **found}


def find_fastest(
    ways: Sequence[Way], task: Task, open_way: Callable[[Way], Runner], progress: ProgressListener
) -> tuple[Way | None, list[Row]]:
    """Open, compare and time all ways.

    Args:
        ways: the reference may be among them.
        task: frames and noise.
        open_way: opens a forecaster.
        progress: listener, for a race that takes more than a moment.

    Returns:
        The fastest way, None if the reference does not run; and a row for each of `ways`.
    """
    rows = [Row(way) for way in ways]
    expected, champion = _reference(rows, task, open_way)
    if expected is None:
        return None, rows
    for number, row in enumerate(rows):
        progress.progress(_TASK, number / len(rows))
        if champion is None or row is not champion[0]:
            champion = _challenge(champion=champion, row=row, expected=expected, task=task, open_way=open_way)
    progress.progress(_TASK, 1.0)
    if champion is None:
        return None, rows
    champion[1].close()
    return champion[0].way, rows


Champion = tuple[Row, Runner]


def _reference(rows: list[Row], task: Task, open_way: Callable[[Way], Runner]) -> tuple[Frames | None, Champion | None]:
    """The expected frames, and the reference as the first champion if it takes part."""
    row = next((row for row in rows if row.way == REFERENCE), None)
    try:
        runner = open_way(REFERENCE)
        with _closed_on_error(runner):
            expected = _run(runner, task)
    except (SvgError, MemoryError) as error:
        if row is not None:
            row.reason = _first_line(error)
        return None, None
    if row is not None:
        return expected, (row, runner)
    runner.close()
    return expected, None


def _challenge(
    champion: Champion | None, row: Row, expected: Frames, task: Task, open_way: Callable[[Way], Runner]
) -> Champion | None:
    """Open a way and race it against the champion; the slower one is closed."""
    earlier = [] if champion is None else list(champion[0].seconds)
    try:
        with _closed_on_error(*([champion[1]] if champion else []), unless=(SvgError, MemoryError)):
            runner = open_way(row.way)
            with _closed_on_error(runner):
                row.reason = _difference(_run(runner, task), expected, row.way)
                if not row.reason:
                    _race([(row, runner), *([champion] if champion else [])], task)
    except (SvgError, MemoryError) as error:
        row.seconds.clear()
        row.reason = _first_line(error)
        if champion is not None:
            champion[0].seconds[:] = earlier  # the race was not held
        return champion
    if row.reason or (champion is not None and champion[0].median_s <= row.median_s):
        runner.close()
        return champion
    if champion is not None:
        champion[1].close()
    return row, runner


@contextmanager
def _closed_on_error(*runners: Runner, unless: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Close `runners` when an error leaves the block, such as Ctrl-C; not for the errors in `unless`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, unless):
            for runner in runners:
                runner.close()
        raise


def _run(runner: Runner, task: Task) -> Frames:
    """Observe the frames and forecast. In first runs engines compile and allocate, so it is done twice unless that is slow."""
    for frame in task.frames:
        runner.observe(frame)
    start = time.perf_counter()
    futures = runner.forecast(noise=task.noise, context_noise=task.context_noise)
    if time.perf_counter() - start < _RACE_S:
        futures = runner.forecast(noise=task.noise, context_noise=task.context_noise)
    return futures


def _race(racers: list[Champion], task: Task) -> None:
    """Time both in turn, until it is clear which one is faster or the time is over."""
    for row, _ in racers:
        row.seconds.clear()
    until = time.perf_counter() + _RACE_S
    for number in range(_MAX_ROUNDS):
        for row, runner in racers if number % 2 else reversed(racers):
            start = time.perf_counter()
            runner.observe(task.frames[number % len(task.frames)])
            runner.forecast(noise=task.noise, context_noise=task.context_noise)
            row.seconds.append(time.perf_counter() - start)
        is_over = number + 1 >= _SLOW_ROUNDS and time.perf_counter() > until
        if is_over or (number + 1 >= _MIN_ROUNDS and _is_clear([row.seconds for row, _ in racers])):
            return


def _is_clear(times: list[list[float]]) -> bool:
    """Whether three quarters of one's rounds are faster than three quarters of the other's."""
    quartiles = [statistics.quantiles(each, n=4) for each in times]
    return len(times) == 1 or any(a[2] < b[0] for a, b in (quartiles, reversed(quartiles)))


def _difference(frames: Frames, expected: Frames, way: Way) -> str:
    """Why the frames are not those of the reference; empty if they are."""
    error = float(np.abs(frames - expected).max())
    first_db = psnr(float(np.mean((frames[:, 0] - expected[:, 0]).astype(np.float64) ** 2)))
    if (error <= MAX_ERROR) if way.precision == "fp32" else (first_db >= MIN_DB):
        return ""
    reason = f"computes other frames than {REFERENCE}: largest error {error:.2g}, first frame {first_db:.1f} dB"
    _LOG.warning("%s %s, so it is left out; this is worth a bug report, with the output of svg-bench", way, reason)
    return reason


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
