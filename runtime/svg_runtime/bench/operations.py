"""Counts what a forecast has to compute: the operations of its graphs, from the shapes that ONNX Runtime reports of each node.

The bundle's graphs declare no inner shapes, and deriving them would mean to know every operator. So each graph runs once at
batch 1, unoptimised, under ONNX Runtime's own profiler, which notes the shapes of all that goes in and out of a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from svg_common.command import require_modules
from svg_common.progress import ProgressListener
from svg_runtime.bundle.contract import FUSED, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import GraphSpec, Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import SvgError

Shape = list[int]

# Heavy operators without a formula here. What is in neither list computes little: activations, sums, copies.
_UNCOUNTED = {"LSTM", "GRU", "RNN", "Einsum", "Attention", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}


class UncountableError(SvgError):
    """A graph holds an operator whose operations are not known."""


def multiply_adds(operator: str, inputs: list[Shape], output: Shape) -> int:
    """Multiply-adds of one node; those on a convolution's padding count too, as is usual.

    Args:
        operator: ONNX operator.
        inputs: shapes of its inputs, weights included.
        output: shape of its first output.

    Raises:
        UncountableError: a heavy operator without a formula.
    """
    if operator in _UNCOUNTED:
        raise UncountableError(f"no formula for the operations of {operator}")
    if operator == "Conv":  # weight (out, in / groups, k, k): each output value takes in / groups * k * k products
        return prod(output) * prod(inputs[1][1:])
    if operator == "ConvTranspose":  # weight (in, out / groups, k, k): each input value is spread over out / groups * k * k
        return prod(inputs[0]) * prod(inputs[1][1:])
    if operator == "MatMul":
        return prod(output) * inputs[0][-1]
    if operator == "Gemm":  # either side may be transposed: (rows, inner) or (inner, rows)
        return prod(output) * (prod(inputs[0]) // output[0])
    return 0


def count_operations(progress: ProgressListener, task: str, model: str, precision: Precision) -> dict[str, Any]:
    """Multiply-adds of every separate graph at batch 1; they grow with the batch.

    Works in the current folder, where the profiler leaves its files.

    Args:
        progress: who is told how far this is.
        task: the name of this count.
        model: the bundle.
        precision: the graphs to count; all precisions compute the same.

    Returns:
        graph -> multiply-adds.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UncountableError: see there.
    """
    require_modules("counting the operations of a forecast", "cpu", "onnxruntime")
    bundle = Bundle.open(model)
    contents, counts = bundle.graphs(precision), {}
    for number, (graph_name, spec) in enumerate(bundle.variant(precision).graphs.items(), 1):
        if graph_name not in (*FUSED, SHUFFLED_DECODER):  # composed of the others, or the same as another
            counts[graph_name] = sum(multiply_adds(*node) for node in _nodes(contents[graph_name], spec))
        progress.progress(task, number / len(contents))
    return counts


def _nodes(content: bytes, spec: GraphSpec) -> Iterator[tuple[str, list[Shape], Shape]]:
    """Operator, input shapes and first output shape of every node that runs, at batch 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # prepacked weights are missing from the profile
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.run(None, {tensor.name: np.zeros(tensor.sized(1), tensor.dtype) for tensor in spec.inputs})
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        about = event.get("args", {})
        if about.get("output_type_shape"):
            inputs, outputs = ([_shape(entry) for entry in about[f"{side}_type_shape"]] for side in ("input", "output"))
            yield about["op_name"], inputs, outputs[0]


def _shape(entry: dict[str, Shape]) -> Shape:
    """The profiler writes {"float": [1, 16, 32, 32]}."""
    return next(iter(entry.values()))


def forecast_operations(counts: dict[str, int], manifest: Manifest, samples: int, horizon: int) -> int:
    """Operations of one forecast on the separate graphs, a multiply-add being two.

    The fused graphs compute a little more (the encoding of the last frame, which nothing reads); what is useful is the same.
    """
    runs = graph_runs(manifest, horizon, fused=False)
    return 2 * samples_of(manifest, samples) * sum(counts[graph_name] * number for graph_name, number in runs.items())


def forecast_bytes(manifest: Manifest, precision: Precision, fused: bool, samples: int, horizon: int) -> int:
    """Bytes that the graphs of one forecast have to move at least: their files (weights), inputs and outputs, once per run."""
    graphs, batch = manifest.variants[precision].graphs, samples_of(manifest, samples)
    unread = "" if manifest.generation.last_frame_skip else "skip_"  # outputs of the encoder
    runs = graph_runs(manifest, horizon, fused)
    return sum(number * _run_bytes(graphs[graph_name], batch, unread) for graph_name, number in runs.items())


def graph_runs(manifest: Manifest, horizon: int, fused: bool) -> dict[str, int]:
    """How often a forecast with the window context runs each graph."""
    if fused:
        return {"prime": 1, "step": horizon}
    runs = {"predictor": manifest.generation.n_past - 1 + horizon, "decoder": horizon, "encoder": horizon - 1}
    if manifest.model.prior_layers:
        runs["prior"] = horizon
    if manifest.generation.last_frame_skip:
        runs["skip"] = horizon - 1
    return runs


def samples_of(manifest: Manifest, samples: int) -> int:
    """Futures that are computed: a deterministic model has but one."""
    return samples if manifest.model.z_dim else 1


def _run_bytes(spec: GraphSpec, batch: int, unread: str) -> int:
    tensors = [tensor for tensor in (*spec.inputs, *spec.outputs) if not (unread and tensor.name.startswith(unread))]
    return spec.bytes + sum(prod(tensor.shared(batch)) * np.dtype(tensor.dtype).itemsize for tensor in tensors)
