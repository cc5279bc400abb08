"""Readers that break each rule, to prove that the fuzzer notices. They are fed by tests alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from svg_common.errors import SvgError
from tests.fuzz.target import Target

_HARMLESS = (b"", b"x")  # what the worker warms up with


def planted(fault):
    def read(data: bytes) -> None:
        if data in _HARMLESS:
            raise SvgError("refused, as it should be")
        fault(data)

    return Target(read=read)


def crash(_: bytes) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(_: bytes) -> None:
    while True:
        time.sleep(0.1)


def memory(_: bytes) -> None:
    blocks = [bytearray(b"\x01") * (200 << 20) for _ in range(6)]
    assert len(blocks) == 6


def code(_: bytes) -> None:
    eval("1 + 1")


def write(_: bytes) -> None:
    Path("/tmp/svg-fuzz-planted").touch()
    Path("/tmp/svg-fuzz-planted").unlink()


def error(data: bytes) -> None:
    raise KeyError(data)


TARGETS = {f"planted-{fault.__name__}": planted(fault) for fault in (crash, hang, memory, code, write, error)}
