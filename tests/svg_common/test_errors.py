"""What is said of errors, and that they reach other processes whole."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from svg_common.errors import ExitCode, OutputError, SvgError, UsageError, first_line
from svg_runtime.errors import ForecastError
from tests.test_arrows import PACKAGES

ARGUMENTS = {  # of the constructors that take more than a message
    "CamerasError": ({1: ForecastError("not finite")}, {0: np.zeros(2, np.float32)}),
    "ContractError": (["one", "two"],),
    "LostProcessError": ("it does not answer", Path("run")),
    "MissingExtraError": ("the x backend", "x", "x"),
    "OutputError": (Path("a.mp4"), OSError(28, "No space left on device")),
    "PeerError": ("a peer failed", ExitCode.USAGE),
    "SourceError": (Path("a.mp4"), "it is empty"),
    "UnreadableError": ("cannot read it now", "it may not be read"),
    "VideoError": ("cannot read it", "it is empty"),
}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("no such file\n  expected a video"), "no such file"),
        (ValueError("\n of a library \r\n its file"), "of a library"),
        (ValueError("one\rtwo"), "one"),
        (ValueError("one\x0btwo"), "one"),
        (MemoryError(), "MemoryError"),
        (ValueError("\n"), "ValueError"),
        ("interrupted\nby a signal", "interrupted"),
        ("", ""),
    ],
)
def test_a_table_gets_the_first_line_and_never_nothing_of_an_error(error, line):
    assert first_line(error) == line


def expected_errors(kind: type[SvgError] = SvgError) -> Iterator[type[SvgError]]:
    """All of our packages' classes of expected errors."""
    if kind.__module__.partition(".")[0] in PACKAGES:
        yield kind
        for derived in kind.__subclasses__():
            yield from expected_errors(derived)


def import_all_errors() -> None:
    """Import the modules that define them, and no others."""
    for package, root in PACKAGES.items():
        for file in root.rglob("*.py"):
            if re.search(r"^class \w+Error\(", file.read_text(encoding="utf-8"), re.M):
                importlib.import_module(".".join([package, *file.relative_to(root).with_suffix("").parts]))


def test_every_expected_error_can_be_pickled_and_copied():
    """A worker of multiprocessing whose error cannot be unpickled is waited for without an end."""
    import_all_errors()
    kinds = set(expected_errors())
    assert {kind.__name__ for kind in kinds} >= {*ARGUMENTS, "BundleError", "StreamContextError", "DivergedError"}
    for kind in kinds:
        error = kind(*ARGUMENTS.get(kind.__name__, ("given\n  expected",)))
        error.note = "of the caller"
        protocols = range(pickle.HIGHEST_PROTOCOL + 1)
        copies = [copy.copy(error), copy.deepcopy(error), *(pickle.loads(pickle.dumps(error, each)) for each in protocols)]
        for each in copies:
            assert (type(each), str(each), each.exit_code) == (kind, str(error), error.exit_code)
            assert {name: repr(value) for name, value in vars(each).items()} == {
                name: repr(value) for name, value in vars(error).items()
            }


def test_a_copy_of_an_error_is_raised_and_caught_as_the_error():
    with pytest.raises(OutputError, match="No space left") as caught:
        raise copy.copy(OutputError(*ARGUMENTS["OutputError"]))
    assert caught.value.args == (str(caught.value),)
