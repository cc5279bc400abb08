"""The benchmark of injected anomalies: what each injection does to the pictures, numbers by hand, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.signals import Signals, SignalValues
from tests.svg_runtime.live.live_helpers import write_video

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
START, FRAMES = 12, 10


@pytest.fixture(autouse=True)
def _benchmark_modules(monkeypatch):
    """Import the modules of the folder as the script does."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def pictures():
    """(T, H, W, 3) with a number in every picture, over a texture that stays."""
    texture = np.random.default_rng(0).integers(60, 200, (1, 40, 60, 3), np.uint8)
    made = np.repeat(texture, 60, 0)
    made[:, :8, :8] = (np.arange(60) * 4)[:, None, None, None]
    return made


def injected(kind, pictures):
    from injected_clips import INJECTIONS

    made = INJECTIONS[kind](pictures, START, FRAMES, np.random.default_rng(1))
    assert made.dtype == np.uint8
    assert made.shape[1:] == pictures.shape[1:]
    return made


def numbers(made):
    return (made[:, 0, 0, 0] // 4).tolist()


class TestInjections:
    def test_playback(self, pictures):
        assert numbers(injected("reversed", pictures)) == list(range(10, 0, -1))
        assert numbers(injected("three times as fast", pictures)) == list(range(14, 44, 3))
        assert numbers(injected("frozen", pictures)) == [START - 1] * FRAMES

    def test_playback_ends_with_the_clip(self, pictures):
        assert numbers(injected("three times as fast", pictures[:20])) == [14, 17]
        assert numbers(injected("reversed", pictures))[-1] == 1

    def test_a_covered_lens_is_dark_smooth_and_noisy(self, pictures):
        made = injected("covered lens", pictures).astype(float)
        assert made.max() < 100
        assert 1 < (made[1] - made[0]).std() < 5
        mean = made.mean(0)
        assert np.abs(np.diff(mean, axis=1)).max() < 8

    def test_a_shaken_camera_shifts_every_picture_and_no_further_than_it_should(self, pictures):
        made = injected("shaken camera", pictures).astype(float)
        still = pictures[START : START + FRAMES].astype(float)
        assert all(np.abs(a - b).mean() > 5 for a, b in zip(made, still, strict=True))
        inside = (slice(None), slice(10, 30), slice(15, 45))
        shifts = [
            min(((dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)), key=lambda shift: _shifted_error(a, b, shift))
            for a, b in zip(made[inside], still, strict=True)
        ]
        assert all(max(map(abs, shift)) <= 2 for shift in shifts)  # 4 % of 40 pixels, rounded
        assert len(set(shifts)) > 1

    def test_an_object_crosses_the_central_square_from_border_to_border(self, pictures):
        made = injected("object pasted in", pictures)
        changed = (made != pictures[START : START + FRAMES]).any(-1)
        centres = [np.nonzero(mask)[1].mean() for mask in changed]
        assert all(changed.any((1, 2)))  # from the first frame on
        assert changed.mean() < 0.15
        steps = np.diff(centres[1:])
        assert (steps > 0).all() or (steps < 0).all()
        assert np.ptp(centres) > 25  # of a square of 40

    def test_the_same_seed_gives_the_same_anomaly(self, pictures):
        from injected_clips import INJECTIONS, Recording, inject

        recording = Recording("a", pictures, (START,))
        for kind in INJECTIONS:
            first, again = (inject(kind=kind, recording=recording, start=START, interval_s=0.3, seed=0) for _ in range(2))
            np.testing.assert_array_equal(first, again)
        other = inject(kind="covered lens", recording=recording, start=START, interval_s=0.3, seed=1)
        assert (other != inject(kind="covered lens", recording=recording, start=START, interval_s=0.3, seed=0)).any()


def _shifted_error(part, whole, shift):
    """`part` is (20, 30, 3) from row 10 and column 15 of a picture shifted by `shift`."""
    dy, dx = shift
    return np.abs(part - whole[10 - dy : 30 - dy, 15 - dx : 45 - dx]).mean()


def test_anomalies_begin_where_most_moves_and_after_the_signals_have_settled(tmp_path):
    from injected_clips import SETTLE_S, read_recording

    times = [number / 10 for number in range(100)]
    path = write_video(tmp_path / "a.mp4", 100, times_s=times)
    recording = read_recording(path, 0.1)
    assert recording.name == "a"
    assert len(recording.pictures) == 100
    (start,) = recording.starts
    assert SETTLE_S * 10 <= start <= 69
    assert read_recording(write_video(tmp_path / "b.mp4", 80), 0.1) is None  # too short


def test_figures_by_hand():
    from injected_report import ALL, Anomaly, Judged, by_signal, measure

    def values(numbers):
        """A frozen picture in place of None."""
        return by_signal(
            [
                Judged(None, "frozen") if number is None else Judged(SignalValues(number, number, None, None, None, number))
                for number in numbers
            ]
        )

    normal = [values([0, 1] * 50), values([0, 9, 9, *[0] * 97])]  # one false alarm in 20 s
    anomalies = [
        Anomaly("a", "x", 5, values([0.5, 9, 9])),  # an alarm after 0.2 s: two values at the threshold
        Anomaly("a", "y", 5, values([0, 9, 0])),  # too short for one
        Anomaly("a", "z", 5, values([0.5, None, None])),
    ]
    result = measure(normal, anomalies, 0.1, TriggerOptions(threshold=5, clear=2, min_duration_s=0.2))
    assert result.normal_s == pytest.approx(20)
    assert result.false_alarms == pytest.approx(
        {"surprise": 30, "error": 30, "motion": 0, "scene": 0, "camera_motion": 0, "combined": 30, "reported": 30}
    )
    rows = {(row.kind, row.signal): row for row in result.rows}
    assert (rows["x", "error"].detected, rows["x", "error"].delay_s) == (1, pytest.approx(0.2))
    assert (rows["y", "error"].detected, rows["y", "error"].delay_s) == (0, None)
    assert (rows["z", "combined"].detected, rows["z", "reported"].detected) == (0, 1)
    assert rows["z", "reported"].delay_s == pytest.approx(0.2)
    assert (rows[ALL, "error"].anomalies, rows[ALL, "error"].detected) == (3, pytest.approx(1 / 3))
    usual = [0, 1] * 50 + [0, 9, 9] + [0] * 97
    for kind, signal, unusual in (
        ("x", "combined", (0.5, 9, 9)),
        ("x", "reported", (0.5, 9, 9)),
        ("z", "combined", (0.5, 0, 0)),
        ("z", "reported", (0.5, np.inf, np.inf)),
    ):
        pairs = [(a > b) + 0.5 * (a == b) for a in unusual for b in usual]
        assert rows[kind, signal].roc_area == pytest.approx(np.mean(pairs))
    assert rows["x", "scene"].roc_area == 0.5  # not known: 0 everywhere


def test_what_is_kept_gives_the_signals_that_the_forecaster_gives(tmp_path, tiny_bundle):
    from injected_anomalies import Player
    from injected_clips import Recording, read_recording
    from injected_forecasts import as_float, record

    recording = read_recording(write_video(tmp_path / "a.mp4", 100), 0.1)
    changed = recording.pictures.copy()
    changed[70:] = 255 - changed[70:]
    with Forecaster.open(tiny_bundle, "cpu", samples=2, horizon=2) as forecaster:
        tape = record(forecaster, recording.pictures, 0, tmp_path / "kept" / "normal")
        other = record(forecaster, changed, 70, tmp_path / "kept" / "other")
        frames = np.concatenate([tape.frames[:70], other.frames])
        forecaster.reset()
        signals, live = Signals(0.1), []
        for frame in frames:
            live.append(signals.add(as_float(frame), forecaster.observe(as_float(frame))))
            if forecaster.ready:
                forecaster.forecast()
    player = Player(Recording("a", recording.pictures, (70,)), tape, 0.1)
    kept = [each.values for each in (*player.judged[:70], *player.continued(changed[70:], other))]
    for name in ("surprise", "scene"):
        ours, theirs = ([getattr(each, name) or 0.0 if each else 0.0 for each in run] for run in (kept, live))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert [each is None for each in kept] == [each is None for each in live]
    # The forecast after the last normal frame is of that frame; later ones draw other noise.
    ours, theirs = ([each.error if each else None for each in run] for run in (kept, live))
    assert ours[40:71] == pytest.approx(theirs[40:71], abs=0.05)  # kept in float16


def test_the_command_prints_every_kind_and_signal(tmp_path, monkeypatch, capsys, tiny_bundle):
    import injected_anomalies

    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "a.mp4", 100)
    write_video(clips / "moving.mp4", 100)
    (tmp_path / "INDEX.tsv").write_text("file\tcamera\ntrain/a.mp4\tstatic\ntrain/moving.mp4\tmoving\n")
    options = ["--clips", str(clips), "--index", str(tmp_path / "INDEX.tsv"), "--model", str(tiny_bundle), "--backend", "cpu"]
    kept = ["--samples", "2", "--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", ["injected_anomalies.py", *options, *kept])
    injected_anomalies.main()
    printed = capsys.readouterr().out
    assert printed.startswith("1 clips: a\n")
    assert "false alarms per ten minutes" in printed
    result = json.loads((tmp_path / "r.json").read_text())
    assert len(result["rows"]) == 7 * 7
    assert result["normal_s"] == pytest.approx(4.0)
    monkeypatch.setattr(Forecaster, "forecast", None)  # the second time nothing is forecast again
    injected_anomalies.main()
    assert capsys.readouterr().out == printed


def test_forecasts_are_kept_of_the_same_pictures(tmp_path, monkeypatch, tiny_bundle):
    import injected_forecasts

    pictures = np.zeros((3, 40, 60, 3), np.uint8)
    recorded: list[Path] = []
    record_all = injected_forecasts._record
    monkeypatch.setattr(injected_forecasts, "_record", lambda *of: recorded.append(of[-1]) or record_all(*of))
    with Forecaster.open(tiny_bundle, "cpu", samples=1, horizon=1) as forecaster:
        for shade in (0, 255, 0, 255):
            tape = injected_forecasts.record(forecaster, pictures + np.uint8(shade), 0, tmp_path / "a.mp4" / "normal")
            assert (tape.frames == shade).all()
    assert len(recorded) == 2


def test_forecasts_of_another_backend_precision_or_seed_are_others(tiny_bundle):
    from injected_anomalies import _kept_of

    pytest.importorskip("openvino")
    kept = []
    for backend, precision in (("cpu", "fp32"), ("cpu", "fp16"), ("openvino", "fp32"), ("cpu", "fp32")):
        with Forecaster.open(tiny_bundle, backend, precision=precision, samples=2, horizon=2) as forecaster:
            kept.append(_kept_of(forecaster, 0))
            assert _kept_of(forecaster, 1) != kept[-1]
    assert kept[0] == kept[3]
    assert len(set(kept)) == 3


def test_clips_that_are_all_too_short_are_refused(tmp_path, monkeypatch, capsys, tiny_bundle):
    import injected_anomalies

    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 20)
    options = ["--clips", str(tmp_path / "clips"), "--model", str(tiny_bundle), "--backend", "cpu"]
    monkeypatch.setattr(sys, "argv", ["injected_anomalies.py", *options])
    with pytest.raises(SystemExit, match="2"):
        injected_anomalies.main()
    assert "is static and long enough" in capsys.readouterr().err
