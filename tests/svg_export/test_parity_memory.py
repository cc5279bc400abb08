"""The parity gate compares as it goes: of the states of a long run, those of the step at hand are in memory, and no others."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch

from svg_export import parity
from svg_export.families import FAMILY_EXPORTS
from svg_export.parity_loop import FORECAST_STEPS, OnnxGraphs, TorchGraphs
from svg_export.to_onnx import export_graph
from svg_train.config import build_config
from svg_train.families import FAMILIES
from tests.families import TINY_MODELS
from tests.sample import sampled

IMPLEMENTATIONS = 3  # PyTorch, PyTorch in float64, and the graphs
AT_HAND = 2  # a state that a step reads, and the one that it gives


def random_network(name: str, **changed):
    torch.manual_seed(0)
    config = build_config({"model": {**TINY_MODELS[name], **changed}}).model
    return FAMILIES[config.family].build(config).eval()


def exported(model) -> dict[str, bytes]:
    family = FAMILY_EXPORTS[model.config.family]
    graphs = family.graphs(family.fold(model), torch.float32, True)
    return {name: export_graph(entry, name, "0" * 16) for name, entry in graphs.items()}


@pytest.fixture
def most_alive(monkeypatch) -> Counter[str]:
    """How many values of each output of the graph step were in memory at once, in all implementations together."""
    alive, most = Counter(), Counter()

    def counted(kind):
        class Counted(kind):
            def __call__(self, graph_name, inputs):
                outputs = super().__call__(graph_name, inputs)
                for name, value in outputs.items() if graph_name == "step" else ():
                    alive[name] += 1
                    most[name] = max(most[name], alive[name])
                    weakref.finalize(value, alive.subtract, [name])
                return outputs

        return Counted

    for kind in (OnnxGraphs, TorchGraphs):
        monkeypatch.setattr(parity, kind.__name__, counted(kind))
    return most


@pytest.mark.parametrize("name", sampled(["convlstm", "e3d-lstm"], ["convlstm"]))
def test_states_of_passed_steps_are_not_kept(name, most_alive):
    model = random_network(name, n_past=8)
    report = parity.check_fp32(model, exported(model))
    steps = model.config.n_past - 1 + FORECAST_STEPS
    states = {f"{state}_out" for state in model.state_shapes}
    assert {f"{phase}.step.{state}" for phase in ("observe", "forecast") for state in states} <= report.curves.keys()
    assert {len(curve.max_abs) for key, curve in report.curves.items() if key.startswith("observe")} == {7}
    for state in states:
        assert most_alive[state] <= IMPLEMENTATIONS * AT_HAND + 1 < steps


def test_the_graphs_compute_with_the_threads_of_pytorch():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        graphs = OnnxGraphs(exported(random_network("convlstm")))
    finally:
        torch.set_num_threads(before)
    threads = {session.get_session_options().intra_op_num_threads for session in graphs._sessions.values()}
    assert threads == {1}


def test_of_the_graphs_that_decode_all_steps_at_once_the_latents_alone_are_kept(most_alive):
    model = random_network("srvp")
    contents = exported(model)
    parity.compare_fp16(model, contents, contents)
    assert most_alive["latent"] == 2 * FORECAST_STEPS, "decode needs these"
    assert max(most_alive["y_out"], most_alive["mu"]) <= 2 * AT_HAND + 1
