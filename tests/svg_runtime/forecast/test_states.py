"""A recurrent graph is bound only to buffers that its states fit."""

from __future__ import annotations

import pytest

from svg_runtime.backends.host_arrays import HostArrays
from svg_runtime.bundle.manifest import GraphSpec, StateSpec, TensorSpec
from svg_runtime.errors import BundleError
from svg_runtime.forecast.states import RecurrentGraph


class Bound(HostArrays):
    """A device that notes what is bound."""

    def __init__(self) -> None:
        self.outputs: list[dict] = []

    def bind(self, graph, inputs, outputs):
        self.outputs.append(outputs)


def recurrent(backend: Bound, shape: tuple[int | str, ...], dtype: str = "float32", batch: int = 3) -> RecurrentGraph:
    """A graph with one state ("batch", 5) whose output has `shape`."""
    tensors = TensorSpec(name="x", dtype="float32", shape=("batch", 5)), TensorSpec(name="x_out", dtype=dtype, shape=shape)
    spec = GraphSpec(
        file="step.onnx", sha256="0" * 64, bytes=1, opset=17, inputs=tensors[:1], outputs=tensors[1:],
        states=(StateSpec(input="x", output="x_out"),),
    )  # fmt: skip
    return RecurrentGraph(
        backend=backend, graph_name="step", spec=spec, batch=batch, inputs=[{}] * 2, outputs=[{}] * 2
    )  # fmt: skip


def test_a_state_is_bound_to_two_buffers_in_turn():
    backend = Bound()
    recurrent(backend, ("batch", 5))
    first, second = (outputs["x_out"] for outputs in backend.outputs)
    assert first is not second
    assert first.shape == second.shape == (3, 5)


@pytest.mark.parametrize(("shape", "dtype"), [(("batch", 6), "float32"), ((5, "batch"), "float32"), (("batch", 5), "float16")])
def test_a_state_whose_output_is_another_is_not_bound(shape, dtype):
    """An engine would write beyond the buffer."""
    backend = Bound()
    with pytest.raises(BundleError, match="step: the state 'x_out' is "):
        recurrent(backend, shape, dtype)
    assert not backend.outputs


def test_a_rollout_of_other_samples_cannot_be_continued():
    backend = Bound()
    with pytest.raises(BundleError, match="step: the state 'x' is "):
        recurrent(backend, ("batch", 5)).step_from(recurrent(backend, ("batch", 5), batch=2))
