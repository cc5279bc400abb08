"""Records which bound graphs a forecast runs, in order, so that they can be run again without the loop around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from svg_runtime.backends.base import Backend, BoundGraph, Buffer, Chain
from svg_runtime.forecast.forecaster import Forecaster


class _Recorded:
    """A bound graph that records its runs."""

    def __init__(self, bound: BoundGraph, runs: list[BoundGraph]) -> None:
        self.bound = bound
        self._runs = runs

    def run(self) -> None:
        self._runs.append(self.bound)
        self.bound.run()


def runs_of_a_forecast(backend: Backend, make: Callable[[], Forecaster]) -> list[BoundGraph]:
    """Every graph run of one forecast.

    Args:
        backend: that the forecaster runs on.
        make: a new forecaster on it, ready to forecast.
    """
    runs: list[BoundGraph] = []
    bind, chain = backend.bind, backend.chain

    def recorded_bind(graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        return _Recorded(bind(graph, inputs, outputs), runs)

    def recorded_chain(graphs: Sequence[BoundGraph]) -> BoundGraph:
        chained = chain([graph.bound if isinstance(graph, _Recorded) else graph for graph in graphs])
        return Chain(tuple(graphs)) if isinstance(chained, Chain) else _Recorded(chained, runs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "bind", recorded_bind)
        patch.setattr(backend, "chain", recorded_chain)
        forecaster = make()
        forecaster.forecast()  # the first one binds graphs
        runs.clear()
        forecaster.forecast()
    return list(runs)
