"""Counts the operations of a forecast, from the shapes that ONNX Runtime reports for each node.

The bundle's graphs declare no inner shapes, and deriving them would require knowledge of every operator. So each graph runs
once at batch 1, unoptimised, under ONNX Runtime's profiler, which records the shapes of all inputs and outputs of a node.
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
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.bundle.contract import FUSED, SHUFFLED_DECODER, has_separate
from svg_runtime.bundle.manifest import GraphSpec, Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import SvgError

Shape = list[int]

# Heavy operators without a formula here. All others compute little: activations, sums, copies.
_UNCOUNTED = {"LSTM", "GRU", "RNN", "Einsum", "Attention", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}


class UncountableError(SvgError):
    """A graph contains a heavy operator for which there is no formula."""


def multiply_adds(operator: str, inputs: list[Shape], output: Shape) -> int:
    """Count the multiply-adds of one node; as usual, those on a convolution's padding count too.

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
    """Count the multiply-adds of every graph at batch 1; they grow with the batch.

    Where there are separate graphs, those alone: the fused ones are composed of them.

    The profiler writes its files to the current folder.

    Args:
        progress: listener for this count.
        task: name of this count.
        model: path of the bundle.
        precision: the graphs to count; all precisions compute the same.

    Returns:
        graph -> multiply-adds.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UncountableError: a graph contains a heavy operator without a formula.
    """
    require_modules("counting the operations of a forecast", "cpu", "onnxruntime")
    bundle = Bundle.open(model)
    contents, counts = bundle.graphs(precision), {}
    variant = bundle.variant(precision)
    repeated = (*FUSED, SHUFFLED_DECODER) if has_separate(variant) else ()  # composed of the others, or equivalent to another
    for number, (graph_name, spec) in enumerate(variant.graphs.items(), 1):
        if graph_name not in repeated:
            counts[graph_name] = sum(multiply_adds(*node) for node in _nodes(contents[graph_name], spec))
        progress.progress(task, number / len(contents))
    return counts


def _nodes(content: bytes, spec: GraphSpec) -> Iterator[tuple[str, list[Shape], Shape]]:
    """Yield operator, input shapes and first output shape of every node that runs, at batch 1."""
    onnxruntime = import_onnxruntime()
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
    """Read a shape from the profiler's entry, such as {"float": [1, 16, 32, 32]}."""
    return next(iter(entry.values()))


def forecast_operations(counts: dict[str, int], manifest: Manifest, samples: int, horizon: int) -> int:
    """Count the operations of one forecast, two per multiply-add.

    On the separate graphs if they were counted: the fused ones compute a little more, the encoding of the last frame, which
    nothing reads. Else on the fused ones, with `prime` as if it read the context of every sample anew.
    """
    runs, batch = graph_runs(manifest, horizon, fused="predictor" not in counts), samples_of(manifest, samples)
    return 2 * sum(counts[name] * number * _batch_of(name, batch, horizon) for name, number in runs.items())


def forecast_bytes(manifest: Manifest, precision: Precision, fused: bool, samples: int, horizon: int) -> int:
    """Return the least bytes that a forecast moves: files (weights), inputs and outputs of the graphs, once per run."""
    graphs, batch = manifest.variants[precision].graphs, samples_of(manifest, samples)
    unread = "" if manifest.generation.last_frame_skip else "skip_"  # prefix of encoder outputs that a forecast does not use
    runs = graph_runs(manifest, horizon, fused)
    return sum(number * _run_bytes(graphs[name], _batch_of(name, batch, horizon), unread) for name, number in runs.items())


def graph_runs(manifest: Manifest, horizon: int, fused: bool) -> dict[str, int]:
    """Return how often a forecast runs each graph, with the context that the manifest says."""
    graphs = next(iter(manifest.variants.values())).graphs
    if fused:
        once = [graph_name for graph_name in ("prime", "decode") if graph_name in graphs]
        return {**dict.fromkeys(once, 1), "step": horizon}
    runs = {"predictor": manifest.generation.n_past - 1 + horizon, "decoder": horizon, "encoder": horizon - 1}
    if "prior" in graphs:
        runs["prior"] = horizon
    if manifest.generation.last_frame_skip:
        runs["skip"] = horizon - 1
    return runs


def _batch_of(graph_name: str, samples: int, horizon: int) -> int:
    """Size of the batch in one run of a graph: `decode` makes the frames of all steps at once."""
    return samples * horizon if graph_name == "decode" else samples


def samples_of(manifest: Manifest, samples: int) -> int:
    """Return how many futures are computed: a deterministic model has only one."""
    return samples if manifest.model.z_dim else 1


def _run_bytes(spec: GraphSpec, batch: int, unread: str) -> int:
    tensors = [tensor for tensor in (*spec.inputs, *spec.outputs) if not (unread and tensor.name.startswith(unread))]
    return spec.bytes + sum(prod(tensor.shared(batch)) * np.dtype(tensor.dtype).itemsize for tensor in tensors)
