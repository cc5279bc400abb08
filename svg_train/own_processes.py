"""The other processes of this host, which this one starts unless `torchrun` has, and what becomes of it if one is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from svg_common.command import stderr_console
from svg_common.errors import ExitCode
from svg_common.printable import console_text
from svg_common.signals import defer_interrupts
from svg_train.processes import LostProcessError

_LOOK_EVERY_S = 0.5
_OWN_END_S = 3.0  # in which this process may notice the loss itself, and end in order
_INTERRUPTED = (ExitCode.INTERRUPTED, -SIGINT)


@contextmanager
def own_processes(fabric: Fabric, out: Path) -> Iterator[None]:
    """Start the processes of this host beside this one, and end with them if one is lost while the block runs.

    Not by Fabric, which kills this process with SIGKILL then: nobody would learn why, nor would the exit code say it.

    Args:
        fabric: not launched yet; it connects the processes.
        out: folder of the run.
    """
    strategy = fabric.strategy
    environment = strategy.cluster_environment if isinstance(strategy, DDPStrategy) else None
    if environment is None or environment.creates_processes_externally:
        yield
        return
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    os.environ["LOCAL_RANK"] = "0"  # by which Fabric knows that the others are there
    others: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    try:
        with defer_interrupts():
            others.extend(_start(rank) for rank in range(1, fabric.world_size))
            threading.Thread(target=_end_with, args=(others, over, out), daemon=True).start()
        yield
    finally:
        over.set()
        del os.environ["LOCAL_RANK"]
        if not dist.is_initialized():  # else they notice that this process is gone
            _kill(others)


def _start(rank: int) -> subprocess.Popen[bytes]:
    """The same command once more."""
    main = sys.modules["__main__"].__spec__
    program = [os.path.abspath(sys.argv[0])] if main is None else ["-m", main.name]
    return subprocess.Popen([sys.executable, *program, *sys.argv[1:]], env={**os.environ, "LOCAL_RANK": str(rank)})


def _end_with(others: Sequence[subprocess.Popen[bytes]], over: threading.Event, out: Path) -> None:
    """End this process after another one has failed, unless it does so itself: it may compute, or wait in a library."""
    while not any(process.poll() for process in others):
        if over.wait(_LOOK_EVERY_S):
            return
    if over.wait(_OWN_END_S):
        return
    rank, code = next((rank, process.returncode) for rank, process in enumerate(others, 1) if process.returncode)
    _kill(others)
    if code not in _INTERRUPTED:  # else the other one has said so
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        error = LostProcessError(f"process {rank} of this host {how}", out)
        stderr_console().show_cursor()
        stderr_console().print(console_text(f"error: {error}"), markup=False)
    # No exception can leave a library that waits for the process that is gone.
    os._exit(ExitCode.INTERRUPTED if code in _INTERRUPTED else ExitCode.ERROR)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
