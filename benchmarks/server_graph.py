"""Several cameras in one process: the graph `forecast` of `svg-export --server` against BatchForecaster's shared steps.

    svg-export svg_train/models/camera.pt --server --out camera.svgb
    python benchmarks/server_graph.py camera.svgb [--cameras 4] [--samples 8] [--rounds 9] [--backend cpu ...] [--json FILE]

Each round, every way observes a new frame of every camera and forecasts all of them, with noise of its own, on 2 threads:

    graph          one run of `forecast`, which reads the whole window of each camera again
    graph, lanes   a run on each core, of its share of the cameras
    lanes          one BatchForecaster, as it opens by default: cameras are divided among the cores
    shared         the same without lanes: one batch of all cameras, whose steps all cores share

The ways take turns, in another order each round. Printed are medians, and for each way of the BatchForecaster the median over
the rounds of how many times its rate the two ways of the graph have.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from many_cameras import frames_of
from numpy.typing import NDArray

from svg_common.files import write_json
from svg_runtime import BatchForecaster
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast import batch as batch_module
from svg_runtime.forecast.noise import NoiseSource
from svg_runtime.forecast.opening import OpenOptions
from svg_runtime.machine.hardware import machine_today

GRAPH, GRAPH_LANES, LANES, SHARED = "graph", "graph, lanes", "lanes", "shared"
Arrays = dict[str, NDArray[np.float32]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", action="append", choices=("cpu", "openvino"), help="default: both")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    machine = machine_today()
    print(f"{machine['cpu']}, {machine['cores_usable']} cores, load {machine['load_average']}")
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for path in options.bundle:
        for backend in options.backend or ("cpu", "openvino"):
            seconds = measure(Bundle.open(path), backend, options)
            results.setdefault(path.name, {})[backend] = seconds
            print("\n".join(lines(f"{path.name}, {backend}", seconds, options)), flush=True)
    if options.json is not None:
        settings = {name: getattr(options, name) for name in ("cameras", "samples", "threads")}
        write_json(options.json, {"hardware": machine, **settings, "seconds": results})


def measure(bundle: Bundle, backend: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return, for each way, the seconds of every round."""
    with ExitStack() as stack:
        ways = {name: graph(bundle, backend, options, lanes) for name, lanes in ((GRAPH, 1), (GRAPH_LANES, options.threads))}
        for name, lanes in ((LANES, None), (SHARED, 1)):
            ways[name] = batched(bundle=bundle, backend=backend, options=options, lanes=lanes, stack=stack)
        for step in ways.values():
            for _ in range(bundle.manifest.generation.n_past + 2):
                step()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        order = random.Random(0)
        for _ in range(options.rounds):
            for name in order.sample(list(ways), len(ways)):
                before = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - before)
    return seconds


def graph(bundle: Bundle, backend: str, options: argparse.Namespace, lanes: int) -> Callable[[], None]:
    """Return what runs `forecast` on new frames and noise, in so many runs at the same time."""
    manifest, content = bundle.manifest, bundle.forecast_graph("fp32")
    spec = manifest.variants["fp32"].forecast
    assert spec is not None
    runs = {"cpu": on_onnxruntime, "openvino": on_openvino}[backend](content, options.threads // lanes, lanes)
    pool = ThreadPoolExecutor(lanes)
    sources = [frames_of(manifest, camera) for camera in range(options.cameras)]
    window: deque[Any] = deque(maxlen=manifest.generation.n_past)
    noise = NoiseSource(0)
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs if tensor.name != "frames"}

    def step() -> None:
        window.append(np.stack([np.moveaxis(next(source), -1, 0) for source in sources]))
        if len(window) == window.maxlen:
            drawn = {name: noise.draw(options.cameras, int(s[1]), options.samples, int(s[3])) for name, s in shapes.items()}
            given = {"frames": np.stack(window, axis=1), **drawn}
            shares = [{name: value[lane::lanes] for name, value in given.items()} for lane in range(lanes)]
            list(pool.map(lambda run, share: run(share), runs, shares))

    return step


def on_onnxruntime(content: bytes, threads: int, lanes: int) -> list[Callable[[Arrays], Any]]:
    """Return a run of the graph for each lane, with so many threads, which spin as those of the runtime: not after a run."""
    from svg_runtime.backends.onnxruntime.session import import_onnxruntime

    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [lambda given: session.run(None, given)] * lanes


def on_openvino(content: bytes, threads: int, lanes: int) -> list[Callable[[Arrays], Any]]:
    """The same on OpenVINO in float32: by default it would compute in bf16 on some processors."""
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads * lanes, "NUM_STREAMS": lanes}
    core = openvino.Core()
    model = core.compile_model(core.read_model(content), "CPU", properties)
    requests = [model.create_infer_request() for _ in range(lanes)]
    return [lambda given, request=request: request.infer(given).to_dict() for request in requests]


def batched(
    bundle: Bundle, backend: str, options: argparse.Namespace, lanes: int | None, stack: ExitStack
) -> Callable[[], None]:
    """Return what observes and forecasts with one BatchForecaster; `lanes` None: as it opens by default."""

    def open_options(**given: Any) -> OpenOptions:
        return OpenOptions(**given if lanes is None else {**given, "lanes": lanes})

    spec = bundle.manifest.variants["fp32"].forecast
    assert spec is not None
    with patch.object(batch_module, "OpenOptions", open_options):
        batch = stack.enter_context(
            BatchForecaster.open(
                bundle.path,
                options.cameras,
                backend=backend,
                device="CPU:f32" if backend == "openvino" else None,
                precision="fp32",
                threads=options.threads,
                samples=options.samples,
                horizon=int(spec.tensor("futures").shape[2]),
            )
        )
    batch.warm_up()
    sources = [frames_of(batch.manifest, camera) for camera in range(options.cameras)]

    def step() -> None:
        batch.observe({camera: next(source) for camera, source in enumerate(sources)})
        if batch.ready(0):
            batch.forecast(range(options.cameras))

    return step


def lines(title: str, seconds: dict[str, list[float]], options: argparse.Namespace) -> list[str]:
    """Return the report of one bundle on one backend."""
    report = [f"\n{title}: {options.cameras} cameras, {options.samples} samples"]
    for name, row in seconds.items():
        rate = f"  {name:12} {options.cameras / statistics.median(row):7.2f} forecasts/s"
        if name in (LANES, SHARED):
            for mine in (GRAPH, GRAPH_LANES):
                ratios = [other / own for other, own in zip(row, seconds[mine], strict=True)]
                rate += f"; {mine} has {statistics.median(ratios):.2f} times its rate"
        report.append(rate)
    return report


if __name__ == "__main__":
    main()
