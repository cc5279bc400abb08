"""The benchmarks run, report what they promise, and the training step's yardstick computes the model's own loss."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svg_common.errors import UsageError
from tests.conftest import random_model

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the folder, as its own conftest finds them."""
    monkeypatch.syspath_prepend(FOLDER)


def run_pytest(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-o", f"cache_dir={tmp_path / 'cache'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def result(tiny_bundle, tmp_path_factory) -> tuple[dict, str]:
    """JSON and terminal output of a short, timed run of everything but the training step."""
    folder = tmp_path_factory.mktemp("benchmarks")
    quick = ("--rounds=2", "--live-frames=12", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1")
    run = run_pytest(
        folder, "--bundle", str(tiny_bundle), "--precision", "fp32", *quick, "--benchmark-warmup=off",
        f"--ignore={FOLDER / 'test_training.py'}", f"--benchmark-json={folder / 'out.json'}",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "out.json").read_text()), run.stdout


def test_plain_command_times(result):
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


def test_figures_are_in_json_and_table(result):
    figures = [figure for item in result[0]["benchmarks"] for figure in item["extra_info"].get("figures", [])]
    for beginning in (
        "forecast(8 samples, 10 steps) /",
        "svg-live, peak",
        "live loop",
        "import svg_runtime",
        "from svg_runtime",
    ):
        assert any(figure["name"].startswith(beginning) for figure in figures), beginning
    for figure in figures:
        assert math.isfinite(figure["value"])
        assert figure["name"] in result[1]
    kernels = next(item for item in result[0]["benchmarks"] if item["name"] == "test_forecast_over_kernels[tiny]")
    assert len(kernels["extra_info"]["kernel_seconds"]) == 2
    assert min(kernels["extra_info"]["kernel_seconds"]) > 0


def test_default_bundles_and_training_are_collected(tmp_path):
    listing = run_pytest(tmp_path, "--collect-only").stdout
    assert "test_observe[embedded]" in listing
    assert "test_observe[random:nf64]" in listing
    assert "test_training_step" in listing


def test_missing_bundle_and_backend_say_so(tiny_bundle, tmp_path):
    missing = run_pytest(tmp_path, "--bundle", "nowhere.svgb", "-k", "encoder-1")
    assert missing.returncode == 1
    assert "there is no bundle 'nowhere.svgb'" in missing.stdout
    planned = run_pytest(tmp_path, "--bundle", str(tiny_bundle), "--backend", "cuda", "-k", "encoder-1")
    assert planned.returncode == 1
    assert "'cuda'" in planned.stdout


def test_bundle_names():
    from bundles import DEFAULT, label, split_names

    assert split_names(None) == list(DEFAULT)
    assert split_names(["a.svgb, b.svgb", "random:nf64", "a.svgb"]) == ["a.svgb", "b.svgb", "random:nf64"]
    assert [label(name) for name in ("x/a.svgb", "embedded", "random:nf8")] == ["a", "embedded", "random:nf8"]


def test_random_bundle_is_made_once(tmp_path):
    from bundles import open_named

    made = open_named("random:nf2", tmp_path)
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    again = open_named("random:nf2", tmp_path)
    assert (made.manifest.model.nf, made.manifest.model.rnn_size) == (2, 256)
    assert again.path == made.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="random:nf64"):
        open_named("random:64", tmp_path)


def test_figure_table_shows_goals():
    from figures import Figure, table

    lines = table([Figure("a", 1.05, "x", 1.1), Figure("b", 2.0, "x", 2.5, at_least=True), Figure("c", 3.0, "frames/s")])
    assert [line.split()[-1] for line in lines[1:]] == ["met", "MISSED", "frames/s"]
    assert "at most 1.1 x" in lines[1]
    assert "at least 2.5 x" in lines[2]


def test_median_ratio_ignores_one_disturbed_round():
    from figures import median_ratio

    assert median_ratio([2.0, 4.0, 90.0], [1.0, 2.0, 3.0]) == 2.0


@pytest.fixture
def _one_thread():
    """Tiny models are slower on several threads, very much so on a busy machine."""
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
