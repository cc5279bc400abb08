"""The graphs of the family `svg`, one wrapper module per graph: its docstring is the graph's contract.

All wrappers work on a copy of the model whose BatchNorm is folded into the convolutions, exact up to rounding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from svg_export.batch_norm import fold_batch_norm
from svg_export.frame_graphs import EncoderGraph, SkipGraph
from svg_export.graph_export import EXAMPLE_BATCH, GraphExport, widened
from svg_train.families.svg import SvgConfig
from svg_train.families.svg.backbones import Decoder, SkipStage
from svg_train.families.svg.model import SVG
from svg_train.families.svg.recurrent import GaussianLSTM, Predictor, RecurrentCore
from svg_train.families.svg.spatial import ConvCore, ConvGaussian, ConvPredictor

Core = RecurrentCore | ConvCore
Gaussian = GaussianLSTM | ConvGaussian
AnyPredictor = Predictor | ConvPredictor


class DecoderGraph(nn.Module):
    """g (B, g_dim) float32, cond_* (1 or B, ...) -> frame (B, C, S, S) float32 in [0, 1]."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = decoder.to(dtype)
        self.dtype = dtype

    def forward(self, g: Tensor, cond: list[Tensor]) -> Tensor:
        """Conditions at batch 1 are broadcast over the batch."""
        frame: Tensor = self.decoder(g.to(self.dtype), cond)
        return widened(frame, self.dtype)


class GaussianGraph(nn.Module):
    """h (B, g_dim), state (2 * layers, B, rnn) -> mu, logvar (B, z_dim), state_out. Always float32."""

    def __init__(self, lstm: Gaussian) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of posterior or prior. The state is h_0, c_0, h_1, c_1, ..."""
        return self.lstm.step(h, state)


class PredictorGraph(nn.Module):
    """h (B, g_dim), z (B, z_dim), state (2 * layers, B, rnn) -> g (B, g_dim), state_out. Always float32."""

    def __init__(self, predictor: AnyPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, h: Tensor, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the frame predictor."""
        return self.predictor.step(h, z, state)


class DeterministicPredictorGraph(nn.Module):
    """h (B, g_dim), state (2 * layers, B, rnn) -> g (B, g_dim), state_out: the predictor of a model without latents."""

    def __init__(self, predictor: AnyPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the frame predictor."""
        return self.predictor.step(h, None, state)


class PrimeGraph(nn.Module):
    """Reads a whole context at once: posterior, prior and predictor over all of its frames.

    h_seq (n_past, 1 or B, g_dim), eps (n_past - 1, B, z_dim) -> the states of predictor and prior at batch B, and mu, logvar of
    posterior and prior at the last step (1 or B, z_dim), for the surprise. Parts that the model lacks have no tensors.
    """

    def __init__(self, model: SVG) -> None:
        super().__init__()
        self.predictor = model.predictor
        self.posterior = model.posterior
        self.prior = model.prior

    def forward(self, h_seq: Tensor, eps: Tensor | None = None) -> tuple[Tensor, ...]:
        """Steps in the order of the generation rule; posterior and prior run once for all samples when h_seq is at batch 1."""
        steps = h_seq.shape[0] - 1
        predictor_state = _initial_state(self.predictor.core, h_seq[0] if eps is None else eps[0])
        if eps is None:
            for step in range(steps):
                _, predictor_state = self.predictor.step(h_seq[step], None, predictor_state)
            return (predictor_state,)
        gaussians = [_read(part, h) for part, h in ((self.posterior, h_seq[1:]), (self.prior, h_seq[:-1])) if part is not None]
        mus, logvars, _ = gaussians[0]
        for step in range(steps):
            z = mus[step] + (0.5 * logvars[step]).exp() * eps[step]
            _, predictor_state = self.predictor.step(_repeated(h_seq[step], eps[0]), z, predictor_state)
        states = [_repeated(state, eps[0]) for _, _, state in gaussians[1:]]
        last = [value for mu, logvar, _ in gaussians for value in (mu[-1], logvar[-1])]
        return (predictor_state, *states, *last)


class StepGraph(nn.Module):
    """One forecast frame and its encoding: prior, predictor, decoder, encoder in one graph.

    h (B, g_dim), cond_* (1 or B, ...), eps (B, z_dim), states -> frame (B, C, S, S), h_out, mu, logvar, states_out. Nothing has
    to be copied to the host between two steps. With last_frame_skip the conditions are states too: cond_i -> cond_i_out.
    """

    def __init__(self, model: SVG, dtype: torch.dtype) -> None:
        super().__init__()
        self.predictor = model.predictor
        self.prior = model.prior
        self.encoder = EncoderGraph(copy.deepcopy(model.encoder), dtype)
        self.decoder = copy.deepcopy(model.decoder)
        self.decode = DecoderGraph(self.decoder, dtype)
        self.condition = SkipGraph(self.decoder, dtype)
        self.last_frame_skip = model.config.last_frame_skip

    def forward(self, h: Tensor, cond: list[Tensor], predictor_state: Tensor, eps: Tensor | None = None,
                prior_state: Tensor | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        """Recurrent parts in float32, convolutions in the variant's type."""
        z = eps
        prior: tuple[Tensor, ...] = ()
        if self.prior is not None:
            assert prior_state is not None
            assert eps is not None
            mu, logvar, prior_state = self.prior.step(h, prior_state)
            z, prior = mu + (0.5 * logvar).exp() * eps, (prior_state, mu, logvar)
        g, predictor_state = self.predictor.step(h, z, predictor_state)
        frame = self.decode(g, cond)
        h_out, *skips = self.encoder(frame)
        conds = self.condition(skips) if self.last_frame_skip else ()
        return (frame, h_out, predictor_state, *prior, *conds)


def _repeated(values: Tensor, like: Tensor) -> Tensor:
    """`values` of batch 1 or B at the batch of `like` (B, ...), by adding zeros: vectors and states of LSTMs, or maps.

    Expanding would compute the shape at run time, which ONNX Runtime does on the processor, also where the rest is on a GPU
    (onnxruntime #17930); and the exporter would fix a batch of 1 or B to 1.
    """
    zeros = like.flatten(1)[:, :1] * 0
    return values + (zeros[..., None, None] if values.dim() == 4 else zeros)


def _initial_state(core: Core, like: Tensor) -> Tensor:
    """Zeros at the batch of `like` (B, ...)."""
    return _repeated(core.initial_state(1), like)


def _read(part: Gaussian, h_seq: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """mu and logvar per step, and the last state."""
    state, mus, logvars = _initial_state(part.core, h_seq[0]), [], []
    for step in range(h_seq.shape[0]):
        mu, logvar, state = part.step(h_seq[step], state)
        mus.append(mu)
        logvars.append(logvar)
    return mus, logvars, state


def fold(model: SVG) -> SVG:
    """A copy of `model` without BatchNorm."""
    return fold_batch_norm(model, SkipStage, "from_skip")


def graphs(folded: SVG, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    """All graphs of a bundle by name, with or without those that are composed of the others."""
    return separate_graphs(folded, dtype) | (fused_graphs(folded, dtype) if fused else {})


def separate_graphs(folded: SVG, dtype: torch.dtype) -> dict[str, GraphExport]:
    """The six graphs of SVG-LP, or those that the model has.

    `dtype` is that of convolutions; recurrent parts and Gaussians stay float32.
    """
    c, batch = folded.config, EXAMPLE_BATCH
    encoder = EncoderGraph(copy.deepcopy(folded.encoder), dtype)
    skip_graph, decoder = (kind(copy.deepcopy(folded.decoder), dtype) for kind in (SkipGraph, DecoderGraph))
    frame = torch.rand(batch, c.channels, c.image_size, c.image_size)
    with torch.no_grad():
        skips = list(encoder(frame)[1:])
        conds = [cond[:1] for cond in skip_graph(skips)]
    skip_names = [f"skip_{index}" for index in range(len(skips))]
    cond_names = [f"cond_{index}" for index in range(len(conds))]
    graphs = {
        "encoder": GraphExport(module=encoder, example=(frame,), inputs=["frame"], outputs=["h", *skip_names]),
        **_recurrent_graphs(folded),
        "decoder": GraphExport(
            module=decoder,
            example=(_random_h(c), conds),
            inputs=["g", *cond_names],
            outputs=["frame"],
            shared=tuple(cond_names),
        ),
    }
    if skips:
        graphs["skip"] = GraphExport(module=skip_graph, example=(skips,), inputs=skip_names, outputs=cond_names)
    return graphs


def _recurrent_graphs(model: SVG) -> dict[str, GraphExport]:
    c, state = model.config, {"state": "state_out"}
    h, z, axes = _random_h(c), torch.rand(EXAMPLE_BATCH, c.noise_dim), _state_axes(c, ["state", "state_out"])
    graphs = {}
    for graph_name, gaussian in (("posterior", model.posterior), ("prior", model.prior)):
        if gaussian is not None:
            example = (h, gaussian.core.initial_state(EXAMPLE_BATCH))
            graphs[graph_name] = GraphExport(
                module=GaussianGraph(gaussian),
                example=example,
                inputs=["h", "state"],
                outputs=["mu", "logvar", "state_out"],
                states=state,
                batch_axes=axes,
                computes="float32",
            )
    outputs, start = ["g", "state_out"], model.predictor.core.initial_state(EXAMPLE_BATCH)
    if model.posterior is None:
        module: nn.Module = DeterministicPredictorGraph(model.predictor)
        arguments, inputs = [h, start], ["h", "state"]
    else:
        module, arguments, inputs = PredictorGraph(model.predictor), [h, z, start], ["h", "z", "state"]
    graphs["predictor"] = GraphExport(
        module=module,
        example=tuple(arguments),
        inputs=inputs,
        outputs=outputs,
        states=state,
        batch_axes=axes,
        computes="float32",
    )
    return graphs


def fused_graphs(folded: SVG, dtype: torch.dtype) -> dict[str, GraphExport]:
    """The two graphs of a forecast, composed of the same modules as the separate ones."""
    return {"prime": _prime(folded), "step": _step(folded, dtype)}


def _prime(model: SVG) -> GraphExport:
    c = model.config
    example = [torch.stack([_random_h(c, 1 if model.posterior is not None else EXAMPLE_BATCH)] * c.n_past)]
    inputs, outputs = ["h_seq"], ["predictor_state"]
    if model.posterior is not None:
        example.append(torch.rand(c.n_past - 1, EXAMPLE_BATCH, c.noise_dim))
        inputs.append("eps")
        outputs += ["prior_state"] if model.prior is not None else []
        outputs += ["posterior_mu", "posterior_logvar"]
        outputs += ["prior_mu", "prior_logvar"] if model.prior is not None else []
    of_context = [name for name in outputs if not name.endswith("state")]
    shared = ("h_seq", *of_context) if model.posterior is not None else ()  # the same for all samples
    return GraphExport(
        module=PrimeGraph(model),
        example=tuple(example),
        inputs=inputs,
        outputs=outputs,
        shared=shared,
        batch_axes={"h_seq": 1, "eps": 1, **_state_axes(c, outputs)},
        computes="float32",
    )


def _step(model: SVG, dtype: torch.dtype) -> GraphExport:
    c, batch = model.config, EXAMPLE_BATCH
    graph = StepGraph(model, dtype)
    frame = torch.rand(1, c.channels, c.image_size, c.image_size)
    with torch.no_grad():
        conds = list(graph.condition(list(graph.encoder(frame)[1:])))
    cond_names = [f"cond_{index}" for index in range(len(conds))]
    example: list[Tensor | list[Tensor]] = [_random_h(c), conds, model.predictor.core.initial_state(batch)]
    inputs, outputs = ["h", *cond_names, "predictor_state"], ["frame", "h_out", "predictor_state_out"]
    states = {"h": "h_out", "predictor_state": "predictor_state_out"}
    if model.posterior is not None:
        example.append(torch.rand(batch, c.noise_dim))
        inputs.append("eps")
    if model.prior is not None:
        example.append(model.prior.core.initial_state(batch))
        inputs.append("prior_state")
        outputs += ["prior_state_out", "mu", "logvar"]
        states["prior_state"] = "prior_state_out"
    if c.last_frame_skip:
        outputs += [f"{name}_out" for name in cond_names]
        states |= {name: f"{name}_out" for name in cond_names}
    return GraphExport(
        module=graph,
        example=tuple(example),
        inputs=inputs,
        outputs=outputs,
        states=states,
        shared=tuple(cond_names),
        batch_axes=_state_axes(c, [*inputs, *outputs]),
        computes="mixed" if c.latent == "spatial" else "variant",
    )


def _random_h(config: SvgConfig, batch: int = EXAMPLE_BATCH) -> Tensor:
    """Anything in the shape of h."""
    sides = (config.map_size, config.map_size) if config.latent == "spatial" else ()
    return torch.rand(batch, config.g_dim, *sides)


def _state_axes(config: SvgConfig, names: list[str]) -> dict[str, int]:
    """The batch axis of those tensors that are states: of vectors (2 * layers, B, rnn), of maps (B, 2 * layers * rnn, s, s)."""
    axis = 0 if config.latent == "spatial" else 1
    return {name: axis for name in names if name.removesuffix("_out").endswith("state")}
