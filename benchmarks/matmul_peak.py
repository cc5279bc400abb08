"""What a device reaches in matrix products, in the precision that a forecast computes in, and in copies of its own memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from svg_runtime.bench.probe import best_of

_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # one of them suits the caches better; a GPU needs more to be busy
_COPY_BYTES = {"cpu": 128 << 20, "cuda": 512 << 20}  # larger than the caches
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@functools.cache
@torch.inference_mode()
def matmul_peak(precision: str, device: str = "cpu") -> float:
    """Operations per second of the fastest product, a multiply-add being two; on a CPU, with PyTorch's number of threads.

    NumPy, with which `svg-bench` measures float32, has no bf16.
    """
    rates = []
    for side in _SIDES[device]:
        a, b = (torch.rand(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        product = torch.empty_like(a)
        seconds = best_of(lambda a=a, b=b, product=product: _finished(device, lambda: torch.mm(a, b, out=product)))
        rates.append(2 * side**3 / seconds)
    return max(rates)


@functools.cache
def copy_peak(device: str = "cpu") -> float:
    """Bytes per second of a copy within the device's memory, read and written."""
    source, target = (torch.ones(_COPY_BYTES[device], dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * _COPY_BYTES[device] / best_of(lambda: _finished(device, lambda: target.copy_(source)))


def _finished(device: str, work: Callable[[], object]) -> None:
    work()
    if device == "cuda":
        torch.cuda.synchronize()
