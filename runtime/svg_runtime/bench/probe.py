"""The CPU's peak, measured with NumPy: float32 matrix products and memory copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from svg_common.progress import ProgressListener

_SIDE = 1024  # of the matrices: 4 MiB each, 2.1 GFLOP a product
_COPY_BYTES = 128 << 20  # larger than the caches of a desktop or of a Jetson
_TRIES_S = 0.5  # per probe; the best try counts, because other load only slows it down
_MIN_TRIES = 3


def measure_peak(progress: ProgressListener, task: str, threads: int) -> dict[str, Any]:
    """Measure the rates of the CPU with `threads` threads.

    Args:
        progress: listener for this probe.
        task: name of this probe.
        threads: for the copies. Those for the matrix products are set in the environment, see `process.py`.

    Returns:
        threads: the argument.
        matmul_gflops: 10^9 float32 operations per second, two per multiply-add.
        copy_gb_s: 10^9 bytes per second, read plus written.
    """
    a, b = np.random.default_rng(0).random((2, _SIDE, _SIDE), np.float32)
    product = np.empty_like(a)
    matmul_s = best_of(lambda: np.matmul(a, b, out=product))
    progress.progress(task, 0.5)
    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)  # written, so that the pages exist
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the GIL while copying
        copy_s = best_of(lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)))
    progress.progress(task, 1.0)
    return {
        "threads": threads,
        "matmul_gflops": 2 * _SIDE**3 / matmul_s / 1e9,
        "copy_gb_s": 2 * _COPY_BYTES / copy_s / 1e9,
    }


def best_of(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest try."""
    tries: list[float] = []
    while sum(tries) < _TRIES_S or len(tries) < _MIN_TRIES:
        start = time.perf_counter()
        work()
        tries.append(time.perf_counter() - start)
    return min(tries)
