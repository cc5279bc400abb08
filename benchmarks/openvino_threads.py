"""OpenVINO's graphs on one set of threads, as in the product, compared with a set for every graph: time and memory.

    python benchmarks/openvino_threads.py [--bundle NAME ...] [--rounds N] [--forecasts N]

Memory is measured by `memory_loop.py`, beside a process that keeps a core busy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import bundles
import memory_loop
import numpy as np
from session_options import parallel_ratio, time_interleaved
from test_memory import BUSY_CODE

from svg_runtime.backends.openvino import backend as openvino
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import hardware, usable_cores, versions

CHOICES = {"one set of threads": True, "a set for every graph": False}


def open_with(bundle: Bundle, shared: bool) -> Forecaster:
    """A forecaster on the openvino backend, ready to forecast."""
    with patch.object(openvino, "can_share_threads", lambda core: shared):
        forecaster = Forecaster.open(bundle.path, backend="openvino")
        frame, rng = bundle.manifest.frame, np.random.default_rng(0)
        for _ in range(bundle.manifest.generation.n_past):
            forecaster.observe(rng.random((frame.height, frame.width, frame.channels), np.float32))
        forecaster.forecast()  # graphs are compiled when they are bound
    return forecaster


def report_time(bundle: Bundle, name: str, rounds: int) -> None:
    """Print how the two compare, interleaved, and two forecasters in parallel with either."""
    with open_with(bundle, True) as product, open_with(bundle, False) as other:
        wall, processor = time_interleaved(product, other, rounds)
        print(f"{name}, {product.description}: a set for every graph takes {wall:.2f} of the wall time, {processor:.2f} of the "
              "processor time", flush=True)  # fmt: skip
    for choice, shared in CHOICES.items():
        two = [open_with(bundle, shared) for _ in range(2)]
        ratio = parallel_ratio(two, rounds)
        print(f"  {choice}: two forecasters in parallel / one after the other: {ratio:.2f}", flush=True)
        for forecaster in two:
            forecaster.close()


def grow(shared: bool, forecasts: int) -> None:
    """Print the growth of this process's memory in MB over `forecasts`, after a warm-up of half as many."""
    answer = StringIO()
    with patch.object(openvino, "can_share_threads", lambda core: shared), redirect_stdout(answer):
        memory_loop.main(str(EMBEDDED_MODEL), "openvino", forecasts)
    found = json.loads(answer.getvalue())
    print("not available on this system" if found is None else f"{(found['end'] - found['after_warm_up']) / 1e6:.2f} MB")


def report_memory(forecasts: int) -> None:
    """Measure each choice in a process of its own, beside a busy one."""
    for choice, shared in CHOICES.items():
        command = [sys.executable, __file__, "--forecasts", str(forecasts), "--grow", "shared" if shared else "own"]
        with subprocess.Popen([sys.executable, "-c", BUSY_CODE]) as busy:
            try:
                grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            finally:
                busy.kill()
        print(f"{choice}: memory over {forecasts} forecasts beside a busy process, embedded: {grown}", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", help=f"as in pytest benchmarks/ (default: {','.join(bundles.DEFAULT)})")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default: 20)")
    parser.add_argument("--forecasts", type=int, default=2000, help="forecasts of the memory benchmark (default: 2000)")
    parser.add_argument("--grow", choices=("shared", "own"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grow:
        grow(arguments.grow == "shared", arguments.forecasts)
        return
    machine = hardware()
    print(f"{machine['cpu']}, {usable_cores()} cores, load {machine['load_average']}, OpenVINO {versions()['openvino']}")
    with tempfile.TemporaryDirectory() as folder:
        for name in bundles.split_names(arguments.bundle):
            report_time(bundles.open_named(name, Path(folder)), bundles.label(name), arguments.rounds)
    report_memory(arguments.forecasts)


if __name__ == "__main__":
    main()
