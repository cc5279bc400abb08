"""What the exporter needs to know of a graph, whichever family it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from svg_runtime.bundle.manifest import Computes

EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class GraphExport:
    """One graph.

    Attributes:
        module: computes it; its docstring is the graph's contract.
        example: arguments at batch EXAMPLE_BATCH, except `shared` inputs, which are at batch 1; a list is several inputs.
        inputs, outputs: names, in the order of the arguments and results.
        states: input -> output.
        shared: tensors of batch 1 or B.
        batch_axes: which axis of a tensor is the batch; those that are not listed have it first.
        computes: what its layers with weights compute in, in a variant of reduced precision.
    """

    module: nn.Module
    example: tuple[Tensor | list[Tensor], ...]
    inputs: list[str]
    outputs: list[str]
    states: dict[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    computes: Computes = "variant"

    def batch_axis(self, name: str) -> int:
        """Which axis of a tensor is the batch."""
        return self.batch_axes.get(name, 0)

    def initial_states(self, batch: int) -> dict[str, Tensor]:
        """Zeros for every state that starts so, in the sizes of the example."""
        flat = dict(zip(self.inputs, self.flat_example(), strict=True))
        sizes = {name: list(flat[name].shape) for name in self.states}
        for name, shape in sizes.items():
            shape[self.batch_axis(name)] = batch
        return {name: torch.zeros(shape) for name, shape in sizes.items()}

    def flat_example(self) -> list[Tensor]:
        """The example, one tensor per input."""
        return [tensor for item in self.example for tensor in (item if isinstance(item, list) else [item])]

    @torch.no_grad()
    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's outputs by name, for inputs by name."""
        given = iter(self.inputs)
        results = self.module(
            *([values[next(given)] for _ in item] if isinstance(item, list) else values[next(given)] for item in self.example)
        )
        return dict(zip(self.outputs, [results] if isinstance(results, Tensor) else results, strict=True))


def widened(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in at least float32, as states, Gaussians and frames are in every variant."""
    return values.to(torch.promote_types(dtype, torch.float32))
