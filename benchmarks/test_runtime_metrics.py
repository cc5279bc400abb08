"""Metrics of the runtime: its overhead over the bare graphs, its import, and the memory of `svg-live`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from goal_metrics import GoalMetric, interleave, median_ratio, round_seconds
from kernel_profile import EmptyKernels, kernel_time_per_round, profiled_backend
from recorded_runs import runs_of_a_forecast

from svg_runtime.backends.base import Backend, BoundGraph
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.live.sources import SYNTHETIC_URL

SAMPLES, ROUNDS, IMPORTS = 8, 20, 10
OVERHEAD, OUTSIDE_PERCENT = 1.05, 5.0  # goals of nf 64
IMPORT_S, MEMORY_MB = 0.4, 400.0  # goals of any installation, of the embedded model
NF_OF_GOAL = 64

IMPORT_CODE = """
import json, sys, time
start = time.perf_counter()
import svg_runtime
package = time.perf_counter() - start
from svg_runtime import Forecaster
print(json.dumps({"package": package, "forecaster": time.perf_counter() - start, "torch": "torch" in sys.modules}))
"""


def test_forecast_over_bare_graphs(
    measured: Any, bundle: Bundle, backend: Backend, primed: Any, record_metric: Any, pytestconfig: pytest.Config
) -> None:
    """Overhead of the loop: noise, state bookkeeping and copies. Both sides include the engine's own cost per call."""
    forecaster = primed(backend, SAMPLES)
    graphs = runs_of_a_forecast(backend, lambda: primed(backend, SAMPLES))
    rounds = pytestconfig.getoption("rounds") or ROUNDS
    measured.group = "forecast and its graphs"
    bare_s = interleave(measured, forecaster.forecast, lambda: _run_bare(graphs), rounds)
    measured.extra_info["bare_seconds"] = bare_s
    if measured.enabled:
        name = f"forecast(8 samples, 10 steps) / its {len(graphs)} graph runs bare: {bundle.path.stem}"
        record_metric(
            GoalMetric(name, median_ratio(round_seconds(measured), bare_s), "x", OVERHEAD if _is_nf_of_goal(bundle) else None)
        )


def test_forecast_over_kernels(
    measured: Any, bundle: Bundle, backend: Backend, primed: Any, record_metric: Any, pytestconfig: pytest.Config,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The share of a forecast outside of ONNX Runtime's kernels: in our loop, and in the engine between its kernels.

    A forecast without the profiler, minus the kernel times of the same graphs with it, interleaved. The profiler's time for an
    empty kernel is subtracted from each kernel time: its own cost, and the time to call the kernel.
    """
    if backend.name != "cpu":
        pytest.skip("ONNX Runtime's profiler reports kernel times on the cpu backend only")
    pytest.importorskip(
        "onnx", reason="the profiler's own cost is measured with a graph made by onnx: pip install 'svg-edge[export]'"
    )
    profiled, empty = profiled_backend(bundle, backend.precision, tmp_path, monkeypatch), EmptyKernels(tmp_path)
    forecaster = primed(backend, SAMPLES)
    graphs = runs_of_a_forecast(profiled, lambda: primed(profiled, SAMPLES))

    def run_profiled() -> None:
        _run_bare(graphs)
        empty.run()

    rounds = len(interleave(measured, forecaster.forecast, run_profiled, pytestconfig.getoption("rounds") or ROUNDS))
    times, empty_s = kernel_time_per_round(profiled, graphs, rounds), empty.seconds_per_kernel(rounds)
    kernel_s = [run.seconds - run.kernels * seconds for run, seconds in zip(times, empty_s, strict=True)]
    profiled.close()
    measured.group = "forecast and its graphs"
    measured.extra_info.update(kernels=times[-1].kernels, kernel_seconds=kernel_s, empty_kernel_seconds=empty_s)
    if measured.enabled:
        goal = OUTSIDE_PERCENT if _is_nf_of_goal(bundle) else None
        name = f"forecast(8 samples, 10 steps) outside of its {times[-1].kernels} kernels: {bundle.path.stem}"
        record_metric(GoalMetric(name, 100 * (1 - median_ratio(kernel_s, round_seconds(measured))), "%", goal))


def test_import(benchmark: Any, record_metric: Any, pytestconfig: pytest.Config) -> None:
    """Measured inside a fresh interpreter each time, so that its own start does not count."""
    results: list[dict[str, Any]] = []

    def fresh_interpreter() -> None:
        answer = subprocess.run([sys.executable, "-c", IMPORT_CODE], capture_output=True, text=True, check=True)
        results.append(json.loads(answer.stdout))

    benchmark.group = "import in a fresh interpreter, its start included"
    rounds = pytestconfig.getoption("rounds") or IMPORTS
    benchmark.pedantic(fresh_interpreter, rounds=rounds, warmup_rounds=1 if benchmark.enabled else 0)
    assert not any(result["torch"] for result in results), "svg_runtime imported torch"
    statements = {"package": "import svg_runtime", "forecaster": "from svg_runtime import Forecaster"}
    for key, statement in statements.items():
        median = statistics.median(result[key] for result in results[-rounds:])
        record_metric(GoalMetric(f"{statement}, without torch", median, "s", IMPORT_S))


def test_live_memory(measured: Any, bundle: Bundle, backend: Backend, record_metric: Any, pytestconfig: pytest.Config,
                     tmp_path: Path) -> None:  # fmt: skip
    """Peak resident memory of `svg-live` in a process of its own, which reports its own high-water mark.

    A parent cannot measure it: the system's value for a child includes the process that it was forked from.
    """
    stats = tmp_path / "stats.json"
    command = [
        sys.executable, "-c", "from svg_runtime.live.cli import main; main()", "--headless", "--source", SYNTHETIC_URL,
        "--model", str(bundle.path), "--backend", backend.name, "--max-frames", str(pytestconfig.getoption("live_frames")),
        "--output", str(tmp_path / "live.mp4"), "--json", str(stats),
    ]  # fmt: skip
    command += [] if backend.precision == "fp32" else [f"--{backend.precision}"]
    measured.group = "svg-live in a process of its own"
    measured.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=1)
    peak_mib = json.loads(stats.read_text(encoding="utf-8"))["peak_rss_mib"]
    if peak_mib is None:
        pytest.skip("this system does not report the memory of a process")
    goal = MEMORY_MB if bundle.path == EMBEDDED_MODEL else None
    record_metric(GoalMetric(f"svg-live, peak resident memory: {bundle.path.stem}", peak_mib * 2**20 / 1e6, "MB", goal))


def _run_bare(graphs: list[BoundGraph]) -> None:
    for graph in graphs:
        graph.run()


def _is_nf_of_goal(bundle: Bundle) -> bool:
    return bundle.manifest.model.settings.get("nf") == NF_OF_GOAL
