"""Options, fixtures and reports of the benchmarks: `pytest benchmarks/ --bundle PATH --backend NAME`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any

import bundles
import numpy as np
import pytest
from goal_metrics import GoalMetric, table

from svg_common.command import require_modules
from svg_common.errors import MissingExtraError, SvgError
from svg_runtime.backends import open_backend
from svg_runtime.backends.base import Backend
from svg_runtime.bundle.manifest import PRECISIONS
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import hardware, load_average, usable_cores, versions
from svg_runtime.machine.telemetry import telemetry

_LOG = logging.getLogger("svg_benchmarks")
_METRICS = pytest.StashKey[list[GoalMetric]]()
_TABLES = pytest.StashKey[dict[str, list[str]]]()
_BEFORE = pytest.StashKey[dict[str, Any]]()

HORIZON = 10

Primed = Callable[[Backend, int], Forecaster]
RecordMetric = Callable[[GoalMetric], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("svg-edge")
    group.addoption(
        "--bundle",
        action="append",
        metavar="PATH",
        help="bundle to measure, `embedded`, or `random:nf64` for random weights; repeat it, or separate names by commas "
        f"(default: {','.join(bundles.DEFAULT)})",
    )
    group.addoption("--backend", default="auto", metavar="NAME", help="inference backend (default: auto)")
    group.addoption("--precision", choices=PRECISIONS, help="precision of the graphs (default: the backend's choice)")
    group.addoption("--rounds", type=_positive, metavar="N", help="rounds per benchmark (default: its own number)")
    group.addoption(
        "--forecasts", type=_positive, default=10_000, metavar="N", help="forecasts of the memory benchmark (default: 10000)"
    )
    group.addoption(
        "--peer",
        action="append",
        metavar="NAME",
        help="on a GPU: only this peer beside the eager one (default: all)",
    )
    group.addoption("--live-frames", type=_positive, default=150, metavar="N", help="frames of a live run (default: 150)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not '{text}'")
    return int(text)


class _TerminalHandler(logging.Handler):
    """Shows log messages, the progress of what takes minutes, despite pytest's capture; silent with -q."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._plugins = config.pluginmanager

    def emit(self, record: logging.LogRecord) -> None:
        reporter, capture = (self._plugins.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
        if reporter is not None and reporter.verbosity >= 0:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"  {record.getMessage()}", flush=True)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_METRICS] = []
    config.stash[_TABLES] = {}
    config.stash[_BEFORE] = telemetry()
    _LOG.setLevel(logging.INFO)
    _LOG.addHandler(_TerminalHandler(config))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU before their fixtures, which take minutes, are made."""
    if item.get_closest_marker("gpu") is not None and (reason := _gpu_absence()) is not None:
        pytest.skip(reason)


def _gpu_absence() -> str | None:
    try:
        require_modules("the comparison with PyTorch", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    except MissingExtraError as error:
        return str(error)
    from gpu_case import cuda_absence

    return cuda_absence()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that measures a bundle on all named bundles."""
    if "bundle" in metafunc.fixturenames:
        default = getattr(metafunc.module, "BUNDLES", bundles.DEFAULT)
        names = bundles.split_names(metafunc.config.getoption("bundle"), default)
        metafunc.parametrize("bundle", names, indirect=True, ids=[bundles.label(name) for name in names], scope="session")


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """The bundle that is measured."""
    cache = request.config.cache.mkdir("svg-edge-bundles")
    try:
        return bundles.open_named(request.param, cache, request.config.getoption("precision"))
    except MissingExtraError as error:
        pytest.skip(str(error))
    except SvgError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def backend(bundle: Bundle, pytestconfig: pytest.Config) -> Iterator[Backend]:
    """The backend that the options name, with the bundle's graphs loaded."""
    opened, reason = None, ""
    try:
        opened = open_backend(bundle, pytestconfig.getoption("backend"), None, pytestconfig.getoption("precision"))
    except SvgError as error:
        reason = str(error)
    if opened is None:
        pytest.fail(reason, pytrace=False)
    yield opened
    opened.close()


@pytest.fixture
def measured(benchmark: Any, bundle: Bundle, backend: Backend) -> Any:
    """pytest-benchmark's fixture, with the measured bundle and backend in the JSON."""
    benchmark.extra_info.update(
        bundle=bundle.path.name,
        bundle_id=bundle.manifest.bundle_id,
        nf=bundle.manifest.model.settings.get("nf"),
        backend=backend.description,
        precision=backend.precision,
    )
    return benchmark


@pytest.fixture
def frames(bundle: Bundle) -> np.ndarray:
    """(n_past, H, W, C) frames at the model's size; their content does not affect the time."""
    spec, n_past = bundle.manifest.frame, bundle.manifest.generation.n_past
    return np.random.default_rng(0).random((n_past, spec.height, spec.width, spec.channels), np.float32)


@pytest.fixture
def primed(bundle: Bundle, frames: np.ndarray) -> Primed:
    """Makes forecasters of 10 steps that have observed n_past frames. The caller closes the backend."""

    def make(backend: Backend, samples: int) -> Forecaster:
        variant = bundle.variant(backend.precision)
        forecaster = Forecaster(
            bundle=bundle, backend=backend, variant=variant, samples=samples, horizon=HORIZON, seed=0, context="window"
        )
        for frame in frames:
            forecaster.observe(frame)
        return forecaster

    return make


@pytest.fixture
def record_metric(request: pytest.FixtureRequest, benchmark: Any) -> RecordMetric:
    """Add a metric to the table after the run and to the benchmark's extra_info."""

    def record(metric: GoalMetric) -> None:
        request.config.stash[_METRICS].append(metric)
        benchmark.extra_info.setdefault("metrics", []).append(metric.as_json())

    return record


@pytest.fixture
def peers_can_run(bundle: Bundle) -> Iterator[None]:
    """Skips if the comparison with PyTorch cannot run; PyTorch gets as many threads as all others."""
    try:
        require_modules("the comparison with PyTorch", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    except MissingExtraError as error:
        pytest.skip(str(error))
    model, generation = bundle.manifest.model, bundle.manifest.generation
    is_vector = model.family == "svg" and model.settings.get("latent") != "spatial"
    if not is_vector or model.prior != "learned" or generation.last_frame_skip:
        pytest.skip("the peers are written for SVG with vectors, a learned prior and frozen skips")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def record_table(request: pytest.FixtureRequest) -> Callable[[str, list[str]], None]:
    """Show lines under a heading after the run."""
    return request.config.stash[_TABLES].__setitem__


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add hardware, versions and telemetry to pytest-benchmark's JSON."""
    machine_info["hardware"] = hardware(machine_info.get("cpu", {}))
    machine_info["versions"] = versions()
    machine_info["telemetry"] = {"before": config.stash[_BEFORE], "after": telemetry()}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print tables and metrics."""
    for heading, lines in config.stash[_TABLES].items():
        terminalreporter.section(heading)
        for line in lines:
            terminalreporter.write_line(line)
    metrics = config.stash[_METRICS]
    if metrics:
        terminalreporter.section("metrics")
        for line in table(metrics):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"load average: {load_average()} on {usable_cores()} cores, the benchmark's own included")
