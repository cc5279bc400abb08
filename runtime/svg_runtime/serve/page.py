"""The OpenAPI description as a readable page: one file, no scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from svg_runtime.serve.problems import KINDS

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: break-word; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .25rem; font-size: 1rem; }
h3 code { font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
b.method { display: inline-block; min-width: 4rem; padding: 0 .5rem; border-radius: .25rem; background: var(--soft);
  text-align: center; }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; background: var(--soft); border-radius: .25rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { border: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
"""
CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def render(description: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        description: see `openapi.describe`.
    """
    info, schemas = description["info"], description["components"]["schemas"]
    parts = [
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>",
        f"<p>{_text(info['description'])}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a>. Measurements: <a href="metrics">metrics</a>.</p>',
        "<h2>Operations</h2>",
        *(
            _operation(method, path, operation)
            for path, methods in description["paths"].items()
            for method, operation in methods.items()
        ),
        "<h2>Objects</h2>",
        *(_object(name, each) for name, each in schemas.items()),
        "<h2>Problems</h2>",
        "<p>Refusals are objects of the kind Problem. Their type ends with one of these names.</p>",
        _table(
            ("name", "status", "meaning"),
            ((f'<span id="{name}">{name}</span>', str(kind.status), _text(kind.meaning)) for name, kind in KINDS.items()),
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(info['title'])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f'<h3 id="{operation["operationId"]}"><b class="method">{method.upper()}</b> <code>{_text(path)}</code></h3>',
        f"<p>{_text(operation['summary'])} {_text(operation.get('description', ''))}</p>",
    ]
    parameters = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
    if parameters:
        queries = (
            (f"<code>{_text(each['name'])}</code>", _kind(each["schema"]), _text(each["description"])) for each in parameters
        )
        parts.append(_table(("query", "type", ""), queries))
    if "requestBody" in operation:
        parts.append(f"<p><b>Body</b><br>{_content(operation['requestBody']['content'])}</p>")
    refusals = []
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            parts.append(f"<p><b>{status}</b><br>{_content(answer.get('content', {}))}</p>")
            headers = answer.get("headers", {})
            parts += [f"<p><code>{_text(name)}</code>: {_text(each['description'])}</p>" for name, each in headers.items()]
        else:
            refusals.append(f"<li>{status} {_text(answer['description'])}</li>")
    parts.append(f"<details><summary>Refusals</summary><ul>{''.join(refusals)}</ul></details>")
    return "\n".join(parts)


def _object(name: str, described: Mapping[str, Any]) -> str:
    required = described.get("required", ())
    rows = (
        (f"<code>{_text(key)}</code>", _kind(form), _text(_note(form, key in required)))
        for key, form in described.get("properties", {}).items()
    )
    return f'<h3 id="{_text(name)}">{_text(name)}</h3>\n<p>{_text(described.get("description", ""))}</p>\n' + _table(
        ("member", "type", ""), rows
    )


def _note(form: Mapping[str, Any], required: bool) -> str:
    default = "" if required or "default" not in form else f"Default: {json.dumps(form['default'])}."
    return f"{form.get('description', '')} {default}".strip()


def _kind(form: Mapping[str, Any]) -> str:
    if "anyOf" in form:
        return " or ".join(map(_kind, form["anyOf"]))
    if "$ref" in form:
        name = _text(form["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "enum" in form:
        return " or ".join(f"<code>{_text(json.dumps(value))}</code>" for value in form["enum"])
    if "const" in form:
        return f"<code>{_text(json.dumps(form['const']))}</code>"
    if form.get("type") == "array":
        return f"array of {_kind(form.get('items', {}))}"
    bounds = [f"{sign} {form[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in form]
    return _text(" ".join([form.get("type", ""), *bounds]))


def _content(content: Mapping[str, Any]) -> str:
    kinds = ((_text(kind), _kind(each["schema"]) if "schema" in each else "") for kind, each in content.items())
    return "<br>".join(f"<code>{kind}</code> {described}" for kind, described in kinds)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{heads}</tr>{lines}</table></div>'


def _text(value: str) -> str:
    return html.escape(value)
