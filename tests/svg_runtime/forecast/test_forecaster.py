"""The Forecaster's promises to its caller: seeds, shapes, refusals, and results that stay as they were returned."""

from __future__ import annotations

import gc
import itertools
import weakref
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from svg_common.errors import ExitCode, SvgError
from svg_runtime import BatchForecaster, Forecaster
from svg_runtime.backends.host_arrays import HostArrays
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, EMBEDDED_MODEL, Bundle
from svg_runtime.errors import (
    BackendError,
    BackendMissingError,
    BundleError,
    ContextNotReadyError,
    ForecastError,
    FrameError,
    UsageError,
)
from svg_runtime.forecast import opening
from svg_runtime.forecast.separate_rollout import SeparateRollout
from svg_runtime.machine.hardware import usable_cores
from tests.sample import sampled
from tests.svg_runtime.batch_helpers import random_frame
from tests.svg_runtime.bundle_helpers import copy_bundle, draw, edit_manifest, graph_bytes, replace_graph

N_PAST, Z = 3, 4  # of tiny_bundle


def open_tiny(bundle, frames=(), **options) -> Forecaster:
    """A forecaster (3 samples, 4 frames) that has observed `frames`."""
    forecaster = Forecaster.open(bundle, **{"backend": "cpu", "samples": 3, "horizon": 4, **options})
    for frame in frames:
        forecaster.observe(frame)
    return forecaster


def test_forecast_is_float32_frames_by_sample_and_step(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames) as forecaster:
        futures = forecaster.forecast()
    assert futures.shape == (3, 4, 64, 64, 1)
    assert futures.dtype == np.float32
    assert futures.min() >= 0
    assert futures.max() <= 1
    assert futures.std(axis=0).max() > 1e-3  # samples part
    assert np.abs(np.diff(futures, axis=1)).max() > 1e-3  # and move


def test_forecast_before_n_past_frames_is_refused(tiny_bundle, frames):
    with open_tiny(tiny_bundle) as forecaster:
        for seen in range(N_PAST):
            assert not forecaster.ready
            with pytest.raises(ContextNotReadyError, match=f"{seen} of {N_PAST} frames.*\n.*{N_PAST - seen} more"):
                forecaster.forecast()
            assert forecaster.observe(frames[seen]).index == seen
        assert forecaster.ready
        forecaster.forecast()


def test_samples_do_not_depend_on_each_other(tiny_bundle, frames):
    noise, context_noise = draw(0, 4, 5, Z), draw(1, N_PAST - 1, 5, Z)
    with open_tiny(tiny_bundle, frames) as forecaster:
        together = forecaster.forecast(samples=5, noise=noise, context_noise=context_noise)
        turned = forecaster.forecast(samples=5, noise=noise[:, ::-1], context_noise=context_noise[:, ::-1])
        np.testing.assert_allclose(turned[::-1], together, atol=2e-6)
        for row in range(5):
            one = slice(row, row + 1)
            alone = forecaster.forecast(samples=1, noise=noise[:, one], context_noise=context_noise[:, one])
            np.testing.assert_allclose(alone[0], together[row], atol=2e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(tiny_bundle, frames):
    noise, context_noise = draw(0, 7, 3, Z), draw(1, N_PAST - 1, 3, Z)
    with open_tiny(tiny_bundle, frames) as forecaster:
        longest = forecaster.forecast(horizon=7, noise=noise, context_noise=context_noise)
        for horizon in (1, 2, 3, 5, 6):  # more shapes than the forecaster keeps buffers for
            given = forecaster.forecast(horizon=horizon, noise=noise[:horizon], context_noise=context_noise)
            np.testing.assert_array_equal(given, longest[:, :horizon])
        np.testing.assert_array_equal(forecaster.forecast(horizon=7, noise=noise, context_noise=context_noise), longest)


def test_buffers_of_old_shapes_are_freed(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames) as forecaster:
        for horizon in range(1, 20):
            forecaster.forecast(samples=1, horizon=horizon)
        gc.collect()
        assert sum(type(thing) is SeparateRollout for thing in gc.get_objects()) <= 5


def test_samples_and_horizon_can_be_chosen_per_forecast(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames) as forecaster:
        assert forecaster.forecast(samples=2, horizon=6).shape == (2, 6, 64, 64, 1)
        assert forecaster.forecast(horizon=np.int64(1)).shape == (3, 1, 64, 64, 1)
        assert forecaster.forecast().shape == (3, 4, 64, 64, 1)


@pytest.mark.parametrize("seed", [0, 1, np.int64(7)])
def test_the_same_seed_gives_the_same_forecasts(tiny_bundle, frames, seed):
    with open_tiny(tiny_bundle, frames, seed=seed) as a, open_tiny(tiny_bundle, frames, seed=seed) as b:
        first, second = a.forecast(), a.forecast()
        np.testing.assert_array_equal(first, b.forecast())
        np.testing.assert_array_equal(second, b.forecast())
        assert np.abs(first - second).max() > 1e-4  # a second forecast uses new draws
        a.reset()
        for frame in frames:
            a.observe(frame)
        np.testing.assert_array_equal(a.forecast(), first)


def test_another_seed_gives_other_forecasts(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames, seed=0) as a, open_tiny(tiny_bundle, frames, seed=1) as b:
        assert np.abs(a.forecast() - b.forecast()).max() > 1e-4


def test_seeded_noise_is_drawn_for_the_context_and_then_for_the_future(tiny_bundle, frames):
    rng = np.random.default_rng(9)
    context_noise = rng.standard_normal((N_PAST - 1, 3, Z), np.float32)
    noise = rng.standard_normal((4, 3, Z), np.float32)
    with open_tiny(tiny_bundle, frames, seed=9) as forecaster:
        drawn = forecaster.forecast()
        np.testing.assert_array_equal(forecaster.forecast(noise=noise, context_noise=context_noise), drawn)


BAD_NOISE = {
    "horizon": {"noise": np.zeros((3, 3, Z))},
    "samples": {"noise": np.zeros((4, 2, Z))},
    "z_dim": {"noise": np.zeros((4, 3, Z + 1))},
    "flat": {"noise": np.zeros(4 * 3 * Z)},
    "scalar": {"noise": 0.0},
    "nan": {"noise": np.full((4, 3, Z), np.nan)},
    "overflow": {"noise": np.full((4, 3, Z), 1e300)},
    "text": {"noise": "noise"},
    "complex": {"noise": np.zeros((4, 3, Z), complex)},
    "ragged": {"noise": [[0.0], [0.0, 1.0]]},
    "context": {"context_noise": np.zeros((N_PAST, 3, Z))},
    "context inf": {"context_noise": np.full((N_PAST - 1, 3, Z), np.inf)},
    "good context": {"context_noise": np.zeros((N_PAST - 1, 3, Z)), "noise": np.zeros((4, 3))},
}


@pytest.mark.parametrize("case", BAD_NOISE)
def test_noise_that_does_not_fit_is_refused_and_changes_nothing(tiny_bundle, frames, case):
    with open_tiny(tiny_bundle, frames) as forecaster, open_tiny(tiny_bundle, frames) as twin:
        with pytest.raises(UsageError, match="noise"):
            forecaster.forecast(**BAD_NOISE[case])
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


def test_noise_that_is_not_finite_is_refused_with_what_is_expected(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames) as forecaster, pytest.raises(UsageError) as refused:
        forecaster.forecast(**BAD_NOISE["nan"])
    expected = f"expected standard normal draws, of shape {(4, 3, Z)}"
    assert str(refused.value) == f"noise contains values that are not finite\n  {expected}"


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True, 10**12])
@pytest.mark.parametrize("name", ["samples", "horizon"])
def test_impossible_counts_are_refused(tiny_bundle, frames, name, count):
    with pytest.raises(UsageError, match=name):
        open_tiny(tiny_bundle, **{name: count})
    with open_tiny(tiny_bundle, frames) as forecaster, pytest.raises(UsageError, match=name):
        forecaster.forecast(**{name: count})


def test_counts_that_exceed_memory_are_usage_errors(tiny_bundle, frames, monkeypatch):
    with open_tiny(tiny_bundle, frames) as forecaster:
        before = forecaster.forecast(noise=draw(0, 4, 3, Z), context_noise=draw(1, 2, 3, Z))
        with monkeypatch.context() as patch:
            patch.setattr(np, "zeros", lambda *_: exec("raise MemoryError"))
            with pytest.raises(UsageError, match="memory"):
                forecaster.forecast(samples=60000)
        after = forecaster.forecast(noise=draw(0, 4, 3, Z), context_noise=draw(1, 2, 3, Z))
        np.testing.assert_array_equal(after, before)


def wrong_value(value):
    def change(frame):
        frame = frame.copy()
        frame[5, 5, 0] = value
        return frame

    return change


BAD_FRAMES = {
    "height": lambda frame: frame[:-1],
    "transposed": lambda frame: np.moveaxis(frame, -1, 0),
    "colour": lambda frame: np.repeat(frame, 3, axis=-1),
    "no channel": lambda frame: frame[..., 0],
    "batch": lambda frame: frame[None],
    "empty": lambda frame: frame[:0],
    "requires a gradient": lambda frame: pytest.importorskip("torch").from_numpy(frame).requires_grad_(),
    "uint8": lambda frame: (frame * 255).astype(np.uint8),
    "float64": lambda frame: frame.astype(np.float64),
    "float16": lambda frame: frame.astype(np.float16),
    "text": lambda frame: "frame",
    "none": lambda frame: None,
    "ragged": lambda frame: [[0.0], [0.0, 1.0]],
    "nan": wrong_value(np.nan),
    "inf": wrong_value(np.inf),
    "above": wrong_value(1.0011),
    "below": wrong_value(-0.0011),
    "255": wrong_value(255.0),
    "0 to 255": lambda frame: frame * 255,
}


@pytest.mark.parametrize(
    ("case", "context"),
    sampled(
        itertools.product(BAD_FRAMES, ("window", "stream")), [*((case, "window") for case in BAD_FRAMES), ("nan", "stream")]
    ),
)
def test_a_bad_frame_is_refused_and_not_observed(tiny_bundle, frames, case, context):
    forecaster, twin = (open_tiny(tiny_bundle, frames[:5], context=context) for _ in range(2))
    with forecaster, twin:
        forecaster.forecast()
        twin.forecast()
        with pytest.raises(FrameError, match=r"expected \(64, 64, 1\) float32 in \[0, 1\]"):
            forecaster.observe(BAD_FRAMES[case](frames[5]))
        assert forecaster.observe(frames[6]) == twin.observe(frames[6])
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


@pytest.mark.parametrize(("value", "as_read"), [(1.0000001, 1.0), (1.001, 1.0), (-1e-9, 0.0), (-0.001, 0.0)])
def test_rounding_beyond_the_range_is_clipped(tiny_bundle, frames, value, as_read):
    with open_tiny(tiny_bundle, frames[:5]) as forecaster, open_tiny(tiny_bundle, frames[:5]) as twin:
        rounded, exact = (wrong_value(number)(frames[5]) for number in (value, as_read))
        before = rounded.copy()
        assert forecaster.observe(rounded) == twin.observe(exact)
        np.testing.assert_array_equal(rounded, before)
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


def test_a_resized_white_picture_is_observed(tiny_bundle):
    white = cv2.resize(np.ones((97, 131), np.float32), (64, 64), interpolation=cv2.INTER_LANCZOS4)[..., None]
    with open_tiny(tiny_bundle) as forecaster:
        assert forecaster.observe(white).index == 0


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("uint8", " / 255"), ("int64", " / 255"), ("uint16", " / 65535"), ("bool", ""), ("float16", ""), (">f4", "")],
)
def test_pixels_of_every_type_get_the_conversion_that_makes_a_frame(tiny_bundle, dtype, advice):
    white = (np.ones((64, 64, 1)) * {"uint8": 255, "int64": 255, "uint16": 65535}.get(dtype, 1)).astype(dtype)
    with open_tiny(tiny_bundle) as forecaster:
        with pytest.raises(FrameError) as refused:
            forecaster.observe(white)
        conversion = str(refused.value).partition("convert with ")[2]
        assert conversion == f"frame.astype('float32'){advice}"
        assert forecaster.observe(eval(conversion, {"frame": white})).index == 0


def test_what_is_masked_is_not_read(tiny_bundle, frames):
    hidden = np.ma.array(frames[5], mask=False)
    hidden[3, 4] = np.ma.masked
    with open_tiny(tiny_bundle, frames[:5]) as forecaster, open_tiny(tiny_bundle, frames[:5]) as twin:
        with pytest.raises(FrameError, match=r"1 of its values are masked; fill them first(.|\n)*expected \(64, 64, 1\)"):
            forecaster.observe(hidden)
        for truth in ([hidden, frames[6]], np.ma.stack([hidden, hidden])):
            with pytest.raises(FrameError, match="masked"):
                forecaster.reconstruct(truth)
        with pytest.raises(UsageError, match="masked"):
            forecaster.forecast(samples=2, horizon=3, noise=np.ma.masked_all((3, 2, 4), np.float32))
        assert forecaster.observe(np.ma.array(frames[5])) == twin.observe(frames[5])
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


@pytest.mark.parametrize(
    ("name", "context", "owner", "call"),
    [
        ("tiny", "window", BoundSession, "run"),
        ("predrnn", "stream", BoundSession, "run"),
        ("predrnn", "window", BoundSession, "run"),
        ("srvp", "window", BoundSession, "run"),
        ("ensemble", "window", BoundSession, "run"),
        ("predrnn", "stream", HostArrays, "read"),  # where a GPU reports that a run has failed
        ("predrnn", "window", HostArrays, "read"),
        ("ensemble", "window", HostArrays, "read"),
    ],
)
def test_a_frame_that_an_engine_failed_on_has_not_been_read(
    tiny_bundle, family_bundle, monkeypatch, name, context, owner, call
):
    """Whichever of its calls fails: the next forecasts are those without it, and the same frame can be given again."""
    bundle = tiny_bundle if name == "tiny" else family_bundle(name)
    options = {"context": context, "post_process": True, "samples": 2, "horizon": 2}
    rng, works = np.random.default_rng(0), getattr(owner, call)
    with open_tiny(bundle, **options) as forecaster, open_tiny(bundle, **options) as twin:
        for _ in range(twin.manifest.generation.n_past - 1):
            frame = random_frame(twin, rng)
            assert forecaster.observe(frame) == twin.observe(frame)
        for failing in itertools.count():
            frame, calls, failed = random_frame(twin, rng), itertools.count(), False

            def fail_once(*arguments, failing=failing, calls=calls):
                if next(calls) == failing:
                    raise BackendError("broken")
                return works(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(owner, call, fail_once)
                try:
                    seen = forecaster.observe(frame)
                except BackendError:
                    failed = True
            if failed:
                assert forecaster.ready == twin.ready
                if twin.ready:
                    np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())
                seen = forecaster.observe(frame)
            assert seen == twin.observe(frame)
            np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())
            if not failed:
                break
    assert failing > 0


def test_a_stream_context_that_an_engine_failed_on_needs_a_reset(tiny_bundle, frames, monkeypatch):
    def fail(*_):
        raise BackendError("broken")

    with open_tiny(tiny_bundle, context="stream") as forecaster, open_tiny(tiny_bundle, context="stream") as twin:
        for frame in frames[:N_PAST]:
            forecaster.observe(frame)
        with monkeypatch.context() as patch:
            patch.setattr(SeparateRollout, "advance", fail)
            with pytest.raises(BackendError, match="broken"):
                forecaster.observe(frames[N_PAST])
        for call in (lambda: forecaster.observe(frames[N_PAST]), forecaster.forecast):
            with pytest.raises(BackendError, match="the stream context was lost when an engine failed"):
                call()
        forecaster.reset()
        for frame in frames[:N_PAST]:
            assert forecaster.observe(frame) == twin.observe(frame)
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


def test_bad_frames_do_not_make_a_forecaster_ready(tiny_bundle, frames):
    with open_tiny(tiny_bundle) as forecaster:
        for _ in range(N_PAST):
            with pytest.raises(FrameError):
                forecaster.observe(np.zeros((2, 2, 1), np.float32))
        assert not forecaster.ready
        assert forecaster.observe(frames[0]).index == 0


def test_frames_may_have_any_memory_layout(tiny_bundle, frames):
    with open_tiny(tiny_bundle) as forecaster, open_tiny(tiny_bundle) as twin:
        for frame in frames:
            wide = np.zeros((64, 128, 1), np.float32)
            wide[:, ::2] = frame
            forecaster.observe(wide[:, ::2])
            fortran = np.asfortranarray(frame)
            fortran.setflags(write=False)
            twin.observe(fortran)
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())


def test_equal_frames_give_equal_bits_in_any_memory_layout(tiny_bundle, frames):
    """Sums of float32 depend on their order, and numpy adds in the order of memory."""
    with open_tiny(tiny_bundle) as forecaster, open_tiny(tiny_bundle) as twin:
        for frame in frames:
            layouts = np.ascontiguousarray(frame), np.asfortranarray(frame)
            assert forecaster.observe(layouts[0]) == twin.observe(layouts[1])
            for each in (forecaster, twin):
                if each.ready:
                    each.forecast()


@pytest.mark.parametrize("path", ["digits", Path("digits")])
def test_a_model_of_the_package_opens_by_its_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Forecaster.open(path, backend="cpu", threads=1, samples=1, horizon=1) as forecaster:
        assert forecaster.manifest == Bundle.open(EMBEDDED_MODEL).manifest
    with BatchForecaster.open(path, cameras=2, backend="cpu", threads=1, samples=1, horizon=1) as batch:
        assert batch.manifest == forecaster.manifest


def test_the_callers_frame_may_change_after_observe(tiny_bundle, frames):
    with open_tiny(tiny_bundle) as forecaster, open_tiny(tiny_bundle, frames[:5]) as twin:
        buffer = np.empty_like(frames[0])
        for frame in frames[:5]:
            buffer[:] = frame
            forecaster.observe(buffer)
            buffer[:] = 0.5
        np.testing.assert_array_equal(forecaster.forecast(), twin.forecast())
        assert forecaster.observe(frames[5]).scores == twin.observe(frames[5]).scores


def test_results_belong_to_the_caller(tiny_bundle, frames):
    with open_tiny(tiny_bundle, frames[:4]) as forecaster, open_tiny(tiny_bundle, frames[:4]) as twin:
        first = forecaster.forecast()
        kept = first.copy()
        np.testing.assert_array_equal(twin.forecast(), first)
        for frame in frames[4:6]:
            forecaster.observe(frame)
            twin.observe(frame)
            forecaster.forecast()
            twin.forecast()
        np.testing.assert_array_equal(first, kept)  # later forecasts reuse the device's buffers, not these
        latest = forecaster.forecast()
        twin.forecast()
        first[:] = latest[:] = 0.0  # and what the caller does to them changes no score
        assert forecaster.observe(frames[6]).scores == twin.observe(frames[6]).scores


def test_fp16_runs_and_stays_close_to_fp32(tiny_bundle, frames):
    noise, context_noise = draw(0, 4, 3, Z), draw(1, N_PAST - 1, 3, Z)
    results = {}
    for precision in ("fp32", "fp16"):
        with open_tiny(tiny_bundle, frames, precision=precision) as forecaster:
            assert precision in forecaster.description
            results[precision] = forecaster.forecast(noise=noise, context_noise=context_noise)
    difference = np.abs(results["fp32"] - results["fp16"])
    assert results["fp16"].dtype == np.float32
    assert 1e-6 < difference.max() < 1e-2  # rounded to half precision, and rightly so


def test_precision_defaults_to_what_is_faster_on_the_backend(tiny_bundle):
    with open_tiny(tiny_bundle) as forecaster:
        assert "fp32" in forecaster.description


def test_a_bundle_without_fp16_is_refused_with_the_export_command(tiny_bundle, tmp_path):
    bundle = edit_manifest(copy_bundle(tiny_bundle, tmp_path), lambda manifest: manifest["variants"].pop("fp16"))
    with pytest.raises(BackendMissingError, match=r"no fp16 variant, only fp32\n.*svg-export ckpt.pt --fp16") as caught:
        open_tiny(bundle, precision="fp16")
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "gpu"},
        {"backend": ""},
        {"precision": "int8"},
        {"threads": 0},
        {"threads": "2"},
        {"threads": 1.5},
        {"threads": True},
        {"threads": 10_000},
        {"context": "past"},
        {"seed": -1},
        {"seed": None},
        {"seed": "a"},
        {"seed": True},
        {"post_process": "no"},
        {"post_process": 1},
        {"post_process": None},
        {"gpu": "cuda"},
        {"fused": "yes"},
        {"fused": 1},
        {"fused": np.array([True, False])},
        {"shuffled": "no"},
        {"shuffled": 0},
        {"progress": 3},
        {"progress": 0},
        {"progress": print},
        {"backend": "auto", "calibrate": ["no"]},
        {"backend": "auto", "calibrate": False},
    ],
)
def test_invalid_options_are_usage_errors(tiny_bundle, options):
    with pytest.raises(UsageError, match="expected") as caught:
        open_tiny(tiny_bundle, **options)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.fixture
def unopened(monkeypatch) -> None:
    """No backend may be opened: its engines might be built for minutes, and `auto` would measure all of them."""

    def refuse(**options):
        raise AssertionError("a backend was opened")

    monkeypatch.setattr(opening, "open_backend", refuse)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("backend", [{"backend": "tensorrt"}, {"backend": "auto", "calibrate": "again"}])
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("srvp-skips", {"seed": -1}, "seed is -1"),
        ("srvp-skips", {"seed": 1.5}, r"seed is 1\.5"),
        ("srvp-skips", {"context": "windows"}, "unknown context 'windows'"),
        ("srvp-skips", {"context": "stream"}, "'srvp' read windows of frames, and have no stream context"),
        ("ensemble", {"context": "stream"}, "'ensemble' read windows of frames, and have no stream context"),
        ("ensemble", {"fused": False}, "models of this family have fused graphs only"),
    ],
)
def test_what_needs_no_engine_is_refused_before_one_is_opened(family_bundle, backend, name, options, message):
    bundle = family_bundle(name)
    with pytest.raises((UsageError, BackendMissingError), match=message):
        Forecaster.open(bundle, **backend, **options)
    if "fused" not in options:
        with pytest.raises(UsageError, match=message):
            BatchForecaster.open(bundle, 2, **backend, **options)


@pytest.mark.usefixtures("unopened")
def test_fused_graphs_that_were_left_out_are_missed_before_a_backend_is_opened(tiny_bundle):
    with pytest.raises(BackendMissingError, match="the bundle has no fused graphs"):
        Forecaster.open(tiny_bundle, backend="tensorrt", fused=True)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_rounding_takes_no_frame_out_of_its_range(backend):
    with Forecaster.open(EMBEDDED_FOLDER / "camera.svgb", backend=backend, samples=4, horizon=4) as forecaster:
        rng = np.random.default_rng(0)
        white = np.where(rng.random((64, 64, 3)) < 0.5, 1.0, rng.random((64, 64, 3))).astype(np.float32)
        for shift in range(forecaster.manifest.generation.n_past + 1):
            forecaster.observe(np.roll(white, shift, axis=1))
        futures = forecaster.forecast()
    assert futures.min() >= 0
    assert futures.max() <= 1


@pytest.mark.parametrize("path", [None, 7, b"model.svgb"])
def test_what_is_no_path_is_a_usage_error(path):
    with pytest.raises(UsageError, match=r"a bundle's path is .*\n  expected a \*\.svgb folder, or an address"):
        Forecaster.open(path)


@pytest.mark.parametrize("counts", [[3], 3, [(1, 2, 3)], [(1, 0)], [("a", 2)]])
def test_counts_to_warm_up_for_are_pairs_of_counts(tiny_bundle, counts):
    with open_tiny(tiny_bundle) as forecaster, pytest.raises(UsageError, match="expected"):
        forecaster.warm_up(counts)


@pytest.mark.parametrize("backend", ["cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt"])
def test_a_missing_backend_is_never_replaced(tiny_bundle, backend):
    with pytest.raises(SvgError, match=f"^the {backend} backend") as caught:
        open_tiny(tiny_bundle, backend=backend, device="cuda:99")
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_auto_reports_the_chosen_backend(tiny_bundle):
    with open_tiny(tiny_bundle, backend="auto") as forecaster:
        assert forecaster.description.startswith("cpu (ONNX Runtime")


def test_a_missing_bundle_is_refused_with_the_export_command(tmp_path):
    with pytest.raises(BundleError, match=r"no such bundle: .*\n.*svg-export"):
        open_tiny(tmp_path / "nothing.svgb")


@pytest.mark.parametrize("context", ["window", "stream"])
def test_a_closed_forecaster_refuses_every_use(tiny_bundle, frames, context):
    with open_tiny(tiny_bundle, frames, context=context) as forecaster:
        forecaster.forecast()
    for use in (
        lambda: forecaster.observe(frames[0]),
        forecaster.forecast,
        lambda: forecaster.forecast(samples=1, horizon=1),
        forecaster.reset,
        lambda: forecaster.ready,
    ):
        with pytest.raises(UsageError, match="closed"):
            use()
    forecaster.close()  # again: nothing happens


@pytest.mark.parametrize("context", ["window", "stream"])
def test_closing_frees_the_sessions(tiny_bundle, frames, context):
    forecaster = open_tiny(tiny_bundle, frames, context=context)
    forecaster.forecast()
    sessions = [weakref.ref(session) for session in forecaster._backend._sessions.values()]
    assert len(sessions) == 6
    forecaster.close()
    gc.collect()
    assert not any(session() for session in sessions)


@pytest.mark.parametrize(("threads", "expected"), [(None, usable_cores()), (1, 1), (3, 3)])
def test_sessions_use_the_requested_threads(tiny_bundle, threads, expected, monkeypatch):
    monkeypatch.setattr("svg_runtime.backends.onnxruntime.cpu.usable_cores", usable_cores)
    with open_tiny(tiny_bundle, threads=threads) as forecaster:
        options = [session.get_session_options() for session in forecaster._backend._sessions.values()]
    assert {option.intra_op_num_threads for option in options} == {expected}


def recorded(method, calls):
    def record(*args):
        calls.append((method.__name__, args[0]))
        return method(*args)

    return record


@pytest.mark.parametrize("fused", [False, True])
def test_no_step_of_a_forecast_copies_state_or_binds_anything(fused_bundle, frames, fused, monkeypatch):
    """Recurrent state (2 * layers, samples, 24) is touched as often for ten frames as for one: to start from the context."""
    touched = []
    with open_tiny(fused_bundle, frames, fused=fused) as forecaster:
        backend = forecaster._backend
        for horizon in (1, 10):
            forecaster.forecast(horizon=horizon)  # makes the buffers
            calls = []
            with monkeypatch.context() as patch:
                for verb in ("allocate", "bind", "write", "read"):
                    patch.setattr(backend, verb, recorded(getattr(backend, verb), calls))
                forecaster.forecast(horizon=horizon)
            assert {method for method, _ in calls} == {"write", "read"}
            touched.append(sum(buffer.ndim == 3 and buffer.shape[-1] == 24 for _, buffer in calls))
    assert touched[0] == touched[1]


def test_forecasters_in_one_process_do_not_interfere(tiny_bundle, frames):
    with open_tiny(tiny_bundle, seed=1) as a, open_tiny(tiny_bundle, seed=2, context="stream", precision="fp16") as b:
        for frame, other in zip(frames, frames[::-1], strict=True):  # interleaved
            a.observe(frame)
            b.observe(other)
            together = (a.forecast(), b.forecast()) if a.ready else None
    for index, options in enumerate(({"seed": 1}, {"seed": 2, "context": "stream", "precision": "fp16"})):
        with open_tiny(tiny_bundle, **options) as alone:
            for frame in frames[:: 1 - 2 * index]:
                alone.observe(frame)
                result = alone.forecast() if alone.ready else None
        np.testing.assert_array_equal(result, together[index])


@pytest.fixture
def nan_bundle(fused_bundle, tmp_path):
    """Make a bundle whose weights of one graph are NaN, with right hashes."""

    def make(*graph_names: str):
        bundle = copy_bundle(fused_bundle, tmp_path)
        for graph_name in graph_names:
            model = onnx.load_from_string(graph_bytes(bundle, graph_name))
            for tensor in model.graph.initializer:
                if tensor.data_type == onnx.TensorProto.FLOAT:
                    values = np.full(tuple(tensor.dims), np.nan, np.float32)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            replace_graph(bundle, graph_name, model.SerializeToString())
        return bundle

    return make


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("context", ["window", "stream"])
def test_frames_that_are_not_finite_are_a_named_error(nan_bundle, frames, fused, context):
    bundle = nan_bundle("decoder", "step")
    with Forecaster.open(bundle, backend="cpu", samples=2, horizon=2, fused=fused, context=context) as forecaster:
        forecaster.warm_up()  # black frames do not decide whether a model works
        for frame in frames[:3]:
            forecaster.observe(frame)
        with pytest.raises(ForecastError, match="the forecast contains values that are not finite"):
            forecaster.forecast()
        assert forecaster.observe(frames[3]).scores == ()  # nothing was remembered
        if context == "window":
            with pytest.raises(ForecastError, match="not finite"):
                forecaster.reconstruct(frames[4:6])


def test_a_surprise_that_is_not_finite_is_a_named_error(nan_bundle, frames):
    with Forecaster.open(nan_bundle("prior"), backend="cpu", samples=2, horizon=2) as forecaster:
        forecaster.warm_up()
        forecaster.observe(frames[0])
        with pytest.raises(ForecastError, match="the surprise is not a finite number"):
            forecaster.observe(frames[1])
        forecaster.reset()
        assert forecaster.observe(frames[0]).index == 0
