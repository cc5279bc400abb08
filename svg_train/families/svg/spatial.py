"""Recurrent parts over maps (Villegas et al. 2019): 3x3 convolution -> n ConvLSTM layers -> 3x3 heads, s the side of a map.

The methods are those of `recurrent`. A state is one tensor (B, 2 * layers * rnn, s, s): the channels of h_0, c_0, h_1, c_1, ...
one after the other. It starts at zero.

Latents are maps inside and flat vectors outside: z, mu and logvar are (B, z_dim * s * s), channels first, then rows, then
columns, so that noise, the Gaussians and their divergence are the same code as for vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvCore(nn.Module):
    """Convolution (in -> rnn) and `layers` ConvLSTM layers of rnn channels: what predictor, posterior and prior share."""

    def __init__(self, input_size: int, rnn_size: int, layers: int, map_size: int) -> None:
        super().__init__()
        self.rnn_size = rnn_size
        self.map_size = map_size
        self.embed = _conv(input_size, rnn_size)
        self.cells = nn.ModuleList(ConvLSTMCell(rnn_size) for _ in range(layers))

    def initial_state(self, batch: int) -> Tensor:
        """Zeros (batch, 2 * layers * rnn, s, s)."""
        channels = 2 * len(self.cells) * self.rnn_size
        return self.embed.weight.new_zeros(batch, channels, self.map_size, self.map_size)

    def sequence(self, inputs: Tensor) -> Tensor:
        """(T, B, in, s, s) from the zero state -> top hidden states (T, B, rnn, s, s)."""
        x = over_time(self.embed, inputs)
        for cell in self._cells():
            x = cell.sequence(x)
        return x

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in, s, s) and state -> top hidden state (B, rnn, s, s) and the next state."""
        x, before, after = self.embed(inputs), state.split(self.rnn_size, dim=1), []
        for layer, cell in enumerate(self._cells()):
            x, c = cell(x, before[2 * layer], before[2 * layer + 1])
            after += [x, c]
        return x, torch.cat(after, 1)

    def _cells(self) -> list[ConvLSTMCell]:
        return cast("list[ConvLSTMCell]", list(self.cells))


class ConvLSTMCell(nn.Module):
    """i, f, o, g = conv([x, h]); c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')."""

    def __init__(self, rnn_size: int) -> None:
        super().__init__()
        self.rnn_size = rnn_size
        self.conv = _conv(2 * rnn_size, 4 * rnn_size)

    def forward(self, x: Tensor, h_prev: Tensor, c_prev: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x, h and c, each (B, rnn, s, s) -> the next h and c."""
        return self._gate(self.conv(torch.cat([x, h_prev], 1)), c_prev)

    def sequence(self, x: Tensor) -> Tensor:
        """x (T, B, rnn, s, s) from the zero state -> h of all steps.

        The half of the convolution that reads x runs once for all of them.
        """
        of_x, of_h = self.conv.weight.split(self.rnn_size, dim=1)
        from_x = over_time(lambda flat: functional.conv2d(flat, of_x, self.conv.bias, padding=1), x)
        h = c = torch.zeros_like(from_x[0, :, : self.rnn_size])
        hidden: list[Tensor] = []
        for step in from_x:
            gates = step + functional.conv2d(h, of_h, padding=1) if hidden else step
            h, c = self._gate(gates, c)
            hidden.append(h)
        return torch.stack(hidden)

    @staticmethod
    def _gate(gates: Tensor, c_prev: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c_prev + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvPredictor(nn.Module):
    """Frame predictor: [h_{t-1}, z_t], or h_{t-1} alone -> g_t in (-1, 1), maps of g_dim channels."""

    def __init__(self, g_dim: int, z_dim: int, rnn_size: int, layers: int, map_size: int) -> None:
        super().__init__()
        self.core = ConvCore(g_dim + z_dim, rnn_size, layers, map_size)
        self.head = nn.Sequential(_conv(rnn_size, g_dim), nn.Tanh())

    def sequence(self, h: Tensor, z: Tensor | None) -> Tensor:
        """h (T, B, g_dim, s, s), flat z (T, B, z_dim * s * s), or None in a model without latents -> g, shaped as h."""
        return over_time(self.head, self.core.sequence(_joined(h, z)))

    def step(self, h: Tensor, z: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, g_dim, s, s), flat z (B, z_dim * s * s) or None, state -> g, shaped as h, and the next state."""
        top, state = self.core.step(_joined(h, z), state)
        return self.head(top), state


class ConvGaussian(nn.Module):
    """Posterior or prior: h -> mu and logvar of z, each flat."""

    def __init__(self, g_dim: int, z_dim: int, rnn_size: int, layers: int, map_size: int) -> None:
        super().__init__()
        self.core = ConvCore(g_dim, rnn_size, layers, map_size)
        self.mu = _conv(rnn_size, z_dim)
        self.logvar = _conv(rnn_size, z_dim)

    def sequence(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (T, B, g_dim, s, s) -> mu, logvar (T, B, z_dim * s * s)."""
        top = self.core.sequence(h)
        return over_time(self.mu, top).flatten(2), over_time(self.logvar, top).flatten(2)

    def step(self, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, g_dim, s, s), state -> mu, logvar (B, z_dim * s * s), next state."""
        top, state = self.core.step(h, state)
        return self.mu(top).flatten(1), self.logvar(top).flatten(1), state


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer to all maps of x (T, B, c, s, s) in one call."""
    applied: Tensor = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return applied


def _joined(h: Tensor, z: Tensor | None) -> Tensor:
    """The maps of h (..., g_dim, s, s) and those of a flat z (..., z_dim * s * s)."""
    return h if z is None else torch.cat([h, z.unflatten(-1, (-1, *h.shape[-2:]))], -3)


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)
