"""Measures the ways to run a bundle: first whether the frames are right, then which way is faster, one pair after another.

Only two ways are open at a time, so that small machines have the memory: the fastest so far, and one that challenges it. Their
rounds are interleaved, so that the machine's load is the same for both, and compared in pairs. A challenger that takes three
times as long in the first round is dropped; models whose forecast is slow are timed on fewer steps, but compared on all. When
the time is over, the fastest so far has won.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError, first_line
from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.calibration.ways import NOT_TIMED, REFERENCE, Way, reference_way

_LOG = logging.getLogger(__name__)
MAX_ERROR = 1e-3  # of fp32 over all frames: other kernels round otherwise, and the loop amplifies it
MIN_DB = 30.0  # of reduced precisions, first frame: later ones are other samples of the same distribution
_RACE_S = 0.6
_LIMIT_S = 20.0  # of all comparisons and races together; opening, and so the building of engines, is not counted
_MIN_ROUNDS, _MAX_ROUNDS = 5, 60
_SLOW_ROUNDS = 2  # of models whose forecast takes so long that more would keep the user waiting
_FAR_BEHIND = 3.0  # after one round: more than a busy machine changes from one moment to the next
_SLOW_S, _SHORT_S, _SHORT_STEPS = 0.4, 0.2, 3  # states alternate between two sets of buffers, so the third step has seen both
_FEWER_THREADS = 0.95  # of the champion's time: what less gains is within the noise, and all cores win on a quiet machine
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
    """The same frames and noise for every way, and the way whose forecasts are right.

    Attributes:
        frames: (n_past, H, W, C) in [0, 1], a bright square that moves over a gradient.
        context_noise: (context_draws, samples, z_dim).
        noise: (horizon, samples, z_dim).
        reference: computes the frames that all have to compute.
    """

    frames: Frames
    context_noise: Frames
    noise: Frames
    reference: Way = REFERENCE

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
        context_noise = draw((manifest.context_draws, samples, z_dim), np.float32)
        noise = draw((horizon, samples, z_dim), np.float32)
        return cls(shown, context_noise, noise, reference_way(manifest))


@dataclass
class Row:
    """What was found of one way."""

    way: Way
    seconds: list[float] = field(default_factory=list)  # of one observed frame and one forecast, in all its races
    steps: int | None = None  # of the timed forecasts, if they were shorter than asked for
    reason: str = ""  # why it has no time

    @property
    def median_s(self) -> float:
        """Median of all its rounds; infinite if it took no part."""
        return statistics.median(self.seconds) if self.seconds else float("inf")

    def as_json(self) -> dict[str, Any]:
        """For the kept decision."""
        if not self.seconds:
            return {**self.way.as_json(), "reason": self.reason}
        found = {"ms": round(self.median_s * 1e3, 3), "rounds": len(self.seconds)}
        return {**self.way.as_json(), **found, **({} if self.steps is None else {"steps": self.steps})}


def find_fastest(
    ways: Sequence[Way], task: Task, open_way: Callable[[Way], Runner], progress: ProgressListener, cores: int = 1
) -> tuple[Way | None, list[Row]]:
    """Open, compare and time all ways; then the fastest one with fewer threads.

    Args:
        ways: the reference may be among them.
        task: frames and noise.
        open_way: opens a forecaster.
        progress: listener, for a race that takes more than a moment.
        cores: that a way on the CPU uses by itself; 1 if the user has fixed the threads.

    Returns:
        The fastest way, None if the reference does not run; and a row for each of `ways` and number of threads.
    """
    rows = [Row(way) for way in ways]
    # 1) the frames that all have to compute
    contest = _Contest.begin(rows, task, open_way)
    if contest is None:
        return None, rows
    # 2) one challenger after another
    for number, row in enumerate(rows):
        progress.progress(_TASK, number / (len(rows) + 1))
        if contest.champion is None or row is not contest.champion.row:
            if contest.spent_s < _LIMIT_S:
                contest.challenge(row)
            else:
                row.reason = f"not measured: {_LIMIT_S:.0f} s were over"
    # 3) the fastest one with half of the threads, as long as that is faster
    progress.progress(_TASK, len(rows) / (len(rows) + 1))
    contest.try_fewer_threads(rows, cores)
    progress.progress(_TASK, 1.0)
    return contest.end(), rows


@dataclass(frozen=True)
class _Racer:
    row: Row
    runner: Runner


@dataclass
class _Contest:
    """The fastest way so far, and what challengers are compared with."""

    task: Task
    expected: Frames
    steps: int  # of timed forecasts
    open_way: Callable[[Way], Runner]
    champion: _Racer | None = None
    spent_s: float = 0.0

    @classmethod
    def begin(cls, rows: list[Row], task: Task, open_way: Callable[[Way], Runner]) -> _Contest | None:
        """Compute the expected frames with the reference, which is the first champion if it takes part; None if it fails."""
        row = next((row for row in rows if row.way == task.reference), None)
        try:
            runner = open_way(task.reference)
            start = time.perf_counter()
            with _closed_on_error(runner):
                expected, seconds = _first_forecast(runner, task)
                contest = cls(task, expected, _timed_steps(len(task.noise), seconds), open_way)
                contest.warm_up(runner)
            contest.spent_s = time.perf_counter() - start
        except (SvgError, MemoryError) as error:
            if row is not None:
                row.reason = first_line(error)
            return None
        if row is None:
            runner.close()
        else:
            contest.champion = _Racer(row, runner)
        return contest

    def challenge(self, row: Row, share: float = 1.0) -> bool:
        """Open a way and race it against the champion; the slower one is closed.

        Returns whether the challenger won: it took less than `share` of the champion's time.
        """
        champions = [] if self.champion is None else [self.champion]
        try:
            with _closed_on_error(*(each.runner for each in champions), unless=(SvgError, MemoryError)):
                runner = self.open_way(row.way)
                with self._spending(), _closed_on_error(runner):
                    row.reason = self._refusal(runner, row.way)
                    if not row.reason:
                        times = _race([runner, *(each.runner for each in champions)], self._short_task)
        except (SvgError, MemoryError) as error:
            row.reason = first_line(error)
            return False
        if not row.reason:
            for racer, seconds in zip([row, *(each.row for each in champions)], times, strict=True):
                racer.seconds += seconds
                racer.steps = None if self.steps == len(self.task.noise) else self.steps
        # Load only ever adds time, so the fastest rounds are compared.
        if row.reason or (champions and min(times[0]) >= share * min(times[1])):
            runner.close()
            return False
        for each in champions:
            each.runner.close()
        self.champion = _Racer(row, runner)
        return True

    def try_fewer_threads(self, rows: list[Row], cores: int) -> None:
        """Challenge a champion on the CPU with half of its threads, then half again while that wins; adds to `rows`."""
        threads = cores // 2
        while threads > 0 and self.spent_s < _LIMIT_S and self.champion is not None and self.champion.row.way.on_cpu:
            rows.append(Row(replace(self.champion.row.way, threads=threads)))
            if not self.challenge(rows[-1], _FEWER_THREADS):
                return
            threads //= 2

    def warm_up(self, runner: Runner) -> Frames:
        """Forecast as many steps as are timed, twice unless that is slow: in first runs engines compile and allocate."""
        futures, seconds = _forecast(runner, self._short_task)
        return futures if seconds > _SLOW_S else _forecast(runner, self._short_task)[0]

    def end(self) -> Way | None:
        """Close the fastest way and return it."""
        if self.champion is None:
            return None
        self.champion.runner.close()
        row = self.champion.row
        if not row.seconds:
            row.reason = NOT_TIMED
        return row.way

    @contextmanager
    def _spending(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - start

    def _refusal(self, runner: Runner, way: Way) -> str:
        """Why the frames of the first forecast, or of a later one, are not those of the reference; empty if they are."""
        return _difference(_first_forecast(runner, self.task)[0], self.expected, way, self.task.reference) or _difference(
            self.warm_up(runner), self.expected[:, : self.steps], way, self.task.reference
        )

    @property
    def _short_task(self) -> Task:
        return replace(self.task, noise=self.task.noise[: self.steps])


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


def _first_forecast(runner: Runner, task: Task) -> tuple[Frames, float]:
    """Observe the frames and forecast; also the seconds of the forecast."""
    for frame in task.frames:
        runner.observe(frame)
    return _forecast(runner, task)


def _forecast(runner: Runner, task: Task) -> tuple[Frames, float]:
    start = time.perf_counter()
    futures = runner.forecast(horizon=len(task.noise), noise=task.noise, context_noise=task.context_noise)
    return futures, time.perf_counter() - start


def _timed_steps(horizon: int, seconds: float) -> int:
    """How many steps to time of a forecast that takes `seconds`: all, or what fits into a moment."""
    return horizon if seconds <= _SLOW_S else min(horizon, max(_SHORT_STEPS, math.ceil(horizon * _SHORT_S / seconds)))


def _race(runners: Sequence[Runner], task: Task) -> list[list[float]]:
    """Time all, interleaved, until it is clear which one is faster or the time is over; the seconds of each one's rounds."""
    times: list[list[float]] = [[] for _ in runners]
    until = time.perf_counter() + _RACE_S
    for number in range(_MAX_ROUNDS):
        racers = list(zip(runners, times, strict=True))
        for runner, seconds in racers if number % 2 else reversed(racers):
            start = time.perf_counter()
            runner.observe(task.frames[number % len(task.frames)])
            _forecast(runner, task)
            seconds.append(time.perf_counter() - start)
        is_over = number + 1 >= _SLOW_ROUNDS and time.perf_counter() > until
        if is_over or _is_clear(times):
            break
    return times


def _is_clear(times: list[list[float]]) -> bool:
    """Whether the challenger is far behind in the first round, or one is slower in three quarters of several.

    One round is too little to win: the champion may have had to wait for other programs.
    """
    if len(times) == 1:
        return True
    ratios = [a / b for a, b in zip(*times, strict=True)]
    if len(ratios) == 1:
        return bool(ratios[0] > _FAR_BEHIND)
    if len(ratios) < _MIN_ROUNDS:
        return False
    lower, _, upper = statistics.quantiles(ratios, n=4)
    return bool(lower > 1 or upper < 1)


def _difference(frames: Frames, expected: Frames, way: Way, reference: Way) -> str:
    """Why the frames are not those of the reference; empty if they are."""
    error = float(np.abs(frames - expected).max())
    first_db = psnr(float(np.mean((frames[:, 0] - expected[:, 0]).astype(np.float64) ** 2)))
    if (error <= MAX_ERROR) if way.precision == "fp32" else (first_db >= MIN_DB):
        return ""
    reason = f"computes other frames than {reference}: largest error {error:.2g}, first frame {first_db:.1f} dB"
    _LOG.warning("%s %s, so it is left out; this is worth a bug report, with the output of svg-bench", way, reason)
    return reason
