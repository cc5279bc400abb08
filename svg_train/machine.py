"""Where a run is trained: the device, the precision, and how many processes on how many hosts."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from svg_common.errors import BackendMissingError, UsageError
from svg_common.quantities import count_text

LOST_AFTER_S = 1800.0  # as PyTorch waits for CPU processes
_LONGEST_S = 365 * 86400.0  # to wait; the clocks of libraries overflow at much longer times


@dataclass(frozen=True)
class Machine:
    """Where to run: Lightning Fabric's device, number of processes and precision.

    Fabric starts the processes of this host, unless `torchrun` has started them, on one host or many.

    Attributes:
        device: auto, cpu, cuda or cuda:N.
        processes: to start on this host; 1 under `torchrun`, which knows better.
        precision: auto, bf16-mixed, 16-mixed or 32-true.
        workers: data loader processes of each process.
        lost_after_s: seconds after which a process that does not answer is lost. Others wait while one decodes or saves.
    """

    device: str = "auto"
    processes: int = 1
    precision: str = "auto"
    workers: int = 0
    lost_after_s: float = LOST_AFTER_S

    @property
    def world_size(self) -> int:
        """Processes of the run, on all hosts."""
        return int(os.environ["WORLD_SIZE"]) if by_torchrun() else self.processes

    @property
    def is_first(self) -> bool:
        """Whether this process, which may not be connected yet, is the one that saves and logs."""
        return int(os.environ.get("RANK" if by_torchrun() else "LOCAL_RANK", "0")) == 0

    def fabric(self, began_in: str | None = None) -> Fabric:
        """Configure Fabric. `auto` uses a GPU if there is one, and bf16 if the hardware supports it, on a processor if it pays.

        Of several processes, the first one alone measures what pays; see `connected`.

        Args:
            began_in: precision of the run that is continued; `auto` keeps it where this hardware has it.

        Raises:
            UsageError: the device is unknown, or cannot be that of so many processes, or they cannot be connected as asked.
            BackendMissingError: it is not available.
        """
        accelerator, index = self.accelerator()
        here, hosts = self._processes_and_hosts()
        precision = self.precision
        if precision == "auto":
            kept = began_in if began_in in _precisions(accelerator) else None
            precision = kept or _best_precision(accelerator, measure=self.is_first)
        if accelerator == "cuda":
            _require_gpus(here, index)
            mixed = precision.endswith("-mixed")  # what that leaves in float32 needs no more than "high"
            torch.set_float32_matmul_precision("high" if mixed else "highest")
        elif self.world_size > 1:
            _require_interfaces()
        ddp = DDPStrategy(timeout=timedelta(seconds=min(self.lost_after_s, _LONGEST_S)))
        return Fabric(
            accelerator=accelerator,
            devices=[int(index)] if index else here,
            num_nodes=hosts,
            precision=precision,  # type: ignore[arg-type]
            strategy=ddp if self.world_size > 1 else "auto",
            # not chosen by Fabric: in a job of Slurm, LSF or MPI it would take the processes for started
            plugins=[TorchElasticEnvironment() if by_torchrun() else LightningEnvironment()],
        )

    def connected(self, fabric: Fabric) -> Fabric:
        """Launch `fabric`, which may be replaced: with `auto`, all compute in the first one's precision if they have it.

        Processes that each measured for themselves would differ by chance, and those without the folder of a resumed run do
        not know its precision.
        """
        fabric.launch()
        of_first: str = fabric.broadcast(precision_name(fabric))
        if self.precision != "auto" or precision_name(fabric) == of_first:
            return fabric
        again = self.fabric(of_first)
        again.launch()  # finds the processes connected
        return again

    def accelerator(self) -> tuple[Literal["cpu", "cuda"], str]:
        """What trains, cpu or cuda, and the number of the GPU where one was chosen.

        Raises:
            UsageError: the device is unknown, or cannot compute in this precision.
            BackendMissingError: it is not available, or there is no GPU of that number.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"unknown device '{self.device}'\n  expected auto, cpu, cuda or cuda:N")
        name, _, index = self.device.partition(":")
        has_cuda = torch.cuda.is_available()
        if name == "cuda" and not has_cuda:
            raise BackendMissingError(
                "device 'cuda' is not available: PyTorch finds no GPU\n  use --device cpu, or install PyTorch with CUDA"
            )
        if has_cuda and name != "cpu":
            _require_gpu(index)
            return "cuda", index
        if self.precision == "16-mixed":
            raise UsageError("--precision 16-mixed needs a GPU\n  expected bf16-mixed or 32-true on a processor, or auto")
        return "cpu", ""

    def _processes_and_hosts(self) -> tuple[int, int]:
        """Processes of this host, and hosts."""
        if not by_torchrun():
            return self.processes, 1
        if self.processes > 1:
            raise UsageError(
                f"--processes {self.processes} and torchrun, which starts the processes itself\n"
                "  remove --processes; torchrun has --nproc-per-node"
            )
        here, hosts = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
        if here * hosts != self.world_size:
            raise UsageError(
                f"torchrun started {here} process(es) here, and {self.world_size} on {hosts} hosts\n"
                "  expected the same number on each: give every host the same --nproc-per-node"
            )
        return here, hosts


def by_torchrun() -> bool:
    """Whether `torchrun` started this process."""
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()


def _require_gpu(index: str) -> None:
    """The chosen one, if any."""
    count = torch.cuda.device_count()
    if index and int(index) >= count:
        known = ", ".join(f"cuda:{number}" for number in range(count))
        raise BackendMissingError(
            f"device 'cuda:{index}' is not available: PyTorch finds {count_text(count, 'GPU')}\n  expected one of: {known}"
        )


def _require_gpus(processes: int, index: str) -> None:
    """One for each process of this host."""
    if index and processes > 1:
        raise UsageError(
            f"device 'cuda:{index}' is one GPU, but {processes} processes need one each\n  use --device cuda, or one process"
        )
    if processes > torch.cuda.device_count():
        raise UsageError(
            f"{processes} processes need a GPU each, but PyTorch finds {torch.cuda.device_count()}\n"
            "  start as many processes as there are GPUs, or use --device cpu"
        )


def _require_interfaces() -> None:
    """Those that Gloo is told to use; its own error does not say what is wrong."""
    there = [name for _, name in socket.if_nameindex()]
    for name in filter(None, os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in there:
            raise UsageError(
                f"GLOO_SOCKET_IFNAME is '{name}', and this host has no such interface\n"
                f"  expected the one that leads to the other hosts: {', '.join(there)}"
            )


def _precisions(accelerator: str) -> list[str]:
    """Those that the hardware computes without emulation, the fastest first on a GPU."""
    if accelerator == "cuda":
        bf16 = ["bf16-mixed"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
        return [*bf16, "16-mixed", "32-true"]
    return ["bf16-mixed", "32-true"] if has_bf16() else ["32-true"]


def _best_precision(accelerator: str, measure: bool) -> str:
    """bf16 and 16 bits always pay on a GPU; on a processor bf16 has to be measured, and is not chosen without."""
    fastest = _precisions(accelerator)[0]
    has_to_pay = accelerator == "cpu" and fastest == "bf16-mixed"
    return "32-true" if has_to_pay and not (measure and _bf16_pays()) else fastest


def precision_name(fabric: Fabric) -> str:
    """The precision that `fabric` computes in, as `Machine.precision` names it."""
    return str(fabric.strategy.precision.precision)


def has_bf16() -> bool:
    """Whether this processor has units for bf16: oneDNN emulates it on others, which is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@cache
def _bf16_pays() -> bool:
    """Whether convolutions are faster in bf16: some processors compute it no faster than float32, and convert besides.

    Measured interleaved, because other programs run as well; a tie goes to bf16, so that like processors choose alike.
    """
    maps, weight = (
        torch.ones(shape, requires_grad=True).contiguous(memory_format=torch.channels_last)
        for shape in ((16, 64, 16, 16), (64, 64, 3, 3))
    )
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(9):  # the first ones compile
        for bf16, measured in times.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                start = time.perf_counter()
                torch.nn.functional.conv2d(maps, weight, padding=1).sum().backward()
                measured.append(time.perf_counter() - start)
    return min(times[True]) < 1.1 * min(times[False])
