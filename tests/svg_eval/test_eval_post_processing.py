"""`svg-eval --post-process`: what came before a sequence corrects its forecast, as in a run of the Forecaster."""

from __future__ import annotations

import json

import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_eval.cli import app
from svg_eval.clips import without_history
from svg_runtime import Forecaster
from svg_runtime.forecast.noise import NoiseSource
from svg_train.config import build_config
from svg_train.data.spread_sequences import SpreadSequences
from svg_train.data.video import VideoClips
from tests.svg_runtime.live.live_helpers import write_video

N_PAST, HORIZON, SAMPLES = 3, 4, 3  # N_PAST is that of the tiny model
LENGTH = N_PAST + HORIZON


@pytest.fixture
def clips(tmp_path):
    """Two clips of 10 and 30 frames per second, five seconds each."""
    (tmp_path / "clips").mkdir()
    for name, fps in (("slow", 10), ("fast", 30)):
        write_video(tmp_path / "clips" / f"{name}.mp4", frames=5 * fps, fps=fps, seed=fps)
    return tmp_path / "clips"


def held_out(clips, tmp_path) -> VideoClips:
    data = {
        "name": "video",
        "root": str(clips),
        "frame_interval_s": 0.1,
        "test_fraction": 1.0,
        "cache": str(tmp_path / "cache"),
    }
    model = {"channels": 1, "n_past": N_PAST, "image_size": 64, "nf": 2}
    return VideoClips(build_config({"model": model, "data": data}), "test", LENGTH)


def test_history_leads_to_the_sequence(clips, tmp_path):
    """With the sequence it is one clip at the model's interval; no frame of it is from the other clip or after a start."""
    data = held_out(clips, tmp_path)
    assert len(data.history(0, 100)) == 0
    lengths = {data.clip_source(index).stem: 0 for index in range(len(data))}
    for index in range(len(data)):
        name = data.clip_source(index).stem
        history = data.history(index, 100)
        assert history.shape[1:] == (64, 64, 1)
        np.testing.assert_array_equal(data.history(index, 5), history[-5:])
        clip, run, start = data._sequences.window(index)
        frames = clip.video.frames()
        whole = [frames[run[tick]] for tick in range(start % clip.step, start + LENGTH * clip.step, clip.step)]
        np.testing.assert_array_equal(np.concatenate([history, data[index]]), whole)
        lengths[name] = max(lengths[name], len(history))
    assert all(30 <= length <= 43 for length in lengths.values())
    spread = SpreadSequences(data, 4)
    for index in range(4):
        np.testing.assert_array_equal(spread.history(index, 7), data.history(spread._numbers[index], 7))


def options_for(clips, tmp_path, samples: int, sequences: int) -> list:
    """Of svg-eval, for the sequences of `held_out`."""
    options = ["--data", "video", "--data-root", clips, "--frame-interval-s", "0.1", "--test-fraction", "1"]
    return [*options, "--cache", tmp_path / "cache", "--samples", samples, "--horizon", HORIZON, "--sequences", sequences]


def evaluate(tmp_path, *arguments) -> dict:
    app([*map(str, arguments), "--json", str(tmp_path / "metrics.json")], standalone_mode=False)
    return json.loads((tmp_path / "metrics.json").read_text())


def by_hand(bundle, data: VideoClips, post_process: bool) -> list[float]:
    """Mean squared error of the mean of samples in each sequence."""
    errors = []
    options = {"samples": SAMPLES, "horizon": HORIZON, "calibrate": "no"}
    with Forecaster.open(bundle, **options, post_process=post_process) as forecaster:
        noise = NoiseSource(0)
        for index in range(len(data)):
            frames = np.concatenate([data.history(index, 100), data[index]]).astype(np.float32) / 255
            draws = noise.draw(HORIZON, SAMPLES, 4), noise.draw(N_PAST - 1, SAMPLES, 4)
            forecaster.reset()
            for frame in frames[:-HORIZON]:
                if forecaster.ready:
                    forecaster.forecast()
                forecaster.observe(frame)
            futures = forecaster.forecast(noise=draws[0], context_noise=draws[1])
            errors.append(float(((futures.mean(0) - frames[-HORIZON:]) ** 2).mean()))
    return errors


@pytest.mark.slow
def test_it_is_measured_as_the_forecaster_does(tiny_bundle, clips, tmp_path, capsys):
    data = held_out(clips, tmp_path)
    options = options_for(clips, tmp_path, SAMPLES, len(data))
    plain = evaluate(tmp_path, tiny_bundle, *options)
    post = evaluate(tmp_path, tiny_bundle, *options, "--post-process", "--baseline", tiny_bundle)
    assert post["baselines"][0]["pixels"] == plain["pixels"]
    assert all(post[name] == plain[name] for name in ("repeat", "repeat_noise", "optical_flow"))
    for given, is_post in ((plain, False), (post, True)):
        expected = -10 * np.log10(np.mean(by_hand(tiny_bundle, data, is_post)))
        assert given["psnr_mean"] == pytest.approx(expected, abs=2e-3)
    assert post["psnr_mean"] > plain["psnr_mean"] + 0.5  # the tiny model is random, so that it has much to learn
    shown = capsys.readouterr().out
    assert "tiny.svgb, post-processed, mean of samples" in shown
    assert "post-processed, by up to 100 steps before each sequence" in shown


def test_the_page_shows_it(tiny_bundle, clips, tmp_path):
    options = options_for(clips, tmp_path, samples=2, sequences=4)
    evaluate(tmp_path, tiny_bundle, *options, "--post-process", "--page", tmp_path / "page.html")
    assert "tiny.svgb, post-processed" in (tmp_path / "page.html").read_text()


def test_the_only_sequence_of_a_clip_has_something_before_it(clips, tmp_path):
    data = held_out(clips, tmp_path)
    first, learning = SpreadSequences(data, 2), SpreadSequences(data, 2, after_others=True)
    assert without_history(first, 2) == 2
    assert without_history(learning, 2) == 0
    assert [learning.clip_source(number).name for number in range(2)] == [first.clip_source(number).name for number in range(2)]
    assert "the middle one where a clip gives one" in learning.description
    for count in (4, 6, len(data) - 1):  # the published figures are of several from each clip, and stay
        assert SpreadSequences(data, count, after_others=True)._numbers == SpreadSequences(data, count)._numbers


def test_sequences_with_nothing_to_learn_from_are_counted(tiny_bundle, clips, tmp_path, capsys):
    options = options_for(clips, tmp_path, samples=2, sequences=4)
    page = tmp_path / "page.html"
    plain = evaluate(tmp_path, tiny_bundle, *options)
    assert plain["sequences_without_history"] is None
    assert "learned" not in capsys.readouterr().out
    post = evaluate(tmp_path, tiny_bundle, *options, "--post-process", "--page", page)
    assert post["sequences_without_history"] == 2
    said = "2 of 4 sequences have nothing before them in their clip"
    assert said in capsys.readouterr().out
    assert said in page.read_text()
    assert evaluate(tmp_path, tiny_bundle, *options[:-1], 2, "--post-process")["sequences_without_history"] == 0
    assert "before every sequence" in capsys.readouterr().out


def test_a_run_that_measures_nothing_of_it_says_so(tiny_bundle, tmp_path, capsys):
    (tmp_path / "short").mkdir()
    for seed in (1, 2):
        write_video(tmp_path / "short" / f"{seed}.mp4", frames=LENGTH, seed=seed)
    options = options_for(tmp_path / "short", tmp_path, samples=2, sequences=2)
    post = evaluate(tmp_path, tiny_bundle, *options, "--post-process", "--baseline", tiny_bundle)
    assert post["psnr_mean"] == pytest.approx(post["baselines"][0]["pixels"]["all"]["psnr_mean"], abs=0.05)
    assert post["sequences_without_history"] == 2
    assert "and nothing was measured; more --sequences or longer clips help" in capsys.readouterr().out


def test_what_it_cannot_be_is_refused(tiny_bundle, tiny_checkpoint, clips, tmp_path):
    with pytest.raises(UsageError, match="which only --data video gives\n  expected --data video"):
        evaluate(tmp_path, tiny_bundle, "--data", "digits", "--post-process")
    with pytest.raises(UsageError, match="--post-process apply to bundles"):
        evaluate(tmp_path, tiny_checkpoint, "--data", "video", "--data-root", clips, "--post-process")
