"""Matrix products as 1x1 convolutions, for GPUs of compute capability 7.5 (Turing).

TensorRT-RTX multiplies float32 matrices on Ampere and later only, but convolves in float32 on Turing too. Recurrent parts are
float32 in every variant, so for Turing they become convolutions over feature maps of one pixel: the same sums.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

TURING = "sm75"
FLAG = "matrix-products-as-convolutions"  # in the key of engines built from such a graph
_PIXEL_AXES = "pixel_axes"


def convolve_matrix_products(content: bytes) -> bytes:
    """The same graph, where every float32 Gemm is a 1x1 Conv.

    Raises:
        ValueError: a Gemm that is scaled or has no constant weights, which export never writes.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "Gemm" and _is_float32(constants, node)]
    if not products:
        return content
    for name, transposed in {(node.input[1], bool(_form(node)["transB"])) for node in products}:
        weights = numpy_helper.to_array(constants[name])
        kernels = (weights if transposed else weights.T)[..., None, None]  # (N, K, 1, 1)
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernels), name))
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), _PIXEL_AXES))
    outputs = {node.output[0] for node in products}
    nodes = [new for node in graph.node for new in (_as_convolution(node) if node.output[0] in outputs else [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _is_float32(constants: dict[str, onnx.TensorProto], node: NodeProto) -> bool:
    """Float16 products stay, as Turing multiplies float16 matrices."""
    if node.input[1] not in constants:
        raise ValueError(f"the weights of the Gemm {node.name} are not constant")
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
