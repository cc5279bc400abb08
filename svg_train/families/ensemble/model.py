"""A generative ensemble: the training forward, and the generation rule.

Noise enters the state at every step, and all samples of a forecast are trained together by a proper scoring rule, so that their
spread is that of the errors. There is no posterior, no divergence and no adversary (Pacchiardi et al. 2024, "Probabilistic
forecasting with generative networks via scoring rule minimization"; Lang et al. 2024, "AIFS-CRPS"; Alet et al. 2025,
"Skillful joint probabilistic weather forecasting from marginals").

A frame is what moves in the last observed one, moved by a flow, over a background, and new content, mixed pixel by pixel: what
stands still passes as it is. A forecast never reads its own frames, so those of all samples and steps can be decoded in one
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svg_train.families.ensemble.config import EnsembleConfig
from svg_train.families.ensemble.layers import Decoder, Observed, Prime, Step, full_flow, warp
from svg_train.families.ensemble.scores import fair_crps, patch_energy
from svg_train.families.video_model import TrainingOutput, VideoModel

PATCH_SIDES = (8, 32)  # pixels
_TYPICAL_MOTION = 0.02  # mean absolute change during a context, of a frame in [0, 1]


class EnsembleModel(VideoModel):
    """Prime, step and decoder; the start of a forecast is a step, too, with noise of its own."""

    channels_last = True
    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.prime = Prime(config)
        self.step = Step(config)
        self.decoder = Decoder(config)

    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        """Score `members` samples of the frames after the context in closed loop, at `leads` of them chosen at random.

        With `change_weight` these follow each other, and the changes between them are scored, too.

        Args:
            x: (T, B, C, H, W) in [0, 1], T above n_past.
            noise: (members * (1 + T - n_past), B, noise_dim + 1) standard normal; the last entry, which all sequences share,
                chooses the leads.
            step: not used.

        Returns:
            `frames` are those of the first member, (leads, B, C, H, W). `mse` is the mean over members and leads, times
            T - n_past; it is told, and has no gradient. `auxiliary`, the score times T - n_past, is what is minimised.
        """
        c = self.config
        horizon, batch = x.shape[0] - c.n_past, x.shape[1]
        eps = noise[..., : c.noise_dim].unflatten(0, (1 + horizon, c.members)).flatten(1, 2)  # (1 + horizon, members * B, ...)
        leads = self._leads(noise[:horizon, 0, -1])
        state, observed = self.prime(x[: c.n_past])
        states = self._states(state.repeat(c.members, 1, 1, 1), eps)
        chosen = torch.cat([states[lead] for lead in leads])
        frames = self.decoder(chosen, Observed(*(part.repeat(len(leads) * c.members, 1, 1, 1) for part in observed)))
        members, truth = frames.unflatten(0, (len(leads), c.members, batch)), x[c.n_past :][leads]
        score = self._score(members, truth)
        if c.change_weight and len(leads) > 1:
            score = score + c.change_weight * self._score(members.diff(dim=0), truth.diff(dim=0))
        mse = ((members - truth[:, None]) ** 2).mean()
        score = score + c.motion_weight * _motion_error(observed.motion, x[: c.n_past])
        weighted = (score * _weights(x[: c.n_past])).mean()
        return TrainingOutput(members[:, 0], horizon * mse.detach(), x.new_zeros(()), horizon * weighted)

    def _leads(self, order: Tensor) -> list[int]:
        """Which frames are decoded, from one random number for each: any, or, where changes are scored, some in a row."""
        c, horizon = self.config, len(order)
        if not c.change_weight:
            return order.argsort()[: c.leads].sort().values.tolist()
        count = min(c.leads, horizon)
        start = int(order.argmax()) - (count - 1) // 2  # the ends of a forecast are not left out
        start = min(max(start, 0), horizon - count)
        return list(range(start, start + count))

    def _score(self, members: Tensor, truth: Tensor) -> Tensor:
        """Members (T, M, B, C, H, W) and truth (T, B, C, H, W) -> (B,), pixel by pixel and patch by patch."""
        c = self.config
        score = fair_crps(members, truth, c.fairness)
        if c.patch_weight:
            patches = [patch_energy(members, truth, side, c.fairness) for side in PATCH_SIDES]
            score = score + c.patch_weight * torch.stack(patches).mean(0)
        return score

    def _states(self, state: Tensor, eps: Tensor) -> list[Tensor]:
        """States of the forecast frames. eps is (1 + horizon, B, noise_dim); the first draw belongs to the start."""
        state, states = self.step(state, eps[0]), []
        for draw in eps[1:]:
            state = self.step(state, draw)
            states.append(state)
        return states

    @torch.no_grad()
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Forecast from the noise alone. As `VideoModel.generate`, with one draw of context noise."""
        state, observed = self.prime(x)
        states = self._states(state, torch.cat([context_noise, noise]))
        frames = [self.decoder(each, observed) for each in states]
        return torch.stack(frames) if frames else x.new_zeros(0, *x.shape[1:])

    @torch.no_grad()
    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """There is no posterior: a forecast, as always."""
        return self.generate(x[: self.config.n_past], noise, context_noise)


def _motion_error(motion: Tensor, context: Tensor) -> Tensor:
    """(B,) how far the frame before the last one, moved, is from the last one: mean absolute error."""
    with torch.autocast(context.device.type, enabled=False):
        moved = warp(context[-2], full_flow(motion.float()))
    return (moved - context[-1]).abs().mean(dim=(1, 2, 3))


def _weights(context: Tensor) -> Tensor:
    """(B,) weights of sequences (n_past, B, C, H, W), so that a calm scene counts as much as a turbulent one.

    They follow from what was observed alone. A weight that knew the future would make the score improper.
    """
    motion = (context[-1] - context[0]).abs().mean(dim=(1, 2, 3))
    return _TYPICAL_MOTION / (motion + _TYPICAL_MOTION)
