"""Bundles of the roles prime, step and decode: manifests that contradict themselves are refused by graph and tensor."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svg_runtime.bundle.contract import interface_errors
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest

Graphs = dict[str, Any]
Change = Callable[[Graphs], object]


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


def state(graph_name: str, name: str, output: str, initial: str) -> Change:
    return lambda graphs: graphs[graph_name]["states"].append({"input": name, "output": output, "initial": initial})


def carry(graph_name: str, name: str, initial: str, *shape: int | str) -> Change:
    """One more state."""
    return all_of(
        add(graph_name, "inputs", name, *shape),
        add(graph_name, "outputs", f"{name}_out", *shape),
        state(graph_name, name, f"{name}_out", initial),
    )


def rename_state(graph_name: str, name: str, new: str) -> Change:
    def change(graphs: Graphs) -> None:
        rename(graph_name, name, new)(graphs)
        rename(graph_name, f"{name}_out", f"{new}_out")(graphs)
        pair = next(each for each in graphs[graph_name]["states"] if each["input"] == name)
        pair.update(input=new, output=f"{new}_out")

    return change


STEPPED: dict[str, tuple[Change, str]] = {
    "a state whose name is that of an output": (
        all_of(
            add("step", "inputs", "x_out", "batch", 5),
            add("step", "outputs", "x_out_out", "batch", 65536),
            state("step", "x_out", "x_out_out", "zeros"),
        ),
        "step.states: ('x_out_out', 'float32', ('batch', 65536)), expected the type and shape of ('x_out', ",
    ),
    "an input that is called an output": (
        carry("step", "x_out", "zeros", "batch", 5), "step.inputs: ['x_out']; only the outputs of states end in _out",
    ),
    "a state in half precision that is written in full": (
        all_of(carry("step", "x", "zeros", "batch", 5), lambda g: tensor(g["step"], "x").update(dtype="float16")),
        "step.states: ('x_out', 'float32', ('batch', 5)), expected the type and shape of ('x', 'float16', ('batch', 5))",
    ),
    "a state that is the frame": (carry("step", "frame", "zeros", "batch", 1, 16, 16), "step.states: ['frame'], names that no"),
    "a state that is the noise": (carry("step", "eps", "zeros", "batch", 4), "step.states: ['eps'], names that no state"),
    "a state that is a Gaussian": (carry("step", "prior_mu", "zeros", "batch", 4), "step.states: ['prior_mu'], names that no"),
    "a state of a separate graph": (carry("step", "state", "zeros", "batch", 4), "step.states: ['state'], names that no state"),
    "a name on both sides": (
        add("step", "outputs", "started", "batch", 1, 1, 1),
        "step.outputs: ['started'], which are inputs of the same graph too",
    ),
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
    "prime in a stream": (lambda g: g.update(prime=g["step"]), "or a step without prime; expected 'window'"),
    "decode without an encoder": (
        all_of(rename("step", "frame", "latent"), lambda g: g.update(decode=g["step"])),
        "a model without encoder and prime has a step from frame to frame",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), STEPPED.values(), ids=STEPPED)
def test_a_step_alone_that_contradicts_itself_is_refused(stepped_bundle, tmp_path, change, expected):
    bundle = copy_bundle(stepped_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert expected in refusal(bundle)


DECODED: dict[str, tuple[Change, str]] = {
    "a content for each sample that is decoded for each frame": (
        reshape("prime", "w", 0, "batch"),
        "prime.outputs: ('w', 'float32', ('batch', 8)), expected one dynamic axis, cond_batch",
    ),
    "one start for all samples": (
        all_of(reshape("prime", "y", 0, "cond_batch"), reshape("step", "y", 0, "cond_batch")),
        "prime.outputs: ('y', 'float32', ('cond_batch', 5)), expected one dynamic axis, batch",
    ),
    "one state for all samples": (
        reshape("step", "y", 0, "cond_batch"),
        "step.inputs: ('y', 'float32', ('cond_batch', 5)), expected one dynamic axis, batch",
    ),
    "a latent whose batch is its last axis": (
        all_of(*(all_of(reshape(name, "latent", 0, 5), reshape(name, "latent", 1, "batch")) for name in ("step", "decode"))),
        "decode.inputs: ('latent', 'float32', (5, 'batch')), expected the batch as the first axis",
    ),
    "a constant of each sample that step takes for all": (
        all_of(add("prime", "outputs", "c", "batch", 3), add("step", "inputs", "c", "cond_batch", 3)),
        "step.inputs: ('c', 'float32', ('cond_batch', 3)), expected one dynamic axis, batch",
    ),
    "a state that always goes on": (carry("step", "age", "zeros", "batch", 1), "step.states: ('age', 'age_out', 'zeros'), exp"),
    "a state that prime does not give": (
        carry("step", "age", "given", "batch", 1), "step.states: ('age', 'age_out', 'given'), expected prime to give age",
    ),
    "prime gives the noise": (
        all_of(without("prime", "inputs", "eps"), add("prime", "outputs", "eps", "batch", 5)),
        "prime.outputs: ['eps'], expected other names than those of the noise",
    ),
    "prime gives a condition": (
        add("prime", "outputs", "cond_0", "batch", 5), "prime.outputs: ['cond_0'], expected other names than those of skip",
    ),
    "prime gives the encoding": (
        add("prime", "outputs", "h", "batch", 6), "prime.outputs: ['h'], expected other names than those of encoder",
    ),
    "prime gives what step gives": (
        add("prime", "outputs", "latent", "cond_batch", 5),
        "step.outputs: ['latent'], expected other names than those of prime",
    ),
    "step gives a condition": (
        add("step", "outputs", "cond_1", "batch", 5), "step.outputs: ['cond_1'], expected other names than those of skip",
    ),
    "decode without what step gives": (
        without("decode", "inputs", "latent"), "decode.inputs: nothing that step gives; expected one of ['latent'",
    ),
    "decode reads the state itself": (
        all_of(without("decode", "inputs", "latent"), add("decode", "inputs", "y_out", "batch", 5)),
        "decode.inputs: ('y_out', 'float32', ('batch', 5))",
    ),
    "decode reads where the state started": (
        add("decode", "inputs", "y", "cond_batch", 5), "decode.inputs: ('y', 'float32', ('cond_batch', 5)), expected [",
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
    "no encoder": (lambda g: g.pop("encoder"), "expected skip if the encoder has skips"),
    "no skip": (lambda g: g.pop("skip"), "expected skip if the encoder has skips"),
    "an unknown role": (lambda g: g.update(content=g["prime"]), "unknown: ['content']"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), DECODED.values(), ids=DECODED)
def test_latents_to_decode_that_contradict_each_other_are_refused(decoded_bundle, tmp_path, change, expected):
    bundle = copy_bundle(decoded_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert expected in refusal(bundle)


MODELS: dict[str, tuple[Change, str]] = {
    "a stream of windows": (
        lambda m: m["generation"].update(context="stream"), "the context 'stream' needs ['decoder', 'encoder', 'predictor'], ",
    ),
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
    assert "a model without encoder and prime has a step from frame to frame, and no latents; the prior is 'fixed'" in refusal(
        bundle
    )


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
    "an output of the predictor that the decoder cannot read": (reshape("decoder", "g", 1, 9), "decoder.inputs: ('g', "),
    "a posterior of other encodings": (reshape("posterior", "h", 1, 9), "posterior.inputs: ('h', 'float32', ('batch', 9))"),
    "a prior of other encodings": (reshape("prior", "h", 1, 9), "prior.inputs: ('h', 'float32', ('batch', 9))"),
    "a predictor of other encodings": (reshape("predictor", "h", 1, 9), "predictor.inputs: ('h', 'float32', ('batch', 9))"),
    "a prior of other latents than the posterior": (reshape("prior", "mu", 1, 9), "prior.outputs: ('mu', "),
    "a predictor of other latents": (reshape("predictor", "z", 1, 9), "predictor.inputs: ('z', 'float32', ('batch', 9))"),
    **{
        f"a state of the {name} that grows": (
            reshape(name, "state_out", 2, 99),
            f"{name}.states: ('state_out', 'float32', ({layers}, 'batch', 99)), expected the type and shape of ('state', ",
        )
        for name, layers in (("posterior", 2), ("prior", 2), ("predictor", 4))
    },
    "a skip that the encoder does not give": (without("encoder", "outputs", "skip_2"), "skip.inputs: ('skip_2', "),
    "a skip that nothing reads": (without("skip", "inputs", "skip_2"), "skip.inputs: 3 tensors; missing: ['skip_2']"),
    "a condition that nothing reads": (
        without("decoder", "inputs", "cond_2"),
        "decoder.inputs: 4 tensors; missing: ['cond_2']",
    ),
    "a condition that nothing gives": (without("skip", "outputs", "cond_2"), "decoder.inputs: ('cond_2', "),
    "an input that is an output": (
        add("prior", "outputs", "h", "batch", 16),
        "prior.outputs: ['h'], which are inputs of the same graph too",
    ),
}


@pytest.mark.parametrize(("change", "expected"), SEPARATE.values(), ids=SEPARATE)
def test_a_separate_graph_without_what_the_loop_writes_is_refused(tiny_bundle, tmp_path, change, expected):
    bundle = copy_bundle(tiny_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert f"variants.fp32.graphs.{expected}" in refusal(bundle)


def test_a_state_of_step_that_the_separate_graphs_do_not_have_is_refused(fused_bundle, tmp_path):
    """A stream goes on from their states, by name."""
    bundle = copy_bundle(fused_bundle, tmp_path)
    change = all_of(rename("prime", "predictor_state", "memory"), rename_state("step", "predictor_state", "memory"))
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    expected = "step.states: ['h', 'memory', 'prior_state'], expected ['h', 'predictor_state', 'prior_state'], as the separate"
    assert expected in refusal(bundle)


def test_a_state_that_the_separate_graphs_lack_is_refused(fused_bundle, tmp_path):
    bundle = copy_bundle(fused_bundle, tmp_path)
    change = all_of(add("prime", "outputs", "age", "batch", 1), carry("step", "age", "given", "batch", 1))
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    assert "step.states: ['age', 'h', 'predictor_state', 'prior_state'], expected ['h', " in refusal(bundle)


def test_a_constant_of_each_sample_may_be_read_by_step(decoded_bundle, tmp_path):
    """What prime gives beside states: of each sample, or the same for all."""
    for symbol in ("batch", "cond_batch"):
        bundle = copy_bundle(decoded_bundle, tmp_path / symbol)
        change = all_of(add("prime", "outputs", "c", symbol, 3), add("step", "inputs", "c", symbol, 3))
        edit_manifest(bundle, lambda manifest, change=change: change(manifest["variants"]["fp32"]["graphs"]))
        assert Bundle.open(bundle).manifest.variants["fp32"].graphs["step"].tensor("c").shape == (symbol, 3)


def test_a_manifest_with_thousands_of_problems_is_refused_at_once(stepped_bundle, tmp_path):
    """The problems are not all looked for, nor are all names told."""
    bundle = copy_bundle(stepped_bundle, tmp_path)
    change = all_of(*(carry("step", f"x{index}", "given", "batch", 1) for index in range(900)))
    edit_manifest(bundle, lambda manifest: change(manifest["variants"]["fp32"]["graphs"]))
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    tracemalloc.start()
    problems = interface_errors(manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(problems) == 20
    assert max(map(len, problems)) < 1000
    assert peak < 4 << 20  # bytes
    assert "and 902 more]" in refusal(bundle)


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_the_draws_of_separate_graphs_are_one_per_pair_of_frames(tiny_bundle, tmp_path, draws):
    bundle = copy_bundle(tiny_bundle, tmp_path)
    edit_manifest(bundle, lambda manifest: manifest["generation"].update(context_draws=draws))
    assert f"the posterior draws 2 times while a context is read, but context_draws is {draws}" in refusal(bundle)


def test_the_bundles_open_as_they_are(stepped_bundle, decoded_bundle):
    assert set(Bundle.open(stepped_bundle).graphs("fp32")) == {"step"}
    assert set(Bundle.open(decoded_bundle).graphs("fp32")) == {"encoder", "skip", "prime", "step", "decode"}
