"""Forecasts per second of docs/demo/ in Chromium:
`python -m benchmarks.browser_demo [--model digits] [--isolated] [--pictures DIR]`

Builds the page, serves it with plain files, and measures with 2 samples of 10 steps:

    as fast as possible   observe + forecast for every picture, in the page's worker
    on the page           the rate that the running page shows, which is at most that of the camera, 10 per second

With the digits model and WASM at least 5 forecasts per second are asked for: prints met or MISSED, and then ends with exit
code 1. --pictures takes the screenshots of docs/demo.md instead. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.page_pictures import CHROMIUM, CHROMIUM_ARGUMENTS, SIZES, reduce_colors
from docs.demo.build import build
from svg_runtime.machine.hardware import hardware

SAMPLES, HORIZON = 2, 10
GOAL_PER_S = 5.0
LOOP = """async ({ model, provider, samples, horizon, rounds }) => {
  const { Engine } = await import("/engine.js");
  const { DigitStream, Rng } = await import("/digits.js");
  const engine = await Engine.open({ model, provider });
  const { channels } = engine.manifest.frame;
  const stream = new DigitStream(await (await fetch("/shared.json")).json(), new Rng(0));
  const times = [];
  for (let i = 0; i < rounds + engine.manifest.generation.n_past + 2; i++) {
    const gray = [...stream.step()];
    const frame = Float32Array.from(Array(channels).fill(gray).flat());
    const start = performance.now();
    await engine.observe(frame);
    if (i < engine.manifest.generation.n_past - 1) continue;
    await engine.forecast({ samples, horizon });
    times.push(performance.now() - start);
  }
  const { device, version } = engine;
  engine.close();
  return { times: times.slice(-rounds), device, version };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["digits", "camera"], default="digits")
    parser.add_argument("--provider", choices=["wasm", "webgpu"], default="wasm")
    parser.add_argument("--isolated", action="store_true", help="send the headers that allow threads")
    parser.add_argument("--rounds", type=int, default=60, help="forecasts as fast as possible")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the page is watched")
    parser.add_argument("--chromium", type=Path, default=CHROMIUM)
    parser.add_argument("--pictures", type=Path, help="take screenshots into this folder instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "site", options) as page:
        if options.pictures is not None:
            take_pictures(page, options)
            return
        measured = measure(page, options)
    print("\n".join(report(measured, options)))
    if is_judged(options) and rate(measured) < GOAL_PER_S:
        sys.exit(1)


@contextmanager
def served(folder: Path, isolated: bool = False) -> Iterator[str]:
    """Serve files as they are, with or without the headers for threads; gives the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def opened(site: Path, options: argparse.Namespace) -> Iterator[Page]:
    build(site)
    arguments = [argument for argument in CHROMIUM_ARGUMENTS if options.provider == "wasm" or argument != "--disable-gpu"]
    if options.provider == "webgpu":
        arguments.append("--enable-unsafe-webgpu")
    with served(site, options.isolated) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=arguments)
        page = browser.new_page(base_url=address)
        yield page
        browser.close()


def measure(page: Page, options: argparse.Namespace) -> dict[str, Any]:
    page.goto("/ort/LICENSE.txt")  # of the same origin, and nothing runs there
    settings = {"model": options.model, "provider": options.provider, "samples": SAMPLES, "horizon": HORIZON}
    loop = page.evaluate(LOOP, {**settings, "rounds": options.rounds})
    page.goto(f"/?model={options.model}&engine={options.provider}&samples={SAMPLES}&horizon={HORIZON}")
    wait_for_forecasts(page)
    page.wait_for_timeout(options.seconds * 1000)
    return {**loop, "shown": float(page.inner_text("#rate")), "dropped": page.inner_text("#dropped")}


def wait_for_forecasts(page: Page) -> None:
    """Not by wait_for_function, which the page's policy forbids."""
    expect(page.locator("#rate")).to_have_text(re.compile(r"\d"), timeout=120_000)


def rate(measured: dict[str, Any]) -> float:
    return 1000 / statistics.median(measured["times"])


def is_judged(options: argparse.Namespace) -> bool:
    return options.model == "digits" and options.provider == "wasm"


def report(measured: dict[str, Any], options: argparse.Namespace) -> Iterator[str]:
    yield f"{hardware()['cpu']}, Chromium, onnxruntime-web {measured['version']}, {measured['device']}"
    yield f"{options.model}, observe + forecast of {SAMPLES} samples x {HORIZON} steps:"
    times = measured["times"]
    slowest = statistics.quantiles(times, n=20)[-1]
    verdict = f"; goal {GOAL_PER_S:g}: {'met' if rate(measured) >= GOAL_PER_S else 'MISSED'}" if is_judged(options) else ""
    yield f"  as fast as possible: median {statistics.median(times):.1f} ms, 95 % {slowest:.1f} ms"
    yield f"  forecasts per second: {rate(measured):.1f}{verdict}"
    yield f"  on the page: {measured['shown']:.1f} per second, {measured['dropped']} pictures left out since its start"


def take_pictures(page: Page, options: argparse.Namespace) -> None:
    page.goto("/ort/LICENSE.txt")
    for name, (width, height, ratio, scheme) in SIZES.items():
        browser = page.context.browser
        assert browser is not None
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, device_scale_factor=ratio, color_scheme=scheme)
        view = context.new_page()
        view.goto(urljoin(page.url, "/?samples=3"))
        wait_for_forecasts(view)
        view.wait_for_timeout(options.seconds * 1000)
        path = options.pictures / f"demo-{name}.png"
        view.screenshot(path=path)
        context.close()
        reduce_colors(path)
        print(f"{path}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
