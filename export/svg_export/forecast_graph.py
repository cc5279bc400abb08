"""The graph `forecast`: whole forecasts of many cameras without a state, composed of the exported graphs of the roles.

    encode    all observed frames of all cameras in one batch
    prime     reads the context; without it, `step` walks through the true frames
    step      once per forecast frame, with `decode` behind it where there is one
    surprise  KL(posterior || prior) of the last observed frame, where `prime` gives these Gaussians

No family is known here: the rule is that of `FusedRollout` in the runtime. Inside, a batch has a row for each sample of each
camera, all samples of the first camera before those of the next.

The steps are unrolled, and weights are stored once, so that a step costs a few kilobytes. Scans were tried instead: one that
holds its weights in its body is as fast on ONNX Runtime, but stores twice what other parts have as well; one that takes them
from the graph around it is slower there. OpenVINO 2026.4 refuses both where they read anything of that graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from svg_export.to_onnx import OPSET, read_interface, stamped
from svg_runtime.bundle.manifest import BATCH, FORECAST, SAMPLES, TensorSpec
from svg_train.families.base import FamilyConfig

_ROLES = ("encoder", "skip", "prime", "step", "decode")
_OPSET = helper.make_opsetid("", OPSET)
_IR_VERSION = 10  # that of the graphs it is composed of


def compose_forecast(
    contents: Mapping[str, bytes], states: Mapping[str, str], config: FamilyConfig, horizon: int, bundle_id: str
) -> bytes:
    """Return the ONNX file of the graph `forecast`.

    frames (B, n_past, C, H, W) in [0, 1], context_eps (B, context_draws, K, noise_dim), eps (B, horizon, K, noise_dim) ->
    futures (B, K, horizon, C, H, W) in [0, 1], surprise (B) in nats. B cameras and K samples are dynamic. A deterministic model
    has no noise and K = 1; a model whose `prime` gives no posterior has no surprise.

    Args:
        contents: the exported graphs of one variant, `step` among them.
        states: of `step`, input -> output.
        config: of the model.
        horizon: forecast frames.
        bundle_id: for the metadata.

    Raises:
        onnx.checker.ValidationError: the graphs do not fit each other.
    """
    roles = {name: _Role.of(name, contents[name]) for name in _ROLES if name in contents}
    return _Composer(roles, states, config, horizon).compose(bundle_id)


@dataclass(frozen=True)
class _Role:
    """An exported graph, with its interface."""

    name: str
    graph: GraphProto
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    @classmethod
    def of(cls, name: str, content: bytes) -> _Role:
        inputs, outputs, _ = read_interface(content)
        return cls(
            name=name,
            graph=onnx.load_from_string(content).graph,
            inputs={tensor.name: tensor for tensor in inputs},
            outputs={tensor.name: tensor for tensor in outputs},
        )

    def split(self, noise: str) -> tuple[_Role, _Role]:
        """The part that does not depend on the input `noise`, and the rest, whose other inputs are outputs of the first part.

        Where a value between them has not the batch as its only dynamic axis, the rest is all of it, and reads the inputs.
        """
        drawn, fixed = {noise}, self.inputs.keys() - {noise}
        nodes: tuple[list[NodeProto], list[NodeProto]] = ([], [])
        for node in self.graph.node:
            if drawn & set(node.input):
                drawn.update(node.output)
                nodes[1].append(node)
            else:
                nodes[0].append(node)
                if fixed & set(node.input):
                    fixed |= set(node.output)
                else:  # of constants alone, which both parts may need
                    nodes[1].append(node)
        results = [tensor.name for tensor in self.graph.output]
        between = dict.fromkeys(name for node in nodes[1] for name in node.input if name in fixed)
        specs = self._specs([*between, *(name for name in results if name in fixed)])
        if specs is None:
            nodes = [], list(self.graph.node)
            specs = {name: spec for name, spec in self.inputs.items() if name != noise}
        rest = [name for name in results if name not in specs]
        return self._part(nodes[0], self.inputs, list(specs), specs), self._part(nodes[1], specs, rest, self.outputs)

    def _part(
        self, nodes: list[NodeProto], inputs: dict[str, TensorSpec], results: list[str], specs: Mapping[str, TensorSpec]
    ) -> _Role:
        outputs = [ValueInfoProto(name=name) for name in results]
        graph = GraphProto(node=nodes, initializer=self.graph.initializer, output=outputs)
        return _Role(name=self.name, graph=graph, inputs=inputs, outputs={name: specs[name] for name in results})

    def _specs(self, names: Iterable[str]) -> dict[str, TensorSpec] | None:
        """The interface of inner values; None if one of them has not the batch as its only dynamic axis."""
        inferred = onnx.shape_inference.infer_shapes(helper.make_model(self.graph, opset_imports=[_OPSET])).graph
        types = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
        specs = {}
        for name in names:
            shape = tuple(dim.dim_value or BATCH for dim in types[name].shape.dim) if name in types else ()
            if shape.count(BATCH) != 1 or types[name].elem_type != TensorProto.FLOAT:
                return None
            specs[name] = TensorSpec.model_validate({"name": name, "dtype": "float32", "shape": shape})
        return specs


class _Builder:
    """Nodes and constants under construction. Constants of equal values are stored once."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
        self._weights: dict[str, dict[str, str]] = {}  # of each role, by their names there

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, values: NDArray[Any] | TensorProto) -> str:
        """Return the name of a constant."""
        tensor = values if isinstance(values, TensorProto) else numpy_helper.from_array(values)
        key = tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()
        if key not in self.constants:
            kept = TensorProto()
            kept.CopyFrom(tensor)
            kept.name = f"constant_{len(self.constants)}"
            self.constants[key] = kept
        return self.constants[key].name

    def sizes(self, *values: int | str) -> str:
        """Return a shape: numbers, -1, and names of tensors of one number."""
        if all(isinstance(value, int) for value in values):
            return self.constant(np.array(values, np.int64))
        parts = [self.constant(np.array([value], np.int64)) if isinstance(value, int) else value for value in values]
        return self.add("Concat", *parts, axis=0)

    def number(self, value: int) -> str:
        """Return the name of an index."""
        return self.constant(np.array(value, np.int64))

    def take(self, values: str, index: int, axis: int = 0) -> str:
        """One entry of an axis, which is gone then."""
        return self.add("Gather", values, self.number(index), axis=axis)

    def reshape(self, values: str, *sizes: int | str) -> str:
        """`values` in another shape."""
        return self.add("Reshape", values, self.sizes(*sizes))

    def call(self, role: _Role, given: Mapping[str, str]) -> dict[str, str]:
        """Append the nodes of a role's graph; returns its outputs by name."""
        names, prefix = dict(given), f"{role.name}_{len(self.nodes)}_"
        if role.name not in self._weights:
            self._weights[role.name] = {tensor.name: self.constant(tensor) for tensor in role.graph.initializer}
        names |= self._weights[role.name]
        for node in role.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            names |= {name: prefix + name for name in node.output if name}
            copy.name = prefix + node.name
            copy.input[:] = [names[name] if name else "" for name in node.input]
            copy.output[:] = [names[name] if name else "" for name in node.output]
            self.nodes.append(copy)
        return {tensor.name: names[tensor.name] for tensor in role.graph.output}


class _Composer:
    """See `compose_forecast`."""

    def __init__(self, roles: Mapping[str, _Role], states: Mapping[str, str], config: FamilyConfig, horizon: int) -> None:
        self._roles = roles
        self._states = states
        self._config = config
        self._horizon = horizon
        self._frame = config.channels, config.height, config.width
        self._b = _Builder()
        # The number of samples, as a tensor of one number. Without noise there is one future.
        self._samples = self._b.add("Shape", "eps", start=2, end=3) if config.noise_dim else None

    def compose(self, bundle_id: str) -> bytes:
        """Return the ONNX file."""
        # 1) encode the observed frames
        h_seq, condition = self._encode()
        # 2) read the context, and step into the future
        primed, of_cameras = self._prime(h_seq) if "prime" in self._roles else ({}, {})
        states = self._start(h_seq, {**condition, **primed}) if "prime" in self._roles else self._walk(h_seq)
        frames = self._step({**condition, **primed}, states)
        # 3) sort the frames by camera and sample
        results = {"futures": self._futures(frames)}
        if "prime" in self._roles and "posterior_mu" in self._roles["prime"].outputs:
            results["surprise"] = self._surprise(self._gaussians(h_seq, of_cameras))
        return self._finished(results, bundle_id)

    def _encode(self) -> tuple[str, dict[str, str]]:
        """h of all frames (n_past, cameras, ...), and the conditions of the skips, a row per sample."""
        b, n_past = self._b, self._config.n_past
        if "encoder" not in self._roles:
            return b.add("Transpose", "frames", perm=[1, 0, 2, 3, 4]), {}
        role = self._roles["encoder"]
        encoded = b.call(role, {"frame": b.reshape("frames", -1, *self._frame)})
        by_camera = {name: b.reshape(value, -1, n_past, *_sizes(role.outputs[name])) for name, value in encoded.items()}
        h = by_camera.pop("h")
        h_seq = b.add("Transpose", h, perm=[1, 0, *range(2, len(role.outputs["h"].shape) + 1)])
        if "skip" not in self._roles:
            return h_seq, {}
        skips = {name: b.take(value, n_past - 1 - self._lag, axis=1) for name, value in by_camera.items()}
        conds = b.call(self._roles["skip"], skips)
        return h_seq, {name: self._for_samples(value, self._roles["skip"].outputs[name]) for name, value in conds.items()}

    @property
    def _lag(self) -> int:
        """How many frames before the last one the skips come from; those that follow every frame come from the last one."""
        return 0 if getattr(self._config, "last_frame_skip", False) else int(getattr(self._config, "skip_lag", 0))

    def _for_samples(self, values: str, spec: TensorSpec) -> str:
        """Repeat the row of each camera for its samples."""
        if self._samples is None:
            return values
        b, axis = self._b, spec.batch_axis
        before, after = spec.sized(1)[:axis], spec.sized(1)[axis + 1 :]
        apart = b.add("Unsqueeze", values, b.sizes(axis + 1))
        repeated = b.add("Expand", apart, b.sizes(*[1] * (axis + 1), self._samples, *[1] * len(after)))
        return b.reshape(repeated, *before, -1, *after)

    def _prime(self, h_seq: str) -> tuple[dict[str, str], dict[str, str]]:
        """What `prime` gives at a row per sample; and what is the same for all samples, at a row per camera.

        What does not depend on the noise is computed once per camera, and repeated where it meets what does.
        """
        b, role = self._b, self._roles["prime"]
        if "eps" not in role.inputs:
            of_cameras = b.call(role, {"h_seq": h_seq})
            return {name: self._for_samples(value, role.outputs[name]) for name, value in of_cameras.items()}, of_cameras
        before, after = role.split("eps")
        of_cameras = b.call(before, {"h_seq": h_seq})
        read = {name for reader in (after, self._roles["step"], self._roles.get("decode")) if reader for name in reader.inputs}
        rows = {name: self._for_samples(value, before.outputs[name]) for name, value in of_cameras.items() if name in read}
        drawn = b.call(after, {**rows, "eps": self._noise("context_eps", self._config.context_draws)})
        given = {**rows, **drawn}
        return {name: given[name] for name in role.outputs if name in given}, of_cameras

    def _noise(self, name: str, steps: int) -> str:
        """(cameras, steps, samples, noise_dim) -> (steps, rows, noise_dim)."""
        b = self._b
        return b.reshape(b.add("Transpose", name, perm=[1, 0, 2, 3]), steps, -1, self._config.noise_dim)

    def _start(self, h_seq: str, known: Mapping[str, str]) -> dict[str, str]:
        """The states of `step` before its first frame."""
        if "h" not in self._states:
            return {name: known[name] for name in self._states}
        h = self._for_samples(self._b.take(h_seq, self._config.n_past - 1), self._roles["step"].inputs["h"])
        return {name: {**known, "h": h}[name] for name in self._states}

    def _walk(self, h_seq: str) -> dict[str, str]:
        """The same without `prime`: `step` reads the true frames from zeros."""
        b, role = self._b, self._roles["step"]
        cameras = b.add("Shape", "frames", start=0, end=1)
        states = {}
        for name in self._states:
            spec = role.inputs[name]
            zeros = b.constant(np.zeros(spec.sized(1), spec.dtype))
            states[name] = b.add(
                "Expand", zeros, b.sizes(*(cameras if axis == spec.batch_axis else 1 for axis in range(len(spec.shape))))
            )
        for index in range(self._config.n_past):
            states["h"] = b.take(h_seq, index)
            if index < self._config.n_past - 1:
                states = self._carried(b.call(role, states))
        return states

    def _carried(self, outputs: Mapping[str, str]) -> dict[str, str]:
        return {name: outputs[output] for name, output in self._states.items()}

    def _step(self, constants: Mapping[str, str], states: Mapping[str, str]) -> str:
        """(horizon, rows, C, H, W): a run of `step` per frame, each with its own noise, and of `decode`."""
        b, step, decode = self._b, self._roles["step"], self._roles.get("decode")
        eps = self._noise("eps", self._horizon) if self._config.noise_dim else None
        frames = []
        for index in range(self._horizon):
            known = {**constants, **states} if eps is None else {**constants, **states, "eps": b.take(eps, index)}
            outputs = b.call(step, {name: known[name] for name in step.inputs})
            states = self._carried(outputs)
            if decode is not None:
                known = {**constants, **outputs}
                outputs = b.call(decode, {name: known[name] for name in decode.inputs})
            frames.append(b.add("Unsqueeze", outputs["frame"], b.sizes(0)))
        return b.add("Concat", *frames, axis=0)

    def _futures(self, frames: str) -> str:
        """(horizon, rows, C, H, W) -> (cameras, samples, horizon, C, H, W)."""
        b, samples = self._b, 1 if self._samples is None else self._samples
        return b.add("Transpose", b.reshape(frames, self._horizon, -1, samples, *self._frame), perm=[1, 2, 0, 3, 4, 5])

    def _gaussians(self, h_seq: str, of_cameras: Mapping[str, str]) -> dict[str, str]:
        """Posterior and prior of the latents that led to the last observed frame, a row per camera.

        A prior that depends on the latents before is taken at their means, as the runtime does.
        """
        b, role = self._b, self._roles["prime"]
        names = [f"{part}_{what}" for part in ("posterior", "prior") for what in ("mu", "logvar")]
        given = [name for name in names if name in role.outputs]
        if of_cameras.keys() >= set(given):
            return {name: of_cameras[name] for name in given}
        noise = self._config.context_draws, b.add("Shape", "frames", start=0, end=1), self._config.noise_dim
        means = b.add("Expand", b.constant(np.zeros(1, np.float32)), b.sizes(*noise))
        outputs = b.call(role, {"h_seq": h_seq, "eps": means})
        return {name: outputs[name] for name in given}

    def _surprise(self, gaussians: Mapping[str, str]) -> str:
        """KL(posterior || prior) in nats (cameras,); without a learned prior it is N(0, I)."""
        b = self._b
        flat = {name: b.add("Flatten", value, axis=1) for name, value in gaussians.items()}
        distance, ratio = flat["posterior_mu"], flat["posterior_logvar"]
        square = b.add("Mul", distance, distance)
        if "prior_mu" in flat:
            distance, ratio = b.add("Sub", distance, flat["prior_mu"]), b.add("Sub", ratio, flat["prior_logvar"])
            square = b.add("Div", b.add("Mul", distance, distance), b.add("Exp", flat["prior_logvar"]))
        one, half = (b.constant(np.array(value, np.float32)) for value in (1, 0.5))
        terms = b.add("Sub", b.add("Add", b.add("Exp", ratio), square), b.add("Add", ratio, one))
        return b.add("Mul", b.add("ReduceSum", terms, b.sizes(1), keepdims=0), half)

    def _finished(self, results: Mapping[str, str], bundle_id: str) -> bytes:
        b, c = self._b, self._config
        inputs: dict[str, list[int | str]] = {"frames": [BATCH, c.n_past, *self._frame]}
        if c.noise_dim and c.context_draws:
            inputs["context_eps"] = [BATCH, c.context_draws, SAMPLES, c.noise_dim]
        if c.noise_dim:
            inputs["eps"] = [BATCH, self._horizon, SAMPLES, c.noise_dim]
        outputs: dict[str, list[int | str]] = {
            "futures": [BATCH, SAMPLES if c.noise_dim else 1, self._horizon, *self._frame],
            "surprise": [BATCH],
        }
        for name, value in results.items():
            b.nodes.append(helper.make_node("Identity", [value], [name], name=f"node_{name}"))
        graph = helper.make_graph(
            nodes=b.nodes,
            name="main",
            inputs=[_value(name, shape) for name, shape in inputs.items()],
            outputs=[_value(name, outputs[name]) for name in results],
            initializer=list(b.constants.values()),
        )
        return stamped(helper.make_model(graph, opset_imports=[_OPSET], ir_version=_IR_VERSION), FORECAST, bundle_id)


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    """All but the batch, which is the first axis."""
    return spec.sized(1)[1:]


def _value(name: str, shape: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
