"""Runs `svg-train` in several processes, connected as `torchrun` connects them, and reads what a run wrote."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import svg_train.machine
import svg_train.train
from svg_common.errors import SvgError
from svg_train.data import statistics, video_cache
from svg_train.families.svg.model import SVG
from svg_train.machine import Machine
from svg_train.run_length import RunLength
from svg_train.train import Trainer
from tests.command_runner import Run, start

TRAIN = {
    "steps": 4, "batch_size": 4, "n_future": 2, "eval_every": 4, "eval_sequences": 2, "eval_samples": 2, "eval_horizon": 2,
    "save_every": 100, "warmup_steps": 2, "ema_decay": 0.5,
}  # fmt: skip
ON_CPU = ["--device", "cpu", "--precision", "32-true"]


def write_recipe(path: Path, **tables: dict[str, Any]) -> Path:
    """A TOML file with the tables model, data and train."""
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in t.items()) for name, t in tables.items()
    ]
    path.write_text("".join(lines))
    return path


def free_port() -> int:
    """One that nothing listens on, and that the system gives to no other test until it is taken: it gives higher ones."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def start_processes(
    count: int,
    commands: Sequence[str] | Sequence[Sequence[str]],
    folder: Path,
    before: Callable[[], None] | None = None,
    hosts: int = 1,
) -> list[Run]:
    """Start `svg-train` with these arguments, or those of each process, `count` times, on one host or as if on several."""
    each = [list(commands)] * count if isinstance(commands[0], str) else [list(command) for command in commands]
    port, here = free_port(), count // hosts
    runs = []
    for rank in range(count):
        environment = {
            "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank % here, "LOCAL_WORLD_SIZE": here, "GROUP_RANK": rank // here,
            "GROUP_WORLD_SIZE": hosts, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
        plain = {} if count == 1 else {name: str(value) for name, value in environment.items()}
        runs.append(start(["svg-train", *ON_CPU, *each[rank]], folder, before=before or log_every_step, environment=plain))
    return runs


def run_processes(count: int, commands: Sequence[str], folder: Path, before: Callable[[], None] | None = None) -> None:
    """The same, to a good end."""
    for run in start_processes(count, commands, folder, before):
        assert run.wait() == 0, run.output


def run_launched(command: Sequence[str], folder: Path, before: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    """Run `svg-train --processes 2`, which starts the second process itself. Both are a group, as in a terminal."""
    script = folder / "svg-train"  # as it is installed: the second process is the same script again
    name = before.__name__
    script.write_text(f"from svg_adapt.cli import main\nfrom {before.__module__} import {name}\n\n{name}()\nmain()\n")
    return subprocess.run(
        [sys.executable, script, *command, "--processes", "2", *ON_CPU],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        start_new_session=True,
    )


def losses(folder: Path, kind: str = "train") -> dict[int, dict[str, float]]:
    """Lines of a run's journal, by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["kind"] == kind}


def assert_same_losses(one: Path, other: Path, relative: float = 1e-4) -> None:
    """Of all steps, up to the rounding of float32, which later steps amplify."""
    lines, others = losses(one), losses(other)
    assert list(lines) == list(others) == list(range(1, len(lines) + 1))
    for step, line in lines.items():
        for name in ("loss", "mse", "lr"):
            torch.testing.assert_close(others[step][name], line[name], rtol=relative, atol=0, msg=f"{name} of step {step}")
    torch.testing.assert_close(others[1]["grad_norm"], lines[1]["grad_norm"], rtol=1e-3, atol=0)


# What the new processes do before the command.


def log_every_step() -> None:
    """And measure less of what no test here looks at."""
    svg_train.train.LOG_EVERY = 1
    svg_train.train.BN_BATCHES = 2
    statistics._SEQUENCES = 4


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def bf16_on_the_second_host() -> None:
    """As `auto` chooses it there."""
    log_every_step()
    plain = Machine.fabric
    if rank() == 1:
        Machine.fabric = lambda self, began_in=None: plain(replace(self, precision="bf16-mixed"))  # type: ignore[method-assign]


def stop_after_two_steps() -> None:
    """A real Ctrl-C, in one process alone."""
    log_every_step()
    plain = Trainer._train_step

    def train_step(self: Trainer, frames: torch.Tensor) -> None:
        plain(self, frames)
        if self._step == 2 and rank() == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            os.kill(os.getpid(), signal.SIGINT)

    Trainer._train_step = train_step  # type: ignore[method-assign]


def stop_the_last_while_the_first_evaluates() -> None:
    """A service manager stops one host. Its process waits then; each forecast step of the first one takes a while."""
    log_every_step()
    svg_train.train._LOOK_EVERY_S = 0.1
    plain, plain_step = Trainer._forecast_held_out, SVG.forecast_step

    def forecast_held_out(self: Trainer, model: Any) -> Any:
        if rank() == int(os.environ["WORLD_SIZE"]) - 1:
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
        return plain(self, model)

    def forecast_step(self: SVG, **arguments: Any) -> Any:
        time.sleep(0.2)
        with open("forecast-steps", "a") as file:
            file.write("1")
        return plain_step(self, **arguments)

    Trainer._forecast_held_out = forecast_held_out  # type: ignore[method-assign]
    SVG.forecast_step = forecast_step  # type: ignore[method-assign]


def vanish_after_two_steps() -> None:
    """The last process is killed."""
    log_every_step()
    plain = Trainer._train_step

    def train_step(self: Trainer, frames: torch.Tensor) -> None:
        plain(self, frames)
        if self._step == 2 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._train_step = train_step  # type: ignore[method-assign]


def second_vanishes_while_the_first_evaluates() -> None:
    def evaluate(self: Trainer) -> None:
        if os.environ["LOCAL_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)  # longer than `run_launched` waits

    Trainer._evaluate = evaluate  # type: ignore[method-assign]


def ctrl_c_while_the_first_waits_for_the_second() -> None:
    plain = Machine.fabric

    def fabric(self: Machine, began_in: str | None = None) -> Any:
        if os.environ.get("LOCAL_RANK") == "1":
            os.killpg(0, signal.SIGINT)
        return plain(self, began_in)

    Machine.fabric = fabric  # type: ignore[method-assign]


def overflow_in_one_process() -> None:
    """The loss of one process is infinite, and its gradient finite."""
    log_every_step()
    plain = SVG.forward

    def forward(self: SVG, x: torch.Tensor, noise: torch.Tensor, step: int = 0) -> Any:
        output = plain(self, x, noise, step)
        return output._replace(mse=output.mse + float("inf")) if rank() == 1 and step == 1 else output

    SVG.forward = forward  # type: ignore[method-assign]


def no_space_in_the_second_process() -> None:
    """It alone cannot write what it decodes."""
    plain = svg_train.train.open_data

    def open_data(*arguments: Any) -> Any:
        if rank() == 1:
            raise SvgError("no space left")
        return plain(*arguments)

    svg_train.train.open_data = open_data


def measurements_that_differ() -> None:
    """The clock of the second process is fast, and bf16 does not seem to pay there. Each writes the learning rates it used."""
    log_every_step()
    svg_train.machine.has_bf16 = lambda: True
    svg_train.machine._bf16_pays = lambda: rank() == 0
    plain, plain_step = RunLength.measured_s, Trainer._train_step
    RunLength.measured_s = lambda self: plain(self) * (1 + rank())  # type: ignore[method-assign]

    def train_step(self: Trainer, frames: torch.Tensor) -> None:
        plain_step(self, frames)
        with open(f"rates-{rank()}", "a") as file:
            file.write(f"{self._schedule.get_last_lr()[0]!r}\n")

    Trainer._train_step = train_step  # type: ignore[method-assign]


def record_decoding() -> None:
    """Each decoded source is a line of a file that all processes share."""
    log_every_step()
    plain = video_cache._decode

    def decode(clip: Any, *rest: Any) -> Any:
        with open("decoded", "a") as file:
            file.write(f"{clip.name.name}\n")
        return plain(clip, *rest)

    video_cache._decode = decode
