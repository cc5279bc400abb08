"""Recognizes that memory ran out, in whatever way a library reports it."""

from __future__ import annotations

_REPORTS = (
    "out of memory",  # CUDA, cuDNN, TensorRT
    "not enough memory",  # PyTorch's allocator on Windows
    "can't allocate memory",  # PyTorch's allocator on Linux
    "failed to allocate memory",  # ONNX Runtime
    "status_alloc_failed",  # cuBLAS, through any binding
    "bad_alloc",  # C++, through any binding
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or the one that it was raised from, says that memory of the host or of a device ran out."""
    if isinstance(error, MemoryError):
        return True
    from_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")  # its own classes
    if from_library and any(report in str(error).lower() for report in _REPORTS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
