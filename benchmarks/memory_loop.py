"""Observes and forecasts repeatedly, and prints how much memory is resident. Nothing else runs in this process.

python benchmarks/memory_loop.py BUNDLE BACKEND COUNT
"""

from __future__ import annotations

import json
import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from svg_runtime.forecast.forecaster import Forecaster

SAMPLES, HORIZON = 2, 3
# Forecasts before the first measurement, as a share of the count: the pools of an engine's threads fill within it.
_WARM_UP = 0.5
_STATUS = Path("/proc/self/status")


def main(bundle: str, backend: str, count: int) -> None:
    """Print {"after_warm_up": bytes, "end": bytes}, or null if the system does not report memory."""
    if not _STATUS.exists():
        print("null")
        return
    with Forecaster.open(bundle, backend, samples=SAMPLES, horizon=HORIZON) as forecaster:
        frame, n_past = forecaster.manifest.frame, forecaster.manifest.generation.n_past
        frames = cycle(np.random.default_rng(0).random((16, frame.height, frame.width, frame.channels), np.float32))
        for picture in islice(frames, n_past - 1):
            forecaster.observe(picture)
        warm_up = int(_WARM_UP * count)
        start = 0
        for number, picture in enumerate(islice(frames, warm_up + count)):
            if number == warm_up:
                start = resident_bytes()
            forecaster.observe(picture)
            forecaster.forecast()
        print(json.dumps({"after_warm_up": start, "end": resident_bytes()}))


def resident_bytes() -> int:
    """Resident memory of this process."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
