"""BatchNorm in evaluation mode, folded into the convolutions before it: scales and shifts move into their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(model: Network, fold_part: Callable[[nn.Module], bool]) -> Network:
    """A copy of `model` in evaluation mode without BatchNorm, exact up to rounding.

    Folded in float64 and rounded once, so that only the last bit of a weight differs.

    Args:
        model: any network.
        fold_part: folds a part that is special, in place, and says whether it has; sequences of layers need no such thing.
    """
    folded = copy.deepcopy(model).eval().double()
    for part in folded.modules():
        if not fold_part(part) and isinstance(part, nn.Sequential):
            fold_in_sequence(part)
    return folded.to(next(model.parameters()).dtype)


def fold_in_sequence(layers: nn.Sequential) -> None:
    """Fold every BatchNorm into the convolution before it."""
    for index in range(1, len(layers)):
        conv, norm = layers[index - 1], layers[index]
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
            layers[index - 1] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            layers[index] = nn.Identity()
