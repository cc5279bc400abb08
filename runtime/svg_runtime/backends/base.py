"""What the recurrent loop needs of a device, in few verbs: bind once, step many."""

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
    """Memory of the device that keeps its address for its whole life."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""
        ...


@dataclass(frozen=True)
class StepBuffers:
    """Buffers of one shape, one per step, that travel between host and device in one copy."""

    whole: Buffer  # (count, *shape), for `read` and `write`
    steps: tuple[Buffer, ...]  # each of `shape`, to bind graphs to


class BoundGraph(Protocol):
    """A graph tied to buffers, or several of them, which run one after another."""

    def run(self) -> None:
        """Execute once, in order with all earlier calls of the same backend.

        Raises:
            BackendError: the engine failed, or the backend is closed.
        """
        ...


@dataclass(frozen=True)
class Chain:
    """Bound graphs that run one after another, for backends to which a chain is no more than that."""

    graphs: tuple[BoundGraph, ...]

    def run(self) -> None:
        """Run each."""
        for graph in self.graphs:
            graph.run()


class Backend(Protocol):
    """A device with the graphs of one variant loaded. Not safe for use from several threads at once."""

    name: str  # as the user names it: cpu, cuda, ...
    precision: Precision  # the bundle's variant that it runs
    prefers_fused: bool  # whether forecasts should run the fused graphs where the bundle has them

    @property
    def description(self) -> str:
        """Library, version, and the precision that is really computed in, for people; details follow the first "; "."""
        ...

    @property
    def computed_in(self) -> ComputedIn:
        """Layers with weights per graph and precision, of the graphs loaded so far; without those of which nothing is known."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New zeroed buffer."""
        ...

    def allocate_steps(self, count: int, shape: tuple[int, ...], dtype: str) -> StepBuffers:
        """`count` new zeroed buffers that are read or written at once."""
        ...

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy host values into `buffer`, broadcasting them to its shape."""
        ...

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy a buffer into another one of the same shape and type, in order with all earlier calls. The host sees nothing."""
        ...

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """Tie every input and the wanted outputs of a graph to buffers. Inputs never alias outputs."""
        ...

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """All of `graphs` in order, as one; a device may be given them at once.

        It may run them to warm up: what they write has no meaning until the chain is run.
        """
        ...

    def read(self, buffer: Buffer) -> Array:
        """Host values of `buffer`. May be a view: it is valid until a graph runs or something is written."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...
