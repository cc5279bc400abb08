"""Session options for the `cpu` backend, measured: `python benchmarks/session_options.py [--bundle NAME ...] [--rounds N]`.

Every choice differs from the product's options in one setting. Its forecast (8 samples, 10 steps) and the product's are
interleaved, so that the machine's load is the same for both. The table shows the median ratio of wall time and of processor
time, which includes what threads spend on waiting. Then, per bundle, two forecasters run in parallel.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bundles
import numpy as np
from goal_metrics import median_ratio

from svg_runtime.backends.onnxruntime import cpu as ort
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import hardware, usable_cores

Change = Callable[[Any], object]  # of the product's session options

onnxruntime = import_onnxruntime()
_LEVEL = onnxruntime.GraphOptimizationLevel
_SPINNING, _STOP = "session.intra_op.allow_spinning", "session.force_spinning_stop"


def _entries(**values: str) -> Change:
    def change(options: Any) -> None:
        for key, value in values.items():
            options.add_session_config_entry(key, value)

    return change


def _attribute(name: str, value: Any) -> Change:
    return lambda options: setattr(options, name, value)


CHOICES: dict[str, Change] = {
    "as the product": lambda options: None,
    "threads block instead of spinning": _entries(**{_SPINNING: "0"}),
    "threads spin after a run, too": _entries(**{_STOP: "0"}),
    "one thread": _attribute("intra_op_num_threads", 1),
    "no arena": _attribute("enable_cpu_mem_arena", False),
    "no memory pattern": _attribute("enable_mem_pattern", False),
    "no prepacking of weights": _entries(**{"session.disable_prepacking": "1"}),
    "graph level extended": _attribute("graph_optimization_level", _LEVEL.ORT_ENABLE_EXTENDED),
    "graph level basic": _attribute("graph_optimization_level", _LEVEL.ORT_ENABLE_BASIC),
    "denormals as zero": _entries(**{"session.set_denormal_as_zero": "1"}),
    "dynamic block base 4": _entries(**{"session.dynamic_block_base": "4"}),
    "parallel execution": _attribute("execution_mode", onnxruntime.ExecutionMode.ORT_PARALLEL),
}


def open_changed(bundle: Bundle, change: Change, fused: bool | None) -> Forecaster:
    """A forecaster on the cpu backend with changed session options, ready to forecast."""
    plain = ort._session_options

    def changed(*args: Any) -> Any:
        options = plain(*args)
        change(options)
        return options

    with patch.object(ort, "_session_options", changed):
        forecaster = Forecaster.open(bundle.path, backend="cpu", fused=fused)
    frame = bundle.manifest.frame
    rng = np.random.default_rng(0)
    for _ in range(bundle.manifest.generation.n_past):
        forecaster.observe(rng.random((frame.height, frame.width, frame.channels), np.float32))
    for _ in range(2):
        forecaster.forecast()
    return forecaster


def time_interleaved(product: Forecaster, other: Forecaster, rounds: int) -> tuple[float, float]:
    """Median ratios of wall time and of processor time, other over product."""
    wall: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for index, forecaster in enumerate((other, product)):
            start, used = time.perf_counter(), time.process_time()
            forecaster.forecast()
            wall[index].append(time.perf_counter() - start)
            processor[index].append(time.process_time() - used)
    return median_ratio(*wall), statistics.median(processor[0]) / statistics.median(processor[1])


def parallel_ratio(forecasters: list[Forecaster], rounds: int) -> float:
    """The time that two take in parallel, divided by the time one after the other."""

    def work(forecaster: Forecaster) -> None:
        for _ in range(rounds):
            forecaster.forecast()

    start = time.perf_counter()
    for forecaster in forecasters:
        work(forecaster)
    serial = time.perf_counter() - start
    threads = [threading.Thread(target=work, args=(forecaster,)) for forecaster in forecasters]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / serial


def report(name: str, cache: Path, rounds: int, fused: bool | None) -> None:
    """Print the tables of one bundle."""
    bundle = bundles.open_named(name, cache)
    print(f"\n{bundles.label(name)}: forecast, ratio to the product's options   wall  processor")
    with open_changed(bundle, CHOICES["as the product"], fused) as product:
        for choice, change in CHOICES.items():
            with open_changed(bundle, change, fused) as other:
                wall, processor = time_interleaved(product, other, rounds)
            print(f"  {choice:48s} {wall:10.2f} {processor:10.2f}", flush=True)
    for choice in ("as the product", "threads block instead of spinning", "one thread"):
        two = [open_changed(bundle, CHOICES[choice], fused) for _ in range(2)]
        ratio = parallel_ratio(two, rounds)
        print(f"  two forecasters in parallel / one after the other: {ratio:.2f}   ({choice})", flush=True)
        for forecaster in two:
            forecaster.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Measure the session options of the cpu backend.")
    parser.add_argument("--bundle", action="append", help=f"as in pytest benchmarks/ (default: {','.join(bundles.DEFAULT)})")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds per choice (default: 20)")
    parser.add_argument("--separate", action="store_true", help="use the separate graphs even if the bundle has fused ones")
    arguments = parser.parse_args()
    machine = hardware()
    print(f"{machine['cpu']}, {usable_cores()} cores, load {machine['load_average']}, ONNX Runtime {onnxruntime.__version__}")
    onnxruntime.set_default_logger_severity(3)  # it warns about every option that is set twice
    with tempfile.TemporaryDirectory() as folder:
        for name in bundles.split_names(arguments.bundle):
            report(name, Path(folder), arguments.rounds, False if arguments.separate else None)


if __name__ == "__main__":
    main()
