"""How the cost of a forecast grows with samples, steps and pixels. `publish.py` draws it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from svg_runtime.bundle.reader import Bundle

BUNDLES = ("random:nf64", "random:128-nf64")

SAMPLES, HORIZON = 8, 10  # of what does not grow
GROWTH = {"samples": (1, 2, 4, 8, 16, 32, 64), "horizon": (1, 2, 5, 10, 20, 50)}
LEAST_ROUNDS, MOST_ROUNDS, TIME_S = 3, 10, 5.0  # rounds of each point: as many as fit into the time


@pytest.mark.usefixtures("peers_can_run")
@pytest.mark.parametrize("axis", ["samples", "horizon", "pixels"])
def test_growth(benchmark: Any, bundle: Bundle, axis: str, say: Any, pytestconfig: pytest.Config) -> None:
    pixels = bundle.manifest.frame.height
    if axis != "pixels" and pixels != 64 and not pytestconfig.getoption("bundle"):
        pytest.skip("at 128 pixels, samples and steps are not varied")
    points = []

    def measure_all() -> None:
        for value in GROWTH.get(axis, (pixels,)):
            samples, horizon = value if axis == "samples" else SAMPLES, value if axis == "horizon" else HORIZON
            say(f"{bundle.path.stem}: {samples} samples, {horizon} steps")
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
    """torch.compile is left out: it would have to compile anew for every number of samples."""
    from open_peers import CPU, EAGER, OPENVINO, PLAIN, open_peers, openvino_default
    from peers import take_turns, warm_up

    with ExitStack() as stack:
        peers = open_peers(
            bundle=bundle,
            samples=samples,
            horizon=horizon,
            stack=stack,
            names=(EAGER, PLAIN, CPU, OPENVINO),
            say=lambda words: None,
        )
        peers = [peer for peer in peers if peer.name != OPENVINO or peer.precision == openvino_default()]
        rounds = warm_up(peers, LEAST_ROUNDS, MOST_ROUNDS, TIME_S) if timed else 1
        take_turns(peers, wanted or rounds)
        return peers
