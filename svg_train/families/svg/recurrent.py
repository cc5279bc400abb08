"""Recurrent parts: Linear -> n LSTM layers -> head. Whole sequences for training, single steps for forecasts.

A state is one tensor (2 * layers, B, rnn): h_0, c_0, h_1, c_1, ... so that it travels through a graph as one input and
one output. It starts at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RecurrentCore(nn.Module):
    """Linear(in, rnn) and `layers` LSTM layers of size rnn: the part that predictor, posterior and prior share."""

    def __init__(self, input_size: int, rnn_size: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, rnn_size)
        self.lstm = nn.LSTM(rnn_size, rnn_size, layers)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros (2 * layers, batch, rnn)."""
        return self.embed.weight.new_zeros(2 * self.lstm.num_layers, batch, self.lstm.hidden_size)

    def sequence(self, inputs: Tensor) -> Tensor:
        """(T, B, in) from the zero state -> top hidden states (T, B, rnn)."""
        hidden: Tensor = self.lstm(self.embed(inputs))[0]
        return hidden

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in) and state (2 * layers, B, rnn) -> top hidden state (B, rnn) and the next state."""
        x, states = self.embed(inputs), []
        for layer in range(self.lstm.num_layers):
            x, c = self._cell(x, state[2 * layer], state[2 * layer + 1], layer)
            states += [x, c]
        return x, torch.stack(states)

    def _cell(self, x: Tensor, h_prev: Tensor, c_prev: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        # Written out, not torch.lstm_cell, so that every ONNX consumer gets plain matrix products.
        weights = (getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh"))
        w_ih, b_ih, w_hh, b_hh = weights
        gates = functional.linear(x, w_ih, b_ih) + functional.linear(h_prev, w_hh, b_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c_prev + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Predictor(nn.Module):
    """Frame predictor: [h_{t-1}, z_t], or h_{t-1} alone -> g_t in (-1, 1), size g_dim."""

    def __init__(self, g_dim: int, z_dim: int, rnn_size: int, layers: int) -> None:
        super().__init__()
        self.core = RecurrentCore(g_dim + z_dim, rnn_size, layers)
        self.head = nn.Sequential(nn.Linear(rnn_size, g_dim), nn.Tanh())

    def sequence(self, h: Tensor, z: Tensor | None) -> Tensor:
        """h (T, B, g_dim), z (T, B, z_dim), or None in a model without latents -> g (T, B, g_dim)."""
        g: Tensor = self.head(self.core.sequence(_joined(h, z)))
        return g

    def step(self, h: Tensor, z: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, g_dim), z (B, z_dim) or None, state -> g (B, g_dim), next state."""
        top, state = self.core.step(_joined(h, z), state)
        return self.head(top), state


class GaussianLSTM(nn.Module):
    """Posterior or prior: h -> mu and logvar of z, each of size z_dim."""

    def __init__(self, g_dim: int, z_dim: int, rnn_size: int, layers: int) -> None:
        super().__init__()
        self.core = RecurrentCore(g_dim, rnn_size, layers)
        self.mu = nn.Linear(rnn_size, z_dim)
        self.logvar = nn.Linear(rnn_size, z_dim)

    def sequence(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (T, B, g_dim) -> mu, logvar (T, B, z_dim)."""
        top = self.core.sequence(h)
        return self.mu(top), self.logvar(top)

    def step(self, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, g_dim), state -> mu, logvar (B, z_dim), next state."""
        top, state = self.core.step(h, state)
        return self.mu(top), self.logvar(top), state


def _joined(h: Tensor, z: Tensor | None) -> Tensor:
    return h if z is None else torch.cat([h, z], -1)
