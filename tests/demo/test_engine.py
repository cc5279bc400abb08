"""What the page computes, against Python: forecasts, surprise, synthetic pictures, fitted frames, noise."""

from __future__ import annotations

import base64
import os
import re
from typing import Any

import cv2
import numpy as np
import pytest
from playwright import sync_api

from benchmarks.browser_demo import served
from svg_common.digits import BouncingDigits, draw_digit
from svg_common.frames import fit_frame
from svg_runtime.bundle.reader import EMBEDDED_MODEL
from tests.forecast_case import ForecastCase

# Numbers travel as base64: as JSON, a picture takes seconds.
BYTES = """
const encoded = (numbers) => {
  const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
};
const decoded = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
"""
FORECAST = """async ({ model, provider, given }) => {
  const { Engine } = await import("/engine.js");
  for (const name of ["frames", "noise", "contextNoise"]) given[name] = decoded(given[name]);
  const engine = await Engine.open({ model, provider, surpriseNoise: given.surpriseNoise });
  const { channels, height, width } = engine.manifest.frame;
  const length = channels * height * width;
  const surprises = [];
  for (let at = 0; at < given.frames.length; at += length) {
    surprises.push((await engine.observe(given.frames.slice(at, at + length))).surprise);
  }
  const { data } = await engine.forecast(given);
  engine.close();
  return { futures: encoded(data), surprises, device: engine.device };
}"""


def encode(numbers: Any) -> str:
    return base64.b64encode(np.asarray(numbers, "<f4").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def run(tab, program: str, argument: Any = None) -> Any:
    """Run `program`, an arrow function that may use `encoded` and `decoded`."""
    return tab.evaluate(f"async (argument) => {{ {BYTES} return ({program})(argument); }}", argument)


@pytest.fixture(scope="module")
def tab(browser, address):
    """A page of the site's origin in which nothing runs yet."""
    opened = browser.new_page()
    opened.goto(f"{address}/ort/LICENSE.txt")
    yield opened
    opened.close()


def compare(tab, model: str, provider: str, **counts: int) -> str:
    case = ForecastCase.of(EMBEDDED_MODEL.with_name(f"{model}.svgb"), **counts)
    given = case.given | {name: encode(case.given[name]) for name in ("frames", "noise", "contextNoise")}
    answer = run(tab, FORECAST, {"model": model, "provider": provider, "given": given})
    case.compare(answer | {"futures": decode(answer["futures"])})
    return answer["device"]


@pytest.mark.parametrize("model", ["digits", "camera"])
def test_frames_and_surprises_are_those_of_the_forecaster(tab, model):
    assert compare(tab, model, "wasm") == "WASM, 1 thread"


def test_so_they_are_with_threads_which_need_headers(browser, site):
    with served(site, isolated=True) as address:
        tab = browser.new_page()
        tab.goto(f"{address}/index.html?source=file")  # waits for a file
        expected = r"WASM, [2-4] threads" if (os.cpu_count() or 1) > 1 else "WASM, 1 thread"
        assert re.fullmatch(expected, compare(tab, "digits", "wasm"))
        tab.close()


@pytest.fixture(scope="module")
def gpu_browser(launch, address):
    """With WebGPU; in software, where Chromium has no GPU: slow."""
    browser = launch("--enable-unsafe-webgpu", gpu=True)
    tab = browser.new_page()
    tab.goto(f"{address}/ort/LICENSE.txt")
    if not tab.evaluate("async () => Boolean(navigator.gpu && await navigator.gpu.requestAdapter())"):
        pytest.skip("this Chromium has no WebGPU adapter")
    return browser


@pytest.mark.slow
def test_so_they_are_on_webgpu(gpu_browser, address):
    tab = gpu_browser.new_page()
    tab.goto(f"{address}/ort/LICENSE.txt")
    assert compare(tab, "digits", "webgpu", samples=1, horizon=2, more=0).startswith("WebGPU")


@pytest.mark.slow
def test_a_model_whose_frames_are_wrong_on_webgpu_runs_on_wasm(gpu_browser, address):
    """Convolutions of 15 channels are wrong in onnxruntime-web 1.30.0, which the camera model begins with."""
    tab = gpu_browser.new_page()

    def any_adapter(route) -> None:  # automatic takes none that is made of software
        code = route.fetch().text().replace("!adapter.info?.isFallbackAdapter", "true")
        route.fulfill(body=code, content_type="text/javascript")

    tab.route("**/engine.js", any_adapter)
    tab.goto(f"{address}/?model=camera&samples=1&horizon=2")
    device = tab.locator("#device")
    sync_api.expect(device).to_contain_text("WASM, 1 thread (WebGPU failed: WebGPU computes wrong frames", timeout=120_000)
    tab.close()


def test_other_samples_come_from_another_seed_and_the_same_again_after_a_reset(tab):
    case = ForecastCase.of(EMBEDDED_MODEL)
    program = """async (given) => {
      const { Engine } = await import("/engine.js");
      const frames = decoded(given);
      const futures = [];
      for (const seed of [1, 2]) {
        const engine = await Engine.open({ model: "digits", provider: "wasm", seed });
        for (let run = 0; run < 2; run++) {
          for (let i = 0; i < 5; i++) await engine.observe(frames.slice(i * 4096, (i + 1) * 4096));
          futures.push(...(await engine.forecast({ samples: 2, horizon: 2 })).data);
          await engine.reset();
        }
        engine.close();
      }
      return encoded(futures);
    }"""
    (first, again), (other, _) = decode(run(tab, program, encode(case.given["frames"]))).reshape(2, 2, 2, 2, 64, 64)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    assert np.abs(first[0] - first[1]).max() > 0.05


def test_wrong_calls_are_refused_and_the_model_goes_on(tab):
    program = """async () => {
      const { Engine } = await import("/engine.js");
      const engine = await Engine.open({ model: "digits", provider: "wasm" });
      const answers = [];
      const note = (text) => answers.push(text);
      const expectRefusal = (promise) => promise.then(() => note("accepted"), (error) => note(error.message));
      await expectRefusal(engine.forecast({ samples: 1, horizon: 1 }));
      await expectRefusal(engine.observe(new Float32Array(3)));
      await expectRefusal(engine.observe(new Float32Array(4096).fill(NaN)));
      for (let i = 0; i < 5; i++) await engine.observe(new Float32Array(4096));
      await expectRefusal(engine.forecast({ samples: 1, horizon: 1, noise: [0] }));
      await expectRefusal(engine.forecast({ samples: 0, horizon: 1 }));
      await expectRefusal(engine.forecast({ samples: 1, horizon: 1.5 }));
      await expectRefusal(engine.forecast({ samples: 65537, horizon: 1 }));
      await expectRefusal(engine.forecast({ samples: 1, horizon: 1 }));
      engine.close();
      return answers;
    }"""
    expected = [
        "0 of 5 frames observed",
        "has 3 numbers; expected 1 x 64 x 64",
        "outside of [0, 1]",
        "noise has 1 numbers; expected 10",
        "samples is 0; expected a whole number from 1 to 65536",
        "horizon is 1.5; expected a whole number from 1 to 65536",
        "samples is 65537; expected a whole number from 1 to 65536",
    ]
    *refusals, last = run(tab, program)
    assert [part in text for part, text in zip(expected, refusals, strict=True)] == [True] * 7
    assert last == "accepted"


class RecordedRng:
    """A NumPy generator that writes down what it draws, one number at a time."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.drawn: list[float] = []

    def _record(self, values: Any) -> Any:
        self.drawn += np.ravel(values).astype(float).tolist()
        return values

    def uniform(self, *arguments: Any) -> Any:
        return self._record(self._rng.uniform(*arguments))

    def normal(self, *arguments: Any) -> Any:
        return self._record(self._rng.normal(*arguments))

    def integers(self, *arguments: Any) -> Any:
        return self._record(self._rng.integers(*arguments))


def test_the_synthetic_camera_draws_what_python_draws(tab):
    """All ten digits, each in flight with bounces, from the same random numbers."""
    rng, images, flights = RecordedRng(4), [], []
    for digit in range(10):
        assert rng.integers(digit, digit + 1) == digit  # a stream draws which digit first
        images.append(draw_digit(rng, digit))
        video = BouncingDigits(rng, images[-1:])
        flights.append([video.step() for _ in range(30)])
    program = """async (drawn) => {
      const { DigitStream } = await import("/digits.js");
      const tables = await (await fetch("/shared.json")).json();
      let at = 0;
      const next = () => drawn[at++];
      const rng = { uniform: next, normal: next, integers: next };
      const flights = [];
      for (let digit = 0; digit < 10; digit++) {
        const stream = new DigitStream(tables, rng);
        for (let i = 0; i < 30; i++) flights.push(...stream.step());
      }
      return { flights: encoded(flights), used: at };
    }"""
    answer = run(tab, program, rng.drawn)
    assert answer["used"] == len(rng.drawn)
    np.testing.assert_allclose(decode(answer["flights"]).reshape(10, 30, 64, 64), flights, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(256, 320), (512, 512), (130, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_fitted_as_python_fits_them(tab, height, width, channels):
    rng = np.random.default_rng(2)
    picture = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    program = """async ({ pixels, height, width, channels }) => {
      const { fitFrame } = await import("/pictures.js");
      const canvas = new OffscreenCanvas(width, height);
      const image = new ImageData(Uint8ClampedArray.from(decoded(pixels)), width, height);
      canvas.getContext("2d").putImageData(image, 0, 0);
      return encoded(fitFrame({ image: canvas, width, height }, { channels, height: 64, width: 64 }));
    }"""
    pixels = np.dstack([picture, np.full((height, width), 255, np.uint8)])
    frame = run(tab, program, {"pixels": encode(pixels), "height": height, "width": width, "channels": channels})
    expected = fit_frame(picture, 64, 64, channels).astype(np.float32).transpose(2, 0, 1) / 255
    assert np.abs(decode(frame).reshape(channels, 64, 64) - expected).max() <= 2.01 / 255


def test_noise_is_standard_normal_and_that_of_its_seed(tab):
    program = """async () => {
      const { NoiseSource } = await import("/noise.mjs");
      return [0, 0, 1, 2 ** 40].map((seed) => encoded(new NoiseSource(seed).normal(20001)));
    }"""
    draws = np.array([decode(text) for text in run(tab, program)], np.float64)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws.mean(1)).max() < 0.03
    assert np.abs(draws.std(1) - 1).max() < 0.02
    assert np.abs((draws**4).mean(1) - 3).max() < 0.25
    assert np.abs(np.corrcoef(draws[1:])[np.triu_indices(3, 1)]).max() < 0.03
    assert np.abs(np.corrcoef(draws[0, :-1], draws[0, 1:])[0, 1]) < 0.03  # the two of a pair are independent
