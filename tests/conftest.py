"""Shared fixtures: tiny random models through the real exporter and the real engine."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from svg_common.log_messages import PACKAGES

TESTS = Path(__file__).resolve().parent
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each program that a test starts compiles the package anew
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime themselves, and must not report either
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes keep all cores busy: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED_DATA = TESTS.parents[1] / "shared" / "data"

TINY = {"nf": 4, "g_dim": 16, "z_dim": 4, "rnn_size": 24, "n_past": 3, "skip_lag": 1}


def pytest_configure() -> None:
    """Restore signals that a shell's background jobs and nohup ignore, for the programs that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # ignored here, and not in programs that are started


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """For `-n auto`, two processes more than there are cores: tests wait for cameras and other programs."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Coverage is measured of the device side, by its own tests: Python code that drives torch is slowed too much by it."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if not item.path.is_relative_to(TESTS / "svg_runtime") and not item.path.is_relative_to(TESTS / "svg_common"):
                item.add_marker(pytest.mark.no_cover)


def pytest_collection_finish() -> None:
    """What has been imported stays until the end: no collection of garbage needs to look at it again."""
    gc.collect()
    gc.freeze()


@contextmanager
def without_tracer() -> Iterator[None]:
    """Pauses coverage, under which the exporter takes half as long again."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def pytest_make_parametrize_id(val) -> str | None:
    """Do not name tests after long bytes: compressed ones contain the time, so names would differ between processes."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 16 else None


@pytest.fixture
def logged(caplog) -> pytest.LogCaptureFixture:
    """The log messages of our packages, from level INFO on."""
    for name in PACKAGES:
        caplog.set_level(logging.INFO, name)
    return caplog


def random_model(seed: int = 0, **model):
    """A tiny SVG with weights large enough that frames, states and samples differ visibly, in evaluation mode."""
    import torch

    from svg_train.families.svg import SvgConfig
    from svg_train.families.svg.model import SVG

    torch.set_num_threads(1)  # tiny layers: a second thread costs more than it brings
    torch.manual_seed(seed)
    sizes = {**TINY, **model}
    if sizes.get("prior") == "none":
        del sizes["z_dim"]
    svg = SVG(SvgConfig(**sizes))
    for module in svg.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            torch.nn.init.kaiming_normal_(module.weight, 0.2)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 1.5)
        elif isinstance(module, (torch.nn.LSTM, torch.nn.Linear)):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, 0, 0.3)
    return svg.eval()


def save_model(path: Path, svg, **config) -> Path:
    """Write `svg` as a checkpoint."""
    from svg_train.checkpoint import Checkpoint, save_checkpoint
    from svg_train.config import build_config

    built = build_config({"model": svg.config.model_dump()}, config)
    save_checkpoint(path, Checkpoint(built, svg.state_dict(), step=7, frame_interval_s=0.1))
    return path


def export_model(
    checkpoint: Path,
    out: Path,
    fp16: bool = False,
    fused: bool = False,
    bf16: bool = False,
    server_horizon: int | None = None,
) -> Path:
    """Export a checkpoint as `svg-export` does, but with few sequences for the quality gate."""
    from svg_export.bundle_writer import write_bundle
    from svg_train.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    held_out = few_held_out(loaded) if fp16 or bf16 else None
    with without_tracer():
        write_bundle(
            checkpoint=loaded,
            checkpoint_sha256="0" * 64,
            out=out,
            fp16=fp16,
            fused=fused,
            bf16=bf16,
            held_out=held_out,
            server_horizon=server_horizon,
        )
    return out


def few_held_out(checkpoint):
    """Enough sequences to run all code, and too few to measure quality."""
    from svg_export.precision import find_held_out

    return replace(find_held_out(checkpoint, {}), sequences=3)


def add_bf16_variant(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle with the variant bf16, whose report is copied from fp16: for machines without bf16."""
    copy = Path(shutil.copytree(bundle, folder / "bf16.svgb"))
    manifest = json.loads((copy / "manifest.json").read_text())
    variants = manifest["variants"]
    variants["bf16"] = {"graphs": variants["fp32"]["graphs"], "parity": None, "quality": variants["fp16"]["quality"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def without_quality(report: dict) -> dict:
    """The divergence report that an export without held-out sequences would write where `report` is the quality report."""
    shared = {name: value for name, value in report.items() if name not in ("data", "split", "metrics")}
    return {
        **shared,
        "frames": "a test",
        "quality_against_truth": "not measured",
        "measure_with": "svg-export CHECKPOINT --fp16 --data video --data-root DIR",
        "diversity": report["metrics"]["diversity"],
    }


def forget_quality(bundle: Path, precision: str) -> Path:
    """Make `precision` of the bundle a variant whose quality was not measured."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    variant = manifest["variants"][precision]
    variant.update(divergence=without_quality(variant["quality"]), quality=None)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


os.environ["SVG_EDGE_CALIBRATE"] = "no"  # what `auto` measures depends on the machine, and takes seconds


@pytest.fixture(autouse=True)
def no_bf16_units(monkeypatch, tmp_path):
    """Let `auto` choose the cpu backend on every machine, so that tests compare float32 forecasts."""
    from svg_runtime.backends.openvino import device as openvino_device

    monkeypatch.setattr(openvino_device, "_CPU_INFO", tmp_path / "no-cpuinfo")


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run that all processes of pytest-xdist share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """For each engine of ONNX Runtime: in tiny layers, a second thread only spins while it waits for the first."""
    with pytest.MonkeyPatch.context() as patch:
        use_one_thread(patch)
        yield


def use_one_thread(patch: pytest.MonkeyPatch) -> None:
    """Let the backend `cpu` have one thread where no number is given."""
    patch.setattr("svg_runtime.backends.onnxruntime.cpu.usable_cores", lambda: 1)


@pytest.fixture(scope="session", autouse=True)
def exported_graphs(tmp_path_factory) -> Iterator[None]:
    """Graphs that several tests export are exported once."""
    if "torch" not in sys.modules:  # no test module has imported it: those of the runtime run without
        yield
        return
    from tests.exported_once import exported_once

    with exported_once(shared_folder(tmp_path_factory, "exported-once")):
        yield


@pytest.fixture
def exported_anew(monkeypatch) -> None:
    """The exporter itself, for a test of what it does."""
    import torch

    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export.__wrapped__)


@pytest.fixture(scope="session", autouse=True)
def graphs_read_once() -> Iterator[None]:
    """What opening a bundle reads of each file in Python, a third of its time: tests open the same few again and again."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("bundle.reader.read_header", "backends.onnxruntime.session.count_weight_types"):
            module, _, name = f"svg_runtime.{place}".rpartition(".")
            patch.setattr(import_module(module), name, _once_per_content(getattr(import_module(module), name)))
        yield


def _once_per_content(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    results: dict[str, Any] = {}

    def read_once(content: bytes) -> Any:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in results:
            results[digest] = read(content)
        return copy.copy(results[digest])

    return read_once


@pytest.fixture(scope="session")
def tiny_model():
    """Random SVG, 64x64, 1 channel, n_past 3, skip_lag 1."""
    return random_model()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """The result of `make`, which takes seconds: made once, not once per process of pytest-xdist."""
    folder = shared_folder(factory, "made-once")
    path = folder / name
    with FileLock(folder / f"{name}.lock"):
        return path if path.exists() else make(path)


@pytest.fixture(scope="session")
def family_bundle(tmp_path_factory) -> Callable[[str], Path]:
    """The fp32 bundle of a tiny model of tests/families.py, by its name."""

    def exported(name: str) -> Path:
        def make(path: Path) -> Path:
            from tests.families import save_tiny

            return export_model(save_tiny(name, path.with_suffix(".pt")), path, fused=True)

        return made_once(tmp_path_factory, f"family-{name}.svgb", make)

    return exported


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model, tmp_path_factory) -> Path:
    return made_once(tmp_path_factory, "tiny.pt", lambda path: save_model(path, tiny_model))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    """Bundle of `tiny_model` with fp32 and fp16 variants. Read only: copy it before damaging it."""
    return made_once(tmp_path_factory, "tiny.svgb", lambda path: export_model(tiny_checkpoint, path, fp16=True))


@pytest.fixture(scope="session")
def fused_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    """`tiny_bundle` with the fused graphs. Read only."""
    return made_once(tmp_path_factory, "fused.svgb", lambda path: export_model(tiny_checkpoint, path, fp16=True, fused=True))


@pytest.fixture(scope="session", params=["fixed", "none"])
def unlearned_bundle(request, tmp_path_factory) -> Path:
    """With the fused graphs, in fp32: a model with a fixed prior, and one without latents. Read only."""

    def make(path: Path) -> Path:
        checkpoint = save_model(path.with_suffix(".pt"), random_model(prior=request.param))
        return export_model(checkpoint, path, fused=True)

    return made_once(tmp_path_factory, f"{request.param}.svgb", make)


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


@pytest.fixture(scope="session")
def following_model():
    """Random SVG whose skips follow every forecast frame; n_past 4, layers 2 / 1 / 2."""
    return random_model(seed=1, n_past=4, last_frame_skip=True, prior_layers=2)


@pytest.fixture(scope="session")
def following_bundle(following_model, tmp_path_factory) -> Path:
    """Bundle of `following_model`. Read only."""

    def make(path: Path) -> Path:
        return export_model(save_model(path.with_suffix(".pt"), following_model), path)

    return made_once(tmp_path_factory, "following.svgb", make)


@pytest.fixture
def frames() -> np.ndarray:
    """(8, 64, 64, 1) float32 frames of moving digits."""
    from svg_common.digits import digit_stream

    step = digit_stream(3, 2)
    return np.stack([step() for _ in range(8)])[..., None]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real digits, video and golden checkpoint beside the checkout; tests that need them skip without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA
