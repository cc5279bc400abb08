"""Forecasts per second of Triton Inference Server with a sequence per camera, against a process with a Forecaster for each.

    python benchmarks/triton_load.py [--cameras 16] [--model NAME|BUNDLE] [--samples 8] [--horizon 10] [--seconds 5]
        [--rounds 5] [--json FILE]

The server is that of the wheel nvidia-pytriton on loopback, with the Python backend. Every camera sends its next frame when the
answer to the last one has come, with its futures. The ways take turns, round after round, and each works for some seconds:

    server, shared memory   the server writes the futures into memory that it shares with the client
    server, gRPC            the futures come with the answer
    processes               a Forecaster for each camera, in a process of its own, opened as a user would

Printed are medians over the rounds, and how many times the rate of `processes` the best server has; the goal is 1.5. On a
machine with other work, the system gives each process its share, so 16 processes get more of the cores than one server: then
the processor's time for a forecast, of server and client together, says more than the rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from many_cameras import HORIZON, SAMPLES, counts_of, frames_of, start
from tritonclient.utils import InferenceServerException, shared_memory
from workers import ask, end, read_line

from svg_common.files import write_json
from svg_export.triton.model_configs import ServingChoice
from svg_export.triton.repository import write_repositories
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.machine.hardware import machine_today

sys.path.append(str(Path(__file__).resolve().parents[1]))
from integrations.triton.local_server import LocalServer  # of the repository, which nothing installs

GOAL = 1.5
SHARED, GRPC, PROCESSES = "server, shared memory", "server, gRPC", "processes"
_MODEL = "load"
_DAY_S = 86400.0
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--model", default="camera", help="bundle, or an embedded model; default: camera")
    parser.add_argument("--backend", default="auto", help="of svg_runtime, in all ways")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--horizon", type=int, default=HORIZON)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way in each round; default: 5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    machine = machine_today()
    print(f"{machine['cpu']}, {machine['cores_usable']} cores, load {machine['load_average']}", flush=True)
    rows = measure(options)
    print("\n".join(lines(options, rows)))
    if options.json is not None:
        write_json(options.json, {"hardware": machine, **counts_of(options), "model": options.model, "ways": rows})


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return, for each way, its forecasts per second in every round, and the processor's milliseconds for one forecast."""
    rows: dict[str, dict[str, list[float]]] = {way: {"per_second": [], "cpu_ms": []} for way in (SHARED, GRPC, PROCESSES)}
    bundle = Bundle.open(find_model(options.model))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        choice = ServingChoice(options.cameras, options.samples, options.horizon, idle_s=_DAY_S)  # never idle while others work
        written = write_repositories(bundle, _MODEL, folder, choice)
        config = written[0] / "config.pbtxt"
        config.write_text(config.read_text().replace('"auto"', f'"{options.backend}"'))
        server = stack.enter_context(LocalServer(folder / "python", folder / "log"))
        load = Load(server, bundle, options)
        stack.callback(load.close)
        load.begin()
        workers = start(options.model, PROCESSES, options)
        stack.callback(end, [workers])
        for process in workers:
            read_line(process)
        for _ in range(options.rounds):
            for way in (SHARED, GRPC):
                note(rows[way], *load.run(options.seconds, shared=way == SHARED))
            note(rows[PROCESSES], *run_processes(workers, options.seconds))
    return rows


def note(row: dict[str, list[float]], per_second: float, cpu_s: float) -> None:
    row["per_second"].append(round(per_second, 2))
    row["cpu_ms"].append(round(1e3 * cpu_s, 2))


class Load:
    """The cameras: each sends a frame when the answer to its last one has come.

    Args:
        server: has the model.
        bundle: of the model.
        options: of the command.
    """

    def __init__(self, server: LocalServer, bundle: Bundle, options: argparse.Namespace) -> None:
        self._server = server
        self._n_past = bundle.manifest.generation.n_past
        self._client = triton.InferenceServerClient(server.grpc)
        self._opened = ExitStack()
        self._opened.callback(self._client.close)
        self._frames = [frames_of(bundle.manifest, camera) for camera in range(options.cameras)]
        self._answers: SimpleQueue[tuple[int, Any, Exception | None]] = SimpleQueue()
        spec = bundle.manifest.frame
        self._shape = (1, options.samples, options.horizon, spec.height, spec.width, spec.channels)
        self._size = 4 * int(np.prod(self._shape))
        self._regions: list[Any] = []

    def begin(self) -> None:
        """Share memory, and send the frames before the first forecast. What fails here leaves `close` something to free."""
        cameras = range(len(self._frames))
        for camera in cameras:
            self._share(camera)
        for frame in range(self._n_past - 1):
            for camera in cameras:
                self._send(camera, shared=False, starts=frame == 0)
            for _ in cameras:
                self._answer(shared=False, filled=False)

    def run(self, seconds: float, shared: bool) -> tuple[float, float]:
        """Return forecasts per second, and the processor's seconds for one of them, of server and client."""
        spent, begin, count = self._cpu_s(), time.perf_counter(), 0
        for camera in range(len(self._frames)):
            self._send(camera, shared)
        waiting = len(self._frames)
        while waiting:
            camera = self._answer(shared, filled=True)
            count += 1
            if time.perf_counter() - begin < seconds:
                self._send(camera, shared)
            else:
                waiting -= 1
        return count / (time.perf_counter() - begin), (self._cpu_s() - spent) / count

    def close(self) -> None:
        """Free the shared memory, also where the server is gone."""
        self._opened.close()

    def _share(self, camera: int) -> None:
        name = f"svg_load_{os.getpid()}_{camera}"
        region = shared_memory.create_shared_memory_region(name, f"/{name}", self._size)
        self._opened.callback(shared_memory.destroy_shared_memory_region, region)
        shared_memory.set_shared_memory_region(region, [np.full(self._shape, np.nan, np.float32)])  # until there are futures
        self._client.register_system_shared_memory(name, f"/{name}", self._size)
        self._opened.callback(self._unshare, name)
        self._regions.append(region)

    def _unshare(self, name: str) -> None:
        with suppress(InferenceServerException):  # of a server that is gone, and what was registered with it
            self._client.unregister_system_shared_memory(name)

    def _send(self, camera: int, shared: bool, starts: bool = False) -> None:
        frame = next(self._frames[camera])[None]
        given = triton.InferInput("frame", frame.shape, "FP32")
        given.set_data_from_numpy(frame)
        wanted = [triton.InferRequestedOutput(name) for name in ("futures", "surprise", "missing_frames")]
        if shared:
            wanted[0].set_shared_memory(f"svg_load_{os.getpid()}_{camera}", self._size)

        def answered(result: Any, error: Exception | None) -> None:
            self._answers.put((camera, result, error))

        self._client.async_infer(_MODEL, [given], answered, outputs=wanted, sequence_id=camera + 1, sequence_start=starts)

    def _answer(self, shared: bool, filled: bool) -> int:
        """Wait for the next answer, and return its camera.

        Raises:
            SystemExit: it is none, or has no futures.
        """
        camera, result, error = self._answers.get()
        if error is not None:
            raise SystemExit(f"camera {camera}: {error}")
        if filled:
            missing = result.as_numpy("missing_frames").item()
            if missing:  # what is shared would be the last futures
                raise SystemExit(f"camera {camera} has no futures: {missing} more frames are to be sent first")
            if shared:
                futures = shared_memory.get_contents_as_numpy(self._regions[camera], np.float32, self._shape)
            else:
                futures = result.as_numpy("futures")
            if futures is None or futures.shape != self._shape or not np.isfinite(futures[0, -1, -1]).all():
                raise SystemExit(f"camera {camera} has no futures")
        return camera

    def _cpu_s(self) -> float:
        """Of this process, the server and the processes that it has started."""
        server = self._server.process.pid
        return time.process_time() + sum(map(cpu_s_of, [server, *children_of(server)]))


def cpu_s_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children_of(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def run_processes(workers: list[subprocess.Popen[str]], seconds: float) -> tuple[float, float]:
    """The same of a process for each camera."""
    answers = ask(workers, seconds)
    count = sum(answer["count"] for answer in answers)
    return sum(answer["count"] / answer["seconds"] for answer in answers), sum(answer["cpu_s"] for answer in answers) / count


def lines(options: argparse.Namespace, rows: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the report."""
    counts = f"{options.cameras} cameras, {options.samples} samples of {options.horizon} steps"
    report = [f"\n{options.model}, {counts}: forecasts per second"]
    rate = {way: statistics.median(row["per_second"]) for way, row in rows.items()}
    spent = {way: statistics.median(row["cpu_ms"]) for way, row in rows.items()}
    for way, row in rows.items():
        spread = f"{min(row['per_second']):.1f} to {max(row['per_second']):.1f}"
        report.append(f"  {way:22} {rate[way]:7.1f} ({spread}), processor {spent[way]:6.1f} ms each")
    best = max((SHARED, GRPC), key=lambda way: rate[way])
    ratio, cheaper = rate[best] / rate[PROCESSES], spent[PROCESSES] / spent[best]
    report.append(f"  {best} has {ratio:.2f} times the rate of {PROCESSES}: goal {GOAL} {'met' if ratio >= GOAL else 'MISSED'}")
    report.append(f"  {PROCESSES} take {cheaper:.2f} times the processor's time of {best}")
    return report


if __name__ == "__main__":
    main()
