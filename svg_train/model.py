"""SVG with a learned prior: the training forward, batched over time, and the generation rule, step by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svg_train.backbones import Decoder, Encoder, init_weights
from svg_train.config import ModelConfig
from svg_train.losses import gaussian_kl, reparameterize
from svg_train.recurrent import GaussianLSTM, Predictor


class TrainingOutput(NamedTuple):
    """Result of the training forward. T frames give T - 1 targets x_1 ... x_{T-1}."""

    frames: Tensor  # (T - 1, B, C, H, W) reconstructions of the targets, each from the true frame before it
    mse: Tensor  # scalar: sum over targets of the mean squared error
    kl: Tensor  # scalar: sum over targets of KL(posterior || prior) / B, nats


class SVG(nn.Module):
    """Encoder, decoder, frame predictor, posterior and learned prior of SVG-LP (paper, figure 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.predictor = Predictor(c.g_dim, c.z_dim, c.rnn_size, c.predictor_layers)
        self.posterior = GaussianLSTM(c.g_dim, c.z_dim, c.rnn_size, c.posterior_layers)
        self.prior = GaussianLSTM(c.g_dim, c.z_dim, c.rnn_size, c.prior_layers)
        self.apply(init_weights)

    def forward(self, x: Tensor, eps: Tensor) -> TrainingOutput:
        """One pass over whole sequences with true frames as inputs: no loop over time.

        Equal to stepping frame by frame (`tests/svg_train/test_model.py`), except that in training mode BatchNorm takes its
        statistics over all frames of the batch at once, which keeps the running statistics close to what is trained on.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            eps: (T - 1, B, z_dim) standard normal noise of the posterior.
        """
        steps, batch = x.shape[:2]
        flat, skips = self.encoder(x.flatten(0, 1))
        h = flat.float().unflatten(0, (steps, batch))
        with torch.autocast(x.device.type, enabled=False):  # recurrent state and Gaussians stay float32
            mu_q, logvar_q = self.posterior.sequence(h[1:])
            mu_p, logvar_p = self.prior.sequence(h[:-1])
            g = self.predictor.sequence(h[:-1], reparameterize(mu_q, logvar_q, eps))
            kl = gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum() / batch
        frames = self.decoder(g.flatten(0, 1), self._conditions(skips, steps, batch)).float().unflatten(0, (steps - 1, batch))
        mse = ((frames - x[1:]) ** 2).mean(dim=(1, 2, 3, 4)).sum()
        return TrainingOutput(frames, mse, kl)

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
        n, batch = x.shape[:2]
        h, skips = zip(*(self.encoder(frame) for frame in x), strict=True)
        states = self._context_states(list(h), context_noise)
        h_last, frames = h[-1], []
        cond = self.decoder.condition(skips[n - 1 if self.config.last_frame_skip else n - 1 - self.config.skip_lag])
        for eps in noise:
            frame, states = self.forecast_step(h_last, cond, eps, states)
            frames.append(frame)
            h_last, frame_skips = self.encoder(frame)
            if self.config.last_frame_skip:
                cond = self.decoder.condition(frame_skips)
        return torch.stack(frames) if frames else x.new_zeros(0, batch, *x.shape[2:])

    def forecast_step(
        self, h: Tensor, cond: list[Tensor], eps: Tensor, states: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One forecast frame from the encoding of the frame before: z ~ prior, g = predictor, frame = decoder."""
        prior_state, predictor_state = states
        mu, logvar, prior_state = self.prior.step(h, prior_state)
        g, predictor_state = self.predictor.step(h, reparameterize(mu, logvar, eps), predictor_state)
        return self.decoder(g, cond), (prior_state, predictor_state)

    def _context_states(self, h: list[Tensor], context_noise: Tensor) -> tuple[Tensor, Tensor]:
        """States of prior and predictor after reading the context, with z from the posterior of each true next frame."""
        batch = h[0].shape[0]
        posterior_state, prior_state = self.posterior.core.initial_state(batch), self.prior.core.initial_state(batch)
        predictor_state = self.predictor.core.initial_state(batch)
        for h_prev, h_now, eps in zip(h[:-1], h[1:], context_noise, strict=True):
            mu, logvar, posterior_state = self.posterior.step(h_now, posterior_state)
            _, _, prior_state = self.prior.step(h_prev, prior_state)
            _, predictor_state = self.predictor.step(h_prev, reparameterize(mu, logvar, eps), predictor_state)
        return prior_state, predictor_state
