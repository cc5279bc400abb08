"""BatchNorm in evaluation mode, folded into the convolutions before it: scales and shifts move into their weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(model: Network, stage_class: type[nn.Module], other: str) -> Network:
    """A copy of `model` in evaluation mode without BatchNorm, exact up to rounding.

    Folded in float64 and rounded once, so that only the last bit of a weight differs.

    Args:
        model: any network.
        stage_class: of the decoder's stages that begin with finish(from_d(d) + condition).
        other: name of the convolution in it that computes the condition.
    """
    folded = copy.deepcopy(model).eval().double()
    for part in folded.modules():
        if isinstance(part, stage_class):
            _fold_stage(part, other)
        elif isinstance(part, nn.Sequential):
            _fold_in_sequence(part)
    return folded.to(next(model.parameters()).dtype)


def _fold_stage(stage: Any, other: str) -> None:
    if isinstance(stage.finish, nn.Sequential):  # else it ends in the image, without BatchNorm
        stage.from_d = _fold_into_sum(stage.from_d, getattr(stage, other), stage.finish[0])
        stage.finish[0] = nn.Identity()


def _fold_in_sequence(layers: nn.Sequential) -> None:
    """Fold every BatchNorm into the convolution before it."""
    for index in range(1, len(layers)):
        conv, norm = layers[index - 1], layers[index]
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
            layers[index - 1] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            layers[index] = nn.Identity()


def _fold_into_sum(first: nn.Module, other: nn.Module | None, norm: nn.Module) -> nn.Module:
    """Fold the BatchNorm after first(d) + other(e): it scales both convolutions, and its shift goes to the first.

    Args:
        first: a convolution, with or without bias.
        other: one without bias, scaled in place; None if there is no second summand.
        norm: the BatchNorm.

    Returns:
        The first convolution, folded.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    conv: Any = first
    transpose = isinstance(conv, nn.ConvTranspose2d)
    if other is not None:
        shared: Any = other
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shared.weight = nn.Parameter(shared.weight * scale.view((1, -1, 1, 1) if transpose else (-1, 1, 1, 1)))
    folded: nn.Module = fuse_conv_bn_eval(conv, norm, transpose=transpose)
    return folded
