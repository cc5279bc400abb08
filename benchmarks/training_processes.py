"""Training steps per second of several processes on this machine, which share the batch of one.

    python benchmarks/training_processes.py [RECIPE ...] [--processes 1 2] [--steps 5] [--rounds 7] [--json FILE]

Each process has one thread, and its share of the recipe's batch; `1, all cores` is one process with as many threads as the
largest number of processes. A step is that of `svg-train` on random frames, in float32. The ways take turns, round after round.

Printed are medians over the rounds: steps per second, how many times those of one process with one thread, and per process, as
a share of what it does alone. Nothing else should run meanwhile. Where something does, the time of the processor is left: that
of all processes for a step, whose excess over one process is what exchanging costs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from workers import ask, end, read_line

from svg_common.files import write_json
from svg_runtime.machine.hardware import machine_today

N_FUTURE = 10


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: embedded-digits and camera")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers that divide the recipe's batch")
    parser.add_argument("--steps", type=int, default=5, help="of each way in each round; default: 5")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    machine = machine_today()
    print(f"{machine['cpu']}, {machine['cores_usable']} cores, load {machine['load_average']}")
    results = {}
    for recipe in options.recipes or ["embedded-digits", "camera"]:
        results[recipe] = measure(recipe, options)
        print("\n".join(lines(recipe, results[recipe])), flush=True)
    if options.json is not None:
        write_json(options.json, {"hardware": machine, "steps": options.steps, "recipes": results})


def measure(recipe: str, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return, for each way, the steps per second of every round, and the processor's seconds for a step."""
    counts = sorted({1, *options.processes})
    ways = {f"{count}": (count, 1) for count in counts} | {"1, all cores": (1, counts[-1])}
    groups = {way: start(recipe, *setting) for way, setting in ways.items()}
    rates: dict[str, dict[str, list[float]]] = {way: {"per_second": [], "cpu_s": []} for way in ways}
    try:
        for processes in groups.values():
            for process in processes:
                read_line(process)
        for _ in range(options.rounds):
            for way, processes in groups.items():
                answers = ask(processes, options.steps)
                seconds, spent = max(answer["seconds"] for answer in answers), sum(answer["cpu_s"] for answer in answers)
                rates[way]["per_second"].append(round(options.steps / seconds, 3))
                rates[way]["cpu_s"].append(round(spent / options.steps, 4))
    finally:
        end(groups.values())
    return rates


def start(recipe: str, processes: int, threads: int) -> list[subprocess.Popen[str]]:
    """Start the processes of a way, connected as torchrun connects them. They build the model and wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
    shared |= {"TORCHELASTIC_RUN_ID": "benchmark", "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    started = []
    for rank in range(processes):
        variables = {"OMP_NUM_THREADS": threads, **({**shared, "RANK": rank, "LOCAL_RANK": rank} if processes > 1 else {})}
        arguments = json.dumps({"recipe": recipe, "processes": processes})
        started.append(
            subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--worker", arguments],
                env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    return started


def work(recipe: str, processes: int) -> None:
    """A process: takes as many steps as each line of its input says, and prints how long they took."""
    from gradient_traffic import step_of

    step = step_of(recipe, processes)
    for _ in range(2):
        step()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        before, spent = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        seconds, cpu_s = time.perf_counter() - before, time.process_time() - spent
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}), flush=True)


def lines(recipe: str, rates: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the report of one recipe."""
    alone = statistics.median(rates["1"]["per_second"])
    report = [f"\n{recipe}: steps per second by number of processes"]
    for way, rows in rates.items():
        rate, values, spent = statistics.median(rows["per_second"]), rows["per_second"], statistics.median(rows["cpu_s"])
        each = f", each at {rate / alone / int(way):.0%}" if way.isdecimal() else ""
        spread = f"{min(values):.2f} to {max(values):.2f}"
        report.append(
            f"  {way:12} {rate:6.2f} ({spread}), {rate / alone:.2f} times that of 1{each}; processor {spent:.3f} s per step"
        )
    return report


if __name__ == "__main__":
    main()
