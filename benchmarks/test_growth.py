"""How the cost of a forecast grows with samples, steps and pixels. `publish.py` draws it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

import pytest

from svg_runtime.bundle.reader import Bundle

_LOG = logging.getLogger("svg_benchmarks")
BUNDLES = ("random:nf64", "random:128-nf64")

SAMPLES, HORIZON = 8, 10  # of the axes that do not grow
GROWTH = {"samples": (1, 2, 4, 8, 16, 32, 64), "horizon": (1, 2, 5, 10, 20, 50)}
MIN_ROUNDS, MAX_ROUNDS, TIME_S = 3, 10, 5.0  # rounds of each point: as many as fit into the time


@pytest.mark.usefixtures("peers_can_run")
@pytest.mark.parametrize("axis", ["samples", "horizon", "pixels"])
def test_growth(benchmark: Any, bundle: Bundle, axis: str, pytestconfig: pytest.Config) -> None:
    pixels = bundle.manifest.frame.height
    if axis != "pixels" and pixels != 64 and not pytestconfig.getoption("bundle"):
        pytest.skip("at 128 pixels, samples and steps are not varied")
    points = []

    def measure_all() -> None:
        for value in GROWTH.get(axis, (pixels,)):
            samples, horizon = value if axis == "samples" else SAMPLES, value if axis == "horizon" else HORIZON
            _LOG.info("%s: %d samples, %d steps", bundle.path.stem, samples, horizon)
            peers = _measure(
                bundle=bundle,
                samples=samples,
                horizon=horizon,
                timed=benchmark.enabled,
                wanted=pytestconfig.getoption("rounds"),
            )
            points.append({"value": value, "peers": [peer.as_json() for peer in peers]})

    benchmark.group = f"growth with {axis}, all points"
    benchmark.pedantic(measure_all, rounds=1)
    assert all("seconds" in peer for point in points for peer in point["peers"]), points
    benchmark.extra_info.update(bundle=bundle.path.name, axis=axis, samples=SAMPLES, horizon=HORIZON, points=points)


def _measure(bundle: Bundle, samples: int, horizon: int, timed: bool, wanted: int | None) -> list[Any]:
    """Without torch.compile, which would have to compile again for every number of samples."""
    from open_peers import CPU, EAGER, OPENVINO, PLAIN, open_peers, openvino_default
    from peers import time_interleaved, warm_up

    with ExitStack() as stack:
        peers = open_peers(
            bundle=bundle,
            samples=samples,
            horizon=horizon,
            stack=stack,
            names=(EAGER, PLAIN, CPU, OPENVINO),
        )
        peers = [peer for peer in peers if peer.name != OPENVINO or peer.precision == openvino_default()]
        rounds = warm_up(peers, MIN_ROUNDS, MAX_ROUNDS, TIME_S) if timed else 1
        time_interleaved(peers, wanted or rounds)
        return peers
