"""Kernel times, as ONNX Runtime's own profiler reports them, and what the profiler itself adds to them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svg_runtime.backends.onnxruntime import cpu as ort
from svg_runtime.backends.onnxruntime.cpu import CpuBackend
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle

_MICROSECOND = 1e-6
_EMPTY_KERNELS = 200
_INTERRUPTED = 10  # of them, at most: while another program ran in between, a kernel's clock went on


@dataclass
class KernelTime:
    """Sum of kernel times, and how many kernels were run."""

    seconds: float = 0.0
    kernels: int = 0


class EmptyKernels:
    """A chain of kernels with almost nothing to compute: the time that the profiler reports is its own cost per kernel.

    The profiler stops the clock only after it has written a kernel's shapes. The chain's kernels have as many inputs and
    dimensions as a convolution with bias, so that as much is written.
    """

    def __init__(self, folder: Path) -> None:
        import onnx
        from onnx import helper

        onnxruntime = import_onnxruntime()
        names = [f"x{number}" for number in range(_EMPTY_KERNELS + 1)]
        shape = [1, 1, 1, 1]
        described = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in (*names, "y", "z")}
        nodes = [helper.make_node("Sum", [x, "y", "z"], [following]) for x, following in itertools.pairwise(names)]
        graph = helper.make_graph(nodes, "empty", [described[name] for name in (names[0], "y", "z")], [described[names[-1]]])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = _with_profiler(ort._session_options(onnxruntime, None), folder / "empty")
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: np.zeros(shape, np.float32) for value in self._session.get_inputs()}

    def run(self) -> None:
        """Run the chain once."""
        self._session.run(None, self._inputs)

    def seconds_per_kernel(self, rounds: int) -> list[float]:
        """End the profile; seconds per kernel in each of the last `rounds` runs, without the kernels that took longest."""
        runs = _kernel_times_per_run(Path(self._session.end_profiling()))
        return [float(np.mean(sorted(run)[:-_INTERRUPTED])) for run in runs[-rounds:]]


def profiled_backend(bundle: Bundle, precision: Precision, folder: Path, monkeypatch: Any) -> CpuBackend:
    """The cpu backend exactly as the runtime opens it, but with the profiler on."""
    plain_options, number = ort._session_options, itertools.count()

    def options(*args: Any) -> Any:
        # The engine only adds the time in seconds to the name: sessions opened within a second would share a file.
        return _with_profiler(plain_options(*args), folder / f"profile-{next(number)}")

    with monkeypatch.context() as patch:
        patch.setattr(ort, "_session_options", options)
        return CpuBackend(bundle, precision)


def _with_profiler(options: Any, prefix: Path) -> Any:
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def kernel_time_per_round(backend: CpuBackend, graphs: list[Any], rounds: int) -> list[KernelTime]:
    """End the profile and sum the kernel times of each of the last `rounds` times that `graphs` were run.

    Runs are distinguished by their order: timestamps of different sessions have different origins.
    """
    sums = [KernelTime() for _ in range(rounds)]
    for session in backend._sessions.values():
        runs = _kernel_times_per_run(Path(session.end_profiling()))
        per_round = sum(graph.session is session for graph in graphs)
        first = len(runs) - rounds * per_round
        for index in range(rounds):
            for run in runs[first + index * per_round : first + (index + 1) * per_round]:
                sums[index].seconds += sum(run)
                sums[index].kernels += len(run)
    return sums


def _kernel_times_per_run(profile: Path) -> list[list[float]]:
    """Seconds of each kernel, run by run. They come before a run's closing `model_run` event."""
    runs: list[list[float]] = [[]]
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event["name"].endswith("_kernel_time"):
            runs[-1].append(event["dur"] * _MICROSECOND)
        elif event["name"] == "model_run":
            runs.append([])
    return runs[:-1]
