"""The parameters in a file: compared with those that a model needs, and read."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import torch
from torch import Tensor

from svg_train.reference.file import TorchFile
from svg_train.reference.modules import Tensors
from svg_train.reference.names import COUNTER
from svg_train.reference.options import Findings
from svg_train.reference.tensors import StoredTensor, share_elements

_NAMED = 8  # missing weights in a message; of the others, the number
_WHY = "the file is not whole (one of several, or saved in part), or its settings are those of another model"


def compare_tensors(expected: Mapping[str, tuple[int, ...]], given: Tensors, findings: Findings, sized: bool = True) -> None:
    """Check names, shapes and types of all parameters, and that they have no more elements than the file stores.

    Args:
        expected: name -> shape. BatchNorm's counters may be missing, and may have any type.
        given: name -> what the file says of it.
        findings: every difference is added; of many missing parameters, the first ones and their number.
        sized: whether the expected shapes are known. What is missing may be what would tell them; if nothing is, they are.
    """
    needed = {name: shape for name, shape in expected.items() if not name.endswith(COUNTER)}
    whole = not _name_missing(needed, given, findings, sized)
    for name, shape in sorted(expected.items()):
        tensor = given.get(name)
        if tensor is None:
            continue
        if (sized or whole) and tensor.shape != shape:
            findings.add_weight(f"{name}: given {tensor.shape}, expected {shape}")
        elif not name.endswith(COUNTER) and not tensor.storage.dtype.is_floating_point:
            findings.add_weight(f"{name}: given type {tensor.storage.dtype}, expected floating point")
    for name in sorted(given.keys() - expected.keys()):
        findings.add_weight(f"{name}: unexpected, {given[name].shape}")
    # In a hostile file, a few bytes may be a view of any size.
    if share_elements(given[name] for name in expected if name in given):
        findings.add_weight("several parameters share the same values in the file, which training never produces")


def read_parameter(file: TorchFile, stored: StoredTensor | None, name: str) -> Tensor:
    """Read a parameter as float32. A counter of BatchNorm is int64, and 0 if it is missing: nothing is computed from it."""
    if stored is None:
        return torch.zeros((), dtype=torch.int64)
    return file.read(stored).to(torch.int64 if name.endswith(COUNTER) else torch.float32)


def _name_missing(expected: Mapping[str, tuple[int, ...]], given: Tensors, findings: Findings, sized: bool) -> bool:
    """Name the first parameters that are missing, in the order of the network, and say how many are, and why they may be.

    Returns whether any is missing.
    """
    missing = [name for name in expected if name not in given]
    for name in missing[:_NAMED]:
        findings.add_weight(f"{name}: missing{f', expected {expected[name]}' if sized else ''}")
    if not missing:
        return False
    layer = posixpath.commonpath([name.replace(".", "/").rpartition("/")[0] for name in missing]).replace("/", ".")
    whole = layer and len(missing) > 1 and not any(name.startswith(f"{layer}.") for name in given)
    what = f"a whole layer is missing, {layer}" if whole else "missing"
    findings.add_weight(f"{what}: {len(missing)} of {len(expected)} weights; {_WHY}")
    return True
