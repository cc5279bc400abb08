"""Reads the interface of an ONNX file: names, types and shapes of inputs and outputs, without the onnx package.

The runtime compares it with the manifest before an inference engine sees the file. Only the protobuf wire format is
decoded; field numbers are those of onnx.proto (ModelProto.graph = 7, opset_import = 8; GraphProto.input = 11, output = 12,
initializer = 5).

The engine has its own parser. Wherever the two could read one file differently (a repeated message, which protobuf merges;
weights in sub-graphs and functions), the file is refused: export never writes such files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from svg_common.protobuf_wire import Field, length_delimited, read_fields
from svg_runtime.errors import BundleError

_DTYPES = {1: "float32", 10: "float16"}
_COMPUTED = {1: "f32", 10: "f16", 16: "bf16"}  # TensorProto.DataType -> name of the precision
# Operators whose second input are weights. The names of ONNX Runtime's fused operators contain these.
_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class TensorHeader:
    """An input or output as the file declares it; a symbolic axis is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphHeader:
    """The interface of one file, and the metadata that export wrote into it."""

    inputs: tuple[TensorHeader, ...]
    outputs: tuple[TensorHeader, ...]
    metadata: dict[str, str]
    opset: int  # of the standard operators


def read_header(content: bytes) -> GraphHeader:
    """Decode the interface of an ONNX model.

    Raises:
        BundleError: not an ONNX model, or its weights are in another file.
    """
    try:
        model = read_fields(memoryview(content))
        graph = read_fields(_only(model, 7))
        if any(_is_external(read_fields(tensor)) for tensor in _weights(model, graph)):
            raise BundleError("the graph keeps weights in another file, which bundles do not allow")
        return GraphHeader(
            inputs=tuple(_tensor(value) for value in length_delimited(graph, 11)),
            outputs=tuple(_tensor(value) for value in length_delimited(graph, 12)),
            metadata=dict(_pair(entry) for entry in length_delimited(model, 14)),
            opset=_opset(model),
        )
    except ValueError as error:
        raise BundleError(f"not a readable ONNX file ({type(error).__name__}: {error})") from error


def count_weight_types(content: bytes) -> Counter[str]:
    """Count the weights of all convolutions and matrix products by type: f32, f16, bf16. Their kernels compute in it.

    A graph that an engine has loaded and written back shows its choice: where ONNX Runtime has no float16 kernel, it converts
    the weights to float32.

    Raises:
        BundleError: not an ONNX model.
    """
    try:
        graph = read_fields(_only(read_fields(memoryview(content)), 7))
        nodes = [read_fields(node) for node in length_delimited(graph, 1)]
        types = {_text(tensor, 8): _number(tensor, 2) for tensor in map(read_fields, length_delimited(graph, 5))}
        for node in nodes:
            types.update({bytes(name).decode(): type_ for name in length_delimited(node, 2) for type_ in _made_type(node)})
        counts: Counter[str] = Counter()
        for node in nodes:
            inputs = [bytes(name).decode() for name in length_delimited(node, 1)]
            if any(name in _text(node, 4) for name in _WEIGHTED) and len(inputs) > 1 and types.get(inputs[1]) in _COMPUTED:
                counts[_COMPUTED[types[inputs[1]]]] += 1
        return counts
    except ValueError as error:
        raise BundleError(f"not a readable ONNX file ({type(error).__name__}: {error})") from error


def _made_type(node: list[Field]) -> Iterator[int]:
    """Yield the output type of a Cast or Constant. NodeProto: op_type = 4, attribute = 5 {name = 1, i = 3, t = 5}."""
    operator = _text(node, 4)
    if operator not in ("Cast", "Constant"):
        return
    for attribute in map(read_fields, length_delimited(node, 5)):
        if operator == "Constant":
            yield from (_number(read_fields(tensor), 2) for tensor in length_delimited(attribute, 5))
        elif _text(attribute, 1) == "to":
            yield _number(attribute, 3)


def _weights(model: list[Field], graph: list[Field]) -> Iterator[memoryview]:
    """Yield all tensors in the file: initializers and constants of nodes."""
    if _has(model, 20, 25) or _has(graph, 15):
        raise BundleError("the graph has functions, training graphs or sparse weights, which bundles do not allow")
    yield from length_delimited(graph, 5)
    for node in length_delimited(graph, 1):
        for attribute in map(read_fields, length_delimited(read_fields(node), 5)):
            if _has(attribute, 6, 11, 22, 23):
                raise BundleError("the graph has sub-graphs or sparse weights, which bundles do not allow")
            yield from (*length_delimited(attribute, 5), *length_delimited(attribute, 10))


def _is_external(tensor: list[Field]) -> bool:
    """TensorProto: external_data = 13, data_location = 14 (0: in the file)."""
    return _has(tensor, 13) or any(key == 14 and value != 0 for key, value in tensor)


def _has(fields: list[Field], *numbers: int) -> bool:
    return any(key in numbers for key, _ in fields)


def _only(fields: list[Field], number: int) -> memoryview:
    values = length_delimited(fields, number)
    if len(values) != 1:
        raise ValueError(f"field {number} occurs {len(values)} times, expected once")
    return values[0]


def _number(fields: list[Field], number: int) -> int:
    return next((value for key, value in reversed(fields) if key == number and isinstance(value, int)), 0)


def _text(fields: list[Field], number: int) -> str:
    return bytes(_only(fields, number)).decode()


def _opset(model: list[Field]) -> int:
    """OperatorSetIdProto: domain = 1, version = 2; that of the standard operators is empty, left out, or called ai.onnx."""
    sets = [read_fields(value) for value in length_delimited(model, 8)]
    versions = {_number(fields, 2) for fields in sets if _is_standard(length_delimited(fields, 1))}
    if len(versions) != 1:
        raise ValueError(f"{len(versions)} versions of the standard operators, expected one")
    return versions.pop()


def _is_standard(domains: list[memoryview]) -> bool:
    return all(bytes(domain) in (b"", b"ai.onnx") for domain in domains)


def _pair(entry: memoryview) -> tuple[str, str]:
    fields = read_fields(entry)
    return _text(fields, 1), _text(fields, 2)


def _tensor(value: memoryview) -> TensorHeader:
    """ValueInfoProto: name = 1, type = 2 { tensor_type = 1 { elem_type = 1, shape = 2 { dim = 1 } } }."""
    info = read_fields(value)
    tensor_type = read_fields(_only(read_fields(_only(info, 2)), 1))
    dims = length_delimited(read_fields(_only(tensor_type, 2)), 1)
    elem_type = _number(tensor_type, 1)
    return TensorHeader(_text(info, 1), _DTYPES.get(elem_type, f"onnx type {elem_type}"), tuple(_dim(dim) for dim in dims))


def _dim(dim: memoryview) -> int | str:
    fields = read_fields(dim)
    if len(fields) > 1:
        raise ValueError("an axis has two sizes")
    return _text(fields, 2) if _has(fields, 2) else _number(fields, 1)
