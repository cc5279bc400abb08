"""The forecast loop on the fused graphs: one run of `prime` reads the context, one run of `step` gives a frame.

Nothing comes to the host between two steps: prior, predictor, decoder and encoder are one graph, the noise of all steps goes to
the device before the first one, and their frames come back after the last.
"""

from __future__ import annotations

import numpy as np

from svg_runtime.backends.base import Backend, Buffer, Plan
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.separate_rollout import futures_of
from svg_runtime.forecast.states import RecurrentGraph, State


class FusedRollout:
    """Buffers and plans for `samples` futures of `horizon` frames on the graphs `prime` and `step`."""

    def __init__(
        self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, observer: Observer, samples: int, horizon: int
    ) -> None:
        self._backend = backend
        spec = variant.graphs["step"]
        tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self._frames = backend.allocate_steps(horizon, tensors["frame"].sized(samples), "float32")
        self._eps = backend.allocate_steps(horizon, tensors["eps"].sized(samples), "float32") if "eps" in tensors else None
        # Every state has two buffers: a step reads one and writes the other, so that inputs never alias outputs.
        self._states = {state.input: state.output for state in spec.states}
        self._buffers = [
            {name: backend.allocate(tensors[name].sized(samples), tensors[name].dtype) for name in self._states}
            for _ in range(2)
        ]
        self._steps = backend.chain([self._step_plan(observer.condition, step) for step in range(horizon)])
        self._bind_prime(variant, samples)

    def _bind_prime(self, variant: PrecisionVariant, samples: int) -> None:
        """`prime` writes the states straight to where the first step reads them."""
        spec, allocate = variant.graphs["prime"], self._backend.allocate
        inputs = {tensor.name: allocate(tensor.shared(samples), tensor.dtype) for tensor in spec.inputs}
        self._h_seq, self._eps_past = inputs["h_seq"], inputs.get("eps")
        states = {tensor.name: self._buffers[0][tensor.name] for tensor in spec.outputs if tensor.name in self._states}
        self._prime = self._backend.bind("prime", inputs, states)

    def _step_plan(self, condition: dict[str, Buffer], step: int) -> Plan:
        """Skip conditions come from the observed frame; with last_frame_skip they are states after the first step."""
        now, then = self._buffers[step % 2], self._buffers[1 - step % 2]
        inputs = {**condition, **now, **(condition if step == 0 else {})}
        if self._eps is not None:
            inputs["eps"] = self._eps.parts[step]
        outputs = {"frame": self._frames.parts[step], **{output: then[name] for name, output in self._states.items()}}
        return self._backend.bind("step", inputs, outputs)

    def read_context(self, encodings: list[FloatArray], context_posterior: ContextPosterior, noise: FloatArray) -> None:
        """Bring prior and predictor from their initial states through the context; `prime` finds the posterior itself."""
        self._backend.write(self._h_seq, np.stack(encodings))
        if self._eps_past is not None:
            self._backend.write(self._eps_past, noise)
        self._backend.run(self._prime)

    def forecast(
        self, h: FloatArray, context_posterior: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Sample the futures that follow the encoding `h` (1, g_dim) of the last observed frame.

        Args:
            h: encoding of the last observed frame.
            context_posterior: of the context; read only with `branch_from`, for the prior's state.
            noise: (horizon, samples, z_dim) of the prior.
            branch_from: predictor that carries its state from frame to frame; it is left as it is.

        Returns:
            (samples, horizon, H, W, C) float32.
        """
        if branch_from is not None:
            self._load(context_posterior.prior_state, branch_from)
        self._backend.write(self._buffers[0]["h"], h)
        if self._eps is not None:
            self._backend.write(self._eps.whole, noise)
        self._backend.run(self._steps)
        return futures_of(self._backend.read(self._frames.whole))

    def _load(self, prior_state: State, predictor: RecurrentGraph) -> None:
        self._backend.copy(predictor.state["state"], self._buffers[0]["predictor_state"])
        if "prior_state" in self._states:
            self._backend.write(self._buffers[0]["prior_state"], prior_state["state"])
