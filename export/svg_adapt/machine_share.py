"""How much of the machine a command takes beside others: its niceness and its number of threads."""

from __future__ import annotations

import os

from svg_common.errors import UsageError


def set_niceness(nice: int) -> None:
    """Give way to other programs: 0 is usual, 19 runs only when the CPU is otherwise idle.

    It applies to this thread and to those that it starts from now on, and so comes before the libraries that start some.

    Raises:
        UsageError: the system has no niceness, or a lower one than now is not allowed to this user.
    """
    if not hasattr(os, "setpriority"):
        raise UsageError("--nice: this system has no niceness\n  remove it")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError as error:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        raise UsageError(
            f"--nice {nice} is not allowed: this command already has {now}, and only root may lower it\n"
            f"  expected {now} to 19, or nothing"
        ) from error


def set_threads(threads: int) -> None:
    """Let PyTorch and OpenCV compute with so many threads; the pools of PyTorch's operators are shared by all of them."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning Fabric divides the cores among the processes
