"""A forecaster belongs to one process, and says so when it is copied, or closed while it is in use."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

from svg_runtime import BatchForecaster, Forecaster
from svg_runtime.errors import BackendError, UsageError
from tests.svg_runtime.batch_helpers import open_batch

GOOD = np.full((64, 64, 1), 0.5, np.float32)


class Closing:
    """An array that closes a forecaster when it is read, as another thread may in the middle of a call."""

    def __init__(self, values: np.ndarray, forecaster: Forecaster | BatchForecaster) -> None:
        self._values = values
        self._forecaster = forecaster

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self._forecaster.close()
        return self._values


@pytest.fixture
def forecaster(tiny_bundle):
    with Forecaster.open(tiny_bundle, backend="cpu", samples=2, horizon=2, threads=1) as opened:
        for _ in range(3):
            opened.observe(GOOD)
        yield opened


@pytest.fixture
def batch(tiny_bundle):
    with open_batch(tiny_bundle, 2, threads=2) as opened:
        for _ in range(3):
            opened.observe({0: GOOD, 1: GOOD})
        yield opened


@pytest.mark.parametrize("name", ["forecaster", "batch"])
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, pickle.dumps, lambda forecaster: pickle.dumps(forecaster.forecast, 0)],
    ids=["copy", "deepcopy", "pickle", "method"],
)
def test_a_forecaster_cannot_be_copied(request, name, duplicate):
    opened = request.getfixturevalue(name)
    kind = type(opened).__name__
    with pytest.raises(UsageError, match=rf"a {kind} cannot be copied .*\n  open another one .*{kind}\.open\("):
        duplicate(opened)
    opened.forecast(*([[0]] if name == "batch" else []))  # it goes on


def test_a_forecaster_cannot_be_sent_to_another_process(forecaster):
    process = multiprocessing.get_context("spawn").Process(target=print, args=(forecaster,))
    with pytest.raises(UsageError, match="cannot be copied or sent to another process"):
        process.start()


def test_what_is_closed_during_a_call_says_so(forecaster):
    noise = Closing(np.zeros((2, 2, forecaster.manifest.model.z_dim), np.float32), forecaster)
    with pytest.raises(BackendError, match=r"closed during a call\n  expected close\(\) after"):
        forecaster.forecast(noise=noise)


def test_what_is_closed_while_it_observes_says_so(forecaster):
    with pytest.raises(BackendError, match="closed during a call"):
        forecaster.observe(Closing(GOOD, forecaster))


def test_a_batch_that_is_closed_during_a_call_says_so(batch):
    with pytest.raises(BackendError, match="closed during a call"):
        batch.observe({0: Closing(GOOD, batch), 1: GOOD})


def test_an_error_of_an_open_forecaster_stays_as_it_is(forecaster):
    class Failing:
        def __array__(self, dtype=None, copy=None):
            raise KeyError("of the caller")

    with pytest.raises(KeyError, match="of the caller"):
        forecaster.forecast(noise=Failing())


@pytest.mark.parametrize("name", ["forecaster", "batch"])
def test_what_is_closed_while_it_warms_up_says_so(request, name, monkeypatch):
    opened = request.getfixturevalue(name)
    monkeypatch.setattr(opened, "forecast", lambda *_: opened.close())
    with pytest.raises(BackendError, match="closed during a call"):
        opened.warm_up()
    with pytest.raises(UsageError, match="the forecaster is closed"):
        opened.warm_up()
