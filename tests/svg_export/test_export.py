"""Export: parity, contents and determinism of a bundle, and that nothing is published when the gate fails."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from svg_common.errors import SvgError, UsageError
from svg_common.files import file_sha256
from svg_export.bundle_writer import ContractError, refuse_foreign, write_bundle
from svg_export.families import FamilyExport, svg
from svg_export.families.svg import fold, fused_graphs, separate_graphs
from svg_export.parity import ParityError, _Gate, check_fp32, compare_fp16
from svg_export.to_onnx import export_graph, read_interface
from svg_runtime.bundle.reader import Bundle
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import export_model, random_model, save_model
from tests.sample import sampled

ROLES = {"encoder", "skip", "posterior", "prior", "predictor", "decoder"}


@pytest.fixture(scope="module")
def contents(tiny_bundle) -> dict[str, bytes]:
    return Bundle.open(tiny_bundle).graphs("fp32")


def session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_manifest_describes_graphs_as_they_are(tiny_bundle, contents):
    manifest = Bundle.open(tiny_bundle).manifest
    assert set(contents) == {*ROLES, "decoder_shuffled"}
    for graph_name, spec in manifest.variants["fp32"].graphs.items():
        opened = session(contents[graph_name])
        assert [(t.name, tuple(t.shape)) for t in spec.inputs] == [(t.name, tuple(t.shape)) for t in opened.get_inputs()]
        assert [(t.name, tuple(t.shape)) for t in spec.outputs] == [(t.name, tuple(t.shape)) for t in opened.get_outputs()]
        assert opened.get_modelmeta().custom_metadata_map == {"svg_bundle_id": manifest.bundle_id, "svg_graph": graph_name}
        assert hashlib.sha256((tiny_bundle / spec.file).read_bytes()).hexdigest() == spec.sha256
        recurrent = graph_name in ("posterior", "prior", "predictor")
        assert [(s.input, s.output) for s in spec.states] == ([("state", "state_out")] if recurrent else [])


def test_parity_report_covers_states_over_observed_and_forecast_steps(tiny_bundle):
    report = Bundle.open(tiny_bundle).manifest.variants["fp32"].parity
    assert report.max_error <= report.tolerance == 1e-4
    assert len(report.curves["forecast.decoder.frame"].psnr_db) == 10
    assert len(report.curves["forecast.predictor.state_out"].max_abs) == 10
    assert len(report.curves["observe.posterior.state_out"].max_abs) == report.observed - 1
    assert {name.split(".")[-2] for name in report.curves} == ROLES
    assert len(report.curves["shuffled.forecast.decoder.frame"].psnr_db) == 10


def test_no_random_operation_and_no_trace_of_the_machine(contents):
    for graph_name, content in contents.items():
        model = onnx.load_from_string(content)
        operations = {node.op_type for node in model.graph.node}
        assert not operations & {"RandomNormal", "RandomNormalLike", "RandomUniform", "Dropout", "BatchNormalization"}, (
            graph_name
        )
        assert b"svg_export" not in content
        assert b".py" not in content


def test_batch_is_dynamic_and_conditions_come_at_batch_one_or_b(contents):
    decoder, skip, encoder = (session(contents[graph_name]) for graph_name in ("decoder", "skip", "encoder"))
    rng = np.random.default_rng(0)
    for batch in (1, 5):
        outputs = encoder.run(None, {"frame": rng.random((batch, 1, 64, 64), np.float32)})
        conds = skip.run(None, {f"skip_{i}": value for i, value in enumerate(outputs[1:])})
        shared = {f"cond_{i}": value[:1] for i, value in enumerate(conds)}
        repeated = {name: np.repeat(value, batch, axis=0) for name, value in shared.items()}
        g = rng.standard_normal((batch, 16), np.float32)
        (frame,), (again,) = (decoder.run(None, {"g": g, **cond}) for cond in (shared, repeated))
        assert frame.shape == (batch, 1, 64, 64)
        np.testing.assert_allclose(frame, again, atol=1e-6)


def test_fp16_variant_keeps_states_and_gaussians_in_float32(tiny_bundle):
    manifest = Bundle.open(tiny_bundle).manifest
    graphs = manifest.variants["fp16"].graphs
    for graph_name in ("posterior", "prior", "predictor"):
        assert {tensor.dtype for tensor in (*graphs[graph_name].inputs, *graphs[graph_name].outputs)} == {"float32"}
    for graph_name in ("encoder", "skip", "decoder"):
        model = onnx.load(tiny_bundle / graphs[graph_name].file)
        weights = [t.data_type for t in model.graph.initializer if len(t.dims) == 4]
        assert weights
        assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert graphs["encoder"].tensor("skip_0").dtype == graphs["decoder"].tensor("cond_0").dtype == "float16"
    report = manifest.variants["fp16"].parity
    assert report.reference == "fp32"
    assert 0 < report.max_error < 0.1
    assert report.curves["forecast.decoder.frame"].psnr_db[0] > 40


@pytest.mark.parametrize("fp16", sampled([False, True], [False]))
def test_same_checkpoint_gives_the_same_bytes(tiny_bundle, tiny_checkpoint, tmp_path, exported_anew, fp16):
    again = export_model(tiny_checkpoint, tmp_path / "again.svgb", fp16=fp16)
    first, second = (
        {str(file.relative_to(bundle)): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
        for bundle in (tiny_bundle, again)
    )
    if not fp16:  # the manifest has both
        manifest, fp32 = (json.loads(files.pop("manifest.json")) for files in (first, second))
        del manifest["variants"]["fp16"]
        assert fp32 == manifest
        first = {name: content for name, content in first.items() if not name.startswith("fp16/")}
    assert first == second


@pytest.mark.slow
def test_decoders_are_lowered_as_their_names_say(tiny_bundle, tiny_checkpoint, contents, tmp_path):
    def operators(graph_name):
        return [node.op_type for node in onnx.load_from_string(contents[graph_name]).graph.node]

    assert operators("decoder").count("ConvTranspose") == 4  # the one from 1x1 is a matrix product
    assert operators("decoder_shuffled").count("ConvTranspose") == 3
    assert operators("decoder_shuffled").count("DepthToSpace") == 1
    assert "decoder_shuffled" not in Bundle.open(tiny_bundle).manifest.variants["fp16"].graphs
    write_bundle(load_checkpoint(tiny_checkpoint), "0" * 64, tmp_path / "small.svgb", False, fused=False, shuffled=False)
    assert set(Bundle.open(tmp_path / "small.svgb").graphs("fp32")) == ROLES
    vgg = export_model(save_model(tmp_path / "vgg.pt", random_model(backbone="vgg")), tmp_path / "vgg.svgb")
    graphs = Bundle.open(vgg).graphs("fp32")
    assert "decoder_shuffled" not in graphs  # no transposed convolution is left to shuffle
    assert b"ConvTranspose" not in graphs["decoder"]


def test_folding_batch_norm_changes_nothing(tiny_model):
    folded = fold(tiny_model)
    x, noise, past = torch.rand(3, 2, 1, 64, 64), torch.randn(4, 2, 4), torch.randn(2, 2, 4)
    torch.testing.assert_close(folded.generate(x, noise, past), tiny_model.generate(x, noise, past), atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize("graph_name", sorted({*ROLES, "decoder_shuffled"}))
def test_gate_notices_a_wrong_weight_in_any_graph(tiny_model, contents, graph_name):
    wrong = onnx.load_from_string(contents[graph_name])
    weight = next(tensor for tensor in wrong.graph.initializer if len(tensor.dims) >= 2)
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.02)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ParityError, match="nothing was published"):
        check_fp32(tiny_model, {**contents, graph_name: wrong.SerializeToString()})


def test_gate_compares_with_the_unfolded_model(tiny_model, contents, monkeypatch):
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.encoder.stages[1][1].running_mean += 0.01  # BatchNorm, which the graphs have folded away
    assert "forecast.network.decoder.frame" in check_fp32(tiny_model, contents).curves
    folded = fold(tiny_model)
    monkeypatch.setattr(
        "svg_export.parity.FAMILY_EXPORTS", {"svg": FamilyExport(lambda model: copy.deepcopy(folded), svg.graphs)}
    )
    with pytest.raises(ParityError, match=r"forecast\.network\.decoder\.frame"):
        check_fp32(other, contents)


def test_gate_allows_the_rounding_of_float32_before_and_in_the_loop_and_no_more(tiny_model, contents, monkeypatch):
    report = check_fp32(tiny_model, contents)
    assert len(report.rounding) == 10
    assert 0 < max(report.rounding) < 1e-4
    check_fp32(tiny_model, contents, tolerance=1e-9)  # whatever is less than float32 can tell
    monkeypatch.setattr("svg_export.parity.ROUNDING_FACTOR", 0.0)
    for part in ("observe", "forecast"):
        with pytest.raises(ParityError, match=part):
            check_fp32(tiny_model, contents, tolerance=1e-9)


def test_rounding_before_the_loop_that_excuses_an_error_is_recorded(tiny_model, contents, monkeypatch):
    def run(gate: _Gate) -> None:
        run_gate(gate)
        for differences in (gate.found["observe.posterior.mu"], gate.rounding["observe.posterior.mu"]):
            differences.max_abs[1] = 0.5 * differences.largest

    run_gate = _Gate.run
    monkeypatch.setattr(_Gate, "run", run)
    report = check_fp32(tiny_model, contents)
    assert (report.max_error, max(report.rounding)) == (0.5, 0.5)
    assert len(report.rounding) == 10


@pytest.mark.parametrize(
    ("apart", "said"), [(2.5, "by 2.5 times its largest value"), (float("nan"), "by more than any number")]
)
@pytest.mark.parametrize("name", ["observe.posterior.mu", "forecast.decoder.frame"])
def test_a_model_that_amplifies_rounding_beyond_use_is_refused_in_words(tiny_model, contents, monkeypatch, apart, said, name):
    """Its graphs are right, as far as that can be told."""

    def run(gate: _Gate) -> None:
        run_gate(gate)
        gate.rounding[name].max_abs[-1] = apart * gate.rounding[name].largest

    run_gate = _Gate.run
    monkeypatch.setattr(_Gate, "run", run)
    with pytest.raises(
        ParityError, match=rf"beyond use: .* {said}, expected at most 1\n.*trained too little, .*--lr\n  nothing"
    ):
        check_fp32(tiny_model, contents)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_model_of_finite_weights_that_diverges_in_its_loop_is_not_exported(tiny_checkpoint, tmp_path):
    checkpoint = load_checkpoint(tiny_checkpoint)
    checkpoint.weights["prior.logvar.bias"].fill_(200.0)  # its deviation is beyond float32
    with pytest.raises(ParityError, match="amplifies the rounding of float32 beyond use"):
        write_bundle(checkpoint, "0" * 64, tmp_path / "b.svgb", fp16=False, fused=False)
    assert list(tmp_path.iterdir()) == []


def test_fp16_graphs_that_overflow_are_refused(tiny_model, contents):
    other = random_model()
    with torch.no_grad():
        other.predictor.head[0].bias[0] = torch.inf
        other.predictor.head[0].weight[0] = -torch.inf
    with pytest.raises(ParityError, match=r"not finite: .*forecast\.decoder\.frame.*\n.*nothing was published"):
        compare_fp16(tiny_model, contents, _exported(other))


def test_gate_catches_a_fused_graph_that_differs_from_the_separate_ones(tiny_model, fused_bundle):
    contents = Bundle.open(fused_bundle).graphs("fp32")
    report = check_fp32(tiny_model, contents)
    assert {name for name in report.curves if name.startswith("fused.")} >= {
        "fused.observe.prime.predictor_state", "fused.observe.prime.posterior_mu", "fused.forecast.step.frame",
        "fused.forecast.step.h_out", "fused.forecast.step.logvar", "fused.forecast.network.step.frame",
    }  # fmt: skip
    other = random_model()
    with torch.no_grad():
        other.prior.logvar.bias += 0.01
    graph_export = fused_graphs(fold(other), torch.float32)["step"]
    with pytest.raises(ParityError, match=r"fused\.forecast\.step\.logvar"):
        check_fp32(tiny_model, contents | {"step": export_graph(graph_export, "step", "0" * 16)})


def _exported(model) -> dict[str, bytes]:
    exports = separate_graphs(fold(model), torch.float32)
    return {graph_name: export_graph(graph_export, graph_name, "0" * 16) for graph_name, graph_export in exports.items()}


def test_failed_gate_publishes_nothing_and_keeps_the_old_bundle(tiny_checkpoint, tiny_bundle, tmp_path, monkeypatch):
    out = tmp_path / "model.svgb"
    shutil.copytree(tiny_bundle, out)
    before = (out / "manifest.json").read_bytes()
    monkeypatch.setattr(
        "svg_export.bundle_writer._export", lambda graph_export, graph_name, *rest: Bundle.open(out).graphs("fp32")[graph_name]
    )

    def refuse(model, contents):
        raise ParityError("differs")

    monkeypatch.setattr("svg_export.bundle_writer.check_fp32", refuse)
    for target in (out, tmp_path / "new.svgb"):
        with pytest.raises(ParityError):
            write_bundle(load_checkpoint(tiny_checkpoint), "0" * 64, target, False, fused=False)
    assert (out / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.svgb"]


@pytest.fixture
def refused(tiny_checkpoint, tiny_bundle, tmp_path, monkeypatch):
    """Exports a checkpoint that the contract refuses, over a bundle and to a new place; returns the error."""
    monkeypatch.setattr(
        "svg_export.bundle_writer._export",
        lambda graph_export, graph_name, *rest: (tiny_bundle / f"fp32/{graph_name}.onnx").read_bytes(),
    )
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "model.svgb"))

    def export(**changes) -> str:
        checkpoint = replace(load_checkpoint(tiny_checkpoint), **changes)
        for target in (tmp_path / "new.svgb", out):
            with pytest.raises(ContractError) as caught:
                write_bundle(checkpoint, "0" * 64, target, False, fused=False)
            assert caught.value.exit_code == 3
        assert [path.name for path in tmp_path.iterdir()] == ["model.svgb"]
        assert {file: (out / file).read_bytes() for file in old} == old
        message = str(caught.value)
        assert message.startswith("the bundle violates its contract")
        assert message.endswith("nothing was published")
        assert str(tmp_path) not in message  # of a folder that is gone
        return message

    old = {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    return export


def test_a_graph_that_the_contract_refuses_is_not_published(refused, monkeypatch):
    def renamed(content):
        model = onnx.load_from_string(content)
        model.graph.output[0].name = {"mu": "mean"}.get(model.graph.output[0].name, model.graph.output[0].name)
        return read_interface(model.SerializeToString())

    monkeypatch.setattr("svg_export.bundle_writer.read_interface", renamed)
    message = refused()
    assert "variants.fp32.graphs.prior.outputs: ('mean', 'float32'" in message
    assert "variants.fp32.graphs.posterior.outputs: ('mean', 'float32'" in message


def test_a_tensor_type_that_the_contract_does_not_know_is_not_published(refused, monkeypatch):
    def doubled(content):
        model = onnx.load_from_string(content)
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        return read_interface(model.SerializeToString())

    monkeypatch.setattr("svg_export.bundle_writer.read_interface", doubled)
    assert "dtype: Input should be 'float32' or 'float16'" in refused()


def test_graphs_of_another_bundle_are_not_published(refused, monkeypatch):
    monkeypatch.setattr("svg_export.bundle_writer._bundle_id", lambda checkpoint: "f" * 16)
    message = refused()
    assert all(f"fp32/{graph_name}.onnx: belongs to another bundle" in message for graph_name in ROLES)


def test_a_checkpoint_whose_pace_the_contract_refuses_is_not_published(refused):
    assert "frame_interval_s: Input should be greater than or equal to 0.0001" in refused(frame_interval_s=0.0)


def test_folder_that_is_not_a_bundle_is_not_replaced(tiny_checkpoint, tmp_path):
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "holiday.txt").write_text("here")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(load_checkpoint(tiny_checkpoint), "0" * 64, precious, False)
    assert (precious / "holiday.txt").read_text() == "here"


def run_cli(*arguments: str, cwd: Path, block: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    code = f"import sys\n{block}\nfrom svg_export.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize(
    "name",
    ["notes.txt", ".git/config", "fp32/measured.csv", "sub/deep/thesis.pdf", "fp32/mine.onnx", "step.onnx", "engines/a.txt"],
)
def test_a_bundle_with_files_of_the_user_in_it_is_not_replaced(tiny_bundle, tmp_path, name):
    copy = shutil.copytree(tiny_bundle, tmp_path / "b.svgb")
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("the only copy")
    with pytest.raises(UsageError, match=f"files that svg-export did not write: {name}\n"):
        refuse_foreign(copy)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to("fp32")])
def test_a_bundle_with_a_folder_or_a_link_of_the_user_in_it_is_not_replaced(tiny_bundle, tmp_path, make):
    copy = shutil.copytree(tiny_bundle, tmp_path / "b.svgb")
    make(copy / "mine")
    with pytest.raises(UsageError, match="files that svg-export did not write: mine\n"):
        refuse_foreign(copy)


def test_a_bundle_with_engines_and_leavings_of_file_managers_is_replaced(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "b.svgb")
    for name in ("engines/sm75/encoder.plan", "engines/sm75/encoder.plan.json", ".DS_Store", "fp32/.DS_Store"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    for name in ("engines/fp16", ".engines.partial-abcdefgh"):  # of a build that was killed
        (copy / name).mkdir()
    refuse_foreign(copy)


def test_the_manifest_of_another_program_makes_no_bundle(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web site"}')
    with pytest.raises(UsageError, match="is not a bundle"):
        refuse_foreign(tmp_path)


def test_command_writes_a_bundle_named_after_the_checkpoint(tiny_checkpoint, tmp_path, svg_export):
    code, messages = svg_export(str(tiny_checkpoint), "--json", "summary.json")
    assert code == 0, messages
    manifest = Bundle.open(tmp_path / "tiny.svgb").manifest
    assert manifest.provenance.checkpoint_sha256 == file_sha256(tiny_checkpoint)
    assert manifest.generation.frame_interval_s == 0.1
    assert json.loads((tmp_path / "summary.json").read_text())["bundle_id"] == manifest.bundle_id
    assert "svg-live --model tiny.svgb" in messages


def test_the_manifest_has_the_hash_of_the_checkpoint_that_was_exported(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    """A training saves its next one while data for the export is loaded, which takes minutes."""
    checkpoint = Path(shutil.copy(tiny_checkpoint, tmp_path / "best.pt"))

    def save_next(**options):
        checkpoint.write_bytes(b"the next one")

    def write(**options):
        raise SvgError(f"exported {options['checkpoint_sha256']}")

    monkeypatch.setattr("svg_export.precision.load_held_out", save_next)
    monkeypatch.setattr("svg_export.bundle_writer.write_bundle", write)
    code, messages = svg_export(checkpoint)
    assert (code, f"exported {file_sha256(tiny_checkpoint)}" in messages) == (1, True), messages


def test_command_exits_3_without_a_folder_when_parity_fails(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    monkeypatch.setattr(check_fp32, "__defaults__", (0.0,))
    monkeypatch.setattr("svg_export.parity.ROUNDING_FACTOR", 0.0)
    code, messages = svg_export(str(tiny_checkpoint), "--no-fused")
    assert (code, "Traceback" in messages) == (3, False), messages
    assert "nothing was published" in messages
    assert list(tmp_path.iterdir()) == []


def test_command_saves_the_checkpoint_only_if_parity_holds(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    arguments = [str(tiny_checkpoint), "--no-fused", "--save-checkpoint", "ckpt.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(check_fp32, "__defaults__", (0.0,))
        patch.setattr("svg_export.parity.ROUNDING_FACTOR", 0.0)
        assert svg_export(*arguments)[0] == 3
    assert list(tmp_path.iterdir()) == []
    code, messages = svg_export(*arguments)
    assert (code, "wrote ckpt.pt" in messages) == (0, True), messages
    assert load_checkpoint(tmp_path / "ckpt.pt").build()


# Ctrl-C as the exporter imports its first parts, from which PyTorch does not recover.
INTERRUPTED = """
import os, signal
class Interrupting:
    @staticmethod
    def find_spec(name, *rest):
        if name == "torch._dynamo.variables":
            sys.meta_path.remove(Interrupting)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
"""


def test_ctrl_c_while_the_exporter_is_imported_is_no_failure_of_the_export(tiny_checkpoint, tmp_path):
    result = run_cli(str(tiny_checkpoint), "--no-fused", cwd=tmp_path, block=INTERRUPTED)
    assert (result.returncode, result.stderr) == (130, "exporting encoder\nerror: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused_before_the_export(tiny_checkpoint, tmp_path, svg_export):
    checkpoint = load_checkpoint(tiny_checkpoint)
    checkpoint.weights["prior.mu.bias"].fill_(torch.nan)
    save_checkpoint(tmp_path / "nan.pt", checkpoint)
    code, messages = svg_export("nan.pt")
    assert (code, "exporting" in messages) == (1, False)
    assert "not finite: prior.mu.bias\n" in messages
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pt"]


def test_command_exits_3_without_a_folder_when_the_contract_is_broken(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    monkeypatch.setattr("svg_export.bundle_writer.SHUFFLED_DECODER", "decoder_twice")
    code, messages = svg_export(str(tiny_checkpoint), "--no-fused")
    assert (code, "Traceback" in messages) == (3, False), messages
    assert "decoder_twice" in messages
    assert "nothing was published" in messages
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.pt"], 1, "checkpoint 'none.pt' does not exist"),
        (["hf://user/name"], 2, "svg-export takes no address, but 'hf://user/name' was given"),
        (["hf://user/name", "--pack", "x.svgb.tar"], 2, "download it, and give the checkpoint (ckpt.pt), or with --push,"),
        (["https://h/c.pt?key=1#sha256=1"], 2, "no address, but 'https://h/c.pt' was given"),
        (["file:///tmp/c.pt"], 2, "give the path: svg-export /tmp/c.pt"),
        (["noise.pt"], 1, "not an svg-edge checkpoint"),
        ([], 2, "CHECKPOINT"),
    ],
)
def test_mistakes_get_one_message_and_the_documented_code(tmp_path, arguments, code, message):
    (tmp_path / "noise.pt").write_bytes(b"noise" * 99)
    result = run_cli(*arguments, cwd=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
    assert message.lower() in result.stderr.lower()


@pytest.mark.parametrize("module", ["svg_export.cli", "svg_eval.cli", "svg_adapt.cli"])
def test_h_is_help(module, tmp_path):
    command = [sys.executable, "-c", f"from {module} import main; main()", "-h"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage" in result.stdout


def test_missing_exporter_names_the_extra(tiny_checkpoint, tmp_path):
    result = run_cli(str(tiny_checkpoint), cwd=tmp_path, block="sys.modules['onnxscript'] = None")
    assert result.returncode == 4
    assert "svg-edge[export]" in result.stderr
