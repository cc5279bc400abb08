"""The graphs of the family `srvp`. A forecast steps the state y alone, and decodes the frames of all steps at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from svg_export.batch_norm import fold_batch_norm
from svg_export.frame_graphs import EncoderGraph, SkipGraph
from svg_export.graph_export import EXAMPLE_BATCH, GraphExport, widened
from svg_train.families.srvp.backbones import Decoder, SplitStage
from svg_train.families.srvp.model import SrvpModel


class PrimeGraph(nn.Module):
    """Reads a whole context at once.

    h_seq (n_past, 1 or B, nhx), eps (n_past, B, noise_dim) -> y (B, ny) of the last frame, content w (1 or B, size), and mu and
    logvar of posterior and prior of the z that led to it. Always float32.
    """

    def __init__(self, model: SrvpModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, h_seq: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """The first draw is for y of the first frame, the others for z."""
        primed = self.model.prime(h_seq, eps)
        return primed.y, primed.w, primed.posterior.mu, primed.posterior.logvar, primed.prior.mu, primed.prior.logvar


class StepGraph(nn.Module):
    """y (B, ny), eps (B, noise_dim) -> latent and y_out, both y of the next frame; mu, logvar (B, nz). Always float32."""

    def __init__(self, model: SrvpModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """One frame on, with z from the prior."""
        following, prior = self.model.step(y, eps)
        return following.clone(), following, prior.mu, prior.logvar


class DecodeGraph(nn.Module):
    """latent (N, ny), w (1 or N, size) float32, cond_* (1 or N, ...) -> frame (N, C, S, S) float32 in [0, 1]."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = decoder.to(dtype)
        self.dtype = dtype

    def forward(self, latent: Tensor, w: Tensor, cond: list[Tensor]) -> Tensor:
        """N may be all samples of all steps."""
        return widened(self.decoder(latent.to(self.dtype), w.to(self.dtype), cond), self.dtype)


def fold(model: SrvpModel) -> SrvpModel:
    """A copy of `model` without BatchNorm."""
    return fold_batch_norm(model, SplitStage, "from_cond")


def graphs(folded: SrvpModel, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    """All graphs by name. There are no separate ones that `fused` could leave out."""
    c, recurrent = folded.config, copy.deepcopy(folded)
    encoder = EncoderGraph(copy.deepcopy(folded.encoder), dtype)
    skip, decode = (kind(copy.deepcopy(folded.decoder), dtype) for kind in (SkipGraph, DecodeGraph))
    with torch.no_grad():
        skips = list(encoder(torch.rand(EXAMPLE_BATCH, c.channels, c.image_size, c.image_size))[1:])
        conds = [cond[:1] for cond in skip(skips)]
    skip_names = [f"skip_{index}" for index in range(len(skips))]
    cond_names = [f"cond_{index}" for index in range(len(conds))]
    made = {
        "encoder": GraphExport(
            module=encoder,
            example=(torch.rand(EXAMPLE_BATCH, c.channels, c.image_size, c.image_size),),
            inputs=["frame"],
            outputs=["h", *skip_names],
        ),
        "prime": _prime(recurrent),
        "step": GraphExport(
            module=StepGraph(recurrent),
            example=(torch.rand(EXAMPLE_BATCH, c.ny), torch.rand(EXAMPLE_BATCH, c.noise_dim)),
            inputs=["y", "eps"],
            outputs=["latent", "y_out", "mu", "logvar"],
            states={"y": "y_out"},
            computes="float32",
        ),
        "decode": GraphExport(
            module=decode,
            example=(torch.rand(EXAMPLE_BATCH, c.ny), torch.rand(1, c.inference_size), conds),
            inputs=["latent", "w", *cond_names],
            outputs=["frame"],
            shared=("w", *cond_names),
        ),
    }
    if skips:
        made["skip"] = GraphExport(module=skip, example=(skips,), inputs=skip_names, outputs=cond_names)
    return made


def _prime(model: SrvpModel) -> GraphExport:
    c = model.config
    return GraphExport(
        module=PrimeGraph(model),
        example=(torch.rand(c.n_past, 1, c.nhx), torch.rand(c.n_past, EXAMPLE_BATCH, c.noise_dim)),
        inputs=["h_seq", "eps"],
        outputs=["y", "w", "posterior_mu", "posterior_logvar", "prior_mu", "prior_logvar"],
        shared=("h_seq", "w", "posterior_mu", "posterior_logvar"),  # the same for all samples
        batch_axes={"h_seq": 1, "eps": 1},
        computes="float32",
    )
