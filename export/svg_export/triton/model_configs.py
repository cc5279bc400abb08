"""The config.pbtxt of each kind of model, as messages for `prototext`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from svg_export.triton.prototext import Name
from svg_runtime.bundle.manifest import BATCH, GraphSpec, Manifest, TensorSpec
from svg_runtime.triton.python_model import FRAME, FUTURES, MISSING_FRAMES, SURPRISE

GraphBackend = Literal["onnxruntime", "tensorrt"]
_FILES: dict[GraphBackend, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
_QUEUE_DELAY_US = 5000  # how long a batch waits for further cameras: far less than the interval between frames
_TYPES = {"float32": Name("TYPE_FP32"), "float16": Name("TYPE_FP16")}


@dataclass(frozen=True)
class ServingChoice:
    """What the user chooses.

    Attributes:
        cameras: largest number of sequences, or of forecasts in a batch.
        samples: futures per forecast, of the Python backend.
        horizon: frames per future, of the Python backend; a graph forecast has its own, see `forecast_horizons`.
        idle_s: seconds without a frame after which a sequence is freed.
    """

    cameras: int = 16
    samples: int = 8
    horizon: int = 10
    idle_s: float = 10.0


def forecast_horizons(manifest: Manifest) -> set[int]:
    """Frames per future that are fixed in the graphs `forecast` of a bundle: one number, or none without such a graph."""
    graphs = (variant.forecast for variant in manifest.variants.values())
    shapes = (graph.tensor("futures").shape for graph in graphs if graph is not None)
    return {horizon for _, _, horizon, *_ in shapes if isinstance(horizon, int)}


def python_config(name: str, bundle: str, manifest: Manifest, choice: ServingChoice) -> dict[str, Any]:
    """A sequence per camera, computed by `svg_runtime`.

    Args:
        name: of the model.
        bundle: name of its folder beside model.py.
        manifest: of the bundle.
        choice: what the user chooses.
    """
    spec = manifest.frame
    shape = [spec.height, spec.width, spec.channels]
    parameters = {"bundle": bundle, "samples": choice.samples, "horizon": choice.horizon, "seed": 0, "backend": "auto"}
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": choice.cameras,
        "input": [_tensor(FRAME, "FP32", shape)],
        "output": [
            _tensor(FUTURES, "FP32", [-1, -1, *shape]),  # samples and horizon are parameters
            _tensor(SURPRISE, "FP32", [1]),
            _tensor(MISSING_FRAMES, "INT32", [1]),
        ],
        "sequence_batching": _sequence_batching(choice),
        "instance_group": [{"count": 1, "kind": Name("KIND_MODEL")}],  # svg_runtime chooses the device
        "parameters": [{"key": key, "value": {"string_value": str(value)}} for key, value in parameters.items()],
    }


def forecast_config(name: str, backend: GraphBackend, graph: GraphSpec, choice: ServingChoice) -> dict[str, Any]:
    """The stateless graph `forecast`: each request has its whole context, and any requests make a batch."""
    return {
        **_graph_config(name=name, backend=backend, inputs=graph.inputs, outputs=graph.outputs, choice=choice),
        "dynamic_batching": {"max_queue_delay_microseconds": _QUEUE_DELAY_US},
    }


def step_config(name: str, backend: GraphBackend, graph: GraphSpec, choice: ServingChoice) -> dict[str, Any]:
    """The graph `step`, whose recurrent states Triton keeps for each sequence: zeros at its start."""
    states = {state.input: state.output for state in _kept_states(graph)}
    kept = {*states, *states.values()}
    shown = [[tensor for tensor in side if tensor.name not in kept] for side in (graph.inputs, graph.outputs)]
    return {
        **_graph_config(name=name, backend=backend, inputs=shown[0], outputs=shown[1], choice=choice),
        "sequence_batching": {
            **_sequence_batching(choice),
            "state": [_state(graph.tensor(given), result) for given, result in states.items()],
        },
    }


def keeps_states_by_sequence(graph: GraphSpec) -> bool:
    """Whether Triton can keep the states of `step`: they start at zero, and have the batch first, as all else has.

    What is given besides is a frame, which the client has; not what another graph computes.
    """
    first = all(tensor.shape[0] == BATCH for tensor in (*graph.inputs, *graph.outputs))
    others = {tensor.name for tensor in graph.inputs} - {state.input for state in _kept_states(graph)}
    return first and bool(_kept_states(graph)) and others == {"h"}


def _kept_states(graph: GraphSpec) -> list[Any]:
    return [state for state in graph.states if state.initial == "zeros"]


def _graph_config(
    name: str, backend: GraphBackend, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], choice: ServingChoice
) -> dict[str, Any]:
    return {
        "name": name,
        "backend": backend,
        "default_model_filename": _FILES[backend],
        "max_batch_size": choice.cameras,
        "input": [_of_graph(tensor) for tensor in inputs],
        "output": [_of_graph(tensor) for tensor in outputs],
    }


def _sequence_batching(choice: ServingChoice) -> dict[str, Any]:
    return {
        "max_sequence_idle_microseconds": round(1e6 * choice.idle_s),
        "oldest": {"max_candidate_sequences": choice.cameras, "max_queue_delay_microseconds": _QUEUE_DELAY_US},
    }


def _tensor(name: str, kind: str, dims: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Name(f"TYPE_{kind}"), "dims": list(dims)}


def _of_graph(tensor: TensorSpec) -> dict[str, Any]:
    """A tensor of a graph, without its batch. Triton knows no tensor without other axes: they get one, which it removes."""
    dims = _dims(tensor)
    whole: Mapping[str, Any] = {} if dims else {"reshape": {"shape": []}}
    return {"name": tensor.name, "data_type": _TYPES[tensor.dtype], "dims": dims or [1], **whole}


def _state(tensor: TensorSpec, output: str) -> dict[str, Any]:
    kind, dims = _TYPES[tensor.dtype], _dims(tensor)
    return {
        "input_name": tensor.name,
        "output_name": output,
        "data_type": kind,
        "dims": dims,
        "initial_state": {"name": f"no {tensor.name}", "data_type": kind, "dims": dims, "zero_data": True},
    }


def _dims(tensor: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
