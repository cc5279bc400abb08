"""Post-processing of forecasts, against its formulas pixel by pixel in float64, and what it is for."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import NormalDist

import cv2
import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_runtime import Forecaster
from svg_runtime.forecast import scores
from svg_runtime.forecast.post_processing import PostProcessor, Settings
from svg_runtime.forecast.random_coefficients import draws
from svg_runtime.forecast.scores import Moments
from tests.svg_runtime.batch_helpers import open_batch, open_each, play

HEIGHT, WIDTH, CHANNELS = 17, 20, 3  # blocks of two pixels


class Stream:
    """A PostProcessor with the frames of one camera, in a row."""

    def __init__(self, post: PostProcessor | None = None) -> None:
        self.post = post or PostProcessor()
        self.index = -1

    def observe(self, frame: np.ndarray) -> None:
        self.index, self.last = self.index + 1, frame
        self.post.observe(self.index, frame)

    def correct(self, futures: np.ndarray) -> tuple[Moments, np.ndarray]:
        return self.post.correct(self.index, self.last, futures)

    def reset(self) -> None:
        self.post.reset()
        self.index = -1


def block_sum(plane: np.ndarray) -> np.ndarray:
    """Mean over the block of pixels around each, an eighth of the shorter side."""
    side = max(1, min(plane.shape) // 8)
    return cv2.blur(plane, (side, side))


class Formulas:
    """The equations of the module, with every sum written down, in float64."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.made: dict[int, tuple[np.ndarray, ...]] = {}  # last frame -> futures, what was usual, background
        self.learned: dict[int, list[tuple[np.ndarray, ...]]] = {}  # lead -> the four changes, truth, variance
        self.differences: dict[int, list[np.ndarray]] = {}  # lead -> of each forecast, from the coefficients of the mean
        self.weights: list[np.ndarray] = []  # (4, H, W) of each lead, of the last forecast

    def observe(self, frame: np.ndarray) -> None:
        self.frames.append(frame.astype(np.float64))
        now = len(self.frames) - 1
        for made, (futures, *usual) in self.made.items():
            lead = now - made
            if 1 <= lead <= futures.shape[1]:
                last, samples = self.frames[made], futures[:, lead - 1]
                variance = samples.var(0, ddof=1).mean(-1) * (1 + 1 / len(samples))
                there = samples.mean(0), usual[0], self.flow(made, lead), usual[1]
                changes, truth = [each - last for each in there], self.frames[now] - last
                self.learned.setdefault(lead, []).append((*changes, truth, variance))
                if lead <= len(self.weights):
                    usually = sum(w[..., None] * change for w, change in zip(self.weights[lead - 1], changes, strict=True))
                    self.differences.setdefault(lead, []).append(self.difference(changes, truth - usually))

    @staticmethod
    def difference(changes: list[np.ndarray], error: np.ndarray) -> np.ndarray:
        """(4,) by least squares over all pixels, and a prior of 0.005 ** 2."""
        columns = np.stack([each.ravel() for each in changes], 1) / error.size**0.5
        left = np.concatenate([columns, 0.005 * np.eye(len(changes))])
        return np.linalg.lstsq(left, np.append(error.ravel() / error.size**0.5, np.zeros(len(changes))), rcond=None)[0]

    def covariance(self, lead: int) -> np.ndarray:
        found = self.differences.get(lead, [])
        weights = 0.99 ** np.arange(len(found))[::-1]
        products = [w * np.outer(each, each) for w, each in zip(weights, found, strict=True)]
        return sum(products, np.zeros((4, 4))) / max(weights.sum(), 10)

    def usual(self, steps: int) -> np.ndarray:
        usual = self.frames[0]
        for number, frame in enumerate(self.frames[1:], 2):
            usual = usual + max(1 / number, 1 / steps) * (frame - usual)
        return usual

    def flow(self, number: int, lead: int) -> np.ndarray:
        last, before = (self.frames[max(each, 0)].astype(np.float32) for each in (number, number - 1))
        gray = [cv2.cvtColor(np.rint(255 * each).astype(np.uint8), cv2.COLOR_RGB2GRAY) for each in (last, before)]
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*gray, None)
        rows, columns = np.indices(last.shape[:2])
        steps = (1 - 0.8**lead) / (1 - 0.8)
        x, y = (columns + steps * flow[..., 0]).astype(np.float32), (rows + steps * flow[..., 1]).astype(np.float32)
        return cv2.remap(last, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float64)

    def correct(self, futures: np.ndarray) -> np.ndarray:
        index, futures = len(self.frames) - 1, futures.astype(np.float64)
        usual = self.usual(10), self.usual(50)
        self.made[index] = futures, *usual
        self.weights = []
        covariance = np.stack([self.covariance(lead) for lead in range(1, futures.shape[1] + 1)])
        deviations = futures - futures.mean(0)
        far = log_normal(deviations)
        own = draws(far, covariance, index)
        uneven = stretched(deviations, far)
        steps = [self._step(futures[:, t], uneven[:, t], usual, t + 1, own[:, t]) for t in range(futures.shape[1])]
        return np.stack(steps, 1).clip(0, 1)

    def _step(self, samples: np.ndarray, uneven: np.ndarray, usual, lead: int, own: np.ndarray) -> np.ndarray:
        last = self.frames[-1]
        pairs = self.learned.get(lead, [])
        weights = 0.99 ** np.arange(len(pairs))[::-1]

        def total(one, other) -> np.ndarray:
            zero = np.zeros(last.shape[:2])
            return block_sum(sum((w * (one(p) * other(p)).mean(-1) for w, p in zip(weights, pairs, strict=True)), zero))

        def part(k: int):
            return lambda p: p[k]

        regressors, truth = [part(k) for k in range(4)], part(4)
        variance = block_sum(sum((w * p[5] for w, p in zip(weights, pairs, strict=True)), np.zeros(last.shape[:2])))
        centre, own_changes, weights_here = np.empty_like(last), np.empty_like(samples), np.empty((4, *last.shape[:2]))
        b = np.empty(last.shape[:2])
        mean = samples.mean(0)
        there = mean, usual[0], self.flow(len(self.frames) - 1, lead), usual[1]
        matrix = np.array([[total(one, other) for other in regressors] for one in regressors])
        right, truth2 = np.array([total(one, truth) for one in regressors]), total(truth, truth)
        for i, j in np.ndindex(*last.shape[:2]):
            products, of_truth = matrix[:, :, i, j], right[:, i, j]
            priors = np.diag([0.02, 0.5, 0.05, 0.5])
            found = np.clip(np.linalg.solve(products + priors, np.add(of_truth, [0.02, 0, 0, 0])), 0, 1)
            error = truth2[i, j] - 2 * found @ of_truth + found @ products @ found
            b[i, j] = np.clip(np.sqrt((max(error, 0) + 0.03) / (variance[i, j] + 0.03)), 0.3, 3)
            changes = np.stack([each[i, j] - last[i, j] for each in there])
            centre[i, j] = last[i, j] + found @ changes
            own_changes[:, i, j] = own @ changes
            weights_here[:, i, j] = found
        self.weights.append(weights_here)
        # what a sample's own coefficients change is no wider than its deviations are there
        model = samples.var(0).mean(-1)
        share = np.sqrt(np.minimum(block_sum(b**2 * model) / (block_sum((own_changes**2).mean((0, -1))) + 1e-7), 1))
        # b times as wide as they were
        was, now = (cv2.blur(each, (3, 3)) for each in (model, (uneven**2).mean((0, -1))))
        wide = b * np.sqrt((was + 1e-7) / (now + 1e-7))
        result = centre + share[..., None] * own_changes + wide[..., None] * uneven
        colours = np.stack([*samples, last, *there[1:]])
        return result.clip(colours.min(0) - 0.15, colours.max(0) + 0.15)


def log_normal(deviations: np.ndarray) -> np.ndarray:
    """(S,) amplitudes with mean square 1 and 0.6 as the deviation of their logarithm, as samples of normal variables lie."""
    count = len(deviations)
    energy = (deviations**2).reshape(count, -1).sum(1)
    order = np.argsort(np.sqrt(energy / energy.mean()).round(4), kind="stable")
    result = np.empty(count)
    result[order] = np.exp(np.multiply(0.6, [NormalDist().inv_cdf((each + 0.5) / count) for each in range(count)]))
    return result / np.sqrt((result**2).mean())


def stretched(deviations: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    energy = (deviations**2).reshape(len(wanted), -1).sum(1)
    own = np.sqrt(energy / energy.mean())
    result = np.stack([each * np.clip(far / was, 1 / 3, 3) for each, far, was in zip(deviations, wanted, own, strict=True)])
    return result - result.mean(0)


def test_it_computes_its_formulas():
    """With frames that are not forecast, with other horizons and numbers of samples, and with a forecast made twice."""
    rng, ours, theirs = np.random.default_rng(0), Stream(), Formulas()
    base = rng.random((HEIGHT, WIDTH, CHANNELS))
    for step in range(30):
        frame = np.clip(base + 0.3 * rng.normal(size=base.shape) * (rng.random((HEIGHT, WIDTH, 1)) < 0.5), 0, 1).astype(
            np.float32
        )
        ours.observe(frame)
        theirs.observe(frame)
        for _ in range((0, 1, 1, 2)[step % 4]):
            shape = (2 + step % 3, 3 + step % 2, *frame.shape)
            futures = np.clip(frame + rng.uniform(0, 0.5) * rng.normal(size=shape), 0, 1).astype(np.float32)
            kept = futures.copy()
            before, corrected = ours.correct(futures)
            np.testing.assert_array_equal(futures, kept)
            np.testing.assert_allclose(before.mean, futures.mean(0), atol=1e-6)
            np.testing.assert_allclose(before.variance, futures.var(0), atol=1e-6)
            np.testing.assert_allclose(corrected, theirs.correct(futures), atol=2e-4)
    assert np.abs(corrected - futures).max() > 0.1


def test_nothing_changes_before_anything_is_known():
    """But for how unevenly far samples go: here there are two, which are always equally far from their mean."""
    rng, post = np.random.default_rng(1), Stream()
    futures = rng.random((2, 3, HEIGHT, WIDTH, CHANNELS), np.float32)
    for frame in rng.random((5, HEIGHT, WIDTH, CHANNELS), np.float32):
        post.observe(frame)
    np.testing.assert_allclose(post.correct(futures)[1], futures, atol=1e-6)
    post.observe(futures[0, 0])
    assert np.abs(post.correct(futures)[1] - futures).max() > 1e-3
    post.reset()
    post.observe(futures[0, 0])
    np.testing.assert_allclose(post.correct(futures)[1], futures, atol=1e-6)


def test_mean_and_spread_stay_before_anything_is_known():
    """Samples that are far from black and white, and from what limits values, become uneven and nothing else."""
    rng, post = np.random.default_rng(8), Stream()
    futures = (0.5 + 0.03 * rng.normal(size=(10, 3, HEIGHT, WIDTH, CHANNELS))).astype(np.float32)
    post.observe(np.full((HEIGHT, WIDTH, CHANNELS), 0.5, np.float32))
    before, corrected = post.correct(futures)
    np.testing.assert_allclose(corrected.mean(0), before.mean, atol=2e-3)
    np.testing.assert_allclose(corrected.var(0).mean((1, 2, 3)), before.variance.mean((1, 2, 3)), rtol=0.02)
    far = np.sqrt(((corrected - before.mean) ** 2).mean((1, 2, 3, 4)))
    assert far.max() > 3 * far.min()


def run(frames: np.ndarray, forecast) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared errors at lead 1 in the second half: of the model, post-processed, and of repeating."""
    post, errors, pending = Stream(), [], None
    for number, frame in enumerate(frames):
        if pending is not None:
            errors.append([((each - frame) ** 2).mean() for each in pending])
        post.observe(frame)
        before, corrected = post.correct(forecast(number))
        pending = before.mean[0], corrected[:, 0].mean(0), frame
    half = np.array(errors)[len(errors) // 2 :]
    return tuple(half.mean(0))


def test_what_flickers_becomes_what_is_usual():
    """Independent noise has twice its variance as the error of repeating, and 1.1 times that of the mean of the last second."""
    rng = np.random.default_rng(2)
    frames = np.clip(0.5 + 0.1 * rng.normal(size=(80, HEIGHT, WIDTH, CHANNELS)), 0, 1).astype(np.float32)

    def wrong(number: int) -> np.ndarray:
        return np.clip(frames[number] + 0.2 * rng.normal(size=(4, 2, *frames[0].shape)), 0, 1).astype(np.float32)

    model, post_processed, repeat = run(frames, wrong)
    assert post_processed < 0.75 * repeat < repeat < model


def test_what_glides_on_is_where_its_flow_takes_it():
    """A model that only repeats, before a scene that turns by two pixels a frame."""
    scene = cv2.GaussianBlur(np.random.default_rng(7).random((48, 260, 1)).astype(np.float32), (0, 0), 2)
    scene = (scene - scene.min()) / np.ptp(scene)
    frames = np.stack([scene[:, 2 * number : 2 * number + 64, None] for number in range(90)])
    model, post_processed, repeat = run(frames, lambda number: np.broadcast_to(frames[number], (3, 2, *frames[0].shape)))
    assert post_processed < 0.2 * repeat
    assert model == pytest.approx(repeat)


def test_a_model_that_is_right_is_left_alone():
    rng = np.random.default_rng(3)
    frames = rng.random((60, HEIGHT, WIDTH, CHANNELS), np.float32)
    truth = np.concatenate([frames[1:], frames[-1:]])

    def right(number: int) -> np.ndarray:
        return np.clip(truth[number] + 0.02 * rng.normal(size=(4, 1, *frames[0].shape)), 0, 1).astype(np.float32)

    model, post_processed, repeat = run(frames, right)
    assert post_processed < 1.1 * model < 0.01 * repeat


@pytest.mark.parametrize("given", [0.3, 0.1, 0.05, 0.01])
def test_spread_follows_errors(given):
    """Errors of 0.1 for longer than it remembers: what is too wide or too narrow becomes right, up to three times as wide."""
    rng, post, ratio = np.random.default_rng(4), Stream(PostProcessor(Settings(uneven=0))), 0.0
    for _ in range(300):
        frame = (0.5 + 0.1 * rng.normal(size=(16, 16, 1))).clip(0, 1).astype(np.float32)
        futures = 0.5 + given * rng.normal(size=(50, 1, 16, 16, 1))
        futures = (futures - futures.mean(0) + 0.5).astype(np.float32)
        post.observe(frame)
        before, corrected = post.correct(futures)
        inside = np.abs(futures - 0.5) < 0.4  # clipping to [0, 1] changes the rest
        ratio = float(np.abs(corrected - corrected.mean(0))[inside].mean() / np.abs(futures - before.mean)[inside].mean())
    steps, prior = 100, 0.03
    right = ((steps * 0.1**2 + prior) / (steps * given**2 + prior)) ** 0.5
    assert ratio == pytest.approx(min(right, 3), rel=0.1)


def test_after_a_cut_nothing_is_pulled_back_to_the_old_scene():
    """A flickering scene, of which a model is wrong; then another, as when a light goes on, and the first one again."""
    rng, post = np.random.default_rng(9), Stream()
    scenes = [np.full((HEIGHT, WIDTH, CHANNELS), value, np.float32) for value in (0.3, 0.8, 0.3)]
    for scene in scenes:
        for number in range(40):
            post.observe(np.clip(scene + 0.03 * rng.normal(size=scene.shape), 0, 1).astype(np.float32))
            futures = np.clip(post.last + 0.03 * rng.normal(size=(4, 3, *scene.shape)), 0, 1).astype(np.float32)
            corrected = post.correct(futures)[1]
            assert np.abs(corrected.mean((0, 2, 3, 4)) - post.last.mean()).max() < 0.02
            wrong = [float(((each.mean(0) - scene) ** 2).mean()) for each in (corrected, futures)]
            assert number < 30 or wrong[0] < wrong[1]  # it has learned


def test_noise_that_comes_to_stay_is_no_cut_for_long():
    rng, post = np.random.default_rng(9), Stream()
    scene, errors = np.full((HEIGHT, WIDTH, CHANNELS), 0.5, np.float32), []
    for number in range(120):
        noise = 0.005 if number < 40 else 0.1
        post.observe((scene + noise * rng.normal(size=scene.shape)).astype(np.float32))
        futures = np.broadcast_to(post.last, (2, 3, *scene.shape))
        errors.append([float(((each.mean(0) - scene) ** 2).mean()) for each in (post.correct(futures)[1], futures)])
    corrected, model = np.mean(errors[-20:], axis=0)
    assert corrected < 0.5 * model


def test_a_single_frame_of_another_scene_leaves_nothing_behind():
    scene, other = (np.full((HEIGHT, WIDTH, CHANNELS), value, np.float32) for value in (0.3, 0.8))
    post = Stream()
    for number in range(30):
        post.observe(other if number == 20 else scene)
        corrected = post.correct(np.broadcast_to(post.last, (2, 3, *scene.shape)))[1]
        np.testing.assert_allclose(corrected, np.broadcast_to(post.last, corrected.shape), atol=1e-3)


def test_the_forecasts_of_a_deterministic_model_stay_equal():
    rng, post = np.random.default_rng(5), Stream()
    for frame in rng.random((9, HEIGHT, WIDTH, CHANNELS), np.float32):
        post.observe(frame)
        _, corrected = post.correct(np.repeat(rng.random((1, 2, *frame.shape), np.float32), 3, axis=0))
        assert np.ptp(corrected, axis=0).max() < 1e-6
    _, alone = post.correct(rng.random((1, 2, *frame.shape), np.float32))
    assert np.isfinite(alone).all()


def test_one_sample_says_nothing_of_the_spread():
    """After a minute of single samples, which cannot differ, those of the next forecast are not spread further by b."""
    rng, stream = np.random.default_rng(6), Stream(PostProcessor(Settings(varied=0)))
    for _ in range(600):
        stream.observe((0.5 + 0.1 * rng.normal(size=(16, 16, 1))).clip(0, 1).astype(np.float32))
        stream.correct(np.full((1, 1, 16, 16, 1), 0.5, np.float32))
    futures = (0.5 + 0.02 * rng.normal(size=(8, 1, 16, 16, 1))).astype(np.float32)
    _, corrected = stream.correct(futures)
    assert corrected.std(0).mean() == pytest.approx(futures.std(0).mean(), rel=0.1)


def test_old_forecasts_give_way_to_new_ones(monkeypatch):
    """What is remembered is bounded, whatever the horizon."""
    frame = np.zeros((HEIGHT, WIDTH, CHANNELS), np.float32)
    futures = np.zeros((2, 50, *frame.shape), np.float32)
    monkeypatch.setattr(scores, "_MEMORY_LIMIT", 3 * HEIGHT * WIDTH * 4 * (50 * (CHANNELS + 1) + 2 * CHANNELS + 2))
    post = Stream()
    for _ in range(10):
        post.observe(frame)
        post.correct(futures)
    assert len(post.post._pending) == 3


def test_the_forecaster_post_processes(tiny_bundle, frames):
    """As a PostProcessor does by hand; scores are those of what is given out, beside that of the model."""
    by_hand = Stream()
    options = {"samples": 3, "horizon": 2, "seed": 1}
    with Forecaster.open(tiny_bundle, **options) as plain, Forecaster.open(tiny_bundle, **options, post_process=True) as post:
        for _ in range(2):
            changed, made = 0.0, None
            for frame in np.concatenate([frames, frames[::-1]]):
                raw, seen = plain.observe(frame), post.observe(frame)
                by_hand.observe(frame)
                assert seen.surprise == raw.surprise
                assert (seen.expected is None) == (raw.expected is None)
                if raw.expected is not None:
                    np.testing.assert_allclose(seen.expected.by_model().mean, raw.expected.mean(), atol=1e-6)
                    np.testing.assert_allclose(seen.expected.by_model().variance, raw.expected.variance(), atol=1e-6)
                    np.testing.assert_array_equal(seen.expected.samples, made[:, 0])
                assert [score.mse_model for score in seen.scores] == pytest.approx([score.mse_mean for score in raw.scores])
                if made is not None:
                    assert seen.scores[0].mse_mean == pytest.approx(float(((made[:, 0].mean(0) - frame) ** 2).mean()), rel=1e-4)
                if plain.ready:
                    futures, made = plain.forecast(), post.forecast()
                    np.testing.assert_allclose(made, by_hand.correct(futures)[1], atol=1e-6)
                    changed = max(changed, float(np.abs(made - futures).max()))
            assert changed > 0.01
            for each in (plain, post, by_hand):
                each.reset()


def test_every_camera_of_a_batch_is_post_processed_by_itself(tiny_bundle):
    with open_batch(tiny_bundle, post_process=True) as batch, ExitStack() as stack:
        assert play(batch, open_each(tiny_bundle, stack, post_process=True), seed=3, rounds=20) > 1


def test_it_takes_scores(tiny_bundle):
    for post_process in (True, [False, True, False]):
        with pytest.raises(UsageError, match="expected scored=True"):
            open_batch(tiny_bundle, post_process=post_process, scored=False)


def test_each_camera_of_a_batch_decides_for_itself(tiny_bundle):
    chosen = [False, True, False]
    with open_batch(tiny_bundle, post_process=chosen) as batch, ExitStack() as stack:
        plain, post = (open_each(tiny_bundle, stack, post_process=each) for each in (False, True))
        assert play(batch, [(plain, post)[each][camera] for camera, each in enumerate(chosen)], seed=3, rounds=20) > 1
    with pytest.raises(UsageError, match="expected one for each of 3 cameras"):
        open_batch(tiny_bundle, post_process=[True])
