"""Names and shapes of a model's parameters, without the memory for them: a checkpoint is compared before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from svg_train.families import FAMILIES
from svg_train.families.base import FamilyConfig

_INITIALIZERS = ("normal_", "uniform_", "kaiming_uniform_", "zeros_", "zero_", "ones_", "fill_")


def parameter_shapes(config: FamilyConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every entry of the state_dict of the network of `config`."""
    with torch.device("meta"), _NoInitialization():
        model = FAMILIES[config.family].build(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


class _NoInitialization(TorchFunctionMode):
    """Skips initial weights. On the meta device they have no effect, yet torch imports its compiler for them: 1 s, 80 MB."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIALIZERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
