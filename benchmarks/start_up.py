"""What a backend costs at start: `python benchmarks/start_up.py [--backend NAME ...] [--rounds N]`.

Seconds from the start of a process to its first forecast with the embedded model, 8 samples x 10 steps, interleaved. The
first round fills the caches (compiled graphs, the decision of `auto`, files in memory) and is shown apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from goal_metrics import aligned

from svg_runtime.machine.hardware import hardware

FORECAST = """
import sys
import numpy as np
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import EMBEDDED_MODEL

with Forecaster.open(EMBEDDED_MODEL, backend=sys.argv[1]) as forecaster:
    frame = forecaster.manifest.frame
    while not forecaster.ready:
        forecaster.observe(np.zeros((frame.height, frame.width, frame.channels), np.float32))
    forecaster.forecast()
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", metavar="NAME", help="default: cpu, openvino, auto")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    names = options.backend or ["cpu", "openvino", "auto"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds + 1):
            for name in names:
                seconds[name].append(start(name, folder))
    rows = [[name, f"{first:.2f}", f"{statistics.median(later):.2f}"] for name, (first, *later) in seconds.items()]
    print("\n".join(aligned([["backend", "first, s", "later, s"], *rows])))
    machine = hardware()
    print(f"{machine['cores_usable']} cores of {machine['cpu']}, load {machine['load_average']}")


def start(backend: str, cache: str) -> float:
    """Seconds until a process that opens `backend` and forecasts once has ended."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", FORECAST, backend], env={**os.environ, "SVG_EDGE_CACHE": cache}, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
