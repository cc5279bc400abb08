"""What the HTML pages of svg-eval share: one file with its style and pictures inside, tables, numbers."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from svg_common.files import atomic_file
from svg_eval.statistics import shown

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
p { margin: 6px 0; } p, li { max-width: 100ch; } .quiet { opacity: .72; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.figures div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; max-width: 240px; }
.figures b { display: block; font-size: 22px; } .figures span { font-size: 13px; opacity: .72; }
.scroll { margin-bottom: 20px; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:first-child th { text-align: center; border-bottom: 0; } tr.group td { border-top: 2px solid var(--line); }
.below { color: #d22; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 16px; }
.plots img, .strip img { width: 100%; border-radius: 6px; } .plots img { background: #fff; }
.strip { margin: 0 0 18px; } .strip img { image-rendering: pixelated; }
figcaption { font-size: 13px; opacity: .72; }
"""


def write_document(file: Path, title: str, parts: Sequence[str]) -> None:
    """Write the page, atomically. `title` and `parts` are HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    with atomic_file(file) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n',
            encoding="utf-8",
        )


def picture(data: bytes, kind: str) -> str:
    """An image inside the page; `kind` is png or svg+xml."""
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def cells(values: Iterable[str], kind: str = "td") -> str:
    """Cells of a table's row: td or th."""
    return "".join(f"<{kind}>{text(value)}</{kind}>" for value in values)


def number(value: float, digits: int, sign: bool = False, unit: str = "") -> str:
    """`value`, or a dash for NaN: no such pixels, or one sample, which has no spread."""
    return f"{shown(value, digits, sign)}{unit}" if value == value else "–"


def text(value: str) -> str:
    """Escaped for HTML."""
    return html.escape(value)
