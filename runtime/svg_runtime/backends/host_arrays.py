"""Buffers in host memory, for backends whose graphs read and write NumPy arrays in place."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from svg_runtime.backends.base import Array, BoundGraph, Buffer, Chain, StepBuffers

_BackendT = TypeVar("_BackendT")


class _Releasable(Protocol):
    def release(self) -> None: ...


class BoundGraphs:
    """The graphs that a backend has bound, as long as they live. One thread may close the backend while another one binds."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may close what the same thread is binding with
        self._graphs: weakref.WeakSet[_Releasable] = weakref.WeakSet()
        self._released = False

    def add(self, graph: _Releasable) -> None:
        """Add a graph, which is released at once if all others already are."""
        with self._lock:
            self._graphs.add(graph)
            released = self._released
        if released:
            graph.release()

    def release_all(self) -> None:
        """Release all graphs, and every one that is added later."""
        with self._lock:
            self._released = True
            graphs = list(self._graphs)
        for graph in graphs:
            graph.release()


class HostArrays:
    """The memory methods of a backend on NumPy arrays, whose graphs run one by one, at any batch."""

    lanes = 1
    max_batch: int | None = None

    def lane(self: _BackendT, number: int) -> _BackendT:
        """Return the backend itself."""
        return self

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return a new zeroed array.

        Raises:
            MemoryError: it does not fit into memory.
        """
        return _zeros(shape, dtype)

    def allocate_steps(self, count: int, shape: tuple[int, ...], dtype: str) -> StepBuffers:
        """Return one array, with the steps as views of it.

        Raises:
            MemoryError: it does not fit into memory.
        """
        whole = _zeros((count, *shape), dtype)
        return StepBuffers(whole, tuple(whole))

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Return the graphs as a plain sequence: running them together is no faster here."""
        return Chain(tuple(graphs))

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy `values` into the array, broadcasting them to its shape."""
        assert isinstance(buffer, np.ndarray)
        np.copyto(buffer, values, casting="same_kind")

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Copy an array into another of the same shape."""
        self.write(destination, self.read(source))

    def gather(self, parts: Sequence[Buffer], destination: Buffer) -> None:
        """Copy arrays into one along its first axis."""
        np.concatenate([self.read(part) for part in parts], out=self.read(destination))

    def rows(self, buffer: Buffer, first: int, count: int) -> Buffer:
        """Return a view."""
        return self.read(buffer)[first : first + count]

    def read(self, buffer: Buffer) -> Array:
        """Return the array itself, not a copy."""
        assert isinstance(buffer, np.ndarray)
        return buffer


def _zeros(shape: tuple[int, ...], dtype: str) -> Array:
    """Raises MemoryError also for a size that NumPy cannot count."""
    try:
        return np.zeros(shape, dtype)
    except ValueError as error:
        raise MemoryError(f"an array of shape {shape}: {error}") from error


def unaliased(graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Iterator[tuple[str, Array, bool]]:
    """Yield name, array and whether it is an output for all tensors of a graph; outputs must not share memory with inputs."""
    for name, array in (*inputs.items(), *outputs.items()):
        assert isinstance(array, np.ndarray)
        if name in outputs:
            others = inputs.values()
            assert not any(np.shares_memory(array, other) for other in others), f"{graph}: {name} aliases an input"
        yield name, array, name in outputs
