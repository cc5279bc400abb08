"""svg-export --triton: model repositories that Triton's own schema of config.pbtxt accepts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("tritonclient.grpc")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from svg_common.errors import UsageError
from svg_export.triton import repository
from svg_export.triton.model_configs import ServingChoice
from svg_export.triton.options import REPOSITORIES
from svg_export.triton.repository import model_name, write_repositories
from svg_runtime import Forecaster
from svg_runtime.backends.tensorrt.engine import EngineKey, write_engine
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError
from tests.integrations.triton_helpers import SERVER_HORIZON
from tests.integrations.triton_helpers import server_bundle as bundle_for_servers
from tests.svg_runtime.bundle_helpers import copy_bundle, move_graphs

CHOICE = ServingChoice(cameras=4, samples=2, horizon=3, idle_s=2.5)


@pytest.fixture(scope="module")
def server_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    return bundle_for_servers(tiny_checkpoint, tmp_path_factory)


def read_config(model: Path) -> model_config_pb2.ModelConfig:
    """Parse config.pbtxt with Triton's schema, which refuses unknown fields and wrong types."""
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == model.name
    return config


def shapes(tensors) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in tensors}


def test_the_python_backend_gets_the_bundle_and_its_parameters(fused_bundle, tmp_path):
    (model,) = write_repositories(Bundle.open(fused_bundle), "m", tmp_path, CHOICE)
    assert model == tmp_path / "python" / "m"
    config = read_config(model)
    assert (config.backend, config.max_batch_size) == ("python", 4)
    assert shapes(config.input) == {"frame": [64, 64, 1]}
    assert shapes(config.output) == {"futures": [-1, -1, 64, 64, 1], "surprise": [1], "missing_frames": [1]}
    assert config.sequence_batching.max_sequence_idle_microseconds == 2_500_000
    assert config.sequence_batching.oldest.max_candidate_sequences == 4
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "bundle": "m.svgb", "samples": "2", "horizon": "3", "seed": "0", "backend": "auto",
    }  # fmt: skip
    Bundle.open(model / "1" / "m.svgb").check()
    moved = Bundle.open(move_graphs(copy_bundle(fused_bundle, tmp_path)))
    Bundle.open(write_repositories(moved, "moved", tmp_path, CHOICE)[0] / "1" / "moved.svgb").check()
    compile((model / "1" / "model.py").read_text(), "model.py", "exec")


def test_the_graph_forecast_is_described_as_it_is(server_bundle, tmp_path):
    _, onnx, tensorrt = write_repositories(Bundle.open(server_bundle), "m", tmp_path, CHOICE)
    config, plan = read_config(onnx), read_config(tensorrt)
    session = onnxruntime.InferenceSession(onnx / "1" / config.default_model_filename, providers=["CPUExecutionProvider"])
    for tensors, graph in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        in_graph = {each.name: [size if isinstance(size, int) else -1 for size in each.shape[1:]] for each in graph}
        assert {name: dims for name, dims in shapes(tensors).items() if name != "surprise"} == {
            name: dims for name, dims in in_graph.items() if name != "surprise"
        }
        assert all(each.type == "tensor(float)" for each in graph)
        assert all(tensor.data_type == model_config_pb2.TYPE_FP32 for tensor in tensors)
    surprise = next(tensor for tensor in config.output if tensor.name == "surprise")
    assert (list(surprise.dims), surprise.HasField("reshape"), list(surprise.reshape.shape)) == ([1], True, [])
    assert config.HasField("dynamic_batching")
    assert not config.HasField("sequence_batching")
    assert (config.backend, plan.backend, plan.default_model_filename) == ("onnxruntime", "tensorrt", "model.plan")
    assert (plan.input, plan.output) == (config.input, config.output)


def test_the_script_builds_a_plan_for_all_that_the_configuration_lets_in(server_bundle, tmp_path):
    *_, model = write_repositories(Bundle.open(server_bundle), "m", tmp_path, CHOICE)
    told = subprocess.run([model / "build-plan.sh"], env={"TRTEXEC": "echo"}, capture_output=True, text=True, check=True).stdout
    given = dict(each[2:].split("=", 1) for each in told.split() if "=" in each)
    assert given["onnx"] == "1/model.onnx"
    assert given["saveEngine"] == "1/model.plan"
    dims = shapes(read_config(model).input)
    for name, cameras, samples in (("minShapes", 1, 1), ("optShapes", 4, 2), ("maxShapes", 4, 2)):
        shape = {tensor.split(":")[0]: tensor.split(":")[1].split("x") for tensor in given[name].split(",")}
        expected = {tensor: [cameras, *(samples if size < 0 else size for size in sizes)] for tensor, sizes in dims.items()}
        assert {tensor: list(map(int, sizes)) for tensor, sizes in shape.items()} == expected


def test_states_that_start_at_zero_are_kept_by_triton(family_bundle, tmp_path):
    bundle = Bundle.open(family_bundle("predrnn"))
    _, onnx, tensorrt = write_repositories(bundle, "m", tmp_path, CHOICE)
    assert (onnx.name, tensorrt.name) == ("m-step-onnxruntime", "m-step-tensorrt")
    config = read_config(onnx)
    assert (shapes(config.input), shapes(config.output)) == (
        {"h": [1, 16, 16]},
        {"frame": [1, 16, 16], "h_out": [1, 16, 16]},
    )
    states = config.sequence_batching.state
    assert {(state.input_name, state.output_name) for state in states} == {
        (f"{name}", f"{name}_out") for name in ("h0", "c0", "h1", "c1", "m")
    }
    for state in states:
        (start,) = state.initial_state
        assert start.zero_data
        assert (list(start.dims), start.data_type) == (list(state.dims), state.data_type)
    # What Triton would do, with the graph itself: zeros at the start, and each output is the next input.
    session = onnxruntime.InferenceSession(onnx / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    kept = {state.input_name: np.zeros((1, *state.dims), np.float32) for state in states}
    frames = np.random.default_rng(0).random((3, 1, 1, 16, 16), np.float32)
    names = [each.name for each in session.get_outputs()]
    for frame in frames:
        outputs = dict(zip(names, session.run(None, {"h": frame, **kept}), strict=True))
        kept = {state.input_name: outputs[state.output_name] for state in states}
    with Forecaster.open(bundle.path, backend="cpu", threads=1, samples=1, horizon=1) as forecaster:
        for frame in frames:
            forecaster.observe(np.ascontiguousarray(frame[0].transpose(1, 2, 0)))
        np.testing.assert_allclose(forecaster.forecast()[0, 0, :, :, 0], outputs["frame"][0, 0], atol=1e-5)


def test_states_that_another_graph_computes_are_not(family_bundle, tmp_path):
    folders = write_repositories(Bundle.open(family_bundle("ensemble")), "m", tmp_path, CHOICE)
    assert [folder.parent.name for folder in folders] == ["python"]


def test_our_own_models_are_replaced_and_others_stay(fused_bundle, tmp_path):
    bundle = Bundle.open(fused_bundle)
    write_repositories(bundle, "m", tmp_path, CHOICE)
    (model,) = write_repositories(bundle, "m", tmp_path, ServingChoice(cameras=9))
    assert read_config(model).max_batch_size == 9
    write_repositories(bundle, "other", tmp_path, CHOICE)
    assert {folder.name for folder in model.parent.iterdir()} == {"m", "other"}
    (model / "config.pbtxt").write_text('name: "m"')
    with pytest.raises(UsageError, match="was not written by svg-export --triton"):
        write_repositories(bundle, "m", tmp_path, CHOICE)


def test_graphs_that_the_bundle_has_no_more_are_not_served_on(server_bundle, fused_bundle, tmp_path):
    models = tmp_path / "models"
    other = write_repositories(Bundle.open(server_bundle), "other", models, CHOICE)
    assert len(write_repositories(Bundle.open(server_bundle), "m", models, CHOICE)) == 3
    without = shutil.copytree(fused_bundle, tmp_path / server_bundle.name)
    written = write_repositories(Bundle.open(without), "m", models, CHOICE)
    assert written == [models / "python" / "m"]
    assert sorted(each.parent for each in models.rglob("config.pbtxt")) == sorted([*written, *other])


def test_a_repository_has_nothing_but_whole_models_while_others_are_written(server_bundle, tmp_path, monkeypatch):
    """Triton takes every folder for a model, hidden ones too, so a killed export would keep it from starting."""
    content, seen = Bundle.content, []

    def look_and_read(bundle, file):
        seen.append({model for model in tmp_path.glob("*/*") if model.parent.name in REPOSITORIES})
        return content(bundle, file)

    monkeypatch.setattr(Bundle, "content", look_and_read)
    for before in (0, 3):
        written = write_repositories(Bundle.open(server_bundle), "m", tmp_path, CHOICE)
        assert (min(map(len, seen)), set.union(*seen) - set(written)) == (before, set())
        seen.clear()
    assert {path.name for path in tmp_path.iterdir()} == set(REPOSITORIES)


def test_what_killed_exports_left_is_removed(server_bundle, fused_bundle, tmp_path):
    """Earlier versions left it in the repositories, also that of graphs that the bundle does not have any more."""
    places = (".python.m", "python/.m", "onnxruntime/.m-forecast-onnxruntime", ".tensorrt.m-step-tensorrt")
    for bundle in (server_bundle, fused_bundle):
        models = tmp_path / bundle.stem
        for place in places:
            (models / f"{place}.partial-ab_c12xy" / "1").mkdir(parents=True)
        (models / "tensorrt").mkdir()
        written = write_repositories(Bundle.open(bundle), "m", models, CHOICE)
        assert set(models.glob("*/*")) == set(written)
        assert {path.name for path in models.iterdir()} == set(REPOSITORIES)


@pytest.mark.parametrize(("first", "second", "name"), [("cam 1.svgb", "cam+1.svgb", "cam-1"), ("相机", "摄像", "model")])
def test_models_of_a_bundle_with_another_name_are_not_replaced(svg_export, server_bundle, first, second, name):
    for bundle in (first, second):
        shutil.copytree(server_bundle, bundle)
    for _ in range(2):  # its own are
        code, said = svg_export(first, "--triton", "models")
        assert code == 0, said
        assert f"the bundle '{first}' is the model '{name}'" in said
    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    code, said = svg_export(second, "--triton", "models")
    assert (code, {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}) == (2, before)
    models = [f"models/python/{name}", *(f"models/{each}/{name}-forecast-{each}" for each in ("onnxruntime", "tensorrt"))]
    assert f"error: '{models[0]}' is a model of the bundle '{first}', and '{second}' would replace it" in said
    _, remove = said.strip().split("or remove the old models: ")
    subprocess.run(remove, shell=True, check=True)  # the advice is followed
    code, said = svg_export(second, "--triton", "models")
    assert code == 0, said
    assert [path for path in models if Path(path).is_dir()] == models


def test_only_models_of_the_bundle_that_is_named_are_advised_to_be_removed(svg_export, server_bundle):
    for bundle in ("cam 1.svgb", "cam+1.svgb", "cam 1"):
        shutil.copytree(server_bundle, bundle)
    assert svg_export("cam 1.svgb", "--triton", "models")[0] == 0
    python = Path("models/python/cam-1")
    ort, trt = (Path(f"models/{each}/cam-1-forecast-{each}") for each in ("onnxruntime", "tensorrt"))
    config = ort / "config.pbtxt"
    config.write_text(config.read_text().replace("cam 1.svgb", "cam 1"))
    code, said = svg_export("cam+1.svgb", "--triton", "models")
    assert (code, said.strip().splitlines()[-1].endswith(f": rm -r {python} {trt}")) == (2, True), said
    config.write_text("# written by hand")
    code, said = svg_export("cam+1.svgb", "--triton", "models")
    assert (code, f"'{ort}' exists and was not written by svg-export --triton" in said) == (2, True), said
    assert "rm -r" not in said


def test_a_checkpoint_is_refused_before_the_work_if_another_bundle_has_its_models(svg_export, tiny_checkpoint, fused_bundle):
    shutil.copytree(fused_bundle, "tiny 1.svgb")
    assert svg_export("tiny 1.svgb", "--triton", "models")[0] == 0
    code, said = svg_export(tiny_checkpoint, "--out", "tiny-1.svgb", "--triton", "models")
    assert (code, "is a model of the bundle 'tiny 1.svgb', and 'tiny-1.svgb' would replace it" in said) == (2, True), said
    assert not Path("tiny-1.svgb").exists()


def test_models_of_earlier_versions_do_not_name_their_bundle_and_are_replaced(svg_export, fused_bundle):
    config = Path("models/python/fused/config.pbtxt")
    assert svg_export(fused_bundle, "--triton", "models")[0] == 0
    mark, bundle, *rest = config.read_text().splitlines()
    assert bundle == '# Bundle: "fused.svgb"'
    for older in ([mark, *rest], [mark, "# Bundle: fused", *rest]):
        config.write_text("\n".join(older))
        code, said = svg_export(fused_bundle, "--triton", "models")
        assert (code, "is the model" in said) == (0, False), said
        assert bundle in config.read_text()


@pytest.mark.parametrize(("is_measured", "served"), [(True, ["python", "tensorrt"]), (False, ["python"])])
def test_without_fp32_graphs_tensorrt_gets_those_of_known_quality(server_bundle, tiny_bundle, tmp_path, is_measured, served):
    bundle = Bundle.open(server_bundle)
    quality = Bundle.open(tiny_bundle).manifest.variants["fp16"].quality if is_measured else None
    variants = {"fp16": bundle.manifest.variants["fp32"].model_copy(update={"quality": quality})}
    manifest = bundle.manifest.model_copy(update={"variants": variants})
    half = Bundle(bundle.path, manifest, manifest_json=manifest.model_dump_json().encode())
    folders = write_repositories(half, "m", tmp_path, CHOICE)
    assert [folder.parent.name for folder in folders] == served


def test_a_damaged_bundle_is_not_served(fused_bundle, tmp_path):
    damaged = Path(shutil.copytree(fused_bundle, tmp_path / "damaged.svgb"))
    (damaged / "fp32" / "step.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        write_repositories(Bundle.open(damaged), "m", tmp_path / "models", CHOICE)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("written", "name"), [("_write_python", "fp32/step.onnx"), ("_write_graph", "fp32/forecast.onnx")])
def test_a_bundle_that_changes_after_its_check_is_not_served(server_bundle, tmp_path, monkeypatch, written, name):
    bundle = Path(shutil.copytree(server_bundle, tmp_path / "mine.svgb"))
    write = getattr(repository, written)

    def change_first(*arguments, **options):
        (bundle / name).write_bytes(b"another export")
        return write(*arguments, **options)

    monkeypatch.setattr(repository, written, change_first)
    with pytest.raises(BundleError, match=rf"changed while it was copied: {name} (.|\n)* run the command again"):
        write_repositories(Bundle.open(bundle), "m", tmp_path / "models", CHOICE)
    assert not list(tmp_path.glob("models/*/*/1/*.onnx"))


def test_names_are_those_of_addresses():
    names = {"ckpt.svgb": "ckpt", "my model (2).svgb": "my-model-2", "...": "model", "größe.svgb": "gr-e"}
    assert {given: model_name(Path(given)) for given in names} == names


def test_a_bundle_that_is_the_current_folder_has_the_name_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_name(Path()) == tmp_path.name


def test_a_checkpoint_is_exported_and_written(svg_export, tiny_checkpoint):
    code, said = svg_export(tiny_checkpoint, "--triton", "models", "--triton-cameras", 2, "--triton-horizon", 2)
    assert code == 0, said
    assert "tritonserver --model-repository=models/python" in said
    folders = [
        Path("models/python/tiny"),
        *(Path(f"models/{name}/tiny-forecast-{name}") for name in ("onnxruntime", "tensorrt")),
    ]
    for folder in folders:
        assert f"wrote {folder}" in said
        assert read_config(folder).max_batch_size == 2
    assert shapes(read_config(folders[1]).output)["futures"] == [-1, 2, 1, 64, 64]


def test_a_bundle_is_taken_as_it_is(svg_export, fused_bundle):
    code, said = svg_export(fused_bundle, "--triton", "models")
    assert code == 0, said
    assert "for the Python backend alone: the bundle has no graph forecast, which --server adds" in said
    code, said = svg_export(fused_bundle, "--triton", "models", "--fp16")
    assert code == 2
    assert "--fp16 has no effect on" in said
    assert "a bundle, which is sent as it is" in said


def horizon_of(model: Path) -> str:
    return read_config(model).parameters["horizon"].string_value


def test_all_models_have_the_horizon_of_the_graph(svg_export, server_bundle):
    name = server_bundle.stem
    for options in ((), ("--triton-horizon", SERVER_HORIZON)):
        code, said = svg_export(server_bundle, "--triton", "models", *options)
        assert code == 0, said
        assert horizon_of(Path(f"models/python/{name}")) == str(SERVER_HORIZON)
        futures = shapes(read_config(Path(f"models/onnxruntime/{name}-forecast-onnxruntime")).output)["futures"]
        assert futures[1] == SERVER_HORIZON
    code, said = svg_export(server_bundle, "--triton", "other", "--triton-horizon", 20, "--pack", "packed.svgb.tar")
    assert (code, "--triton-horizon 20 differs from the horizon" in said) == (2, True)
    assert not Path("other").exists()
    assert not Path("packed.svgb.tar").exists()  # refused before the work


def test_without_the_graph_any_horizon_is_written(svg_export, fused_bundle):
    for options, expected in (((), "10"), (("--triton-horizon", 20), "20")):
        code, said = svg_export(fused_bundle, "--triton", "models", *options)
        assert code == 0, said
        assert horizon_of(Path(f"models/python/{fused_bundle.stem}")) == expected


def test_an_exported_checkpoint_has_one_horizon(svg_export, tiny_checkpoint):
    code, said = svg_export(tiny_checkpoint, "--triton", "models", "--server-horizon", 3, "--triton-horizon", 4)
    assert (code, "--server-horizon 3 and --triton-horizon 4 differ" in said) == (2, True)
    assert not Path("tiny.svgb").exists()
    code, said = svg_export(tiny_checkpoint, "--triton", "models", "--server-horizon", 3)
    assert code == 0, said
    assert horizon_of(Path("models/python/tiny")) == "3"
    # The old bundle is replaced, so that its graph has no say in the new one.
    code, said = svg_export(tiny_checkpoint, "--triton", "models", "--triton-horizon", 2)
    assert code == 0, said
    assert horizon_of(Path("models/python/tiny")) == "2"


def test_options_without_effect_and_foreign_folders_are_refused(svg_export, tiny_checkpoint, fused_bundle):
    code, said = svg_export(tiny_checkpoint, "--triton-cameras", 4, "--triton-idle", 3)
    assert (code, "--triton-cameras, --triton-idle has no effect without --triton" in said) == (2, True)
    Path("models/python/tiny").mkdir(parents=True)
    code, said = svg_export(tiny_checkpoint, "--triton", "models")
    assert (code, "was not written by svg-export --triton" in said) == (2, True)
    assert not Path("tiny.svgb").exists()  # refused before the work
    code, said = svg_export(fused_bundle, "--triton", Path(fused_bundle, "models"))
    assert (code, "would overwrite" in said) == (2, True)


@pytest.mark.parametrize("option", ["--json", "--save-checkpoint", "--pack", "--out"])
def test_nothing_else_is_written_into_the_repositories(svg_export, tiny_checkpoint, option):
    file = "models/python/q/1/q.svgb.tar"
    code, said = svg_export(tiny_checkpoint, "--triton", "models", "--out", "q.svgb", option, file)
    reason = f"{option} would write '{file}' into 'models/python', the folder of --triton (python)"
    assert (code, reason in said) == (2, True), said
    assert list(Path.cwd().iterdir()) == []  # refused before the work


def test_beside_the_repositories_other_outputs_may_lie(svg_export, tiny_checkpoint):
    code, said = svg_export(tiny_checkpoint, "--triton", ".", "--json", "summary.json")
    assert code == 0, said
    assert {"tiny.svgb", "summary.json", "python"} <= {path.name for path in Path.cwd().iterdir()}


def test_the_copy_of_a_bundle_has_what_export_wrote_and_nothing_else(fused_bundle, tmp_path):
    bundle = Path(shutil.copytree(fused_bundle, tmp_path / "m.svgb"))
    own = {file.relative_to(bundle) for file in bundle.rglob("*") if file.is_file()}
    key = EngineKey(
        onnx_sha256="0" * 64, platform="Linux", nvidia_library="tensorrt-rtx", version="1", gpu=None,
        compute_capabilities=("sm75",), precision="fp32", max_batch=8, workspace_gib=None, flags=(),
    )  # fmt: skip
    write_engine(bundle / "engines" / "fp32" / "step.sm75.plan", key, b"code")
    for name in ("notes.txt", "fp32/notes.txt", "engines/fp32/foreign.plan"):
        (bundle / name).write_text("private")
    (model,) = write_repositories(Bundle.open(bundle), "m", tmp_path / "models", CHOICE)
    copy = model / "1" / "m.svgb"
    engines = {Path(f"engines/fp32/step.sm75.plan{suffix}") for suffix in ("", ".json")}
    assert {file.relative_to(copy) for file in copy.rglob("*") if file.is_file()} == own | engines


def test_a_full_disk_is_said_and_leaves_nothing(svg_export, fused_bundle, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    code, said = svg_export(fused_bundle, "--triton", "new/models")
    assert (code, said.splitlines()[0]) == (1, f"error: No space left on device: new/models/python/{fused_bundle.stem}")
    assert list(Path.cwd().iterdir()) == []


def test_writing_needs_no_package_of_triton(fused_bundle, tmp_path):
    program = (
        "import sys; sys.modules['tritonclient'] = sys.modules['google'] = None; sys.argv[0] = 'svg-export'\n"
        "from svg_export.cli import main; main()"
    )
    command = [sys.executable, "-c", program, str(fused_bundle), "--triton", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
