"""The parity gate compares Gaussians and states with what does not share the exported modules: a wrong module is caught."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from svg_export.families import FAMILY_EXPORTS, srvp
from svg_export.parity import ParityError, check_fp32
from svg_export.to_onnx import export_graph
from svg_train.families.video_model import VideoModel
from tests.conftest import random_model
from tests.svg_train.srvp.srvp_models import inputs, random_srvp

ONE_LAYER = {"predictor_layers": 1, "prior_layers": 1}  # so that the states of both have one shape


def exported(model: VideoModel, fused: bool = True) -> dict[str, bytes]:
    family = FAMILY_EXPORTS[model.config.family]
    graphs = family.graphs(family.fold(model), torch.float32, fused)
    return {graph_name: export_graph(graph_export, graph_name, "0" * 16) for graph_name, graph_export in graphs.items()}


@pytest.fixture(scope="module")
def srvp_contents() -> dict[str, bytes]:
    return exported(random_srvp())


@pytest.fixture(scope="module")
def svg_contents() -> dict[str, bytes]:
    return exported(random_model(**ONE_LAYER))


def swap(monkeypatch, contents: dict[str, bytes], family: str, graph_name: str, first: str, second: str) -> dict[str, bytes]:
    """Graphs as if their module returned two outputs in each other's place, for the gate too."""
    known = FAMILY_EXPORTS[family]
    other = {first: second, second: first}
    wrong = onnx.load_from_string(contents[graph_name])
    for node in wrong.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
        node.output[:] = [other.get(name, name) for name in node.output]

    def graphs(*arguments):
        made = known.graphs(*arguments)
        right = made[graph_name]
        return made | {graph_name: replace(right, outputs=[other.get(name, name) for name in right.outputs])}

    monkeypatch.setitem(FAMILY_EXPORTS, family, replace(known, graphs=graphs))
    return {**contents, graph_name: wrong.SerializeToString()}


def a_step_too_early(monkeypatch, module: type[nn.Module]) -> None:
    """Make prime of SRVP return the posterior of the frame before."""
    forward = module.forward

    def wrong(self, h_seq, eps):
        y, w, _, _, *prior = forward(self, h_seq, eps)
        posterior = self.model.observe(h_seq, eps, self.model.posterior_z.unrolled(h_seq)).posterior.at(-2)
        return (y, w, posterior.mu, posterior.logvar, *prior)

    monkeypatch.setattr(module, "forward", wrong)


def test_modules_that_are_right_pass_and_are_compared_with_the_network(srvp_contents):
    curves = check_fp32(random_srvp(), srvp_contents).curves
    assert {name for name in curves if "network" in name} == {
        "forecast.network.decode.frame", "forecast.network.step.mu", "forecast.network.step.logvar",
        "observe.network.prime.posterior_mu", "observe.network.prime.posterior_logvar", "observe.network.prime.prior_mu",
        "observe.network.prime.prior_logvar",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("graph_name", "first", "second"),
    [("prime", "posterior_mu", "posterior_logvar"), ("prime", "prior_mu", "prior_logvar"), ("step", "mu", "logvar")],
)
def test_gaussians_that_a_module_of_srvp_mixes_up_are_caught(graph_name, first, second, srvp_contents, monkeypatch):
    wrong = swap(monkeypatch, srvp_contents, family="srvp", graph_name=graph_name, first=first, second=second)
    with pytest.raises(ParityError, match=rf"network\.{graph_name}\.{first}"):
        check_fp32(random_srvp(), wrong)


def test_a_posterior_of_another_step_is_caught(srvp_contents, monkeypatch):
    a_step_too_early(monkeypatch, srvp.PrimeGraph)
    prime = srvp.graphs(srvp.fold(random_srvp()), torch.float32, True)["prime"]
    wrong = {**srvp_contents, "prime": export_graph(prime, "prime", "0" * 16)}
    with pytest.raises(ParityError, match=r"observe\.network\.prime\.posterior_mu"):
        check_fp32(random_srvp(), wrong)


@pytest.mark.parametrize(
    ("graph_name", "first", "second"),
    [
        ("prime", "posterior_mu", "posterior_logvar"),
        ("prime", "prior_mu", "posterior_mu"),
        ("prime", "predictor_state", "prior_state"),
        ("step", "mu", "logvar"),
        ("step", "predictor_state_out", "prior_state_out"),
        ("posterior", "mu", "logvar"),
    ],
)
@pytest.mark.slow  # the same gate as for srvp
def test_what_a_module_of_svg_mixes_up_is_caught(graph_name, first, second, svg_contents, monkeypatch):
    wrong = swap(monkeypatch, svg_contents, family="svg", graph_name=graph_name, first=first, second=second)
    with pytest.raises(ParityError, match=rf"\.{graph_name}\.{first}"):
        check_fp32(random_model(**ONE_LAYER), wrong)


@pytest.mark.slow
def test_svg_is_compared_with_the_network(svg_contents):
    """Every other kind passes the same gate in the model matrix."""
    curves = check_fp32(random_model(**ONE_LAYER), svg_contents).curves
    assert {"fused.observe.network.prime.posterior_logvar", "observe.network.posterior.mu"} <= curves.keys()


def test_the_latents_are_those_of_the_forecast():
    """The prior of each step must be the one whose draw gives the next frame."""
    model = random_srvp()
    x, noise, past = inputs(model)
    latents = model.latents(x, noise, past)
    h, _ = model._read(x)
    y = model.prime(h, past).y
    for step, eps in enumerate(noise):
        y, prior = model.step(y, eps)
        torch.testing.assert_close(latents.mu[step], prior.mu)
        torch.testing.assert_close(latents.logvar[step], prior.logvar)
