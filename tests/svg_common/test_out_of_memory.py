"""Memory that ran out is recognized in whatever class a library reports it."""

from __future__ import annotations

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from svg_common.out_of_memory import is_out_of_memory


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (Fail("Failed to allocate memory for requested buffer of size 4194304"), True),
        (caused(ValueError("no forecast"), Fail("CUDA failure 2: out of memory")), True),
        (Fail("This session contains graph nodes that are assigned to the default CPU EP"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_recognized(error, expected):
    assert is_out_of_memory(error) is expected
