"""Products with constant matrices as 1x1 convolutions, for GPUs of compute capability 7.5 (Turing).

TensorRT-RTX multiplies float32 matrices on Ampere and later only, but convolves in float32 on Turing too. Recurrent parts are
float32 in every variant, so for Turing they become convolutions over feature maps of one pixel, or of one row where the product
is of a sequence: the same sums. Products of two computed tensors, as in attention, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

TURING = "sm75"
FLAG = "matrix-products-as-convolutions"  # in the key of engines built from such a graph
_PIXEL_AXES = "pixel_axes"


def convolve_matrix_products(content: bytes) -> bytes:
    """The same graph, where every float32 Gemm, and every float32 MatMul with a constant matrix, is a convolution.

    Raises:
        ValueError: a Gemm that is scaled or has no constant weights, which export never writes.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "Gemm" and _is_float32(constants, node)]
    sequences = _products_of_sequences(model, constants)
    if not products and not sequences:
        return content
    for name, transposed in {(node.input[1], bool(_form(node)["transB"])) for node in products}:
        weights = numpy_helper.to_array(constants[name])
        kernels = (weights if transposed else weights.T)[..., None, None]  # (N, K, 1, 1)
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernels), name))
    for name in {node.input[1] for node in sequences}:
        kernels = numpy_helper.to_array(constants[name]).T[..., None]  # (N, K, 1)
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernels), name))
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), _PIXEL_AXES))
    replaced = {node.output[0]: _as_convolution(node) for node in products}
    replaced |= {node.output[0]: _as_convolution_of_rows(node) for node in sequences}
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _products_of_sequences(model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> list[NodeProto]:
    """Every MatMul of a float32 tensor of three axes with a constant matrix."""
    found = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    if not found:
        return []
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}
    return [
        node
        for node in found
        if _is_float32(constants, node) and len(constants[node.input[1]].dims) == 2 and ranks.get(node.input[0]) == 3
    ]


def _is_float32(constants: Mapping[str, onnx.TensorProto], node: NodeProto) -> bool:
    """Float16 products stay, as Turing multiplies float16 matrices."""
    if node.input[1] not in constants:
        raise ValueError(f"the weights of the {node.op_type} {node.name} are not constant")
    return bool(constants[node.input[1]].data_type == onnx.TensorProto.FLOAT)


def _form(node: NodeProto) -> dict[str, float]:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    form = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **given}
    if (form["alpha"], form["beta"], form["transA"]) != (1.0, 1.0, 0):
        raise ValueError(f"the Gemm {node.name} is scaled or transposed: {form}")
    return form


def _as_convolution(node: NodeProto) -> list[NodeProto]:
    """Gemm(A, W, bias): A (B, K) becomes a feature map (B, K, 1, 1)."""
    out, (a, *weights_and_bias) = node.output[0], node.input
    pixel, product = f"{out}_pixel_in", f"{out}_pixel_out"
    return [
        helper.make_node("Unsqueeze", [a, _PIXEL_AXES], [pixel], name=f"{node.name}_pixel_in"),
        helper.make_node("Conv", [pixel, *weights_and_bias], [product], name=node.name),
        helper.make_node("Squeeze", [product, _PIXEL_AXES], [out], name=f"{node.name}_pixel_out"),
    ]


def _as_convolution_of_rows(node: NodeProto) -> list[NodeProto]:
    """MatMul(A, W): A (T, B, K) becomes T rows of B pixels, (T, K, B)."""
    out, (a, weights) = node.output[0], node.input
    rows, product = f"{out}_rows_in", f"{out}_rows_out"
    return [
        helper.make_node("Transpose", [a], [rows], name=f"{node.name}_rows_in", perm=[0, 2, 1]),
        helper.make_node("Conv", [rows, weights], [product], name=node.name),
        helper.make_node("Transpose", [product], [out], name=f"{node.name}_rows_out", perm=[0, 2, 1]),
    ]
