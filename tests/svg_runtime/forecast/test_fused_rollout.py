"""The fused graphs: the same frames, surprise and scores as the separate ones, with all options."""

from __future__ import annotations

import numpy as np
import pytest

from svg_common.errors import ExitCode
from svg_runtime import Forecaster
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, BundleError
from tests.svg_runtime.bundle_helpers import copy_bundle, draw, edit_manifest, watch

ATOL = 2e-5


@pytest.mark.parametrize(
    "opened", [{"samples": 3, "horizon": 4}, {"samples": 1, "horizon": 1}, {"samples": 2, "horizon": 3, "context": "stream"}]
)
def test_fused_graphs_give_the_same_results_as_the_separate_ones(fused_bundle, frames, opened):
    observed, futures = watch(fused_bundle, frames, fused=True, seed=5, **opened)
    expected_observed, expected = watch(fused_bundle, frames, fused=False, seed=5, **opened)
    np.testing.assert_allclose(futures, expected, atol=ATOL)
    for actual, expected in zip(observed, expected_observed, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_fused_graphs_work_in_half_precision(fused_bundle, frames):
    _, futures = watch(fused_bundle, frames[:3], fused=True, precision="fp16", samples=2, horizon=2)
    _, expected = watch(fused_bundle, frames[:3], fused=False, precision="fp16", samples=2, horizon=2)
    np.testing.assert_allclose(futures, expected, atol=5e-3)


def test_samples_and_horizon_can_change_from_call_to_call(fused_bundle, frames):
    """Also an odd horizon before an even one: the states are then in the other buffers."""
    with Forecaster.open(fused_bundle) as fused, Forecaster.open(fused_bundle, fused=False) as separate:
        for frame in frames[:3]:
            fused.observe(frame)
            separate.observe(frame)
        for samples, horizon in [(2, 3), (2, 2), (1, 5), (2, 3), (4, 1), (3, 2)]:
            noise, past = draw(samples, horizon, samples, 4), draw(horizon, 2, samples, 4)
            given = fused.forecast(samples, horizon, noise, past)
            np.testing.assert_allclose(given, separate.forecast(samples, horizon, noise, past), atol=ATOL)


def test_fused_graphs_are_the_default_if_the_bundle_has_them(fused_bundle, tiny_bundle):
    with Forecaster.open(fused_bundle) as forecaster:
        assert forecaster.fused
    with Forecaster.open(tiny_bundle) as forecaster:
        assert not forecaster.fused
    with pytest.raises(BackendMissingError, match="svg-export") as refusal:
        Forecaster.open(tiny_bundle, fused=True)
    assert refusal.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize("graph_name", FUSED)
def test_prime_without_step_or_step_without_prime_is_refused(fused_bundle, tmp_path, graph_name):
    damaged = edit_manifest(copy_bundle(fused_bundle, tmp_path), lambda m: m["variants"]["fp32"]["graphs"].pop(graph_name))
    with pytest.raises(BundleError, match="prime"):
        Bundle.open(damaged)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda graphs: graphs["decoder_shuffled"]["outputs"][0]["shape"].__setitem__(1, 3), "decoder_shuffled.outputs"),
        (lambda graphs: graphs["prime"]["inputs"][0]["shape"].__setitem__(0, 4), "prime.inputs: ('h_seq'"),
        (lambda graphs: graphs["step"]["inputs"][1]["shape"].__setitem__(2, 32), "step.inputs: ('cond_0'"),
        (lambda graphs: graphs["step"]["states"].pop(), "step.states"),
        (lambda graphs: graphs["step"]["states"][0].update(initial="zeros"), "step.states: ('h', 'h_out', 'zeros')"),
        (lambda graphs: graphs["predictor"]["states"][0].update(initial="given"), "predictor.states"),
    ],
)
def test_fused_interfaces_that_contradict_the_separate_graphs_are_refused(fused_bundle, tmp_path, change, place):
    damaged = edit_manifest(copy_bundle(fused_bundle, tmp_path), lambda m: change(m["variants"]["fp32"]["graphs"]))
    with pytest.raises(BundleError) as refusal:
        Bundle.open(damaged)
    assert f"variants.fp32.graphs.{place}" in str(refusal.value)
