"""Checks that an engine matches the manifest. This needs a GPU: the library cannot open engines without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from svg_runtime.backends.tensorrt.build import dtype_name, library_error
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.bundle.manifest import GraphSpec, TensorSpec
from svg_runtime.errors import EngineError


def open_engine(library: Library, engine_bytes: bytes, graph_file: str) -> Any:
    """Deserialize an engine on the GPU that this thread uses.

    Raises:
        EngineError: the library cannot load it.
    """
    runtime = library.start("Runtime")
    with library.collect_messages() as messages:
        engine = runtime.deserialize_cuda_engine(engine_bytes)
    if engine is None:
        errors = [message for is_error, message in messages if is_error]
        raise library_error(library, graph_file, "produced an engine that does not load", errors or ["no reason given"])
    return engine


def check_engine(engine: Any, graph_file: str, spec: GraphSpec, max_batch: int) -> None:
    """Compare an engine's tensors with the manifest: names, directions, types, shapes and batch range.

    Args:
        engine: the library's ICudaEngine.
        graph_file: its graph in messages, such as fp16/step.onnx.
        spec: its interface in the manifest.
        max_batch: the largest batch that it must accept.

    Raises:
        EngineError: all differences, in one message.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    problems = []
    for mode, promised in (("INPUT", spec.inputs), ("OUTPUT", spec.outputs)):
        actual = {name for name in names if engine.get_tensor_mode(name).name == mode}
        expected = {tensor.name for tensor in promised}
        if actual != expected:
            problems.append(f"its {mode.lower()}s are {sorted(actual)}, the manifest says {sorted(expected)}")
        for tensor in promised:
            if tensor.name in actual:
                problems += _differences(engine, tensor, max_batch if mode == "INPUT" else None)
    if problems:
        raise EngineError(f"the engine of {graph_file} does not match the manifest:\n  " + "\n  ".join(problems))


def _differences(engine: Any, tensor: TensorSpec, max_batch: int | None) -> Iterator[str]:
    dtype = dtype_name(engine.get_tensor_dtype(tensor.name))
    if dtype != tensor.dtype:
        yield f"{tensor.name} is {dtype}, the manifest says {tensor.dtype}"
    shape = tuple(engine.get_tensor_shape(tensor.name))
    expected = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    if shape != expected:
        yield f"{tensor.name} is {shape}, the manifest says {expected}"
    elif max_batch is not None and -1 in shape:
        smallest, _, largest = (tuple(size) for size in engine.get_tensor_profile_shape(tensor.name, 0))
        least, _, most = tensor.batch_range(max_batch)
        if smallest != least or any(has < needs for has, needs in zip(largest, most, strict=True)):
            yield f"{tensor.name} accepts {smallest} to {largest}, expected {least} to {most}"


def check_half(library: Library, engine: Any, graph_file: str) -> None:
    """Check that an engine of an fp16 variant computes no convolution in float32.

    Layers without reported types, because the library fused them, are skipped.

    Raises:
        EngineError: lists all convolutions in float32.
    """
    text = engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, TypeError, KeyError):
        return
    wrong = [str(layer.get("Name")) for layer in layers if isinstance(layer, dict) and _is_single_convolution(layer)]
    if wrong:
        raise EngineError(f"the engine of {graph_file} of an fp16 variant computes in float32: {', '.join(wrong)}")


def _is_single_convolution(layer: dict[str, Any]) -> bool:
    """Whether a convolution has float16 neither as input nor as output.

    One of them may be float32, because conversions are fused with the outermost convolutions. TensorRT 10 does not report the
    types of tensors with dynamic shapes ("N/A due to dynamic shapes"): there the types of the weights decide.
    """
    tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
    is_convolution = "convolution" in str(layer.get("LayerType")).lower()  # CaskConvolution, Deconvolution, ...
    if not is_convolution or not tensors or not all(_is_map(tensor) for tensor in tensors):
        return False
    types = [_types(tensor) for tensor in tensors]
    if any("N/A" in each for each in types):
        types = [str((layer.get("Weights") or {}).get("Type"))]
    return all(_is_single(each) for each in types)


def _is_map(tensor: dict[str, Any]) -> bool:
    """Exclude matrix products of the recurrent parts, always float32, which the parser writes as 1x1 convolutions."""
    return bool(max(tensor.get("Dimensions", [])[2:], default=1) > 1)


def _types(tensor: dict[str, Any]) -> str:
    """Return the reported types: TensorRT 10 has one field "Format/Datatype", 11 has two."""
    return " ".join(str(value) for name, value in tensor.items() if "format" in name.lower() or "datatype" in name.lower())


def _is_single(types: str) -> bool:
    return ("FP32" in types or "Float" in types) and "FP16" not in types and "Half" not in types
