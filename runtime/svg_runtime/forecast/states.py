"""A graph whose state stays on the device: two buffers per recurrent tensor, read from one, written to the other."""

from __future__ import annotations

from collections.abc import Mapping

from svg_runtime.backends.base import Array, Backend, Buffer, Plan
from svg_runtime.bundle.manifest import GraphSpec

State = Mapping[str, Array]  # state input name -> host values


class RecurrentGraph:
    """Steps one graph at a fixed batch, alternating its state buffers so that inputs never alias outputs.

    Args:
        backend: where it runs.
        graph_name: the graph's name in the bundle.
        spec: its interface.
        batch: size of the dynamic axis.
        inputs: buffers of the inputs that are not states.
        outputs: buffers of the outputs that are not states.
    """

    def __init__(
        self,
        backend: Backend,
        graph_name: str,
        spec: GraphSpec,
        batch: int,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
    ) -> None:
        self._backend, self._role, self._inputs, self._outputs = backend, graph_name, inputs, outputs
        self._states = spec.states
        specs = [spec.tensor(state.input) for state in spec.states]
        self._buffers = [
            {tensor.name: backend.allocate(tensor.sized(batch), tensor.dtype) for tensor in specs} for _ in range(2)
        ]
        self._plans = [self._bind(self._buffers[now], self._buffers[1 - now]) for now in range(2)]
        self._foreign: dict[int, Plan] = {}
        self._now = 0

    @property
    def state(self) -> dict[str, Buffer]:
        """The current state's buffers, by input name."""
        return self._buffers[self._now]

    def reset(self) -> None:
        """Start from the initial state (zeros)."""
        self._now = 0
        for buffer in self.state.values():
            self._backend.write(buffer, 0.0)

    def load(self, state: State) -> None:
        """Start from host values; a state at batch 1 is repeated over the batch."""
        self._now = 0
        for name, values in state.items():
            self._backend.write(self.state[name], values)

    def step(self) -> None:
        """Run once on the bound inputs."""
        self._backend.run(self._plans[self._now])
        self._now = 1 - self._now

    def step_from(self, other: RecurrentGraph) -> None:
        """Run once from the current state of `other`, which stays as it is: a branch of its future."""
        start = other.state
        key = id(start)
        if key not in self._foreign:
            self._foreign[key] = self._bind(start, self._buffers[0])
        self._backend.run(self._foreign[key])
        self._now = 0

    def _bind(self, now: Mapping[str, Buffer], then: Mapping[str, Buffer]) -> Plan:
        states_in = {state.input: now[state.input] for state in self._states}
        states_out = {state.output: then[state.input] for state in self._states}
        return self._backend.bind(self._role, {**self._inputs, **states_in}, {**self._outputs, **states_out})
