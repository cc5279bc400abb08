"""The anomaly benchmark: scores by hand, tiles that tile, and bundle against checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from svg_common.errors import UsageError
from svg_export.bundle_writer import write_bundle
from svg_runtime.errors import BackendMissingError
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import Checkpoint, save_checkpoint
from svg_train.config import build_config
from svg_train.families import FAMILIES

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = {"channels": 1, "nf": 2, "g_dim": 8, "z_dim": 3, "rnn_size": 8, "n_past": 3}
FRAMES = {"family": "frames", "cell": "convlstm", "channels": 1, "hidden": [4], "filter_size": 3, "n_past": 3}


@pytest.fixture(autouse=True)
def _benchmark_modules(monkeypatch):
    """Import the modules of the folder as the script does."""
    monkeypatch.syspath_prepend(FOLDER)


def random_checkpoint(model) -> Checkpoint:
    config = build_config({"model": model, "train": {"n_future": 2}})
    torch.manual_seed(3)
    return Checkpoint(config, FAMILIES[config.model.family].build(config.model).state_dict())


def moving_clip(frames=12, height=72, width=96) -> np.ndarray:
    """(T, H, W): a light square that moves to the right over noise that stays."""
    clip = np.repeat(np.random.default_rng(0).integers(0, 60, (1, height, width), np.uint8), frames, 0)
    for number in range(frames):
        clip[number, 20:36, 4 + 3 * number : 20 + 3 * number] = 220
    return clip


class TestScores:
    def test_blocks_are_means_of_all_squares_of_cells(self):
        from anomaly_scores import block_means

        maps = np.random.default_rng(0).random((2, 7, 9)).astype(np.float32)
        for side in (1, 2, 3, 4):
            expected = np.lib.stride_tricks.sliding_window_view(maps, (side, side), (1, 2)).mean((3, 4))
            np.testing.assert_allclose(block_means(maps, side), expected, rtol=1e-5)
        np.testing.assert_allclose(block_means(maps, 0)[:, 0, 0], maps.mean((1, 2)), rtol=1e-5)
        with pytest.raises(ValueError, match="8 x 8 cells does not fit"):
            block_means(maps, 8)

    def test_a_small_error_shows_in_the_largest_block_before_it_shows_in_the_mean(self):
        from anomaly_scores import Scoring, raw_scores

        rng = np.random.default_rng(0)
        normal = {"n": rng.random((40, 1, 20, 30)).astype(np.float32)}
        clip = rng.random((40, 1, 20, 30)).astype(np.float32)
        clip[20:, 0, 4:6, 7:9] += 2
        gains = {}
        for block in (0, 8):
            (scores,) = raw_scores({"c": clip}, normal, Scoring(block=block))[0].values()
            gains[block] = scores[20:].mean() / scores[:20].mean()
        assert gains[0] < 1.1
        assert gains[8] > 1.5

    def test_relative_to_its_place_forgives_what_is_usual_there(self):
        from anomaly_scores import Scoring, raw_scores

        rng = np.random.default_rng(0)

        def frames():
            maps = rng.random((60, 1, 12, 12)).astype(np.float32)
            maps[:, :, 8:, 8:] *= 10  # a tree in the wind
            return maps

        normal, clip = {"n": frames()}, frames()
        clip[30:, 0, :4, :4] += 4
        labels = np.arange(60) >= 30
        separated = {}
        for place in (False, True):
            (scores,) = raw_scores({"c": clip}, normal, Scoring(block=8, place=place))[0].values()
            separated[place] = scores[labels].min() > scores[~labels].max()
        assert separated == {False: False, True: True}

    def test_leads_average_the_forecasts_that_were_made(self):
        from anomaly_scores import Scoring, raw_scores

        errors = np.full((4, 2, 2, 2), np.nan, np.float32)
        errors[1:, 0], errors[2:, 1] = 1.0, 3.0
        normal = {"n": np.ones((3, 2, 2, 2), np.float32)}
        one, two = (raw_scores({"c": errors}, normal, Scoring(block=0, leads=leads))[0]["c"] for leads in (1, 2))
        np.testing.assert_array_equal(one, [np.nan, 1, 1, 1])
        np.testing.assert_array_equal(two, [np.nan, 1, 2, 2])

    def test_each_way_to_normalise_by_hand(self):
        from anomaly_scores import Scoring, comparable

        raw = {"c": np.array([np.nan, 2.0, 4.0, 1.0])}
        expected = {
            "none": [np.nan, 2, 4, 1],
            "live": [np.nan, np.nan, 4 / 2, 1 / 3],
            "running": [np.nan, 2 / 1, 4 / (12 / 11), 1 / (16 / 12)],  # ten normal frames of mean 1 come first
            "clip": [np.nan, 1 / 3, 1, 0],
        }
        for way, values in expected.items():
            np.testing.assert_allclose(comparable(raw, 10, Scoring(normalise=way))["c"], values)

    def test_the_running_mean_is_causal_unless_the_clip_is_known(self):
        from anomaly_scores import Scoring, smoothed

        raw = np.array([np.nan, 3.0, 0, 0, 6])
        np.testing.assert_allclose(smoothed(raw, Scoring(smooth=3)), [np.nan, 3, 1.5, 1, 2])
        np.testing.assert_allclose(smoothed(raw, Scoring(smooth=3, normalise="clip")), [np.nan, 1.5, 1, 2, 3])

    def test_the_errors_of_a_frame_model_are_those_that_surprise_the_runtime(self, tmp_path):
        from anomaly_forecasts import CheckpointForecaster
        from anomaly_scores import Scoring, comparable

        model = {**FRAMES, "image_size": 16, "image_width": 24}
        # The surprise of a frame is that of a forecast from the n_past - 1 frames before it.
        ours, theirs = (random_checkpoint({**model, "n_past": n_past}) for n_past in (2, 3))
        frames = moving_clip(9)[:, 20:36, :24, None].astype(np.float32) / 255
        forecasts, _ = CheckpointForecaster(ours, 1, bf16=False).forecast(frames)
        forecasts[1, 0] = _second_frame(ours, frames[0])
        errors = ((forecasts[:, 0] - frames) ** 2).mean((1, 2, 3))
        write_bundle(theirs, "0" * 64, tmp_path / "m.svgb", fp16=False)
        with Forecaster.open(tmp_path / "m.svgb", "cpu", context="window") as forecaster:
            seen = [forecaster.observe(frame).raw_surprise for frame in frames]
        assert seen[0] is None
        np.testing.assert_allclose(errors[1:], seen[1:], rtol=1e-3)
        live = comparable({"c": errors}, 1, Scoring(normalise="live"))["c"]
        assert np.isnan(live[:2]).all()
        np.testing.assert_allclose(live[2:], [errors[i] / errors[1:i].mean() for i in range(2, len(errors))], rtol=1e-5)


def _second_frame(checkpoint: Checkpoint, first: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(first[None, None, :, :, 0].copy())[None]
    return checkpoint.build().generate(x, torch.zeros(1, 1, 0), torch.zeros(0, 1, 0))[0, 0, 0].numpy()[..., None]


class TestForecasts:
    @pytest.mark.parametrize("model", [pytest.param(TINY, marks=pytest.mark.slow), {**FRAMES, "image_size": 64}])
    def test_a_checkpoint_and_its_bundle_give_the_same(self, tmp_path, model):
        from anomaly_forecasts import BundleForecaster, CheckpointForecaster, measure

        checkpoint = random_checkpoint(model)
        write_bundle(checkpoint, "0" * 64, tmp_path / "m.svgb", fp16=False, fused=False)
        clip = moving_clip()
        ours = measure(CheckpointForecaster(checkpoint, 2, bf16=False), clip, None)
        with Forecaster.open(tmp_path / "m.svgb", "cpu", samples=1, horizon=2, context="window") as forecaster:
            theirs = measure(BundleForecaster(forecaster), clip, None)
        np.testing.assert_allclose(theirs.errors, ours.errors, rtol=1e-3, atol=1e-6)
        assert np.isnan(ours.errors[:3]).all()
        assert np.isnan(ours.errors[3, 1]).all()
        assert np.isfinite(ours.errors[4:]).all()
        assert ours.surprise.shape == (12, 1, 2, 2)  # 72 x 96 pixels in tiles of 64
        if "family" not in model:
            np.testing.assert_allclose(theirs.surprise[3:], ours.surprise[3:], rtol=1e-2, atol=1e-5)

    def test_tiles_of_a_forecast_by_place_make_up_the_whole(self):
        from anomaly_forecasts import RepeatLast, measure

        clip = moving_clip()
        whole = measure(RepeatLast(2, 3), clip, None)
        tiled = measure(RepeatLast(2, 3), clip, 32)
        np.testing.assert_allclose(tiled.errors, whole.errors, atol=1e-7)
        truth = (np.diff(clip.astype(np.float32), axis=0) / 255) ** 2
        cells = truth.reshape(11, 18, 4, 24, 4).mean((2, 4))
        np.testing.assert_allclose(whole.errors[3:, 0], cells[2:], atol=1e-6)
        with pytest.raises(UsageError, match="a tile of 80 pixels does not fit"):
            measure(RepeatLast(2, 3), clip, 80)

    def test_a_convolutional_model_forecasts_whole_pictures_with_the_same_weights(self):
        from anomaly_forecasts import CheckpointForecaster, at_size, measure

        checkpoint = random_checkpoint({**FRAMES, "image_size": 64})
        clip = moving_clip(6, 64, 128)
        whole = measure(CheckpointForecaster(at_size(checkpoint, (64, 128)), 1, bf16=False), clip, None)
        left = measure(CheckpointForecaster(checkpoint, 1, bf16=False), clip[:, :, :64], None)
        np.testing.assert_allclose(whole.errors[..., :10], left.errors[..., :10], rtol=1e-4)  # the border is 6 cells away
        with pytest.raises(UsageError, match="--whole needs"):
            at_size(random_checkpoint(TINY), (64, 128))


def test_a_sped_up_clip_changes_where_most_moves_and_nowhere_else():
    from anomaly_clips import sped_up

    clip = moving_clip(20)
    made = sped_up(clip, 32, 6)
    assert len(made.pictures) == 13  # the last one shows frame 18 of 20
    assert made.anomalous.tolist() == [False] * 6 + [True] * 7
    changed = (made.pictures != clip[:13]).any(0)
    rows, columns = np.nonzero(changed)
    assert np.ptp(rows) < 32
    assert np.ptp(columns) < 32
    np.testing.assert_array_equal(made.pictures[10][changed], clip[6 + 2 * 4][changed])


def write_clip(path: Path, clip: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:], "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())


def test_the_command_measures_all_clips_and_says_what_it_chose(tmp_path, monkeypatch, capsys):
    import anomaly

    for number in range(3):
        write_clip(tmp_path / "data" / "train" / f"0{number}.mp4", moving_clip(150, 96, 512)[:, :, : 4 * 120])
    jump = moving_clip(40, 96, 480)
    jump[20:] = jump[20:, :, ::-1]  # it moves to the left
    write_clip(tmp_path / "data" / "test" / "01.mp4", jump)
    write_clip(tmp_path / "data" / "test" / "02.mp4", moving_clip(8, 96, 480))
    (tmp_path / "data" / "test_labels.json").write_text(json.dumps({"clips": {"01": [[21, 40]], "02": []}}))
    model = tmp_path / "ckpt.pt"
    save_checkpoint(model, random_checkpoint({**FRAMES, "image_size": 64}))
    data, kept, result = (str(tmp_path / name) for name in ("data", "kept", "a.json"))
    options = ["--data", data, "--leads", "1", "--keep", kept, "--json", result]
    monkeypatch.setattr(sys, "argv", ["anomaly.py", "--model", str(model), "--whole", *options])
    anomaly.main()
    printed = capsys.readouterr().out
    assert "chosen" in printed
    assert "FramePred (Liu et al., CVPR 2018): 95.4" in printed
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {"whole picture", "largest block of 16 px", "relative to its place"} <= {row["name"] for row in rows}
    assert all(0 <= row["made"] <= 1 for row in rows)
    with monkeypatch.context() as context:  # the second time nothing is forecast again
        context.setattr(anomaly, "measure", None)
        anomaly.main()
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(sys, "argv", ["anomaly.py", "--model", "repeat", *options])
    anomaly.main()  # errors of one model are not those of another
    assert capsys.readouterr().out != printed


def test_labels_are_those_of_each_clip(tmp_path):
    from anomaly_clips import LABELS, read_test_clips

    for name in ("01", "02"):
        write_clip(tmp_path / "test" / f"{name}.mp4", moving_clip(6))
    (tmp_path / LABELS).write_text(json.dumps({"clips": {"01": [[3, 4], [6, 6]], "02": []}}))
    clips = read_test_clips(tmp_path)
    assert clips["01"].anomalous.tolist() == [False, False, True, True, False, True]
    assert clips["02"].anomalous.tolist() == [False] * 6
    (tmp_path / LABELS).write_text(json.dumps({"clips": {"01": [[3, 4]]}}))
    with pytest.raises(UsageError, match=r"clips without labels: 02"):
        read_test_clips(tmp_path)
    (tmp_path / LABELS).write_text(json.dumps({"clips": {"01": [[3, 7]], "02": []}}))
    with pytest.raises(UsageError, match=r"range 3 to 7, but the clip has frames 1 to 6"):
        read_test_clips(tmp_path)


def test_errors_are_kept_of_the_same_pictures_and_only_whole(tmp_path, monkeypatch):
    import anomaly
    from anomaly_forecasts import RepeatLast, measure

    measured, options = [], argparse.Namespace(keep=tmp_path / "kept", tile=None)
    monkeypatch.setattr(anomaly, "measure", lambda *of: measured.append(of[1]) or measure(*of))
    one, other = moving_clip(), moving_clip()[::-1].copy()
    for clip in (one, other, one, other):
        results = anomaly._measure_all(RepeatLast(1, 3), "test", {"01": clip}, options)
        np.testing.assert_array_equal(results["01"].errors, measure(RepeatLast(1, 3), clip, None).errors)
    assert len(measured) == 2

    def interrupted(file, **arrays):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    third = moving_clip(height=64)
    with monkeypatch.context() as context:
        context.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            anomaly._measure_all(RepeatLast(1, 3), "test", {"01": third}, options)
    assert anomaly._measure_all(RepeatLast(1, 3), "test", {"01": third}, options)["01"].errors.shape == (12, 1, 16, 24)


def test_errors_of_another_backend_or_precision_are_others(tiny_bundle):
    import anomaly
    from anomaly_forecasts import BundleForecaster

    pytest.importorskip("openvino")
    options = argparse.Namespace(model=str(tiny_bundle), tile=None, whole=False, bf16=False, leads=1)
    kept = []
    for backend, precision in (("cpu", "fp32"), ("cpu", "fp16"), ("openvino", "fp32"), ("cpu", "fp32")):
        with Forecaster.open(tiny_bundle, backend, precision=precision, samples=1, horizon=1) as forecaster:
            kept.append(anomaly._kept_of(options, BundleForecaster(forecaster)))
    assert kept[0] == kept[3]
    assert len(set(kept)) == 3


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("repeat", "--whole"),
        ("repeat", "--bf16"),
        ("repeat", "--backend=cpu"),
        ("ckpt.pt", "--backend=cpu"),
        ("m.svgb", "--whole"),
    ],
)
def test_options_that_a_model_does_not_read_are_refused(tmp_path, monkeypatch, capsys, model, option):
    (tmp_path / "ckpt.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert f"{option.split('=')[0]} has no effect with" in refusal(monkeypatch, capsys, model, option)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--tile=66", "a multiple of 4"),
        ("--tile=0", "a multiple of 4"),
        ("--normal=0", "at least 1"),
        ("--leads=0", "at least 1"),
    ],
)
def test_impossible_numbers_are_refused(monkeypatch, capsys, option, expected):
    name, number = option.split("=")
    assert f"{name} is {number}; expected {expected}" in refusal(monkeypatch, capsys, "repeat", option)


def refusal(monkeypatch, capsys, model: str, option: str) -> str:
    import anomaly

    monkeypatch.setattr(sys, "argv", ["anomaly.py", "--data", "none", "--model", model, option])
    with pytest.raises(SystemExit, match="2"):
        anomaly.main()
    return capsys.readouterr().err


def test_bf16_is_asked_of_a_bundle(tiny_bundle):
    import anomaly

    options = argparse.Namespace(model=str(tiny_bundle), backend=None, bf16=True, whole=False, leads=1)
    with ExitStack() as stack, pytest.raises(BackendMissingError, match=r"the cpu backend does not compute in bf16"):
        anomaly._open(options, (64, 64), stack)
