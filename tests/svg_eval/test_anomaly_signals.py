"""The signals of `svg-eval --anomaly` are those of `svg-live` and `svg-forecast`, and pictures that carry nothing have none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svg_common.errors import UsageError
from svg_eval.cli import app
from svg_runtime.live import cli as live
from svg_runtime.live.signals import Signals
from svg_runtime.offline import cli as offline
from tests.svg_runtime.live.live_helpers import write_video

OPTIONS = ("--model", "digits", "--samples", "2", "--horizon", "3", "--backend", "cpu")


@pytest.fixture
def signals_of(tmp_path, monkeypatch):
    """Run a command in an empty folder; returns the signals of every frame that it observed."""
    monkeypatch.chdir(tmp_path)

    def run(main, *arguments: str | Path) -> list[tuple[float | None, ...] | None]:
        seen = []
        add = Signals.add

        def recorded(*given):
            values = add(*given)
            seen.append(None if values is None else tuple(vars(values).values()))
            return values

        with monkeypatch.context() as patch:
            patch.setattr(Signals, "add", recorded)
            patch.setattr("sys.argv", ["svg", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                main()
        assert end.value.code in (0, None)
        return seen

    return run


def evaluate(signals_of, clips: Path, ranges: list[list[int]]):
    """Signals and JSON of the only clip, which is called a."""
    Path("labels.json").write_text(json.dumps({"a": ranges}))
    data = ("--data", "video", "--data-root", clips, "--anomaly", "labels.json", "--json", "eval.json")

    def main():
        app(["digits", *map(str, data), *OPTIONS[2:]])

    signals = signals_of(main)
    return signals, json.loads(Path("eval.json").read_text())["clips"][0]


def assert_same(signals, others):
    known = [[values is not None for values in each] for each in (signals, others)]
    assert known[0] == known[1]
    for ours, theirs in zip(signals, others, strict=True):
        np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=1e-3, atol=1e-3)  # None: NaN


def test_black_pictures_a_short_gap_and_a_pause_are_seen_as_by_the_other_commands(signals_of, tmp_path):
    (tmp_path / "clips").mkdir()
    times_s = [number / 10 + 0.3 * (number >= 45) + 4 * (number >= 60) for number in range(100)]
    black = range(50, 54)
    clip = write_video(tmp_path / "clips" / "a.mp4", 100, seed=3, times_s=times_s, black=black)
    signals, scores = evaluate(signals_of, tmp_path / "clips", [[71, 75]])
    observed_live = signals_of(live.main, "--source", clip, "--headless", *OPTIONS)
    observed_offline = signals_of(offline.main, clip, "--out", "out", *OPTIONS)
    assert sum(values is not None for values in signals) > 50
    assert len(signals) == 103  # three are the picture before the gap again
    assert_same(signals, observed_live)
    assert_same(signals, observed_offline)
    assert scores["empty"] == list(black)
    n_past = scores["numbers"][0]
    rests = [*range(n_past), *range(50, 54 + n_past), *range(60, 60 + n_past)]  # no full context
    assert scores["numbers"] == [number for number in range(100) if number not in rests]
    # In the second after black pictures and after a pause, no signal raises an alarm.
    by_number = dict(zip(scores["numbers"], scores["online"]["scene"], strict=True))
    assert {by_number[number] for number in range(60 + n_past, 70)} == {0}
    assert 0 not in {by_number[number] for number in range(70, 100)}


def test_a_picture_held_over_a_missing_one_of_a_time_lapse_is_not_frozen(signals_of, tmp_path):
    (tmp_path / "clips").mkdir()
    times_s = [10.0 * (number + (number >= 15)) for number in range(30)]
    clip = write_video(tmp_path / "clips" / "a.mp4", 30, seed=3, times_s=times_s)
    signals, scores = evaluate(signals_of, tmp_path / "clips", [[21, 25]])
    data = json.loads(Path("eval.json").read_text())["data"]
    assert data.endswith("/clips, a picture every 0.1 s, or every picture of slower clips")
    assert len(signals) == 31
    assert scores["empty"] == []
    assert scores["numbers"] == list(range(scores["numbers"][0], 30))
    assert_same(signals, signals_of(live.main, "--source", clip, "--headless", *OPTIONS))
    assert_same(signals, signals_of(offline.main, clip, "--out", "out", *OPTIONS))


@pytest.mark.parametrize(
    "missing", [pytest.param(0, id="at once"), pytest.param(100, id="after a pause", marks=pytest.mark.slow)]
)
def test_another_picture_size_is_another_scene_as_in_svg_live(signals_of, tmp_path, missing):
    folder = tmp_path / "clips" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(90):
        side = 64 if number < 45 else 80
        name = f"{number + missing * (number >= 45):03d}.png"
        Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(folder / name)
    signals, scores = evaluate(signals_of, tmp_path / "clips", [[81, 85]])
    assert_same(signals, signals_of(live.main, "--source", folder, "--headless", *OPTIONS))
    assert not set(range(45, 48)) & set(scores["numbers"])
    learned = [number for number, values in enumerate(signals) if values is not None]
    assert 44 in learned
    assert not set(range(45, 70)) & set(learned)


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([[1, 2]], r"of 2 anomalous frames, 2 are before the first score of their clip \(in a, after \d frames\)"),
        ([[1, 1], [21, 24]], r"1 is before the first score .*; 4 are blank or frozen, which svg-live reports as events"),
        ([[3, 36]], "of 2 normal frames, 2 are before the first score"),
        ([[25, 25]], "of 1 anomalous frames, 1 is without a score for another reason"),
    ],
)
def test_labels_of_frames_without_a_score_are_refused_with_where_these_lie(tmp_path, ranges, reason):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 36, black=range(20, 24))
    (tmp_path / "labels.json").write_text(json.dumps({"a": ranges}))
    data = ["--data", "video", "--data-root", str(tmp_path / "clips"), "--anomaly", str(tmp_path / "labels.json")]
    with pytest.raises(UsageError, match=reason):
        app(["digits", *data, *OPTIONS[2:]], standalone_mode=False)
