"""Several cameras in one batch give what a Forecaster of each gives, whatever the others do; and what is refused."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from svg_runtime import BatchForecaster
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bundle.reader import EMBEDDED_FOLDER
from svg_runtime.errors import BackendError, CamerasError, ContextNotReadyError, FrameError, UsageError
from svg_runtime.forecast import batch as batch_module
from svg_runtime.forecast.model import LoadedModel
from svg_runtime.forecast.observer import FrameEncoder
from svg_runtime.forecast.separate_rollout import SeparateRollout
from tests.families import SAMPLE
from tests.sample import sampled
from tests.svg_runtime.batch_helpers import CAMERAS, HORIZON, SAMPLES, SEED, check, open_batch, open_each, random_frame
from tests.svg_runtime.bundle_helpers import draw

FAMILIES = ("spatial", "srvp", "srvp-skips", "ensemble", "predrnn", "mim", "e3d-lstm")


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("graphs", ["separate", "fused"])
def test_each_camera_of_svg_is_as_if_alone(tiny_bundle, fused_bundle, graphs, context):
    check({"separate": tiny_bundle, "fused": fused_bundle}[graphs], context=context)


@pytest.mark.parametrize("context", ["window", "stream"])
def test_each_camera_is_as_if_alone_without_a_learned_prior_or_without_latents(unlearned_bundle, context):
    check(unlearned_bundle, context=context)


@pytest.mark.parametrize("name", sampled(FAMILIES, SAMPLE))
def test_each_camera_of_other_families_is_as_if_alone(family_bundle, name):
    check(family_bundle(name))


def test_each_camera_of_a_frame_model_that_reads_windows_is_as_if_alone(family_bundle):
    check(family_bundle("predrnn"), context="window")


@pytest.mark.parametrize(
    ("threads", "cameras", "name"),
    sampled(
        [(*sizes, name) for sizes in ((2, 1), (2, 3), (3, 4)) for name in ("digits", "camera")],
        [(2, 1, "digits"), (2, 3, "digits"), (3, 4, "digits"), (2, 3, "camera")],
    ),
)
def test_each_camera_is_as_if_alone_however_lanes_share_the_work(name, threads, cameras):
    check(EMBEDDED_FOLDER / f"{name}.svgb", rounds=14, threads=threads, cameras=cameras, samples=3)


def test_each_camera_in_a_stream_is_as_if_alone_in_lanes(tiny_bundle):
    check(tiny_bundle, threads=2, context="stream")


@pytest.mark.parametrize("threads", [2, 6])
def test_openvino_runs_in_lanes(tiny_bundle, threads):
    pytest.importorskip("openvino")
    check(tiny_bundle, rounds=8, threads=threads, backend="openvino", device="CPU:f32")


def test_more_futures_than_at_first_and_noise_of_its_own(tiny_bundle):
    rng = np.random.default_rng(0)
    with open_batch(tiny_bundle, threads=2) as batch, ExitStack() as stack:
        each = open_each(tiny_bundle, stack)
        for _ in range(4):
            frames = [random_frame(batch, rng) for _ in each]
            batch.observe(dict(enumerate(frames)))
            for forecaster, frame in zip(each, frames, strict=True):
                forecaster.observe(frame)
        noise, past = draw(0, HORIZON, 5, 4), draw(1, 2, 5, 4)
        futures = batch.forecast([2, 0], samples=5, noise={0: noise}, context_noise={2: past})
        assert list(futures) == [2, 0]
        np.testing.assert_allclose(futures[0], each[0].forecast(samples=5, noise=noise), atol=1e-5)
        np.testing.assert_allclose(futures[2], each[2].forecast(samples=5, context_noise=past), atol=1e-5)
        np.testing.assert_allclose(batch.forecast([0])[0], each[0].forecast(), atol=1e-5)


def test_a_camera_keeps_the_seed_that_it_is_reset_with(tiny_bundle):
    rng = np.random.default_rng(3)
    with open_batch(tiny_bundle) as batch, ExitStack() as stack:
        each = open_each(tiny_bundle, stack)  # camera 2 has the seed SEED + 2
        batch.reset(0, seed=SEED + 2)
        for _ in range(2):
            for _ in range(3):
                frames = dict.fromkeys((0, 1), random_frame(batch, rng))
                batch.observe(frames)
                for forecaster in each:
                    forecaster.observe(frames[0])
            futures = batch.forecast([0, 1])
            np.testing.assert_allclose(futures[0], each[2].forecast(), atol=1e-5)
            np.testing.assert_allclose(futures[1], each[1].forecast(), atol=1e-5)
            batch.reset()
            for forecaster in each:
                forecaster.reset()


@pytest.fixture
def pair(tiny_bundle, request):
    """Two batches that have seen the same: one to disturb, and one to compare it with; options are the parameter."""
    rng, options = np.random.default_rng(1), getattr(request, "param", {})
    with open_batch(tiny_bundle, **options) as disturbed, open_batch(tiny_bundle, **options) as untouched:
        for _ in range(3):
            frames = {camera: random_frame(disturbed, rng) for camera in range(CAMERAS)}
            disturbed.observe(frames)
            untouched.observe(frames)
        yield disturbed, untouched


def assert_goes_on_as(disturbed: BatchForecaster, untouched: BatchForecaster) -> None:
    rng, every = np.random.default_rng(2), range(CAMERAS)
    for _ in range(2):
        frames = {camera: random_frame(disturbed, rng) for camera in every}
        given, expected = (batch.observe(frames) for batch in (disturbed, untouched))
        assert given == expected
        given_futures, expected_futures = (batch.forecast(every) for batch in (disturbed, untouched))
        for camera in every:
            np.testing.assert_array_equal(given_futures[camera], expected_futures[camera])


GOOD = np.zeros((64, 64, 1), np.float32)
BAD_CALLS = {
    "no such camera": (UsageError, "camera 3", lambda batch: batch.observe({0: GOOD, 3: GOOD})),
    "negative": (UsageError, "camera -1", lambda batch: batch.forecast([0, -1])),
    "a name": (UsageError, "camera 'left'", lambda batch: batch.observe({0: GOOD, "left": GOOD})),
    "a truth value": (UsageError, "camera True", lambda batch: batch.forecast([True])),
    "one number": (UsageError, "a list of cameras", lambda batch: batch.forecast(0)),
    "a list of frames": (UsageError, "a dictionary of frames", lambda batch: batch.observe([GOOD])),
    "noise of all": (UsageError, "a dictionary of arrays", lambda batch: batch.forecast([0], noise=np.zeros((2, 2, 4)))),
    "context noise of all": (
        UsageError,
        "a dictionary of arrays",
        lambda batch: batch.forecast([0], context_noise=np.zeros((2, 2, 4))),
    ),
    "twice": (UsageError, "at most once", lambda batch: batch.forecast([0, 0])),
    "shape": (FrameError, "camera 1: .*shape", lambda batch: batch.observe({0: GOOD, 1: GOOD[1:]})),
    "nan": (FrameError, "camera 2: ", lambda batch: batch.observe({0: GOOD, 2: GOOD * np.nan})),
    "samples": (UsageError, "samples", lambda batch: batch.forecast([0], samples=0)),
    "noise": (UsageError, "noise of camera 1", lambda batch: batch.forecast([0, 1], noise={1: np.zeros((1, 2, 4))})),
    "noise of another": (UsageError, "camera 2", lambda batch: batch.forecast([0], noise={2: np.zeros((2, 2, 4))})),
    "ready": (UsageError, "camera 9", lambda batch: batch.ready(9)),
    "reset": (UsageError, "camera 9", lambda batch: batch.reset(9)),
    "a seed for all": (UsageError, "for all cameras together", lambda batch: batch.reset(seed=7)),
    "no seed": (UsageError, "seed is -1", lambda batch: batch.reset(1, seed=-1)),
    "a seed for none": (UsageError, "camera 9", lambda batch: batch.reset(9, seed=7)),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_what_is_refused_changes_no_camera(pair, name):
    error, message, call = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call(pair[0])
    assert_goes_on_as(*pair)


def test_a_forecast_with_a_camera_that_is_not_ready_is_refused_and_changes_nothing(pair):
    for batch in pair:
        batch.reset(1)
        batch.observe({1: GOOD})
    with pytest.raises(ContextNotReadyError, match=r"camera 1: 1 of 3 frames.*\n.*2 more"):
        pair[0].forecast([0, 1])
    for batch in pair:
        batch.observe({1: GOOD})
    assert_goes_on_as(*pair)


@pytest.mark.parametrize(
    ("pair", "broken"),
    [
        ({"post_process": True}, (FrameEncoder, "make_condition")),
        ({"post_process": True, "context": "stream"}, (SeparateRollout, "advance")),
    ],
    indirect=["pair"],
)
def test_an_engine_that_fails_while_it_reads_frames_changes_no_camera_of_its_batch(pair, broken, monkeypatch):
    def fail(*_):
        raise BackendError("broken")

    for batch in pair:
        batch.forecast(range(CAMERAS))
    with monkeypatch.context() as patch:
        patch.setattr(*broken, fail)
        with pytest.raises(BackendError, match="broken"):
            pair[0].observe(dict.fromkeys(range(CAMERAS), GOOD))
    assert_goes_on_as(*pair)


def test_a_window_that_an_engine_left_half_read_is_not_read_again_for_a_forecast(family_bundle, monkeypatch):
    runs, works = [], BoundSession.run

    def run(self):
        runs.append(self.graph_name)
        if len(runs) == failing:
            raise BackendError("broken")
        works(self)

    with open_batch(family_bundle("predrnn"), context="window") as batch:
        frames = dict.fromkeys(range(CAMERAS), random_frame(batch, np.random.default_rng(0)))
        for _ in range(batch.manifest.generation.n_past):
            batch.observe(frames)
        monkeypatch.setattr(BoundSession, "run", run)
        failing = 0
        batch.forecast(range(CAMERAS))
        usual = list(runs)
        runs.clear()
        failing = 2
        with pytest.raises(BackendError, match="broken"):
            batch.observe(frames)
        assert len(runs) == failing
        runs.clear()
        failing = 0
        batch.forecast(range(CAMERAS))
        assert runs == usual


def test_futures_that_do_not_fit_into_memory_are_refused_and_change_nothing(pair, monkeypatch):
    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "zeros", fail)
        with pytest.raises(UsageError, match="60 samples of 2 frames of 3 cameras do not fit"):
            pair[0].forecast(range(CAMERAS), samples=60)
    assert_goes_on_as(*pair)


def test_values_that_are_not_finite_keep_nothing_from_the_other_cameras(pair):
    huge = np.full((HORIZON, SAMPLES, 4), 3e38)
    zeros = {camera: np.zeros((HORIZON, SAMPLES, 4)) for camera in range(CAMERAS)}
    with np.errstate(all="ignore"), pytest.raises(CamerasError, match=r"camera 1: .*not finite") as caught:
        pair[0].forecast(range(CAMERAS), noise={**zeros, 1: huge})
    expected = pair[1].forecast(range(CAMERAS), noise=zeros)
    assert list(caught.value.failed) == [1]
    assert list(caught.value.results) == [0, 2]
    for camera, futures in caught.value.results.items():
        np.testing.assert_array_equal(futures, expected[camera])
    seen = pair[0].observe(dict.fromkeys(range(CAMERAS), GOOD))
    assert [len(seen[camera].scores) for camera in range(CAMERAS)] == [1, 0, 1]


@pytest.mark.parametrize("cameras", [0, -1, 1.5, "2", 10**9])
def test_impossible_numbers_of_cameras_are_refused(tiny_bundle, cameras):
    with pytest.raises(UsageError, match="cameras"):
        open_batch(tiny_bundle, cameras)


@pytest.mark.parametrize(
    ("post_process", "shown"), [(0, "0"), (None, "None"), ("no", "'no'"), ([True, False, "no"], "'no'"), ([1, 0, 1], "1")]
)
def test_post_processing_is_true_or_false(tiny_bundle, post_process, shown):
    with pytest.raises(UsageError, match=rf"^post_process is {shown}\n  expected True or False$"):
        open_batch(tiny_bundle, post_process=post_process)


@pytest.mark.parametrize("options", [{"scored": "no"}, {"scored": 0}, {"progress": 3}, {"progress": 0}])
def test_other_options_are_checked_as_those_of_a_forecaster(tiny_bundle, options):
    with pytest.raises(UsageError, match=f"^{next(iter(options))} is "):
        open_batch(tiny_bundle, **options)


def test_a_seed_that_is_none_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="seed"):
        open_batch(tiny_bundle, seed="one")


def test_lanes_are_no_more_than_cameras_or_threads(tiny_bundle):
    for threads, cameras, words in [(8, 2, "in 2 lanes"), (2, 3, "in 2 lanes"), (1, 3, "in one batch")]:
        with open_batch(tiny_bundle, cameras, threads=threads) as batch:
            assert batch.description.endswith(f"{cameras} cameras {words}")


def test_a_deterministic_model_has_batches_of_as_many_futures_as_others(family_bundle, monkeypatch):
    """It computes one future of each camera, however many samples that is repeated for."""
    bound, make = [], batch_module.CameraGroup

    def make_seen(model, size, samples):
        bound.append(size)
        return make(model, size, samples)

    monkeypatch.setattr(batch_module, "CameraGroup", make_seen)
    with open_batch(family_bundle("predrnn"), 8, threads=2, samples=8) as batch:
        frame = random_frame(batch, np.random.default_rng(0))
        batch.observe(dict.fromkeys(range(8), frame))
    assert bound == [4, 4]  # once for each lane


@pytest.mark.parametrize("name", ["srvp-skips", "ensemble"])
def test_what_reads_windows_alone_has_no_stream(family_bundle, name):
    with pytest.raises(UsageError, match="no stream context"):
        open_batch(family_bundle(name), context="stream")


def test_a_stream_has_as_many_samples_as_at_first(tiny_bundle):
    with open_batch(tiny_bundle, context="stream") as batch:
        for _ in range(3):
            batch.observe({0: GOOD})
        with pytest.raises(UsageError, match="already been read with 2 samples"):
            batch.forecast([0], samples=3)


@pytest.mark.parametrize("given", [np.zeros((2, SAMPLES, 4)), {0: np.zeros((2, SAMPLES, 4))}], ids=["of all", "of one"])
def test_a_stream_takes_no_noise_of_its_context(tiny_bundle, given):
    with open_batch(tiny_bundle, context="stream") as batch:
        for _ in range(3):
            batch.observe({0: GOOD})
        with pytest.raises(UsageError, match=r"already been read with 2 samples\n  expected .*no context_noise"):
            batch.forecast([0], context_noise=given)


def test_nothing_can_be_used_after_the_end(tiny_bundle):
    batch = open_batch(tiny_bundle, threads=2)
    batch.close()
    batch.close()
    calls = [
        lambda: batch.observe({}), lambda: batch.forecast([]), lambda: batch.ready(0), batch.reset, batch.warm_up,
        lambda: batch.surprise_unit,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError, match="closed"):
            call()


def test_warming_up_binds_all_and_leaves_nothing(tiny_bundle, monkeypatch):
    with open_batch(tiny_bundle, 4) as batch, open_batch(tiny_bundle, 4) as cold:
        batch.warm_up()
        assert batch.observe({0: GOOD}) == cold.observe({0: GOOD})
        monkeypatch.setattr(batch_module, "CameraGroup", None)  # nothing is bound any more
        for due in ([0, 1, 2, 3], [0, 1, 2], [0, 3], [0, 1, 2, 3]):
            batch.observe(dict.fromkeys(due, GOOD))
        assert list(batch.forecast([3, 1, 0])) == [3, 1, 0]


def test_warming_up_keeps_several_counts_ready_in_lanes(tiny_bundle, monkeypatch):
    """A lane has them for whole cameras, and for its share of the samples of those that are left over."""
    counts = [(6, 1), (4, 1), (2, 1)]
    with open_batch(tiny_bundle, 3, threads=2) as batch:
        batch.warm_up(counts)
        for _ in range(3):
            batch.observe(dict.fromkeys(range(3), GOOD))
        monkeypatch.setattr(LoadedModel, "make_rollout", None)  # nothing is bound any more
        for samples, horizon in [(SAMPLES, HORIZON), *counts]:
            for due in ([0], [1, 2], [0, 1, 2]):
                assert list(batch.forecast(due, samples, horizon)) == due


def test_it_says_what_it_runs_on(tiny_bundle):
    with open_batch(tiny_bundle) as batch:
        assert batch.backend == "cpu"
        assert batch.surprise_unit == "nats"
        assert batch.description.endswith("3 cameras in one batch")
        assert (batch.samples, batch.horizon, batch.context) == (SAMPLES, HORIZON, "window")
        assert batch.manifest.generation.n_past == 3
        assert batch.observe({}) == batch.forecast([]) == {}
