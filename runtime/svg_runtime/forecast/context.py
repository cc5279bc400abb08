"""What the observed frames say: posterior and prior at batch 1, over the last n_past frames or over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from svg_runtime.backends.base import Array, Backend, Buffer, Plan
from svg_runtime.bundle.manifest import GraphSpec, PrecisionVariant
from svg_runtime.forecast.noise import FloatArray, gaussian_kl

_LONGEST = 16  # pairs of frames that are bound at once: a graph's buffers and plans for each


@dataclass(frozen=True)
class ContextPosterior:
    """Posterior of the latents between the frames of a context, and the prior's state at its end."""

    mu: FloatArray  # (steps, 1, z_dim) posterior means, one per pair of neighbouring frames; z_dim is 0 without latents
    logvar: FloatArray  # (steps, 1, z_dim)
    prior_state: dict[str, Array]  # at batch 1, after the last pair; empty without a learned prior, or if nobody needs it
    surprise: float | None  # KL(posterior || prior) of the last pair, nats; None without latents


class ContextReader:
    """Posterior and prior stepping side by side through true frames at batch 1. Neither depends on the samples.

    All pairs of neighbouring frames are run before the host looks at what came out: on a GPU it would wait after each.
    A fixed prior is N(0, I); a deterministic model has neither of the two.

    Args:
        backend: where they run.
        variant: whose graphs they are.
        pairs: of neighbouring frames that are usually read at once.
        keeps_state: whether beliefs have the prior's state, for which the host waits once more.
    """

    def __init__(self, backend: Backend, variant: PrecisionVariant, pairs: int, keeps_state: bool) -> None:
        self._backend, self._keeps_state = backend, keeps_state
        graph_names = [graph_name for graph_name in ("posterior", "prior") if graph_name in variant.graphs]
        self._pairs = min(pairs, _LONGEST)
        self._parts: list[_UnrolledLstm] = []
        if not graph_names:
            return
        specs = [variant.graphs[graph_name] for graph_name in graph_names]
        h, mu = specs[0].tensor("h"), specs[0].tensor("mu")
        self._h = backend.allocate_steps(self._pairs + 1, h.sized(1), h.dtype)
        # mu and logvar of both, so that they come to the host in one copy.
        self._found = backend.allocate_steps(2 * len(graph_names) * self._pairs, mu.sized(1), mu.dtype)
        outputs = iter(self._found.parts)
        for graph_name, spec, first in zip(graph_names, specs, (1, 0), strict=False):  # the prior sees the frame before
            frames = self._h.parts[first : first + self._pairs]
            self._parts.append(
                _UnrolledLstm(backend, graph_name, spec, frames, [(next(outputs), next(outputs)) for _ in frames])
            )
        self._all = backend.chain(self._plans(self._pairs))

    def reset(self) -> None:
        """Both back to the initial state."""
        for part in self._parts:
            part.reset()

    def read(self, encodings: Iterable[FloatArray]) -> ContextPosterior:
        """Go on through `encodings` (n of (1, g_dim), oldest first): posterior on each frame, prior on the one before it."""
        hs = np.stack(list(encodings))
        steps = len(hs) - 1
        if not self._parts:
            nothing = np.zeros((steps, 1, 0), np.float32)
            return ContextPosterior(nothing, nothing, {}, None)
        read = [self._read_some(hs[start : start + self._pairs + 1]) for start in range(0, steps, self._pairs)]
        posterior, *prior = np.concatenate(read, axis=1)  # each (steps, 2, 1, z_dim)
        mu_p, logvar_p = prior[0][-1] if prior else np.zeros_like(posterior[-1])
        state = self._parts[-1].read_state() if prior and self._keeps_state else {}
        mu, logvar = posterior[:, 0], posterior[:, 1]
        return ContextPosterior(mu, logvar, state, gaussian_kl(mu[-1], logvar[-1], mu_p, logvar_p))

    def _read_some(self, hs: FloatArray) -> FloatArray:
        """Both through at most as many pairs as are bound: (parts, steps, 2 for mu and logvar, 1, z_dim)."""
        steps = len(hs) - 1
        self._backend.write(self._h.whole, np.concatenate([hs, np.zeros((self._pairs - steps, *hs.shape[1:]), np.float32)]))
        for plan in [self._all] if steps == self._pairs else self._plans(steps):
            self._backend.run(plan)
        for part in self._parts:
            part.carry(steps)
        found = self._backend.read(self._found.whole)
        by_part: FloatArray = found.reshape(len(self._parts), self._pairs, 2, *found.shape[1:])[:, :steps].copy()
        return by_part

    def _plans(self, steps: int) -> list[Plan]:
        return list(chain.from_iterable(part.plans[:steps] for part in self._parts))


class _UnrolledLstm:
    """Posterior or prior bound once per step: a step reads the state that the one before it wrote.

    Args:
        backend: where it runs.
        graph_name: posterior or prior.
        spec: its interface.
        frames: the encoding that each step sees.
        found: where each step puts mu and logvar.
    """

    def __init__(
        self,
        backend: Backend,
        graph_name: str,
        spec: GraphSpec,
        frames: Sequence[Buffer],
        found: Sequence[tuple[Buffer, Buffer]],
    ) -> None:
        self._backend = backend
        tensors = [spec.tensor(state.input) for state in spec.states]
        self._states = [
            {tensor.name: backend.allocate(tensor.sized(1), tensor.dtype) for tensor in tensors} for _ in range(len(frames) + 1)
        ]

        def bind(step: int) -> Plan:
            inputs: Mapping[str, Buffer] = {"h": frames[step], **self._states[step]}
            mu, logvar = found[step]
            then = {state.output: self._states[step + 1][state.input] for state in spec.states}
            return backend.bind(graph_name, inputs, {"mu": mu, "logvar": logvar, **then})

        self.plans = [bind(step) for step in range(len(frames))]

    def reset(self) -> None:
        """The first step starts from the initial state (zeros)."""
        for buffer in self._states[0].values():
            self._backend.write(buffer, 0.0)

    def carry(self, steps: int) -> None:
        """The first step starts from where `steps` of them led."""
        for name, buffer in self._states[0].items():
            self._backend.copy(self._states[steps][name], buffer)

    def read_state(self) -> dict[str, Array]:
        """Host copy of the state that the first step starts from."""
        return {name: self._backend.read(buffer).copy() for name, buffer in self._states[0].items()}
