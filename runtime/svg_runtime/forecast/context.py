"""Reads the observed frames, the last n_past or all of them, a row per camera: how far each was from what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, Protocol

import numpy as np

from svg_runtime.backends.base import Array, Backend, BoundGraph
from svg_runtime.bundle.manifest import PrecisionVariant
from svg_runtime.forecast.noise import FloatArray, gaussian_kl
from svg_runtime.forecast.states import RecurrentGraph

_MAX_PAIRS = 16  # of frames per chain: each needs a bound graph and its buffers
_USUAL_FRAMES = 600  # of which the errors are what is usual, at most
_LEAST_SQUARED_ERROR = 1e-4  # 40 dB


@dataclass(frozen=True)
class Surprise:
    """At one frame of a camera; see `Observation`."""

    value: float | None  # in nats, or times the usual error; None without earlier errors
    raw: float  # in nats, or the squared error itself


@dataclass(frozen=True)
class ContextPosterior:
    """Posterior of the latents between the context frames, and the prior's state after them; each with a row per camera."""

    mu: FloatArray  # (steps, cameras, z_dim) posterior means, one per pair of neighbouring frames; z_dim is 0 without latents
    logvar: FloatArray  # (steps, cameras, z_dim)
    prior_states: tuple[Mapping[str, Array], ...]  # each at batch 1, after the last pair; empty ones if not needed
    surprises: tuple[Surprise | None, ...]  # of the last frame

    def split(self) -> list[ContextPosterior]:
        """Return each camera's own."""
        return [
            ContextPosterior(
                mu=self.mu[:, row : row + 1],
                logvar=self.logvar[:, row : row + 1],
                prior_states=(self.prior_states[row],),
                surprises=(surprise,),
            )
            for row, surprise in enumerate(self.surprises)
        ]

    @classmethod
    def join(cls, posteriors: Sequence[ContextPosterior]) -> ContextPosterior:
        """Put together what `split` took apart."""
        return cls(
            mu=np.concatenate([posterior.mu for posterior in posteriors], axis=1),
            logvar=np.concatenate([posterior.logvar for posterior in posteriors], axis=1),
            prior_states=tuple(chain.from_iterable(posterior.prior_states for posterior in posteriors)),
            surprises=tuple(chain.from_iterable(posterior.surprises for posterior in posteriors)),
        )


class RelativeError:
    """Each root mean squared error relative to that of the frames before it: 1 is as usual.

    The usual error follows the last minutes, and is at least that of a good camera's noise: what moves first before a still
    scene is some times as large, not hundreds.
    """

    def __init__(self) -> None:
        self._mean = 0.0  # of the squared errors
        self._count = 0

    def of(self, squared_error: float) -> Surprise:
        """The relative size of the next error, which the model made on one frame."""
        relative = math.sqrt(squared_error / max(self._mean, _LEAST_SQUARED_ERROR)) if self._count else None
        if math.isfinite(squared_error):
            self._count += 1
            self._mean += (squared_error - self._mean) / min(self._count, _USUAL_FRAMES)
        return Surprise(relative, squared_error)


@dataclass
class ContextState:
    """What a context keeps of one camera from frame to frame."""

    recurrent: list[Mapping[str, Array]] = field(default_factory=list)  # of each graph, at batch 1; empty: the initial state
    errors: RelativeError = field(default_factory=RelativeError)
    predicted: FloatArray | None = None  # the frame that is expected next, (H, W, C)


SurpriseUnit = Literal["nats", "relative"]


class Context(Protocol):
    """What a model makes of the observed frames of some cameras, which it reads together, a row for each.

    Attributes:
        surprise_unit: of the surprise; None where there is none.
    """

    surprise_unit: SurpriseUnit | None

    @property
    def predictor(self) -> RecurrentGraph | None:
        """The graph whose state has read all frames but the last, from which every forecast starts.

        None where each forecast reads the context itself, with noise of its own.
        """
        ...

    def reset(self) -> None:
        """Discard all frames."""
        ...

    def load(self, states: Sequence[ContextState]) -> None:
        """Go on from what `save` gave, of as many other cameras."""
        ...

    def save(self) -> list[ContextState]:
        """Return what the next frame of each camera needs, and what `predictor` starts from."""
        ...

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Read one more frame: `encodings` are those of the last 2 to n_past frames, oldest first, each a row per camera."""
        ...


def without_latents(surprises: Sequence[Surprise | None]) -> ContextPosterior:
    """What a context gives where there are no latents, or where forecasts draw them."""
    empty = np.zeros((0, len(surprises), 0), np.float32)
    states: tuple[Mapping[str, Array], ...] = ({},) * len(surprises)
    return ContextPosterior(mu=empty, logvar=empty, prior_states=states, surprises=tuple(surprises))


def in_nats(mu_q: FloatArray, logvar_q: FloatArray, mu_p: FloatArray, logvar_p: FloatArray) -> Surprise:
    """KL(q || p) of diagonal Gaussians, each (z_dim,): posterior and prior of one frame."""
    divergence = gaussian_kl(mu_q, logvar_q, mu_p, logvar_p)
    return Surprise(divergence, divergence)


def no_surprise(camera_count: int) -> ContextPosterior:
    """The same without a surprise."""
    return without_latents([None] * camera_count)


class ContextReader:
    """Steps posterior and prior together through observed frames. Neither depends on the samples.

    All pairs of neighbouring frames are run before the host reads the results: on a GPU it would otherwise wait after each.
    A fixed prior is N(0, I); a deterministic model has neither posterior nor prior.

    Args:
        backend: the device.
        variant: the graphs.
        pairs: number of pairs of neighbouring frames that are usually read at once.
        keeps_state: whether to read the prior's state, for which the host waits once more.
        streams: carry the state along from the first frame, instead of reading the last frames again.
        camera_count: how many are read together.
    """

    predictor: RecurrentGraph | None = None

    def __init__(
        self,
        backend: Backend,
        variant: PrecisionVariant,
        pairs: int,
        keeps_state: bool,
        streams: bool,
        camera_count: int = 1,
    ) -> None:
        self._backend = backend
        self._camera_count = camera_count
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
        self._h = backend.allocate_steps(self._pairs + 1, h.sized(camera_count), h.dtype)
        # mu and logvar of both, so that one copy brings them to the host.
        self._gaussians = backend.allocate_steps(2 * len(graph_names) * self._pairs, mu.sized(camera_count), mu.dtype)
        outputs = iter(self._gaussians.steps)
        for name, first in zip(graph_names, (1, 0), strict=False):  # the prior sees the previous frame
            part = RecurrentGraph(
                backend=backend,
                graph_name=name,
                spec=variant.graphs[name],
                batch=camera_count,
                inputs=[{"h": frame} for frame in self._h.steps[first : first + self._pairs]],
                outputs=[{"mu": next(outputs), "logvar": next(outputs)} for _ in range(self._pairs)],
            )
            self._parts.append(part)
        self._all = backend.chain(self._bound(self._pairs))

    def reset(self) -> None:
        """Return posterior and prior to their initial state."""
        for part in self._parts:
            part.reset()

    def load(self, states: Sequence[ContextState]) -> None:
        """Go on from other states; a window needs none."""
        if self._streams:
            for index, part in enumerate(self._parts):
                part.load_each([state.recurrent[index] if state.recurrent else {} for state in states])

    def save(self) -> list[ContextState]:
        """Return the states of posterior and prior."""
        if not self._streams:
            return [ContextState() for _ in range(self._camera_count)]
        read = [part.read_each(self._camera_count) for part in self._parts]
        return [ContextState(recurrent=[part[row] for part in read]) for row in range(self._camera_count)]

    def observe(self, encodings: Sequence[FloatArray]) -> ContextPosterior:
        """Read the last pair of frames, or all pairs again from the start."""
        if self._streams:
            return self.read(encodings[-2:])
        self.reset()
        return self.read(encodings)

    def read(self, encodings: Iterable[FloatArray]) -> ContextPosterior:
        """Step through `encodings`, n of (cameras, g_dim), oldest first: posterior on each frame, prior on the one before."""
        hs = np.stack(list(encodings))
        steps = len(hs) - 1
        if not self._parts:
            empty = np.zeros((steps, self._camera_count, 0), np.float32)
            return replace(no_surprise(self._camera_count), mu=empty, logvar=empty)
        # 1) run posterior and prior over all pairs of frames
        read = [self._read_some(hs[start : start + self._pairs + 1]) for start in range(0, steps, self._pairs)]
        # 2) compare them at the last pair: how far the frame was from what the prior expected
        posterior, *prior = np.concatenate(read, axis=1)  # each (steps, 2, cameras, z_dim)
        mu_p, logvar_p = prior[0][-1] if prior else np.zeros_like(posterior[-1])
        mu, logvar = posterior[:, 0], posterior[:, 1]
        surprises = [in_nats(*row) for row in zip(mu[-1], logvar[-1], mu_p, logvar_p, strict=True)]
        # 3) the prior's state, from which a forecast on the separate graphs starts
        keeps = bool(prior) and self._keeps_state
        states = self._parts[-1].read_each(self._camera_count) if keeps else [{} for _ in range(self._camera_count)]
        return ContextPosterior(mu=mu, logvar=logvar, prior_states=tuple(states), surprises=tuple(surprises))

    def _read_some(self, hs: FloatArray) -> FloatArray:
        """Step through at most as many pairs as are bound; returns (parts, steps, 2 for mu and logvar, cameras, z_dim)."""
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
