"""The forecast loop on the fused graphs: one run of `prime` reads the context, one run of `step` produces a frame.

Nothing is copied to the host between two steps: prior, predictor, decoder and encoder are one graph. The noise of all steps is
copied to the device before the first one, and all frames are copied back after the last.
"""

from __future__ import annotations

import numpy as np

from svg_runtime.backends.base import Backend, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior
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
        spec = variant.graphs["step"]
        frame = spec.tensor("frame")
        self._frames = backend.allocate_steps(horizon, frame.sized(samples), frame.dtype)
        z_shape = (samples, manifest.model.z_dim)
        self._eps = backend.allocate_steps(horizon, z_shape, "float32") if manifest.model.z_dim else None
        self._step = RecurrentGraph(
            backend=backend,
            graph_name="step",
            spec=spec,
            batch=samples,
            inputs=[self._inputs(observer.condition, step, manifest.generation.last_frame_skip) for step in range(horizon)],
            outputs=[{"frame": frame} for frame in self._frames.steps],
        )
        self._steps = backend.chain(self._step.bound)
        self._bind_prime(variant, samples)

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Run `prime`, which computes the posterior itself and writes the states into the buffers that the first step reads."""
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
        self._backend.write(self._step.state["h"], h)
        if self._eps is not None:
            self._backend.write(self._eps.whole, noise)
        self._steps.run()
        return futures_of(self._backend.read(self._frames.whole))

    def _inputs(self, condition: dict[str, Buffer], step: int, last_frame_skip: bool) -> dict[str, Buffer]:
        """Return the inputs of a step. With last_frame_skip, skip conditions are states from the second step on."""
        eps = {} if self._eps is None else {"eps": self._eps.steps[step]}
        return {**eps, **({} if last_frame_skip and step > 0 else condition)}

    def _bind_prime(self, variant: PrecisionVariant, samples: int) -> None:
        spec, allocate = variant.graphs["prime"], self._backend.allocate
        inputs = {tensor.name: allocate(tensor.shared(samples), tensor.dtype) for tensor in spec.inputs}
        self._h_seq = inputs["h_seq"]
        self._eps_past = inputs.get("eps")
        start = self._step.state
        states = {tensor.name: start[tensor.name] for tensor in spec.outputs if tensor.name in start}
        self._prime = self._backend.bind("prime", inputs, states)

    def _load(self, context: ContextPosterior, predictor: RecurrentGraph) -> None:
        """Start from the states of the stream: the predictor's, and the prior's if it is learned."""
        self._backend.copy(predictor.state["state"], self._step.state["predictor_state"])
        if "prior_state" in self._step.state:
            self._backend.write(self._step.state["prior_state"], context.prior_state["state"])
