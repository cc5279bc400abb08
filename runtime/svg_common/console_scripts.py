"""Entry points of all commands: Ctrl-C ends them without a traceback also while their libraries are imported."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib import import_module
from types import FrameType
from typing import NoReturn

from svg_common.signals import end_undisturbed, stop_signals

_INTERRUPTED = 130  # ExitCode.INTERRUPTED, whose module takes time to import


def _run(module: str) -> NoReturn:
    """Run `main` of a module."""
    try:
        before = {number: handler for number in stop_signals() if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, _exit)
        main = import_module(module).main
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            main()
        finally:
            end_undisturbed()
    except KeyboardInterrupt:
        _exit()
    sys.exit()


def _exit(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End the process here: a KeyboardInterrupt in the import of a compiled module becomes an ImportError."""
    os._exit(_INTERRUPTED)


svg_train = partial(_run, "svg_adapt.cli")
svg_export = partial(_run, "svg_export.cli")
svg_eval = partial(_run, "svg_eval.cli")
svg_live = partial(_run, "svg_runtime.live.cli")
svg_forecast = partial(_run, "svg_runtime.offline.cli")
svg_bench = partial(_run, "svg_runtime.bench.cli")
svg_doctor = partial(_run, "svg_runtime.doctor.cli")
svg_serve = partial(_run, "svg_runtime.serve.cli")
