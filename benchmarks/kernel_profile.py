"""Sum of kernel times, as ONNX Runtime's own profiler reports it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from svg_runtime.backends.ort import CpuBackend
from svg_runtime.bundle import Bundle
from svg_runtime.manifest import Precision

_MICROSECOND = 1e-6


def profiled_backend(bundle: Bundle, precision: Precision, folder: Path, monkeypatch: Any) -> CpuBackend:
    """The cpu backend exactly as the runtime opens it, but with the profiler on."""
    import onnxruntime

    plain_session, numbers = onnxruntime.InferenceSession, itertools.count()

    def with_profiler(content: bytes, options: Any, **others: Any) -> Any:
        # A prefix for each: the time in the name of the file does not tell sessions apart that are opened quickly.
        options.enable_profiling, options.profile_file_prefix = True, str(folder / f"profile-{next(numbers)}")
        return plain_session(content, options, **others)

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", with_profiler)
        return CpuBackend(bundle, precision)


def kernel_seconds_per_round(backend: CpuBackend, plans: list[Any], rounds: int) -> list[float]:
    """End the profile and sum the kernel times of each of the last `rounds` times that `plans` were run.

    Runs are told apart by their order: timestamps of different sessions have different origins.
    """
    sums = [0.0] * rounds
    for session in backend._sessions.values():
        runs = _kernel_seconds_per_run(Path(session.end_profiling()))
        per_round = sum(plan.session is session for plan in plans)
        first = len(runs) - rounds * per_round
        for index in range(rounds):
            sums[index] += sum(runs[first + index * per_round : first + (index + 1) * per_round])
    return sums


def _kernel_seconds_per_run(profile: Path) -> list[float]:
    """Each run's kernel times come before its closing `model_run` event."""
    runs, kernels = [], 0.0
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event["name"].endswith("_kernel_time"):
            kernels += event["dur"] * _MICROSECOND
        elif event["name"] == "model_run":
            runs.append(kernels)
            kernels = 0.0
    return runs
