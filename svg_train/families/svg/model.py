"""SVG with its three priors: the training forward, batched over time, and the generation rule, step by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from svg_train.families.svg import SvgConfig
from svg_train.families.svg.backbones import Decoder, Encoder, init_weights
from svg_train.families.svg.recurrent import GaussianLSTM, Predictor
from svg_train.families.svg.spatial import ConvGaussian, ConvPredictor
from svg_train.families.video_model import Latents, TrainingOutput, VideoModel
from svg_train.losses import gaussian_kl, reparameterize


class States(NamedTuple):
    """Recurrent states, each (2 * layers, B, rnn); None for a part that the model lacks."""

    predictor: Tensor
    posterior: Tensor | None
    prior: Tensor | None


class SVG(VideoModel):
    """Encoder, decoder, frame predictor, posterior and learned prior (paper, figure 2).

    With a fixed prior, N(0, I), there is no module `prior`. With none the model is deterministic: neither `posterior` nor
    `prior`, and the predictor reads h alone. Noise then has a last axis of size z_dim = 0.
    """

    config: SvgConfig

    def __init__(self, config: SvgConfig) -> None:
        super().__init__()
        self.config = config
        self.channels_last = config.latent == "spatial"
        c = config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.predictor = _predictor(c)
        self.posterior = _gaussian(c, c.posterior_layers) if c.posterior_layers else None
        self.prior = _gaussian(c, c.prior_layers) if c.prior_layers else None
        self.encoder.apply(init_weights)
        self.decoder.apply(init_weights)

    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        """One pass over whole sequences with true frames as inputs: no loop over time.

        Equal to stepping frame by frame (`tests/svg_train/test_model.py`), except that in training mode BatchNorm takes its
        statistics over all frames of the batch at once, which keeps the running statistics close to what is trained on.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            noise: (T - 1, B, z_dim) standard normal noise of the posterior.
            step: not used.
        """
        steps, batch = x.shape[:2]
        flat, skips = self.encoder(x.flatten(0, 1))
        h = _widened(flat).unflatten(0, (steps, batch))
        with torch.autocast(x.device.type, enabled=False):  # recurrent state and Gaussians stay float32
            z, kl = self._latents(h, noise)
            g = self.predictor.sequence(h[:-1], z)
        flat_frames = self.decoder(g.flatten(0, 1), self._conditions(skips, steps, batch))
        frames = _widened(flat_frames).unflatten(0, (steps - 1, batch))
        mse = ((frames - x[1:]) ** 2).mean(dim=(1, 2, 3, 4)).sum()
        return TrainingOutput(frames, mse, kl)

    def _latents(self, h: Tensor, eps: Tensor) -> tuple[Tensor | None, Tensor]:
        """z of the targets (T - 1, B, z_dim), drawn from the posterior, and the KL term of the loss."""
        if self.posterior is None:
            return None, h.new_zeros(())
        mu_q, logvar_q = self.posterior.sequence(h[1:])
        if self.prior is None:
            mu_p, logvar_p = torch.zeros_like(mu_q), torch.zeros_like(logvar_q)
        else:
            mu_p, logvar_p = self.prior.sequence(h[:-1])
        kl = gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum() / h.shape[1]
        return reparameterize(mu_q, logvar_q, eps), kl

    def _conditions(self, skips: list[Tensor], steps: int, batch: int) -> list[Tensor]:
        """Skip conditions of the T - 1 targets, computed once per distinct frame, then repeated: ((T - 1) * B, ...)."""
        distinct = self.distinct_skip_frames(steps)
        conds = self.decoder.condition([skip[: distinct * batch] for skip in skips])
        repeats = steps - distinct  # targets that share the last distinct frame, itself included
        if repeats == 1:
            return conds
        return [torch.cat([cond, *[cond[-batch:]] * (repeats - 1)]) for cond in conds]

    def distinct_skip_frames(self, steps: int) -> int:
        """How many of the first frames of a sequence of `steps` ever feed a skip: target t uses min(t, this) - 1."""
        return steps - 1 if self.config.last_frame_skip else min(steps - 1, self.config.n_past - self.config.skip_lag)

    @torch.no_grad()
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast by the generation rule: condition on true frames through the posterior, then sample from the prior.

        Args:
            x: (n, B, C, H, W) observed frames, n = n_past.
            noise: (horizon, B, z_dim) standard normal draws of the prior, one per forecast frame.
            context_noise: (n - 1, B, z_dim) draws of the posterior while the context is read.

        Returns:
            (horizon, B, C, H, W) forecasts. To draw several futures of one sequence, repeat it along B.
        """
        h, cond, states = self._read_context(x, context_noise)
        return self._roll_out(x=x, h=h, cond=cond, states=states, noise=noise, targets=None)

    @torch.no_grad()
    def latents(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Latents | None:
        """Both parts over the whole sequence at once, as in training. As `VideoModel.latents`."""
        if self.posterior is None:
            return None
        frames = [*x, *self.generate(x, noise, context_noise)]
        h, last = torch.stack([self.encoder(frame)[0] for frame in frames[:-1]]), len(x) - 1
        posterior_mu, posterior_logvar = self.posterior.sequence(h[1 : last + 1])
        mu, logvar = self.prior.sequence(h) if self.prior is not None else (None, None)
        return Latents(
            posterior_mu=posterior_mu[-1],
            posterior_logvar=posterior_logvar[-1],
            prior_mu=None if mu is None else mu[last - 1],
            prior_logvar=None if logvar is None else logvar[last - 1],
            mu=None if mu is None else mu[last:],
            logvar=None if logvar is None else logvar[last:],
        )

    @torch.no_grad()
    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast with z from the posterior of each true next frame: what the model could do if it guessed every z correctly.

        The reference's "approximate posterior", in closed loop: only the posterior sees frames after the context.

        Args:
            x: (n_past + horizon, B, C, H, W) true frames.
            noise: (horizon, B, z_dim) standard normal draws of the posterior.
            context_noise: (n_past - 1, B, z_dim) draws while the context is read.

        Returns:
            (horizon, B, C, H, W).
        """
        context, targets = x[: self.config.n_past], x[self.config.n_past :]
        h, cond, states = self._read_context(context, context_noise)
        return self._roll_out(x=context, h=h, cond=cond, states=states, noise=noise, targets=targets)

    def _roll_out(
        self, x: Tensor, h: Tensor, cond: list[Tensor], states: States, noise: Tensor, targets: Tensor | None
    ) -> Tensor:
        frames: list[Tensor] = []
        for step, eps in enumerate(noise):
            if frames:  # the encoding of the last frame is not needed
                h, skips = self.encoder(frames[-1])
                cond = self.decoder.condition(skips) if self.config.last_frame_skip else cond
            h_target = None if targets is None else self.encoder(targets[step])[0]
            frame, states = self.forecast_step(h=h, cond=cond, eps=eps, states=states, h_target=h_target)
            frames.append(frame)
        return torch.stack(frames) if frames else x.new_zeros(0, *x.shape[1:])

    def forecast_step(
        self, h: Tensor, cond: list[Tensor], eps: Tensor, states: States, h_target: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """One forecast frame from the encoding of the frame before: z ~ prior (or posterior), g = predictor, frame = decoder.

        Args:
            h: (B, g_dim) encoding of the frame before.
            cond: skip conditions, at batch 1 or B.
            eps: (B, z_dim) noise.
            states: of the recurrent parts.
            h_target: encoding of the true next frame; with it, z is drawn from its posterior instead of the prior.
        """
        z, states = self._draw_posterior(h, h_target, eps, states) if h_target is not None else self._draw_prior(h, eps, states)
        g, predictor_state = self.predictor.step(h, z, states.predictor)
        return self.decoder(g, cond), states._replace(predictor=predictor_state)

    def _draw_prior(self, h: Tensor, eps: Tensor, states: States) -> tuple[Tensor | None, States]:
        if self.posterior is None:
            return None, states
        if self.prior is None:
            return eps, states
        assert states.prior is not None
        mu, logvar, state = self.prior.step(h, states.prior)
        return reparameterize(mu, logvar, eps), states._replace(prior=state)

    def _draw_posterior(self, h: Tensor, h_target: Tensor, eps: Tensor, states: States) -> tuple[Tensor | None, States]:
        """z from the posterior of the true next frame. The prior steps along on the frame before, as it does in training."""
        if self.posterior is None:
            return None, states
        assert states.posterior is not None
        mu, logvar, state = self.posterior.step(h_target, states.posterior)
        states = states._replace(posterior=state)
        if self.prior is not None:
            assert states.prior is not None
            states = states._replace(prior=self.prior.step(h, states.prior)[2])
        return reparameterize(mu, logvar, eps), states

    def _read_context(self, x: Tensor, context_noise: Tensor) -> tuple[Tensor, list[Tensor], States]:
        """Encoding of the last frame, the skip conditions of a forecast, and the states after reading x (n, B, C, H, W)."""
        lag = 0 if self.config.last_frame_skip else self.config.skip_lag
        h, cond = [], []
        for index, frame in enumerate(x):
            encoding, skips = self.encoder(frame)
            h.append(encoding)
            if index == len(x) - 1 - lag:  # the skips of the other frames are large and never used
                cond = self.decoder.condition(skips)
        states = self._initial_states(x.shape[1])
        for h_prev, h_now, eps in zip(h[:-1], h[1:], context_noise, strict=True):
            z, states = self._draw_posterior(h_prev, h_now, eps, states)
            states = states._replace(predictor=self.predictor.step(h_prev, z, states.predictor)[1])
        return h[-1], cond, states

    def _initial_states(self, batch: int) -> States:
        posterior, prior = (
            part.core.initial_state(batch) if part is not None else None for part in (self.posterior, self.prior)
        )
        return States(self.predictor.core.initial_state(batch), posterior, prior)


def _widened(x: Tensor) -> Tensor:
    """In float32, or the wider type that the model has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _predictor(c: SvgConfig) -> Predictor | ConvPredictor:
    if c.latent == "vector":
        return Predictor(c.g_dim, c.z_dim, c.rnn_size, c.predictor_layers)
    return ConvPredictor(g_dim=c.g_dim, z_dim=c.z_dim, rnn_size=c.rnn_size, layers=c.predictor_layers, map_size=c.map_size)


def _gaussian(c: SvgConfig, layers: int) -> GaussianLSTM | ConvGaussian:
    if c.latent == "vector":
        return GaussianLSTM(c.g_dim, c.z_dim, c.rnn_size, layers)
    return ConvGaussian(g_dim=c.g_dim, z_dim=c.z_dim, rnn_size=c.rnn_size, layers=layers, map_size=c.map_size)
