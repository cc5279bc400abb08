"""`svg-eval --anomaly` from its options to table, JSON and page, on little real clips; which frames it scores."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from svg_common.errors import ExitCode, SvgError, UsageError
from svg_common.progress import NullListener
from svg_common.video.clips import find_clips
from svg_eval.anomaly.clip_scores import ClipScores
from svg_eval.anomaly.clips import ClipTiming, count_pictures, named_clips, seen_pictures
from svg_eval.anomaly.labels import read_labels
from svg_eval.anomaly.page import plot_clip
from svg_eval.anomaly.request import AnomalyRequest
from svg_eval.anomaly.run import run
from svg_eval.cli import app
from svg_eval.roc import roc_area
from svg_runtime.live.events import EventLog
from tests.svg_eval.test_anomaly_labels import write_masks
from tests.svg_runtime.live.live_helpers import write_video

FRAMES = 45


@pytest.fixture
def data(tmp_path):
    """Two clips, and labels of one range in the first."""
    (tmp_path / "clips").mkdir()
    for number in (1, 2):
        write_video(tmp_path / "clips" / f"0{number}.mp4", FRAMES, seed=number)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"clips": {"01": [[31, 40]], "02": []}}))
    return tmp_path


def evaluate(data, model, *arguments) -> None:
    options = [model, "--data", "video", "--data-root", data / "clips", "--anomaly", data / "labels.json", "--backend", "cpu"]
    app([str(argument) for argument in (*options, *arguments)], standalone_mode=False)


def plots_of(page: str) -> list[str]:
    return [base64.b64decode(plot).decode() for plot in re.findall(r'svg\+xml;base64,([^"]+)', page)]


def test_the_command_reports_every_signal_online_and_per_clip(data, tiny_bundle, capsys):
    evaluate(data, tiny_bundle, "--json", data / "a.json", "--page", data / "a.html")
    printed = capsys.readouterr().out
    assert "online: micro" in printed
    assert "counted from 1" in printed
    result = json.loads((data / "a.json").read_text())
    assert set(result["online"]) == {"error", "surprise", "motion", "scene", "camera_motion", "combined"}
    assert set(result["per_clip"]) == {"error", "surprise", "combined"}
    first, second = result["clips"]
    assert (first["pictures"], first["labelled"], second["labelled"]) == (FRAMES, 10, 0)
    assert first["numbers"] == list(range(result["n_past"], FRAMES))
    assert np.flatnonzero(first["anomalous"]).tolist() == [number - result["n_past"] for number in range(30, 40)]
    assert second["roc_area"] is None
    # Both clips pooled, from the scores in the file.
    scores = np.array([*first["online"]["combined"], *second["online"]["combined"]])
    labels = np.array([*first["anomalous"], *second["anomalous"]])
    assert result["online"]["combined"]["roc_area"]["micro"] == pytest.approx(roc_area(scores, labels), abs=1e-6)
    assert result["online"]["combined"]["roc_area"]["macro"] == pytest.approx(first["roc_area"]["combined"], abs=1e-6)
    page = (data / "a.html").read_text()
    assert page.count("data:image/svg+xml") == 2
    assert [plot.count("frame, from 1 -->") for plot in plots_of(page)] == [1, 1]
    assert "all combined" in page


def test_signals_settle_in_seconds_whatever_the_step(data, tiny_bundle):
    evaluate(data, tiny_bundle, "--frame-step", "2", "--json", data / "a.json")  # 4.5 s in 23 pictures
    clip = json.loads((data / "a.json").read_text())["clips"][0]
    known = [number for number, value in zip(clip["numbers"], clip["online"]["error"], strict=True) if value]
    assert known
    assert min(known) >= 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "kth"], "--protocol has no effect with --anomaly"),
        (["--sequences", "3", "--plot", "p.png"], "--sequences, --plot has no effect"),
        (["--flip"], "--flip has no effect with --anomaly"),
        (["--frame-step", "2", "--frame-interval-s", "0.1"], "remove one of the two"),
        (["--json", "labels.json"], "labels.json"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(data, tiny_bundle, monkeypatch, arguments, message):
    monkeypatch.chdir(data)
    with pytest.raises(UsageError, match=message):
        evaluate(data, tiny_bundle, *arguments)
    assert "clips" in json.loads((data / "labels.json").read_text())


def test_the_first_number_of_ranges_says_nothing_without_labels(tiny_bundle):
    with pytest.raises(UsageError, match="--anomaly-first has no effect without --anomaly"):
        app([str(tiny_bundle), "--anomaly-first", "0"], standalone_mode=False)


def test_masks_are_refused_with_a_first_number(data, tiny_bundle):
    for number in (1, 2):
        write_masks(data / "masks" / f"0{number}", [frame > 30 for frame in range(FRAMES)])
    with pytest.raises(UsageError, match="--anomaly-first has no effect with"):
        evaluate(data, tiny_bundle, "--anomaly", data / "masks", "--anomaly-first", "0")
    evaluate(data, tiny_bundle, "--anomaly", data / "masks")


def test_a_clip_with_a_name_of_two_lines_has_one_in_all_results(data, tiny_bundle, capsys):
    (data / "clips" / "01.mp4").rename(data / "clips" / "0\n1.mp4")
    (data / "labels.json").write_text(json.dumps({"clips": {"0\n1": [[31, 40]], "02": []}}))
    evaluate(data, tiny_bundle, "--json", data / "a.json", "--page", data / "a.html")
    assert json.loads((data / "a.json").read_text())["clips"][0]["name"] == r"0\n1"
    assert r">0\n1: ROC area online" in (data / "a.html").read_text()
    (data / "labels.json").write_text(json.dumps({"clips": {"0\n2": [[31, 40]]}}))
    with pytest.raises(UsageError, match=r"labels without a clip: 0\\n2\n"):
        evaluate(data, tiny_bundle)


def test_a_checkpoint_is_refused_with_the_command_that_exports_it(data, tiny_checkpoint):
    with pytest.raises(UsageError, match="export it first: svg-export"):
        evaluate(data, tiny_checkpoint)


def test_other_data_is_refused(data, tiny_bundle):
    with pytest.raises(UsageError, match="expected --data video --data-root CLIPS"):
        app([str(tiny_bundle), "--anomaly", str(data / "labels.json")], standalone_mode=False)


@pytest.mark.parametrize(("ranges", "kind"), [([], "no"), ([[1, FRAMES]], "every")])
def test_labels_of_one_kind_are_refused_before_anything_is_forecast(data, ranges, kind):
    (data / "labels.json").write_text(json.dumps({"01": ranges, "02": ranges}))
    request = AnomalyRequest(
        labels=data / "labels.json", first_number=1, model="no such model", backend=None, device=None, precision=None,
        data={"name": "video", "root": str(data / "clips")}, samples=2, horizon=1, seed=0,
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"{kind} frame is anomalous"):
        run(request, NullListener())


def test_what_is_odd_about_rates_and_the_model_is_said(data, logged):
    for number in (1, 2):
        write_video(data / "clips" / f"0{number}.mp4", FRAMES, fps=5)
    evaluate(data, "digits", "--source-fps", "20", "--frame-interval-s", "0.1", "--samples", "2")
    notes = [record.getMessage() for record in logged.records if record.getMessage().startswith("note: ")]
    assert len(notes) == 3
    assert "the embedded digits know only moving digits" in notes[0]
    assert "01.mp4 has time stamps of its own: --source-fps does not change it" in notes[1]
    assert "clips have 5 frames per second, the model expects 10: its steps are 0.2 s there" in notes[2]


def test_ranges_count_the_pictures_that_are_there_and_say_where_numbers_are_missing(data, tiny_bundle, logged):
    for name, lost in (("01", range(20, 25)), ("02", range(0))):
        (data / "clips" / f"{name}.mp4").unlink()
        (data / "clips" / name).mkdir()
        for number in set(range(FRAMES)) - set(lost):
            picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
            Image.fromarray(picture).save(data / "clips" / name / f"{number:03d}.bmp")
    evaluate(data, tiny_bundle, "--source-fps", "10", "--json", data / "a.json")
    notes = [record.getMessage() for record in logged.records if "ranges count" in record.getMessage()]
    assert notes == [
        "note: clip 01: the numbers of its pictures have a gap before '025.bmp'; ranges count the pictures that are there"
    ]


def test_a_damaged_video_is_said_to_be_damaged(data, tiny_bundle):
    video = data / "clips" / "01.mp4"
    content, middle = video.read_bytes(), video.stat().st_size // 2
    video.write_bytes(content[:middle] + bytes(500) + content[middle + 500 :])
    with pytest.raises(SvgError, match=r"01\.mp4' is damaged: .*\n  its labels would be of other frames") as damaged:
        evaluate(data, tiny_bundle)
    assert damaged.value.exit_code == ExitCode.ERROR


class TestClips:
    def test_frames_keep_their_numbers_at_a_slower_interval(self, tmp_path):
        (clip,) = find_clips(write_video(tmp_path / "a.mp4", 20, fps=20, brightness_code=True))
        for timing in (ClipTiming(0.1), ClipTiming(0.5, frame_step=2)):
            seen = list(seen_pictures(clip, timing, EventLog()))
            assert [picture.number for picture in seen] == list(range(0, 20, 2))
            assert [round(float(picture.image.mean()) / 10) for picture in seen] == list(range(0, 20, 2))
        assert count_pictures(clip) == 20

    def test_a_pause_is_told(self, tmp_path):
        times = [0, 0.1, 0.2, 3.0, 3.1]
        (clip,) = find_clips(write_video(tmp_path / "a.mp4", 5, times_s=times))
        assert [picture.after_pause for picture in seen_pictures(clip, ClipTiming(0.1), EventLog())] == [False] * 3 + [
            True,
            False,
        ]

    def test_folders_are_clips_and_masks_beside_them_are_not(self, tmp_path):
        for name in ("Test001", "Test001_gt", "Test002"):
            write_masks(tmp_path / name, [0, 1, 0])
        assert sorted(named_clips(tmp_path)) == ["Test001", "Test002"]

    def test_a_picture_that_is_a_link_is_a_frame_and_a_link_to_nothing_is_refused(self, tmp_path):
        write_masks(tmp_path / "a", [0, 1])
        (tmp_path / "a" / "002.bmp").symlink_to("001.bmp")
        (tmp_path / "a" / "newest.bmp").symlink_to("001.bmp")
        assert count_pictures(named_clips(tmp_path)["a"]) == 3
        (tmp_path / "a" / ".#001.bmp").symlink_to("an-editor@host")
        assert count_pictures(named_clips(tmp_path)["a"]) == 3
        (tmp_path / "a" / "003.bmp").symlink_to("none.bmp")
        with pytest.raises(UsageError, match=r"003\.bmp' is a link to a file that does not exist"):
            named_clips(tmp_path)

    @pytest.mark.parametrize(("folder", "root"), [("Test003", "."), ("Test003/deep", ".."), (".", "Test003")])
    def test_a_folder_of_pictures_has_its_own_name_however_it_is_given(self, tmp_path, monkeypatch, folder, root):
        write_masks(tmp_path / "Test003", [0, 1])
        (tmp_path / "Test003" / "deep").mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert list(named_clips(Path(root))) == ["Test003"]

    @pytest.mark.parametrize(("clip_form", "label_form"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_a_clip_is_found_by_a_name_in_another_form_of_unicode(self, tmp_path, clip_form, label_form):
        write_video(tmp_path / f"{normalize(clip_form, 'ü2')}.mp4", 3)
        (tmp_path / "l.csv").write_text(f"{normalize(label_form, 'ü2')}.mp4,2,3\n")
        (tmp_path / "l.json").write_text(json.dumps({normalize(label_form, "ü2"): [[2, 3]]}))
        write_masks(tmp_path / "gt" / normalize(label_form, "ü2"), [0, 1, 1])
        names = list(named_clips(tmp_path / f"{normalize(clip_form, 'ü2')}.mp4"))
        for labels in ("l.csv", "l.json", "gt"):
            (found,) = read_labels(tmp_path / labels).of(names).values()
            assert found.mask(3).tolist() == [False, True, True]

    def test_two_clips_whose_names_differ_in_their_form_alone_are_refused(self, tmp_path):
        for form in ("NFC", "NFD"):
            write_video(tmp_path / f"{normalize(form, 'ü')}.mp4", 3)
            write_masks(tmp_path / "gt" / normalize(form, "ü"), [0])
        with pytest.raises(UsageError, match="two clips are called 'ü'"):
            named_clips(tmp_path)
        with pytest.raises(UsageError, match=r"two folders of masks in .* are called 'ü'"):
            read_labels(tmp_path / "gt")

    def test_two_clips_of_one_name_are_refused(self, tmp_path):
        for folder in ("x", "y"):
            (tmp_path / folder).mkdir()
            write_video(tmp_path / folder / "a.mp4", 3)
        with pytest.raises(UsageError, match="two clips are called 'a'"):
            named_clips(tmp_path)


def test_per_clip_scores_are_scaled_and_added():
    clip = ClipScores(
        name="a",
        mask=np.zeros(9, bool),
        numbers=np.arange(6, 9),
        online={},
        raw={"error": np.array([2.0, 4.0, 3.0]), "surprise": np.array([5.0, 5.0, 5.0])},
        empty=np.array([], np.int64),
    )
    assert {name: values.tolist() for name, values in clip.per_clip.items()} == {
        "error": [0, 1, 0.5], "surprise": [0, 0, 0], "combined": [0, 1, 0.5],
    }  # fmt: skip


def scored_clip(online: float) -> ClipScores:
    """100 frames, of which those from number 59 on, from 0, are anomalous; online scores reach `online`."""
    rng = np.random.default_rng(0)
    numbers = np.arange(6, 100)
    return ClipScores(
        name="a",
        mask=np.arange(100) >= 59,
        numbers=numbers,
        online={"combined": online * rng.random(len(numbers))},
        raw={"error": rng.random(len(numbers)), "surprise": rng.random(len(numbers))},
        empty=np.array([], np.int64),
    )


def place_of(label: str, plot: str) -> float:
    """Where the turned label's base line is, in points from the left."""
    found = re.search(rf"<!-- {label} -->\s*<g[^>]*translate\(([\d.-]+)", plot)
    assert found
    return float(found[1])


@pytest.mark.parametrize("online", [0.8, 1.0, 1.2, 1.3, 1.6, 2.5, 9.0])
def test_labels_of_the_axes_lie_within_the_picture(online):
    """Which numbers an axis shows must not depend on its height: the layout would leave them the room of others."""
    plot = plot_clip(scored_clip(online), first_number=1).decode()
    width = re.search(r'viewBox="0 0 ([\d.]+)', plot)
    assert width
    assert place_of("online", plot) > 7  # points, the height of a letter
    assert place_of("per clip", plot) < float(width[1]) - 2  # below its base line


@pytest.mark.parametrize("first_number", [0, 1])
def test_frames_count_as_the_labels_do(first_number):
    plot = plot_clip(scored_clip(1.0), first_number).decode()
    assert f"<!-- frame, from {first_number} -->" in plot
    ticks = re.findall(r'id="xtick_\d+">.*?<use [^>]*x="([\d.]+)".*?<!-- (\d+) -->', plot, re.DOTALL)
    (x1, frame1), (x2, frame2) = [(float(x), int(frame)) for x, frame in ticks[:2]]
    shaded = re.search(r'd="M ([\d.]+) [^"]*"[^>]*fill: #d9d9d9', plot)
    assert shaded
    first_shaded = frame1 + (float(shaded[1]) - x1) * (frame2 - frame1) / (x2 - x1)
    assert first_shaded == pytest.approx(59 + first_number - 0.5, abs=0.01)
