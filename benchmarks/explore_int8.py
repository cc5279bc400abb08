"""Is int8 worth a variant? Quantizes a bundle's convolutions, then measures quality and speed against fp32 on each engine.

    python benchmarks/explore_int8.py [embedded | random:nf64 | BUNDLE] [--graphs encoder] [--calibrate Percentile] ...

Needs the dev extra. The bundle must be for gray frames: it is calibrated and measured on the built-in digits.
The answer so far is in docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from bundles import open_named

from svg_common.cache import cache_folder
from svg_common.digits import digit_stream
from svg_common.progress import NullListener
from svg_eval.data import open_held_out
from svg_eval.models import BundleModel
from svg_export.precision import HORIZON, HeldOut, compare, describe
from svg_runtime.backends.onnxruntime.cpu import CpuBackend
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.bundle.manifest import FILE_NAME
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast.forecaster import Forecaster

import_onnxruntime()  # first, for it switches the telemetry off
from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

ENGINES = {"cpu": None, "openvino": "CPU:f32"}
CONVOLUTIONAL = ("encoder", "skip", "decoder")
SAMPLES = 8
SCENES = 32  # for calibration; more of them make no measurable difference
TRAIN_STREAM = 1  # of svg_train.data.digits: none of the held-out scenes

Inputs = dict[str, np.ndarray[Any, Any]]


class Recorder(CpuBackend):
    """The cpu backend, which records the inputs of each graph."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "fp32")
        self.recorded: dict[str, list[Inputs]] = defaultdict(list)

    def bind(self, graph: str, inputs: Any, outputs: Any) -> Any:
        """As in the backend, recording the graph's inputs at every run."""
        bound = super().bind(graph, inputs, outputs)

        def run() -> None:
            self.recorded[graph].append({name: np.array(value) for name, value in inputs.items()})
            bound.run()

        return SimpleNamespace(run=run)


class Reader(CalibrationDataReader):
    """Recorded inputs, one after the other."""

    def __init__(self, given: list[Inputs]) -> None:
        self._left = iter(given)

    def get_next(self) -> Inputs | None:
        """None at the end."""
        return next(self._left, None)


def scene(number: int, bundle: Bundle) -> Iterator[np.ndarray[Any, Any]]:
    """n_past frames of a training scene, (H, W, 1)."""
    step = digit_stream((0, TRAIN_STREAM, number), 1, bundle.manifest.frame.height)
    return (step()[..., None] for _ in range(bundle.manifest.generation.n_past))


def record(bundle: Bundle) -> dict[str, list[Inputs]]:
    """The inputs of the graphs in forecasts of training scenes."""
    recorder = Recorder(bundle)
    variant = bundle.variant("fp32")
    # One sample: calibration by histograms needs all inputs to have one shape.
    with Forecaster(
        bundle=bundle, backend=recorder, variant=variant, samples=1, horizon=HORIZON, seed=0, context="window", fused=False
    ) as forecaster:
        for number in range(SCENES):
            forecaster.reset()
            for frame in scene(number, bundle):
                forecaster.observe(frame)
            forecaster.forecast()
        return recorder.recorded


def quantized(bundle: Bundle, folder: Path, chosen: argparse.Namespace) -> Path:
    """A copy of the bundle whose convolutions are int8 between QuantizeLinear and DequantizeLinear."""
    target, given = Path(shutil.copytree(bundle.path, folder / "int8.svgb")), record(bundle)
    manifest = json.loads((target / FILE_NAME).read_text(encoding="utf-8"))
    manifest["variants"] = {"fp32": manifest["variants"]["fp32"]}  # bf16 would have to share the graphs that change
    for graph_name in chosen.graphs:
        spec = manifest["variants"]["fp32"]["graphs"][graph_name]
        file = target / spec["file"]
        quantize_static(
            bundle.path / spec["file"], file, Reader(given[graph_name]), QuantFormat.QDQ, chosen.operators, per_channel=True,
            activation_type=QuantType[chosen.activations], weight_type=QuantType.QInt8,
            nodes_to_exclude=ends(bundle.path / spec["file"]) if chosen.keep_ends else None,
            calibrate_method=CalibrationMethod[chosen.calibrate],
        )  # fmt: skip
        content = file.read_bytes()
        spec |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (target / FILE_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    return target


def ends(file: Path) -> list[str]:
    """The first and the last convolution of a graph, which are often kept in float."""
    names = [node.name for node in onnx.load(file).graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return [names[0], names[-1]]


def report_quality(paths: dict[str, Path], sequences: int) -> None:
    """Compare with fp32 on ONNX Runtime, as the quality gate of `svg-export` does."""
    with ExitStack() as stack:
        cases = [("fp32", "cpu"), *(("int8", engine) for engine in ENGINES)]
        models = [
            stack.enter_context(closing(BundleModel(name, Forecaster.open(paths[name], engine, ENGINES[engine], fused=False))))
            for name, engine in cases
        ]
        held_out = HeldOut("digits", open_held_out(models[0].info, {"name": "digits"}, None, HORIZON), sequences)
        for report in compare(models, [f"{engine}:int8" for engine in ENGINES], held_out, NullListener()):
            print(*describe("int8", report), *(report.failures() or ["passes the quality gate"]), sep="\n  ")


def report_speed(paths: dict[str, Path], rounds: int) -> None:
    """observe + forecast(8 samples, 10 steps), all cases interleaved; medians."""
    with ExitStack() as stack:
        runs: dict[tuple[str, str], Callable[[], None]] = {}
        for engine, device in ENGINES.items():
            for name, path in paths.items():
                opened = Forecaster.open(path, engine, device, samples=SAMPLES, horizon=HORIZON, fused=False)
                runs[engine, name] = _round(stack.enter_context(opened), list(scene(0, Bundle.open(path))))
        times: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for number in range(rounds + 3):
            for case, run in runs.items():
                wall, processor = time.perf_counter(), time.process_time()
                run()
                if number >= 3:
                    times[case].append((time.perf_counter() - wall, time.process_time() - processor))
    for engine in ENGINES:
        wall, processor = (
            statistics.median(values[kind] for values in times[engine, "fp32"])
            / statistics.median(values[kind] for values in times[engine, "int8"])
            for kind in (0, 1)
        )
        print(f"{engine}: int8 is {wall:.2f}x as fast as fp32 by wall time, {processor:.2f}x by processor time")


def _round(forecaster: Forecaster, frames: list[Any]) -> Callable[[], None]:
    for frame in frames:
        forecaster.observe(frame)

    def run() -> None:
        forecaster.observe(frames[-1])
        forecaster.forecast()

    return run


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="embedded", help="embedded, random:nf64 or a path")
    parser.add_argument("--graphs", nargs="+", choices=CONVOLUTIONAL, default=CONVOLUTIONAL)
    parser.add_argument("--operators", nargs="+", choices=("Conv", "ConvTranspose"), default=["Conv", "ConvTranspose"])
    parser.add_argument("--activations", choices=("QInt8", "QUInt8"), default="QUInt8")
    parser.add_argument("--calibrate", choices=[method.name for method in CalibrationMethod], default="MinMax")
    parser.add_argument("--keep-ends", action="store_true", help="leave the first and last convolution of a graph in float")
    parser.add_argument("--sequences", type=int, default=128, help="held-out sequences for quality; 0: do not measure it")
    parser.add_argument("--rounds", type=int, default=40, help="rounds for speed; 0: do not measure it")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)  # the quantizer recommends to fuse BatchNorm first, which the export has done
    bundle = open_named(chosen.bundle, cache_folder() / "svg-edge-bundles")
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fp32": bundle.path, "int8": quantized(bundle, Path(folder), chosen)}
        if chosen.sequences:
            report_quality(paths, chosen.sequences)
        if chosen.rounds:
            report_speed(paths, chosen.rounds)


if __name__ == "__main__":
    sys.exit(main())
