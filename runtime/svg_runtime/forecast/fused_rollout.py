"""The forecast loop over roles: `prime` reads the context, `step` makes a frame, or a latent that `decode` makes a frame of.

Nothing is copied to the host between two steps. The noise of all steps is copied to the device before the first one, and all
frames are copied back after the last. Where a model has latents to decode, that is done after the last step, too.
"""

from __future__ import annotations

import numpy as np

from svg_runtime.backends.base import Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant, TensorSpec
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.frame_decoder import FrameDecoder
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.rollout import futures_of
from svg_runtime.forecast.states import RecurrentGraph


class FusedRollout:
    """`samples` futures of `horizon` frames; the methods of `Rollout` are described there."""

    def __init__(
        self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, observer: Observer, samples: int, horizon: int
    ) -> None:
        self._backend = backend
        self._graphs = variant.graphs
        self._samples = samples
        self._horizon = horizon
        spec = variant.graphs["step"]
        noise = [tensor for tensor in spec.inputs if tensor.name == "eps"]
        self._eps = backend.allocate_steps(horizon, noise[0].sized(samples), noise[0].dtype) if noise else None
        # 1) what stays the same during a forecast: skip conditions, and what `prime` computes beside states
        states = {state.input for state in spec.states}
        primed = [tensor for tensor in self._outputs("prime") if tensor.name not in states and self._is_read(tensor.name)]
        self._constants = {tensor.name: backend.allocate(tensor.shared(samples), tensor.dtype) for tensor in primed}
        fixed = {**observer.condition, **self._constants}
        # 2) the steps, each with its own noise and its own output
        decoded = {tensor.name for tensor in variant.graphs["decode"].inputs} if "decode" in variant.graphs else {"frame"}
        self._shown = {
            tensor.name: backend.allocate_steps(horizon, tensor.sized(samples), tensor.dtype)
            for tensor in spec.outputs
            if tensor.name in decoded
        }
        self._step = RecurrentGraph(
            backend=backend,
            graph_name="step",
            spec=spec,
            batch=samples,
            inputs=[self._inputs(fixed, step) for step in range(horizon)],
            outputs=[{name: buffers.steps[step] for name, buffers in self._shown.items()} for step in range(horizon)],
        )
        self._steps = backend.chain(self._step.bound)
        # 3) what comes before and after them
        self._prime = self._bind_prime() if "prime" in variant.graphs else None
        self._decoder = self._make_decoder(fixed) if "decode" in variant.graphs else None

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Run `prime`, which computes the posterior itself and writes the states into the buffers that the first step reads."""
        assert self._prime is not None
        self._backend.write(self._h_seq, np.stack(encodings))
        if self._eps_past is not None:
            self._backend.write(self._eps_past, noise)
        self._prime.run()

    def forecast(
        self, h: FloatArray, context: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Run all steps as one chain."""
        if branch_from is not None:
            self._load(context, branch_from)
        if "h" in self._step.state:
            self._backend.write(self._step.state["h"], h)
        if self._eps is not None:
            self._backend.write(self._eps.whole, noise)
        self._steps.run()
        shown = self._backend.read(self._shown["frame"].whole) if self._decoder is None else self._decoder.run()
        return futures_of(shown)

    def _outputs(self, graph_name: str) -> tuple[TensorSpec, ...]:
        return self._graphs[graph_name].outputs if graph_name in self._graphs else ()

    def _is_read(self, name: str) -> bool:
        """Whether step or decode has an input of this name."""
        specs = [self._graphs[graph_name] for graph_name in ("step", "decode") if graph_name in self._graphs]
        return any(name == tensor.name for spec in specs for tensor in spec.inputs)

    def _inputs(self, fixed: dict[str, Buffer], step: int) -> dict[str, Buffer]:
        """Return the inputs of a step. Skip conditions that are states are given to the first step and then carried."""
        spec = self._graphs["step"]
        carried = {state.input for state in spec.states} if step else set()
        constants = {name: buffer for name, buffer in fixed.items() if name not in carried}
        eps = {} if self._eps is None else {"eps": self._eps.steps[step]}
        return {**eps, **{tensor.name: constants[tensor.name] for tensor in spec.inputs if tensor.name in constants}}

    def _bind_prime(self) -> BoundGraph:
        spec, allocate = self._graphs["prime"], self._backend.allocate
        inputs = {tensor.name: allocate(tensor.shared(self._samples), tensor.dtype) for tensor in spec.inputs}
        self._h_seq = inputs["h_seq"]
        self._eps_past = inputs.get("eps")
        start = self._step.state
        states = {tensor.name: start[tensor.name] for tensor in spec.outputs if tensor.name in start}
        return self._backend.bind("prime", inputs, {**states, **self._constants})

    def _make_decoder(self, fixed: dict[str, Buffer]) -> FrameDecoder:
        spec = self._graphs["decode"]
        names = {tensor.name for tensor in spec.inputs}
        return FrameDecoder(
            backend=self._backend,
            spec=spec,
            latents=self._shown,
            constants={name: buffer for name, buffer in fixed.items() if name in names},
            horizon=self._horizon,
            samples=self._samples,
        )

    def _load(self, context: ContextPosterior, predictor: RecurrentGraph) -> None:
        """Start from states that have read the context: of the same graph, or of SVG's separate predictor and prior."""
        for name, buffer in self._step.state.items():
            if name in predictor.state:
                self._backend.copy(predictor.state[name], buffer)
        if "predictor_state" in self._step.state:
            self._backend.copy(predictor.state["state"], self._step.state["predictor_state"])
        if "prior_state" in self._step.state:
            self._backend.write(self._step.state["prior_state"], context.prior_state["state"])
