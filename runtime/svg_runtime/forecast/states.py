"""A recurrent graph whose state stays on the device, in two sets of buffers: a step reads one and writes the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from svg_runtime.backends.base import Array, Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import GraphSpec
from svg_runtime.errors import BundleError


def joined(spec: GraphSpec, states: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Put the states of several cameras together along their batch axis."""
    if len(states) == 1:
        return dict(states[0])
    return {name: np.concatenate([state[name] for state in states], spec.tensor(name).batch_axis) for name in states[0]}


class RecurrentGraph:
    """One graph bound for a number of steps in a row, each reading the state that the one before it wrote.

    Step i reads set i % 2 of the state's buffers and writes the other one, so that inputs never alias outputs. With an even
    number of steps the last one leads back to the first, and stepping can go on without end.

    Args:
        backend: the device.
        graph_name: the graph's name in the bundle.
        spec: interface of the graph.
        batch: size of the dynamic axis.
        inputs: per step, the buffers of all inputs except states. A state listed here overrides the internal buffer.
        outputs: per step, the buffers of all outputs except states.

    Attributes:
        bound: the graph, bound once per step.
    """

    def __init__(
        self,
        backend: Backend,
        graph_name: str,
        spec: GraphSpec,
        batch: int,
        inputs: Sequence[Mapping[str, Buffer]],
        outputs: Sequence[Mapping[str, Buffer]],
    ) -> None:
        self._backend = backend
        self._graph_name = graph_name
        self._spec = spec
        self._batch = batch
        self._states = spec.states
        self._inputs = inputs
        self._outputs = outputs
        tensors = [spec.tensor(state.input) for state in spec.states]
        self._buffers = [
            {tensor.name: backend.allocate(tensor.sized(batch), tensor.dtype) for tensor in tensors} for _ in range(2)
        ]
        self.bound = [self._bind(step, self._buffers[step % 2], self._buffers[1 - step % 2]) for step in range(len(inputs))]
        self._branches: dict[int, BoundGraph] = {}
        self._steps = 0

    @property
    def state(self) -> dict[str, Buffer]:
        """The buffers that the next step reads, by input name."""
        return self._buffers[self._steps % 2]

    def reset(self) -> None:
        """Start from the initial state (zeros)."""
        self.load({state.input: 0.0 for state in self._states})

    def load(self, values: Mapping[str, Array | float]) -> None:
        """Start from host values; a state at batch 1 is broadcast over the batch."""
        self._steps = 0
        for name, value in values.items():
            self._backend.write(self.state[name], value)

    def load_each(self, states: Sequence[Mapping[str, Array]]) -> None:
        """Start from the states of several cameras, as `read_each` gave them; an empty one is the initial state."""
        rows, tensors = self._batch // len(states), [self._spec.tensor(state.input) for state in self._states]
        initial = {tensor.name: np.zeros(tensor.sized(rows), tensor.dtype) for tensor in tensors}
        self.load(joined(self._spec, [state or initial for state in states]))

    def read_each(self, count: int) -> list[dict[str, Array]]:
        """Return host copies of the current states of `count` cameras, which share the batch equally."""
        states: list[dict[str, Array]] = [{} for _ in range(count)]
        for name, buffer in self.state.items():
            parts = np.split(self._backend.read(buffer), count, self._spec.tensor(name).batch_axis)
            for state, part in zip(states, parts, strict=True):
                state[name] = part.copy()
        return states

    def step(self) -> None:
        """Run the next step; after the last one the first follows again."""
        self.bound[self._steps % len(self.bound)].run()
        self._steps += 1

    def step_back(self) -> None:
        """Return to the state before the last step, which is in the other set of buffers."""
        self._steps -= 1

    def step_from(self, other: RecurrentGraph) -> None:
        """Run the first step from the current state of `other`, which does not change."""
        start = other.state
        if id(start) not in self._branches:
            self._branches[id(start)] = self._bind(0, start, self._buffers[1])
        self._branches[id(start)].run()
        self._steps = 1

    def mark_advanced(self, steps: int) -> None:
        """Record that the first `steps` steps were run as a chain, and make their final state the new start."""
        self._steps = 0
        if steps % 2:
            for name, buffer in self._buffers[0].items():
                self._backend.copy(self._buffers[1][name], buffer)

    def _bind(self, step: int, state: Mapping[str, Buffer], next_state: Mapping[str, Buffer]) -> BoundGraph:
        for spec in self._states:
            self._check(spec.input, state[spec.input])
            self._check(spec.output, next_state[spec.input])
        states_in = {spec.input: state[spec.input] for spec in self._states}
        states_out = {spec.output: next_state[spec.input] for spec in self._states}
        return self._backend.bind(self._graph_name, {**states_in, **self._inputs[step]}, {**self._outputs[step], **states_out})

    def _check(self, name: str, buffer: Buffer) -> None:
        """Engines do not: one would read or write beyond a buffer that is too small."""
        tensor = self._spec.tensor(name)
        kind, expected = (tuple(buffer.shape), str(buffer.dtype)), (tensor.sized(self._batch), tensor.dtype)
        if kind != expected:
            raise BundleError(f"{self._graph_name}: the state '{name}' is {expected}, but its buffer is {kind}")
