"""Backends on the CPU that one thread closes while another one uses them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from svg_runtime.backends import open_backend
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError

BOTH = pytest.mark.parametrize("name", ["cpu", "openvino"])

# Blocks of megabytes go back to the system when they are freed, so that an engine that still uses them ends the process.
CLOSED_WHILE_IT_RUNS = """
import sys, threading
from svg_runtime.backends import open_backend
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError

bundle = Bundle.open(sys.argv[1])
backend = open_backend(bundle, sys.argv[2], None, "fp32", threads=1)
spec = bundle.manifest.variants["fp32"].graphs["encoder"]
sides = [{each.name: backend.allocate(each.sized(512), each.dtype) for each in side} for side in (spec.inputs, spec.outputs)]
graph = backend.bind("encoder", *sides)
del sides
has_run = threading.Event()

def run():
    try:
        while True:
            graph.run()
            has_run.set()
    except BackendError as error:
        print(error)

thread = threading.Thread(target=run)
thread.start()
has_run.wait()
backend.close()
thread.join()
"""


class Paused(dict):
    """Buffers that, when they are bound, wait until the backend is being closed."""

    def __init__(self, buffers: dict) -> None:
        super().__init__(buffers)
        self.reached = threading.Event()
        self.closing = threading.Event()

    def items(self):
        self.reached.set()
        self.closing.wait()
        return super().items()


def sides_of(backend, bundle, graph_name: str) -> list[dict]:
    spec = bundle.manifest.variants["fp32"].graphs[graph_name]
    return [{each.name: backend.allocate(each.sized(1), each.dtype) for each in side} for side in (spec.inputs, spec.outputs)]


@BOTH
def test_a_run_keeps_its_memory_until_it_ends(tiny_bundle, name):
    command = [sys.executable, "-c", CLOSED_WHILE_IT_RUNS, str(tiny_bundle), name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    assert "backend is closed" in ended.stdout


@BOTH
def test_what_is_bound_while_the_backend_closes_is_released_too(tiny_bundle, name):
    bundle = Bundle.open(tiny_bundle)
    backend = open_backend(bundle, name, None, "fp32", threads=1)
    first = backend.bind("posterior", *sides_of(backend, bundle, "posterior"))
    inputs, outputs = sides_of(backend, bundle, "posterior")
    paused, late = Paused(outputs), []
    thread = threading.Thread(target=lambda: late.append(backend.bind("posterior", inputs, paused)))

    def finish_binding() -> None:
        paused.closing.set()
        thread.join()

    first.release = finish_binding
    thread.start()
    paused.reached.wait()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        late[0].run()
