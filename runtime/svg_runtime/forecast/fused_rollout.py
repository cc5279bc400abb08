"""The forecast loop over roles: `prime` reads the context, `step` makes a frame, or a latent that `decode` makes a frame of.

Nothing is copied to the host between two steps. The noise of all steps is copied to the device before the first one, and all
frames are copied back after the last. Where a model has latents to decode, that is done after the last step, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from svg_runtime.backends.base import Array, Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant, TensorSpec
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.frame_decoder import FrameDecoder
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.rollout import futures_of, spread
from svg_runtime.forecast.states import RecurrentGraph, joined


@dataclass(frozen=True)
class _Prime:
    """The graph `prime`, bound for some cameras in a row."""

    camera_numbers: range
    h_seq: Buffer
    eps: Buffer | None
    graph: BoundGraph
    outputs: Mapping[str, Buffer]


class FusedRollout:
    """`samples` futures of `horizon` frames for each camera; the methods of `Rollout` are described there.

    Several cameras are one batch for `step`. For `prime` they are one where it reads encodings, which are short; where it reads
    the frames themselves, each camera has its own run, which reads them once and not once per sample: in one run for all, the
    batch of frames would have to be that of the noise.

    Args:
        backend: the device.
        manifest: of the bundle.
        variant: the graphs.
        condition: the skip conditions of the only camera, at batch 1; None for several, whose conditions are copied.
        samples: futures of each camera.
        horizon: frames per future.
        camera_count: how many are forecast together.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        variant: PrecisionVariant,
        condition: Mapping[str, Buffer] | None,
        samples: int,
        horizon: int,
        camera_count: int = 1,
    ) -> None:
        self._backend = backend
        self._graphs = variant.graphs
        self._samples = samples
        self._camera_count = camera_count
        self._rows = camera_count * samples
        self._horizon = horizon
        spec = variant.graphs["step"]
        noise = [tensor for tensor in spec.inputs if tensor.name == "eps"]
        self._eps = backend.allocate_steps(horizon, noise[0].sized(self._rows), noise[0].dtype) if noise else None
        # 1) what stays the same during a forecast: skip conditions, and what `prime` computes beside states
        states = {state.input for state in spec.states}
        self._primed = [tensor for tensor in self._outputs("prime") if tensor.name not in states and self._is_read(tensor.name)]
        self._conditions = [tensor for tensor in self._outputs("skip") if self._is_read(tensor.name)]
        stepped, decoded_each = self._bind_constants(condition)
        self._stepped = stepped  # for all rows
        self._decoded = decoded_each  # of each camera, at batch 1
        # 2) the steps, each with its own noise and its own output
        decoded = {tensor.name for tensor in variant.graphs["decode"].inputs} if "decode" in variant.graphs else {"frame"}
        self._shown = {
            tensor.name: backend.allocate_steps(horizon, tensor.sized(self._rows), tensor.dtype)
            for tensor in spec.outputs
            if tensor.name in decoded
        }
        self._step = RecurrentGraph(
            backend=backend,
            graph_name="step",
            spec=spec,
            batch=self._rows,
            inputs=[self._inputs(step) for step in range(horizon)],
            outputs=[{name: buffers.steps[step] for name, buffers in self._shown.items()} for step in range(horizon)],
        )
        self._steps = backend.chain(self._step.bound)
        # 3) what comes before and after them
        self._primes = self._bind_primes() if "prime" in variant.graphs else []
        self._decoder = self._make_decoder() if "decode" in variant.graphs else None

    def use_conditions(self, conditions: Sequence[Mapping[str, Buffer]]) -> None:
        """Copy them: for `step` once for each sample, for `decode` once."""
        for tensor in self._conditions:
            buffers = [condition[tensor.name] for condition in conditions]
            if tensor.name in self._stepped:
                self._gather(tensor, [buffer for buffer in buffers for _ in range(self._samples)], self._stepped[tensor.name])
            for buffer, constants in zip(buffers, self._decoded, strict=True):
                if tensor.name in constants:
                    self._backend.copy(buffer, constants[tensor.name])

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Run `prime`, which computes the posterior itself and writes the states into the buffers that the first step reads."""
        h_seq = np.stack(encodings)
        for prime in self._primes:
            first, last = prime.camera_numbers.start, prime.camera_numbers.stop
            self._backend.write(prime.h_seq, spread(h_seq[:, first:last], self._samples, axis=1))
            if prime.eps is not None:
                self._backend.write(prime.eps, noise[:, first * self._samples : last * self._samples])
            prime.graph.run()
        if self._camera_count > 1:
            self._pass_on()

    def forecast(
        self, h: FloatArray, context: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Run all steps as one chain."""
        if branch_from is not None:
            self._load(context, branch_from)
        if "h" in self._step.state:
            self._backend.write(self._step.state["h"], spread(h, self._samples))
        if self._eps is not None:
            self._backend.write(self._eps.whole, noise)
        self._steps.run()
        return futures_of(self._backend.read(self._shown["frame"].whole)) if self._decoder is None else self._decoder.run()

    def _outputs(self, graph_name: str) -> tuple[TensorSpec, ...]:
        return self._graphs[graph_name].outputs if graph_name in self._graphs else ()

    def _is_read(self, name: str, by: Sequence[str] = ("step", "decode")) -> bool:
        """Whether a graph has an input of this name."""
        specs = [self._graphs[graph_name] for graph_name in by if graph_name in self._graphs]
        return any(name == tensor.name for spec in specs for tensor in spec.inputs)

    @property
    def _primes_each(self) -> bool:
        """Whether `prime` is run for each camera."""
        return self._camera_count > 1 and "encoder" not in self._graphs

    def _bind_constants(self, condition: Mapping[str, Buffer] | None) -> tuple[dict[str, Buffer], list[dict[str, Buffer]]]:
        """Return the buffers of conditions and primed constants: those that `step` reads, and each camera's for `decode`."""
        allocate = self._backend.allocate
        if condition is not None:
            primed = {tensor.name: allocate(tensor.shared(self._samples), tensor.dtype) for tensor in self._primed}
            constants = {**condition, **primed}
            return constants, [constants]
        together = [] if self._primes_each else self._primed  # prime writes them for all, also if only decode reads them
        stepped = {
            tensor.name: allocate(tensor.sized(self._rows), tensor.dtype)
            for tensor in (*self._conditions, *self._primed)
            if tensor in together or self._is_read(tensor.name, by=["step"])
        }
        decoded = [
            {
                tensor.name: allocate(tensor.sized(1), tensor.dtype)
                for tensor in (*self._conditions, *self._primed)
                if self._is_read(tensor.name, by=["decode"])
            }
            for _ in range(self._camera_count)
        ]
        return stepped, decoded

    def _inputs(self, step: int) -> dict[str, Buffer]:
        """Return the inputs of a step. Skip conditions that are states are given to the first step and then carried."""
        spec = self._graphs["step"]
        carried = {state.input for state in spec.states} if step else set()
        constants = {name: buffer for name, buffer in self._stepped.items() if name not in carried}
        eps = {} if self._eps is None else {"eps": self._eps.steps[step]}
        return {**eps, **{tensor.name: constants[tensor.name] for tensor in spec.inputs if tensor.name in constants}}

    def _bind_primes(self) -> list[_Prime]:
        start, primed = self._step.state, {tensor.name for tensor in self._primed}
        names = [tensor.name for tensor in self._outputs("prime") if tensor.name in start or tensor.name in primed]
        everyone = range(self._camera_count)
        if self._primes_each:
            return [self._bind_prime(range(camera, camera + 1), self._own(names, camera)) for camera in everyone]
        return [self._bind_prime(everyone, {name: (start if name in start else self._stepped)[name] for name in names})]

    def _bind_prime(self, camera_numbers: range, outputs: Mapping[str, Buffer]) -> _Prime:
        count = len(camera_numbers)
        rows = count * self._samples
        inputs = {
            tensor.name: self._backend.allocate(tensor.shared(rows) if count == 1 else tensor.sized(rows), tensor.dtype)
            for tensor in self._graphs["prime"].inputs
        }
        graph = self._backend.bind("prime", inputs, outputs)
        return _Prime(camera_numbers=camera_numbers, h_seq=inputs["h_seq"], eps=inputs.get("eps"), graph=graph, outputs=outputs)

    def _own(self, names: Sequence[str], camera: int) -> dict[str, Buffer]:
        """Return the outputs of one camera's run: what only `decode` reads is written where that reads it."""
        own = dict(self._decoded[camera])
        for tensor in self._outputs("prime"):
            if tensor.name not in own:
                own[tensor.name] = self._backend.allocate(tensor.shared(self._samples), tensor.dtype)
        return {name: own[name] for name in names}

    def _pass_on(self) -> None:
        """Copy what `prime` gave to where `step` and `decode` read it, if they do not read its own buffers."""
        for tensor in self._outputs("prime"):
            parts = [prime.outputs[tensor.name] for prime in self._primes if tensor.name in prime.outputs]
            if self._primes_each and parts:
                targets = {**self._stepped, **self._step.state}
                if tensor.name in targets:
                    times = self._samples if parts[0].shape[tensor.batch_axis] == 1 else 1
                    self._gather(tensor, [part for part in parts for _ in range(times)], targets[tensor.name])
            elif tensor.name in self._decoded[0]:
                for camera, constants in enumerate(self._decoded):
                    self._take(tensor, parts[0], camera * self._samples, constants[tensor.name])

    def _gather(self, tensor: TensorSpec, parts: Sequence[Buffer], whole: Buffer) -> None:
        """Put parts together along the batch axis; on the device where that is the first one."""
        if tensor.batch_axis == 0:
            self._backend.gather(parts, whole)
        else:
            self._backend.write(whole, np.concatenate([self._backend.read(part) for part in parts], tensor.batch_axis))

    def _take(self, tensor: TensorSpec, whole: Buffer, row: int, part: Buffer) -> None:
        """Copy one row of the batch axis."""
        if tensor.batch_axis == 0:
            self._backend.copy(self._backend.rows(whole, row, 1), part)
        else:
            self._backend.write(part, np.take(self._backend.read(whole), [row], tensor.batch_axis))

    def _make_decoder(self) -> FrameDecoder:
        names = {tensor.name for tensor in self._graphs["decode"].inputs}
        constants = [{name: buffer for name, buffer in each.items() if name in names} for each in self._decoded]
        return FrameDecoder(
            backend=self._backend,
            spec=self._graphs["decode"],
            latents=self._shown,
            constants=constants,
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
            spec = self._graphs["prior"]
            prior: Array = joined(spec, context.prior_states)["state"]
            self._backend.write(self._step.state["prior_state"], spread(prior, self._samples, spec.tensor("state").batch_axis))
