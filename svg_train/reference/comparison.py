"""The parameters in a file, compared with those that a model needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from svg_train.reference.modules import Tensors
from svg_train.reference.names import COUNTER
from svg_train.reference.options import Findings
from svg_train.reference.tensors import StoredTensor, share_elements


def compare_tensors(expected: Mapping[str, tuple[int, ...]], given: Tensors, findings: Findings) -> None:
    """Check names, shapes and types of all parameters, and that they have no more elements than the file stores.

    Args:
        expected: name -> shape. BatchNorm's counters may be missing, and may have any type.
        given: name -> what the file says of it.
        findings: every difference is added.
    """
    for name, shape in sorted(expected.items()):
        tensor = given.get(name)
        if tensor is None:
            if not name.endswith(COUNTER):
                findings.add(f"{name}: missing, expected {shape}")
        elif tensor.shape != shape:
            findings.add(f"{name}: given {tensor.shape}, expected {shape}")
        elif not name.endswith(COUNTER) and not tensor.storage.dtype.is_floating_point:
            findings.add(f"{name}: given type {tensor.storage.dtype}, expected floating point")
    for name in sorted(given.keys() - expected.keys()):
        findings.add(f"{name}: unexpected, {given[name].shape}")
    refuse_shared_values((given[name] for name in expected if name in given), findings)


def refuse_shared_values(tensors: Iterable[StoredTensor], findings: Findings) -> None:
    """Add a finding if tensors have more elements than the file stores."""
    if share_elements(tensors):
        findings.add("several parameters share the same values in the file, which training never produces")
