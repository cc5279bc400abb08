"""`benchmarks/post_processing.py`, on a clip and a model that are tiny."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.svg_runtime.live.live_helpers import write_video


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))


def test_every_way_is_measured_on_the_same_forecasts(tmp_path, monkeypatch, capsys, tiny_bundle):
    import post_processing

    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 60)
    write_video(tmp_path / "clips" / "b.mp4", 50, seed=1)
    options = ["--model", str(tiny_bundle), "--backend", "cpu", "--samples", "2", "--horizon", "3", "--sequences", "5"]
    monkeypatch.setattr(
        sys, "argv", ["post_processing.py", "--clips", str(tmp_path / "clips"), *options, "--json", str(tmp_path / "ways.json")]
    )
    post_processing.main()
    shown = capsys.readouterr().out
    assert "a: 60 frames, 5 measured" in shown
    found = json.loads((tmp_path / "ways.json").read_text())
    assert found["clips"] == ["a", "b"]
    assert found["sequences"] == 10
    assert set(found["ways"]) == set(post_processing.WAYS)
    assert all(f"| {name} |" in shown for name in post_processing.WAYS)
    assert all(np.isfinite(list(row.values())).all() for row in found["ways"].values())
    # The tiny model is random: what is learned from its errors helps.
    plain, post = found["ways"]["as the model makes them"], found["ways"]["post-processed"]
    assert post["mean"] > plain["mean"] + 0.5
    assert post["crps"] < plain["crps"]


def test_a_way_that_changes_nothing_is_the_forecaster(tmp_path, tiny_bundle, frames):
    """The first way gives the model's own forecasts."""
    from post_processing import WAYS

    from svg_runtime import Forecaster
    from svg_runtime.forecast.post_processing import PostProcessor

    post = PostProcessor(WAYS["as the model makes them"])
    with Forecaster.open(tiny_bundle, "cpu", samples=2, horizon=2) as forecaster:
        for number, frame in enumerate(frames):
            forecaster.observe(frame)
            post.observe(number, frame)
            if forecaster.ready:
                futures = forecaster.forecast()
                np.testing.assert_allclose(post.correct(number, frame, futures)[1], futures, atol=1e-5)
