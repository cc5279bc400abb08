"""Batch normalization over the frames of all processes, so that their number does not change what is computed.

Each process has an equal share of the batch. With statistics of its share alone, a run with two processes would be another one
than a run with one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_norms(model: nn.Module, device: torch.device) -> None:
    """Replace all batch normalizations in `model` by synchronized ones with the same parameters, buffers and names.

    PyTorch's own on a GPU; it has none for the CPU.
    """
    replace = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else SyncedBatchNorm.of
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, replace(child))


class SyncedBatchNorm(_BatchNorm):
    """As `nn.SyncBatchNorm`, on any device: in training, mean and variance are those of the shares of all processes together.

    The shares must be equally large.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> SyncedBatchNorm:
        """With the parameters and buffers of `norm`, which stay where they are."""
        assert norm.momentum is not None
        synced = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, value in (*norm.named_parameters(), *norm.named_buffers()):
            setattr(synced, name, value)
        return synced.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape and type."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalized(x.float()).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any."""

    def _normalized(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        own = torch.stack(torch.var_mean(x, axes, correction=0))  # (2, C)
        rows: Tensor = _OfAllProcesses.apply(own)  # type: ignore[no-untyped-call]
        var, mean = rows.unbind(1)  # (N, C) each
        var = var.mean(0) + mean.var(0, correction=0)  # within the shares, and between them
        mean = mean.mean(0)
        self._follow(mean.detach(), var.detach(), dist.get_world_size() * x.numel() // x.shape[1])
        scale = (var + self.eps).rsqrt() * self.weight
        shape = (1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.bias.view(shape), x - mean.view(shape), scale.view(shape))

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics; of the variance, its unbiased estimate from `count` values."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / max(count - 1, 1)), self.momentum)


class _OfAllProcesses(torch.autograd.Function):
    """A tensor of each of N processes -> all of them, (N, ...), in each process."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        rows = own.new_zeros(dist.get_world_size(), *own.shape)
        rows[dist.get_rank()] = own
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """What all processes have computed from this one's tensor."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]
