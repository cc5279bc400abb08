"""PyTorch module -> ONNX bytes: dynamic batch, nothing specific to the machine, the same bytes every time."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from svg_common.signals import defer_interrupts
from svg_export.graph_export import GraphExport
from svg_export.lowering import lower, shuffle_last
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import BATCH, COND_BATCH, TensorSpec
from svg_runtime.bundle.onnx_header import read_header

OPSET = 18  # read by TensorRT 10, OpenVINO 2024 and ONNX Runtime 1.18 alike


def export_graph(graph_export: GraphExport, graph_name: str, bundle_id: str) -> bytes:
    """Export one graph, with its name and bundle in the metadata.

    Raises:
        RuntimeError: PyTorch's exporter refused the module.
    """
    _load_exporter()
    with torch.no_grad(), _quiet(), _without_garbage_collection():
        program = torch.onnx.export(
            graph_export.module.eval(),
            graph_export.example,
            dynamo=True,
            input_names=graph_export.inputs,
            output_names=graph_export.outputs,
            dynamic_shapes=_dynamic_shapes(graph_export),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_batch(model, graph_export)
    _free_shared_batch(model, graph_export)
    lower(model)
    _clean(model)
    return stamped(model, graph_name, bundle_id)


@cache
def _load_exporter() -> None:
    """Let PyTorch import all that it exports with, which it does at its first export.

    An import that Ctrl-C cuts short leaves half a module behind, which PyTorch then reports as its own failure.
    """
    axes = ({0: torch.export.Dim(BATCH, min=1, max=4096)},)
    with defer_interrupts(), _quiet():
        torch.onnx.export(torch.nn.Identity(), (torch.zeros(2),), dynamo=True, dynamic_shapes=axes, verbose=False)


def shuffled_decoder(decoder: bytes, bundle_id: str) -> bytes | None:
    """The graph `decoder_shuffled`, rewritten from an exported decoder; None if no layer changes."""
    model = onnx.load_from_string(decoder)
    return stamped(model, SHUFFLED_DECODER, bundle_id) if shuffle_last(model) else None


def stamped(model: onnx.ModelProto, graph_name: str, bundle_id: str) -> bytes:
    """The bytes of a graph, with its name and bundle in the metadata.

    Raises:
        onnx.checker.ValidationError: it is not a valid graph.
    """
    onnx.helper.set_model_props(model, {"svg_bundle_id": bundle_id, "svg_graph": graph_name})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def read_interface(content: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], int]:
    """Inputs, outputs and opset of an exported graph, read from the file itself."""
    header = read_header(content)
    inputs, outputs = (
        tuple(TensorSpec.model_validate({"name": t.name, "dtype": t.dtype, "shape": t.shape}) for t in tensors)
        for tensors in (header.inputs, header.outputs)
    )
    return inputs, outputs, header.opset


def _dynamic_shapes(graph_export: GraphExport) -> tuple[object, ...]:
    batch = torch.export.Dim(BATCH, min=1, max=4096)
    names = iter(graph_export.inputs)

    def axes(tensor: Tensor) -> dict[int, object]:
        name = next(names)
        return {} if name in graph_export.shared else {graph_export.batch_axis(name): batch}

    return tuple([axes(t) for t in item] if isinstance(item, list) else axes(item) for item in graph_export.example)


def _name_batch(model: onnx.ModelProto, graph_export: GraphExport) -> None:
    """Give the dynamic axis one name everywhere, and let shared inputs have batch 1 or B.

    torch.export cannot say "1 or B", so shared inputs are exported at batch 1; addition broadcasts either.
    """
    for value in [*model.graph.input, *model.graph.output]:
        symbol = COND_BATCH if value.name in graph_export.shared else BATCH
        value.type.tensor_type.shape.dim[graph_export.batch_axis(value.name)].dim_param = symbol
    del model.graph.value_info[:]  # inferred shapes of inner tensors, which still have batch 1


def _free_shared_batch(model: onnx.ModelProto, graph_export: GraphExport) -> None:
    """Let every Reshape to (1, ...) keep batch B, where torch.export has taken the 1 from a shared input.

    It gives the same for tensors without a batch: there is one of what the other axes hold.
    """
    if not set(graph_export.inputs) & set(graph_export.shared):
        return
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        target = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is not None and len(target) and target[0] == 1 and (target > 0).all():
            name = f"{node.output[0]}_shape"
            free = np.concatenate([[-1], target[1:]]).astype(np.int64)
            model.graph.initializer.append(numpy_helper.from_array(free, name))
            node.input[1] = name
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _clean(model: onnx.ModelProto) -> None:
    """Remove stack traces, file paths and names that vary between exports."""
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "main"
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: what the exporter makes, a million objects, mostly stays until its end."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own progress on stdout, and its warnings, which no user can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
