"""SRVP: the training forward, and the generation rule in four parts.

    encoder     frame -> h, skips
    prime       h of the observed frames -> content w, state y of the last frame
    step        y -> y of the next frame; z from the prior
    decoder     y, w, conditions of the skips -> frame

Noise is always an argument: one flat vector per sample and frame, of which y and z use the first entries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svg_train.families.srvp.backbones import Decoder, Encoder, init_weights
from svg_train.families.srvp.config import SrvpConfig
from svg_train.families.srvp.latents import Content, Dynamics, Gaussian, LatentPosterior, gaussian, perceptron
from svg_train.families.video_model import Latents, TrainingOutput, VideoModel
from svg_train.losses import gaussian_kl


class ObservedStates(NamedTuple):
    """The states of T frames with all latents from their posteriors."""

    y: list[Tensor]  # T times (B, ny)
    first: Gaussian  # (1 or B, ny) posterior of y of the first frame
    posterior: Gaussian  # (T - 1, 1 or B, nz) of z leading to the other frames
    residuals: list[Tensor]  # (T - 1) * n_euler_steps times (B, ny)


class Primed(NamedTuple):
    """What a forecast starts from. At the batch of h, but y and the prior at that of the noise."""

    y: Tensor  # (B, ny) state of the last observed frame
    w: Tensor  # (1 or B, inference_size) content
    posterior: Gaussian  # (1 or B, nz) of z leading to the last observed frame
    prior: Gaussian  # (B, nz) of the same


class SrvpModel(VideoModel):
    """Encoder, decoder, content, posteriors of y and z, prior of z, and the dynamics of y (paper, section 3).

    A forecast never encodes its own frames: y alone carries it, so its frames can be decoded in one batch.
    """

    config: SrvpConfig

    def __init__(self, config: SrvpConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.content = Content(c.nhx, c.inference_size)
        self.posterior_y = perceptron(c.nhx * c.nt_inf, c.inference_size, 2 * c.ny, c.inference_layers)
        self.posterior_z = LatentPosterior(c.nhx, c.inference_size, c.nz)
        self.prior = perceptron(c.ny, c.residual_size, 2 * c.nz, c.residual_layers)
        self.dynamics = Dynamics(ny=c.ny, nz=c.nz, hidden=c.residual_size, layers=c.residual_layers, steps=c.n_euler_steps)
        self._init_weights()

    def _init_weights(self) -> None:
        self.encoder.apply(init_weights)
        self.decoder.apply(init_weights)
        for layer in self.dynamics.f:
            if isinstance(layer, nn.Linear) and not layer.weight.is_meta:  # on the meta device there are no values
                nn.init.orthogonal_(layer.weight, self.config.res_gain)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        """One pass over whole sequences (paper, section 3.3; the original's `train.py`).

        The content is taken from nt_inf frames of each sequence at random, and the skips from another one.

        The original minimises, per sequence, sum((x - x̂)^2) / (2 s^2) + beta_y KL_y + beta_z KL_z + l2_res sum(|residual|) over
        all pixels of all T frames, with s = obs_scale. Here that is multiplied by u = 2 s^2 / (C H W), so that

            mse        its part of x_1 ... x_{T-1}
            kl         KL_z, whose weight in training is beta = u beta_z
            auxiliary  its part of x_0, and u (beta_y KL_y + l2_res sum(|residual|))

        Args:
            x: (T, B, C, H, W) in [0, 1].
            noise: (T, B, noise_dim + 2) standard normal. First y of x_0, then z of the other frames; the last two entries
                choose frames.
            step: not used.
        """
        steps, batch = x.shape[:2]
        eps, choice = noise[..., : self.config.noise_dim], noise[..., self.config.noise_dim :]
        # 1) encode all frames; choose those of the content and of the skips
        flat, all_skips = self.encoder(x.flatten(0, 1))
        h = flat.float().unflatten(0, (steps, batch))
        each = torch.arange(batch, device=x.device)
        content_frames = choice[..., 0].argsort(0)[: self.config.nt_inf]  # (nt_inf, B)
        skip_frames = choice[..., 1].argmax(0)  # (B,)
        skips = [skip.unflatten(0, (steps, batch))[skip_frames, each] for skip in all_skips]
        # 2) the states of all frames; they and the Gaussians stay float32
        with torch.autocast(x.device.type, enabled=False):
            w = self.content(h[content_frames, each])
            observed = self.observe(h, eps, self.posterior_z.sequence(h))
            y = torch.stack(observed.y)
            kl, others = self._regularizers(observed)
        # 3) decode all frames at once
        conds = [cond.repeat(steps, 1, 1, 1) for cond in self.decoder.condition(skips)]
        frames = self.decoder(y.flatten(0, 1), w.repeat(steps, 1), conds).float().unflatten(0, (steps, batch))
        # 4) the terms of the loss
        errors = ((frames - x) ** 2).mean(dim=(1, 2, 3, 4))
        unit = 2 * self.config.obs_scale**2 / x[0, 0].numel()
        return TrainingOutput(frames[1:], errors[1:].sum(), kl / batch, errors[0] + unit * others / batch)

    def _regularizers(self, observed: ObservedStates) -> tuple[Tensor, Tensor]:
        """Sums over time and batch: KL_z, and beta_y KL_y + l2_res sum(|residual|)."""
        q_y, q_z, p_z = observed.first, observed.posterior, gaussian(self.prior(torch.stack(observed.y[:-1])))
        standard = torch.zeros_like(q_y.mu)
        kl_y = gaussian_kl(q_y.mu, q_y.logvar, standard, standard).sum()
        kl_z = gaussian_kl(q_z.mu, q_z.logvar, p_z.mu, p_z.logvar).sum()
        norms = torch.linalg.vector_norm(torch.stack(observed.residuals), dim=-1).sum()
        return kl_z, self.config.beta_y * kl_y + self.config.l2_res * norms

    def observe(self, h: Tensor, eps: Tensor, posterior: Gaussian) -> ObservedStates:
        """Follow the state through observed frames.

        Args:
            h: (T, 1 or B, nhx), T at least nt_inf.
            eps: (T, B, noise_dim): y of the first frame, then z leading to each of the others.
            posterior: (T, 1 or B, nz) of z.
        """
        first, posterior = self._first_state(h), posterior.at(slice(1, None))
        y, residuals = [first.draw(eps[0])], []
        for z in posterior.draw(eps[1:]):
            following, steps = self.dynamics(y[-1], z)
            y.append(following)
            residuals += steps
        return ObservedStates(y, first, posterior, residuals)

    def _first_state(self, h: Tensor) -> Gaussian:
        """Posterior of y of the first frame, from the first nt_inf encodings of h (T, B, nhx), one after the other."""
        return gaussian(self.posterior_y(h[: self.config.nt_inf].transpose(0, 1).flatten(1)))

    def prime(self, h: Tensor, eps: Tensor) -> Primed:
        """Read the encodings of all observed frames.

        Args:
            h: (n_past, 1 or B, nhx).
            eps: (n_past, B, noise_dim): y of the first frame, then z leading to each of the others.
        """
        observed = self.observe(h, eps, self.posterior_z.unrolled(h))
        content = self.content(h[-self.config.nt_inf :])
        return Primed(observed.y[-1], content, observed.posterior.at(-1), gaussian(self.prior(observed.y[-2])))

    def step(self, y: Tensor, eps: Tensor) -> tuple[Tensor, Gaussian]:
        """y (B, ny) of a frame and eps (B, noise_dim) -> y of the next frame, and the prior of z that leads there."""
        prior = gaussian(self.prior(y))
        return self.dynamics(y, prior.draw(eps))[0], prior

    @torch.no_grad()
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast by the generation rule: latents of the observed frames from the posterior, those after from the prior.

        Args:
            x: (n_past, B, C, H, W) observed frames.
            noise: (horizon, B, noise_dim), of which z takes the first nz.
            context_noise: (n_past, B, noise_dim): y of the first frame (the first ny), then z leading to the others.

        Returns:
            (horizon, B, C, H, W) forecasts.
        """
        h, conds = self._read(x)
        primed = self.prime(h, context_noise)
        states = [primed.y]
        for eps in noise:
            states.append(self.step(states[-1], eps)[0])
        return self._decode(states[1:], primed.w, conds, x)

    @torch.no_grad()
    def latents(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Latents:
        """The posterior as in training, and the prior of the states of the forecast. As `VideoModel.latents`."""
        h, _ = self._read(x)
        observed = self.observe(h, context_noise, self.posterior_z.sequence(h))
        states = observed.y[-2:]
        for eps in noise:
            states.append(self.dynamics(states[-1], gaussian(self.prior(states[-1])).draw(eps))[0])
        posterior, prior = observed.posterior.at(-1), gaussian(self.prior(torch.stack(states[:-1])))
        return Latents(
            posterior_mu=posterior.mu,
            posterior_logvar=posterior.logvar,
            prior_mu=prior.mu[0],
            prior_logvar=prior.logvar[0],
            mu=prior.mu[1:],
            logvar=prior.logvar[1:],
        )

    @torch.no_grad()
    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast with z from the posterior of each true next frame. Content and skips are those of the observed frames.

        Args:
            x: (n_past + horizon, B, C, H, W) true frames.
            noise: (horizon, B, noise_dim) draws of the posterior.
            context_noise: (n_past, B, noise_dim) draws while the context is read.

        Returns:
            (horizon, B, C, H, W).
        """
        n_past = self.config.n_past
        h, conds = self._read(x[:n_past])
        primed = self.prime(h, context_noise)
        targets = [self.encoder(frame)[0][None] for frame in x[n_past:]]
        posterior = self.posterior_z.unrolled(torch.cat([h, *targets])).at(slice(n_past, None))
        states = [primed.y]
        for z in posterior.draw(noise):
            states.append(self.dynamics(states[-1], z)[0])
        return self._decode(states[1:], primed.w, conds, x)

    def _read(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodings (n, B, nhx) of frames x (n, B, C, H, W), and the conditions of the last frame's skips."""
        h, skips = [], []
        for frame in x:  # one by one: the skips of the other frames are large and never used
            encoding, skips = self.encoder(frame)
            h.append(encoding)
        return torch.stack(h), self.decoder.condition(skips)

    def _decode(self, states: list[Tensor], w: Tensor, conds: list[Tensor], x: Tensor) -> Tensor:
        """Frames of the states, like those of x. One by one: an evaluation has hundreds of samples."""
        frames = [self.decoder(y, w, conds) for y in states]
        return torch.stack(frames) if frames else x.new_zeros(0, *x.shape[1:])
