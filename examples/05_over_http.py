"""Forecasts of another process or machine: svg-serve asked with Python's standard library alone.

    svg-serve                                                  # in another terminal
    python examples/05_over_http.py [http://HOST:PORT]

A square moves to the right. SVG_EDGE_TOKEN is sent where the server asks for a token.
"""

from __future__ import annotations

import array
import http.client
import json
import os
import sys
from urllib.parse import urlsplit

SIDE, STEP, WIDTH = 160, 5, 24  # pixels of the picture, of a movement, and of the square


def main() -> None:
    server = connect(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8008")
    session = json.loads(ask(server, "POST", "/v1/sessions", {"model": "camera", "samples": 4, "horizon": 10})[0])
    place = f"/v1/sessions/{session['id']}"
    try:
        for index in range(session["n_past"] + 3):
            seen = json.loads(ask(server, "POST", f"{place}/frames?dtype=uint8&shape={SIDE},{SIDE},3", picture(index))[0])
            print(f"frame {seen['index']}: surprise {seen['surprise']}, {seen['missing']} more needed")

        # All futures as float32: samples, steps, height, width, channels.
        body, headers = ask(server, "POST", f"{place}/forecast")
        futures = array.array("f", body)
        if sys.byteorder == "big":
            futures.byteswap()
        print(f"{headers['Svg-Axes']} = {headers['Svg-Shape']}, mean brightness {sum(futures) / len(futures):.3f}")

        # A few numbers are often enough: how far the samples lie apart, step by step.
        summary = json.loads(ask(server, "POST", f"{place}/forecast", {"format": "json"})[0])
        print("spread per step:", " ".join(f"{value:.4f}" for value in summary["spread"]))
    finally:
        ask(server, "DELETE", place)


def connect(address: str) -> http.client.HTTPConnection:
    """Without TLS to http://HOST:PORT, with it to https://HOST:PORT."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http:// or https://, and a host")
        connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return connection(parts.netloc, timeout=60)
    except (ValueError, http.client.InvalidURL) as error:
        raise SystemExit(f"cannot ask '{address}': {error}\n  give an address such as http://127.0.0.1:8008") from None


def picture(index: int) -> bytes:
    """RGB, one byte each: a white square on gray."""
    rows = bytearray([90]) * (SIDE * SIDE * 3)
    for row in range(60, 60 + WIDTH):
        start = (row * SIDE + 20 + STEP * index) * 3
        rows[start : start + WIDTH * 3] = b"\xff" * (WIDTH * 3)
    return bytes(rows)


def ask(
    server: http.client.HTTPConnection, method: str, path: str, body: bytes | dict[str, object] | None = None
) -> tuple[bytes, http.client.HTTPMessage]:
    """Body and headers of an answer; a refusal is printed as it is, and ends the program, as no answer does."""
    headers = {"Authorization": f"Bearer {os.environ['SVG_EDGE_TOKEN']}"} if "SVG_EDGE_TOKEN" in os.environ else {}
    if isinstance(body, dict):
        headers["Content-Type"] = "application/json"
        body = json.dumps(body).encode()
    elif body is not None:
        headers["Content-Type"] = "application/octet-stream"
    try:
        server.request(method, path, body, headers)
        answer = server.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise SystemExit(f"no answer from {server.host}:{server.port}: {error}\n  start the server with: svg-serve") from error
    if answer.status >= 400:
        raise SystemExit(f"{method} {path}: {answer.status} {content.decode()}")
    return content, answer.headers


if __name__ == "__main__":
    main()
