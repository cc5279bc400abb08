"""One wrapper module per exported graph: its docstring is the graph's contract. `batch` is the only dynamic axis.

All wrappers work on a copy of the model whose BatchNorm is folded into the convolutions, exact up to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from svg_train.backbones import Decoder, Encoder, SkipStage
from svg_train.model import SVG
from svg_train.recurrent import GaussianLSTM, Predictor


class EncoderGraph(nn.Module):
    """frame (B, C, S, S) float32 in [0, 1] -> h (B, g_dim) float32, skip_0 ... skip_{n-1}, finest first."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.dtype = encoder.to(dtype), dtype

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Frame and encoding are float32 in every variant; skips have the variant's type."""
        h, skips = self.encoder(frame.to(self.dtype))
        return h.float(), *skips


class SkipGraph(nn.Module):
    """skip_* (B, c, s, s) -> cond_* (B, c', 2s, 2s): the half of the decoder that a forecast computes once."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = decoder.to(dtype)

    def forward(self, skips: list[Tensor]) -> tuple[Tensor, ...]:
        """Skips and conditions have the variant's type."""
        return tuple(self.decoder.condition(skips))


class DecoderGraph(nn.Module):
    """g (B, g_dim) float32, cond_* (1 or B, ...) -> frame (B, C, S, S) float32 in [0, 1]."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder, self.dtype = decoder.to(dtype), dtype

    def forward(self, g: Tensor, cond: list[Tensor]) -> Tensor:
        """Conditions at batch 1 are broadcast over the batch."""
        return self.decoder(g.to(self.dtype), cond).float()


class GaussianGraph(nn.Module):
    """h (B, g_dim), state (2 * layers, B, rnn) -> mu, logvar (B, z_dim), state_out. Always float32."""

    def __init__(self, lstm: GaussianLSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of posterior or prior. The state is h_0, c_0, h_1, c_1, ..."""
        return self.lstm.step(h, state)


class PredictorGraph(nn.Module):
    """h (B, g_dim), z (B, z_dim), state (2 * layers, B, rnn) -> g (B, g_dim), state_out. Always float32."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, h: Tensor, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the frame predictor."""
        return self.predictor.step(h, z, state)


@dataclass(frozen=True)
class GraphPlan:
    """What the exporter needs to know of one graph."""

    module: nn.Module
    example: tuple[Tensor | list[Tensor], ...]  # at batch EXAMPLE_BATCH, but for `shared` inputs
    inputs: list[str]
    outputs: list[str]
    states: dict[str, str]  # input -> output
    shared: tuple[str, ...] = ()  # inputs of batch 1 or B, exported at batch 1


EXAMPLE_BATCH = 2


def fold_batch_norm(model: SVG) -> SVG:
    """A copy of `model` in evaluation mode without BatchNorm: scales and shifts move into the convolutions around.

    Folded in float64 and rounded once, so that only the last bit of a weight differs.
    """
    folded = copy.deepcopy(model).eval().double()
    encoder, decoder = folded.encoder, folded.decoder
    blocks: list[Any] = [*encoder.stages, encoder.head, decoder.head]  # nn.Sequential's items have no static type
    for block in blocks:
        block[0] = fuse_conv_bn_eval(block[0], block[1], transpose=block is decoder.head)
        block[1] = nn.Identity()
    for stage in decoder.stages:
        assert isinstance(stage, SkipStage)
        if isinstance(stage.finish, nn.Sequential):  # all but the last, which has none
            norm: Any = stage.finish[0]
            stage.from_d = fuse_conv_bn_eval(stage.from_d, norm, transpose=True)
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            stage.from_skip.weight = nn.Parameter(stage.from_skip.weight * scale[None, :, None, None])
            stage.finish[0] = nn.Identity()
    return folded.to(next(model.parameters()).dtype)


def separate_graphs(folded: SVG, dtype: torch.dtype) -> dict[str, GraphPlan]:
    """The six graphs of a bundle by role. `dtype` is that of convolutions; recurrent parts and Gaussians stay float32."""
    c, batch = folded.config, EXAMPLE_BATCH
    encoder = EncoderGraph(copy.deepcopy(folded.encoder), dtype)
    skip_graph, decoder = (kind(copy.deepcopy(folded.decoder), dtype) for kind in (SkipGraph, DecoderGraph))
    frame = torch.rand(batch, c.channels, c.image_size, c.image_size)
    with torch.no_grad():
        skips = list(encoder(frame)[1:])
        conds = [cond[:1] for cond in skip_graph(skips)]
    h, z, g = torch.rand(batch, c.g_dim), torch.rand(batch, c.z_dim), torch.rand(batch, c.g_dim)
    skip_names = [f"skip_{index}" for index in range(len(skips))]
    cond_names = [f"cond_{index}" for index in range(len(conds))]
    state = {"state": "state_out"}

    def gaussian(lstm: GaussianLSTM) -> GraphPlan:
        example = (h, lstm.core.initial_state(batch))
        return GraphPlan(GaussianGraph(lstm), example, ["h", "state"], ["mu", "logvar", "state_out"], state)

    return {
        "encoder": GraphPlan(encoder, (frame,), ["frame"], ["h", *skip_names], {}),
        "skip": GraphPlan(skip_graph, (skips,), skip_names, cond_names, {}),
        "posterior": gaussian(folded.posterior),
        "prior": gaussian(folded.prior),
        "predictor": GraphPlan(
            PredictorGraph(folded.predictor),
            (h, z, folded.predictor.core.initial_state(batch)),
            ["h", "z", "state"],
            ["g", "state_out"],
            state,
        ),
        "decoder": GraphPlan(decoder, (g, conds), ["g", *cond_names], ["frame"], {}, shared=tuple(cond_names)),
    }
