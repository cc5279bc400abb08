"""The page of the description in a real Chromium."""

from __future__ import annotations

import pytest
from playwright import sync_api

import svg_runtime
from benchmarks.page_pictures import CHROMIUM, CHROMIUM_ARGUMENTS
from svg_runtime.serve.openapi import describe
from svg_runtime.serve.page import render


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
def test_the_page_fits_a_phone_with_the_version_of_a_source_tree(monkeypatch):
    monkeypatch.setattr(svg_runtime, "__version__", "1.0.1.dev1234+g0123456789abcdef.d20261103")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        tab = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True).new_page()
        tab.set_content(render(describe(["digits"])))
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        browser.close()
