"""The quality gate of reduced precision, on known forecasts and on exported models; unusable held-out data is refused early."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference_networks import build
from svg_common.errors import ExitCode, UsageError
from svg_common.progress import NullListener
from svg_eval.cli import app as evaluate
from svg_eval.models import ModelInfo
from svg_export import precision
from svg_export.command_line import model_options
from svg_export.drawn_frames import DrawnSequences
from svg_export.precision import (
    DrawnFrames,
    HeldOut,
    PrecisionError,
    compare,
    compare_drawn,
    describe,
    describe_unmeasured,
    find_held_out,
    load_held_out,
)
from svg_runtime.backends import nvidia_precision
from svg_runtime.backends.openvino import device as openvino_device
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import ForecastError
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.metrics import frame_mse, frame_ssim, psnr_of_frames
from tests.conftest import few_held_out, random_model, save_model
from tests.engine_precision import needs_precision
from tests.families import save_tiny
from tests.svg_train.reference.reference_files import OldTorch, write_checkpoint

HORIZON, SAMPLES, SEQUENCES = precision.HORIZON, precision.SAMPLES, 8


@pytest.fixture(autouse=True)
def one_thread():
    """Small frames: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@dataclass
class Known:
    """Forecasts that follow from the noise alone: samples around a gray picture, changed by `change`."""

    change: object = None
    z_dim: int = 4
    device = torch.device("cpu")

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("known", "", 3, 64, 64, 1, self.z_dim, 2, 0.1, {"name": "digits"}, 10)

    def forecast(self, context, noise, context_noise):
        batch, horizon, samples = noise.shape[:3]
        shift = (
            noise.sum(-1).movedim(1, 2)[..., None, None, None] if self.z_dim else torch.zeros(batch, samples, horizon, 1, 1, 1)
        )
        x = torch.linspace(0, 6, 64)
        frames = 0.4 + 0.1 * torch.sin(x + shift) * torch.cos(x)[:, None]
        return self.change(frames) if self.change else frames


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    config = build_config({"model": {"n_past": 3}})
    return HeldOut("digits", open_data(config, "test", 3 + HORIZON), SEQUENCES)


def report_on(change, held_out, **model):
    (report,) = compare([Known(**model), Known(change, **model)], ["a test"], held_out, NullListener())
    return report


def noisy(level, from_step=0):
    def change(frames):
        noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1)) * level
        noise[:, :, :from_step] = 0
        return frames + noise

    return change


def test_small_rounding_passes(held_out):
    report = report_on(noisy(1e-4), held_out)
    assert report.failures() == []
    assert report.divergence_psnr_db == pytest.approx([80] * HORIZON, abs=0.1)
    assert (report.sequences, report.samples, report.data, report.computed_by) == (SEQUENCES, SAMPLES, "digits", "a test")


def test_a_first_step_too_far_from_fp32_fails(held_out):
    closer, farther = (report_on(noisy(level), held_out) for level in (0.0050, 0.0063))  # 46 and 44 dB
    assert not any("first forecast frame" in line for line in closer.failures())
    assert any("first forecast frame is 44.0 dB from fp32, expected at least 45 dB" in line for line in farther.failures())


def test_a_certain_loss_fails_though_the_first_step_is_equal(held_out):
    report = report_on(noisy(0.05, from_step=1), held_out)
    assert report.divergence_psnr_db[0] == 120
    lines = "\n".join(report.failures())
    assert "psnr_best falls" in lines
    assert "psnr_mean falls" in lines
    assert "first forecast frame" not in lines
    assert "diversity" not in lines  # noise adds diversity; the other metrics show that it is worthless


def test_lost_diversity_fails_and_an_invisible_loss_does_not(held_out):
    def shrunk(share):
        return lambda frames: frames.mean(1, keepdim=True) + share * (frames - frames.mean(1, keepdim=True))

    visible, invisible = (report_on(shrunk(share), held_out).metrics["diversity"] for share in (0.97, 0.999))
    assert visible.is_loss
    assert invisible.high < 0  # certain, and yet
    assert not invisible.is_loss
    assert invisible.reduced == pytest.approx(0.999 * invisible.fp32, rel=1e-4)


def test_differences_below_the_rounding_of_8_bits_are_no_loss():
    """As on a still scene that the last frame forecasts exactly: 120 dB in fp32, and 74 dB in the reduced precision."""
    truth = torch.full((4, HORIZON, 1, 64, 64), 0.5)
    exact = truth[:, None].expand(-1, 3, -1, -1, -1, -1)
    fp32, reduced = precision._Scores(), precision._Scores()
    fp32.add(exact, exact, truth)
    reduced.add(exact + 2e-4, exact, truth)
    for name in ("psnr_best", "psnr_mean"):
        np.testing.assert_allclose(reduced.quality()[name], fp32.quality()[name])
    assert reduced.drift() == pytest.approx([74] * HORIZON, abs=0.1)


def test_metrics_equal_a_plain_computation(held_out):
    report = report_on(noisy(0.01), held_out)
    differences = []
    noise = np.random.default_rng(precision.SEED)
    for number in range(SEQUENCES):
        truth = torch.from_numpy(held_out.data[number][3:]).float().movedim(-1, 1) / 255
        draws = torch.from_numpy(noise.standard_normal((HORIZON, SAMPLES, 4), np.float32))
        noise.standard_normal((2, SAMPLES, 4), np.float32)
        plain = Known().forecast(None, draws[None], None)[0]
        differences.append((plain, truth))
    all_plain = torch.stack([plain for plain, _ in differences])
    rounded = noisy(0.01)(all_plain)
    for name, of in (("psnr", lambda a, b: psnr_of_frames(frame_mse(a, b))), ("ssim", frame_ssim)):
        scores = np.array([
            [of(samples[index], truth).mean(1).numpy() for samples in (all_plain, rounded)]
            for index, (_, truth) in enumerate(differences)
        ])  # (N, 2, S)  # fmt: skip
        for metric, values in ((f"{name}_best", scores.max(2)), (f"{name}_mean", scores.mean(2))):
            change = values[:, 1] - values[:, 0]
            width = 1.959964 * change.std(ddof=1) / np.sqrt(SEQUENCES)
            given = report.metrics[metric]
            assert (given.fp32, given.reduced) == pytest.approx(tuple(values.mean(0)), abs=2e-4)
            assert (given.low, given.high) == pytest.approx((change.mean() - width, change.mean() + width), abs=2e-5)


def test_a_deterministic_model_has_no_diversity(held_out):
    report = report_on(noisy(1e-4), held_out, z_dim=0)
    assert report.samples == 1
    assert set(report.metrics) == {"psnr_best", "psnr_mean", "ssim_best", "ssim_mean"}
    assert "diversity" not in describe("fp16", report)[1]


def test_forecasts_that_are_not_finite_fail(held_out):
    with pytest.raises(PrecisionError, match="not finite"):
        report_on(lambda frames: frames * torch.nan, held_out)


def test_a_bundle_that_refuses_its_own_forecasts_fails_the_gate(held_out):
    def refuse(_):
        raise ForecastError("the forecast contains values that are not finite")

    with pytest.raises(PrecisionError, match="not finite\n  nothing was published") as caught:
        report_on(refuse, held_out)
    assert caught.value.exit_code == ExitCode.PARITY_FAILED


def test_the_gates_are_those_of_the_manifest(tiny_bundle):
    report = Bundle.open(tiny_bundle).manifest.variants["fp16"].quality
    assert report.min_first_step_psnr_db == 45
    assert {name: value.tolerance for name, value in report.metrics.items() if name != "diversity"} == {
        "psnr_best": 0.05, "psnr_mean": 0.05, "ssim_best": 0.001, "ssim_mean": 0.001,
    }  # fmt: skip
    diversity = report.metrics["diversity"]
    assert diversity.tolerance == pytest.approx(0.01 * diversity.fp32, abs=1e-6)


@pytest.fixture
def run_cli(svg_export, tmp_path, monkeypatch):
    """The command on few sequences."""
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "SEQUENCES", 4)
    return svg_export


def test_command_exports_precisions_that_pass_the_gate(tiny_checkpoint, tmp_path, run_cli):
    needs_precision("bf16")
    options = ("--no-fused", "--fp16", "--bf16", "--num-digits", "2", "--json", "s.json")
    code, messages = run_cli(str(tiny_checkpoint), *options)
    assert code == 0, messages
    assert "fp32, fp16, bf16 on 4 held-out sequences (digits: 2 procedural digits per scene, test scenes)" in messages
    manifest = Bundle.open(tmp_path / "tiny.svgb").manifest
    assert set(manifest.variants) == {"fp32", "fp16", "bf16"}
    assert sorted(path.name for path in (tmp_path / "tiny.svgb").iterdir()) == ["fp16", "fp32", "manifest.json"]
    summary = json.loads((tmp_path / "s.json").read_text())["variants"]
    for name, engine in (("fp16", "onnxruntime"), ("bf16", "openvino CPU:bf16")):
        report = manifest.variants[name].quality
        assert summary[name]["quality"] == json.loads(report.model_dump_json())
        assert report.computed_by.startswith(engine)
        assert 45 < report.divergence_psnr_db[0] < 119  # another precision indeed
        for line in describe(name, report):
            assert line in messages
    assert summary["fp32"]["quality"] is None
    assert manifest.variants["bf16"].quality.divergence_psnr_db[0] < manifest.variants["fp16"].quality.divergence_psnr_db[0]


def test_command_exits_3_without_a_folder_when_precision_is_lost(tiny_checkpoint, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(precision, "MIN_FIRST_STEP_PSNR_DB", 119.5)
    code, messages = run_cli(str(tiny_checkpoint), "--no-fused", "--fp16")
    assert code == 3, messages
    assert "fp16: the first forecast frame is" in messages
    assert "expected at least 119.5 dB\n  nothing was published; export without that precision" in messages
    assert list(tmp_path.glob("*.svgb")) == []


@pytest.fixture
def video_checkpoint(tmp_path):
    """A model of videos that do not exist."""
    return save_model(tmp_path / "video.pt", random_model(), data={"name": "video", "root": "gone/"})


def test_missing_held_out_data_that_is_named_is_refused_before_the_work(video_checkpoint, run_cli):
    code, messages = run_cli(str(video_checkpoint), "--fp16", "--data-root", "gone/")
    assert code == 2, messages
    assert "those of 'video' cannot be opened" in messages
    assert "give others with --data and --data-root, or remove --fp16 and --bf16" in messages
    assert "exporting" not in messages
    code, messages = run_cli(str(video_checkpoint), "--fp16", "--data", "video", "--num-digits", "2")
    assert (code, "--num-digits does not apply to the data 'video'" in messages) == (2, True), messages


@pytest.fixture
def reference_checkpoint(tmp_path):
    """As its owner has it: without the data that it was trained on."""
    return write_checkpoint(tmp_path / "reference.pth", build(nf=4), OldTorch(16), "zip")


@pytest.mark.slow
def test_without_data_a_reduced_precision_is_compared_with_fp32_alone(reference_checkpoint, tmp_path, run_cli):
    code, messages = run_cli("reference.pth", "--no-fused", "--half", "--json", "s 1.json", "--out", "reference.svgb")
    assert code == 0, messages
    assert "note: data 'kth' needs --data-root" in messages
    assert "fp32, fp16 on 16 drawn sequences" in messages
    assert "quality against the truth was not measured" in messages
    again = "svg-export reference.pth --out reference.svgb --fp16 --no-fused --json 's 1.json' --data kth --data-root DIR\n"
    assert f"measure and record it with: {again}" in messages  # all that was given
    assert "fp16 is used only where it is chosen by name" in messages
    manifest = Bundle.open(tmp_path / "reference.svgb").manifest
    report = manifest.variants["fp16"].divergence
    assert manifest.variants["fp16"].quality is None
    assert 45 < report.divergence_psnr_db[0] < 119  # another precision indeed
    assert (report.quality_against_truth, report.sequences, len(report.divergence_psnr_db)) == ("not measured", 16, HORIZON)
    assert report.diversity.fp32 > 0
    assert report.measure_with == "svg-export CHECKPOINT --fp16 --data kth --data-root DIR"  # no paths: the same bytes anywhere
    assert json.loads((tmp_path / "s 1.json").read_text())["variants"]["fp16"]["divergence"] == json.loads(
        report.model_dump_json()
    )
    assert nvidia_precision(manifest) == "fp32"
    with Forecaster.open(tmp_path / "reference.svgb", precision="fp16", backend="cpu") as named:
        assert "quality of fp16 against the truth was not measured" in named.description
    with Forecaster.open(tmp_path / "reference.svgb", backend="cpu") as chosen:
        assert "not measured" not in chosen.description


@pytest.mark.slow  # a default one beside it sees the options repeated
def test_the_command_that_measures_exports_the_same_model_and_bundle(tmp_path, run_cli):
    checkpoint = save_tiny("srvp", tmp_path / "srvp.pt")
    trained = load_checkpoint(checkpoint)
    gone = build_config(trained.config.model_dump(), {"data": {"name": "video", "root": "gone/"}})
    save_checkpoint(checkpoint, replace(trained, config=gone))
    options = "--fp16 --euler-steps 3 --server --server-horizon 1"
    code, messages = run_cli(checkpoint, "--out", "three.svgb", *options.split())
    assert code == 0, messages
    assert f"svg-export {checkpoint} --out three.svgb {options} --data video --data-root DIR\n" in messages
    report = Bundle.open(tmp_path / "three.svgb").manifest.variants["fp16"].divergence
    assert report.measure_with == "svg-export CHECKPOINT --fp16 --euler-steps 3 --data video --data-root DIR"


def test_the_manifest_names_a_file_of_settings_without_its_path(video_checkpoint):
    options = model_options(None, Path("/home/ada/model_param.json"))
    drawn = load_held_out(load_checkpoint(video_checkpoint), {}, fp16=True, bf16=False, model_options=options)
    assert drawn.measure_with == "svg-export CHECKPOINT --fp16 --model-config FILE --data video --data-root DIR"


def test_without_data_both_precisions_are_exported_and_can_be_evaluated(video_checkpoint, tmp_path, run_cli, capsys):
    """Of our own checkpoint, whose videos are gone."""
    needs_precision("bf16")
    code, messages = run_cli(str(video_checkpoint), "--no-fused", "--fp16", "--bf16")
    assert code == 0, messages
    assert "'gone" in messages
    assert f"svg-export {video_checkpoint} --fp16 --bf16 --no-fused --data video --data-root DIR" in messages
    manifest = Bundle.open(tmp_path / "video.svgb").manifest
    bf16, fp16 = (manifest.variants[name].divergence for name in ("bf16", "fp16"))
    assert bf16.computed_by == "openvino CPU:bf16"
    assert bf16.divergence_psnr_db[0] < fp16.divergence_psnr_db[0]
    evaluate(
        ["video.svgb", "--bf16", "--data", "digits", "--sequences", "2", "--samples", "2", "--horizon", "2"],
        standalone_mode=False,
    )
    shown = capsys.readouterr().out
    assert "measure and record it with: svg-export CHECKPOINT --fp16 --bf16 --data video --data-root DIR" in shown


def test_without_data_a_first_step_too_far_from_fp32_fails(tiny_checkpoint, tiny_bundle, monkeypatch):
    monkeypatch.setattr(precision, "MIN_FIRST_STEP_PSNR_DB", 119.5)
    config, bundle = load_checkpoint(tiny_checkpoint).config.model, Bundle.open(tiny_bundle)
    drawn = DrawnFrames(DrawnSequences(config, 3, 3 + HORIZON), "svg-export")
    with pytest.raises(PrecisionError) as caught:
        precision.attach_quality_reports(bundle.path, bundle.manifest, drawn, NullListener())
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "reduced precision is too far from fp32 on 3 drawn sequences:\n  fp16: the first forecast frame is" in message
    assert "export without that precision, or give held-out sequences with --data and --data-root" in message


@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 64), (1, 128), (3, 128)])
def test_drawn_frames_fit_the_model_and_are_always_the_same(channels, size):
    config = build_config({"model": {"channels": channels, "image_size": size}, "data": {"name": "video"}}).model
    first, again = (DrawnSequences(config, 3, 7) for _ in range(2))
    assert first[1].shape == (7, size, size, channels)
    assert first[1].dtype == np.uint8
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != first[2]).any()
    assert first[1].max() > 200
    assert (first[1][0] != first[1][1]).any()  # they move
    if channels == 3:
        assert (first[1][..., 0] != first[1][..., 1]).any()


def test_a_deterministic_model_on_drawn_frames_has_no_diversity():
    config = build_config({"model": {"n_past": 3}}).model
    drawn = DrawnFrames(DrawnSequences(config, 3, 3 + HORIZON), "svg-export")
    models = [Known(z_dim=0), Known(noisy(1e-4), z_dim=0)]
    (report,) = compare_drawn(models, ["a test"], drawn, NullListener())
    assert (report.samples, report.diversity) == (1, None)
    assert report.divergence_psnr_db == pytest.approx([80] * HORIZON, abs=0.1)
    assert "diversity" not in describe_unmeasured("fp16", report, "svg-export a.pth")[0]


def test_diversity_lost_on_drawn_frames_fails():
    config = build_config({"model": {"n_past": 3}}).model
    drawn = DrawnFrames(DrawnSequences(config, 4, 3 + HORIZON), "svg-export")
    shrunk = Known(lambda frames: frames.mean(1, keepdim=True) + 0.9 * (frames - frames.mean(1, keepdim=True)))
    (report,) = compare_drawn([Known(), shrunk], ["a test"], drawn, NullListener())
    assert any("diversity falls" in line for line in report.failures())


def test_held_out_data_can_be_named(video_checkpoint):
    named = find_held_out(load_checkpoint(video_checkpoint), {"name": "digits", "root": None, "num_digits": 2})
    assert named.name == "digits"
    assert "2 procedural" in named.data.description
    assert named.data[0].shape == (3 + HORIZON, 64, 64, 1)
    assert named.settings.sequences == precision.SEQUENCES


def test_too_little_data_is_refused(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("svg_train.data.digits.Digits.__len__", lambda self: 15)
    with pytest.raises(precision.SvgError, match="at least 16 of 13 frames, got 15 from digits"):
        find_held_out(load_checkpoint(tiny_checkpoint), {})


class NoBf16:
    """OpenVINO on a processor that cannot compute in bf16, which is not available here."""

    available_devices = ("CPU",)

    def get_property(self, device, name):
        return ["FP32", "INT8"]


def test_bf16_needs_a_machine_that_computes_in_it(tiny_checkpoint, run_cli, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")
    monkeypatch.setattr(openvino_device, "shared_core", NoBf16)
    code, messages = run_cli(str(tiny_checkpoint), "--bf16")
    assert code == 4, messages
    assert "device CPU cannot compute in bf16 here" in messages
    assert "export on a processor with bf16" in messages
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, messages = run_cli(str(tiny_checkpoint), "--bf16")
    assert (code, "svg-edge[openvino]" in messages) == (4, True), messages
    assert "exporting" not in messages


def test_the_report_is_the_same_every_time(tiny_checkpoint, tiny_bundle, tmp_path):
    loaded = load_checkpoint(tiny_checkpoint)
    bundle = Bundle.open(tiny_bundle)
    again = precision.attach_quality_reports(bundle.path, bundle.manifest, few_held_out(loaded), NullListener())
    assert again == bundle.manifest
    other = precision.attach_quality_reports(
        bundle.path, bundle.manifest, replace(few_held_out(loaded), sequences=2), NullListener()
    )
    assert other.variants["fp16"].quality.metrics != again.variants["fp16"].quality.metrics


def test_both_precisions_at_once_are_a_usage_error(tiny_bundle):
    with pytest.raises(UsageError, match="both --fp16 and --bf16"):
        evaluate([str(tiny_bundle), "--fp16", "--bf16"], standalone_mode=False)
