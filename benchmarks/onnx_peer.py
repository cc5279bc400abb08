"""The peers on plain ONNX Runtime: separate graphs, default session options, states as NumPy arrays between the calls.

On a GPU every call copies its inputs there and its outputs back, and returns when they are in host memory.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_weights import model_of
from peers import Context, Task
from reference_networks import with_weights_of

from svg_export.graph_export import EXAMPLE_BATCH, GraphExport
from svg_export.to_onnx import export_graph
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError
from svg_runtime.machine.hardware import usable_cores

onnxruntime = import_onnxruntime()
_CUDA = "CUDAExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxPeer:
    """A forecast as users write it with `session.run`.

    Args:
        graphs: encoder, decoder, predictor and prior as ONNX files in memory.
        task: what to forecast.
        context: what was observed.
        conditions: the decoder's inputs besides g, by name. The split decoder takes it at batch 1.
        spinning: whether threads wait by spinning, as they do by default.
        device: cpu or cuda.
    """

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        task: Task,
        context: Context,
        conditions: dict[str, np.ndarray],
        spinning: bool = True,
        device: str = "cpu",
    ) -> None:
        graph_names = ("encoder", "decoder", "predictor", "prior")
        self._sessions = {graph_name: session(graphs[graph_name], spinning, device) for graph_name in graph_names}
        self._types = {
            graph_name: {item.name: _TYPES[item.type] for item in opened.get_inputs()}
            for graph_name, opened in self._sessions.items()
        }
        self._task = task
        self._context = context
        self._conditions = {name: value.astype(self._types["decoder"][name]) for name, value in conditions.items()}
        state = next(item for item in self._sessions["predictor"].get_inputs() if item.name == "state")
        self._zero_state = np.zeros((state.shape[0], task.samples, state.shape[2]), np.float32)

    def forecast(self) -> np.ndarray:
        """(horizon, samples, C, H, W) float32."""
        task, context = self._task, self._context
        h_seq = [np.repeat(h[None], task.samples, axis=0) for h in context.h]
        predictor_state = self._zero_state
        for h, z in zip(h_seq[:-1], context.z, strict=True):
            _, predictor_state = self._run("predictor", ["g", "state_out"], h=h, z=z, state=predictor_state)
        prior_state = np.repeat(context.prior_state, task.samples, axis=1)
        frames, h = [], h_seq[-1]
        for eps in task.noise:
            if frames:
                (h,) = self._run("encoder", ["h"], frame=frames[-1])
            mu, logvar, prior_state = self._run("prior", ["mu", "logvar", "state_out"], h=h, state=prior_state)
            z = mu + np.exp(0.5 * logvar) * eps
            g, predictor_state = self._run("predictor", ["g", "state_out"], h=h, z=z, state=predictor_state)
            frames += self._run("decoder", ["frame"], g=g, **self._conditions)
        return np.stack(frames).astype(np.float32, copy=False)

    def _run(self, graph_name: str, outputs: list[str], **inputs: np.ndarray) -> list[Any]:
        types = self._types[graph_name]
        return self._sessions[graph_name].run(outputs, {name: x.astype(types[name], copy=False) for name, x in inputs.items()})


def plain(
    bundle: Bundle, task: Task, context: Context, spinning: bool = True, device: str = "cpu", precision: str = "fp32"
) -> OnnxPeer:
    """Encoder and concatenating decoder as PyTorch exports them, and the small recurrent graphs of the bundle, in float32."""
    graphs = bundle.graphs("fp32") | _plain_graphs(bundle.path, precision)
    skips = {f"skip_{index}": np.repeat(skip, task.samples, axis=0) for index, skip in enumerate(context.skips)}
    return OnnxPeer(graphs=graphs, task=task, context=context, conditions=skips, spinning=spinning, device=device)


def split(bundle: Bundle, task: Task, context: Context) -> OnnxPeer:
    """The separate graphs of the bundle."""
    graphs = bundle.graphs("fp32")
    skips = {f"skip_{index}": skip for index, skip in enumerate(context.skips)}
    condition = session(graphs["skip"])
    names = [output.name for output in condition.get_outputs()]
    return OnnxPeer(graphs, task, context, dict(zip(names, condition.run(names, skips), strict=True)))


def session(content: bytes, spinning: bool = True, device: str = "cpu") -> Any:
    """Default options, except the number of threads, which is the same for all peers, how they wait, and true float32.

    Raises:
        BackendMissingError: ONNX Runtime would silently compute on the CPU instead.
    """
    options = onnxruntime.SessionOptions()
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = usable_cores()
    if device == "cpu":
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    if _CUDA not in onnxruntime.get_available_providers():
        raise BackendMissingError(f"the installed onnxruntime has no {_CUDA}; install onnxruntime-gpu")
    options.log_severity_level = 3  # it warns about copies at every call, which are intended here
    opened = onnxruntime.InferenceSession(content, options, providers=[(_CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"])
    if opened.get_providers()[0] != _CUDA:
        raise BackendMissingError(f"onnxruntime cannot load its {_CUDA}; install the CUDA and cuDNN of its release")
    return opened


@functools.cache
def _plain_graphs(path: Path, precision: str) -> dict[str, bytes]:
    model, dtype = model_of(Bundle.open(path)), torch.float16 if precision == "fp16" else torch.float32
    parts, c = {name: part.to(dtype) for name, part in with_weights_of(model).items()}, model.config
    frame = torch.rand(EXAMPLE_BATCH, c.channels, c.image_size, c.image_size, dtype=dtype)
    with torch.no_grad():
        skips = parts["encoder"](frame)[1]
    names = [f"skip_{index}" for index in range(len(skips))]
    g = torch.rand(EXAMPLE_BATCH, c.g_dim, dtype=dtype)
    exports = {
        "encoder": GraphExport(module=parts["encoder"], example=(frame,), inputs=["frame"], outputs=["h", *names], states={}),
        "decoder": GraphExport(module=parts["decoder"], example=(g, skips), inputs=["g", *names], outputs=["frame"], states={}),
    }
    return {graph_name: export_graph(entry, graph_name, "plain") for graph_name, entry in exports.items()}
