"""Names of weights without what wrappers put into them: torch.compile, DataParallel, Lightning's Fabric, FSDP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_T = TypeVar("_T")

_LEADING = "module."  # DataParallel, DistributedDataParallel and AveragedModel store the wrapped module under this name
# These may stand anywhere in a name: torch.compile, Fabric, FSDP, activation checkpointing.
_ANYWHERE = ("_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_COUNTERS = ("n_averaged",)  # of AveragedModel: how many steps were averaged


def unwrap_names(weights: Mapping[str, _T]) -> dict[str, _T]:
    """`weights` by the names of the module that was wrapped; as given if two of them would then have one name."""
    named = {name: value for name, value in weights.items() if name not in _COUNTERS}
    bare = {_without(name): value for name, value in named.items()}
    if len(bare) < len(named):
        return dict(weights)
    while bare and all(name.startswith(_LEADING) for name in bare):
        bare = {name.removeprefix(_LEADING): value for name, value in bare.items()}
    return bare


def is_counter(name: str) -> bool:
    """Whether a weight is a count of steps, which is an integer: of BatchNorm or of AveragedModel."""
    return name.endswith(("num_batches_tracked", *_COUNTERS))


def _without(name: str) -> str:
    for wrapper in _ANYWHERE:
        name = name.replace(wrapper, "")
    return name
