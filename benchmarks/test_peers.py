"""A forecast of 8 samples x 10 steps against PyTorch, torch.compile and plain ONNX Runtime: the same forecast, in one run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from goal_metrics import GoalMetric

from svg_common.progress import NullListener
from svg_runtime.bench.operations import count_operations, forecast_operations
from svg_runtime.bundle.reader import Bundle
from svg_runtime.machine.hardware import hardware

_LOG = logging.getLogger("svg_benchmarks")
BUNDLES = ("embedded", "random:nf64", "random:vgg-rgb-nf64")

SAMPLES, HORIZON = 8, 10
MIN_ROUNDS, MAX_ROUNDS, TIME_S = 5, 30, 60.0  # rounds of a bundle: as many as fit into the time
HARDWARE = "2 cores with AMX"

# (backbone, nf): [(ours, the other one's name and precision, how many times as fast at least)]
GOALS = {
    ("dcgan", 64): [
        ("openvino", ("PyTorch eager", "fp32"), 7.0),
        ("openvino", ("ONNX Runtime, plain", "fp32"), 5.0),
        ("openvino", ("torch.compile", "bf16"), 2.1),
        ("cpu", ("ONNX Runtime, plain", "fp32"), 1.4),
    ],
    ("vgg", 64): [
        ("openvino", ("PyTorch eager", "fp32"), 9.0),
        ("openvino", ("ONNX Runtime, plain", "fp32"), 6.5),
        ("openvino", ("torch.compile", "bf16"), 1.5),
    ],
}
PEAK_SHARE = {("vgg", 64): 70.0}  # percent


@pytest.mark.usefixtures("peers_can_run")
def test_peers(
    benchmark: Any, bundle: Bundle, record_metric: Any, record_table: Any, pytestconfig: pytest.Config,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch
    from open_peers import CPU, EAGER, OPENVINO, PLAIN, open_peers, openvino_default
    from peers import peers_table, time_interleaved, warm_up

    name = bundle.path.stem
    with ExitStack() as stack:
        _LOG.info("peers of %s", name)
        peers = open_peers(bundle, SAMPLES, HORIZON, stack)
        rounds = warm_up(peers, MIN_ROUNDS, MAX_ROUNDS, TIME_S) if benchmark.enabled else 1
        rounds = pytestconfig.getoption("rounds") or rounds
        _LOG.info("%s: %d rounds of %d peers", name, rounds, sum(peer.forecast is not None for peer in peers))
        benchmark.group = "a round of all peers"
        with torch.compiler.set_stance("fail_on_recompile"):
            benchmark.pedantic(lambda: time_interleaved(peers, rounds), rounds=1)
    by_name = {(peer.name, peer.precision): peer for peer in peers}
    record_table(f"{name}: forecast({SAMPLES} samples, {HORIZON} steps), context read", peers_table(
        peers, [by_name[EAGER, "fp32"], by_name[PLAIN, "fp32"]]
    ))  # fmt: skip
    benchmark.extra_info.update(
        bundle=bundle.path.name, bundle_id=bundle.manifest.bundle_id, samples=SAMPLES, horizon=HORIZON,
        openvino_default=openvino_default(), peers=[peer.as_json() for peer in peers],
    )  # fmt: skip
    ours = {"cpu": by_name[CPU, "fp32"], "openvino": by_name[OPENVINO, openvino_default()]}
    for metric in _speed_metrics(bundle, by_name, ours):
        record_metric(metric)
    monkeypatch.chdir(tmp_path)  # the profiler writes its files there
    if ours["openvino"].seconds:
        record_metric(_share_of_peak(bundle, ours["openvino"]))


def _speed_metrics(bundle: Bundle, by_name: dict[tuple[str, str], Any], ours: dict[str, Any]) -> Iterator[GoalMetric]:
    from peers import ratio

    here = _has_amx()
    for backend, other, goal in GOALS.get(_kind(bundle), []):
        mine, yardstick = ours[backend], by_name[other]
        if mine.seconds and yardstick.seconds:
            title = f"{backend} {mine.precision} over {other[0]} {other[1]}: {bundle.path.stem}"
            yield GoalMetric(title, ratio(yardstick, mine), "x", goal, at_least=True, meant_for=HARDWARE, here=here)


def _share_of_peak(bundle: Bundle, peer: Any) -> GoalMetric:
    """Useful operations per second, in percent of the machine's peak in matrix products of the same precision."""
    from matmul_peak import matmul_peak

    counts = count_operations(NullListener(), "operations", str(bundle.path), "fp32")
    rate = forecast_operations(counts, bundle.manifest, SAMPLES, HORIZON) / peer.median_s
    title = f"openvino {peer.precision}, share of the machine's measured {peer.precision} peak: {bundle.path.stem}"
    share = 100 * rate / matmul_peak(peer.precision)
    goal = PEAK_SHARE.get(_kind(bundle))
    hardware = HARDWARE if goal else ""
    return GoalMetric(title, share, "%", goal, at_least=True, meant_for=hardware, here=_has_amx())


def _has_amx() -> bool:
    return "amx_bf16" in hardware()["simd"]


def _kind(bundle: Bundle) -> tuple[str, int]:
    settings = bundle.manifest.model.settings
    return settings.get("backbone"), settings.get("nf")
