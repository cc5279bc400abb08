"""Bundles of the roles prime, step and decode: manifests that contradict themselves are refused by graph and tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError
from tests.conftest import export_model, made_once, save_model
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest

Graphs = dict[str, Any]
Change = Callable[[Graphs], object]


@pytest.fixture(scope="session")
def stepped_bundle(tmp_path_factory) -> Path:
    """A model from frames to frames: `step` alone, with many states. Read only."""
    from tests.svg_train.frames.test_frames_model import random_frames_model

    def make(path: Path) -> Path:
        model = random_frames_model("mim", hidden=(2, 2))
        return export_model(save_model(path.with_suffix(".pt"), model), path)

    return made_once(tmp_path_factory, "stepped.svgb", make)


@pytest.fixture(scope="session")
def decoded_bundle(tmp_path_factory) -> Path:
    """A model whose step gives latents, which `decode` makes frames of; with skips, and 4 observed frames. Read only."""
    from tests.svg_train.srvp.srvp_models import random_srvp

    def make(path: Path) -> Path:
        return export_model(save_model(path.with_suffix(".pt"), random_srvp(skips=True)), path)

    return made_once(tmp_path_factory, "decoded.svgb", make)


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert "svg-export" in message
    assert len(message) < 10_000
    return message


def tensor(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in (*spec["inputs"], *spec["outputs"]) if each["name"] == name)


def remove(spec: dict[str, Any], side: str, name: str) -> None:
    spec[side] = [each for each in spec[side] if each["name"] != name]


def reshape(graph_name: str, name: str, axis: int, size: int | str) -> Change:
    return lambda graphs: tensor(graphs[graph_name], name)["shape"].__setitem__(axis, size)


def rename(graph_name: str, name: str, new: str) -> Change:
    return lambda graphs: tensor(graphs[graph_name], name).update(name=new)


def without(graph_name: str, side: str, name: str) -> Change:
    return lambda graphs: remove(graphs[graph_name], side, name)


def add(graph_name: str, side: str, name: str, *shape: int | str) -> Change:
    return lambda graphs: graphs[graph_name][side].append({"name": name, "dtype": "float32", "shape": list(shape)})


def all_of(*changes: Change) -> Change:
    def change(graphs: Graphs) -> None:
        for each in changes:
            each(graphs)

    return change


def stateless(graphs: Graphs) -> None:
    """A step that is a function of nothing."""
    spec = graphs["step"]
    spec["states"], spec["inputs"] = [], []
    spec["outputs"] = [each for each in spec["outputs"] if each["name"] == "frame"]


STEPPED: dict[str, tuple[Change, str]] = {
    "no states": (lambda g: g["step"]["states"].clear(), "step.states: [], expected [('c"),
    "no states at all": (stateless, "step.inputs: 0 tensors; missing: ['h']"),
    "a state that is forgotten": (lambda g: g["step"]["states"].pop(1), "step.states: "),
    "a state without its output": (without("step", "outputs", "started_out"), "step.states: ('started', 'started_out'"),
    "a state without its input": (without("step", "inputs", "started"), "step.states: ('started', 'started_out'"),
    "a state that starts elsewhere": (
        lambda g: next(s for s in g["step"]["states"] if s["input"] == "started").update(initial="given"),
        "step.states: ('started', 'started_out', 'given')",
    ),
    "a state whose output is larger": (reshape("step", "c1_out", 1, 3), "step.outputs: ('c1_out', 'float32', ('batch', 3"),
    "a state whose batch is elsewhere": (
        all_of(reshape("step", "c1_out", 0, 2), reshape("step", "c1_out", 1, "batch")),
        "step.outputs: ('c1_out', 'float32', (2, 'batch'",
    ),
    "a frozen batch": (reshape("step", "started", 0, 2), "step.inputs: ('started', 'float32', (2, "),
    "two states that share an output": (
        lambda g: g["step"]["states"].append({"input": "h", "output": "started_out"}), "step.states: ('h', 'started_out'",
    ),
    "crossed states": (
        lambda g: next(s for s in g["step"]["states"] if s["input"] == "c0").update(output="c1_out"),
        "step.states: ('c0', 'c1_out'",
    ),
    "no frame": (without("step", "outputs", "frame"), "step gives no frames, and there is no decode"),
    "a frame of another size": (reshape("step", "frame", 2, 8), "step.outputs: ('frame', 'float32', ('batch', 1, 8, 16)"),
    "a frame to read of another size": (reshape("step", "h", 3, 8), "step.inputs: ('h', 'float32', ('batch', 1, 16, 8)"),
    "noise without latents": (add("step", "inputs", "eps", "batch", 4), "step.inputs: ('eps', 'float32', ('batch', 4)"),
    "an input without a source": (add("step", "inputs", "t", "batch", 1), "step.inputs: ('t', 'float32', ('batch', 1)"),
    "Gaussians of no prior": (add("step", "outputs", "mu", "batch", 4), "step must give mu and logvar of a learned prior"),
    "a state in half precision": (lambda g: tensor(g["step"], "started").update(dtype="float16"), "step.inputs: ('started'"),
    "an unknown role": (lambda g: g.update(steps=g["step"]), "unknown: ['steps']"),
    "prime without an encoder": (lambda g: g.update(prime=g["step"]), "expected prime and step together"),
    "decode without an encoder": (
        all_of(rename("step", "frame", "latent"), lambda g: g.update(decode=g["step"])),
        "a model without encoder has a step from frame to frame",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), STEPPED.values(), ids=STEPPED)
def test_a_step_alone_that_contradicts_itself_is_refused(stepped_bundle, tmp_path, change, expected):
    bundle = copy_bundle(stepped_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert expected in refusal(bundle)


DECODED: dict[str, tuple[Change, str]] = {
    "decode without what step gives": (
        without("decode", "inputs", "latent"), "decode.inputs: nothing that step gives; expected one of ['latent'",
    ),
    "decode reads the state itself": (
        all_of(without("decode", "inputs", "latent"), add("decode", "inputs", "y_out", "batch", 5)),
        "decode.inputs: ('y_out', 'float32', ('batch', 5))",
    ),
    "a latent of another size": (reshape("decode", "latent", 1, 6), "decode.inputs: ('latent', 'float32', ('batch', 6)"),
    "a latent at one batch only": (reshape("decode", "latent", 0, "cond_batch"), "decode.inputs: ('latent', 'float32', ('cond"),
    "a condition for each frame": (reshape("decode", "cond_0", 0, "batch"), "decode.inputs: ('cond_0', 'float32', ('batch'"),
    "a content for each frame": (reshape("decode", "w", 0, "batch"), "decode.inputs: ('w', 'float32', ('batch', 8))"),
    "a content for each sample and frame": (
        all_of(reshape("decode", "w", 0, "batch"), reshape("prime", "w", 0, "batch")),
        "decode.inputs: ('w', 'float32', ('batch', 8)), expected one dynamic axis, cond_batch",
    ),
    "frames of another size": (reshape("decode", "frame", 3, 32), "decode.outputs: ('frame', 'float32', ('batch', 1, 64, 32)"),
    "no frames": (without("decode", "outputs", "frame"), "decode.outputs: 0 tensors; missing: ['frame']"),
    "two that give frames": (rename("step", "latent", "frame"), "decode needs a step that gives no frames itself"),
    "nothing gives frames": (lambda g: g.pop("decode"), "step gives no frames, and there is no decode"),
    "fewer observed frames": (reshape("prime", "h_seq", 0, 3), "prime.inputs: ('h_seq', 'float32', (3, 'cond_batch', 6)), "),
    "an encoding of another size": (reshape("prime", "h_seq", 2, 7), "prime.inputs: ('h_seq', 'float32', (4, 'cond_batch', 7)"),
    "no observed frames": (without("prime", "inputs", "h_seq"), "prime.inputs: 1 tensors; missing: ['h_seq']"),
    "a context without noise": (without("prime", "inputs", "eps"), "prime.inputs: 1 tensors; missing: ['eps']"),
    "a forecast without noise": (without("step", "inputs", "eps"), "step.inputs: 1 tensors; missing: ['eps']"),
    "noise of another size": (reshape("step", "eps", 1, 3), "step.inputs: ('eps', 'float32', ('batch', 3))"),
    "more draws than there are": (reshape("prime", "eps", 0, 5), "prime.inputs: ('eps', 'float32', (5, 'batch', 5)), "),
    "a prior that is not shown": (without("step", "outputs", "mu"), "step must give mu and logvar of a learned prior"),
    "a start of another size": (reshape("prime", "y", 1, 4), "step.inputs: ('y', 'float32', ('batch', 5)), prime.outputs has"),
    "a start that nothing gives": (without("prime", "outputs", "y"), "step.states: ('y', 'y_out', 'given')"),
    "no encoder": (lambda g: g.pop("encoder"), "expected prime and step together"),
    "no skip": (lambda g: g.pop("skip"), "expected skip if the encoder has skips"),
    "an unknown role": (lambda g: g.update(content=g["prime"]), "unknown: ['content']"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), DECODED.values(), ids=DECODED)
def test_latents_to_decode_that_contradict_each_other_are_refused(decoded_bundle, tmp_path, change, expected):
    bundle = copy_bundle(decoded_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert expected in refusal(bundle)


MODELS: dict[str, tuple[Change, str]] = {
    "fewer draws": (lambda m: m["generation"].update(context_draws=3), "prime.inputs: ('eps', 'float32', (4, 'batch', 5)), "),
    "draws of one per pair": (lambda m: m["generation"].update(context_draws=None), "prime.inputs: ('eps'"),
    "no draws": (lambda m: m["generation"].update(context_draws=0), "prime.inputs: ('eps'"),
    "more frames": (
        lambda m: m["generation"].update(n_past=5),
        "prime.inputs: ('h_seq', 'float32', (4, 'cond_batch', 6)), ",
    ),
    "a larger latent": (lambda m: m["model"].update(z_dim=6), "step.inputs: ('eps', 'float32', ('batch', 5))"),
    "no prior": (lambda m: m["model"].update(z_dim=0, prior="none"), "step must give mu and logvar of a learned prior"),
    "a fixed prior": (lambda m: m["model"].update(prior="fixed"), "step must give mu and logvar of a learned prior"),
    "skips that follow": (
        lambda m: m["generation"].update(last_frame_skip=True), "last_frame_skip needs skip, and a step that",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), MODELS.values(), ids=MODELS)
def test_a_model_that_contradicts_its_graphs_is_refused(decoded_bundle, tmp_path, change, expected):
    bundle = copy_bundle(decoded_bundle, tmp_path)
    edit_manifest(bundle, change)
    assert expected in refusal(bundle)


def test_a_stochastic_model_without_encoder_is_refused(stepped_bundle, tmp_path):
    bundle = copy_bundle(stepped_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: manifest["model"].update(prior="fixed", z_dim=3))
    assert "a model without encoder has a step from frame to frame, and no latents; the prior is 'fixed'" in refusal(bundle)


def test_skips_that_follow_need_the_graph_for_them(stepped_bundle, tmp_path):
    bundle = copy_bundle(stepped_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: manifest["generation"].update(last_frame_skip=True))
    assert "last_frame_skip needs skip, and a step that gives frames itself" in refusal(bundle)


SEPARATE: dict[str, tuple[Change, str]] = {
    "a posterior that reads nothing": (without("posterior", "inputs", "h"), "posterior.inputs: 1 tensors; missing: ['h']"),
    "a state that is no input": (without("prior", "inputs", "state"), "prior.inputs: 1 tensors; missing: ['state']"),
    "a predictor without latent": (without("predictor", "inputs", "z"), "predictor.inputs: 2 tensors; missing: ['z']"),
    "a predictor that sees no frame": (without("predictor", "inputs", "h"), "predictor.inputs: 2 tensors; missing: ['h']"),
    "a decoder of nothing": (without("decoder", "inputs", "g"), "decoder.inputs: 4 tensors; missing: ['g']"),
    "an encoder of nothing": (without("encoder", "inputs", "frame"), "encoder.inputs: 0 tensors; missing: ['frame']"),
}


@pytest.mark.parametrize(("change", "expected"), SEPARATE.values(), ids=SEPARATE)
def test_a_separate_graph_without_what_the_loop_writes_is_refused(tiny_bundle, tmp_path, change, expected):
    bundle = copy_bundle(tiny_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert f"variants.fp32.graphs.{expected}" in refusal(bundle)


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_the_draws_of_separate_graphs_are_one_per_pair_of_frames(tiny_bundle, tmp_path, draws):
    bundle = copy_bundle(tiny_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: manifest["generation"].update(context_draws=draws))
    assert f"the posterior draws 2 times while a context is read, but context_draws is {draws}" in refusal(bundle)


def test_the_bundles_open_as_they_are(stepped_bundle, decoded_bundle):
    assert set(Bundle.open(stepped_bundle).graphs("fp32")) == {"step"}
    assert set(Bundle.open(decoded_bundle).graphs("fp32")) == {"encoder", "skip", "prime", "step", "decode"}
