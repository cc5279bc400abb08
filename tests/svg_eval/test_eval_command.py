"""`svg-eval` from its options to its tables, files and refusals."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from svg_common.errors import ExitCode, OutputError, SvgError, UsageError
from svg_eval import evaluation_run
from svg_eval.cli import app
from svg_eval.measure import Settings
from svg_eval.protocols import PROTOCOLS
from svg_train import evaluation_size
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from svg_train.data.mnist_files import TEST_IMAGES
from tests.conftest import random_model, save_model
from tests.svg_eval.test_anomaly_labels import write_masks
from tests.svg_runtime.live.live_helpers import write_video

SMALL = ("--sequences", "3", "--samples", "4", "--horizon", "3")


def evaluate(*arguments) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def metrics(tmp_path, *arguments):
    evaluate(*arguments, "--json", tmp_path / "metrics.json")
    return json.loads((tmp_path / "metrics.json").read_text())


@pytest.fixture
def deterministic(tmp_path):
    return save_model(tmp_path / "det.pt", random_model(prior="none", z_dim=0))


@pytest.fixture
def mnist(tmp_path):
    """A small file of made-up digits in MNIST's format."""
    images = np.random.default_rng(0).integers(0, 255, (12, 28, 28), np.uint8)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / TEST_IMAGES).write_bytes(struct.pack(">4I", 2051, *images.shape) + images.tobytes())
    return tmp_path / "mnist"


def test_checkpoint_and_bundle_give_the_same_metrics(tiny_checkpoint, tiny_bundle, tmp_path, capsys):
    of_checkpoint, of_bundle = (metrics(tmp_path, model, *SMALL) for model in (tiny_checkpoint, tiny_bundle))
    assert of_checkpoint["data"] == of_bundle["data"]
    for name in ("psnr_best", "psnr_sample", "psnr_mean", "psnr_repeat", "gain", "spread"):
        assert of_bundle[name] == pytest.approx(of_checkpoint[name], abs=2e-3)
    for group in ("best", "average_sample"):
        for metric in ("psnr", "ssim"):
            given, expected = (of[group][metric]["mean_per_step"] for of in (of_bundle, of_checkpoint))
            assert given == pytest.approx(expected, abs=2e-3)
    assert "best of 4" in capsys.readouterr().out


def test_the_model_is_not_overwritten_by_its_metrics(tiny_checkpoint, tmp_path):
    model = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    before = model.read_bytes()
    with pytest.raises(UsageError, match="--json would overwrite"):
        evaluate(model, *SMALL, "--json", model)
    assert model.read_bytes() == before


@pytest.mark.parametrize("option", ["--json", "--page"])
def test_another_checkpoint_is_not_overwritten_either(tiny_bundle, tiny_checkpoint, tmp_path, option):
    other = Path(shutil.copy(tiny_checkpoint, tmp_path / "other.pt"))
    before = other.read_bytes()
    with pytest.raises(UsageError, match=f"{option} would overwrite '.*other.pt', which is not"):
        evaluate(tiny_bundle, *SMALL, option, other)
    assert other.read_bytes() == before


def test_metrics_fit_together(tiny_checkpoint, tmp_path):
    values = metrics(tmp_path, tiny_checkpoint, *SMALL)
    assert (values["sequences"], values["samples"], values["n_past"], values["horizon"]) == (3, 4, 3, 3)
    assert values["gain"] == pytest.approx(values["psnr_best"] - values["psnr_repeat"], abs=1e-4)
    assert values["psnr_best"] >= values["psnr_sample"]
    assert len(values["psnr_best_per_step"]) == len(values["spread_per_step"]) == 3
    by_count = values["best_of_n"]["psnr"]
    assert [point["n"] for point in by_count] == [1, 2, 4]
    assert by_count[-1]["mean"] == pytest.approx(values["best"]["psnr"]["mean"], abs=1e-4)
    assert by_count[0]["mean"] == pytest.approx(values["average_sample"]["psnr"]["mean"], abs=1e-4)
    assert len(values["diversity"]["pairwise_rms_per_step"]) == 3
    assert values["repeat"]["diversity"] is values["lpips"] is values["fvd"] is None
    assert values["baselines"] == []


def test_deterministic_baseline_stands_in_the_same_run(tiny_checkpoint, deterministic, tmp_path, capsys):
    other = tmp_path / "other.pt"
    save_checkpoint(other, replace(load_checkpoint(tiny_checkpoint), frame_interval_s=0.3))
    values = metrics(tmp_path, tiny_checkpoint, *SMALL, "--baseline", deterministic, "--baseline", other)
    alone = metrics(tmp_path, deterministic, *SMALL)
    first, second = values["baselines"]
    assert first["name"] == "det.pt"
    assert first["samples"] == alone["samples"] == 1
    assert first["best"] == alone["best"]
    assert second["best"] == values["best"]  # the same model with the same noise
    assert second["description"].endswith("; trained at 0.3 s per step, measured at 0.1 s")
    assert not any("trained at" in entry["description"] for entry in (values["model"], first))
    printed = capsys.readouterr().out
    assert "det.pt" in printed
    assert f"baseline 2 other.pt: {second['description']}" in printed


def test_plot_and_strips_show_all_models(tiny_checkpoint, deterministic, tmp_path):
    evaluate(tiny_checkpoint, *SMALL, "--baseline", deterministic, "--plot", tmp_path / "p.png", "--strips", tmp_path / "s")
    plot = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert plot.std() > 10
    names = {"overview", "sequence-000", "sequence-001", "sequence-002"}
    assert {file.name for file in (tmp_path / "s").iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "gif")}
    strip, overview = (Image.open(tmp_path / "s" / f"{name}.png") for name in ("sequence-000", "overview"))
    assert overview.size == (strip.width, 3 * strip.height)
    assert strip.height // 68 == 10  # truth, best, worst, two random ones, mean, spread, posterior, baseline, optical flow
    assert Image.open(tmp_path / "s" / "overview.gif").n_frames == 3 + 3
    evaluate(deterministic, *SMALL, "--strips", tmp_path / "d")
    assert Image.open(tmp_path / "d" / "sequence-000.png").height // 68 == 3  # truth, its one forecast, optical flow


def test_scores_by_class_of_pixels_fit_together(tiny_checkpoint, tmp_path, capsys):
    values = metrics(tmp_path, tiny_checkpoint, *SMALL)
    printed = capsys.readouterr().out
    for entry in (values, values["repeat"], values["repeat_noise"], values["optical_flow"]):
        shares = [entry["pixels"][name]["share"] for name in ("all", "moving", "still")]
        assert shares == pytest.approx([1, shares[1], 1 - shares[1]], abs=1e-5)
    every = values["pixels"]["all"]
    for kind in ("best", "sample", "mean"):
        assert every[f"psnr_{kind}"] == values[f"psnr_{kind}"]
    assert len(every["rank_histogram"]) == 5
    assert every["coverage_expected"] == pytest.approx(0.6)  # of 4 samples
    assert "4 samples show no 80 % interval" in printed
    assert "repeat + noise, mean of samples" in printed
    assert "spread / skill per lead, moving pixels" in printed
    assert values["clips"] == []


def test_one_future_has_no_spread_and_says_so(deterministic, tmp_path, capsys):
    values = metrics(tmp_path, deterministic, *SMALL)
    assert "spread_skill" not in values["pixels"]["all"]
    printed = capsys.readouterr().out
    assert "one future: its CRPS is the mean absolute error" in printed
    assert "nan" not in printed


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips, of which the second is longer."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", frames=20, seed=1)
    write_video(folder / "b.mp4", frames=60, seed=2)
    write_video(folder / "c.mp4", frames=20, seed=3)
    return folder


def test_page_has_all_clips_and_nothing_outside_it(tiny_bundle, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    data = ("--data", "video", "--data-root", clips, "--test-fraction", "1")
    few = ("--sequences", "5", "--samples", "3", "--horizon", "2")
    values = metrics(tmp_path, tiny_bundle, *few, *data, "--page", tmp_path / "page.html")
    assert {row["clip"]: row["sequences"] for row in values["clips"]} == {"a.mp4": 1, "b.mp4": 2, "c.mp4": 2}
    gains = [row["gain_mean"] for row in values["clips"]]
    assert gains == sorted(gains)
    everything = metrics(tmp_path, tiny_bundle, "--sequences", "100", "--samples", "1", "--horizon", "2", *data)
    assert {row["clip"] for row in everything["clips"]} == {"a.mp4", "b.mp4", "c.mp4"}
    printed = capsys.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("a.mp4", "b.mp4", "c.mp4", "optical flow", "tiny.svgb, best of 3"):
        assert name in printed
        assert name in page
    assert page.count("data:image/svg+xml") == 6
    assert page.count("data:image/png") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert len(set(captions)) == 5
    assert {caption.partition(",")[0] for caption in captions} == {"a.mp4", "b.mp4", "c.mp4"}
    assert "the sequences that move most, from as many clips as possible" in page
    assert f"{values['psnr_mean']:.2f}" in page


def test_page_has_every_row_and_every_note_of_the_text(tiny_checkpoint, deterministic, mnist, tmp_path, capsys):
    """Best of n, diversity, SSIM and intervals, learned metrics, the published values: not only in the terminal."""
    five = save_model(tmp_path / "five.pt", random_model(n_past=5))
    protocol = (five, "--protocol", "smmnist", "--data-root", mnist, "--sequences", "2", "--samples", "2")
    for arguments in ((tiny_checkpoint, *SMALL, "--baseline", deterministic), protocol):
        evaluate(*arguments, "--page", tmp_path / "page.html")
        _, frames, pixels, notes = capsys.readouterr().out.strip().split("\n\n")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        rows = [html.unescape(re.sub("<[^>]*>", " ", row)).split() for row in re.findall("<tr.*?</tr>", page)]
        assert rows == [line.split() for table in (frames, pixels) for line in table.splitlines()]
        assert [html.unescape(note) for note in re.findall("<li>(.*?)</li>", page)] == notes.splitlines()
    assert "published: SRVP, best of 100" in page
    assert "PSNR of the best of n samples" in page
    assert "LPIPS: not computed" in page


def plots_of(page: Path) -> list[str]:
    return [base64.b64decode(plot).decode() for plot in re.findall(r'svg\+xml;base64,([^"]+)', page.read_text())]


@pytest.mark.parametrize("samples", ["1", "3"])
def test_plots_of_one_step_show_points_at_a_whole_number(tiny_checkpoint, tmp_path, samples):
    page = ("--page", tmp_path / "page.html", "--plot", tmp_path / "plot.svg")
    evaluate(tiny_checkpoint, "--sequences", "2", "--samples", samples, "--horizon", "1", *page)
    plots = [plot for plot in plots_of(tmp_path / "page.html") if "<!-- lead, steps -->" in plot]
    assert len(plots) == (2 if samples == "1" else 4)
    for plot in [*plots, (tmp_path / "plot.svg").read_text()]:
        axes = re.split(r'<g id="axes_\d+">', plot)[1:]
        assert axes
        for axis in axes:
            ticks = re.search(r'<g id="matplotlib\.axis_\d+">.*?<g id="matplotlib\.axis_\d+">', axis, re.DOTALL)
            labels = re.findall(r"<!-- ([\d.]+) -->", ticks[0])
            assert labels
            assert all("." not in label for label in labels)
            assert re.search(r'<g clip-path="[^"]+">\s*<use', axis)  # marks within the axes


def test_where_nothing_moves_no_plot_is_of_moving_pixels(tiny_bundle, tmp_path):
    write_masks(tmp_path / "still" / "a", [1] * 20)
    video = ("--data", "video", "--data-root", tmp_path / "still", "--test-fraction", "1", "--cache", tmp_path / "cache")
    evaluate(tiny_bundle, *SMALL, *video, "--page", tmp_path / "page.html")
    plots = plots_of(tmp_path / "page.html")
    assert len(plots) == 5
    assert not [plot for plot in plots if "moving pixels" in plot]


def test_page_of_one_future_without_clips(deterministic, tmp_path):
    evaluate(deterministic, *SMALL, "--page", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 2
    assert "by clip" not in page
    assert "nan" not in re.sub(r'base64,[^"]*', "", page)


def test_protocol_sets_data_and_horizon_and_prints_published_values(mnist, tmp_path, capsys):
    model = save_model(tmp_path / "five.pt", random_model(n_past=5))
    values = metrics(
        tmp_path, model, "--protocol", "smmnist", "--data-root", mnist, "--sequences", "2", "--samples", "2"
    )  # fmt: skip
    assert values["horizon"] == 20
    assert "2 digits" in values["data"]
    assert values["published"] == [
        {"method": "SVG", "psnr": 14.5, "ssim": 0.709},
        {"method": "SRVP", "psnr": 16.93, "ssim": 0.7799},
        {"method": "SLAMP", "psnr": 18.07, "ssim": 0.7736},
    ]
    printed = capsys.readouterr().out
    assert "16.93" in printed
    assert "0.7799" in printed


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_for_another_number_of_observed_frames_is_refused(tiny_checkpoint, name):
    with pytest.raises(UsageError, match=f"has {PROTOCOLS[name].n_past} context frames, but this model observes 3"):
        evaluate(tiny_checkpoint, "--protocol", name)


@pytest.mark.parametrize(
    ("option", "value"), [("--data", "digits"), ("--num-digits", "1"), ("--horizon", "5"), ("--frame-step", "2")]
)
def test_options_that_contradict_the_protocol_are_refused(tmp_path, mnist, option, value):
    model = save_model(tmp_path / "five.pt", random_model(n_past=5))
    with pytest.raises(UsageError, match=f"{option} .*both given|and {option} were both given"):
        evaluate(model, "--protocol", "smmnist", "--data-root", mnist, option, value)


def test_data_is_what_the_model_was_trained_on_by_default(tmp_path, tiny_bundle, mnist):
    model = save_model(tmp_path / "two.pt", random_model(), data={"num_digits": 2})
    small = ("--sequences", "1", "--samples", "1", "--horizon", "1")
    assert "2 procedural" in metrics(tmp_path, model, *small)["data"]
    assert "1 procedural" in metrics(tmp_path, model, *small, "--num-digits", "1")["data"]
    for trained in (model, tiny_bundle):
        assert metrics(tmp_path, trained, *small, "--data", "smmnist", "--data-root", mnist)["data"].startswith("smmnist: 1")


def test_one_sequence_has_no_interval(tiny_checkpoint, tmp_path, capsys):
    values = metrics(tmp_path, tiny_checkpoint, "--sequences", "1", "--samples", "2", "--horizon", "1")
    assert values["best"]["psnr"]["ci95"] is None
    assert "nan" not in capsys.readouterr().out


def test_learned_metrics_with_the_users_weights(tiny_checkpoint, tmp_path, capsys):
    class Distance(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).square().mean(dim=[1, 2, 3])

    class Features(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=[1, 3, 4])

    for network in (Distance(), Features()):
        torch.jit.script(network).save(str(tmp_path / f"{type(network).__name__}.pt"))
    weights = ("--lpips-weights", tmp_path / "Distance.pt", "--fvd-weights", tmp_path / "Features.pt")
    values = metrics(tmp_path, tiny_checkpoint, *SMALL, *weights)
    assert values["lpips"]["best"]["mean"] < values["lpips"]["average_sample"]["mean"]
    assert values["fvd"] > 0
    printed = capsys.readouterr().out
    assert "not computed" not in printed
    evaluate(tiny_checkpoint, "--sequences", "1", "--samples", "1", "--horizon", "1", *weights)
    printed = capsys.readouterr().out
    assert "FVD: not computed (a single sequence has no covariance: it needs --sequences 2 or more)" in printed
    assert "nan" not in printed
    evaluate(tiny_checkpoint, "--sequences", "1", "--samples", "1", "--horizon", "1")
    assert capsys.readouterr().out.count("not computed") == 2


def test_a_bundle_is_computed_as_the_model_is_and_both_are_described(tiny_bundle, tiny_checkpoint, tmp_path, capsys):
    few = ("--sequences", "2", "--samples", "2", "--horizon", "1", "--backend", "cpu", "--fp16")
    baselines = ("--baseline", tiny_bundle, "--baseline", tiny_checkpoint)
    values = metrics(tmp_path, tiny_bundle, *few, *baselines, "--page", tmp_path / "page.html")
    of_bundle, of_checkpoint = values["baselines"]
    assert "fp16" in of_bundle["description"]
    assert of_bundle["description"] == values["model"]["description"]
    assert of_bundle["best"] == values["best"]
    printed, page = capsys.readouterr().out.splitlines(), (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, baseline in (("baseline", of_bundle), ("baseline 2", of_checkpoint)):
        assert f"{name:<11}{baseline['name']}: {baseline['description']}" in printed
        assert f"{name}: {baseline['name']}: {baseline['description']}" in page


def test_a_baseline_by_name_is_the_model_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "clip.mp4", frames=40)
    video = ("--data", "video", "--data-root", tmp_path / "clip.mp4", "--test-fraction", "1")
    few = ("--sequences", "1", "--samples", "1", "--horizon", "1")
    values = metrics(tmp_path, "embedded", *few, *video, "--baseline", "embedded")
    assert values["baselines"][0]["description"] == values["model"]["description"]


def test_baseline_that_sees_other_frames_is_refused(tiny_checkpoint, tmp_path):
    other = save_model(tmp_path / "other.pt", random_model(n_past=4, channels=3), data={"name": "video"})
    with pytest.raises(UsageError, match=r"n_past: 3 and 4; channels: 1 and 3"):
        evaluate(tiny_checkpoint, *SMALL, "--baseline", other)


@pytest.mark.parametrize("option", ["--horizon", "--samples"])
def test_more_than_fits_is_refused_before_the_data_are_opened(tiny_checkpoint, option, monkeypatch):
    monkeypatch.setattr(evaluation_run, "open_held_out", lambda **given: pytest.fail("opened"))
    monkeypatch.setattr(evaluation_size, "_memory_bytes", lambda device: 10**9)
    expected = r"would take .* GB of memory, but this machine has 1.00 GB: .*\n  expected a smaller --horizon or --samples"
    with pytest.raises(UsageError, match=expected):
        evaluate(tiny_checkpoint, option, "65536")
    result = CliRunner().invoke(app, [str(tiny_checkpoint), option, "65537"])
    assert (result.exit_code, "less than or equal to 65536" in result.output) == (2, True)


def test_the_one_future_of_a_deterministic_model_is_small_beside_the_samples_of_baselines(monkeypatch):
    info = SimpleNamespace(channels=3, height=512, width=512, n_past=5, deterministic=True)
    model, memory = SimpleNamespace(info=info, device=torch.device("cuda")), {"cuda": 10**9, "cpu": 10**11}
    monkeypatch.setattr(evaluation_size, "_memory_bytes", lambda device: memory[device.type])
    settings = Settings(sequences=1, samples=100, horizon=10, seed=0)
    evaluation_run._refuse_too_large(model, settings)
    info.deterministic = False
    with pytest.raises(UsageError, match=r"but cuda has 1\.00 GB"):
        evaluation_run._refuse_too_large(model, settings)


def test_invalid_outputs_and_data_are_refused_before_the_work(tiny_checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"\.png"):
        evaluate(tiny_checkpoint, *SMALL, "--plot", tmp_path / "plot.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write '.*file/x\.json': Not a directory"):
        evaluate(tiny_checkpoint, *SMALL, "--json", tmp_path / "file" / "x.json")
    with pytest.raises(SvgError, match="--data-root"):
        evaluate(tiny_checkpoint, *SMALL, "--data", "video")


@pytest.mark.parametrize("data", ["video", "kth"])
def test_a_folder_without_data_is_a_usage_error(tiny_checkpoint, tmp_path, data):
    options = (tiny_checkpoint, *SMALL, "--data", data, "--data-root", tmp_path / "empty")
    with pytest.raises(UsageError, match=r"empty' (does not exist|is not a folder)"):
        evaluate(*options)
    (tmp_path / "empty" / "nested").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"empty' (contains no video|has no KTH clip)"):
        evaluate(*options)


def test_damaged_data_and_missing_models_are_no_usage_errors(tiny_checkpoint, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SvgError, match="no video can be read") as damaged:
        evaluate(tiny_checkpoint, *SMALL, "--data", "video", "--data-root", tmp_path, "--cache", tmp_path / "cache")
    with pytest.raises(SvgError, match=r"model 'nope.svgb' does not exist") as missing:
        evaluate(tiny_checkpoint, *SMALL, "--baseline", "nope.svgb")
    assert damaged.value.exit_code == missing.value.exit_code == ExitCode.ERROR


def test_a_name_of_several_lines_has_one_in_the_tables(tiny_bundle, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "two\nlines\tand a tab.mp4", frames=20)
    model = Path(shutil.copytree(tiny_bundle, tmp_path / "a\nb.svgb"))
    data = ("--data", "video", "--data-root", tmp_path / "clips", "--test-fraction", "1", "--cache", tmp_path / "cache")
    values = metrics(tmp_path, model, *SMALL, *data, "--page", tmp_path / "page.html")
    assert [row["clip"] for row in values["clips"]] == [r"two\nlines\tand a tab.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(r"two\nlines\tand a tab.mp4  ") for line in lines)
    assert any(line.startswith(r"a\nb.svgb, best of 4") for line in lines)
    assert r"two\nlines\tand a tab.mp4</td>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_clip_is_not_replaced_by_its_metrics(tiny_bundle, clips):
    before = {file: file.read_bytes() for file in clips.rglob("*") if file.is_file()}
    for file in before:
        with pytest.raises(UsageError, match="a file in the data"):
            evaluate(tiny_bundle, "--data", "video", "--data-root", clips, "--json", file)
    assert before
    assert {file: file.read_bytes() for file in before} == before


def test_clips_are_not_mixed_with_their_strips(tiny_bundle, tmp_path):
    write_masks(tmp_path / "pictures" / "a", [0] * 40)
    for root in ("pictures", "pictures/a"):
        with pytest.raises(UsageError, match="--strips would write among the clips in"):
            evaluate(tiny_bundle, "--data", "video", "--data-root", tmp_path / root, "--strips", tmp_path / "pictures" / "a")
    assert len(list((tmp_path / "pictures" / "a").iterdir())) == 40


def test_strips_and_metrics_do_not_replace_each_other(tiny_bundle, tmp_path):
    (tmp_path / "old.png").touch()
    for name in ("overview.png", "sequence-007.gif"):
        with pytest.raises(UsageError, match=f"--json would overwrite '.*{name}'"):
            evaluate(tiny_bundle, *SMALL, "--strips", tmp_path, "--json", tmp_path / name)
    evaluate(tiny_bundle, *SMALL, "--strips", tmp_path, "--plot", tmp_path / "old.png")  # as the same command did before
    assert (tmp_path / "old.png").stat().st_size > 0


def test_options_of_training_alone_are_refused(tiny_bundle, clips):
    with pytest.raises(UsageError, match="no effect on held-out sequences, only in training: --flip, --moving"):
        evaluate(tiny_bundle, "--data", "video", "--data-root", clips, "--flip", "--moving", "3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("camera --data digits", "the model 'camera.svgb' has 3 channels, and the data 'digits' is gray\n  give --data video"),
        ("embedded --frame-step 2", "--frame-step does not apply to the data 'digits', only to video, kth\n  remove it"),
        ("embedded --test-fraction 0.5", "--test-fraction does not apply to the data 'digits', only to video\n"),
        ("embedded --data-root v1", "--data-root does not apply to the data 'digits', only to smmnist, video, kth, bair\n"),
        ("embedded --crop 0.5 0.2 --data video --data-root .", "  data: crop must be two shares"),
    ],
)
def test_what_does_not_fit_the_data_is_named_as_on_the_command_line(arguments, message):
    with pytest.raises(UsageError) as refusal:
        evaluate(*arguments.split())
    assert message in str(refusal.value)
    assert "Value error" not in str(refusal.value)


def test_an_option_with_its_default_fits_any_data(tiny_bundle, tmp_path):
    assert metrics(tmp_path, tiny_bundle, *SMALL, "--data", "digits", "--frame-step", "1")["sequences"] == 3


def test_bundles_of_one_name_are_told_apart_by_their_folders(tiny_bundle, tmp_path, capsys):
    for run in ("a", "b"):
        shutil.copytree(tiny_bundle, tmp_path / run / "ckpt.svgb")
    found = metrics(tmp_path, tmp_path / "a" / "ckpt.svgb", "--baseline", tmp_path / "b" / "ckpt.svgb", *SMALL)
    assert found["model"]["name"] == str(tmp_path / "a" / "ckpt.svgb")
    assert [each["name"] for each in found["baselines"]] == [str(tmp_path / "b" / "ckpt.svgb")]
    assert f"{tmp_path}/b/ckpt.svgb, best of 4" in capsys.readouterr().out


def test_command_in_a_process_of_its_own(tiny_bundle, tmp_path):
    code = "from svg_eval.cli import main; main()"
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    result = subprocess.run([*command, *SMALL, "--json", "q.json"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "tiny.svgb, best of 4" in result.stdout
    assert "evaluating tiny.svgb" in result.stderr
    assert json.loads((tmp_path / "q.json").read_text())["sequences"] == 3
    refused = subprocess.run([*command, "--protocol", "bair"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr


def test_help_lists_the_exit_code_of_ctrl_c():
    assert "130 Ctrl-C" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())


def test_the_embedded_digits_say_that_they_know_digits_only(tmp_path, monkeypatch, logged, tiny_bundle):
    monkeypatch.chdir(tmp_path)  # no bundle lies here
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "clip.mp4", frames=80)
    video = ("--data", "video", "--data-root", "clip.mp4", "--sequences", "2", "--samples", "2", "--horizon", "2")
    note = "the embedded digits know only moving digits"
    evaluate("digits", *video)
    assert logged.text.count(note) == 1
    logged.clear()
    evaluate("embedded", *SMALL)
    evaluate(tiny_bundle, *video)
    assert note not in logged.text


@pytest.mark.parametrize("model", [(), ("embedded",)])
def test_videos_are_forecast_by_the_embedded_camera_model(tmp_path, monkeypatch, logged, model):
    monkeypatch.chdir(tmp_path)  # no bundle lies here
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "clip.mp4", frames=80)
    small = ("--sequences", "2", "--samples", "2", "--horizon", "2")
    measured = metrics(tmp_path, *model, "--data", "video", "--data-root", "clip.mp4", *small)
    assert measured["model"]["name"] == "camera.svgb"
    assert "know only moving digits" not in logged.text
