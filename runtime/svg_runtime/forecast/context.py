"""Reads the observed frames at batch 1, the last n_past or all of them: how far each was from what the model expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

import numpy as np

from svg_runtime.backends.base import Array, Backend, BoundGraph
from svg_runtime.bundle.manifest import PrecisionVariant
from svg_runtime.forecast.noise import FloatArray, gaussian_kl
from svg_runtime.forecast.states import RecurrentGraph

_MAX_PAIRS = 16  # of frames per chain: each needs a bound graph and its buffers


@dataclass(frozen=True)
class ContextPosterior:
    """Posterior of the latents between the context frames, and the prior's state after them."""

    mu: FloatArray  # (steps, 1, z_dim) posterior means, one per pair of neighbouring frames; z_dim is 0 without latents
    logvar: FloatArray  # (steps, 1, z_dim)
    prior_state: Mapping[str, Array]  # at batch 1, after the last pair; empty without a learned prior, or if not needed
    surprise: float | None  # of the last frame, see `Observation`


SurpriseUnit = Literal["nats", "relative"]


class Context(Protocol):
    """What a model makes of the observed frames.

    Attributes:
        predictor: the graph whose state has read all frames but the last, from which every forecast starts; None where each
            forecast reads the context itself, with noise of its own.
        surprise_unit: of the surprise; None where there is none.
    """

    predictor: RecurrentGraph | None
    surprise_unit: SurpriseUnit | None

    def reset(self) -> None:
        """Discard all frames."""
        ...

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Read one more frame: `encodings` are those of the last 2 to n_past frames, oldest first, each at batch 1."""
        ...


def without_latents(surprise: float | None = None) -> ContextPosterior:
    """What a context gives where there are no latents, or where forecasts draw them."""
    empty = np.zeros((0, 1, 0), np.float32)
    return ContextPosterior(mu=empty, logvar=empty, prior_state={}, surprise=surprise)


class RelativeError:
    """Each error relative to the mean of all errors before it since `reset`: 1 is as usual."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all errors."""
        self._sum = 0.0
        self._count = 0

    def of(self, error: float) -> float | None:
        """The relative size of the next error; None if there is none to compare it with."""
        relative = error * self._count / self._sum if self._sum else None
        if math.isfinite(error):
            self._sum += error
            self._count += 1
        return relative


class ContextReader:
    """Steps posterior and prior together through observed frames at batch 1. Neither depends on the samples.

    All pairs of neighbouring frames are run before the host reads the results: on a GPU it would otherwise wait after each.
    A fixed prior is N(0, I); a deterministic model has neither posterior nor prior.

    Args:
        backend: the device.
        variant: the graphs.
        pairs: number of pairs of neighbouring frames that are usually read at once.
        keeps_state: whether to read the prior's state, for which the host waits once more.
        streams: carry the state along from the first frame, instead of reading the last frames again.
    """

    predictor: RecurrentGraph | None = None

    def __init__(self, backend: Backend, variant: PrecisionVariant, pairs: int, keeps_state: bool, streams: bool) -> None:
        self._backend = backend
        self._keeps_state = keeps_state
        self._streams = streams
        self._pairs = min(pairs, _MAX_PAIRS)
        self._parts: list[RecurrentGraph] = []
        graph_names = [name for name in ("posterior", "prior") if name in variant.graphs]
        self.surprise_unit: SurpriseUnit | None = "nats" if graph_names else None
        if not graph_names:
            return
        spec = variant.graphs[graph_names[0]]
        h, mu = spec.tensor("h"), spec.tensor("mu")
        self._h = backend.allocate_steps(self._pairs + 1, h.sized(1), h.dtype)
        # mu and logvar of both, so that one copy brings them to the host.
        self._gaussians = backend.allocate_steps(2 * len(graph_names) * self._pairs, mu.sized(1), mu.dtype)
        outputs = iter(self._gaussians.steps)
        for name, first in zip(graph_names, (1, 0), strict=False):  # the prior sees the previous frame
            part = RecurrentGraph(
                backend=backend,
                graph_name=name,
                spec=variant.graphs[name],
                batch=1,
                inputs=[{"h": frame} for frame in self._h.steps[first : first + self._pairs]],
                outputs=[{"mu": next(outputs), "logvar": next(outputs)} for _ in range(self._pairs)],
            )
            self._parts.append(part)
        self._all = backend.chain(self._bound(self._pairs))

    def reset(self) -> None:
        """Return posterior and prior to their initial state."""
        for part in self._parts:
            part.reset()

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Read the last pair of frames, or all pairs again from the start."""
        if self._streams:
            return self.read(encodings[-2:])
        self.reset()
        return self.read(encodings)

    def read(self, encodings: Iterable[FloatArray]) -> ContextPosterior:
        """Step through `encodings`, n of (1, g_dim), oldest first: posterior on each frame, prior on the previous one."""
        hs = np.stack(list(encodings))
        steps = len(hs) - 1
        if not self._parts:
            empty = np.zeros((steps, 1, 0), np.float32)
            return ContextPosterior(mu=empty, logvar=empty, prior_state={}, surprise=None)
        # 1) run posterior and prior over all pairs of frames
        read = [self._read_some(hs[start : start + self._pairs + 1]) for start in range(0, steps, self._pairs)]
        # 2) compare them at the last pair: how far the frame was from what the prior expected
        posterior, *prior = np.concatenate(read, axis=1)  # each (steps, 2, 1, z_dim)
        mu_p, logvar_p = prior[0][-1] if prior else np.zeros_like(posterior[-1])
        mu, logvar = posterior[:, 0], posterior[:, 1]
        surprise = gaussian_kl(mu[-1], logvar[-1], mu_p, logvar_p)
        # 3) the prior's state, from which a forecast on the separate graphs starts
        state = self._parts[-1].read() if prior and self._keeps_state else {}
        return ContextPosterior(mu=mu, logvar=logvar, prior_state=state, surprise=surprise)

    def _read_some(self, hs: FloatArray) -> FloatArray:
        """Step through at most as many pairs as are bound; returns (parts, steps, 2 for mu and logvar, 1, z_dim)."""
        steps = len(hs) - 1
        self._backend.write(self._h.whole, np.concatenate([hs, np.zeros((self._pairs - steps, *hs.shape[1:]), np.float32)]))
        for bound in [self._all] if steps == self._pairs else self._bound(steps):
            bound.run()
        for part in self._parts:
            part.mark_advanced(steps)
        gaussians = self._backend.read(self._gaussians.whole)
        by_part: FloatArray = gaussians.reshape(len(self._parts), self._pairs, 2, *gaussians.shape[1:])[:, :steps].copy()
        return by_part

    def _bound(self, steps: int) -> list[BoundGraph]:
        return list(chain.from_iterable(part.bound[:steps] for part in self._parts))
