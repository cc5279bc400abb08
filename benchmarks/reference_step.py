"""One training step written as the reference writes it (Denton and Fergus, `train_svg_lp.py`): the yardstick for ours.

Frame by frame in float32: both frames of a step go through the encoder, LSTM cells keep their own state and are stepped,
the decoder works on concatenations [d, skip], and each of the five networks has its own optimizer.
"""

from __future__ import annotations

import torch
from reference_networks import with_weights_of
from torch import Tensor, nn

from svg_train.families.svg.model import SVG
from svg_train.losses import gaussian_kl


class ReferenceSVG(nn.Module):
    """The reference's networks with the weights of `model`; both compute the same."""

    def __init__(self, model: SVG) -> None:
        super().__init__()
        assert model.prior is not None, "the reference's loop is that of SVG-LP"
        self.config = model.config
        self._distinct_skip_frames = model.distinct_skip_frames
        self.parts = nn.ModuleDict(with_weights_of(model))

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over targets of the mean squared error, and of KL / B.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            eps: (T - 1, B, z_dim) noise of the posterior.
        """
        names = ("encoder", "decoder", "frame_predictor", "posterior", "prior")
        encoder, decoder, predictor, posterior, prior = (self.parts[name] for name in names)
        steps, batch = x.shape[:2]
        for part in (predictor, posterior, prior):
            part.reset(batch)
        mse, kl = x.new_zeros(()), x.new_zeros(())
        skips: list[Tensor] = []
        for t in range(1, steps):
            h, new_skips = encoder(x[t - 1])
            h_target, _ = encoder(x[t])
            if t <= self._distinct_skip_frames(steps):
                skips = new_skips
            z, mu_q, logvar_q = posterior(h_target, eps[t - 1])
            _, mu_p, logvar_p = prior(h, eps[t - 1])
            frame = decoder(predictor(torch.cat([h, z], 1)), skips)
            mse = mse + nn.functional.mse_loss(frame, x[t])
            kl = kl + gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum() / batch
        return mse, kl


class ReferenceStep:
    """A whole training step: forward, backward, and one Adam per network."""

    def __init__(self, model: ReferenceSVG, lr: float, beta: float) -> None:
        self._model = model.train()
        self._beta = beta
        self._optimizers = [torch.optim.Adam(part.parameters(), lr=lr, betas=(0.9, 0.999)) for part in model.parts.values()]

    def __call__(self, x: Tensor, eps: Tensor) -> float:
        """The loss of this batch before the step."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        mse, kl = self._model(x, eps)
        loss = mse + self._beta * kl
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        return float(loss.detach())
