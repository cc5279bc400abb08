"""Batch normalization over the frames of all processes, so that their number does not change what is computed.

Each process has an equal share of the batch. With statistics of its share alone, a run with two processes would be another one
than a run with one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
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
        assert norm.affine
        assert norm.track_running_stats
        synced = cls(norm.num_features, norm.eps, norm.momentum)
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
        frames: Tensor
        frames, mean, var = _Normalize.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        self._follow(mean, var, dist.get_world_size() * x.numel() // x.shape[1])
        return frames

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


class _Normalize(torch.autograd.Function):
    """x, weight, bias, eps -> normalized frames, and the mean and variance over all processes, which have no gradient.

    Of x̂ = (x - mean) / std and the gradient g of the output, the gradient of x is weight / std (g - mean(g) - x̂ mean(g x̂)),
    its means over all processes, too (Ioffe and Szegedy 2015, section 3). It takes two fused passes, as one process does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _statistics(x)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        g, wanted = gradients[0], [False, True, True]
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, inverse, True, ctx.eps, wanted
        )
        sums = torch.stack([of_weight, of_bias])  # of g x̂ and g, in this process
        dist.all_reduce(sums)
        with_x, alone = (sums / (dist.get_world_size() * x.numel() // x.shape[1])).unbind()
        of_g = weight * inverse
        of_x = -of_g * inverse * with_x
        constant = -of_g * alone - of_x * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        of_input = torch.addcmul(constant.view(shape), g, of_g.view(shape)).addcmul_(x, of_x.view(shape))
        return of_input, of_weight, of_bias, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of the shares (B, C, ...) of all processes."""
    rows = x.new_zeros(dist.get_world_size(), 2, x.shape[1])
    rows[dist.get_rank()] = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
    dist.all_reduce(rows)
    means, variances = rows.unbind(1)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)  # within the shares, and between them
