"""A forecaster in a process that was forked from the one that opened it: a clear error, where engines would wait for ever."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import faulthandler, multiprocessing, sys
import numpy as np
from svg_runtime import Forecaster

BUNDLE, BACKEND, ACTION = sys.argv[1:]

def open_one():
    return Forecaster.open(BUNDLE, backend=BACKEND, samples=2, horizon=2)

def child():
    global forecaster
    faulthandler.dump_traceback_later(30, exit=True)  # exit code 1: it hangs
    if ACTION == "open":
        with open_one() as another:
            another.warm_up()
        return
    calls = (lambda: forecaster.observe(np.zeros((64, 64, 1), np.float32)), forecaster.forecast, forecaster.reset,
             forecaster.warm_up, lambda: forecaster.ready, lambda: forecaster.reconstruct(np.zeros((1, 64, 64, 1), np.float32)))
    for call in calls if ACTION == "use" else ():
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    if ACTION == "close":
        forecaster.close()
    forecaster = None  # freed here, as at the end of a function

forecaster = open_one()
forecaster.warm_up()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
forecaster.warm_up()  # the parent's goes on
forecaster.close()
sys.exit(process.exitcode)
"""


def run(bundle, backend: str, action: str) -> subprocess.CompletedProcess[str]:
    if backend == "openvino":
        pytest.importorskip("openvino")
    command = [sys.executable, "-c", PROGRAM, str(bundle), backend, action]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_every_use_after_a_fork_is_refused_with_what_to_do(tiny_bundle, backend):
    done = run(tiny_bundle, backend, "use")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("UsageError the forecaster was opened in process ") for line in lines[::2])
    assert all("multiprocessing.get_context('spawn')" in line for line in lines[1::2])


@pytest.mark.parametrize("action", ["close", "forget"])
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_closing_and_freeing_after_a_fork_end_at_once(tiny_bundle, backend, action):
    assert run(tiny_bundle, backend, action).returncode == 0


def test_onnx_runtime_opens_another_forecaster_after_a_fork(tiny_bundle):
    done = run(tiny_bundle, "cpu", "open")
    assert done.returncode == 0, done.stderr


def test_openvino_is_refused_after_a_fork_because_it_would_never_return(tiny_bundle):
    done = run(tiny_bundle, "openvino", "open")
    assert done.returncode == 1
    assert "BackendMissingError: OpenVINO was opened in process" in done.stderr
    assert "Timeout" not in done.stderr


EXIT = """
import os, sys, time
from svg_runtime import Forecaster

forecaster = Forecaster.open(sys.argv[1], backend=sys.argv[2], samples=2, horizon=2)
forecaster.warm_up()
if sys.argv[3] == "closed":
    forecaster.close()
    del forecaster
child = os.fork()
if not child:
    print("written at the end")
    sys.exit(7)  # a server's worker ends so; multiprocessing's processes do not run destructors
end = time.monotonic() + 30
while time.monotonic() < end:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(child, 9)
sys.exit("it hangs")
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "on_exit"), reason="the C library has no on_exit")
@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_forked_process_ends_with_its_exit_code(tiny_bundle, backend, state):
    if backend == "openvino":
        pytest.importorskip("openvino")
    command = [sys.executable, "-c", EXIT, str(tiny_bundle), backend, state]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "written at the end\n"
