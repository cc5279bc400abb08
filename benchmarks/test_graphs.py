"""Latency of each graph, bound once and run through the backend's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svg_runtime.backends.base import Backend, Buffer
from svg_runtime.bundle.manifest import COND_BATCH, TensorSpec
from svg_runtime.bundle.reader import Bundle

BATCHES = {
    "encoder": (1, 8),
    "skip": (1,),  # once per observed frame
    "posterior": (1,),  # does not depend on the samples
    "prior": (1, 8),
    "predictor": (1, 8),
    "decoder": (1, 8),
    "prime": (1, 8),
    "step": (1, 8),
}
CASES = [(graph_name, batch) for graph_name, batches in BATCHES.items() for batch in batches]


@pytest.mark.parametrize(("graph_name", "batch"), CASES)
def test_graph(measured: Any, backend: Backend, bundle: Bundle, graph_name: str, batch: int) -> None:
    graphs = bundle.variant(backend.precision).graphs
    if graph_name not in graphs:
        pytest.skip(f"the bundle has no graph {graph_name}")
    spec = graphs[graph_name]
    rng = np.random.default_rng(0)
    inputs = {tensor.name: _buffer(backend, tensor, batch) for tensor in spec.inputs}
    outputs = {tensor.name: _buffer(backend, tensor, batch) for tensor in spec.outputs}
    for buffer in inputs.values():
        backend.write(buffer, rng.random(buffer.shape, np.float32).astype(buffer.dtype))
    bound = backend.bind(graph_name, inputs, outputs)
    smallest = min(outputs.values(), key=lambda buffer: int(np.prod(buffer.shape)))

    def run() -> None:
        bound.run()
        backend.read(smallest)  # waits for an asynchronous device

    measured.group = "graphs"
    measured(run)


def _buffer(backend: Backend, tensor: TensorSpec, batch: int) -> Buffer:
    """Skip conditions are shared by the batch, as in a forecast."""
    return backend.allocate(tensor.sized(1 if COND_BATCH in tensor.shape else batch), tensor.dtype)
