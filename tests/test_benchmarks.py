"""The benchmarks run, report what they promise, and the training step's yardstick computes the model's own loss."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_runtime.bundle.reader import Bundle, find_model
from svg_train.checkpoint import Checkpoint, save_checkpoint
from svg_train.config import build_config
from tests.conftest import random_model
from tests.svg_runtime.bundle_helpers import watch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import the modules of the folder as its own conftest does."""
    monkeypatch.syspath_prepend(FOLDER)


def run_pytest(tmp_path: Path, *arguments: str, files: tuple[str, ...] = ("",)) -> subprocess.CompletedProcess[str]:
    """Run the files of the folder, by default all of them."""
    paths = [str(FOLDER / file) for file in files]
    command = [sys.executable, "-m", "pytest", *paths, "-q", "-o", f"cache_dir={tmp_path / 'cache'}", *arguments]
    # The benchmarks would not measure if they believed to run in a process of pytest-xdist.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    with one_core():
        return subprocess.run(command, capture_output=True, text=True, check=False, env=alone)


@contextlib.contextmanager
def one_core():
    """Where the system supports it: threads that share tiny layers wait for each other, above all on a busy machine."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def result(tiny_bundle, tmp_path_factory) -> tuple[dict, str]:
    """JSON and terminal output of a short, timed run of everything but the training step and the peers."""
    folder = tmp_path_factory.mktemp("benchmarks")
    quick = ("--rounds=2", "--live-frames=12", "--forecasts=100", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1")
    run = run_pytest(
        folder, "--bundle", str(tiny_bundle), "--backend", "cpu", "--precision", "fp32", *quick, "--benchmark-warmup=off",
        *(f"--ignore={FOLDER / name}.py" for name in ("test_training", "test_peers", "test_growth")),
        f"--benchmark-json={folder / 'out.json'}",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "out.json").read_text()), run.stdout


def test_every_graph_and_loop_is_timed(result):
    names = {item["name"]: item for item in result[0]["benchmarks"]}
    graphs = {name for name in names if name.startswith("test_graph[")}
    expected = {"encoder-1", "encoder-8", "skip-1", "posterior-1", "prior-1", "prior-8", "predictor-1", "predictor-8"}
    assert graphs == {f"test_graph[tiny-{case}]" for case in expected | {"decoder-1", "decoder-8"}}
    assert {"test_observe_and_forecast[tiny-1]", "test_observe_and_forecast[tiny-8]", "test_live_loop[tiny]"} <= names.keys()
    assert all(item["stats"]["median"] > 0 for item in names.values())


def test_json_says_what_was_measured_on_what(result):
    machine = result[0]["machine_info"]
    assert machine["hardware"]["cpu"]
    assert machine["hardware"]["cores_usable"] >= 1
    assert machine["versions"]["numpy"] == np.__version__
    assert {"python", "svg-edge", "onnxruntime"} <= machine["versions"].keys()
    graph = next(item for item in result[0]["benchmarks"] if item["name"] == "test_graph[tiny-encoder-1]")
    assert graph["extra_info"]["bundle"] == "tiny.svgb"
    assert graph["extra_info"]["precision"] == "fp32"


def test_metrics_are_in_json_and_table(result):
    metrics = [metric for item in result[0]["benchmarks"] for metric in item["extra_info"].get("metrics", [])]
    for beginning in (
        "forecast(8 samples, 10 steps) /",
        "forecast(8 samples, 10 steps) outside of its",
        "resident memory, growth over 100 forecasts",
        "svg-live, peak",
        "live loop",
        "import svg_runtime",
        "from svg_runtime",
    ):
        assert any(metric["name"].startswith(beginning) for metric in metrics), beginning
    for metric in metrics:
        assert math.isfinite(metric["value"])
        assert metric["name"] in result[1]
    kernels = next(item for item in result[0]["benchmarks"] if item["name"] == "test_forecast_over_kernels[tiny]")
    assert len(kernels["extra_info"]["kernel_seconds"]) == 2
    assert min(kernels["extra_info"]["kernel_seconds"]) > 0


def test_memory_does_not_grow(result):
    """A leak of the frames of each forecast would be 10 MB."""
    memory = next(item["extra_info"] for item in result[0]["benchmarks"] if item["name"] == "test_memory_growth[tiny]")
    assert memory["forecasts"] == 100
    assert memory["resident_bytes"]["end"] - memory["resident_bytes"]["after_warm_up"] < 4e6


@pytest.fixture(scope="module")
def peers(tiny_bundle, tmp_path_factory) -> tuple[dict, str, Path]:
    """JSON and output of the comparison with the peers, and of the growth with pixels, which is one point; one round each."""
    folder = tmp_path_factory.mktemp("peers")
    run = run_pytest(
        folder, "--bundle", str(tiny_bundle), "--rounds=1", f"--benchmark-json={folder / 'out.json'}",
        "-k", "test_peers or pixels", files=("test_peers.py", "test_growth.py"),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "out.json").read_text()), run.stdout, folder / "out.json"


@pytest.mark.slow
def test_peers_compute_the_same_frames_and_are_timed(peers):
    rows = next(item["extra_info"]["peers"] for item in peers[0]["benchmarks"] if item["name"] == "test_peers[tiny]")
    assert len({row["name"] for row in rows}) == 7
    for row in rows:
        if "reason" in row:  # torch.compile needs a C++ compiler
            assert row["name"] == "torch.compile", row
            assert not shutil.which("g++"), row
            continue
        assert len(row["seconds"]) == 1
        assert row["max_error"] < 1e-3 if row["precision"] == "fp32" else row["first_frame_db"] > 30
        assert f"{row['name']}, {row['precision']}" in peers[1]


def test_a_peer_that_computes_something_else_is_not_timed():
    from peers import open_peer, time_interleaved

    expected = np.full((2, 1, 1, 4, 4), 0.5, np.float32)
    peers = [
        open_peer("same", "fp32", lambda: lambda: expected, expected),
        open_peer("wrong", "fp32", lambda: lambda: expected + 0.01, expected),
        open_peer("rounded", "bf16", lambda: lambda: expected + 0.01, expected),
        open_peer("wrong", "bf16", lambda: lambda: expected + 0.1, expected),
        open_peer("missing", "fp32", lambda: {}["compiler"], expected),
    ]
    time_interleaved(peers, 2)
    assert [len(peer.seconds) for peer in peers] == [2, 0, 2, 0, 0]
    assert "0.01" in peers[1].reason
    assert "20.0 dB" in peers[3].reason
    assert peers[4].reason == "KeyError: 'compiler'"


def test_weights_of_a_bundle_give_the_frames_of_its_model(tiny_model, tiny_bundle):
    """BatchNorm is folded in the graphs: other weights, the same function."""
    import torch
    from bundle_weights import model_of

    from svg_runtime.bundle.reader import Bundle

    rng = torch.Generator().manual_seed(0)
    c = tiny_model.config
    shapes = ((c.n_past, 2, 1, 64, 64), (4, 2, c.z_dim), (c.n_past - 1, 2, c.z_dim))
    given = [torch.rand(shape, generator=rng) for shape in shapes]
    torch.testing.assert_close(
        model_of(Bundle.open(tiny_bundle)).generate(*given), tiny_model.generate(*given), atol=2e-5, rtol=0
    )


@pytest.mark.slow
def test_publishing_makes_tables_a_plot_and_a_small_result(peers, tmp_path):
    command = [sys.executable, str(FOLDER / "publish.py"), str(peers[2])]
    files = tmp_path / "small.json", tmp_path / "growth.png"
    run = subprocess.run(
        [*command, "--results", str(files[0]), "--plot", str(files[1])], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    small = json.loads(files[0].read_text())
    assert {entry["axis"]: len(entry["points"]) for entry in small["growth"]} == {"pixels": 1}
    assert small["hardware"]["cores_usable"] >= 1
    for row in small["peers"][0]["rows"]:
        if "reason" not in row:
            assert f"| {row['name']}, {row['precision']} | {row['median_ms']:.1f} |" in run.stdout
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_default_bundles_and_training_are_collected(tmp_path):
    listing = run_pytest(tmp_path, "--collect-only").stdout
    assert "test_observe[embedded]" in listing
    assert "test_observe[random:nf64]" in listing
    assert "test_training_step" in listing
    assert "test_peers[random:vgg-rgb-nf64]" in listing


def test_missing_bundle_and_backend_say_so(tiny_bundle, tmp_path):
    missing = run_pytest(tmp_path, "--bundle", "nowhere.svgb", "-k", "encoder-1")
    assert missing.returncode == 1
    assert "no such bundle: 'nowhere.svgb'" in missing.stdout
    missing = run_pytest(tmp_path, "--bundle", str(tiny_bundle), "--backend", "openvinx", "-k", "encoder-1")
    assert missing.returncode == 1
    assert "unknown backend 'openvinx'" in missing.stdout


def test_bundle_options_are_split_and_labelled():
    from bundles import DEFAULT, label, split_names

    assert split_names(None) == list(DEFAULT)
    assert split_names(["a.svgb, b.svgb", "random:nf64", "a.svgb"]) == ["a.svgb", "b.svgb", "random:nf64"]
    assert [label(name) for name in ("x/a.svgb", "embedded", "random:nf8")] == ["a", "embedded", "random:nf8"]


@pytest.mark.slow
def test_random_bundle_is_made_once(tmp_path):
    from bundles import open_named

    made = open_named("random:nf2", tmp_path)
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    again = open_named("random:nf2", tmp_path)
    assert [made.manifest.model.settings[name] for name in ("nf", "rnn_size")] == [2, 256]
    assert again.path == made.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="random:nf64"):
        open_named("random:64", tmp_path)


def test_names_of_random_bundles_describe_their_shape():
    from bundles import random_model

    assert random_model("random:nf64") == {"backbone": "dcgan", "image_size": 64, "channels": 1, "nf": 64}
    assert random_model("random:vgg-128-rgb-nf8") == {"backbone": "vgg", "image_size": 128, "channels": 3, "nf": 8}


def test_metric_table_shows_goals():
    from goal_metrics import GoalMetric, table

    lines = table(
        [GoalMetric("a", 1.05, "x", 1.1), GoalMetric("b", 2.0, "x", 2.5, at_least=True), GoalMetric("c", 3.0, "frames/s")]
    )
    assert [line.split()[-1] for line in lines[1:]] == ["met", "MISSED", "frames/s"]
    assert "at most 1.1 x" in lines[1]
    assert "at least 2.5 x" in lines[2]


def test_a_goal_for_other_hardware_is_met_or_unknown():
    from goal_metrics import GoalMetric, table

    metrics = [GoalMetric("a", value, "x", 2.5, at_least=True, meant_for="a GPU", here=False) for value in (3.0, 2.0)]
    assert [metric.met for metric in metrics] == [True, None]
    assert table(metrics)[2].endswith("at least 2.5 x on a GPU")


def test_median_ratio_ignores_one_disturbed_round():
    from goal_metrics import median_ratio

    assert median_ratio([2.0, 4.0, 90.0], [1.0, 2.0, 3.0]) == 2.0


@pytest.fixture
def _one_thread():
    """Tiny models are slower on several threads, above all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(model, steps=6, size=2):
    import torch

    c = model.config
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(steps, size, c.channels, c.image_size, c.image_size, generator=generator)
    return x, torch.randn(steps - 1, size, c.z_dim, generator=generator)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("rule", [{"skip_lag": 1}, {"skip_lag": 0}, {"last_frame_skip": True}, {"predictor_layers": 3}])
def test_reference_step_computes_our_loss(rule):
    """In evaluation mode; in training mode BatchNorm sees one frame at a time there and all of them here."""
    import torch
    from reference_step import ReferenceSVG

    model = random_model(**rule)
    reference = ReferenceSVG(model).eval()
    x, eps = batch(model)
    ours, (mse, kl) = model(x, eps), reference(x, eps)
    torch.testing.assert_close(mse, ours.mse, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kl, ours.kl, rtol=1e-5, atol=1e-6)
    (ours.mse + ours.kl).backward()
    (mse + kl).backward()
    torch.testing.assert_close(
        reference.parts["encoder"].c1.main[0].weight.grad, model.encoder.stages[0][0].weight.grad, rtol=1e-3, atol=1e-4
    )
    assert model.encoder.stages[0][0].weight.grad.abs().max() > 0


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("sizes", [{}, {"latent": "spatial", "prior": "fixed"}, {"prior": "none", "last_frame_skip": True}])
def test_size_of_a_model_counts_what_one_step_multiplies(sizes):
    """Against the step itself; conditions of skips count where every step has its own."""
    import torch
    from model_size import macs_per_step
    from torch.utils.flop_counter import FlopCounterMode

    model = random_model(**sizes)
    with torch.no_grad():
        h, skips = model.encoder(torch.rand(1, 1, 64, 64))
        cond, states = model.decoder.condition(skips), model._initial_states(1)
        with FlopCounterMode(display=False) as counter:
            frame, _ = model.forecast_step(h=h, cond=cond, eps=torch.zeros(1, model.config.noise_dim), states=states)
            _, skips = model.encoder(frame)
            if model.config.last_frame_skip:
                model.decoder.condition(skips)
    assert macs_per_step(model) == counter.get_total_flops() // 2 > 0


def test_both_steps_learn(tiny_model):
    import copy

    import torch
    from batched_step import BatchedStep
    from reference_step import ReferenceStep, ReferenceSVG

    x, eps = batch(tiny_model)
    steps = [
        BatchedStep(copy.deepcopy(tiny_model), 1e-3, 1e-4, "32-true"),
        ReferenceStep(ReferenceSVG(tiny_model), 1e-3, 1e-4),
    ]
    for step in steps:
        device = getattr(step, "device", torch.device("cpu"))
        losses = [step(x.to(device), eps.to(device)) for _ in range(4)]
        assert losses[-1] < losses[0]


def test_the_embedded_model_with_the_shuffled_decoder_forecasts_the_same(tmp_path):
    from bundles import open_named

    made = open_named("embedded-shuffled", tmp_path)
    assert open_named("embedded-shuffled", tmp_path).path == made.path
    plain, shuffled = (
        watch(made.path, np.full((5, 64, 64, 1), 0.2, np.float32), backend="cpu", samples=2, horizon=3, shuffled=each)[1]
        for each in (False, True)
    )
    np.testing.assert_allclose(shuffled, plain, atol=1e-4)


def test_start_up_is_measured_in_processes_of_their_own(tmp_path):
    from start_up import start

    assert start("cpu", str(tmp_path)) > 0
    with pytest.raises(subprocess.CalledProcessError):
        start("nothing", str(tmp_path))


def test_settings_of_an_adaptation_have_the_types_of_a_recipe():
    import adaptation

    tables = adaptation.settings(["crop=0.8,1", "flip=true", "split_by=end", "lr=1e-3", "batch_size=4", "duration_s=5m"])
    config = build_config({"data": {"name": "video"}}, tables)
    assert (config.data.crop, config.data.flip, config.data.split_by) == ((0.8, 1), True, "end")
    assert (config.train.lr, config.train.batch_size, config.train.duration_s) == (1e-3, 4, 300)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["monday/door.mp4", "yard.mp4", "tuesday/door.avi"], "more than one clip is called door, and each has a folder of"),
        (
            ["door.mp4", "--set", "lr=1e-3", "duration_s=1m"],
            "--set duration_s is given by --train; use that instead",
        ),
        (["door.mp4", "--set", "root=yard.mp4"], "--set root is given by CLIP; use that instead"),
    ],
)
def test_an_adaptation_refuses_what_it_could_not_do_as_asked(monkeypatch, capsys, arguments, expected):
    import adaptation

    monkeypatch.setattr(sys, "argv", ["adaptation.py", *arguments])
    monkeypatch.setattr(adaptation, "adapt_to", lambda *_: pytest.fail("it started"))
    with pytest.raises(SystemExit, match="2"):
        adaptation.main()
    assert expected in capsys.readouterr().err


@pytest.fixture
def families(monkeypatch, tmp_path):
    """train_families.py with svg-train replaced: what was run of it, and its command line."""
    import train_families

    runs: list[tuple[str, ...]] = []

    def svg_train(*arguments: str, out: Path) -> None:
        runs.append((out.name, *arguments))
        out.mkdir(exist_ok=True)
        config = build_config({"train": {"steps": 300}})
        training = {"weights": {}, "optimizer": {}, "schedule": {}, "averaged": 0, "best": 0.0}
        save_checkpoint(out / "last.pt", Checkpoint(config, {}, step=150 * len(runs), training=training))
        raise SystemExit("interrupted")  # the second time after the last save

    monkeypatch.setattr(train_families, "svg_train", svg_train)
    options = argparse.Namespace(data="smmnist", data_root=Path("mnist"), minutes=10.0, out=tmp_path)
    return train_families, options, runs


def test_a_family_is_trained_once_and_an_interrupted_run_is_continued(families):
    train_families, options, runs = families
    for _ in range(2):
        with pytest.raises(SystemExit):
            train_families.train("MIM", 300, options)
    train_families.train("MIM", 300, options)
    data = ("--data", "smmnist", "--num-digits", "2", "--data-root", "mnist")
    assert runs == [
        ("mim", "--config", "frames-digits", "--cell", "mim", "--sampling-ramp", "0", "150", *data, "--steps", "300",
         "--eval-every", "300"),
        ("mim", "--resume"),
    ]  # fmt: skip


def test_every_family_gets_as_many_steps_as_the_time_has(families, monkeypatch):
    train_families, options, _ = families
    used = iter([7.0, 17.1, 2.0, 4.0, 8.0])  # 3 steps, 8 steps; 3, 8 steps, and 33 because they made no clear difference
    monkeypatch.setattr(train_families, "processor_s", lambda work: next(used))
    assert train_families.measure_steps(["SRVP"], options) == {"SRVP": 297}  # of 2.02 s in 10 minutes
    assert train_families.measure_steps(["SRVP"], options) == {"SRVP": 297}  # measured once
    assert train_families.measure_steps(["MIM"], options) == {"MIM": 3000}  # of 0.2 s


@pytest.mark.parametrize("other", [{"minutes": 20.0}, {"data": "digits", "data_root": None}, {"data_root": Path("other")}])
def test_runs_on_other_data_or_of_another_time_are_refused(families, monkeypatch, other):
    train_families, options, _ = families
    monkeypatch.setattr(train_families, "seconds_per_step", lambda name, options: 2.0)
    train_families.measure_steps(["SRVP"], options)
    with pytest.raises(SystemExit, match=r"has runs of .*mnist.*\n  expected those of .*: choose another --out"):
        train_families.measure_steps(["SRVP"], argparse.Namespace(**{**vars(options), **other}))
    options.data_root = options.data_root.resolve()  # the same folder
    assert train_families.measure_steps(["SRVP"], options) == {"SRVP": 300}


def test_quality_is_that_of_the_data(families, monkeypatch):
    train_families, options, _ = families
    options.sequences = 8
    asked: list[list[str]] = []
    monkeypatch.setattr(train_families.subprocess, "run", lambda command, **settings: asked.append(command))
    for options.data in ("smmnist", "digits"):
        with pytest.raises(FileNotFoundError):  # which the command would have written
            train_families.evaluate("SRVP", options)
    assert [Path(command[-1]).name for command in asked] == ["quality-smmnist-8.json", "quality-digits-8.json"]


def test_a_folder_of_data_is_refused_with_built_in_digits(families, monkeypatch, capsys):
    train_families, options, _ = families
    arguments = ["digits", "--data-root", "mnist", "--minutes", "16", "--out", str(options.out / "runs")]
    monkeypatch.setattr(sys, "argv", ["train_families.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        train_families.main()
    assert "--data-root has no effect with digits" in capsys.readouterr().err


def test_an_int8_copy_of_a_bundle_forecasts(tmp_path, monkeypatch):
    import explore_int8

    monkeypatch.setattr(explore_int8, "SCENES", 1)
    chosen = argparse.Namespace(
        graphs=["encoder"], operators=["Conv"], activations="QUInt8", calibrate="MinMax", keep_ends=True
    )
    bundle = Bundle.open(find_model("digits"))  # it has a variant in bf16, which shares the graphs of fp32
    made = explore_int8.quantized(bundle, tmp_path, chosen)
    frames = np.full((5, 64, 64, 1), 0.2, np.float32)
    plain, int8 = (watch(path, frames, backend="cpu", samples=1, horizon=2, fused=False)[1] for path in (bundle.path, made))
    assert 0 < np.abs(plain - int8).max() < 0.5


def test_every_family_of_the_comparison_has_its_recipe(families):
    from svg_train.config import build_config
    from svg_train.recipe_files import load_recipe

    train_families, _, _ = families
    kinds = set()
    for _, recipe, *setting in train_families.FAMILIES.values():
        tables = load_recipe(recipe)
        changed = {setting[0].removeprefix("--"): setting[1]} if setting else {}
        model = build_config({**tables, "model": {**tables["model"], **changed}}).model
        kinds.add((model.family, *changed.values(), getattr(model, "latent", "")))
    assert len(kinds) == 10


class Failing:
    """A client whose server refuses what a test names, and is gone from then on."""

    def __init__(self, refused: str, error: type[Exception]) -> None:
        self._refused = refused
        self._error = error
        self.closed = False

    def register_system_shared_memory(self, name: str, key: str, size: int) -> None:
        if self._refused == "memory" and name.endswith("_1"):
            raise RuntimeError("no shared memory here")

    def unregister_system_shared_memory(self, name: str) -> None:
        raise self._error("the server is gone")

    def async_infer(self, model, inputs, answered, **options) -> None:
        answered(None, RuntimeError("no model here"))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("refused", "error"), [("memory", RuntimeError), ("frames", SystemExit)])
def test_a_load_test_that_fails_at_its_start_leaves_no_shared_memory(monkeypatch, refused, error):
    pytest.importorskip("tritonclient.grpc")
    import triton_load
    from tritonclient.utils import InferenceServerException

    client = Failing(refused, InferenceServerException)
    monkeypatch.setattr(triton_load.triton, "InferenceServerClient", lambda address: client)
    options = SimpleNamespace(cameras=2, samples=1, horizon=1)
    load = triton_load.Load(SimpleNamespace(grpc="nowhere"), Bundle.open(find_model("digits")), options)
    mine = f"svg_load_{os.getpid()}_*"
    with pytest.raises(error, match=r"no shared memory here|no model here"):
        load.begin()
    assert list(Path("/dev/shm").glob(mine))
    load.close()
    assert not list(Path("/dev/shm").glob(mine))
    assert client.closed


@pytest.mark.parametrize(("missing", "written", "words"), [(0, False, "no futures"), (2, True, "2 more frames")])
def test_a_load_test_notices_an_answer_without_futures_in_shared_memory(monkeypatch, missing, written, words):
    pytest.importorskip("tritonclient.grpc")
    import triton_load
    from tritonclient.utils import shared_memory

    answer = SimpleNamespace(as_numpy=lambda name: np.array([[missing]], np.int32))
    client = SimpleNamespace(
        register_system_shared_memory=lambda *names: None,
        unregister_system_shared_memory=lambda name: None,
        async_infer=lambda model, inputs, answered, **options: answered(answer, None),
        close=lambda: None,
    )
    monkeypatch.setattr(triton_load.triton, "InferenceServerClient", lambda address: client)
    options = SimpleNamespace(cameras=1, samples=1, horizon=1)
    load = triton_load.Load(SimpleNamespace(grpc="nowhere"), Bundle.open(find_model("digits")), options)
    try:
        load.begin()
        if written:  # for the frame before
            shared_memory.set_shared_memory_region(load._regions[0], [np.zeros((1, 1, 1, 64, 64, 1), np.float32)])
        load._send(0, shared=True)
        with pytest.raises(SystemExit, match=words):
            load._answer(shared=True, filled=True)
    finally:
        load.close()
