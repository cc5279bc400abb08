"""Forecasts per second of several cameras: batched in one process, against a process or a Forecaster for each.

    python benchmarks/many_cameras.py [--cameras 4] [--model NAME|BUNDLE ...] [--samples 8] [--horizon 10] [--seconds 5]
        [--rounds 5] [--json FILE]

Every camera observes a frame and forecasts, as fast as it can. The ways take turns, round after round:

    batched               one BatchForecaster
    batched, shared       the same, but all cores share each graph, on one batch of all cameras
    processes             a process with a Forecaster for each camera, opened as a user would
    processes, 1 thread   the same with threads=1
    in turn               Forecasters in one process, one after another

Printed are medians over the rounds, and how many times the rate of each way `batched` has. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from workers import ask, end, read_line

from svg_common.digits import digit_stream
from svg_common.files import write_json
from svg_runtime import BatchForecaster, Forecaster
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import find_model
from svg_runtime.forecast import batch as batch_module
from svg_runtime.forecast.opening import OpenOptions
from svg_runtime.machine.hardware import machine_today

SAMPLES, HORIZON = 8, 10
BATCHED = "batched"
# way -> kind of worker, whether each camera has a process, threads
WAYS: dict[str, tuple[str, bool, int | None]] = {
    BATCHED: ("batch", False, None),
    "batched, shared": ("shared", False, None),
    "processes": ("single", True, None),
    "processes, 1 thread": ("single", True, 1),
    "in turn": ("single", False, None),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--model", action="append", help="bundle, or an embedded model; default: camera and digits")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--horizon", type=int, default=HORIZON)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way in each round; default: 5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", action="append", choices=WAYS, help="one of the ways, repeated for more; default: all")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    machine = machine_today()
    print(f"{machine['cpu']}, {machine['cores_usable']} cores, load {machine['load_average']}")
    results = {}
    for model in options.model or ["camera", "digits"]:
        results[model] = measure(model, options)
        print("\n".join(lines(model, options, results[model])), flush=True)
    if options.json is not None:
        write_json(options.json, {"hardware": machine, **counts_of(options), "models": results})


def counts_of(options: argparse.Namespace) -> dict[str, int]:
    """How many there are of everything."""
    return {name: getattr(options, name) for name in ("cameras", "samples", "horizon")}


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return, for each way, its forecasts per second in every round, and the processor's milliseconds for one forecast."""
    ways = options.way or list(WAYS)
    workers = {way: start(model, way, options) for way in ways}
    rows: dict[str, dict[str, Any]] = {way: {"per_second": [], "cpu_ms": []} for way in ways}
    try:
        for way, processes in workers.items():
            first, *_ = [read_line(process) for process in processes]
            rows[way]["description"] = first["description"]
        for _ in range(options.rounds):
            for way, processes in workers.items():
                answers = ask(processes, options.seconds)
                rows[way]["per_second"].append(round(sum(answer["count"] / answer["seconds"] for answer in answers), 2))
                spent = sum(answer["cpu_s"] for answer in answers) / sum(answer["count"] for answer in answers)
                rows[way]["cpu_ms"].append(round(1e3 * spent, 2))
    finally:
        end(workers.values())
    return rows


def start(model: str, way: str, options: argparse.Namespace) -> list[subprocess.Popen[str]]:
    """Start the processes of a way. They open the model and wait for the seconds to work."""
    kind, process_each, threads = WAYS[way]
    given = {"model": model, "kind": kind, "threads": threads, "backend": options.backend}
    given |= {"samples": options.samples, "horizon": options.horizon}
    cameras = [1] * options.cameras if process_each else [options.cameras]
    seeds = range(options.cameras) if process_each else [0]
    processes = []
    for count, seed in zip(cameras, seeds, strict=True):
        arguments = json.dumps({**given, "cameras": count, "seed": seed})
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", arguments]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    return processes


def work(model: str, kind: str, threads: int | None, backend: str, cameras: int, seed: int, samples: int, horizon: int) -> None:
    """A process: works for as many seconds as each line of its input says, and prints what it has done."""
    given: dict[str, Any] = {"backend": backend, "threads": threads, "samples": samples, "horizon": horizon, "seed": seed}
    step, description, n_past = {"batch": batched, "shared": batched_shared, "single": single}[kind](
        str(find_model(model)), cameras, given
    )
    for _ in range(n_past + horizon):  # from then on all earlier forecasts of a frame are there to be scored
        step()
    print(json.dumps({"description": description}), flush=True)
    for line in sys.stdin:
        before, spent, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - before < float(line):
            step()
            count += cameras
        seconds, cpu = time.perf_counter() - before, time.process_time() - spent
        print(json.dumps({"count": count, "seconds": seconds, "cpu_s": cpu}), flush=True)


def batched(path: str, cameras: int, given: dict[str, Any]) -> tuple[Callable[[], None], str, int]:
    """Return the work of all cameras in one batch, what does it, and n_past."""
    batch = BatchForecaster.open(path, cameras, **given)
    batch.warm_up()
    frames = [frames_of(batch.manifest, camera) for camera in range(cameras)]

    def step() -> None:
        batch.observe({camera: next(source) for camera, source in enumerate(frames)})
        if batch.ready(0):
            batch.forecast(range(cameras))

    return step, batch.description, batch.manifest.generation.n_past


def batched_shared(path: str, cameras: int, given: dict[str, Any]) -> tuple[Callable[[], None], str, int]:
    """The same without lanes."""

    def without_lanes(**options: Any) -> OpenOptions:
        return OpenOptions(**{**options, "lanes": 1})

    with patch.object(batch_module, "OpenOptions", without_lanes):
        return batched(path, cameras, given)


def single(path: str, cameras: int, given: dict[str, Any]) -> tuple[Callable[[], None], str, int]:
    """Return the work of one camera after the other."""
    forecasters = [Forecaster.open(path, **{**given, "seed": given["seed"] + camera}) for camera in range(cameras)]
    sources = [frames_of(forecasters[0].manifest, given["seed"] + camera) for camera in range(cameras)]
    for forecaster in forecasters:
        forecaster.warm_up()

    def step() -> None:
        for forecaster, source in zip(forecasters, sources, strict=True):
            forecaster.observe(next(source))
            if forecaster.ready:
                forecaster.forecast()

    return step, forecasters[0].description, forecasters[0].manifest.generation.n_past


def frames_of(manifest: Manifest, seed: int) -> Iterator[np.ndarray]:
    """Return frames without end, of moving digits in all channels."""
    draw, frame = digit_stream(seed, num_digits=2, image_size=manifest.frame.height), manifest.frame
    drawn = [np.repeat(draw()[..., None].astype(np.float32), frame.channels, axis=-1) for _ in range(32)]
    return cycle(drawn)


def lines(model: str, options: argparse.Namespace, rows: dict[str, Any]) -> list[str]:
    """Return the report of one model."""
    counts = f"{options.cameras} cameras, {options.samples} samples of {options.horizon} steps"
    report = [f"\n{model}, {counts}: forecasts per second"]
    medians = {way: statistics.median(row["per_second"]) for way, row in rows.items()}
    for way, row in rows.items():
        spread, spent = f"{min(row['per_second']):.1f} to {max(row['per_second']):.1f}", statistics.median(row["cpu_ms"])
        ratio = f"{medians[BATCHED] / medians[way]:5.2f}" if BATCHED in medians else ""
        report.append(f"  {way:20} {medians[way]:7.1f} ({spread}), processor {spent:6.1f} ms each, batched is {ratio}")
    return [*report, *(f"  {way}: {row['description']}" for way, row in rows.items())]


if __name__ == "__main__":
    main()
