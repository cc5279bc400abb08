"""The forecast loop at a fixed number of samples and steps: bound once, stepped many times.

Per step: z ~ prior(h), g = predictor([h, z]), frame = decoder(g, cond), h = encoder(frame). State, g, h and frames stay in
device buffers; only mu and logvar come to the host, where the noise is, and only z goes back. With a fixed prior z is the noise
itself; a deterministic model has no z.
"""

from __future__ import annotations

import numpy as np

from svg_runtime.backends.base import Array, Backend, Buffer, Plan
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.noise import FloatArray, gaussian_sample
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.states import RecurrentGraph


def futures_of(frames: Array) -> FloatArray:
    """A copy of the device's (horizon, samples, C, H, W) as (samples, horizon, H, W, C)."""
    futures: FloatArray = np.array(frames.transpose(1, 0, 3, 4, 2), np.float32, order="C")
    return futures


class Rollout:
    """Buffers and plans for `samples` futures of `horizon` frames."""

    def __init__(
        self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, observer: Observer, samples: int, horizon: int
    ) -> None:
        self._backend, self._variant = backend, variant
        self._samples, self._horizon = samples, horizon
        self._h, self._g = self._allocate("predictor", "h"), self._allocate("predictor", "g")
        inputs = {"h": self._h}
        self._z = self._allocate("predictor", "z") if manifest.model.z_dim else None
        if self._z is not None:
            inputs["z"] = self._z
        self.predictor = RecurrentGraph(backend, "predictor", variant.graphs["predictor"], samples, inputs, {"g": self._g})
        self._prior = self._bind_prior() if "prior" in variant.graphs else None
        frame = variant.graphs["decoder"].tensor("frame")
        self._frames = backend.allocate_steps(horizon, frame.sized(samples), frame.dtype)
        self._skips = manifest.generation.last_frame_skip
        self._bind_frames(observer)

    def _bind_prior(self) -> RecurrentGraph:
        self._mu, self._logvar = self._allocate("prior", "mu"), self._allocate("prior", "logvar")
        outputs = {"mu": self._mu, "logvar": self._logvar}
        spec = self._variant.graphs["prior"]
        return RecurrentGraph(self._backend, "prior", spec, self._samples, {"h": self._h}, outputs)

    def _bind_frames(self, observer: Observer) -> None:
        """Decoder and encoder plans per step, each frame going where it will be read."""
        self._decode = [self._decoder_plan(observer.condition, frame) for frame in self._frames.parts]
        encoder, skip = self._variant.graphs["encoder"], self._variant.graphs["skip"]
        outputs = {"h": self._h}
        self._recondition: Plan | None = None
        if self._skips:
            skips = {spec.name: self._allocate("encoder", spec.name) for spec in encoder.outputs if spec.name != "h"}
            outputs |= skips
            conds = {spec.name: self._allocate("skip", spec.name) for spec in skip.outputs}
            self._recondition = self._backend.bind("skip", skips, conds)
            self._decode_follow = [self._decoder_plan(conds, frame) for frame in self._frames.parts]
        self._encode = [self._backend.bind("encoder", {"frame": frame}, outputs) for frame in self._frames.parts]

    def _decoder_plan(self, conds: dict[str, Buffer], frame: Buffer) -> Plan:
        return self._backend.bind("decoder", {"g": self._g, **conds}, {"frame": frame})

    def _allocate(self, graph_name: str, name: str) -> Buffer:
        spec = self._variant.graphs[graph_name].tensor(name)
        return self._backend.allocate(spec.sized(self._samples), spec.dtype)

    def read_context(self, encodings: list[FloatArray], context_posterior: ContextPosterior, noise: FloatArray) -> None:
        """Bring the predictor from its initial state through the context, with z from the posterior of each next frame."""
        self.predictor.reset()
        for step, h in enumerate(encodings[:-1]):
            self.advance(h, context_posterior.mu[step], context_posterior.logvar[step], noise[step])

    def advance(self, h: FloatArray, mu: FloatArray, logvar: FloatArray, eps: FloatArray) -> None:
        """One predictor step on a true frame's encoding h (1, g_dim), with z drawn from the given Gaussian for each sample."""
        self._backend.write(self._h, h)
        if self._z is not None:
            self._backend.write(self._z, gaussian_sample(mu, logvar, eps))
        self.predictor.step()

    def forecast(
        self,
        h: FloatArray,
        context_posterior: ContextPosterior,
        noise: FloatArray,
        branch_from: RecurrentGraph | None = None,
        posterior: ContextPosterior | None = None,
    ) -> FloatArray:
        """Sample the futures that follow the encoding `h` (1, g_dim) of the last observed frame.

        Args:
            h: encoding of the last observed frame.
            context_posterior: of the context; the prior starts from its state.
            noise: (horizon, samples, z_dim).
            branch_from: predictor that read the context, if another one than this rollout's; it is left as it is.
            posterior: draw z from these Gaussians, one per frame to forecast, instead of the prior.

        Returns:
            (samples, horizon, H, W, C) float32.
        """
        if self._prior is not None:
            self._prior.load(context_posterior.prior_state)
        self._backend.write(self._h, h)
        for step in range(self._horizon):
            given = (posterior.mu[step], posterior.logvar[step]) if posterior is not None else None
            self._draw_latent(noise[step], given)
            if branch_from is not None and step == 0:
                self.predictor.step_from(branch_from)
            else:
                self.predictor.step()
            self._decode_and_encode(step)
        return futures_of(self._backend.read(self._frames.whole))

    def _draw_latent(self, eps: FloatArray, gaussian: tuple[FloatArray, FloatArray] | None) -> None:
        """Write z of the next frame: from the Gaussian given, else from the learned prior, else from N(0, I)."""
        if self._z is None:
            return
        if gaussian is None and self._prior is not None:
            self._prior.step()
            gaussian = self._backend.read(self._mu), self._backend.read(self._logvar)
        self._backend.write(self._z, eps if gaussian is None else gaussian_sample(*gaussian, eps))

    def _decode_and_encode(self, step: int) -> None:
        follows = self._recondition is not None and step > 0
        self._backend.run((self._decode_follow if follows else self._decode)[step])
        if step == self._horizon - 1:
            return  # nothing reads the encoding of the last frame
        self._backend.run(self._encode[step])
        if self._recondition is not None:
            self._backend.run(self._recondition)
