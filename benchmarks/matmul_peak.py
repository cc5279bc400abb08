"""What the processor reaches in matrix products, in the precision that a forecast computes in."""

from __future__ import annotations

import functools

import torch

from svg_runtime.bench.probe import best_of

_SIDES = (1024, 2048)  # one of them suits the caches better
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@functools.cache
@torch.inference_mode()
def matmul_peak(precision: str) -> float:
    """Operations per second of the fastest product, a multiply-add being two, with the threads that PyTorch is set to.

    NumPy, with which `svg-bench` measures float32, knows no bf16.
    """
    rates = []
    for side in _SIDES:
        a, b = (torch.rand(side, side).to(_DTYPES[precision]) for _ in range(2))
        product = torch.empty_like(a)
        rates.append(2 * side**3 / best_of(lambda a=a, b=b, product=product: torch.mm(a, b, out=product)))
    return max(rates)
