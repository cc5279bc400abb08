"""`svg-export` with every family: what its options do, and which are refused because they would have no effect."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner, Result

from svg_common.errors import ExitCode
from svg_export.cli import app
from svg_runtime import Forecaster
from svg_runtime.bundle.contract import ROLES
from svg_runtime.bundle.manifest import TensorSpec
from svg_runtime.bundle.reader import Bundle
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from svg_train.families.base import MAX_ELEMENTS, MAX_SIZE, check_tensor
from tests.families import save_tiny
from tests.svg_runtime.bundle_helpers import draw, generated


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


REFUSED = [
    ("predrnn", ["--no-fused"], "models of the family 'frames' have fused graphs only"),
    ("srvp", ["--no-fused"], "models of the family 'srvp' have fused graphs only"),
    ("srvp", ["--no-shuffled"], "--no-shuffled has no effect on models of the family 'srvp'"),
    ("predrnn", ["--bn", "recalibrate", "--data", "digits"], "of the family 'frames', has no BatchNorm"),
    ("predrnn", ["--euler-steps", "2"], "--euler-steps has no effect on models of the family 'frames'"),
    ("deterministic", ["--euler-steps", "2"], "--euler-steps has no effect on models of the family 'svg'"),
    ("srvp", ["--model-config", "settings.json"], "has the settings of its model\n  remove --model-config"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_an_option_without_effect_is_refused(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("settings.json").write_text("{}")
    checkpoint = save_tiny(name, Path("ckpt.pt"))
    result = run_cli(str(checkpoint), *options)
    assert result.exception.exit_code == ExitCode.USAGE
    assert message in str(result.exception)
    assert not Path("ckpt.svgb").exists()


def test_settings_are_not_blamed_where_the_file_is_no_checkpoint(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    result = run_cli(str(tmp_path / "other.pth"), "--model-config", str(tmp_path / "settings.json"))
    assert "settings.json" not in str(result.exception)


def test_euler_steps_change_the_forecast_and_are_recorded(tmp_path, frames):
    checkpoint = save_tiny("srvp", tmp_path / "last.pt")
    training = {"weights": {}, "optimizer": {}, "schedule": {}, "averaged": 0, "best": 1.0}
    save_checkpoint(checkpoint, replace(load_checkpoint(checkpoint), training=training))
    saved, out = tmp_path / "finer.pt", tmp_path / "finer.svgb"
    result = run_cli(str(checkpoint), "--euler-steps", "3", "--save-checkpoint", str(saved), "--out", str(out), "--json",
                     str(tmp_path / "about.json"))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load_checkpoint(saved).training is None  # it is a model, not a run that could be resumed with other steps
    manifest, finer = Bundle.open(out).manifest, load_checkpoint(saved).build()
    assert manifest.model.settings["n_euler_steps"] == finer.config.n_euler_steps == 3
    assert json.loads((tmp_path / "about.json").read_text())["bundle_id"] == manifest.bundle_id
    noise = draw(0, 4, 2, finer.config.noise_dim)
    past = draw(1, finer.config.context_draws, 2, finer.config.noise_dim)
    with Forecaster.open(out, backend="cpu", samples=2, horizon=4) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        futures = forecaster.forecast(noise=noise, context_noise=past)
    assert np.abs(futures - generated(finer, frames[:3], noise, past)).max() < 1e-4
    trained = load_checkpoint(checkpoint).build()
    primed = trained.prime(torch.rand(3, 2, trained.config.nhx), torch.from_numpy(past))
    assert not torch.allclose(trained.step(primed.y, torch.ones(2, 4))[0], finer.step(primed.y, torch.ones(2, 4))[0])


@pytest.mark.parametrize("name", [pytest.param("spatial", marks=pytest.mark.slow), "srvp"])
def test_prime_reads_one_context_for_all_samples_or_one_for_each(name, tmp_path):
    """A server batches contexts of several cameras; the exporter must not fix the one of the example."""
    result = run_cli(str(save_tiny(name, tmp_path / "ckpt.pt")), "--out", str(tmp_path / "ckpt.svgb"))
    assert result.exit_code == 0, result.output
    content = Bundle.open(tmp_path / "ckpt.svgb").graphs("fp32")["prime"]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    h_shape, eps_shape = (value.shape for value in session.get_inputs())
    contexts = draw(0, h_shape[0], 3, *h_shape[2:])
    eps = draw(1, eps_shape[0], 3, eps_shape[2])
    names = [value.name for value in session.get_outputs()]
    together = dict(zip(names, session.run(None, {"h_seq": contexts, "eps": eps}), strict=True))
    for row in range(3):
        alone = session.run(None, {"h_seq": contexts[:, row : row + 1], "eps": eps[:, row : row + 1]})
        for output, value in zip(names, alone, strict=True):
            np.testing.assert_allclose(together[output][row : row + 1], value, atol=1e-5, err_msg=output)


PAGE = Path(__file__).parents[2] / "docs/export.md"
Sides = list[set[str]]  # names of the inputs, and of the outputs


def as_documented(name: str) -> str:
    """Of several that are numbered, and of both Gaussians of prime, the page gives one."""
    return re.sub(r"^(posterior|prior)_(?=mu|logvar)", "", re.sub(r"\d+$", "*", name))


def documented() -> dict[str, dict[str, Sides]]:
    """Family -> graph -> sides, as the tables of the page give them."""
    found: dict[str, dict[str, Sides]] = {}
    family = "svg"
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        *first, graph_names, inputs, outputs = ["", "", "", *(cell.strip() for cell in line.strip("|").split("|"))]
        if not {*graph_names.split(", ")} <= {*ROLES}:
            continue
        family = first[-1].strip("`") or family
        for graph_name in graph_names.split(", "):
            sides = [inputs, outputs]
            for side, cell in enumerate(sides):
                if cell.startswith("as "):
                    like = cell.removeprefix("as ").replace("above", graph_name)
                    sides[side] = ", ".join(found["svg"][like][side])
            found.setdefault(family, {})[graph_name] = [names_in(cell) for cell in sides]
    return found


def names_in(cell: str) -> set[str]:
    """Of the tensors in a cell of the tables, without shapes and remarks."""
    listed = re.split(r"[,;]| and ", re.sub(r"\([^)]*\)|\[[^]]*\]", "", cell))
    return {as_documented(name.split()[0]) for name in listed}


@pytest.mark.parametrize(
    ("family", "name"), [("svg", "fused"), ("srvp", "srvp-skips"), ("ensemble", "ensemble"), ("frames", "predrnn")]
)
def test_the_page_has_the_graphs_as_they_are(family, name, fused_bundle, family_bundle):
    graphs = Bundle.open(fused_bundle if name == "fused" else family_bundle(name)).manifest.variants["fp32"].graphs
    tables = documented()[family]
    assert tables.keys() == graphs.keys()
    for graph_name, spec in graphs.items():
        states = [{as_documented(getattr(state, side)) for state in spec.states} for side in ("input", "output")]
        for side, tensors, together in zip(tables[graph_name], (spec.inputs, spec.outputs), states, strict=True):
            names = {as_documented(tensor.name) for tensor in tensors}
            if side & {"states", "states_out"}:  # of all that have no name of their own there
                assert names - side <= together
                names = (names & side) | (side & {"states", "states_out"})
            assert side == names, graph_name


@pytest.mark.parametrize("shape", [(MAX_SIZE,), (MAX_SIZE, MAX_ELEMENTS // MAX_SIZE)])
def test_what_is_refused_before_training_is_what_a_bundle_cannot_hold(shape):
    *others, last = shape
    check_tensor("a test", shape)
    assert TensorSpec(name="eps", dtype="float32", shape=("batch", *shape)).elements == np.prod(shape)
    with pytest.raises(ValueError, match="a test: "):
        check_tensor("a test", (*others, last + 1))
    with pytest.raises(ValueError, match="TensorSpec"):
        TensorSpec(name="eps", dtype="float32", shape=("batch", *others, last + 1))
