"""What the exporter needs to know of a graph, whichever family it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from svg_runtime.bundle.manifest import BATCH, COND_BATCH, Computes, GraphSpec, StateSpec, TensorSpec

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

    def interface(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the exported graph has them: of the example, and of what the module makes of it in eval mode.

        Raises:
            ValidationError: a bundle cannot have a tensor of such a name, type or shape.
        """
        self.module.eval()
        inputs = dict(zip(self.inputs, self.flat_example(), strict=True))
        outputs = self.run(inputs)
        return self._specs(inputs), self._specs(outputs)

    def _specs(self, tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(name, value) for name, value in tensors.items())

    def _spec(self, name: str, value: Tensor) -> TensorSpec:
        symbol = COND_BATCH if name in self.shared else BATCH
        shape = tuple(symbol if axis == self.batch_axis(name) else size for axis, size in enumerate(value.shape))
        return TensorSpec.model_validate({"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape})

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


def state_specs(graph_name: str, entry: GraphExport, exports: Mapping[str, GraphExport]) -> tuple[StateSpec, ...]:
    """The states of a graph, each with where it starts: at what prime, the encoder or the skip graph computed, or at zero."""
    given = {"h"} | set(exports["prime"].outputs if "prime" in exports else ())
    return tuple(
        StateSpec(
            input=name,
            output=output,
            initial="given" if graph_name == "step" and (name in given or name.startswith("cond_")) else "zeros",
        )
        for name, output in entry.states.items()
    )


def unwritten_graphs(exports: Mapping[str, GraphExport]) -> dict[str, GraphSpec]:
    """The graphs as the manifest will have them, before there are files.

    Raises:
        ValidationError: a bundle cannot have a graph or tensor of such a name, type or shape.
    """
    graphs = {}
    for graph_name, entry in exports.items():
        inputs, outputs = entry.interface()
        graphs[graph_name] = GraphSpec(
            file=f"fp32/{graph_name}.onnx",
            sha256="0" * 64,
            bytes=1,
            opset=1,
            inputs=inputs,
            outputs=outputs,
            states=state_specs(graph_name, entry, exports),
            computes=entry.computes,
        )
    return graphs
