"""Screenshots of the page of svg-live for the documentation, in a real Chromium: desktop and phone.

python -m benchmarks.page_pictures [--folder docs] [--seconds 40] [--chromium /usr/bin/chromium] [ARGUMENTS of svg-live ...]

Without arguments it shows the synthetic camera and the embedded model of digits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from benchmarks.page_load import served_run

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Width, height, device pixels per pixel, colors.
SIZES = {"desktop": (1280, 1000, 1, "light"), "phone": (360, 1500, 2, "dark")}
DIGITS = [
    "--model", "digits", "--headless", "--realtime", "--samples", "6", "--backend", "cpu", "--threads", "1",
    "--alarm", "--alarm-threshold", "2.5", "--alarm-min-duration", "0.1", "--alarm-after", "1",
]  # fmt: skip


def take_picture(browser: Browser, link: str, name: str, folder: Path, seconds: float) -> Path:
    width, height, ratio, scheme = SIZES[name]
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=ratio, color_scheme=scheme, locale="en"
    )
    page = context.new_page()
    page.goto(link)
    while not page.evaluate("document.getElementById('live').naturalWidth"):
        time.sleep(0.1)
    time.sleep(seconds)
    path = folder / f"page-{name}.png"
    page.screenshot(path=path)
    context.close()
    reduce_colors(path)
    return path


def reduce_colors(path: Path) -> None:
    """Store a PNG with 256 colors: a third of its size, and nothing to be seen of it."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the run is watched first")
    parser.add_argument("--chromium", type=Path, default=CHROMIUM)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as clips, served_run(arguments or [*DIGITS, "--alarm-dir", clips]) as run:
        take_all(options, run.link)


def take_all(options: argparse.Namespace, link: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=CHROMIUM_ARGUMENTS)
        for name in SIZES:
            path = take_picture(browser=browser, link=link, name=name, folder=options.folder, seconds=options.seconds)
            print(f"{path}: {path.stat().st_size >> 10} KiB")
        browser.close()


if __name__ == "__main__":
    main()
