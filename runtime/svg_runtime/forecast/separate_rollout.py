"""The forecast loop on the separate graphs.

Per step: z ~ prior(h), g = predictor([h, z]), frame = decoder(g, cond), h = encoder(frame). State, g, h and frames stay in
device buffers; only mu and logvar are copied to the host, which draws the noise, and only z is copied back. With a fixed prior
z is the noise itself; a deterministic model has no z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from svg_runtime.backends.base import Backend, BoundGraph, Buffer
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.forecast.context import ContextPosterior
from svg_runtime.forecast.noise import FloatArray, gaussian_sample
from svg_runtime.forecast.rollout import futures_of, spread
from svg_runtime.forecast.states import RecurrentGraph, joined


class SeparateRollout:
    """`samples` futures of `horizon` frames for each camera; the methods of `Rollout` are described there.

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
        self._variant = variant
        self._samples = samples
        self._rows = camera_count * samples
        self._horizon = horizon
        self._h = self._allocate("predictor", "h")
        self._g = self._allocate("predictor", "g")
        self._z = self._allocate("predictor", "z") if manifest.model.z_dim else None
        z_inputs = {} if self._z is None else {"z": self._z}
        self.predictor = self._bind_recurrent("predictor", {"h": self._h, **z_inputs}, {"g": self._g})
        self._prior = self._bind_prior() if "prior" in variant.graphs else None
        frame = variant.graphs["decoder"].tensor("frame")
        self._frames = backend.allocate_steps(horizon, frame.sized(self._rows), frame.dtype)
        skips = variant.graphs["skip"].outputs if "skip" in variant.graphs else ()
        self._condition = {spec.name: self._allocate("skip", spec.name) for spec in skips} if condition is None else condition
        self._bind_frames(manifest.generation.last_frame_skip)

    def use_conditions(self, conditions: Sequence[Mapping[str, Buffer]]) -> None:
        """Copy them, once for each sample."""
        for name, buffer in self._condition.items():
            self._backend.gather([condition[name] for condition in conditions for _ in range(self._samples)], buffer)

    def read_context(self, encodings: list[FloatArray], context: ContextPosterior, noise: FloatArray) -> None:
        """Step the predictor on every context frame but the last, with z from the posterior of the next frame."""
        self.predictor.reset()
        for step, h in enumerate(encodings[:-1]):
            self.advance(h, context.mu[step], context.logvar[step], noise[step])

    def advance(self, h: FloatArray, mu: FloatArray, logvar: FloatArray, noise: FloatArray) -> None:
        """One predictor step on the encodings h of true frames, with z drawn from the given Gaussian for each sample.

        Args:
            h: a row per camera.
            mu: (cameras, z_dim) means.
            logvar: (cameras, z_dim) log variances.
            noise: (rows, z_dim).
        """
        self._backend.write(self._h, spread(h, self._samples))
        if self._z is not None:
            mu, logvar = spread(mu, self._samples), spread(logvar, self._samples)
            self._backend.write(self._z, gaussian_sample(mu, logvar, noise))
        self.predictor.step()

    def forecast(
        self, h: FloatArray, context: ContextPosterior, noise: FloatArray, branch_from: RecurrentGraph | None = None
    ) -> FloatArray:
        """Forecast with every latent from the prior."""
        if self._prior is not None:
            state = joined(self._variant.graphs["prior"], context.prior_states)
            axis = self._variant.graphs["prior"].tensor("state").batch_axis
            self._prior.load({"state": spread(state["state"], self._samples, axis)})
        self._backend.write(self._h, spread(h, self._samples))
        for step in range(self._horizon):
            self._write_prior_latent(noise[step])
            if branch_from is not None and step == 0:
                self.predictor.step_from(branch_from)
            else:
                self.predictor.step()
            self._decode_and_encode(step)
        return futures_of(self._backend.read(self._frames.whole))

    def reconstruct(self, h: FloatArray, mu: FloatArray, logvar: FloatArray, noise: FloatArray) -> FloatArray:
        """Forecast with every latent from the given Gaussians instead of the prior.

        Args:
            h: encoding of the last observed frame, (1, g_dim).
            mu: (horizon, 1, z_dim) means, one per forecast frame.
            logvar: (horizon, 1, z_dim) log variances.
            noise: (horizon, samples, z_dim) standard normal draws.

        Returns:
            (samples, horizon, H, W, C) float32.
        """
        self._backend.write(self._h, h)
        for step in range(self._horizon):
            if self._z is not None:
                self._backend.write(self._z, gaussian_sample(mu[step], logvar[step], noise[step]))
            self.predictor.step()
            self._decode_and_encode(step)
        return futures_of(self._backend.read(self._frames.whole))

    def _write_prior_latent(self, noise: FloatArray) -> None:
        """Draw and write z of the next frame, (rows, z_dim): from the learned prior, else from N(0, I)."""
        if self._z is None:
            return
        if self._prior is not None:
            self._prior.step()
            noise = gaussian_sample(self._backend.read(self._mu), self._backend.read(self._logvar), noise)
        self._backend.write(self._z, noise)

    def _decode_and_encode(self, step: int) -> None:
        follows = self._recondition is not None and step > 0
        (self._decode_follow if follows else self._decode)[step].run()
        if step == self._horizon - 1:
            return  # nothing reads the encoding of the last frame
        self._encode[step].run()
        if self._recondition is not None:
            self._recondition.run()

    def _bind_recurrent(self, graph_name: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> RecurrentGraph:
        spec = self._variant.graphs[graph_name]
        return RecurrentGraph(
            backend=self._backend,
            graph_name=graph_name,
            spec=spec,
            batch=self._rows,
            inputs=[inputs] * 2,
            outputs=[outputs] * 2,
        )

    def _bind_prior(self) -> RecurrentGraph:
        self._mu = self._allocate("prior", "mu")
        self._logvar = self._allocate("prior", "logvar")
        return self._bind_recurrent("prior", {"h": self._h}, {"mu": self._mu, "logvar": self._logvar})

    def _bind_frames(self, last_frame_skip: bool) -> None:
        """Bind decoder and encoder once per step, each with the frame buffer of that step."""
        self._decode = [self._bind_decoder(self._condition, frame) for frame in self._frames.steps]
        encoder = self._variant.graphs["encoder"]
        outputs = {"h": self._h}
        self._recondition: BoundGraph | None = None
        if last_frame_skip:
            skips = {spec.name: self._allocate("encoder", spec.name) for spec in encoder.outputs if spec.name != "h"}
            outputs |= skips
            conds = {spec.name: self._allocate("skip", spec.name) for spec in self._variant.graphs["skip"].outputs}
            self._recondition = self._backend.bind("skip", skips, conds)
            self._decode_follow = [self._bind_decoder(conds, frame) for frame in self._frames.steps]
        self._encode = [self._backend.bind("encoder", {"frame": frame}, outputs) for frame in self._frames.steps]

    def _bind_decoder(self, conds: Mapping[str, Buffer], frame: Buffer) -> BoundGraph:
        return self._backend.bind("decoder", {"g": self._g, **conds}, {"frame": frame})

    def _allocate(self, graph_name: str, name: str) -> Buffer:
        spec = self._variant.graphs[graph_name].tensor(name)
        return self._backend.allocate(spec.sized(self._rows), spec.dtype)
