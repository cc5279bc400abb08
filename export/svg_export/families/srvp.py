"""The graphs of the family `srvp`. A forecast steps the state y alone, and decodes the frames of all steps at once."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from svg_export.batch_norm import fold_batch_norm, fold_into_sum
from svg_export.frame_graphs import EncoderGraph, SkipGraph
from svg_export.graph_export import EXAMPLE_BATCH, GraphExport, widened
from svg_train.families.srvp.backbones import Decoder, SplitStage
from svg_train.families.srvp.latents import Dynamics
from svg_train.families.srvp.model import SrvpModel


class ExportedDynamics(nn.Module):
    """The residual steps of `Dynamics` in a form that OpenVINO's CPU plugin (2026.4.1) compiles.

    It crashes on two steps in a row that concatenate [y, z], at some batches: so the first layer is two halves, and z's is
    computed once. And it crashes on y + (x W + b) where layers of up to 256 read y, which it takes for one chain: so the last
    bias goes to y before the product.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        first, *others = dynamics.f
        assert isinstance(first, nn.Linear)
        last: Any = others.pop() if others else None
        ny = first.out_features if last is None else last.out_features
        assert isinstance(ny, int)
        self.of_y = nn.Parameter(first.weight[:, :ny].clone())
        self.of_z = nn.Parameter(first.weight[:, ny:].clone())
        self.first_bias = nn.Parameter(first.bias.clone())
        self.hidden = nn.Sequential(*others)
        self.last_weight: Any = None
        self.last_bias: Any = None
        self.steps = dynamics.steps
        if last is not None:
            self.last_weight = nn.Parameter(last.weight / self.steps)
            self.last_bias = nn.Parameter(last.bias / self.steps)

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """y (B, ny) of a frame, z (B, nz) leading to the next -> y of that, and no residuals: only training needs them."""
        from_z = functional.linear(z, self.of_z, self.first_bias)
        for _ in range(self.steps):
            x = from_z + functional.linear(y, self.of_y)
            if self.last_weight is None:
                y = y + x / self.steps
            else:
                y = (y + self.last_bias) + functional.linear(self.hidden(x), self.last_weight)
        return y, []


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
    return fold_batch_norm(model, _fold_part)


def _fold_part(part: nn.Module) -> bool:
    if not isinstance(part, SplitStage):
        return False
    if isinstance(part.finish, nn.Sequential):  # else it ends in the image, without BatchNorm
        part.from_d = fold_into_sum(part.from_d, part.from_cond, part.finish[0])
        part.finish[0] = nn.Identity()
    return True


def graphs(folded: SrvpModel, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    """All graphs by name. There are no separate ones that `fused` could leave out."""
    c, recurrent = folded.config, copy.deepcopy(folded)
    recurrent.dynamics = ExportedDynamics(recurrent.dynamics)  # type: ignore[assignment]
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
