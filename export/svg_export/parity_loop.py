"""The closed loops of the parity gate: the same frames and noise through any implementation of the graphs.

A run has n_past observed and FORECAST_STEPS forecast frames, by the generation rule: on the separate graphs, or over the roles
`prime`, `step` and `decode`. It takes anything that maps (graph name, inputs) to outputs: the modules that were exported, in
PyTorch, or the exported graphs on ONNX Runtime.

A run is a generator: it yields the outputs of each run of a graph and keeps only what comes next needs. So several
implementations run in step and are compared as they go: the states of a large model would fill the memory in a few steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svg_export.drawn_frames import digit_frames
from svg_export.graph_export import GraphExport
from svg_runtime.backends.onnxruntime.session import import_onnxruntime, session_options
from svg_runtime.forecast.noise import gaussian_sample
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import VideoModel

FORECAST_STEPS = 10
SAMPLES = 3
PROVIDER = "CPUExecutionProvider"

Tensors = dict[str, NDArray[Any]]
GraphRunner = Callable[[str, Mapping[str, NDArray[Any]]], Tensors]
Trace = dict[str, list[NDArray[Any]]]
Recorded = tuple[str, Tensors]  # "phase.graph_name", and the outputs of one run of that graph
Run = Generator[Recorded, None, None]
Called = Generator[Recorded, None, Tensors]
Exports = Mapping[str, GraphExport]


@dataclass(frozen=True)
class ProbeInputs:
    """Frames (n_past, 1, C, H, W) and noise, the same for all implementations."""

    frames: NDArray[np.float32]
    context_noise: NDArray[np.float32]  # (context_draws, SAMPLES, noise_dim)
    noise: NDArray[np.float32]  # (FORECAST_STEPS, SAMPLES, noise_dim)

    @classmethod
    def make(cls, config: FamilyConfig) -> ProbeInputs:
        """Moving digits, which have edges as well as flat parts, and fixed noise."""
        rng = np.random.default_rng(0)
        gray = digit_frames(0, config.n_past, config.height, config.width)[:, None, None]
        steps = (config.context_draws, FORECAST_STEPS)
        draw = [rng.standard_normal((n, SAMPLES, config.noise_dim), np.float32) for n in steps]
        return cls(np.repeat(gray, config.channels, axis=2), *draw)


def generated(model: VideoModel, inputs: ProbeInputs) -> list[NDArray[Any]]:
    """The frames that the network itself forecasts, by step, each (SAMPLES, C, H, W)."""
    return [frame.numpy() for frame in model.eval().generate(*_for_network(inputs))]


def network_latents(model: VideoModel, inputs: ProbeInputs) -> Trace:
    """The Gaussians that the network itself has, by the names of `Latents`: one entry of what is observed, one per step."""
    latents = model.eval().latents(*_for_network(inputs))
    known = {} if latents is None else {name: value for name, value in latents._asdict().items() if value is not None}
    return {name: list(value.numpy()) if name in ("mu", "logvar") else [value.numpy()] for name, value in known.items()}


def _for_network(inputs: ProbeInputs) -> list[torch.Tensor]:
    """x, noise and context_noise of `VideoModel.generate`, with the frames repeated for all samples."""
    frames = np.repeat(inputs.frames, SAMPLES, axis=1)
    return [torch.from_numpy(values) for values in (frames, inputs.noise, inputs.context_noise)]


@dataclass
class _Loop:
    """One run. States are carried on as in the runtime."""

    run_graph: GraphRunner
    exports: Exports
    config: FamilyConfig
    states: dict[str, Tensors] = field(default_factory=dict)

    def call(self, phase: str, graph_name: str, **inputs: NDArray[Any]) -> Called:
        """Run a graph, yield its outputs to whoever compares them, and return them."""
        outputs = self.run_graph(graph_name, inputs)
        yield f"{phase}.{graph_name}", outputs
        return outputs

    def step(self, phase: str, graph_name: str, **inputs: NDArray[Any]) -> Called:
        """Run a recurrent graph, carrying its states, which start as zeros."""
        export = self.exports[graph_name]
        if graph_name not in self.states:
            self.states[graph_name] = {name: value.numpy() for name, value in export.initial_states(SAMPLES).items()}
        outputs = yield from self.call(phase, graph_name, **{**self.states[graph_name], **inputs})
        self.states[graph_name] = {name: outputs[output] for name, output in export.states.items()}
        return outputs

    def condition(self, phase: str, encoded: Tensors) -> Called:
        """The skip conditions of an encoded frame; none in a model without skips."""
        if "skip" not in self.exports:
            return {}
        skips = {name: value for name, value in encoded.items() if name.startswith("skip_")}
        return (yield from self.call(phase, "skip", **skips))

    @property
    def lag(self) -> int:
        """How many frames before the last one the skips come from."""
        return 0 if self.follows else int(getattr(self.config, "skip_lag", 0))

    @property
    def follows(self) -> bool:
        """Whether the skips follow every frame."""
        return bool(getattr(self.config, "last_frame_skip", False))


class SeparateLoop(_Loop):
    """The generation rule on the separate graphs."""

    def run(self, inputs: ProbeInputs) -> Run:
        """Observe all frames, forecast, and yield what every run of a graph gives."""
        # 1) encode the observed frames
        encoded, conds = [], []
        for frame in inputs.frames[:, 0]:
            encoded.append((yield from self.call("observe", "encoder", frame=frame[None])))
            conds.append((yield from self.condition("observe", encoded[-1])))
        # 2) read the context: the posterior sees each frame, prior and predictor the one before it
        for h_prev, h_now, eps in zip(encoded[:-1], encoded[1:], inputs.context_noise, strict=True):
            z = yield from self.latent("observe", "posterior", h_now["h"], eps)
            if "prior" in self.exports:
                yield from self.step("observe", "prior", h=_repeat_for_samples(h_prev["h"]))
            yield from self.step("observe", "predictor", h=_repeat_for_samples(h_prev["h"]), **z)
        # 3) forecast in closed loop: every forecast frame is encoded again
        h, cond = encoded[-1]["h"], conds[-1 - self.lag]
        for eps in inputs.noise:
            z = yield from self.latent("forecast", "prior", h, eps)
            predicted = yield from self.step("forecast", "predictor", h=_repeat_for_samples(h), **z)
            decoded = yield from self.call("forecast", "decoder", g=predicted["g"], **cond)
            entry = yield from self.call("forecast", "encoder", frame=decoded["frame"])
            h = entry["h"]
            if self.follows:
                cond = yield from self.condition("forecast", entry)

    def latent(self, phase: str, graph_name: str, h: NDArray[Any], eps: NDArray[np.float32]) -> Called:
        """z as an input of the predictor: drawn from the posterior or prior of `h`, or from N(0, I); empty without latents."""
        if not self.config.noise_dim:
            return {}
        if graph_name not in self.exports:
            return {"z": eps}
        gaussian = yield from self.step(phase, graph_name, h=_repeat_for_samples(h))
        return {"z": gaussian_sample(gaussian["mu"], gaussian["logvar"], eps)}


class RoleLoop(_Loop):
    """The generation rule over the roles prime, step and decode."""

    def run(self, inputs: ProbeInputs) -> Run:
        """Observe all frames, forecast, and yield what every run of these graphs gives."""
        # 1) read the context at once, or step through it where there is no prime
        fixed: Tensors = {}
        if "prime" in self.exports:
            fixed = yield from self.prime(inputs)
        else:
            yield from self.walk(inputs)
        # 2) step from the last frame into the future
        step = self.exports["step"]
        kept = self.exports["decode"].inputs if "decode" in self.exports else ()
        latents: dict[str, list[NDArray[Any]]] = defaultdict(list)
        for eps in inputs.noise:
            given = {name: value for name, value in {**fixed, "eps": eps}.items() if name in step.inputs}
            carried = self.states["step"]
            outputs = yield from self.step(
                "forecast", "step", **{name: value for name, value in given.items() if name not in carried}
            )
            for name in outputs.keys() & kept:
                latents[name].append(outputs[name])
        # 3) decode all steps at once
        if "decode" in self.exports:
            yield from self.decode(fixed, latents)

    def prime(self, inputs: ProbeInputs) -> Called:
        """Set the states at the start of the forecast, and return what stays the same during it."""
        encoded = [self.encode(frame[None]) for frame in inputs.frames[:, 0]]
        last = encoded[-1 - self.lag]
        conds = {} if "skip" not in self.exports else self.run_graph("skip", {k: v for k, v in last.items() if k != "h"})
        h_seq = np.stack([entry["h"] for entry in encoded])
        if "eps" in self.exports["prime"].inputs:
            primed = yield from self.call("observe", "prime", h_seq=h_seq, eps=inputs.context_noise)
        else:
            primed = yield from self.call("observe", "prime", h_seq=np.repeat(h_seq, SAMPLES, axis=1))
        known = {**conds, **primed, "h": _repeat_for_samples(h_seq[-1])}
        self.states["step"] = {name: known[name] for name in self.exports["step"].states}
        return {**conds, **primed}

    def encode(self, frame: NDArray[Any]) -> Tensors:
        """The encoding of a frame and its skips; without encoder it is its own encoding."""
        return self.run_graph("encoder", {"frame": frame}) if "encoder" in self.exports else {"h": frame}

    def walk(self, inputs: ProbeInputs) -> Run:
        """Set the states before the last observed frame, and that frame as h."""
        frames = [np.repeat(frame, SAMPLES, axis=0) for frame in inputs.frames]
        for frame in frames[:-1]:
            yield from self.step("observe", "step", h=frame)
        self.states["step"]["h"] = frames[-1]

    def decode(self, fixed: Tensors, latents: Mapping[str, list[NDArray[Any]]]) -> Run:
        """The frames of all steps."""
        given = {name: latents[name] if name in latents else fixed[name] for name in self.exports["decode"].inputs}
        flat = {name: np.concatenate(value) if isinstance(value, list) else value for name, value in given.items()}
        frames = self.run_graph("decode", flat)["frame"]
        for frame in frames.reshape(FORECAST_STEPS, SAMPLES, *frames.shape[1:]):
            yield "forecast.decode", {"frame": frame}


def in_step(
    loop: type[SeparateLoop | RoleLoop],
    implementations: Sequence[GraphRunner],
    exports: Exports,
    config: FamilyConfig,
    inputs: ProbeInputs,
) -> Iterator[tuple[str, list[Tensors]]]:
    """Run a loop on several implementations at once: "phase.graph_name", and the outputs of this run in each of them."""
    runs = [loop(run_graph, exports, config).run(inputs) for run_graph in implementations]
    for recorded in zip(*runs, strict=True):
        yield recorded[0][0], [outputs for _, outputs in recorded]


def separate_name(name: str) -> str:
    """The name among the separate graphs' outputs of what "phase.graph_name.tensor" of `prime` or `step` must equal."""
    phase, graph_name, tensor = name.split(".")
    if graph_name == "prime":
        part, _, what = tensor.rpartition("_")
        return f"{phase}.{part}.{'state_out' if what == 'state' else what}"
    if tensor.startswith("cond_"):
        return f"{phase}.skip.{tensor.removesuffix('_out')}"
    return f"{phase}.{_OF_STEP[tensor]}"


_OF_STEP = {
    "frame": "decoder.frame", "h_out": "encoder.h", "predictor_state_out": "predictor.state_out",
    "prior_state_out": "prior.state_out", "mu": "prior.mu", "logvar": "prior.logvar",
}  # fmt: skip


class TorchGraphs:
    """The modules that were exported, in PyTorch.

    Args:
        exports: the graphs by name.
        dtype: of the modules, float32 or float64.
    """

    def __init__(self, exports: Exports, dtype: torch.dtype = torch.float32) -> None:
        self._exports = exports
        self._dtype = dtype

    def __call__(self, graph_name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one graph on NumPy values."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(self._dtype) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self._exports[graph_name].run(tensors).items()}


class OnnxGraphs:
    """Exported graphs on plain ONNX Runtime: what anyone can run in any language."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        onnxruntime = import_onnxruntime()
        options = session_options(onnxruntime, torch.get_num_threads())  # which svg-train --threads sets
        self._sessions = {
            graph_name: onnxruntime.InferenceSession(content, options, providers=[PROVIDER])
            for graph_name, content in contents.items()
        }

    def inputs(self, graph_name: str) -> list[str]:
        """Names of a graph's inputs."""
        return [tensor.name for tensor in self._sessions[graph_name].get_inputs()]

    def __call__(self, graph_name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one graph on NumPy values."""
        session = self._sessions[graph_name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _repeat_for_samples(h: NDArray[Any]) -> NDArray[Any]:
    """Repeat one encoding for all samples; forecast frames already have one per sample."""
    return np.repeat(h, SAMPLES // len(h), axis=0)
