"""Lowered transposed convolutions compute what the transposed convolutions computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from svg_export.lowering import lower, shuffle_last

UNUSUAL = [{"group": 2}, {"dilations": [2, 2]}, {"output_padding": [1, 1]}, {"auto_pad": "SAME_UPPER"}]


def transposed(kernel: int, stride: int, padding: int, side: int, bias: bool = True, dtype=np.float32, **unusual):
    """A model of one transposed convolution from 6 to 4 channels, batch free."""
    rng = np.random.default_rng(0)
    c_out = 4 // unusual.get("group", 1)
    constants = [numpy_helper.from_array(rng.standard_normal((6, c_out, kernel, kernel)).astype(dtype), "w")]
    if bias:
        constants.append(numpy_helper.from_array(rng.standard_normal(4).astype(dtype), "b"))
    attributes = {"strides": [stride] * 2, "pads": [padding] * 4, **unusual}
    if "auto_pad" in unusual:
        del attributes["pads"]
    names = ["x", *(constant.name for constant in constants)]
    nodes = [
        helper.make_node("Relu", ["input"], ["x"]),
        helper.make_node("ConvTranspose", names, ["y"], **attributes),
        helper.make_node("Tanh", ["y"], ["output"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("input", kind, ["batch", 6, side, side])]
    outputs = [helper.make_tensor_value_info("output", kind, ["batch", 4, None, None])]
    graph = helper.make_graph(nodes, "main", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, side: int, dtype=np.float32) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((3, 6, side, side)).astype(dtype)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node][1:-1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((4, 1, 0, 1), ["Flatten", "Gemm", "Reshape"]), ((3, 1, 1, 8), ["Conv"]), ((3, 1, 0, 1), ["Flatten", "Gemm", "Reshape"])],
)
def test_lowering_changes_the_operators_and_nothing_else(sizes, expected, bias):
    model = transposed(*sizes, bias=bias)
    before = run(model, sizes[3])
    lower(model)
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == expected
    assert {tensor.name for tensor in model.graph.initializer} - {"y_shape"} == ({"w", "b"} if bias else {"w"})
    np.testing.assert_allclose(run(model, sizes[3]), before, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [1, 4, 32])
def test_the_last_layer_becomes_convolution_and_depth_to_space(side, bias):
    model = transposed(4, 2, 1, side, bias=bias)
    before = run(model, side)
    assert shuffle_last(model)
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == ["Conv", "DepthToSpace"]
    np.testing.assert_allclose(run(model, side), before, atol=1e-5)


def test_half_precision_stays_half():
    model = transposed(4, 2, 1, 4, dtype=np.float16)
    before = run(model, 4, np.float16)
    assert shuffle_last(model)
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}
    np.testing.assert_allclose(run(model, 4, np.float16), before, atol=2e-2)


def test_only_the_last_one_is_shuffled():
    model = transposed(4, 2, 1, 4)
    again = helper.make_node("ConvTranspose", ["y", "w2"], ["second"], strides=[2, 2], pads=[1] * 4)
    model.graph.initializer.append(numpy_helper.from_array(np.full((4, 1, 4, 4), 0.1, np.float32), "w2"))
    model.graph.node.insert(2, again)
    model.graph.node[3].input[0] = "second"
    before = run(model, 4)
    assert shuffle_last(model)
    assert kinds(model) == ["ConvTranspose", "Conv", "DepthToSpace"]
    np.testing.assert_allclose(run(model, 4), before, atol=1e-5)


@pytest.mark.parametrize("unusual", UNUSUAL, ids=[next(iter(entry)) for entry in UNUSUAL])
def test_what_is_unusual_is_left_alone(unusual):
    for sizes in ((3, 1, 1, 8), (4, 2, 1, 8)):
        if "output_padding" in unusual and sizes[1] == 1:
            continue  # not allowed with stride 1
        model = transposed(*sizes, **unusual)
        lower(model)
        assert not shuffle_last(model)
        assert kinds(model) == ["ConvTranspose"]


def test_weights_that_are_used_twice_are_left_alone():
    model = transposed(3, 1, 1, 8)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(6, np.float32), "b"))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((6, 6, 3, 3), np.float32), "w"))
    model.graph.node.insert(2, helper.make_node("ConvTranspose", ["y", "w", "b"], ["z"], pads=[1] * 4))
    lower(model)
    assert kinds(model) == ["ConvTranspose"] * 2


def test_a_kernel_over_more_than_one_pixel_is_not_a_matrix_product():
    model = transposed(4, 1, 0, 2)
    lower(model)
    assert not shuffle_last(model)
    assert kinds(model) == ["ConvTranspose"]
