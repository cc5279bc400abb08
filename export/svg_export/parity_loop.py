"""The closed loop of the parity gate: the same frames and noise through any implementation of the graphs, all outputs recorded.

A run has n_past observed and FORECAST_STEPS forecast frames, by the generation rule. It takes anything that maps (graph name,
inputs) to outputs: the PyTorch model, or the exported graphs on ONNX Runtime.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svg_common.digits import digit_stream
from svg_export.graphs import fold_batch_norm
from svg_runtime.backends.onnxruntime.session import import_onnxruntime
from svg_runtime.forecast.noise import gaussian_sample
from svg_train.config import ModelConfig
from svg_train.model import SVG
from svg_train.recurrent import GaussianLSTM

FORECAST_STEPS = 10
SAMPLES = 3
PROVIDER = "CPUExecutionProvider"

Tensors = dict[str, NDArray[Any]]
GraphRunner = Callable[[str, Mapping[str, NDArray[Any]]], Tensors]
Trace = dict[str, list[NDArray[Any]]]


@dataclass(frozen=True)
class ProbeInputs:
    """Frames (n_past, 1, C, S, S) and noise, the same for all implementations."""

    frames: NDArray[np.float32]
    context_noise: NDArray[np.float32]  # (n_past - 1, SAMPLES, z_dim)
    noise: NDArray[np.float32]  # (FORECAST_STEPS, SAMPLES, z_dim)

    @classmethod
    def make(cls, config: ModelConfig) -> ProbeInputs:
        """Moving digits, which have edges as well as flat parts, and fixed noise."""
        rng, step = np.random.default_rng(0), digit_stream(0, 2, config.image_size)
        gray = np.stack([step() for _ in range(config.n_past)])[:, None, None]
        draw = [rng.standard_normal((n, SAMPLES, config.z_dim), np.float32) for n in (config.n_past - 1, FORECAST_STEPS)]
        return cls(np.repeat(gray, config.channels, axis=2), *draw)


@dataclass
class ReferenceLoop:
    """One run of the generation rule, which records a trace. States are carried on as in the runtime."""

    run_graph: GraphRunner
    config: ModelConfig
    trace: Trace = field(default_factory=lambda: defaultdict(list))
    states: dict[str, NDArray[Any]] = field(default_factory=dict)

    def run(self, inputs: ProbeInputs) -> Trace:
        """Observe all frames, forecast, and return every output of every graph as "phase.graph_name.tensor"."""
        # 1) encode the observed frames
        encoded = [self.call("observe", "encoder", frame=frame[None]) for frame in inputs.frames[:, 0]]
        conds = [self.call("observe", "skip", **_skips(entry)) for entry in encoded]
        # 2) read the context: the posterior sees each frame, prior and predictor the one before it
        for h_prev, h_now, eps in zip(encoded[:-1], encoded[1:], inputs.context_noise, strict=True):
            z = self.latent("observe", "posterior", h_now["h"], eps)
            if self.config.prior_layers:
                self.step("observe", "prior", h=_repeat_for_samples(h_prev["h"]))
            self.step("observe", "predictor", h=_repeat_for_samples(h_prev["h"]), **z)
        # 3) forecast in closed loop: every forecast frame is encoded again
        h, cond = encoded[-1]["h"], conds[-1 if self.config.last_frame_skip else -1 - self.config.skip_lag]
        for eps in inputs.noise:
            z = self.latent("forecast", "prior", h, eps)
            g = self.step("forecast", "predictor", h=_repeat_for_samples(h), **z)["g"]
            frame = self.call("forecast", "decoder", g=g, **cond)["frame"]
            entry = self.call("forecast", "encoder", frame=frame)
            h = entry["h"]
            if self.config.last_frame_skip:
                cond = self.call("forecast", "skip", **_skips(entry))
        return self.trace

    def latent(self, phase: str, graph_name: str, h: NDArray[Any], eps: NDArray[np.float32]) -> Tensors:
        """z as an input of the predictor: drawn from the posterior or prior of `h`, or from N(0, I); empty without latents."""
        if not self.config.z_dim:
            return {}
        if not getattr(self.config, f"{graph_name}_layers"):
            return {"z": eps}
        gaussian = self.step(phase, graph_name, h=_repeat_for_samples(h))
        return {"z": gaussian_sample(gaussian["mu"], gaussian["logvar"], eps)}

    def call(self, phase: str, graph_name: str, **inputs: NDArray[Any]) -> Tensors:
        """Run a stateless graph and record its outputs."""
        outputs = self.run_graph(graph_name, inputs)
        for name, value in outputs.items():
            if not name.startswith("_"):  # private to the implementation
                self.trace[f"{phase}.{graph_name}.{name}"].append(value)
        return outputs

    def step(self, phase: str, graph_name: str, **inputs: NDArray[Any]) -> Tensors:
        """Run a recurrent graph, carrying its state."""
        state = self.states.get(graph_name)
        if state is None:
            layers = getattr(self.config, f"{graph_name}_layers")
            state = np.zeros((2 * layers, SAMPLES, self.config.rnn_size), np.float32)
        outputs = self.call(phase, graph_name, **inputs, state=state)
        self.states[graph_name] = outputs["state_out"]
        return outputs


def run_fused(run_graph: GraphRunner, config: ModelConfig, inputs: ProbeInputs) -> Trace:
    """The same steps on the graphs prime and step.

    Returns:
        Their outputs under the names of the separate graphs that they must equal. Of the context only the last step is known.
    """
    trace: Trace = defaultdict(list)
    encoded = [run_graph("encoder", {"frame": frame[None]}) for frame in inputs.frames[:, 0]]
    lag = 0 if config.last_frame_skip else config.skip_lag
    h_seq, conds = np.stack([entry["h"] for entry in encoded]), run_graph("skip", _skips(encoded[-1 - lag]))
    if config.z_dim:
        primed = run_graph("prime", {"h_seq": h_seq, "eps": inputs.context_noise})
    else:
        primed = run_graph("prime", {"h_seq": np.repeat(h_seq, SAMPLES, axis=1)})
    for name, value in primed.items():
        part, tensor = name.split("_")
        trace[f"observe.{part}.{'state_out' if tensor == 'state' else tensor}"].append(value)
    states = {
        "h": _repeat_for_samples(h_seq[-1]),
        **{name: value for name, value in primed.items() if name.endswith("_state")},
        **conds,
    }
    for eps in inputs.noise:
        outputs = run_graph("step", {**states, **({"eps": eps} if config.z_dim else {})})
        states |= {name.removesuffix("_out"): value for name, value in outputs.items() if name.endswith("_out")}
        for name, value in outputs.items():
            trace[_separate_name(name)].append(value)
    return trace


def _separate_name(name: str) -> str:
    """The name of an output of the graph step in the trace of the separate graphs."""
    if name.startswith("cond_"):
        return f"forecast.skip.{name.removesuffix('_out')}"
    known = {
        "frame": "decoder.frame", "h_out": "encoder.h", "predictor_state_out": "predictor.state_out",
        "prior_state_out": "prior.state_out", "mu": "prior.mu", "logvar": "prior.logvar",
    }  # fmt: skip
    return f"forecast.{known[name]}"


class TorchGraphs:
    """The PyTorch model, unfolded, with the interface of the graphs: the truth that the exported graphs are compared with."""

    def __init__(self, model: SVG) -> None:
        self._model = model.eval()
        self._folded_decoder = fold_batch_norm(model).decoder

    @torch.no_grad()
    def __call__(self, graph_name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one graph on NumPy values."""
        dtype = next(self._model.parameters()).dtype
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(dtype) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in getattr(self, f"_{graph_name}")(tensors).items()}

    def _encoder(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        h, skips = self._model.encoder(t["frame"])
        return {"h": h, **{f"skip_{i}": skip for i, skip in enumerate(skips)}}

    def _skip(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Conditions as the graphs define them, scaled by the folded BatchNorm, and beside them the unfolded decoder's own."""
        skips = [t[f"skip_{i}"] for i in range(len(t))]
        folded, own = self._folded_decoder.condition(skips), self._model.decoder.condition(skips)
        return {f"cond_{i}": cond for i, cond in enumerate(folded)} | {f"_own_{i}": cond for i, cond in enumerate(own)}

    def _decoder(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = [t[f"_own_{i}"] for i in range(len(self._model.decoder.stages))]
        return {"frame": self._model.decoder(t["g"], own)}

    def _predictor(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        g, state = self._model.predictor.step(t["h"], t.get("z"), t["state"])
        return {"g": g, "state_out": state}

    def _posterior(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _gaussian(self._model.posterior, t)

    def _prior(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _gaussian(self._model.prior, t)


class OnnxGraphs:
    """Exported graphs on plain ONNX Runtime: what anyone can run in any language."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._sessions = {
            graph_name: onnxruntime.InferenceSession(content, options, providers=[PROVIDER])
            for graph_name, content in contents.items()
        }

    def __call__(self, graph_name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one graph on NumPy values."""
        session = self._sessions[graph_name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _gaussian(lstm: GaussianLSTM | None, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    assert lstm is not None  # only called for parts that the model has
    mu, logvar, state = lstm.step(t["h"], t["state"])
    return {"mu": mu, "logvar": logvar, "state_out": state}


def _skips(encoded: Tensors) -> Tensors:
    return {name: value for name, value in encoded.items() if name.startswith("skip_")}


def _repeat_for_samples(h: NDArray[Any]) -> NDArray[Any]:
    """Repeat one encoding for all samples; forecast frames already have one per sample."""
    return np.repeat(h, SAMPLES // len(h), axis=0)
