"""What the processes of one run agree on, and what becomes of it when one of them fails or is lost."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from svg_common.errors import ExitCode, SvgError, first_line
from svg_common.log_messages import PACKAGES
from svg_common.path_advice import shell_argument
from svg_train.machine import by_torchrun
from svg_train.run_folder import BEST, LAST

T = TypeVar("T")

# How Gloo and the store of a process group report a process that is gone. Their types say no more than RuntimeError.
_LOST = re.compile(
    r"gloo|connection (was )?(closed|reset|refused)|broken pipe|timed out|failed to recv|recvvalue failed|sendbytes failed",
    re.I,
)
_LOST_LOADER = "DataLoader worker (pid"  # how PyTorch begins, in whatever was running when it learned of the end


class LostProcessError(SvgError):
    """Another process of this run is gone, or does not answer.

    Args:
        reason: how that was noticed.
        out: folder of the run.
    """

    def __init__(self, reason: str, out: Path) -> None:
        go_on = _how_to_go_on(out, f"--out {shell_argument(out)} --resume, on each", other_hosts=True)
        super().__init__(
            f"lost another process of this run: {reason}\n"
            "  its own message, on its host, may say why; if it only waits, raise --lost-after\n"
            f"  when all hosts are back, {go_on}"
        )


class LostLoaderError(SvgError):
    """A data loader process of this process is gone."""


class PeerError(SvgError):
    """Another process of this run has failed, and said why."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def all_or_none(fabric: Fabric, work: Callable[[], T]) -> T:
    """Run `work` in every process. If it fails in one, all end with its error, which the first process of each host reports.

    Raises:
        SvgError, OSError: of this process, the first one of its host.
        PeerError: that of another process, in the first one of a host.
        SystemExit: in all others.
    """
    if fabric.world_size == 1:
        return work()
    error: SvgError | OSError | None = None
    try:
        result = work()
    except (SvgError, OSError) as caught:
        error = caught
    own = None if error is None else (str(error), getattr(error, "exit_code", ExitCode.ERROR))
    failures = _of_all((fabric.node_rank, own))
    failed = [(host, failure) for host, failure in failures if failure is not None]
    if not failed:
        return result
    here = [failure for host, failure in failed if host == fabric.node_rank]
    host, (message, code) = failed[0]
    if fabric.local_rank:
        raise _quiet_end(here[0][1] if here else code)
    if error is not None:
        raise error
    if here:
        raise PeerError(*here[0])
    raise PeerError(f"host {host} of this run ended:\n{message}", code)


def require_same(fabric: Fabric, what: str, value: str, advice: str) -> None:
    """Refuse to train if `value` differs between processes.

    Args:
        fabric: connects the processes.
        what: the value's name, for the message.
        value: of this process.
        advice: what to do.

    Raises:
        SvgError: it differs, in every process.
    """
    values = _of_all(value) if fabric.world_size > 1 else [value]
    different = [rank for rank, other in enumerate(values) if other != values[0]]
    if different:
        raise SvgError(f"{what} of process {different[0]} differ from those of process 0\n  {advice}")


def mean_over_processes(fabric: Fabric, values: list[float]) -> list[float]:
    """The means over all processes, the same in each."""
    if fabric.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    means: list[float] = fabric.all_reduce(tensor, reduce_op="mean").tolist()  # type: ignore[union-attr]
    return means


def true_in_any(fabric: Fabric, flags: Sequence[bool]) -> list[bool]:
    """Of each flag, whether it is true in one of the processes; the same in each."""
    return [share > 0 for share in mean_over_processes(fabric, [float(flag) for flag in flags])]


@contextmanager
def one_report_per_host(fabric: Fabric) -> Iterator[None]:
    """Let errors that all processes raise alike, and log messages, come from the first process of each host alone."""
    if fabric.local_rank:
        for name in PACKAGES:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except (LostProcessError, LostLoaderError):  # not alike: no other process says it
        raise
    except SvgError as error:
        if fabric.local_rank:
            raise _quiet_end(error.exit_code) from error
        raise


@contextmanager
def lost_processes_named(fabric: Fabric, out: Path) -> Iterator[None]:
    """Report a process or a data loader that is gone as one, and what to do.

    Args:
        fabric: connects the processes.
        out: folder of the run.

    Raises:
        LostProcessError: the connection to another process ended, or it did not answer in time.
        LostLoaderError: a data loader process ended.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith(_LOST_LOADER):
            raise LostLoaderError(_lost_loader(error, fabric, out)) from error
        if fabric.world_size == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        raise LostProcessError(_reason(error), out) from error


def _quiet_end(code: ExitCode) -> SystemExit:
    """Of a process that leaves the report to another one.

    To the process that started it, one that ends with a code other than 0 is lost.
    """
    return SystemExit(int(code) if by_torchrun() else 0)


def _lost_loader(error: RuntimeError, fabric: Fabric, out: Path) -> str:
    go_on = _how_to_go_on(out, f"svg-train --out {shell_argument(out)} --resume", other_hosts=fabric.node_rank > 0)
    return (
        f"a data loader process was lost: {_reason(error).rstrip('.')}\n"
        "  the memory, or the shared memory in /dev/shm, may be too small for so many; give fewer --workers\n"
        f"  {go_on}"
    )


def _how_to_go_on(out: Path, resume: str, other_hosts: bool) -> str:
    """What to do when the run has ended.

    Args:
        out: folder of the run.
        resume: how to continue it.
        other_hosts: whether the saved run may be on another host, so that a folder without it here says nothing.
    """
    has_model = (out / BEST).exists()
    if (out / LAST).exists() or (other_hosts and not has_model):
        return f"continue from the last save with: {resume}"
    again = "start again with another --out" if has_model else "start again"
    return f"{again}: nothing was saved yet to continue from"


def _reason(error: RuntimeError) -> str:
    """The first sentence, without the place in the library's sources."""
    return re.sub(r"^\[[^]]*\]:?\s*", "", first_line(error)).strip().split(". ")[0]


def _of_all(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
