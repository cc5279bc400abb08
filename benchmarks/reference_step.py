"""One training step written as the reference writes it (Denton and Fergus, `train_svg_lp.py`): the yardstick for ours.

Frame by frame in float32: both frames of a step go through the encoder, LSTM cells keep their own state and are stepped,
the decoder works on concatenations [d, skip], and each of the five networks has its own optimizer.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from svg_train.backbones import Decoder, SkipStage
from svg_train.losses import gaussian_kl, reparameterize
from svg_train.model import SVG
from svg_train.recurrent import GaussianLSTM, Predictor, RecurrentCore


class ReferenceSVG(nn.Module):
    """The reference's networks with the weights of `model`, which they compute the same as."""

    def __init__(self, model: SVG) -> None:
        super().__init__()
        assert model.posterior is not None, "the reference's loop is that of SVG-LP"
        assert model.prior is not None, "the reference's loop is that of SVG-LP"
        self.config = model.config
        self._distinct_skip_frames = model.distinct_skip_frames
        self.encoder = copy.deepcopy(model.encoder)
        self.decoder = ConcatDecoder(model.decoder)
        self.predictor = SteppedPredictor(model.predictor)
        self.posterior = SteppedGaussian(model.posterior)
        self.prior = SteppedGaussian(model.prior)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over targets of the mean squared error, and of KL / B.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            eps: (T - 1, B, z_dim) noise of the posterior.
        """
        steps, batch = x.shape[:2]
        for part in (self.predictor, self.posterior, self.prior):
            part.core.reset(batch)
        mse, kl = x.new_zeros(()), x.new_zeros(())
        skips: list[Tensor] = []
        for t in range(1, steps):
            h, new_skips = self.encoder(x[t - 1])
            h_target, _ = self.encoder(x[t])
            if t <= self._distinct_skip_frames(steps):
                skips = new_skips
            mu_q, logvar_q = self.posterior(h_target)
            mu_p, logvar_p = self.prior(h)
            g = self.predictor(torch.cat([h, reparameterize(mu_q, logvar_q, eps[t - 1])], 1))
            mse = mse + nn.functional.mse_loss(self.decoder(g, skips), x[t])
            kl = kl + gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum() / batch
        return mse, kl


class ReferenceStep:
    """A whole training step: forward, backward, and one Adam per network."""

    def __init__(self, model: ReferenceSVG, lr: float, beta: float) -> None:
        self._model, self._beta = model.train(), beta
        parts = (model.predictor, model.posterior, model.prior, model.encoder, model.decoder)
        self._optimizers = [torch.optim.Adam(part.parameters(), lr=lr, betas=(0.9, 0.999)) for part in parts]

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


class ConcatDecoder(nn.Module):
    """g (B, g_dim), skips finest first -> frame: every stage is one transposed convolution of [d, skip]."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.head = copy.deepcopy(decoder.head)
        self.stages = nn.ModuleList(_concat_stage(stage) for stage in decoder.stages)

    def forward(self, g: Tensor, skips: list[Tensor]) -> Tensor:
        """Decode from the coarsest stage to the finest."""
        d = self.head(g[:, :, None, None])
        for stage, skip in zip(reversed(self.stages), reversed(skips), strict=True):
            d = stage(torch.cat([d, skip], 1))
        return d


class SteppedCore(nn.Module):
    """Linear -> LSTM cells, which keep their state in the module as the reference's do."""

    def __init__(self, core: RecurrentCore) -> None:
        super().__init__()
        self.embed = copy.deepcopy(core.embed)
        self.cells = nn.ModuleList(_cell(core.lstm, layer) for layer in range(core.lstm.num_layers))
        self._hidden: list[tuple[Tensor, Tensor]] = []

    def reset(self, batch: int) -> None:
        """All states to zero."""
        zeros = self.embed.weight.new_zeros(batch, self.embed.out_features)
        self._hidden = [(zeros, zeros) for _ in self.cells]

    def forward(self, inputs: Tensor) -> Tensor:
        """One step: (B, in) -> (B, rnn)."""
        x = self.embed(inputs)
        for layer, cell in enumerate(self.cells):
            self._hidden[layer] = cell(x, self._hidden[layer])
            x = self._hidden[layer][0]
        return x


class SteppedPredictor(nn.Module):
    """[h, z] (B, g_dim + z_dim) -> g (B, g_dim), one step."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.core, self.head = SteppedCore(predictor.core), copy.deepcopy(predictor.head)

    def forward(self, inputs: Tensor) -> Tensor:
        """One step."""
        return self.head(self.core(inputs))


class SteppedGaussian(nn.Module):
    """Posterior or prior: h (B, g_dim) -> mu, logvar (B, z_dim), one step."""

    def __init__(self, gaussian: GaussianLSTM) -> None:
        super().__init__()
        self.core = SteppedCore(gaussian.core)
        self.mu, self.logvar = copy.deepcopy(gaussian.mu), copy.deepcopy(gaussian.logvar)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step."""
        top = self.core(h)
        return self.mu(top), self.logvar(top)


def _concat_stage(stage: nn.Module) -> nn.Sequential:
    """conv_d(d) + conv_s(skip) written as conv([d, skip]): the weights are joined along the input channels."""
    assert isinstance(stage, SkipStage)
    weight = torch.cat([stage.from_d.weight, stage.from_skip.weight]).detach()
    conv = nn.ConvTranspose2d(weight.shape[0], weight.shape[1], 4, 2, 1)
    conv.weight = nn.Parameter(weight)
    conv.bias = copy.deepcopy(stage.from_d.bias)
    return nn.Sequential(conv, copy.deepcopy(stage.finish))


def _cell(lstm: nn.LSTM, layer: int) -> nn.LSTMCell:
    cell = nn.LSTMCell(lstm.input_size if layer == 0 else lstm.hidden_size, lstm.hidden_size)
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(getattr(lstm, f"{name}_l{layer}"))
    return cell
