"""What the recurrent loop needs of a device, in few verbs: bind once, step many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svg_runtime.manifest import Precision

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


class Plan(Protocol):
    """A graph bound to buffers. Opaque: only the backend that made it can run it."""


class Backend(Protocol):
    """A device with the graphs of one variant loaded. Not safe for use from several threads at once."""

    name: str  # as the user names it: cpu, cuda, ...
    description: str  # for people: library, version, precision
    precision: Precision  # the bundle's variant that it runs
    prefers_fused: bool  # whether forecasts should run the fused graphs where the bundle has them

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New zeroed buffer."""
        ...

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy host values into `buffer`, broadcasting them to its shape."""
        ...

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Plan:
        """Tie every input and the wanted outputs of a graph to buffers. Inputs never alias outputs."""
        ...

    def run(self, plan: Plan) -> None:
        """Execute a bound graph once, in order with all earlier calls."""
        ...

    def read(self, buffer: Buffer) -> Array:
        """Host values of `buffer`. May be a view: it is valid until the next `run` or `write`."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...
