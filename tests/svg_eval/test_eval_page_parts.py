"""Parts that the pages of svg-eval share."""

from __future__ import annotations

import re

from svg_eval.page_parts import write_document


def test_plots_are_no_wider_than_a_narrow_window(tmp_path):
    write_document(tmp_path / "page.html", "a page", [])
    style = (tmp_path / "page.html").read_text()
    widths = re.findall(r"minmax\(([^;]*), 1fr\)", style)
    assert widths
    assert all(width.startswith("min(") and width.endswith(", 100%)") for width in widths)
