"""Options of the `cuda` backend, measured on a GPU: `python benchmarks/cuda_options.py BUNDLE.svgb [--samples N] [--rounds N]`.

Every choice differs from ONNX Runtime's defaults in how convolutions are found or laid out. The table shows the median
milliseconds of a forecast of 10 steps and of an observed frame, in every precision of the bundle.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from unittest.mock import patch

from goal_metrics import aligned
from peers import Task

from svg_common.errors import first_line
from svg_runtime.backends.onnxruntime.providers import Provider
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BackendMissingError
from svg_runtime.forecast.forecaster import Forecaster

HORIZON, WARM_UP = 10, 6
_SEARCH = "cudnn_conv_algo_search"
CHOICES: dict[str, dict[str, str]] = {
    "convolutions by trying all": {_SEARCH: "EXHAUSTIVE"},
    "convolutions that cuDNN recommends": {_SEARCH: "HEURISTIC"},
    "the default convolution": {_SEARCH: "DEFAULT"},
    "trying all, channels last": {_SEARCH: "EXHAUSTIVE", "prefer_nhwc": "1"},
    "recommended, channels last": {_SEARCH: "HEURISTIC", "prefer_nhwc": "1"},
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    precisions = [precision for precision in ("fp32", "fp16") if precision in bundle.manifest.variants]
    rows = [["options", "precision", "forecast ms", "observe ms"]]
    for precision in precisions:
        for name, changed in CHOICES.items():
            times = measure(
                bundle=bundle, changed=changed, precision=precision, samples=options.samples, rounds=options.rounds
            )  # fmt: skip
            rows.append([name, precision, *times])
    print("\n".join(aligned(rows)))


def measure(bundle: Bundle, changed: dict[str, str], precision: Precision, samples: int, rounds: int) -> tuple[str, str]:
    """Median milliseconds of a forecast and of an observation; the reason in place of both where the options do not work."""
    own, task = Provider._cuda_options, Task.make(bundle, samples, HORIZON)
    forecasts, observations = [], []
    with patch.object(Provider, "_cuda_options", lambda self: {**own(self), **changed}):
        try:
            with Forecaster.open(bundle.path, "cuda", precision=precision, samples=samples, horizon=HORIZON) as forecaster:
                for _ in range(WARM_UP):
                    for frame in task.frames:
                        forecaster.observe(frame)
                    forecaster.forecast()
                for number in range(rounds):
                    start = time.perf_counter()
                    forecaster.observe(task.frames[number % len(task.frames)])
                    between = time.perf_counter()
                    forecaster.forecast()
                    forecasts.append(time.perf_counter() - between)
                    observations.append(between - start)
        except (BackendError, BackendMissingError) as error:
            return first_line(error), ""
    return f"{statistics.median(forecasts) * 1e3:.2f}", f"{statistics.median(observations) * 1e3:.2f}"


if __name__ == "__main__":
    main()
