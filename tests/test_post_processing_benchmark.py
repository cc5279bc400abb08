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


@pytest.mark.slow
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


def test_the_first_way_is_the_forecaster(frames):
    """It gives the model's own forecasts."""
    from post_processing import WAYS, Way

    name = next(iter(WAYS))
    futures = np.stack([frames[:2], frames[1:3]])
    assert Way(name, WAYS[name]).corrected(0, frames[0], futures) is futures


def test_a_way_observes_and_corrects(frames):
    from post_processing import Way

    from svg_runtime.forecast.post_processing import PostProcessor

    way, by_hand = Way("post-processed", PostProcessor()), PostProcessor()
    for _ in range(2):
        for number, frame in enumerate(frames[:4]):
            by_hand.observe(number, frame)
            futures = np.stack([frames[number : number + 2], frames[number + 1 : number + 3]])
            np.testing.assert_array_equal(way.corrected(number, frame, futures), by_hand.correct(number, frame, futures)[1])
        assert way.corrected(4, frames[4], None) is None
        by_hand.reset()
        way.reset()
