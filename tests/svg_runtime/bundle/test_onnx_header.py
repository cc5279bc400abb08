"""The ONNX header reader: it agrees with the onnx package on good files, and only ever refuses bad ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from svg_runtime.bundle.onnx_header import GraphHeader, count_weight_types, read_header
from svg_runtime.errors import BundleError
from tests.svg_runtime.bundle_helpers import graph_bytes

SEPARATE_GRAPHS = ("encoder", "skip", "posterior", "prior", "predictor", "decoder")
DTYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


@pytest.fixture(scope="module")
def posterior(tiny_bundle) -> bytes:
    return graph_bytes(tiny_bundle, "posterior")


def seen_by_onnx(value) -> tuple:
    tensor = value.type.tensor_type
    return value.name, DTYPES[tensor.elem_type], tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)


def listed(tensors) -> list[tuple]:
    return [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph_name", SEPARATE_GRAPHS)
def test_reads_what_the_onnx_package_reads(tiny_bundle, graph_name, precision):
    content = graph_bytes(tiny_bundle, graph_name, precision)
    header, model = read_header(content), onnx.load_from_string(content)
    assert listed(header.inputs) == [seen_by_onnx(value) for value in model.graph.input]
    assert listed(header.outputs) == [seen_by_onnx(value) for value in model.graph.output]
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert header.metadata["svg_graph"] == graph_name
    assert header.opset == model.opset_import[0].version
    model.opset_import[0].domain = "ai.onnx"  # another name of the same operators
    assert read_header(model.SerializeToString()).opset == header.opset
    model.opset_import.append(helper.make_opsetid("", header.opset))
    assert read_header(model.SerializeToString()).opset == header.opset
    model.opset_import.append(helper.make_opsetid("", header.opset - 1))
    with pytest.raises(BundleError, match="2 versions of the standard operators"):
        read_header(model.SerializeToString())


def test_other_element_types_are_distinguished():
    value = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "main", [value], [value])
    assert read_header(helper.make_model(graph).SerializeToString()).inputs[0].dtype == "onnx type 7"


def refused(content: bytes) -> bool:
    """Whether the reader refuses `content`; any other exception than BundleError ends the test."""
    try:
        assert isinstance(read_header(content), GraphHeader)
    except BundleError:
        return True
    return False


def test_every_truncation_is_refused_or_read(tiny_bundle):
    content = graph_bytes(tiny_bundle, "encoder")
    results = [refused(content[:length]) for length in range(0, len(content), 97)]
    assert sum(results) > 0.99 * len(results)  # the very last fields of a model are optional


def test_flipped_bits_are_refused_or_read(posterior):
    rng = np.random.default_rng(0)
    results = []
    for _ in range(1500):
        damaged = bytearray(posterior)
        for position in rng.integers(0, len(damaged) if rng.random() < 0.3 else 2000, rng.integers(1, 6)):
            damaged[position] ^= 1 << rng.integers(8)
        results.append(refused(bytes(damaged)))
    assert any(results)
    assert not all(results)  # most bytes are weights, where any value is one


def test_random_bytes_are_refused():
    rng = np.random.default_rng(1)
    assert all(refused(rng.bytes(int(rng.integers(0, 300)))) for _ in range(2000))


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"PK\x03\x04", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff" * 50]
)
def test_small_malformed_messages_are_refused(content):
    assert refused(content)


def test_a_message_of_endless_fields_is_refused_before_it_fills_the_memory():
    with pytest.raises(BundleError, match="too many fields"):
        read_header(b"\x08\x00" * (1 << 22))


def test_an_endless_number_is_refused_at_once():
    """Read to its end, it would take time in the square of its length."""
    with pytest.raises(BundleError, match="varint"):
        read_header(b"\xff" * (1 << 16) + b"\x01")


def external(tensor: TensorProto) -> TensorProto:
    """A tensor that declares its values to be in the file `secret.bin`."""
    onnx.external_data_helper.set_external_data(tensor, "secret.bin")
    tensor.ClearField("raw_data")
    return tensor


def one() -> TensorProto:
    return numpy_helper.from_array(np.ones(3, np.float32), "w")


def model_of(*nodes, weights=(), **parts) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    return helper.make_model(helper.make_graph(list(nodes), "main", [value], [result], weights, **parts))


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def constant(tensor: TensorProto, name: str = "value"):
    return helper.make_node("Constant", [], ["w"], **{name: tensor})


def subgraph():
    inner = helper.make_graph([constant(external(one()))], "inner", [], [helper.make_empty_tensor_value_info("w")])
    return helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)


def function() -> onnx.ModelProto:
    model = model_of(helper.make_node("F", ["x"], ["y"], domain="local"))
    model.functions.append(
        helper.make_function("local", "F", ["x"], ["y"], [constant(external(one())), ADD], [helper.make_opsetid("", 18)])
    )
    return model


def sparse() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(one(), helper.make_tensor("i", TensorProto.INT64, [3], [0, 1, 2]), [3])


HIDDEN = {
    "initializer": lambda: model_of(ADD, weights=[external(one())]),
    "constant": lambda: model_of(constant(external(one())), ADD),
    "list of tensors": lambda: model_of(helper.make_node("Anything", ["x"], ["y"], values=[one(), external(one())])),
    "sub-graph": lambda: model_of(subgraph(), ADD),
    "function": function,
    "sparse weights": lambda: model_of(ADD, sparse_initializer=[sparse()]),
    "sparse constant": lambda: model_of(constant(sparse(), "sparse_value"), ADD),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_weights_in_another_file_are_detected_in_every_place(place):
    with pytest.raises(BundleError, match="do not allow"):
        read_header(HIDDEN[place]().SerializeToString())


def test_weights_in_the_file_are_allowed_in_the_same_places():
    assert not refused(model_of(ADD, weights=[one()]).SerializeToString())
    assert not refused(model_of(constant(one()), ADD).SerializeToString())
    assert not refused(model_of(helper.make_node("Anything", ["x"], ["y"], values=[one(), one()])).SerializeToString())


def test_an_external_file_named_beside_inline_values_is_refused():
    tensor = external(one())
    tensor.ClearField("data_location")
    assert refused(model_of(ADD, weights=[tensor]).SerializeToString())


def test_a_location_given_twice_does_not_hide_the_second():
    """protobuf keeps the last of a field given twice."""
    tensor = one().SerializeToString() + b"\x70\x00\x70\x01"  # data_location = 14: default, then external
    assert onnx.TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    content = model_of(ADD).SerializeToString()
    graph = onnx.load_from_string(content).graph.SerializeToString()
    merged = content.replace(field(7, graph), field(7, graph + field(5, tensor)))
    assert merged != content
    with pytest.raises(BundleError, match="another file"):
        read_header(merged)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = b"", len(value)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def test_a_graph_given_twice_is_refused(posterior):
    """protobuf would merge the two, so that the reader and the engine saw different graphs."""
    hidden = model_of(ADD, weights=[external(one())]).graph.SerializeToString()
    assert not refused(posterior)
    assert refused(field(7, hidden) + posterior)
    assert refused(posterior + field(7, hidden))


@pytest.mark.parametrize(("graph_name", "layers"), [("encoder", {"f16": 5}), ("decoder", {"f16": 5}), ("prior", {"f32": 5})])
def test_counts_the_types_of_weights(tiny_bundle, graph_name, layers):
    assert count_weight_types(graph_bytes(tiny_bundle, graph_name, "fp16")) == layers
    assert count_weight_types(graph_bytes(tiny_bundle, graph_name, "fp32")) == {"f32": 5}


def test_weights_produced_by_nodes_have_the_output_type_of_the_node():
    half = numpy_helper.from_array(np.zeros((4, 4), np.float16), "half")
    nodes = [
        helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["given"], value=numpy_helper.from_array(np.zeros((4, 4), np.float16))),
        helper.make_node("MatMul", ["x", "single"], ["a"]),
        helper.make_node("Gemm", ["a", "given"], ["b"]),
        helper.make_node("FusedMatMul", ["b", "half"], ["c"], domain="com.microsoft"),
        helper.make_node("MatMul", ["c", "a"], ["d"]),  # no weights
        helper.make_node("Add", ["d", "half"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "main", value[:1], value[1:], [half]))
    assert count_weight_types(model.SerializeToString()) == {"f32": 1, "f16": 2}


def test_weight_types_of_a_file_that_is_not_a_graph_are_refused(posterior):
    for content in (b"", b"\xff" * 40, posterior[: len(posterior) // 2]):
        with pytest.raises(BundleError, match="not a readable ONNX file"):
            count_weight_types(content)
