"""Whether an engine is the one that the manifest promises. It needs a GPU: the library opens engines nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from svg_runtime.backends.tensorrt.build import dtype_name, refused
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.bundle.manifest import GraphSpec, TensorSpec
from svg_runtime.errors import EngineError


def open_engine(library: Library, plan: bytes, graph_file: str) -> Any:
    """The engine of a plan, on the GPU that this thread uses.

    Raises:
        EngineError: the library does not take it.
    """
    runtime = library.start("Runtime")
    with library.collect_messages() as messages:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        errors = [message for is_error, message in messages if is_error]
        raise refused(library, graph_file, "produced an engine that does not load", errors or ["no reason given"])
    return engine


def check_engine(engine: Any, graph_file: str, spec: GraphSpec, max_batch: int) -> None:
    """Compare an engine's tensors with the manifest: names, directions, types, shapes, and the batches that it takes.

    Args:
        engine: the library's ICudaEngine.
        graph_file: its graph in messages, such as fp16/step.onnx.
        spec: its interface by the manifest.
        max_batch: the largest batch that it has to take.

    Raises:
        EngineError: all differences, in one message.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    problems = []
    for mode, promised in (("INPUT", spec.inputs), ("OUTPUT", spec.outputs)):
        given = {name for name in names if engine.get_tensor_mode(name).name == mode}
        expected = {tensor.name for tensor in promised}
        if given != expected:
            problems.append(f"its {mode.lower()}s are {sorted(given)}, the manifest says {sorted(expected)}")
        for tensor in promised:
            if tensor.name in given:
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
            yield f"{tensor.name} takes {smallest} to {largest}, expected {least} to {most}"


def check_half(library: Library, engine: Any, graph_file: str) -> None:
    """Look for convolutions that an engine of an fp16 variant computes in float32.

    Layers of which the library tells no types, because it fused them into something else, say nothing.

    Raises:
        EngineError: there are some; all are named.
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
    """Neither takes nor gives float16. One of both may be float32: conversions are fused with the outermost convolutions.

    TensorRT 10 tells no types of tensors whose shapes are dynamic ("N/A due to dynamic shapes"): there those of the weights say
    it.
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
    """Not a matrix product of the recurrent parts, which are float32 in every variant, in the guise of a 1x1 convolution."""
    return bool(max(tensor.get("Dimensions", [])[2:], default=1) > 1)


def _types(tensor: dict[str, Any]) -> str:
    """TensorRT 10 has "Format/Datatype", 11 has two fields."""
    return " ".join(str(value) for name, value in tensor.items() if "format" in name.lower() or "datatype" in name.lower())


def _is_single(types: str) -> bool:
    return ("FP32" in types or "Float" in types) and "FP16" not in types and "Half" not in types
