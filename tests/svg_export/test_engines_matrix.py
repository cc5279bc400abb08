"""Every graph of the model matrix through NVIDIA's real parser and builder, for Turing, Ampere, Ada and Blackwell.

No GPU is needed, and none of these engines runs here. Graphs that cannot differ are built once: the recurrent ones know neither
backbone nor size, and encoder, skip and decoder do not know the prior.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from svg_export.engines import target_groups
from svg_export.families import FAMILY_EXPORTS
from svg_export.families.svg import fold, fused_graphs, separate_graphs
from svg_export.graph_export import GraphExport
from svg_export.to_onnx import export_graph
from svg_train.config import build_config
from svg_train.families import FAMILIES
from tests.conftest import random_model
from tests.families import TINY_MODELS
from tests.sample import sampled
from tests.svg_export.engine_helpers import TARGETS, build_for_all, rtx

TINY = {"nf": 2, "g_dim": 8, "rnn_size": 12, "n_past": 2}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
FRAMES = list(itertools.product(("dcgan", "vgg"), (64, 128), DTYPES))


def build(
    exports: dict[str, GraphExport], graph_names: tuple[str, ...], precision: str, targets: tuple[str, ...] = TARGETS
) -> None:
    rtx()
    for graph_name in graph_names:
        content = export_graph(exports[graph_name], graph_name, "0" * 16)
        computes = exports[graph_name].computes
        engines = build_for_all(content, f"{precision}/{graph_name}.onnx", precision, targets=targets, computes=computes)
        larger = [len(plan) > len(content) for plan in engines]  # weights and code
        assert larger == [True] * len(target_groups(targets)), graph_name


@pytest.mark.parametrize(
    ("backbone", "size", "channels", "precision"),
    sampled([(b, s, 1 + 2 * (s == 128), p) for b, s, p in FRAMES], {("dcgan", 64, 1, "fp16")}),
)
def test_encoder_skip_and_decoder_build(backbone, size, channels, precision):
    folded = fold(random_model(**TINY, backbone=backbone, image_size=size, channels=channels))
    build(separate_graphs(folded, DTYPES[precision]), ("encoder", "skip", "decoder"), precision)


@pytest.mark.parametrize(
    ("prior", "layers", "precision"),
    sampled(
        [("learned", 1, "fp32"), ("fixed", 2, "fp32"), ("none", 3, "fp32"), ("learned", 2, "fp16")], {("learned", 1, "fp32")}
    ),
)
def test_recurrent_graphs_build(prior, layers, precision):
    """At the sizes of the reference: LSTM cells of 256."""
    sizes = {"predictor_layers": layers, "posterior_layers": layers, "prior_layers": layers}
    parts = {"learned": ("posterior", "prior"), "fixed": ("posterior",), "none": ()}[prior]
    kept = {name: value for name, value in sizes.items() if name.split("_")[0] in ("predictor", *parts)}
    model = random_model(nf=2, g_dim=128, rnn_size=256, n_past=2 + layers, prior=prior, **kept)
    folded = fold(model)
    exports = separate_graphs(folded, DTYPES[precision]) | fused_graphs(folded, DTYPES[precision])
    build(exports, (*parts, "predictor", "prime"), precision)


@pytest.mark.parametrize(
    ("backbone", "size", "precision", "prior", "last_frame_skip"),
    sampled(
        [
            (*frame, prior, (index + later) % 2 == 1)
            for index, frame in enumerate(FRAMES)
            for later, prior in enumerate(("learned", "fixed", "none"))
        ],
        {("vgg", 64, "fp16", "learned", True)},
    ),
)  # fmt: skip
def test_fused_step_builds(backbone, size, precision, prior, last_frame_skip):
    model = {"backbone": backbone, "image_size": size, "prior": prior, "last_frame_skip": last_frame_skip}
    folded = fold(random_model(**TINY, **model))
    build(fused_graphs(folded, DTYPES[precision]), ("step",), precision)


# Turing cannot multiply two computed float32 matrices, which the attention of E3D-LSTM does.
TWO_TARGETS = {"e3d-lstm": ("sm86", "sm89")}


@pytest.mark.parametrize(
    ("name", "precision"),
    sampled(itertools.product(TINY_MODELS, DTYPES), {("predrnn", "fp16")}),
)
def test_graphs_of_every_family_build(name, precision):
    config = build_config({"model": TINY_MODELS[name]}).model
    torch.manual_seed(0)
    network = FAMILIES[config.family].build(config).eval()
    family = FAMILY_EXPORTS[config.family]
    exports = family.graphs(family.fold(network), DTYPES[precision], True)
    converted = [graph_name for graph_name, entry in exports.items() if precision == "fp32" or entry.computes != "float32"]
    build(exports, tuple(converted), precision, TWO_TARGETS.get(name, ("sm75", "sm86")))
