"""The page of docs/demo/, put together once, and a Chromium to open it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright import sync_api

from benchmarks.browser_demo import served
from benchmarks.page_pictures import CHROMIUM, CHROMIUM_ARGUMENTS
from docs.demo.build import BuildError, build
from tests.conftest import made_once

FAKE_CAMERA = "--use-fake-device-for-media-stream"


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The page's folder; read only. Skips without Chromium, npm or network, but not for a wrong hash."""
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")

    def make(path: Path) -> Path:
        build(path)
        return path

    try:
        return made_once(tmp_path_factory, "demo", make)
    except BuildError as error:
        if "EINTEGRITY" in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def address(site):
    with served(site) as place:
        yield place


@pytest.fixture(scope="module")
def playwright():
    with sync_api.sync_playwright() as opened:
        yield opened


@pytest.fixture(scope="module")
def launch(playwright):
    """Start a Chromium with further arguments; all are closed at the end."""
    browsers = []

    def start(*arguments: str, gpu: bool = False):
        usual = [argument for argument in CHROMIUM_ARGUMENTS if not (gpu and argument == "--disable-gpu")]
        browsers.append(playwright.chromium.launch(executable_path=CHROMIUM, args=[*usual, *arguments]))
        return browsers[-1]

    yield start
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="module")
def browser(launch):
    """With a webcam whose pictures Chromium draws, and which it allows."""
    return launch(FAKE_CAMERA, "--use-fake-ui-for-media-stream")
