"""What is said of errors."""

from __future__ import annotations

import pytest

from svg_common.errors import UsageError, first_line


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
