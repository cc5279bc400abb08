"""Transposed convolutions written as operators that inference engines run faster. Every rewrite is exact up to rounding.

Which ones are faster is measured (docs/results.md): the two of `lower` on every engine, `shuffle_last` on OpenVINO alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Array = NDArray[Any]
Rewrite = Callable[["_Transposed"], list[NodeProto]]


class _Transposed:
    """A ConvTranspose node with the constants of its graph."""

    def __init__(self, graph: onnx.GraphProto, node: NodeProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        self.graph = graph
        self.node = node
        self.x = node.input[0]
        self.y = node.output[0]
        self.weight = self._value(1)  # (C_in, C_out, k, k)
        self.bias = self._value(2) if len(node.input) > 2 else None
        self._strides = list(attributes.get("strides", [1, 1]))
        self._pads = list(attributes.get("pads", [0, 0, 0, 0]))
        self._plain = (
            attributes.get("group", 1) == 1
            and all(size == 1 for size in attributes.get("dilations", [1, 1]))
            and not any(attributes.get("output_padding", [0, 0]))
            and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
            and not attributes.get("output_shape")
            and all(
                sum(name in other.input for other in graph.node) == 1 for name in node.input[1:]
            )  # not shared: they are rearranged
        )

    def is_like(self, kernel: int, stride: int, padding: int) -> bool:
        """Whether it has these sizes in both directions, no unusual attributes, and weights of its own."""
        sizes = list(self.weight.shape[2:]), self._strides, self._pads
        return self._plain and sizes == ([kernel] * 2, [stride] * 2, [padding] * 4)

    def rearranged(self, weight: Array, bias: Array | None) -> list[str]:
        """Replace the node's weights; returns their names, which do not change."""
        names = list(self.node.input[1 : 2 if bias is None else 3])
        for name, values in zip(names, (weight, bias), strict=False):
            self._constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return names

    def _value(self, index: int) -> Array:
        return numpy_helper.to_array(self._constants[self.node.input[index]])


def lower(model: onnx.ModelProto) -> None:
    """Rewrite in place: from 1x1 to kxk as a matrix product, and k3 s1 p1 as an ordinary convolution."""
    sides = _sides(model)
    _rewrite(model, lambda t: t.is_like(t.weight.shape[2], 1, 0) and sides.get(t.x) == (1, 1), _as_matrix_product)
    _rewrite(model, lambda t: t.is_like(3, 1, 1), _as_convolution)


def shuffle_last(model: onnx.ModelProto) -> bool:
    """Rewrite the last k4 s2 p1 in place as a 3x3 convolution to four times the channels and depth-to-space.

    OpenVINO computes the end of a graph in float32, back to its last convolution or matrix product. A transposed convolution
    does not count as one: with this layer rewritten, the layers before it run in reduced precision if that is requested.

    Returns:
        Whether a layer was rewritten.
    """
    last = [node.output[0] for node in model.graph.node if node.op_type == "ConvTranspose"][-1:]
    return _rewrite(model, lambda t: [t.y] == last and t.is_like(4, 2, 1), _as_shuffle) > 0


def _rewrite(model: onnx.ModelProto, fits: Callable[[_Transposed], bool], rewrite: Rewrite) -> int:
    """Replace the ConvTranspose nodes that `fits` selects by those of `rewrite`; returns how many."""
    graph, nodes, count = model.graph, [], 0
    for node in graph.node:
        transposed = _Transposed(graph, node) if node.op_type == "ConvTranspose" else None
        if transposed is not None and fits(transposed):
            nodes += rewrite(transposed)
            count += 1
        else:
            nodes.append(node)
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
    return count


def _as_matrix_product(t: _Transposed) -> list[NodeProto]:
    """y[b, o, i, j] = sum_c x[b, c] w[c, o, i, j]."""
    c_in, c_out, side, _ = t.weight.shape
    bias = None if t.bias is None else np.repeat(t.bias, side * side)
    flat, product, shape = (f"{t.y}_{what}" for what in ("flat", "product", "shape"))
    t.graph.initializer.append(numpy_helper.from_array(np.array([-1, c_out, side, side], np.int64), shape))
    return [
        _node("Flatten", [t.x], flat, axis=1),
        _node("Gemm", [flat, *t.rearranged(t.weight.reshape(c_in, -1), bias)], product),
        _node("Reshape", [product, shape], t.y),
    ]


def _as_convolution(t: _Transposed) -> list[NodeProto]:
    """Stride 1: the kernel mirrored, its input and output channels exchanged."""
    mirrored = t.weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return [_convolution(t, mirrored, t.bias, t.y)]


def _as_shuffle(t: _Transposed) -> list[NodeProto]:
    """Output 2i + a takes kernel taps 1 (from i) and 3 (from i - 1) for a = 0, 2 (from i) and 0 (from i + 1) for a = 1."""
    c_in, c_out = t.weight.shape[:2]
    taps = (((0, 3), (1, 1)), ((1, 2), (2, 0)))  # per phase: (place in the 3x3 kernel, tap of the 4x4 one)
    kernel = np.zeros((c_out, 2, 2, c_in, 3, 3), t.weight.dtype)
    for row, rows in enumerate(taps):
        for column, columns in enumerate(taps):
            for i, tap_i in rows:
                for j, tap_j in columns:
                    kernel[:, row, column, :, i, j] = t.weight[:, :, tap_i, tap_j].T
    bias = None if t.bias is None else np.repeat(t.bias, 4)
    phases = f"{t.y}_phases"
    shuffle = _node("DepthToSpace", [phases], t.y, blocksize=2, mode="CRD")
    return [_convolution(t, kernel.reshape(c_out * 4, c_in, 3, 3), bias, phases), shuffle]


def _convolution(t: _Transposed, kernel: Array, bias: Array | None, output: str) -> NodeProto:
    return _node("Conv", [t.x, *t.rearranged(kernel, bias)], output, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)


def _sides(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Height and width of every (B, C, H, W) tensor whose sides are fixed."""
    sides = {}
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[2].dim_value and dims[3].dim_value:
            sides[value.name] = (dims[2].dim_value, dims[3].dim_value)
    return sides
