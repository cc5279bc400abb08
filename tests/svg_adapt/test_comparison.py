"""Gains with their sampling error, and what follows from them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from svg_adapt.adaptation_report import as_text, verdict
from svg_adapt.comparison import Comparison, Gain, Scores, compare, gain
from svg_common.errors import UsageError
from svg_common.progress import NullListener
from svg_eval.measure import Settings
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from svg_train.config import DataConfig, build_config
from tests.families import save_tiny
from tests.svg_eval.test_held_out import trained_clips_of
from tests.svg_runtime.live.live_helpers import write_video

NAN = float("nan")


def test_a_gain_is_the_difference_of_both_psnrs():
    ours, other = (np.array([1.0, 3.0]), np.array([100.0, 100.0])), (np.array([2.0, 6.0]), np.array([100.0, 100.0]))
    assert gain(ours, other).db == pytest.approx(10 * math.log10(2))
    assert gain(ours, other).error == pytest.approx(0)  # every sequence is better by the same factor: paired


def test_the_error_is_what_other_samples_show():
    """Of many samples, about 68 % have the gain of the whole population within one standard error, and 95 % within two."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.1, 1.0, 20_000)
    ours, other = 0.01 * hard * rng.uniform(0.5, 1.1, hard.size), 0.01 * hard
    truth = 10 * math.log10(other.sum() / ours.sum())
    distances = []
    for _ in range(400):
        chosen = rng.choice(hard.size, 40, replace=False)
        ones = np.ones(40)
        found = gain((ours[chosen], ones), (other[chosen], ones))
        distances.append(abs(found.db - truth) / found.error)
    assert 0.62 <= np.mean(np.array(distances) < 1) <= 0.74
    assert 0.91 <= np.mean(np.array(distances) < 2) <= 0.98


def test_pixels_that_do_not_exist_have_no_gain():
    nothing = np.zeros(3), np.zeros(3)
    assert math.isnan(gain(nothing, nothing).db)
    one = np.array([1.0]), np.array([10.0])
    assert gain(one, one).db == 0
    assert math.isnan(gain(one, one).error)


def comparison(over_start: Gain, over_repeat: Gain, moving_share: float = 0.05) -> Comparison:
    scores = Scores(30.0, 30.0 - over_start.db, 30.0 - over_repeat.db, over_start, over_repeat)
    nothing = Scores(NAN, NAN, NAN, Gain(NAN, NAN), Gain(NAN, NAN))
    return Comparison("camera", 40, 10, 10, 0.1, moving_share, scores, nothing)


GOOD = Gain(1.0, 0.2)


@pytest.mark.parametrize(
    ("over_start", "over_repeat", "reasons"),
    [
        (GOOD, GOOD, []),
        (Gain(0.3, NAN), GOOD, []),
        (Gain(-0.5, 0.1), GOOD, ["worse than camera: -0.50 dB"]),
        (Gain(0.05, 0.01), GOOD, [r"\+0.05 dB over camera, and less than 0.10 dB may be chance"]),
        (Gain(0.5, 0.6), GOOD, [r"\+0.50 dB over camera, and less than 0.60 dB may be chance"]),
        (GOOD, Gain(-0.4, 0.1), []),  # the start is further below repeating
        (Gain(-1.0, 0.1), Gain(-2.0, 0.1), ["worse than camera"]),
    ],
)
def test_what_is_not_worth_it_is_said_with_every_reason(over_start, over_repeat, reasons):
    found = comparison(over_start, over_repeat)
    assert len(found.reasons_against) == len(reasons)
    assert all(re.search(reason, said) for reason, said in zip(reasons, found.reasons_against, strict=True))
    assert found.as_json()["worth_it"] is (not reasons)
    said = verdict(found, Path("run/run.svgb"), Path("run/ckpt.pt"), "svg-live --model camera --camera 0", "--camera 0", 1200.0)
    if reasons:
        assert said.startswith("NOT worth it: keep camera. No bundle was written")
        assert "svg-live --model camera --camera 0" in said
        assert "run.svgb" not in said
    else:
        assert said.startswith("worth it: wrote run/run.svgb")
        assert "svg-live --model run/run.svgb --camera 0" in said


def test_a_model_below_repeating_says_so_and_how_its_start_compares():
    def said(over_start: Gain, over_repeat: Gain) -> str:
        return verdict(comparison(over_start, over_repeat), Path("b"), Path("c"), "svg-live", "--camera 0", 1200.0)

    below = "by itself it is 0.40 dB below repeating the last frame; camera is {} dB from it; svg-live corrects both"
    assert said(GOOD, Gain(-0.4, 0.1)).startswith("worth it: wrote b\n  " + below.format("-1.40"))
    assert below.format("+0.60") in said(Gain(-1.0, 0.1), Gain(-0.4, 0.1))
    assert "by itself" not in said(GOOD, GOOD)


def test_advice_fits_the_recording():
    def said(moving_share: float, recorded_s: float | None, has_ended: bool = False) -> str:
        poor = comparison(Gain(0.0, 0.1), GOOD, moving_share)
        return verdict(poor, Path("b"), Path("c"), "svg-live", source="--camera 0", recorded_s=recorded_s, has_ended=has_ended)

    assert "little moves: 0.10 %" in said(0.001, 1200.0)
    assert "little moves" not in said(0.05, 1200.0)
    assert "only 60 s were recorded; record longer, such as with --record 20m" in said(0.05, 60.0)
    assert "only 60 s were recorded until the source ended; take a longer one, with" in said(0.05, 60.0, has_ended=True)
    assert "were recorded" not in said(0.05, None)


def test_advice_for_a_recording_that_its_limit_cut_is_a_larger_limit():
    poor = comparison(Gain(0.0, 0.1), GOOD)
    said = verdict(poor, Path("b"), Path("c"), "svg-live", source="--camera 0", recorded_s=1200.0, kept_s=4.0)
    assert "only 4 s of the 20.0 min recorded were kept; record again with a larger --record-limit" in said
    assert "record longer" not in said


def test_the_table_has_dashes_where_nothing_moves():
    lines = as_text(comparison(GOOD, GOOD, moving_share=0.0)).splitlines()
    assert lines[1].split() == ["all", "pixels", "moving", "(0.0", "%)"]
    assert [line.split()[-1] for line in lines[2:]] == ["-"] * 5
    assert "+1.00 ± 0.20" in lines[-1]


@pytest.mark.parametrize("cache", [None, "cache"])
def test_clips_that_have_moved_since_the_training_are_compared_where_they_are_now(tmp_path, monkeypatch, cache):
    """Cache too: the old one may not be a folder of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "default"))
    start = save_tiny("ensemble", tmp_path / "start.pt", channels=3)
    (tmp_path / "file").touch()
    trained = load_checkpoint(start)
    gone = {"data": {"name": "video", "root": "gone/", "cache": str(tmp_path / "file" / "cache")}}
    adapted = tmp_path / "ckpt.pt"
    save_checkpoint(adapted, replace(trained, config=build_config(trained.config.model_dump(), gone)))
    write_video(tmp_path / "clip.mp4", frames=60)
    compared = partial(
        compare,
        adapted=adapted,
        start=start,
        start_name="start",
        data=DataConfig(name="video", root="clip.mp4", cache=cache),
        settings=Settings(sequences=2, samples=2, horizon=2, seed=0),
        progress=NullListener(),
    )
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        compared(device="tpu")
    comparison = compared(device="cpu")
    assert comparison.sequences == 2
    assert comparison.all.over_start.db == 0  # of the same weights
    before = {"data": {"name": "video", "root": "clip.mp4", "cache": cache, "test_fraction": 0.3}}
    seen = trained_clips_of(build_config(trained.config.model_dump(), before))
    other = {"data": {**gone["data"], "test_fraction": 0.5}}
    save_checkpoint(adapted, replace(trained, config=build_config(trained.config.model_dump(), other), trained_clips=seen))
    with pytest.raises(UsageError, match=r"was trained on frames of 1 of 1 held-out clip, such as 'clip\.mp4'(?s:.*)--resume"):
        compared(device="cpu")
    assert [folder.name for folder in (tmp_path / "default", tmp_path / "cache") if folder.exists()] == [cache or "default"]
