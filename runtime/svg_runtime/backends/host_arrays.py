"""Buffers in host memory, for backends whose graphs read and write NumPy arrays in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from svg_runtime.backends.base import Array, BoundGraph, Buffer, Chain, StepBuffers


class HostArrays:
    """The memory verbs of a backend on NumPy arrays, whose graphs run one by one."""

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New zeroed array."""
        return np.zeros(shape, dtype)

    def allocate_steps(self, count: int, shape: tuple[int, ...], dtype: str) -> StepBuffers:
        """One array; the steps are views of it."""
        whole = np.zeros((count, *shape), dtype)
        return StepBuffers(whole, tuple(whole))

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Nothing is gained, and nothing is done yet."""
        return Chain(tuple(graphs))

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy into the array, broadcasting."""
        assert isinstance(buffer, np.ndarray)
        np.copyto(buffer, values, casting="same_kind")

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy the array."""
        self.write(target, self.read(source))

    def read(self, buffer: Buffer) -> Array:
        """The array itself."""
        assert isinstance(buffer, np.ndarray)
        return buffer


def unaliased(graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Iterator[tuple[str, Array, bool]]:
    """Name, array and whether it is an output, of all that a graph is bound with; an output never shares an input's memory."""
    for name, array in (*inputs.items(), *outputs.items()):
        assert isinstance(array, np.ndarray)
        if name in outputs:
            others = inputs.values()
            assert not any(np.shares_memory(array, other) for other in others), f"{graph}: {name} aliases an input"
        yield name, array, name in outputs
