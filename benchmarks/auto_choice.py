"""How near the choice of `auto` is to the best way: `python benchmarks/auto_choice.py [--bundle NAME ...] [--rounds N]`.

`auto` measures as on a first opening. Then all ways that run are opened at once, and their rounds, an observed frame and a
forecast of 8 samples x 10 steps, are interleaved for longer than `auto` had. The share is the median of chosen over best.

ONEDNN_MAX_CPU_ISA in the environment holds OpenVINO to fewer instructions than the processor has, such as AVX2 or
AVX512_CORE_BF16; the kernels of its convolutions are printed, which show that it does. ONNX Runtime does not read it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bundles
from goal_metrics import aligned

from svg_common.errors import SvgError
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.calibration.decisions import Decision, way_of
from svg_runtime.calibration.race import Task
from svg_runtime.calibration.ways import Request, Way, list_ways
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import cpu_limits, hardware, load_average

SAMPLES, HORIZON, GOAL = 8, 10, 1.05
OPENINGS, MORE_S = 12, 0.02


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", metavar="NAME", help="default: embedded, random:nf64, random:vgg-rgb-nf64")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    names = bundles.split_names(options.bundle, ("embedded", "random:nf64", "random:vgg-rgb-nf64"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SVG_EDGE_CACHE"] = folder  # a first opening, with nothing kept
        for name in names:
            print_choice(bundles.open_named(name, Path(folder)), options.rounds)
    machine, limits = hardware(), "".join(f", held to {value} by {name}" for name, value in cpu_limits().items())
    print(f"\n{machine['cores_usable']} cores of {machine['cpu']} {machine['gpus'] or ''}{limits}")
    print("\n".join(f"openvino {precision}: {kernels}" for precision, kernels in convolution_kernels().items()))


def opening_s(bundle: Bundle, **given: Any) -> float:
    """Seconds of an opening with the decision kept, or by name."""
    start = time.perf_counter()
    Forecaster.open(bundle.path, samples=SAMPLES, horizon=HORIZON, **given).close()
    return time.perf_counter() - start


def print_choice(bundle: Bundle, rounds: int) -> None:
    """A table: every way, its median, and the chosen one over the best."""
    load = load_average()
    start, processor = time.perf_counter(), time.process_time()
    with Forecaster.open(bundle.path, samples=SAMPLES, horizon=HORIZON, calibrate="ready") as forecaster:
        took_s, processor_s = time.perf_counter() - start, time.process_time() - processor
        assert forecaster.decision is not None, forecaster.description
        decision = forecaster.decision
    chosen = decision.way
    pairs = [(opening_s(bundle), opening_s(bundle, **vars(chosen))) for _ in range(OPENINGS)]
    again_s, named_s = (statistics.median(each) for each in zip(*pairs, strict=True))
    more_s = statistics.median(again - named for again, named in pairs)
    seconds = time_all(bundle, decision, rounds)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    best = min(medians, key=lambda way: medians[way])
    share = statistics.median(a / b for a, b in zip(seconds[chosen], seconds[best], strict=True))
    print(f"\n{bundle.path.stem}: first opening {took_s:.1f} s, {processor_s:.1f} s of processor time")
    met = "met" if more_s < MORE_S else "MISSED"
    print(f"later openings {again_s * 1e3:.0f} ms, by name {named_s * 1e3:.0f} ms")
    print(f"median difference {more_s * 1e3:.1f} ms; goal under {MORE_S * 1e3:.0f} ms: {met}")
    print(f"load average {load} before, {load_average()} after")
    print("\n".join(aligned([["way", "ms"], *([str(way), f"{each * 1e3:.1f}"] for way, each in medians.items())])))
    met = "met" if share <= GOAL else "MISSED"
    print(f"auto took {chosen}: {share:.3f} of the best, {best}; goal at most {GOAL}: {met}")


def time_all(bundle: Bundle, decision: Decision, rounds: int) -> dict[Way, list[float]]:
    """Seconds of every round of every way that runs, also on the fewer threads that were measured."""
    task = Task.make(bundle.manifest, SAMPLES, HORIZON)
    seconds: dict[Way, list[float]] = {}
    ready = GpuOptions(build_engines=False)
    with ExitStack() as stack:
        opened: dict[Way, Forecaster] = {}
        for way in dict.fromkeys([*list_ways(bundle.manifest, Request()), *map(way_of, decision.rows)]):
            try:
                runner = Forecaster.open(bundle.path, samples=SAMPLES, horizon=HORIZON, gpu=ready, **vars(way))
            except SvgError:
                continue
            opened[way] = stack.enter_context(runner)
            runner.warm_up()
            for frame in task.frames:
                runner.observe(frame)
        for number in range(rounds):
            turn = list(opened.items())
            for way, runner in turn[number % len(turn) :] + turn[: number % len(turn)]:
                start = time.perf_counter()
                runner.observe(task.frames[number % len(task.frames)])
                runner.forecast(noise=task.noise, context_noise=task.context_noise)
                seconds.setdefault(way, []).append(time.perf_counter() - start)
    return seconds


def convolution_kernels() -> dict[str, str]:
    """Precision -> names of the kernels that OpenVINO takes for the embedded model's encoder on this processor."""
    from svg_runtime.backends.openvino.device import shared_core

    core, found = shared_core(), {}
    for precision in ("f32", "bf16"):
        model = core.read_model(Bundle.open(EMBEDDED_MODEL).graphs("fp32")["encoder"])
        model.reshape({"frame": [SAMPLES, 1, 64, 64]})
        try:
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        except RuntimeError:
            found[precision] = "does not run"
            continue
        layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ordered_ops()]
        kernels = {
            str(about["primitiveType"].astype(str)) for about in layers if about["layerType"].astype(str) == "Convolution"
        }
        found[precision] = ", ".join(sorted(kernels))
    return found


if __name__ == "__main__":
    main()
