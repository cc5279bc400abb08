"""Divides cameras among the threads of the host that may run graphs at the same time, and among the batches that are bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

_ROWS_IN_LANE = 16  # samples of all cameras: larger batches are no faster on one core, and take more of the caches


@dataclass(frozen=True)
class Part:
    """What one lane runs as one batch."""

    lane: int
    camera_numbers: tuple[int, ...]
    samples: slice  # of each camera


class Lanes:
    """Threads that work at the same time; the first one is the caller's own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count - 1, "svg-lane") if count > 1 else None

    def run(self, work: Mapping[int, Sequence[Callable[[], None]]]) -> None:
        """Run each lane's work in its order, and return when all has ended.

        Raises:
            Exception: what the work of a lane raised, after all others have ended.
        """
        own, *others = work.values() if work else [()]
        futures: list[Future[None]] = []
        try:
            if self._pool is not None:
                futures = [self._pool.submit(_run_all, each) for each in others]
            _run_all(own)
        finally:
            wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def bound_sizes(camera_count: int, lanes: int, samples: int) -> list[int]:
    """The numbers of cameras that are bound as one batch: a lane's share, and the powers of two below, the largest first.

    With several lanes, the share is at most as many as make a batch of `_ROWS_IN_LANE` with their `samples`, the futures that
    are computed of each.
    """
    if lanes > 1:
        camera_count = min(-(-camera_count // lanes), max(1, _ROWS_IN_LANE // samples))
    return [camera_count, *(1 << power for power in reversed(range((camera_count - 1).bit_length())))]


def divide(camera_numbers: Sequence[int], lanes: int, samples: int, sizes: Sequence[int], by_samples: bool) -> list[Part]:
    """Divide cameras among lanes, in parts of the sizes that are bound.

    Args:
        camera_numbers: which.
        lanes: number of lanes.
        samples: futures that are computed of each camera.
        sizes: as `bound_sizes` gives them.
        by_samples: whether the cameras that are left over when each lane has equally many are divided by their samples, where
            a lane's share of these is less work than one whole camera.
    """
    left = len(camera_numbers) % lanes
    by_samples = by_samples and left * -(-samples // lanes) < samples
    each = len(camera_numbers) - left if by_samples else len(camera_numbers)
    parts = []
    for lane, share in enumerate(np.array_split(np.arange(each), lanes)):
        own = [camera_numbers[index] for index in share]
        parts += [Part(lane, part, slice(0, samples)) for part in _of_sizes(own, sizes)]
    for lane, share in enumerate(np.array_split(np.arange(samples), lanes)):
        if len(share):
            own_samples = slice(int(share[0]), int(share[-1]) + 1)
            parts += [Part(lane, part, own_samples) for part in _of_sizes(camera_numbers[each:], sizes)]
    return parts


def _of_sizes(camera_numbers: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    rest, parts = list(camera_numbers), []
    for size in sizes:
        while len(rest) >= size:
            parts.append(tuple(rest[:size]))
            rest = rest[size:]
    return parts


def _run_all(work: Sequence[Callable[[], None]]) -> None:
    for each in work:
        each()
