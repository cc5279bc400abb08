"""The interface between the recurrent loop and a device: bind once, step many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svg_runtime.backends.computed import ComputedIn
from svg_runtime.bundle.manifest import Precision

Array = NDArray[Any]


class Buffer(Protocol):
    """Device memory whose address never changes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes; the batch axis is a fixed number."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type: float32 or float16."""
        ...


@dataclass(frozen=True)
class StepBuffers:
    """Buffers of one shape, one per step, that travel between host and device in one copy.

    Attributes:
        whole: (count, *shape), for `read` and `write`.
        steps: each of `shape`, to bind graphs to.
    """

    whole: Buffer
    steps: tuple[Buffer, ...]


class BoundGraph(Protocol):
    """A graph bound to buffers, or a chain of such graphs."""

    def run(self) -> None:
        """Run once, in order with all earlier calls of the same backend.

        Raises:
            BackendError: the engine failed, or the backend is closed.
        """
        ...


@dataclass(frozen=True)
class Chain:
    """Bound graphs that run one after another, for backends that cannot run them any faster together."""

    graphs: tuple[BoundGraph, ...]

    def run(self) -> None:
        """Run each."""
        for graph in self.graphs:
            graph.run()


class Backend(Protocol):
    """A device with the graphs of one precision loaded. Not thread-safe, but for `lanes` and `close`."""

    name: str  # as the user names it: cpu, cuda, ...
    precision: Precision  # of the loaded graphs
    prefers_fused: bool  # whether forecasts should run the fused graphs where the bundle has them
    lanes: int  # how many threads of the host may work at the same time, each with the graphs that its own `lane` has bound
    max_batch: int | None  # the largest batch that graphs can run at; None: any

    @property
    def description(self) -> str:
        """Human-readable: library, version, and the precision that is really computed in; details follow the first "; "."""
        ...

    @property
    def computed_in(self) -> ComputedIn:
        """Layers with weights per graph and precision, for the graphs loaded so far; unknown graphs are missing."""
        ...

    def lane(self, number: int) -> Backend:
        """Return what a thread binds its graphs with, from 0 to `lanes` - 1. Buffers are those of all lanes."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return a new zeroed buffer."""
        ...

    def allocate_steps(self, count: int, shape: tuple[int, ...], dtype: str) -> StepBuffers:
        """Return `count` new zeroed buffers that can be read or written in one copy."""
        ...

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy host values into `buffer`, broadcasting them to its shape."""
        ...

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Copy a buffer into another of the same shape and type, in order with all earlier calls, without passing the host."""
        ...

    def gather(self, parts: Sequence[Buffer], destination: Buffer) -> None:
        """Copy buffers (B, ...) one after the other into one of (count * B, ...), without passing the host."""
        ...

    def rows(self, buffer: Buffer, first: int, count: int) -> Buffer:
        """Return `count` rows of the first axis of a buffer from `allocate`, in place: for `copy`, `gather` and `read`.

        Graphs are not bound to it: its address may not be aligned as engines expect.
        """
        ...

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """Bind every input and the needed outputs of a graph to buffers. Inputs never alias outputs."""
        ...

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Combine `graphs` into one that runs them in order; a backend may launch them together, for example as a CUDA graph.

        It may run them to warm up, so their outputs have no meaning until the chain is run.
        """
        ...

    def read(self, buffer: Buffer) -> Array:
        """Return the host values of `buffer`. They may be a view, valid until a graph runs or something is written."""
        ...

    def close(self) -> None:
        """Free everything on the device. What another thread is running or binding meanwhile keeps its memory until it ends."""
        ...
