"""What svg-serve costs: observe + forecast over HTTP against a Forecaster in the process:
`python benchmarks/serve_overhead.py [--model NAME] [--rounds 40] [--json FILE]`

The server is a process of its own on this machine, asked over one connection that is kept. Rounds of all forms are interleaved
with those in the process; printed are medians, and the median over rounds of HTTP over in-process, so 1.00 is no overhead.

    samples, float32   all futures as raw numbers
    samples, uint8     a quarter of the bytes
    mean and spread    two videos instead of one per sample
    summary            JSON: spread and change per step
    png strip          one picture of all frames

Nothing else should run meanwhile; the processor's name is in the output.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from svg_common.files import write_json
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model
from svg_runtime.machine.hardware import hardware, machine_today

FORMS = {
    "samples, float32": {"format": "raw"},
    "samples, uint8": {"format": "raw", "dtype": "uint8"},
    "mean and spread": {"format": "raw", "what": "mean_and_spread"},
    "summary": {"format": "json"},
    "png strip": {"format": "png"},
}
HERE = "in the process"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camera", help="an embedded model, or a bundle; default: camera")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    times = measure(options)
    ratios = {name: statistics.median(np.divide(times[name], times[HERE])) for name in FORMS}
    print(f"{hardware()['cpu']}: {options.model}, {options.samples} samples x {options.horizon} steps, {options.rounds} rounds")
    for name, values in times.items():
        ratio = f"  {ratios[name]:.2f} times" if name in ratios else ""
        print(f"{name:18} {statistics.median(values) * 1e3:8.2f} ms{ratio}")
    if options.json is not None:
        write_json(
            options.json,
            {"hardware": machine_today(), "options": vars(options) | {"json": None}, "ratios": ratios, "seconds": times},
        )


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of observe + forecast, for each form and round."""
    path = find_model(options.model)
    counts = {"samples": options.samples, "horizon": options.horizon}
    with (
        Forecaster.open(path, backend=options.backend, threads=options.threads, **counts) as forecaster,
        server(options) as client,
    ):
        spec = forecaster.manifest.frame
        rng = np.random.default_rng(0)
        frames = rng.random((options.rounds + 10, spec.height, spec.width, spec.channels), np.float32)
        _, headers = ask(client, "POST", "/v1/sessions", {"model": path.name.removesuffix(".svgb"), **counts})
        place = headers["Location"]

        def here(frame: np.ndarray) -> None:
            forecaster.observe(frame)
            if forecaster.ready:
                forecaster.forecast()

        def there(frame: np.ndarray, form: dict[str, str]) -> None:
            ask(client, "POST", f"{place}/frames", frame.tobytes())
            ask(client, "POST", f"{place}/forecast", form)

        for frame in frames[options.rounds :]:  # engines allocate in their first runs
            here(frame)
            ask(client, "POST", f"{place}/frames", frame.tobytes())
        times: dict[str, list[float]] = {name: [] for name in (HERE, *FORMS)}
        for index, frame in enumerate(frames[: options.rounds]):
            first = index % len(times)
            for name in (*list(times)[first:], *list(times)[:first]):  # another one begins each time
                start = time.perf_counter()
                if name == HERE:
                    here(frame)
                else:
                    there(frame, FORMS[name])
                times[name].append(time.perf_counter() - start)
        return times


@contextmanager
def server(options: argparse.Namespace) -> Iterator[http.client.HTTPConnection]:
    """A connection to svg-serve."""
    command = [sys.executable, "-m", "svg_runtime.serve", "--listen", "0", "--model", options.model]
    command += ["--backend", options.backend, "--threads", str(options.threads)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"http://\S+", said)):
            line = process.stderr.readline()
            if not line:  # it has ended
                sys.exit(said)
            said += line
        client = http.client.HTTPConnection(urlsplit(found[0]).netloc, timeout=120)
        yield client
        client.close()
    finally:
        process.terminate()
        process.wait()


def ask(
    client: http.client.HTTPConnection, method: str, path: str, body: bytes | dict[str, object]
) -> tuple[bytes, http.client.HTTPMessage]:
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    client.request(method, path, body if isinstance(body, bytes) else json.dumps(body), {"Content-Type": kind})
    answer = client.getresponse()
    content = answer.read()
    if answer.status >= 400:
        raise SystemExit(content.decode())
    return content, answer.headers


if __name__ == "__main__":
    main()
